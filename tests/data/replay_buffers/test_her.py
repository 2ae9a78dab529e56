"""Hindsight: goals come from where they should, and only samples change."""

import pytest
import torch
from tensordict import TensorDict

from torchrl.data import HERReplayBuffer, LazyMemmapStorage, LazyTensorStorage, ListStorage, PrioritizedSampler
from torchrl.testing.buffer import assert_same

LENGTHS = [3, 1, 5, 4]  # the last one is still running


def reward(td):
    reached = (td["next", "achieved_goal"] == td["desired_goal"]).all(-1, keepdim=True)
    return reached.float() - 1


def steps():
    episode = torch.repeat_interleave(torch.arange(4), torch.tensor(LENGTHS))
    n = len(episode)
    done = torch.cat([torch.arange(k) == k - 1 for k in LENGTHS]).unsqueeze(-1)
    done[-1] = False
    item = torch.arange(n)
    result = TensorDict(
        achieved_goal=torch.stack([item + 1, item + 1], -1).float(),
        desired_goal=torch.full((n, 2), -5.0),
        reward=torch.full((n, 1), -1.0),
        done=done,
        truncated=torch.zeros_like(done),
        terminated=done.clone(),
        batch_size=[n],
    )
    return TensorDict(
        item=item,
        episode=episode,
        achieved_goal=torch.stack([item, item], -1).float(),
        desired_goal=torch.full((n, 2), -5.0),
        next=result,
        batch_size=[n],
    )


def source(td):
    """Which step the goal was achieved by; -6 where it is the real one."""
    assert (td["desired_goal"][:, 0] == td["desired_goal"][:, 1]).all()
    assert (td["desired_goal"] == td["next", "desired_goal"]).all()
    return td["desired_goal"][:, 0].long() - 1


def allowed(strategy, item, data):
    episode = data["episode"]
    mine = (episode == episode[item]).nonzero().squeeze(-1).tolist()
    return {
        "future": {i for i in mine if i >= item},
        "final": {mine[-1]},
        "episode": set(mine),
        "random": set(range(len(episode))),
    }[strategy]


@pytest.mark.parametrize("strategy", ["future", "final", "episode", "random"])
@pytest.mark.parametrize("make", [LazyTensorStorage, LazyMemmapStorage, ListStorage])
def test_goals_come_from_where_the_strategy_says(make, strategy):
    data = steps()
    buffer = HERReplayBuffer(reward, her_ratio=0.7, strategy=strategy, storage=make(13))
    buffer.extend(data)
    before = buffer[:].clone()
    sample = buffer.sample(4000)
    assert_same(buffer[:], before)
    goals, seen = source(sample), {item: set() for item in range(13)}
    for item, goal in zip(sample["item"].tolist(), goals.tolist(), strict=True):
        if goal != -6:
            seen[item].add(goal)
    assert seen == {item: allowed(strategy, item, data) for item in range(13)}
    share = (goals != -6).float().mean()
    assert abs(share - 0.7) < 0.04
    real = goals == -6
    assert torch.equal(sample["next", "reward"], reward(sample))
    assert (sample["next", "reward"][real] == -1).all()
    assert torch.equal(sample["next", "terminated"], data["next", "terminated"][sample["item"]])


def test_future_goals_are_alike_likely():
    buffer = HERReplayBuffer(reward, her_ratio=1.0, storage=LazyTensorStorage(13))
    buffer.extend(steps())
    sample = buffer.sample(40_000)
    counts = torch.bincount(source(sample)[sample["item"] == 4] - 4, minlength=5).double()
    chi2 = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert chi2 < 18.5  # 99.9 % of chi-squared with 4 degrees of freedom


def test_a_reward_function_may_say_where_episodes_end():
    def rewards(td):
        reached = reward(td) == 0
        return reached.float(), reached

    buffer = HERReplayBuffer(rewards, her_ratio=0.5, strategy="final", storage=LazyTensorStorage(13))
    buffer.extend(steps())
    sample = buffer.sample(400)
    relabelled = source(sample) != -6
    reached = reward(sample) == 0
    for key in ("terminated", "done"):
        assert torch.equal(sample["next", key][relabelled], reached[relabelled])
    stored = steps()["next", "terminated"][sample["item"]]
    assert torch.equal(sample["next", "terminated"][~relabelled], stored[~relabelled])


def test_goals_at_the_root_only():
    data = steps().exclude(("next", "achieved_goal"), ("next", "desired_goal"))

    def root_reward(td):
        return (td["achieved_goal"] == td["desired_goal"]).all(-1, keepdim=True).float()

    buffer = HERReplayBuffer(root_reward, her_ratio=1.0, strategy="final", storage=LazyTensorStorage(13))
    buffer.extend(data)
    sample = buffer.sample(50)
    last = torch.tensor([2, 3, 8, 12])[sample["episode"]]
    assert (sample["desired_goal"][:, 0] == last).all()
    assert "desired_goal" not in sample["next"]


def test_two_dimensions_wrap_around_and_priorities():
    buffer = HERReplayBuffer(
        reward,
        her_ratio=1.0,
        strategy="episode",
        storage=LazyTensorStorage(16, ndim=2),
        sampler=PrioritizedSampler(16, 1.0, 1.0),
    )
    data = torch.stack([steps(), steps()])  # 2 environments, 13 steps; the last 8 are kept
    data["lane"] = torch.tensor([[0], [1]]).expand(2, 13)
    for key in ("achieved_goal", ("next", "achieved_goal")):
        data[key] = data[key] + 100 * data["lane"].unsqueeze(-1)
    buffer.extend(data)
    sample = buffer.sample(500)
    goals = source(sample) - 100 * sample["lane"]
    kept = steps()["episode"][5:]
    for item, goal in zip(sample["item"].tolist(), goals.tolist(), strict=True):
        assert goal >= 5
        assert kept[goal - 5] == kept[item - 5]
    assert sample["priority_weight"].shape == (500,)


def test_prefetched_samples_are_relabelled_the_same():
    samples = []
    for prefetch in (None, 3):
        generator = torch.Generator().manual_seed(0)
        buffer = HERReplayBuffer(reward, storage=LazyTensorStorage(13), prefetch=prefetch, generator=generator)
        buffer.extend(steps())
        samples.append(torch.stack([buffer.sample(8) for _ in range(5)]))
    assert_same(*samples)


def test_arguments():
    with pytest.raises(ValueError, match=r"her_ratio is a share; expected \[0, 1\], found 1.5"):
        HERReplayBuffer(reward, her_ratio=1.5)
    with pytest.raises(ValueError, match="'past' is not a valid HindsightStrategy"):
        HERReplayBuffer(reward, strategy="past")
