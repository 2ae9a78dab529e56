"""Planners and chunked policies."""

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from torchrl._core.errors import MissingKeyError, ShapeError, SpecError
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.modules import Actor, CEMPlanner, MPPIPlanner, MultiStepActorWrapper


class Line:
    """A point on a line: the action moves it, the reward is minus its distance to the goal."""

    def __init__(self, goal=0.8, ends_after=None):
        self.goal, self.ends_after = goal, ends_after
        self.observation_spec = Composite(observation=Unbounded((1,)))
        self.action_spec = Bounded(-0.5, 0.5, (1,))

    def step(self, td):
        place = td["observation"] + td["action"]
        reward = -(place - self.goal).abs()
        after = TensorDict(observation=place, reward=reward, batch_size=td.batch_size)
        if self.ends_after is not None:
            after["done"] = place > self.ends_after
        return td.set("next", after)


def gain(transitions):
    """The discounted sum of rewards to come."""
    reward = transitions["next", "reward"]
    return transitions.set("advantage", reward.flip(-2).cumsum(-2).flip(-2))


class Gain(nn.Module):
    def forward(self, transitions):
        return gain(transitions)


OPTIONS = {"planning_horizon": 3, "optim_steps": 8, "num_candidates": 64, "top_k": 8}
PLANNERS = {
    "cem": lambda **kwargs: CEMPlanner(Line(), **{**OPTIONS, **kwargs}),
    "mppi": lambda **kwargs: MPPIPlanner(Line(), Gain(), temperature=10.0, **{**OPTIONS, **kwargs}),
}


@pytest.mark.parametrize("make", PLANNERS.values(), ids=PLANNERS)
@pytest.mark.parametrize("batch", [(), (4,), (4, 2)], ids=str)
def test_plans_go_to_the_goal(make, batch):
    planner = make()
    start = torch.linspace(-1, 1, 8)[: max(1, torch.Size(batch).numel())].reshape(*batch, 1)
    td = TensorDict(observation=start.clone(), batch_size=batch)
    out = planner(td)
    assert out is td
    best = (0.8 - start).clamp(-0.5, 0.5)
    torch.testing.assert_close(out["action"], best, atol=0.12, rtol=0)
    assert set(out.keys()) == {"observation", "action"}
    assert planner.in_keys == ["observation"]


def test_the_first_step_of_mppi_is_the_weighted_mean_of_the_best():
    planner = PLANNERS["mppi"](optim_steps=1, num_candidates=16, top_k=4)
    td = TensorDict(observation=torch.zeros(1))
    torch.manual_seed(3)
    found = planner(td.clone())["action"]
    torch.manual_seed(3)
    actions = torch.randn(16, 3, 1).clamp(-0.5, 0.5)
    places = actions.cumsum(1)
    scores = -(places - 0.8).abs().sum((1, 2))
    best, index = scores.topk(4)
    weight = (10.0 * best).softmax(0)
    torch.testing.assert_close(found, (weight[:, None] * actions[index, 0]).sum(0))


def test_rewards_behind_the_end_do_not_count():
    planner = CEMPlanner(Line(goal=-9.0, ends_after=0.3), **{**OPTIONS, "optim_steps": 10})
    td = planner(TensorDict(observation=torch.zeros(1)))
    assert td["action"] > 0.3  # ending at once costs one reward, walking on costs three


def test_what_planners_refuse():
    with pytest.raises(SpecError, match=r"top_k <= num_candidates, found \(9, 4\)"):
        PLANNERS["cem"](num_candidates=4, top_k=9)
    with pytest.raises(MissingKeyError, match=r"'observation' is read but absent.*'observations'"):
        PLANNERS["cem"]()(TensorDict(observations=torch.zeros(1)))


def chunker(n=3, **kwargs):
    calls = []

    def net(observation):
        calls.append(observation.shape)
        return observation.unsqueeze(-2) + torch.arange(float(n)).unsqueeze(-1)

    return MultiStepActorWrapper(Actor(net), n, **kwargs), calls


def run(policy, td, resets, key="action"):
    taken = []
    for is_init in resets:
        td.set("is_init", torch.tensor(is_init).unsqueeze(-1))
        taken.append(policy(td)[key].clone())
        td.set("observation", td["observation"] + 10)
    return torch.stack(taken)[..., 0].tolist()


def test_chunks_are_used_up_row_by_row():
    policy, calls = chunker()
    td = TensorDict(observation=torch.zeros(2, 1), batch_size=[2])
    resets = [[True, True], [False, False], [False, True], [False, False], [False, False]]
    # the second row starts anew at its third step
    assert run(policy, td, resets) == [[0, 0], [1, 1], [2, 20], [30, 21], [31, 22]]
    assert len(calls) == 3
    assert td["action_orig"].shape == (2, 3, 1)


def test_replanning_and_kept_dimensions():
    policy, _ = chunker(replan_interval=2, keep_dim=True)
    td = TensorDict(observation=torch.zeros(1, 1), batch_size=[1])
    resets = [[True], [False], [False], [False]]
    assert run(policy, td, resets) == [[[0]], [[1]], [[20]], [[21]]]


def test_chunk_sizes():
    policy = MultiStepActorWrapper(Actor(lambda obs: obs.expand(*obs.shape[:-1], 4)))
    begins = torch.ones(2, 1, dtype=torch.bool)
    start = TensorDict(observation=torch.zeros(2, 1), is_init=begins, batch_size=[2])
    td = policy(start.clone())  # indices, one a step
    assert td["action"].shape == (2,)
    assert policy.n_steps == 4
    wrong = MultiStepActorWrapper(policy.actor, 3)
    with pytest.raises(ShapeError, match=r"not a chunk of the right size; expected \[2, 3, '\*'\]"):
        wrong(start.clone())
    with pytest.raises(KeyError, match=r"is_init.*InitTracker"):
        policy(start.exclude("is_init"))
    with pytest.raises(ValueError, match="expected replan_interval <= 3, found 4"):
        chunker(replan_interval=4)
