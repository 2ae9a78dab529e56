"""Collectors whose workers each step several environments."""

from functools import partial

import pytest

from torchrl.collectors import MultiAsyncCollector, MultiSyncCollector
from torchrl.collectors.grouped import _groups, sync_async_collector, sync_sync_collector
from torchrl.envs import EnvBase, GymEnv, ParallelEnv, libs
from torchrl.testing.mocks import CountingEnv


@pytest.mark.parametrize(
    ("make", "kind"), [(sync_sync_collector, MultiSyncCollector), (sync_async_collector, MultiAsyncCollector)]
)
def test_workers_step_groups_of_environments(make, kind):
    collector = make(CountingEnv, {"horizon": 5}, 2, 2, policy=None, frames_per_batch=16, total_frames=32)
    try:
        assert type(collector) is kind
        batch = next(iter(collector))
        assert batch.shape[-2] == (2 if kind is MultiAsyncCollector else 4)
        assert batch.numel() == 16
    finally:
        collector.shutdown()


def test_numbers_of_environments():
    fns = [partial(CountingEnv, i) for i in range(1, 5)]
    for size, count in ((2, 2), (2, None), (None, 2)):
        first, _ = _groups("x", fns, None, size, count)
        assert (first.func, first.args[0]) == (ParallelEnv, 2)
    assert [fn().horizons.item() for fn in _groups("x", fns, None, None, None)] == [1, 2, 3, 4]
    kwargs = [{"horizon": i} for i in (3, 4)]
    assert [fn().horizons.item() for fn in _groups("x", CountingEnv, kwargs, 1, 2)] == [3, 4]
    for args in ((fns, None, 3, 2), (fns, kwargs, 2, 2), ([], None, None, None)):
        with pytest.raises(ValueError, match="x: cannot form its groups"):
            _groups("x", *args)


def test_libraries_by_name():
    from torchrl.trainers.helpers.collectors import sync_sync_collector as found
    from torchrl.trainers.helpers.envs import LIBS
    from torchrl.trainers.helpers.models import ACTIVATIONS

    assert found is sync_sync_collector
    assert LIBS is libs.LIBS
    assert LIBS["gym"] is LIBS["gymnasium"] is GymEnv
    assert all(issubclass(kind, EnvBase) for kind in LIBS.values())
    assert ACTIVATIONS["relu"]().__class__.__name__ == "ReLU"
