"""Recipes for environments travel to other processes."""

import pickle
from functools import partial

import cloudpickle
import pytest

from torchrl.envs import (
    EnvCreator,
    GymEnv,
    ParallelEnv,
    SerialEnv,
    StepCounter,
    TransformedEnv,
    VecNorm,
    env_creator,
)
from torchrl.testing.mocks import CountingEnv


def test_a_recipe_builds_anew():
    creator = EnvCreator(CountingEnv, {"horizon": 2}, batch_size=[3])
    env = creator()
    assert env.batch_size == (3,)
    assert env.horizons.flatten().tolist() == [2, 3, 4]
    assert creator() is not env
    assert creator(horizon=5).horizons.min() == 5


def test_variants_leave_the_recipe_as_it_is():
    creator = EnvCreator(CountingEnv, {"horizon": 2})
    assert creator.make_variant(batch_size=[2])().horizons.tolist() == [[2], [3]]
    assert creator.make_variant(horizon=7)().horizons.tolist() == [7]
    assert creator().horizons.tolist() == [2]
    nested = EnvCreator(creator, {"batch_size": [1]})
    assert nested().horizons.tolist() == [[2]]


def test_a_recipe_is_made_of_a_function():
    with pytest.raises(TypeError, match=r"expected a function .* found CountingEnv\. Write"):
        EnvCreator(CountingEnv())


def test_a_decorator():
    @env_creator
    def make(horizon=3):
        return CountingEnv(horizon)

    assert isinstance(make, EnvCreator)
    assert make(horizon=4).horizons.tolist() == [4]
    assert "CountingEnv" in repr(EnvCreator(CountingEnv, {"horizon": 2}))


def closure():
    limit = 4

    def transformed(name, *, extra):
        return TransformedEnv(GymEnv(name), StepCounter(max_steps=limit + extra))

    return EnvCreator(lambda **kwargs: transformed("CartPole-v1", **kwargs), {"extra": 1})


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
def test_lambdas_and_closures_are_pickled(dumps):
    env = pickle.loads(dumps(closure()))()
    assert env.rollout(20)["next", "step_count"].max() <= 5


def normalised():
    return TransformedEnv(CountingEnv(9), VecNorm(["observation"], decay=1.0))


@pytest.mark.parametrize(
    "make",
    [
        SerialEnv,
        partial(ParallelEnv, mp_start_method="fork"),
        pytest.param(partial(ParallelEnv, mp_start_method="spawn"), marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("share", [True, False])
def test_running_statistics_are_shared(make, share):
    creator = EnvCreator(normalised, share_memory=share)
    env = make(2, creator)
    env.rollout(5, break_when_any_done=False)
    state = env.state_dict()
    counts = [state[key].item() for key in state if key.endswith("observation_count")]
    assert counts == ([12, 12] if share else [6, 6])  # a reset and five steps of each
    env.close()
    later = creator().state_dict()
    assert [v.item() for k, v in later.items() if k.endswith("count")] == [12 if share else 0]


def test_statistics_go_on_without_the_process_that_made_them(monkeypatch):
    creator = EnvCreator(normalised)
    creator().rollout(3)
    monkeypatch.setattr("os.getpid", lambda: 2**22 + 1)  # of no process
    state = pickle.dumps(creator)
    monkeypatch.undo()
    twin = pickle.loads(state)
    creator().rollout(3)
    counts = [v.item() for k, v in twin().state_dict().items() if k.endswith("count")]
    assert counts == [4]


@pytest.mark.slow
def test_a_recipe_reaches_a_new_process(fresh_python):
    recipe = pickle.dumps(EnvCreator(lambda: CountingEnv(2)))
    printed = fresh_python(f"import pickle; print(pickle.loads({recipe})().rollout(9).shape[0])")
    assert printed.split() == ["2"]
