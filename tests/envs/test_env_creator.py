"""Recipes for environments travel to other processes."""

import pickle

import cloudpickle
import pytest

from torchrl.envs import EnvCreator, GymEnv, StepCounter, TransformedEnv, env_creator
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


@pytest.mark.slow
def test_a_recipe_reaches_a_new_process(fresh_python):
    recipe = pickle.dumps(EnvCreator(lambda: CountingEnv(2)))
    printed = fresh_python(f"import pickle; print(pickle.loads({recipe})().rollout(9).shape[0])")
    assert printed.split() == ["2"]
