"""Workers that write to a buffer in yet another process."""

import os

import pytest
import torch

from torchrl.collectors import Collector, MultiAsyncCollector, MultiSyncCollector
from torchrl.data import BufferProcess, LazyTensorStorage, RemoteReplayBuffer, ReplayBuffer, SamplerWithoutReplacement
from torchrl.testing.mocks import CountingEnv


def make_buffer():
    sampler = SamplerWithoutReplacement()
    return ReplayBuffer(storage=LazyTensorStorage(100), sampler=sampler, batch_size=20)


def who(td):
    return td.set("action", torch.full((1,), float(os.getpid())))


@pytest.mark.parametrize("kind", [MultiSyncCollector, MultiAsyncCollector, None])
def test_batches_reach_a_remote_buffer(kind):
    with RemoteReplayBuffer(BufferProcess(make_buffer)) as buffer:
        options = {"frames_per_batch": 10, "total_frames": 40, "replay_buffer": buffer}
        if kind is None:
            collector = Collector(CountingEnv(), who, trust_policy=True, **options)
        else:
            collector = kind([CountingEnv] * 2, who, trust_policy=True, **options)
        assert list(collector) == [None] * 4
        collector.shutdown()
        assert len(buffer) == 40
        passed = torch.cat([batch["action"] for batch in buffer])
        assert passed.shape == (40, 1)
        assert (os.getpid() in passed.int()) == (kind is None)
