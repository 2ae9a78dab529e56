"""Recipes for environments travel to other processes."""

import fcntl
import os
import pickle
from functools import partial

import cloudpickle
import pytest
import torch

from torchrl._core.workers.shared_memory import AnonymousFile
from torchrl.collectors import MultiAsyncCollector, MultiSyncCollector
from torchrl.envs import (
    AsyncEnvPool,
    EnvCreator,
    GymEnv,
    ParallelEnv,
    ReturnNorm,
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


@pytest.mark.parametrize("make", [SerialEnv, partial(ParallelEnv, mp_start_method="fork")])
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
    monkeypatch.setattr(AnonymousFile, "_known", {})  # as in another process
    twin = pickle.loads(state)
    creator().rollout(3)
    counts = [v.item() for k, v in twin().state_dict().items() if k.endswith("count")]
    assert counts == [4]


@pytest.mark.slow
def test_a_recipe_reaches_a_new_process(fresh_python):
    recipe = pickle.dumps(EnvCreator(lambda: CountingEnv(2)))
    printed = fresh_python(f"import pickle; print(pickle.loads({recipe})().rollout(9).shape[0])")
    assert printed.split() == ["2"]


def counts_of(env, name="observation_count"):
    return [int(value) for key, value in env.state_dict().items() if key.endswith(name)]


def test_copies_made_before_the_first_environment_share_statistics():
    creator = EnvCreator(normalised)
    copies = [pickle.loads(pickle.dumps(creator)) for _ in range(2)]
    further = pickle.loads(cloudpickle.dumps(copies[0]))
    envs = [recipe() for recipe in (*copies, further, creator)]
    for env in envs:
        env.rollout(3)
    assert [counts_of(env) for env in envs] == [[16]] * 4


def test_variants_share_statistics_where_these_are_alike():
    creator = EnvCreator(lambda **kwargs: TransformedEnv(CountingEnv(**kwargs), VecNorm()))
    variants = [
        creator,
        creator.make_variant(horizon=4),
        EnvCreator(creator, {"horizon": 3}),
        pickle.loads(pickle.dumps(creator.make_variant(horizon=7))),
    ]
    envs = [recipe() for recipe in variants]
    other = creator.make_variant(batch_size=[2])()  # one statistic for all rows: alike
    apart = EnvCreator(creator, {"horizon": 3}, share_memory=False)()
    for env in (*envs, other, apart):
        env.reset()
    assert [counts_of(env)[0] for env in (*envs, other)] == [6] * 5
    assert counts_of(apart)[0] == 1


def test_statistics_of_another_shape_are_apart():
    creator = EnvCreator(lambda new_api=None, **kw: TransformedEnv(CountingEnv(**kw), VecNorm(new_api=new_api)))
    makers = [creator.make_variant(batch_size=[n], new_api=True) for n in (1, 2, 2)]
    envs = [make() for make in makers]
    for env in envs:
        env.reset()
    counts = [env.transform.state_dict()["observation_count"].flatten().tolist() for env in envs]
    assert counts == [[1], [2, 2], [2, 2]]


def test_deviations_of_returns_are_shared():
    creator = EnvCreator(lambda: TransformedEnv(CountingEnv(9), ReturnNorm(0.9)))
    envs = [creator(), pickle.loads(pickle.dumps(creator))()]
    for env in envs:
        env.rollout(3)
    first, second = (env.transform.statistics for env in envs)
    assert round(first.count.item()) == 6
    assert torch.equal(first.var, second.var)


def test_statistics_that_are_shared_already_stay_those():
    shared = VecNorm.build_shared_data(CountingEnv(9), ["observation"], reduce_batch_dims=True)
    make = lambda: TransformedEnv(CountingEnv(9), VecNorm(["observation"], shared_td=shared))
    env = EnvCreator(make)()
    env.rollout(3)
    assert shared["observation_count"] == 4


KINDS = {
    "serial": SerialEnv,
    "parallel": partial(ParallelEnv, mp_start_method="fork"),
    "spawned": partial(ParallelEnv, mp_start_method="spawn"),
    "threads": lambda num, makers, **kw: AsyncEnvPool(makers, **kw),
    "processes": lambda num, makers, **kw: AsyncEnvPool(makers, backend="multiprocessing", **kw),
}


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[pytest.mark.slow] * (k == "spawned")) for k in KINDS])
def test_workers_with_arguments_of_their_own_share_statistics(kind):
    creator = EnvCreator(lambda horizon: TransformedEnv(CountingEnv(horizon), VecNorm(["observation"], decay=1.0)))
    kwargs = [{"horizon": 50}, {"horizon": 60}]
    env = KINDS[kind](2, [creator] * 2, create_env_kwargs=kwargs)
    env.rollout(5, break_when_any_done=False)
    assert counts_of(env) == [12, 12]
    env.close()


GIVEN = {
    "one recipe": lambda recipe: (recipe, 2),
    "a list": lambda recipe: ([recipe] * 2, None),
    "variants": lambda recipe: ([recipe, recipe.make_variant(horizon=70)], None),
    "copies": lambda recipe: ([recipe, pickle.loads(pickle.dumps(recipe))], None),
}


@pytest.mark.slow
@pytest.mark.parametrize("collect", [MultiSyncCollector, MultiAsyncCollector])
@pytest.mark.parametrize("given", GIVEN)
def test_workers_of_collectors_share_statistics(given, collect):
    recipe = EnvCreator(lambda horizon=50: TransformedEnv(CountingEnv(horizon), VecNorm(["observation"], decay=1.0)))
    recipes, number = GIVEN[given](recipe)
    collector = collect(recipes, num_workers=number, frames_per_batch=40)
    try:
        collector.next()
        counts = collector.get_distant_attr("env.transform.observation_count")
        if collect is MultiSyncCollector:  # the others go on meanwhile
            assert counts == [2 * 21] * 2
    finally:
        collector.shutdown()
    assert counts_of(recipe())[0] >= max(counts) > 21


@pytest.mark.slow
def test_workers_of_workers_share_statistics():
    recipe = EnvCreator(normalised)
    collector = MultiSyncCollector([lambda: ParallelEnv(2, recipe)] * 2, frames_per_batch=40)
    try:
        collector.next()
        env = recipe()
        assert counts_of(env) == [4 * 11 + 4]  # of each ten steps, a reset, and one after an end
    finally:
        collector.shutdown()


def test_no_other_process_sees_statistics_while_entries_are_added():
    recipe = EnvCreator(lambda: TransformedEnv(CountingEnv(), VecNorm(in_keys=["observation"])))
    shared, counts = recipe._statistics, torch.zeros(2)
    with shared:
        shared._append(("", "count", (2,), torch.float32), counts)
        shared._append(("", "more", (2,), torch.float32), counts)
        child = os.fork()
        if child == 0:
            try:
                fcntl.lockf(shared._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os._exit(0)  # it is locked
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
