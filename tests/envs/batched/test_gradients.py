"""Gradients through a batch of environments of this process are those of its environments."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn

from torchrl.data import Composite, Unbounded
from torchrl.envs import AsyncEnvPool, EnvBase, ParallelEnv, RewardScaling, SerialEnv, TensorDictPrimer, TransformedEnv


class Slope(EnvBase):
    """The place moves by the action and is rewarded with its sum; ends after ``last`` steps."""

    def __init__(self, last=3):
        super().__init__()
        self.last, self.n = last, 0
        self.observation_spec = Composite(hill=Composite(place=Unbounded((2,))))
        self.action_spec = Unbounded((2,))

    def _reset(self, td):
        self.n = 0
        return TensorDict(hill=TensorDict(place=torch.ones(2)))

    def _step(self, td):
        self.n += 1
        place = td["hill", "place"] * 1.1 + td["action"]
        over = torch.tensor([self.n >= self.last])
        return TensorDict(hill=TensorDict(place=place), reward=place.sum(-1, keepdim=True), terminated=over)

    def _set_seed(self, seed):
        pass


def scaled(last):
    return TransformedEnv(Slope(last), RewardScaling(0.0, 2.0))


def remembering(last):
    return TransformedEnv(Slope(last), TensorDictPrimer(memory=Unbounded((2,))))


BATCHES = {
    "serial": lambda makers: SerialEnv(2, makers),
    "blocks of their own": lambda makers: SerialEnv(2, makers, share_individual_td=True),
    "records": lambda makers: SerialEnv(2, makers, use_buffers=False),
    "serial of serial": lambda makers: SerialEnv(2, [lambda m=m: SerialEnv(1, m) for m in makers]),
    "transformed": lambda makers: TransformedEnv(SerialEnv(2, makers), RewardScaling(0.0, 1.0)),
    "in this process": lambda makers: ParallelEnv(1, makers, serial_for_single=True),
    "threads": AsyncEnvPool,
    "threads, records": lambda makers: AsyncEnvPool(makers, exchange="queue"),
}


def policy_of(make):
    torch.manual_seed(0)
    layer = nn.Linear(4, 4)
    if make is not remembering:
        act = lambda place: layer(place.repeat_interleave(2, -1))[..., :2]
        return layer, TensorDictModule(act, [("hill", "place")], ["action"])

    def remember(place, memory):
        out = layer(torch.cat([place, memory], -1))
        return out[..., :2], out[..., 2:].tanh()

    keys = [("hill", "place"), "memory"], ["action", ("next", "memory")]
    return layer, TensorDictModule(remember, *keys)


def by_rollout(env, policy):
    batch = env.rollout(7, policy, break_when_any_done=False)
    return batch["next", "reward"].sum()


def by_tensordicts(env, policy):
    batch = env.rollout(7, policy, break_when_any_done=False, storing_device="cpu")
    return batch["next", "reward"].sum()


def by_loop(env, policy):
    td, total = env.reset(), 0.0
    for _ in range(7):
        step, td = env.step_and_maybe_reset(policy(td))
        total = total + step["next", "reward"].sum()
    return total


@pytest.mark.parametrize("drive", [by_rollout, by_tensordicts, by_loop])
@pytest.mark.parametrize("make", [Slope, scaled, remembering])
@pytest.mark.parametrize("name", BATCHES)
def test_gradients_are_the_sum_over_the_environments(name, make, drive):
    """Across restarts, transforms and what a policy remembers."""
    layer, policy = policy_of(make)
    makers = [lambda: make(2), lambda: make(4)]
    total = sum(by_loop(each(), policy) for each in makers)
    total.backward()
    expected, layer.weight.grad = layer.weight.grad, None
    env = BATCHES[name](makers)
    try:
        found = drive(env, policy)
        torch.testing.assert_close(found, total)
        found.backward()
    finally:
        env.close()
    torch.testing.assert_close(layer.weight.grad, expected)


def test_steps_with_and_without_gradients_may_take_turns():
    """What blocks hold has no history, and rows are the same either way."""
    _, policy = policy_of(Slope)
    env = SerialEnv(2, lambda: Slope(3))
    td = env.reset()
    for i in range(9):
        with torch.set_grad_enabled(i % 3 == 0):
            step, td = env.step_and_maybe_reset(policy(td))
        assert step["next", "reward"].requires_grad == (i % 3 == 0)
    batch = env.rollout(5, policy, break_when_any_done=False).detach()
    with torch.no_grad():
        expected = env.rollout(5, policy, break_when_any_done=False)
    torch.testing.assert_close(batch["next", "reward"], expected["next", "reward"])


def test_no_gradient_crosses_to_worker_processes():
    """Steps of worker processes have none, whatever their action requires."""
    _, policy = policy_of(Slope)
    env = ParallelEnv(2, lambda: Slope(3), mp_start_method="fork")
    try:
        batch = env.rollout(3, policy)
    finally:
        env.close()
    assert batch["action"].requires_grad
    assert not batch["next", "reward"].requires_grad
