"""Every collector obeys every check of torchrl.testing.collector."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn

import torchrl.collectors
from torchrl.collectors import AsyncCollector, Collector, MultiAsyncCollector, MultiCollector, MultiSyncCollector
from torchrl.collectors.base import BaseCollector
from torchrl.collectors.distributed import DistributedCollector, DistributedSyncCollector
from torchrl.envs import GymEnv, InitTracker, RewardSum, StepCounter, TransformedEnv
from torchrl.testing.collector import CHECKS, check_collector
from torchrl.testing.mocks import CountingEnv, FlatCountingEnv


def policy():
    return TensorDictModule(nn.Linear(2, 1), in_keys=["observation"], out_keys=["action"])


def action_alone(td):
    """Return a new tensordict with nothing but the action."""
    return TensorDict(action=torch.ones(*td.shape, 1), batch_size=td.batch_size)


def cartpole(num_envs=None):
    env = TransformedEnv(GymEnv("CartPole-v1", num_envs=num_envs), StepCounter(max_steps=5))
    return env.append_transform(RewardSum()).append_transform(InitTracker())


COLLECTORS = {
    "counting": lambda **kw: Collector(CountingEnv(), policy(), **kw),
    "counting, rows": lambda **kw: Collector(CountingEnv(batch_size=[3]), policy(), **kw),
    "supports_flat_records": lambda **kw: Collector(FlatCountingEnv(), policy(), **kw),
    "supports_flat_records, grid": lambda **kw: Collector(FlatCountingEnv(2, batch_size=[2, 2]), policy(), **kw),
    "private": lambda **kw: Collector(
        FlatCountingEnv(),
        lambda td: td.set("action", torch.zeros(1)).set("_x", torch.zeros(1)).set(("a", "_y"), 1),
        **kw,
    ),
    "action alone": lambda **kw: Collector(CountingEnv(), action_alone, **kw),
    "sync, action alone": lambda **kw: MultiSyncCollector([CountingEnv] * 2, action_alone, **kw),
    "random": lambda **kw: Collector(cartpole(), **kw),
    "rows": lambda **kw: Collector(cartpole(3), **kw),
    "limited": lambda **kw: Collector(GymEnv("Pendulum-v1", num_envs=2), max_frames_per_traj=5, **kw),
    "device": lambda **kw: Collector(cartpole(2), device="cpu", **kw),
    "sync": lambda **kw: MultiSyncCollector([cartpole] * 2, **kw),
    "sync, rows": lambda **kw: MultiSyncCollector(lambda: CountingEnv(batch_size=[2]), policy(), num_workers=2, **kw),
    "async": lambda **kw: MultiAsyncCollector([cartpole], **kw),
    "one worker": lambda **kw: AsyncCollector(lambda: cartpole(2), device="cpu", **kw),
}


RANKS = {
    "ranks": lambda **kw: DistributedSyncCollector([cartpole] * 2, **kw),
    "rank, async": lambda **kw: DistributedCollector([lambda: CountingEnv(batch_size=[2])], policy(), **kw),
}
ALL = [
    *(pytest.param(make, id=name) for name, make in COLLECTORS.items()),
    *(pytest.param(make, id=name, marks=pytest.mark.distributed) for name, make in RANKS.items()),
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("make", ALL)
def test_contract(make, check):
    check(make)


def test_every_public_collector_is_listed():
    names = [getattr(torchrl.collectors, name) for name in torchrl.collectors.__all__]
    public = {c for c in names if isinstance(c, type) and issubclass(c, BaseCollector)}
    made = set()
    for make in COLLECTORS.values():
        with make(frames_per_batch=24) as collector:
            made.add(type(collector))
    assert public - {BaseCollector, MultiCollector} == made


class LosesObservations(Collector):
    """Keeps of each root what the policy returned."""

    def _next_batch(self):
        batch, frames = super()._next_batch()
        return batch.exclude("observation"), frames


def test_lost_entries_are_found():
    with pytest.raises(AssertionError, match="observation"):
        check_collector(lambda **kw: LosesObservations(CountingEnv(), action_alone, **kw))
