"""Ray collectors on one machine: the data of other collectors, exact frames, new weights, devices of their own."""

import time

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn

from torchrl.collectors import Collector, MultiSyncCollector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import GymEnv, SerialEnv
from torchrl.testing.mocks import CountingEnv

pytest.importorskip("ray")
from torchrl.collectors.distributed import RayCollector

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.ray,
    pytest.mark.usefixtures("local_ray"),
    pytest.mark.filterwarnings("default"),
    pytest.mark.timeout(180),
]


def cartpole():
    return GymEnv("CartPole-v1")


class Greedy(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, observation):
        return nn.functional.one_hot(self.linear(observation).argmax(-1), 2)


def policy():
    torch.manual_seed(0)
    return TensorDictModule(Greedy(), ["observation"], ["action"])


def same(one, other):
    return set(one.keys(True)) == set(other.keys(True)) and bool((one == other).all())


def collected(kind, count, policy, **options):
    """Return the batches of a collector; the policy changes after each."""
    torch.manual_seed(1)
    collector = kind([cartpole] * count, policy, frames_per_batch=40, total_frames=120, **options)
    collector.set_seed(3)
    batches = []
    for batch in collector:
        batches.append(batch)
        with torch.no_grad():
            policy.module.linear.weight += 0.1
        collector.update_policy_weights_()
    collector.shutdown()
    return batches


def test_with_one_seed_batches_are_those_of_worker_processes_bit_for_bit():
    options = {"init_random_frames": 40, "track_policy_version": True, "max_frames_per_traj": 7}
    ours = collected(RayCollector, 2, policy(), **options)
    theirs = collected(MultiSyncCollector, 2, policy(), **options)
    assert len(ours) == len(theirs) == 3
    for one, other in zip(ours, theirs, strict=True):
        assert same(one, other)
        assert one.names == other.names
        assert one.batch_size == other.batch_size
    assert [batch["policy_version"].unique().tolist() for batch in ours] == [[-1], [1], [2]]
    for batch in ours:  # memory of their own, not that of Ray, which a write would crash
        for value in batch.values(True, True):
            value.zero_()


def test_one_actor_collects_what_one_collector_does():
    ours = collected(RayCollector, 1, policy(), cat_results="stack")
    torch.manual_seed(1)
    net = policy()
    collector = Collector(cartpole, net, frames_per_batch=40, total_frames=120)
    collector.set_seed(3)
    for batch in ours:
        assert same(batch[0], collector.next())
        with torch.no_grad():
            net.module.linear.weight += 0.1
    collector.shutdown()


def test_async_batches_are_whole_and_counted():
    collector = Collector(
        CountingEnv,
        backend="ray",
        num_collectors=2,
        sync=False,
        frames_per_batch=25,
        total_frames=200,
        max_pending_batches=3,
    )
    pool, ids = collector._pool, []
    for batch in collector:
        assert batch.shape == (25,)
        assert batch.names == ["time"]
        assert pool.num_requested <= 3
        ids.append(set(batch["collector", "traj_ids"].tolist()))
        for value in batch.values(True, True):
            value.zero_()
    assert len(ids) == 8
    assert collector.stats()["frames"] == 200
    assert pool.num_requested == 0
    assert isinstance(collector, RayCollector)
    collector.shutdown()


def test_all_workers_see_new_weights_before_their_next_action():
    net = policy()
    options = {"frames_per_batch": 20, "track_policy_version": True, "num_collectors": 2}
    with RayCollector(cartpole, net, sync=True, **options) as collector:
        for version in range(3):
            assert collector.next()["policy_version"].unique().tolist() == [version]
            collector.update_policy_weights_()
        collector.update_policy_weights_(worker_ids=[1])
        assert [rows.unique().tolist() for rows in collector.next()["policy_version"]] == [[3], [4]]
        collector.update_policy_weights_()
        assert collector.next()["policy_version"].unique().tolist() == [5]
        assert collector.policy_version == 5


@pytest.mark.parametrize(
    ("options", "versions"),
    [({"update_after_each_batch": True}, [0, 1, 2, 3, 4]), ({"max_weight_update_interval": 2}, [0, 0, 1, 1, 2])],
    ids=["after-each-batch", "interval"],
)
def test_weights_are_sent_on_a_schedule(options, versions):
    with RayCollector(
        cartpole, policy(), num_collectors=1, frames_per_batch=20, track_policy_version=True, **options
    ) as collector:
        assert [collector.next()["policy_version"].unique().tolist() for _ in versions] == [[v] for v in versions]
    with RayCollector(
        cartpole, policy(), sync=False, num_collectors=1, frames_per_batch=20, track_policy_version=True,
        max_pending_batches=1, **options,
    ) as collector:  # fmt: skip
        found = [collector.next()["policy_version"] for _ in versions]
        assert max(v.max() for v in found) >= 2
        if "max_weight_update_interval" in options:  # a batch may see the weights that are sent while it is collected
            firsts = [int(v[0]) for v in found]
            assert all(later >= first for first, later in zip(versions, firsts, strict=True))


def test_weights_arrive_in_the_middle_of_a_batch():
    with RayCollector(
        Slow, policy(), sync=False, frames_per_batch=100, track_policy_version=True, num_collectors=1
    ) as collector:
        collector._request_more()
        time.sleep(0.4)
        collector.update_policy_weights_()
        versions = collector.next()["policy_version"].tolist()
    assert versions[0] == 0
    assert versions[-1] == 1


class Slow(GymEnv):
    def __init__(self):
        super().__init__("CartPole-v1")

    def _step(self, tensordict):
        time.sleep(0.01)
        return super()._step(tensordict)


def test_actors_step_several_copies_of_their_environment():
    with RayCollector(
        cartpole, num_collectors=1, num_workers_per_collector=2, frames_per_batch=40, total_frames=80
    ) as collector:
        assert [batch.shape for batch in collector] == [(2, 20)] * 2
        assert collector.getattr_env("batch_size") == (2,)


def serial():
    return SerialEnv(2, cartpole)


def test_a_batch_that_is_not_dense_is_pickled_and_a_buffer_is_filled_here():
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(100), batch_size=8)
    with RayCollector(
        serial, num_collectors=1, frames_per_batch=20, total_frames=60, replay_buffer=buffer, use_buffers=False
    ) as collector:
        assert list(collector) == [None] * 3
        assert len(buffer) == 60
        state = collector.state_dict()
        collector.load_state_dict(state)


def test_arguments_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="on_failure is unknown; expected"):
        RayCollector(cartpole, frames_per_batch=10, on_failure="ignore")
    with pytest.raises(ValueError, match="max_pending_batches is an argument of sync=False"):
        RayCollector(cartpole, frames_per_batch=10, max_pending_batches=2)
    with pytest.raises(ValueError, match="one remote_configs for each of 2 workers"):
        RayCollector(cartpole, num_collectors=2, frames_per_batch=10, remote_configs=[{}])


class Waiting(CountingEnv):
    def _step(self, tensordict):
        time.sleep(0.05)
        return super()._step(tensordict)


def test_slow_workers_end_their_shares_early_and_collection_goes_on_beside_us():
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(4000), batch_size=8)
    with RayCollector(
        [CountingEnv, Waiting], frames_per_batch=200, preemptive_threshold=0.5, replay_buffer=buffer
    ) as collector:
        collector.extend_buffer = False
        for _ in range(2):
            mask = collector.next()["collector", "mask"].sum(-1)
            assert mask[0] == 100
            assert 0 < mask[1] < 100
        collector.extend_buffer = True
        collector.start()
        deadline = time.monotonic() + 30
        while len(buffer) < 300 and time.monotonic() < deadline:
            time.sleep(0.05)
        collector.async_shutdown(timeout=30)
    assert len(buffer) >= 300
