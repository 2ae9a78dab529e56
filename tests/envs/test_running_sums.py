"""Sums written after the steps are those that a sum step by step gives, to the last bit."""

import gymnasium
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

from torchrl.collectors import Collector
from torchrl.envs import (
    Compose,
    GymEnv,
    GymWrapper,
    InitTracker,
    ObservationNorm,
    RewardScaling,
    RewardSum,
    SelectTransform,
    StepCounter,
    TransformedEnv,
)
from torchrl.envs.running_sums import RunningSum, running_sum
from torchrl.modules import QValueActor


def by_hand(first, added, ends):
    before, after, total = [], [], first
    for t in range(added.shape[-2]):
        before.append(total)
        total = total + added[..., t, :]
        after.append(total)
        total = torch.where(ends[..., t, :], torch.zeros_like(total), total)
    return torch.stack(before, -2), torch.stack(after, -2)


@settings(max_examples=60, deadline=None)
@given(
    batch=st.sampled_from([(), (1,), (3,), (2, 2)]),
    steps=st.integers(1, 40),
    rate=st.sampled_from([0.0, 0.1, 0.9]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bfloat16]),
    seed=st.integers(0, 10_000),
)
def test_a_running_sum_is_a_sum_step_by_step(batch, steps, rate, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    first = (torch.randn(*batch, 1, generator=generator) * 10).to(dtype)
    added = (torch.randn(*batch, steps, 1, generator=generator) * 10).to(dtype)
    ends = torch.rand(*batch, steps, 1, generator=generator) < rate
    given_values = added.clone()
    before, after = running_sum(first, added, ends)
    expected_before, expected_after = by_hand(first, added, ends)
    assert torch.equal(before, expected_before)
    assert torch.equal(after, expected_after)
    assert torch.equal(added, given_values)


def test_gradients_pass_through_a_running_sum():
    added = torch.randn(2, 5, 1, requires_grad=True, dtype=torch.float64)
    ends = torch.tensor([[0, 1, 0, 0, 0], [0, 0, 0, 1, 0]], dtype=torch.bool).unsqueeze(-1)
    _, after = running_sum(torch.zeros(2, 1, dtype=torch.float64), added, ends)
    grad = torch.autograd.grad(after[..., -1, :].sum(), added)[0]
    assert grad.squeeze(-1).tolist() == [[0, 0, 1, 1, 1], [0, 0, 0, 0, 1]]


def one():
    return GymEnv("CartPole-v1")


def four():
    options = {"autoreset_mode": "Disabled"}
    return GymWrapper(
        gymnasium.make_vec("CartPole-v1", 4, vectorization_mode="sync", vector_kwargs=options)
    )


def chains():
    return {
        "both": [StepCounter(), RewardSum()],
        "first and last": [RewardSum(), ObservationNorm(1.0, 2.0, ["observation"]), StepCounter()],
        "cut": [RewardSum(), StepCounter(7)],
        "scaled before": [RewardScaling(0.1, 0.3), RewardSum()],
        "scaled after": [RewardSum(), RewardScaling(0.1, 0.3)],
        "read": [StepCounter(), ObservationNorm(1.0, 2.0, ["step_count"], ["time"])],
        "unknown": [StepCounter(), InitTracker()],
        "left out": [StepCounter(), SelectTransform("observation", "reward", "step_count")],
        "as a reward": [RewardSum(reward_spec=True)],
        "two": [RewardSum(), RewardSum(out_keys=["again"])],
    }


POSTPONED = {
    "both": {"step_count", "episode_reward"},
    "first and last": {"step_count", "episode_reward"},
    "cut": {"episode_reward"},
}


def rollouts(make, name, *, in_one_go, **kwargs):
    """Return two rollouts, the second from where the first ended, and what was left out."""
    env = TransformedEnv(make(), Compose(*chains()[name]))
    env.set_seed(0)
    torch.manual_seed(0)
    env.rollout(2)  # the first outcome is held to the specs: nothing is left out
    left_out = {one.key for one in env.postpone([])}
    env.resume()
    if not in_one_go:
        env.postpone = lambda read: []
    env.set_seed(1)
    torch.manual_seed(1)
    first = env.rollout(40, **kwargs)
    collector = Collector(env, None, frames_per_batch=60, total_frames=120)
    return [first, *collector], left_out


@pytest.mark.parametrize("name", chains())
@pytest.mark.parametrize("make", [one, four])
def test_steps_are_the_same_with_sums_written_afterwards(make, name):
    kwargs = {"break_when_any_done": name != "both"}
    batches, left_out = rollouts(make, name, in_one_go=True, **kwargs)
    expected, _ = rollouts(make, name, in_one_go=False, **kwargs)
    assert left_out == POSTPONED.get(name, set())
    for batch, other in zip(batches, expected, strict=True):
        assert set(batch.keys(True, True)) == set(other.keys(True, True))
        assert (batch == other).all()


def test_a_policy_that_reads_a_sum_gets_it():
    env = TransformedEnv(one(), StepCounter())
    seen = []

    class Act(nn.Module):
        def forward(self, observation, count):
            seen.append(count.item())
            return torch.stack([observation[..., 2], -observation[..., 2]], -1)

    policy = TensorDictSequential(
        TensorDictModule(Act(), ["observation", "step_count"], ["action_value"]),
        QValueActor(nn.Identity(), in_keys=["action_value"], spec=env.action_spec),
    )
    env.rollout(2)
    counts = env.rollout(20, policy)["step_count"].squeeze(-1).tolist()
    assert seen == counts == list(range(len(counts)))


def test_inner_environments_leave_out_what_outer_ones_do_not_touch():
    env = TransformedEnv(TransformedEnv(one(), StepCounter()), RewardSum())
    env.rollout(2)
    assert {one.key for one in env.postpone([])} == {"step_count", "episode_reward"}
    env.resume()
    assert env.postpone(["step_count"]) == [RunningSum("episode_reward", "reward")]
    env.resume()
    env.append_transform(ObservationNorm(0.0, 2.0, ["step_count"], ["time"]))
    env.rollout(2)
    assert env.postpone([]) == [RunningSum("episode_reward", "reward")]
    env.resume()


def test_all_is_written_again_after_an_error():
    env = TransformedEnv(one(), StepCounter())
    env.rollout(2)

    calls = []

    def fail(observation):
        calls.append(observation)
        if len(calls) == 3:
            raise RuntimeError("no action")
        return env.action_spec.rand()

    policy = TensorDictModule(fail, ["observation"], ["action"])
    with pytest.raises(RuntimeError, match="no action"):
        env.rollout(10, policy)
    assert env.step(env.rand_action(env.reset()))["next", "step_count"] == 1
