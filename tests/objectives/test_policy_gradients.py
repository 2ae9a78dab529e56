"""A2C and REINFORCE against formulas written by hand, and probes that they must solve."""

import math

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModule
from torch import nn

from tests.objectives.oracles import huber
from torchrl.objectives import (
    A2CLoss,
    ClipPPOLoss,
    KLPENPPOLoss,
    PPOLoss,
    ReinforceLoss,
    SoftUpdate,
)
from torchrl.objectives.value import GAE, VTrace
from torchrl.testing.networks import OBS, advantage_batch, critic, discrete_actor, gaussian_actor


def gaussian_log_prob(actor, td):
    loc, scale = actor[0].module(td["observation"])
    z = (td["action"] - loc) / scale
    entropy = (scale.log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)
    return (-0.5 * z**2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1), entropy


def assert_same(loss, td, expected):
    out = loss(td)
    for name, value in expected.items():
        torch.testing.assert_close(out[name], value, atol=1e-5, rtol=1e-5, msg=name)
    parameters = list(loss.parameters())
    got = torch.autograd.grad(sum(out[name] for name in expected), parameters)
    want = torch.autograd.grad(sum(expected.values()), parameters)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("actions", [1, 2, 17])
@pytest.mark.parametrize("normalize", [False, True])
def test_a2c(actions, normalize):
    actor, value = gaussian_actor(actions), critic()
    td = advantage_batch(actions, batch=(64,))
    loss = A2CLoss(actor, value, entropy_coeff=0.2, critic_coeff=0.5, advantage_norm=normalize)
    log_prob, entropy = gaussian_log_prob(actor, td)
    a = td["advantage"].squeeze(-1)
    a = (a - a.mean()) / a.std() if normalize else a
    error = (value.module(td["observation"]) - td["value_target"]).squeeze(-1)
    expected = {
        "loss_objective": -(log_prob * a).mean(),
        "loss_entropy": -0.2 * entropy.mean(),
        "loss_critic": 0.5 * huber(error).mean(),
    }
    assert_same(loss, td, expected)


@pytest.mark.parametrize("actions", [1, 2, 17])
@pytest.mark.parametrize("bonus", [False, True])
def test_reinforce(actions, bonus):
    actor, value = gaussian_actor(actions), critic()
    td = advantage_batch(actions, batch=(64,))
    log_prob, entropy = gaussian_log_prob(actor, td)
    error = (value.module(td["observation"]) - td["value_target"]).squeeze(-1)
    expected = {
        "loss_actor": -(log_prob * td["advantage"].squeeze(-1)).mean(),
        "loss_value": huber(error).mean(),
    }
    if bonus:
        expected["loss_entropy"] = -0.2 * entropy.mean()
    loss = ReinforceLoss(actor, value, entropy_bonus=bonus, entropy_coeff=0.2)
    assert_same(loss, td, expected)


def test_reinforce_with_a_delayed_critic_takes_advantages_from_it():
    actor, value = gaussian_actor(), critic()
    loss = ReinforceLoss(actor, value, delay_value=True, gamma=0.9)
    with torch.no_grad():
        value.module.net[0].weight.add_(1.0)
    td = advantage_batch(batch=(3, 8)).exclude("advantage", "value_target", "state_value")
    expected = GAE(gamma=0.9, lmbda=0.95, value_network=loss.target_critic_network)(td.clone())
    log_prob, _ = gaussian_log_prob(actor, td)
    torch.testing.assert_close(
        loss(td)["loss_actor"], -(log_prob.unsqueeze(-1) * expected["advantage"]).mean()
    )


def test_impala_is_a2c_on_vtrace():
    actor, value = gaussian_actor(), critic()
    td = advantage_batch(batch=(3, 8)).exclude("advantage", "value_target", "state_value")
    loss = A2CLoss(actor, value)
    loss.make_value_estimator("vtrace", gamma=0.9)
    expected = VTrace(gamma=0.9, actor_network=actor, value_network=value)(td.clone())
    torch.testing.assert_close(loss(td), A2CLoss(actor, value)(expected))


@pytest.mark.parametrize(
    "name", ["td0", "td1", "td_lambda", "gae", "vtrace", GAE, "instance"], ids=str
)
def test_value_estimators_of_a_loss(name):
    actor, value = gaussian_actor(), critic()
    td = advantage_batch(batch=(3, 8)).exclude("advantage", "value_target", "state_value")
    loss = A2CLoss(actor, value, gamma=0.9)
    if name == "instance":
        name = GAE(gamma=0.5, lmbda=0.5, value_network=value)
        loss.make_value_estimator(name)
        assert loss.value_estimator is name
    else:
        loss.make_value_estimator(name, **({"lmbda": 0.9} if name is GAE else {}))
        assert loss.value_estimator.gamma == 0.9
    assert loss(td)["loss_critic"].requires_grad
    count = len(list(loss.parameters()))
    assert count == len(list(actor.parameters())) + len(list(value.parameters()))
    assert not any("value_estimator" in key for key in loss.state_dict())


def test_set_keys_reaches_the_value_estimator():
    actor, value = gaussian_actor(), critic()
    td = advantage_batch(batch=(3, 8)).exclude("advantage", "value_target", "state_value")
    loss = A2CLoss(actor, value)
    expected = loss(td)
    loss.set_keys(reward="gain", advantage="a")
    renamed = td.clone().rename_key_(("next", "reward"), ("next", "gain"))
    torch.testing.assert_close(loss(renamed), expected)


# probes: what is to be learnt is known

MAKE = {
    "a2c": lambda actor, value: A2CLoss(actor, value),
    "reinforce": lambda actor, value: ReinforceLoss(actor, value),
    "ppo": lambda actor, value: PPOLoss(actor, value),
    "clip ppo": lambda actor, value: ClipPPOLoss(actor, value, normalize_advantage=True),
    "kl ppo": lambda actor, value: KLPENPPOLoss(actor, value, dtarg=0.1),
}


@pytest.mark.parametrize("name", MAKE)
def test_learns_an_action_that_depends_on_the_observation(name):
    """Right is the action that the observation names; episodes of one step."""
    actor, value = discrete_actor(3), critic()
    loss = MAKE[name](actor, value)
    loss.make_value_estimator("gae", gamma=0.5, lmbda=0.9)
    optimizer = torch.optim.Adam(loss.parameters(), 0.1)
    flag = torch.ones(64, 1, 1, dtype=torch.bool)
    for _ in range(40):
        right = torch.randint(3, (64, 1))
        obs = nn.functional.one_hot(right, OBS).float()
        td = TensorDict(observation=obs, batch_size=[64, 1])
        with torch.no_grad():
            dist = actor.get_dist(td)
            td["action"] = dist.sample()
            td["action_log_prob"] = dist.log_prob(td["action"])
        reward = (td["action"].argmax(-1) == right).float().unsqueeze(-1)
        td["next"] = TensorDict(
            observation=obs, reward=reward, done=flag, terminated=flag, batch_size=[64, 1]
        )
        for _ in range(2 if "ppo" in name else 1):
            loss(td).backward()
            optimizer.step()
            optimizer.zero_grad()
    probability = actor[0].module(torch.eye(3)).softmax(-1).diagonal()
    assert probability.min() > 0.8, probability


def test_learns_the_value_of_a_chain_that_is_only_truncated():
    one = torch.ones(4, 1, 1)
    after = TensorDict(
        observation=one.expand(4, 1, OBS),
        reward=one,
        done=one.bool(),
        terminated=~one.bool(),
        batch_size=[4, 1],
    )
    td = TensorDict(
        observation=one.expand(4, 1, OBS),
        action=torch.zeros(4, 1, 2),
        next=after,
        batch_size=[4, 1],
    )
    value = TensorDictModule(nn.Linear(OBS, 1), ["observation"], ["state_value"])
    loss = ReinforceLoss(gaussian_actor(), value, gamma=0.5, delay_value=True)
    optimizer = torch.optim.Adam(value.parameters(), 0.05)
    updater = SoftUpdate(loss, tau=0.2)
    for _ in range(250):
        loss(td)["loss_value"].backward()
        optimizer.step()
        optimizer.zero_grad()
        updater.step()
    assert abs(value.module(torch.ones(OBS)) - 2) < 0.1


class Remembering(nn.Module):
    """Reads a whole sequence."""

    def __init__(self, outputs):
        super().__init__()
        self.rnn, self.head = nn.GRU(OBS, 16, batch_first=True), nn.Linear(16, outputs)

    def forward(self, observation):
        return self.head(self.rnn(observation)[0])


@pytest.mark.slow
@pytest.mark.parametrize("memory", [True, False])
def test_what_only_memory_can_learn(memory):
    """The first of three observations names the right last action; without memory it is a guess."""
    old = discrete_actor(2)
    net = Remembering(2) if memory else nn.Linear(OBS, 2)
    actor = ProbabilisticTensorDictSequential(
        TensorDictModule(net, ["observation"], ["logits"]), old[1]
    )
    value = TensorDictModule(Remembering(1), ["observation"], ["state_value"])
    loss = A2CLoss(actor, value, gamma=1.0, lmbda=1.0)
    optimizer = torch.optim.Adam(loss.parameters(), 0.02)
    last = torch.zeros(64, 3, 1, dtype=torch.bool)
    last[:, -1] = True
    for _ in range(150):
        right = torch.randint(2, (64,))
        obs = torch.zeros(64, 3, OBS)
        obs[:, 0, :2] = nn.functional.one_hot(right, 2).float()
        obs[:, :, 2] = torch.tensor([0.0, 0.5, 1.0])
        td = TensorDict(observation=obs, batch_size=[64, 3])
        with torch.no_grad():
            td["action"] = actor.get_dist(td.copy()).sample()
        reward = torch.zeros(64, 3, 1)
        reward[:, -1, 0] = (td["action"][:, -1].argmax(-1) == right).float()
        td["next"] = TensorDict(
            observation=obs.roll(-1, 1),
            reward=reward,
            done=last,
            terminated=last,
            batch_size=[64, 3],
        )
        loss(td).backward()
        optimizer.step()
        optimizer.zero_grad()
    solved = reward[:, -1].mean() > 0.85
    assert solved == memory
