"""A trap that a mask closes: what seems the best action is never possible.

For what learns values: state ``0`` leads to state ``1``, where one action rewards 1 and ends, and
the other, never possible, is believed to be worth much. At discount 1/2 the first state is worth
1/2; a target that minds no mask makes it worth more. For what learns a policy: the observation
names which of two actions is right, and a third, which does nothing, is what the policy does at the
start; who does not mind the mask never sees a reward.
"""

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from tests.objectives.learners import OFF_POLICY, ON_POLICY, SEVERAL_EPOCHS, TEAMS, Tables, action_values, learn, put
from torchrl._core.exploration import set_exploration_type

EPISODES = 64


def chain(is_team):
    """Both steps of the chain."""
    last = torch.tensor([[False], [True]])
    after = TensorDict(reward=last.float(), done=last, terminated=last, batch_size=[2])
    td = TensorDict(next=after, batch_size=[2])
    eye, possible = torch.eye(2), torch.tensor([[True, True], [True, False]])
    put(td["next"], is_team, observation=eye[[1, 1]], mask=possible[[1, 1]])
    return put(td, is_team, observation=eye, mask=possible, action=torch.tensor([[1, 0], [1, 0]]))


def value_of_the_first_state(name, minds):
    is_team = name in TEAMS
    loss = OFF_POLICY[name](Tables(2, 2, is_team, [(1, 1)], minds))
    td = chain(is_team)
    learn(loss, [td] * 150, 0.05)
    return action_values(name, loss, td)[0, ..., 0].mean().item()


@pytest.mark.parametrize("name", OFF_POLICY)
def test_values_that_mind_the_mask(name):
    assert abs(value_of_the_first_state(name, minds=True) - 0.5) < 0.1


# implicit Q-learning asks only what the actions of the data are worth, and is not lured at all
@pytest.mark.parametrize("name", [name for name in OFF_POLICY if name != "discrete iql"])
def test_values_that_do_not_are_lured(name):
    assert value_of_the_first_state(name, minds=False) > 0.7


def bandits(loss, is_team, count):
    """Episodes of one step."""
    key = ("agents", "action") if is_team else "action"
    flag = torch.ones(EPISODES, 1, 1, dtype=torch.bool)
    for _ in range(count):
        right = torch.randint(2, (EPISODES, 1))
        see = nn.functional.one_hot(right, 2).float()
        possible = torch.tensor([True, True, False]).expand(EPISODES, 1, 3)
        td = put(TensorDict(batch_size=[EPISODES, 1]), is_team, observation=see, mask=possible)
        td["next"] = td.copy()
        with torch.no_grad(), set_exploration_type("random"):
            loss.actor_network(td)
        hits = td[key].argmax(-1) == (right.unsqueeze(-1) if is_team else right)
        reward = hits.float().reshape(EPISODES, 1, -1).mean(-1, keepdim=True)
        td["next"].update(TensorDict(reward=reward, done=flag, terminated=flag))
        yield td


def least_right(name, minds):
    """Return the least probability of a right action."""
    is_team = name in TEAMS
    loss = ON_POLICY[name](Tables(2, 3, is_team, [(2, 0), (2, 1)], minds))
    learn(loss, bandits(loss, is_team, 40), 0.1, 2 if name in SEVERAL_EPOCHS else 1)
    logits = loss.actor_network[0].module(torch.eye(2))
    return logits[:, : 2 if minds else 3].softmax(-1)[:, :2].diagonal().min().item()


@pytest.mark.parametrize("name", ON_POLICY)
def test_policies_that_mind_the_mask(name):
    assert least_right(name, minds=True) > 0.8


@pytest.mark.parametrize("name", ON_POLICY)
def test_policies_that_do_not_are_lured(name):
    assert least_right(name, minds=False) < 0.2
