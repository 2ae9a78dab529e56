"""Collectors in ranks of torch.distributed collect what collectors in processes collect."""

import time

import pytest
import torch
import torch.distributed as dist
from tensordict.nn import TensorDictModule
from torch import nn

from torchrl.collectors import MultiAsyncCollector, MultiSyncCollector
from torchrl.collectors.distributed import DistributedCollector, DistributedSyncCollector
from torchrl.data import LazyMemmapStorage, ReplayBuffer
from torchrl.envs import GymEnv, ParallelEnv
from torchrl.testing.mocks import CountingEnv
from torchrl.weight_update import DistributedWeightSyncScheme, NoWeightSyncScheme

pytestmark = pytest.mark.distributed


def cartpole():
    return GymEnv("CartPole-v1")


def linear():
    return TensorDictModule(nn.Linear(2, 1), in_keys=["observation"], out_keys=["action"])


class Counting(nn.Module):
    """Acts with its only weight."""

    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(1))

    def forward(self, observation):
        return self.value.expand(*observation.shape[:-1], 1) + 0 * observation[..., :1]


def counting_policy():
    return TensorDictModule(Counting(), in_keys=["observation"], out_keys=["action"])


def collect(kind, *args, **kwargs):
    torch.manual_seed(0)
    with kind(*args, **kwargs) as collector:
        collector.set_seed(3)
        return list(collector)


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=[pytest.mark.slow, pytest.mark.distributed])])
def test_batches_are_those_of_processes_bit_for_bit(method):
    options = {"frames_per_batch": 60, "total_frames": 180, "mp_start_method": method}
    expected = collect(MultiSyncCollector, [cartpole] * 2, **options)
    found = collect(DistributedSyncCollector, [cartpole] * 2, **options)
    assert len(found) == 3
    assert all((a == b).all() for a, b in zip(expected, found, strict=True))


def test_one_rank_yields_what_one_process_yields():
    options = {"frames_per_batch": 30, "total_frames": 90}
    expected = collect(MultiAsyncCollector, [cartpole], **options)
    found = collect(DistributedCollector, [cartpole], **options)
    assert all((a == b).all() for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("sync", [True, False])
def test_frames_are_exact(sync):
    policy = linear()
    with DistributedCollector(
        CountingEnv, policy, sync=sync, num_workers=2, frames_per_batch=10, total_frames=45 if sync else 40
    ) as collector:
        assert isinstance(collector, DistributedSyncCollector) == sync
        batches = list(collector)
        assert sum(batch.numel() for batch in batches) == collector._frames == (50 if sync else 40)


test_frames_are_exact = pytest.mark.filterwarnings("ignore:.*overshoots it")(test_frames_are_exact)


def test_a_group_that_was_initialised_is_not_touched():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with DistributedSyncCollector([CountingEnv] * 2, frames_per_batch=10, total_frames=20) as collector:
            assert len(list(collector)) == 2
        total = torch.ones(1)
        dist.all_reduce(total)
        assert total.item() == dist.get_world_size() == 1
    finally:
        dist.destroy_process_group()


def test_batches_that_change_their_layout_arrive():
    def grow(batch):
        grow.count += 1
        return batch if grow.count < 2 else batch.set("more", torch.ones(*batch.shape))

    grow.count = 0
    # postproc runs in rank 0, that of each rank through collector_kwargs
    with DistributedCollector(
        [CountingEnv], frames_per_batch=5, total_frames=20, collector_kwargs={"postproc": grow}
    ) as collector:
        assert ["more" in batch for batch in collector] == [False, True, True, True]


def test_a_rank_may_have_several_environments():
    with DistributedSyncCollector(
        [CountingEnv] * 2, num_workers_per_collector=3, frames_per_batch=12, total_frames=12
    ) as collector:
        batch = collector.next()
        assert batch.shape == (6, 2)
        assert "ParallelEnv" in collector._pool.worker_info[0].environment


def test_parallel_environments_in_ranks():
    def four():
        return ParallelEnv(2, CountingEnv)

    with DistributedSyncCollector([four] * 2, frames_per_batch=8, total_frames=8) as collector:
        assert collector.next().shape == (4, 2)


# --- weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [None, DistributedWeightSyncScheme(), DistributedWeightSyncScheme(sync=False)])
def test_a_sync_batch_never_starts_with_older_weights(scheme):
    policy = counting_policy()
    schemes = None if scheme is None else {"policy": scheme}
    with DistributedSyncCollector(
        [CountingEnv] * 2,
        policy,
        frames_per_batch=8,
        total_frames=160,
        track_policy_version=True,
        weight_sync_schemes=schemes,
    ) as collector:
        for i, batch in enumerate(collector):
            assert (batch["policy_version"] == i).all()
            assert (batch["action"] == i).all()
            policy.module.value.data.fill_(i + 1)
            collector.update_policy_weights_(policy)
        assert collector.policy_version == 20


def test_weights_hold_from_the_next_action_on():
    class Slow(CountingEnv):
        def _step(self, tensordict):
            time.sleep(0.01)
            return super()._step(tensordict)

    policy = counting_policy()
    with DistributedCollector(
        [Slow], policy, frames_per_batch=50, total_frames=150, track_policy_version=True
    ) as collector:
        batches = iter(collector)
        next(batches)
        time.sleep(0.15)  # the next batch is being collected
        policy.module.value.data.fill_(1)
        collector.update_policy_weights_(policy)
        batch = next(batches)
        versions = batch["policy_version"].flatten()
        assert versions[0] == 0
        assert versions[-1] == 1
        assert torch.equal(batch["action"].flatten().long(), versions)


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ({"update_after_each_batch": True}, [1, 2, 3, 4]),
        ({"max_weight_update_interval": 2}, [0, 0, 1, 1]),
        ({}, [0, 0, 0, 0]),
        ({"update_after_each_batch": True, "weight_sync_schemes": {"policy": NoWeightSyncScheme()}}, [0, 0, 0, 0]),
    ],
)
def test_weights_are_sent_by_themselves(sync, option, expected):
    with DistributedCollector(
        [CountingEnv],
        counting_policy(),
        sync=sync,
        frames_per_batch=5,
        total_frames=20,
        track_policy_version=True,
        **option,
    ) as collector:
        last = [batch["policy_version"].max().item() for batch in collector]
        versions = collector.policy_version
    if sync:
        assert last == expected
    else:  # the next batch may be collected before
        assert versions == expected[-1]


def test_weights_of_one_rank():
    policy = counting_policy()
    with DistributedSyncCollector([CountingEnv] * 2, policy, frames_per_batch=4, total_frames=8) as collector:
        policy.module.value.data.fill_(2)
        collector.update_policy_weights_(policy, worker_ids=1)
        batch = collector.next()
        assert (batch["action"][0] == 0).all()
        assert (batch["action"][1] == 2).all()


def test_policies_of_a_factory_start_alike():
    with DistributedSyncCollector([CountingEnv] * 2, policy_factory=linear, frames_per_batch=4) as collector:
        first, second = (collector._pool.call(worker, "weights") for worker in (0, 1))
        collector.next()
        first, second = (collector._pool.call(worker, "weights") for worker in (0, 1))
        assert all(torch.equal(first[name], second[name]) for name in first)


# --- replay buffers ------------------------------------------------------------------------------


@pytest.mark.parametrize("sync", [True, False])
def test_a_shared_buffer_is_filled_in_the_background(sync):
    buffer = ReplayBuffer(storage=LazyMemmapStorage(100), shared=True)
    collector = DistributedCollector(
        [CountingEnv] * 2, sync=sync, frames_per_batch=10, total_frames=60, replay_buffer=buffer
    )
    collector.start()
    deadline = time.monotonic() + 20
    while collector.is_running() and time.monotonic() < deadline:
        time.sleep(0.01)
    collector.async_shutdown()
    assert buffer.write_count == 60


def test_a_buffer_of_this_process_is_filled():
    buffer = ReplayBuffer(storage=LazyMemmapStorage(100))
    with DistributedSyncCollector([CountingEnv] * 2, frames_per_batch=10, total_frames=60, replay_buffer=buffer) as c:
        assert list(c) == [None] * 6
    assert len(buffer) == 60
