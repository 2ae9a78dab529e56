"""Where the time goes."""

import time

import pytest
import torch

from torchrl.collectors import Collector, MultiAsyncCollector, MultiSyncCollector
from torchrl.envs import Transform, TransformedEnv
from torchrl.testing.mocks import CountingEnv

PAUSES = {"policy": 0.004, "env": 0.008, "transforms": 0.002}


class SlowEnv(CountingEnv):
    def _step(self, tensordict):
        time.sleep(PAUSES["env"])
        return super()._step(tensordict)


class SlowTransform(Transform):
    def _step(self, tensordict, next_tensordict):
        time.sleep(PAUSES["transforms"])
        return next_tensordict


def slow_env():
    return TransformedEnv(SlowEnv(3), SlowTransform())


def slow_policy(td):
    time.sleep(PAUSES["policy"])
    return td.set("action", torch.zeros(1))


def check_parts(seconds, steps):
    assert set(seconds) == {*PAUSES, "stacking"}
    for name, pause in PAUSES.items():
        assert seconds[name] >= 0.9 * pause * steps, name
    assert seconds["stacking"] > 0


def test_parts_of_a_collector():
    collector = Collector(slow_env(), slow_policy, frames_per_batch=10)
    expected = set(collector.env.__dict__)
    with collector.profile() as profile:
        start = time.perf_counter()
        collector.next()
        spent = time.perf_counter() - start
    check_parts(profile.seconds, 10)
    assert sum(profile.seconds.values()) <= spent
    assert "policy" in str(profile)
    assert "_step" not in set(collector.env.__dict__) - expected
    before = dict(profile.seconds)
    collector.next()
    assert profile.seconds == before


@pytest.mark.parametrize("kind", [MultiSyncCollector, MultiAsyncCollector])
def test_parts_of_workers(kind):
    with kind([slow_env] * 2, slow_policy, frames_per_batch=10, total_frames=20) as collector:
        with collector.profile() as profile:
            assert len(list(collector)) == 2
        for seconds in profile.workers:
            check_parts(seconds, 10)
        assert set(profile.seconds) == {"waiting", "stacking"}
        assert profile.seconds["waiting"] > 0
        assert "worker 1 env" in str(profile)
