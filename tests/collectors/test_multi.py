"""Collectors in worker processes: what arrives, and what weights act."""

import functools
import os
import time

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn

from torchrl.collectors import (
    AsyncCollector,
    Collector,
    MultiAsyncCollector,
    MultiSyncCollector,
    make_collector,
    split_trajectories,
)
from torchrl.data import LazyMemmapStorage, LazyTensorStorage, PrioritizedSampler, RandomSampler, ReplayBuffer
from torchrl.envs import EnvCreator, GymEnv, ParallelEnv, SerialEnv
from torchrl.testing.mocks import CountingEnv

KINDS = {"sync": MultiSyncCollector, "async": MultiAsyncCollector}
METHODS = ("fork", pytest.param("spawn", marks=pytest.mark.slow))


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def kind(request):
    return request.param


class Constant(nn.Module):
    """Always the same action: its one weight."""

    def __init__(self, value=0.0):
        super().__init__()
        self.value = nn.Parameter(torch.tensor([float(value)]))

    def forward(self, observation):
        return self.value.expand(*observation.shape[:-1], 1)


def constant(value=0.0):
    return TensorDictModule(Constant(value), in_keys=["observation"], out_keys=["action"])


def ids(batch):
    return batch["collector", "traj_ids"]


# --- shapes and frames ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cat_results", "rows", "expected"),
    [
        (None, [], (2, 10)),
        ("stack", [], (2, 10)),
        (0, [], (20,)),
        (-1, [], (20,)),
        (None, [3], (6, 10)),
        ("stack", [3], (2, 3, 10)),
        (0, [3], (6, 10)),
        (-1, [3], (3, 20)),
    ],
)
def test_shares_become_a_batch(cat_results, rows, expected):
    env = functools.partial(CountingEnv, 4, batch_size=rows)
    frames = torch.Size(expected).numel()
    with MultiSyncCollector(
        [env] * 2, frames_per_batch=frames, total_frames=frames, cat_results=cat_results
    ) as collector:
        (batch,) = collector
    assert batch.shape == expected
    assert batch.names == [None] * (len(expected) - 1) + ["time"]
    assert batch["next", "reward"].shape == (*expected, 1)


@pytest.mark.slow
def test_the_documented_form():
    """Two workers, each with three environments in processes of their own; the object twice."""
    env = ParallelEnv(3, EnvCreator(lambda: GymEnv("Pendulum-v1")))
    for kind, shape in ((MultiSyncCollector, (6, 10)), (MultiAsyncCollector, (3, 20))):
        with kind(
            create_env_fn=[env, env],
            policy=TensorDictModule(nn.LazyLinear(1), ["observation"], ["action"]),
            total_frames=120,
            max_frames_per_traj=-1,
            frames_per_batch=60,
            storing_devices=["cpu", "cpu"],
            devices=["cpu", "cpu"],
        ) as collector:
            shapes = []
            for batch in collector:
                shapes.append(batch.shape)
                collector.update_policy_weights_()
        assert shapes == [shape] * 2
    assert env.is_closed


def test_workers_of_unequal_shares():
    with MultiSyncCollector([CountingEnv] * 2, frames_per_batch=[4, 8], total_frames=24, cat_results=0) as collector:
        assert collector.frames_per_batch == 12
        assert [batch.shape for batch in collector] == [(12,), (12,)]
    with (
        MultiSyncCollector([CountingEnv] * 2, frames_per_batch=[4, 8]) as collector,
        pytest.raises(ValueError, match=r"cannot join the shares.*\(4,\), \(8,\).*equal shares"),
    ):
        collector.next()


def test_frames_are_exact_and_none_is_lost(kind):
    """Every worker's steps arrive once, in order."""
    with kind([CountingEnv] * 2, frames_per_batch=10, total_frames=60) as collector:
        rows = [row for batch in collector for row in batch.reshape(-1, batch.shape[-1])]
    assert sum(row.numel() for row in rows) == 60
    for worker in range(2):
        steps = torch.cat([row for row in rows if int(ids(row)[0]) % 2 == worker])
        count = steps["observation"][:, 0]
        assert count.tolist() == [i % 3.0 for i in range(len(count))]


def test_overshoot_is_less_than_a_batch_and_told(kind):
    with (
        pytest.warns(UserWarning, match="total_frames=50 .* overshoots it by 10"),
        kind([CountingEnv] * 2, frames_per_batch=20, total_frames=50) as collector,
    ):
        assert [batch.numel() for batch in collector] == [20] * 3


def test_going_on_after_a_break(kind):
    with kind([CountingEnv] * 2, frames_per_batch=10, total_frames=40) as collector:
        for _ in collector:
            break
        assert len(list(collector)) == 3
        assert collector.next() is None


def test_closures_travel():
    horizon = 2

    def make_env(extra):
        return CountingEnv(horizon + extra)

    class Policy(nn.Module):
        def forward(self, observation):
            return torch.full((1,), 0.5)

    with MultiSyncCollector(
        [make_env, lambda extra: CountingEnv(horizon)],
        TensorDictModule(Policy(), ["observation"], ["action"]),
        create_env_kwargs=[{"extra": 3}, {"extra": 0}],
        frames_per_batch=20,
        total_frames=40,
    ) as collector:
        batches = list(collector)
    assert all((batch["action"] == 0.5).all() for batch in batches)
    assert batches[0]["next", "observation"][..., 0].max(-1).values.tolist() == [5.0, 2.0]


ENVS = {
    "single": lambda: GymEnv("CartPole-v1"),
    "serial": lambda: SerialEnv(2, lambda: GymEnv("CartPole-v1")),
    "parallel": lambda: ParallelEnv(2, lambda: GymEnv("CartPole-v1")),
    "native": lambda: GymEnv("CartPole-v1", num_envs=2),
}


@pytest.mark.parametrize("make_env", ENVS.values(), ids=ENVS)
def test_one_worker_gives_what_no_worker_gives(make_env):
    """Greedy, so that only the environments are random, and they are seeded."""
    module = nn.Sequential(nn.Linear(4, 2), nn.Softmax(-1))
    policy = TensorDictModule(lambda x: nn.functional.one_hot(module(x).argmax(-1), 2), ["observation"], ["action"])
    kwargs = {"frames_per_batch": 40, "total_frames": 80}
    here = Collector(make_env(), policy, **kwargs)
    with AsyncCollector(make_env, policy, **kwargs) as there:
        assert here.set_seed(3) == there.set_seed(3)
        for ours, theirs in zip(here, there, strict=True):
            assert (ours == theirs).all()
    here.shutdown()


def test_the_number_of_workers_inside_makes_no_difference():
    def collect(env):
        collector = Collector(env, constant(0.5), frames_per_batch=40)
        collector.set_seed(5)
        try:
            return collector.next()
        finally:
            collector.shutdown()

    envs = [lambda: CountingEnv(3)] * 4
    expected = collect(SerialEnv(4, envs))
    for workers in (1, 2, 4):
        assert (collect(ParallelEnv(workers, envs)) == expected).all()


def test_seeds_go_from_worker_to_worker():
    def first(seed):
        with MultiSyncCollector([CountingEnv] * 2, constant(), frames_per_batch=8) as collector:
            next_root = collector.set_seed(seed)
            return collector.next()["observation"][..., 1], next_root

    one, next_root = first(1)
    assert torch.equal(one, first(1)[0])
    assert not torch.equal(one[0], one[1])
    env = CountingEnv()
    assert env.set_seed(env.set_seed(1)) == next_root


def test_copies_of_one_environment_are_no_twins():
    env = GymEnv("CartPole-v1")
    env.reset()
    with MultiSyncCollector([env, env], frames_per_batch=4) as collector:
        batch = collector.next()
    assert not torch.equal(batch["observation"][0], batch["observation"][1])


def test_the_past_leaves_no_mark_on_a_batch(kind):
    with kind([CountingEnv] * 2, frames_per_batch=6, total_frames=36) as collector:
        batches, copies = [], []
        for batch in collector:
            batches.append(batch)
            copies.append(batch.clone())
    assert all((a == b).all() for a, b in zip(batches, copies, strict=True))


def test_batches_without_a_place_in_memory_are_pickled():
    def note(td):
        return td.set("action", torch.zeros(1)).set("note", "words")

    for use_buffers in (None, True):
        with MultiSyncCollector([CountingEnv], note, frames_per_batch=4, use_buffers=use_buffers) as collector:
            assert collector.next()["note"] == [["words"] * 4]
    with MultiSyncCollector([CountingEnv], frames_per_batch=4, use_buffers=False) as collector:
        assert collector.next().shape == (1, 4)


# --- weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_new_weights_hold_from_the_next_action_on(method):
    policy, horizon = constant(0.25), 3
    with MultiSyncCollector(
        [lambda: CountingEnv(horizon)] * 2, policy, frames_per_batch=8, mp_start_method=method
    ) as collector:
        assert (collector.next()["action"] == 0.25).all()
        policy.module.value.data.fill_(0.5)
        assert (collector.next()["action"] == 0.25).all(), "weights are sent, not leaked"
        collector.update_policy_weights_()
        assert (collector.next()["action"] == 0.5).all()
        collector.update_policy_weights_(constant(0.75))
        assert (collector.next()["action"] == 0.75).all()
        collector.update_policy_weights_(constant(-1.0).state_dict())
        assert (collector.next()["action"] == -1.0).all()


def test_a_policy_in_shared_memory_is_not_overwritten_by_workers():
    policy = constant(0.25)
    policy.share_memory()
    with MultiSyncCollector([CountingEnv], policy, frames_per_batch=4) as collector:
        collector.update_policy_weights_(constant(0.5))
        assert (collector.next()["action"] == 0.5).all()
    assert policy.module.value == 0.25


def test_weights_reach_a_worker_in_the_middle_of_a_batch():
    class Slow(CountingEnv):
        def _step(self, tensordict):
            time.sleep(0.005)
            return super()._step(tensordict)

    policy = constant(0.25)
    with AsyncCollector(Slow, policy, frames_per_batch=100, total_frames=200, track_policy_version=True) as collector:
        batches = iter(collector)
        assert (next(batches)["action"] == 0.25).all()
        time.sleep(0.1)  # the worker is at its next batch
        collector.update_policy_weights_(constant(0.5))
        batch = next(batches)
    versions = batch["policy_version"]
    assert sorted(set(versions.tolist())) == [0, 1]
    assert (batch["action"][versions == 0] == 0.25).all()
    assert (batch["action"][versions == 1] == 0.5).all()


def test_workers_of_one_factory_begin_alike():
    def factory():
        return constant(torch.rand(()).item())

    with MultiSyncCollector([CountingEnv] * 2, policy_factory=factory, frames_per_batch=8) as collector:
        action = collector.next()["action"]
        assert (action == action[0, 0]).all()
        with pytest.raises(TypeError, match=r"has no policy here.*update_policy_weights_.policy"):
            collector.update_policy_weights_()
        collector.update_policy_weights_(constant(0.5))
        assert (collector.next()["action"] == 0.5).all()


def test_a_factory_a_worker():
    factories = [lambda: constant(0.5), lambda: constant(-0.5)]
    with MultiSyncCollector([CountingEnv] * 2, policy_factory=factories, frames_per_batch=8) as collector:
        assert collector.next()["action"][:, 0, 0].tolist() == [0.5, -0.5]


def test_policies_without_weights():
    with MultiSyncCollector([CountingEnv], frames_per_batch=4) as collector:
        collector.update_policy_weights_()
    with (
        MultiSyncCollector([CountingEnv], lambda td: td.set("action", torch.ones(1)), frames_per_batch=4) as collector,
        pytest.raises(TypeError, match="cannot send weights"),
    ):
        collector.update_policy_weights_()


def test_update_at_each_batch():
    policy = constant(0.25)
    with MultiSyncCollector([CountingEnv], policy, frames_per_batch=4, update_at_each_batch=True) as collector:
        policy.module.value.data.fill_(0.5)
        assert (collector.next()["action"] == 0.5).all()
        assert collector.policy_version == 1


def test_versions_in_this_process():
    policy = constant(0.25)
    collector = Collector(
        CountingEnv(batch_size=[2]), policy, frames_per_batch=6, init_random_frames=6, track_policy_version=True
    )
    assert collector.rollout()["policy_version"].tolist() == [[-1] * 3] * 2
    collector.update_policy_weights_()
    collector.init_random_frames = 0
    assert collector.rollout()["policy_version"].tolist() == [[1] * 3] * 2


@pytest.mark.slow
def test_a_compiled_policy_acts_alike():
    policy = TensorDictModule(nn.Linear(2, 1), ["observation"], ["action"])
    plain = Collector(CountingEnv(), policy, frames_per_batch=6).rollout()
    compiled = Collector(CountingEnv(), policy, frames_per_batch=6, compile_policy={"backend": "eager"}).rollout()
    assert (plain["action"] == compiled["action"]).all()


# --- options -------------------------------------------------------------------------------------


def test_random_frames_come_first_and_are_counted_together(kind):
    with kind(
        [CountingEnv] * 2, constant(0.5), frames_per_batch=10, total_frames=60, init_random_frames=20
    ) as collector:
        actions = torch.cat([batch["action"].flatten() for batch in collector])
    assert (actions != 0.5).sum() == 20


class SlowEnv(CountingEnv):
    def _step(self, tensordict):
        time.sleep(0.02)
        return super()._step(tensordict)


def test_preempted_shares_are_filled_up():
    with MultiSyncCollector(
        [lambda: CountingEnv(4), lambda: SlowEnv(4)], frames_per_batch=100, total_frames=100, preemptive_threshold=0.5
    ) as collector:
        batches = list(collector)
    steps = sum(int(batch["collector", "mask"].sum()) for batch in batches)
    assert 100 <= steps < 200
    batch = batches[0]
    assert batch.shape == (2, 50)
    mask = batch["collector", "mask"]
    assert mask[0].all()
    assert mask[1, 0]
    assert not mask[1, -1]
    assert not batch["next", "observation"][~mask].any()
    pieces = split_trajectories(batch)
    assert pieces["collector", "mask"].sum() == mask.sum()


@pytest.mark.parametrize("split", [True, False])
def test_what_fills_up_preempted_shares_does_not_reach_a_buffer(split):
    buffer = ReplayBuffer(storage=LazyMemmapStorage(400), shared=True)
    with MultiSyncCollector(
        [lambda: CountingEnv(4), lambda: SlowEnv(4)],
        frames_per_batch=60,
        total_frames=60,
        preemptive_threshold=0.5,
        replay_buffer=buffer,
        split_trajs=split,
    ) as collector:
        assert set(collector) == {None}
        assert len(buffer) == collector.stats()["frames"] >= 60
    assert (buffer[:]["next", "observation"][:, 0] > 0).all()  # a count, from one after a step


def test_split_and_postproc(kind):
    with kind(
        [CountingEnv] * 2,
        frames_per_batch=12,
        total_frames=12,
        split_trajs=True,
        postproc=lambda td: td.set("seen", torch.ones(td.shape)),
    ) as collector:
        (batch,) = collector
    assert batch.shape == (4, 3)
    assert batch["collector", "mask"].all()
    assert (batch["seen"] == 1).all()


def test_trajectories_are_cut_and_marked(kind):
    with kind(
        lambda: GymEnv("Pendulum-v1"),
        num_workers=2,
        frames_per_batch=20,
        total_frames=40,
        max_frames_per_traj=5,
        set_truncated=True,
    ) as collector:
        for batch in collector:
            assert batch["next", "step_count"].max() == 5
            assert batch["next", "truncated"][..., -1, :].all()
            assert not batch["next", "terminated"].any()


def test_state_comes_back(kind):
    kwargs = {"frames_per_batch": 10, "total_frames": 40}
    with kind([CountingEnv] * 2, constant(0.5), **kwargs) as first:
        first.next()
        first.update_policy_weights_(constant(0.75))
        state = first.state_dict()
    with kind([CountingEnv] * 2, constant(0.25), **kwargs) as second:
        second.load_state_dict(state)
        batches = list(second)
    assert len(batches) == 3
    assert {"worker0", "worker1", "frames", "iter", "policy_version", "trajectories"} == set(state)


def test_the_choice_of_a_collector():
    kwargs = {"frames_per_batch": 8}
    assert type(make_collector(CountingEnv(), **kwargs)) is Collector
    for options, expected in (
        ({"num_collectors": 2}, MultiSyncCollector),
        ({"num_collectors": 2, "sync": False}, MultiAsyncCollector),
        ({"sync": False}, MultiAsyncCollector),
    ):
        with make_collector(CountingEnv, **options, **kwargs) as collector:
            assert type(collector) is expected
            assert collector.num_workers == options.get("num_collectors", 1)


def test_threads_are_shared_out_and_come_back(caplog):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        with caplog.at_level("INFO", logger="torchrl"), MultiSyncCollector([CountingEnv] * 2, frames_per_batch=4):
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 4
        assert "2 workers with 1 torch thread(s) each; this process keeps 2 of 4" in caplog.text
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"num_workers": 3}, "one create_env_fn for each of 3 workers, found 2"),
        ({"device": ["cpu"]}, "one storing_device for each of 2 workers, found 1"),
        ({"cat_results": 1}, "cat_results must be 'stack', 0, -1 or None, found 1"),
    ],
)
def test_contradictions_are_refused(kwargs, words):
    with pytest.raises(ValueError, match=words):
        MultiSyncCollector([CountingEnv] * 2, frames_per_batch=4, **kwargs)


def test_policy_and_factory_exclude_each_other():
    with pytest.raises(TypeError, match="either a policy or a policy_factory"):
        MultiSyncCollector([CountingEnv], constant(), policy_factory=constant, frames_per_batch=4)


# --- replay buffers ------------------------------------------------------------------------------


def test_batches_fill_a_buffer(kind):
    buffer = ReplayBuffer(storage=LazyTensorStorage(100))
    with kind([CountingEnv] * 2, frames_per_batch=10, total_frames=40, replay_buffer=buffer) as collector:
        assert list(collector) == [None] * 4
    assert len(buffer) == 40


@pytest.mark.parametrize(
    ("make_storage", "sampler", "method"),
    [
        (LazyMemmapStorage, RandomSampler(), "fork"),
        (LazyTensorStorage, PrioritizedSampler(100, 1.0, 1.0), "fork"),
        pytest.param(LazyTensorStorage, RandomSampler(), "spawn", marks=pytest.mark.slow),
    ],
)
def test_workers_write_to_a_shared_buffer(kind, make_storage, sampler, method):
    buffer = ReplayBuffer(storage=make_storage(100), sampler=sampler, shared=True)
    with kind(
        [CountingEnv] * 2,
        lambda td: td.set("action", torch.full((1,), float(os.getpid()))),
        frames_per_batch=10,
        total_frames=40,
        replay_buffer=buffer,
        trust_policy=True,
        mp_start_method=method,
    ) as collector:
        assert list(collector) == [None] * 4
        assert collector._frames == 40
    assert len(buffer) == 40
    for data in (buffer[:], buffer.sample(64)):
        assert os.getpid() not in data["action"].int()


def test_a_buffer_may_be_left_alone(kind):
    buffer = ReplayBuffer(storage=LazyTensorStorage(100))
    with kind(
        [CountingEnv] * 2, frames_per_batch=10, total_frames=20, replay_buffer=buffer, extend_buffer=False
    ) as collector:
        assert all(batch is not None for batch in collector)
    assert len(buffer) == 0


# --- old names -----------------------------------------------------------------------------------


def test_old_names_and_paths():
    import torchrl.collectors as new
    import torchrl.collectors.collectors as path

    for module in (new, path):
        assert module.SyncDataCollector is Collector
        assert module.MultiSyncDataCollector is MultiSyncCollector
        assert module.MultiAsyncDataCollector is MultiAsyncCollector
        assert module.MultiaSyncDataCollector is MultiAsyncCollector
        assert module.aSyncDataCollector is AsyncCollector
        assert module.DataCollectorBase is new.BaseCollector


def test_singular_and_plural_are_not_both_given():
    with pytest.raises(TypeError, match="both 'device' and its old name 'devices'"):
        MultiSyncCollector([CountingEnv], frames_per_batch=4, device="cpu", devices=["cpu"])
