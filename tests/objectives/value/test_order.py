"""Estimates along time are made of rows that follow each other, or the user is told."""

import warnings

import pytest
import torch
from tensordict import TensorDict

from torchrl.objectives import A2CLoss, ClipPPOLoss, DQNLoss, KLPENPPOLoss, PPOLoss, ReinforceLoss, SACLoss
from torchrl.objectives.value import GAE, TD0Estimator, TD1Estimator, TDLambdaEstimator, VTrace
from torchrl.testing.networks import critic, gaussian_actor, q_critic, q_network

ORDER = torch.randperm(40, generator=torch.Generator().manual_seed(0))
ALONG_TIME = {
    "gae": lambda: GAE(gamma=0.9, lmbda=0.9, value_network=critic()),
    "gae, stored values": lambda: GAE(gamma=0.9, lmbda=0.9, value_network=critic(), shifted=True),
    "td(1)": lambda: TD1Estimator(gamma=0.9, value_network=critic()),
    "td(lambda)": lambda: TDLambdaEstimator(gamma=0.9, lmbda=0.9, value_network=critic()),
    "v-trace": lambda: VTrace(gamma=0.9, actor_network=gaussian_actor(), value_network=critic()),
    "a2c": lambda: A2CLoss(gaussian_actor(), critic()),
    "ppo": lambda: PPOLoss(gaussian_actor(), critic()),
    "clip ppo": lambda: ClipPPOLoss(gaussian_actor(), critic()),
    "kl ppo": lambda: KLPENPPOLoss(gaussian_actor(), critic()),
    "reinforce": lambda: ReinforceLoss(gaussian_actor(), critic()),
    "sac, td(lambda)": lambda: SACLoss(gaussian_actor(), q_critic()).make_value_estimator("td_lambda"),
    "dqn, td(1)": lambda: DQNLoss(q_network(2), action_space="one_hot").make_value_estimator("td1"),
}


def rows(*ends, steps=40):
    """Return rows of episodes, with an action, its distribution and log-probability."""
    torch.manual_seed(0)
    states = torch.randn(steps + 1, 3)
    done = torch.zeros(steps, 1, dtype=torch.bool)
    done[list(ends)] = True
    after = TensorDict(observation=states[1:].clone(), reward=torch.randn(steps, 1), done=done)
    after["observation"][list(ends)] = 7.0  # not the next root
    td = TensorDict(observation=states[:-1], batch_size=[steps])
    with torch.no_grad():
        gaussian_actor()(td)
    return td.set("next", after.set("terminated", done.clone()))


def told(module, td):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        module(td.clone())
    return [str(w.message) for w in seen if "no updater" not in str(w.message)]


@pytest.mark.parametrize("name", ALONG_TIME)
def test_shuffled_rows_are_told_of_once(name):
    module = ALONG_TIME[name]()
    assert told(module, rows(10, 25)) == []
    (message,) = told(module, rows(10, 25)[ORDER])
    assert "do not follow each other" in message
    assert "advantage" in message
    assert told(module, rows(10, 25)[ORDER]) == []


def test_no_false_alarm():
    """Slices, episodes of few steps, rows of several steps, padding and grids are in order."""

    def fresh():
        return ALONG_TIME["gae"]()

    assert told(TD0Estimator(gamma=0.9, value_network=critic()), rows()[ORDER]) == []
    slices = torch.cat([rows()[i : i + 4] for i in (30, 5, 17, 8)])
    slices["next", "done"][3::4] = True
    assert told(fresh(), slices) == []
    assert told(fresh(), rows(*range(40))[ORDER]) == []  # each row an episode
    assert told(fresh(), rows()[ORDER[:3]]) == []  # too few to say
    grid = rows().reshape(4, 10)
    assert told(fresh(), grid[torch.tensor([2, 0, 3, 1])]) == []
    assert told(fresh(), rows()[ORDER].set("steps_to_next_obs", torch.ones(40, 1))) == []
    padded = torch.cat([rows()[:10], 0 * rows()[:30].float()])
    padded["next"] = padded["next"].update({"done": padded["next", "done"].bool()})
    padded["next", "terminated"] = padded["next", "terminated"].bool()
    padded["collector", "mask"] = torch.arange(40) < 10
    assert told(fresh(), padded) == []
    holes = rows()
    holes["observation"][5], holes["next", "observation"][4] = torch.nan, torch.nan
    assert told(fresh(), holes) == []


def test_an_advantage_in_the_batch_is_not_looked_at():
    loss = ALONG_TIME["ppo"]()
    td = rows(10, 25)
    GAE(gamma=0.9, lmbda=0.9, value_network=critic())(td)
    assert told(loss, td[ORDER]) == []
