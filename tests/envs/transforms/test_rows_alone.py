"""Rows of a native vector environment end one by one; what is counted and summed stays right."""

import gymnasium
import pytest
import torch

from torchrl._core.records.flat_record import takes_flat_records
from torchrl.collectors import Collector
from torchrl.envs import (
    Compose,
    DoubleToFloat,
    GymEnv,
    InitTracker,
    ObservationNorm,
    RewardScaling,
    RewardSum,
    StepCounter,
    TransformedEnv,
)

NUM_ENVS, STEPS = 4, 200
CHAINS = {
    "alone": lambda: Compose(DoubleToFloat(), StepCounter(), RewardSum()),
    "limited": lambda: Compose(StepCounter(max_steps=11), RewardSum()),
    "merged": lambda: Compose(StepCounter(), InitTracker(), RewardSum()),
    "scaled": lambda: Compose(
        RewardScaling(1.0, 2.0), ObservationNorm(0.0, 2.0, in_keys=["observation"]), RewardSum(), StepCounter()
    ),
}


@pytest.fixture(params=CHAINS)
def env(request):
    env = TransformedEnv(GymEnv("CartPole-v1", num_envs=NUM_ENVS), CHAINS[request.param]())
    env.set_seed(0)
    return env


def by_hand(batch):
    """Return step counts and reward sums ``[N, T]`` after each step, by a loop over rows."""
    reward, done = (batch["next", key].squeeze(-1) for key in ("reward", "done"))
    counts, sums = torch.zeros_like(reward), torch.zeros_like(reward)
    for row in range(NUM_ENVS):
        count, total = 0, 0.0
        for t in range(reward.shape[1]):
            count, total = count + 1, total + reward[row, t].item()
            counts[row, t], sums[row, t] = count, total
            if done[row, t]:
                count, total = 0, 0.0
    return counts, sums


@pytest.mark.parametrize("storing_device", [None, "cpu"], ids=["entries", "tensordicts"])
def test_counts_and_sums_follow_each_row(env, storing_device):
    assert takes_flat_records(env)
    batch = env.rollout(STEPS, break_when_any_done=False, storing_device=storing_device)
    ends = batch["next", "done"].squeeze(-1)
    assert ends.any(1).all()
    assert (ends.sum(0) == 1).any()  # rows end one by one
    counts, sums = by_hand(batch)
    assert (batch["next", "step_count"].squeeze(-1) == counts).all()
    torch.testing.assert_close(batch["next", "episode_reward"].squeeze(-1), sums)
    first = torch.cat([torch.ones(NUM_ENVS, 1, dtype=torch.bool), ends[:, :-1]], 1)
    assert (batch["step_count"].squeeze(-1)[first] == 0).all()
    assert (batch["episode_reward"].squeeze(-1)[first] == 0).all()


def test_batches_of_a_collector_go_on_where_the_last_ended(env):
    batches = list(Collector(env, frames_per_batch=NUM_ENVS * 7, total_frames=NUM_ENVS * 70))
    whole = torch.cat(batches, 1)
    counts, sums = by_hand(whole)
    assert (whole["next", "step_count"].squeeze(-1) == counts).all()
    torch.testing.assert_close(whole["next", "episode_reward"].squeeze(-1), sums)


def test_an_episode_of_cartpole_is_worth_its_length():
    """The same against gymnasium itself: each step of CartPole is worth one."""
    env = TransformedEnv(GymEnv("CartPole-v1", num_envs=NUM_ENVS), Compose(StepCounter(), RewardSum()))
    batch = env.rollout(STEPS, break_when_any_done=False)
    assert gymnasium.spec("CartPole-v1").max_episode_steps == 500
    assert (batch["next", "episode_reward"] == batch["next", "step_count"]).all()
