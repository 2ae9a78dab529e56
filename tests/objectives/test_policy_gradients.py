"""A2C and REINFORCE against formulas written by hand."""

import math

import pytest
import torch

from tests.objectives.oracles import huber
from torchrl.objectives import A2CLoss, ReinforceLoss
from torchrl.objectives.value import GAE, VTrace
from torchrl.testing.networks import advantage_batch, critic, gaussian_actor


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
    expected = {"loss_actor": -(log_prob * td["advantage"].squeeze(-1)).mean(), "loss_value": huber(error).mean()}
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
    torch.testing.assert_close(loss(td)["loss_actor"], -(log_prob.unsqueeze(-1) * expected["advantage"]).mean())


def test_impala_is_a2c_on_vtrace():
    actor, value = gaussian_actor(), critic()
    td = advantage_batch(batch=(3, 8)).exclude("advantage", "value_target", "state_value")
    loss = A2CLoss(actor, value)
    loss.make_value_estimator("vtrace", gamma=0.9)
    expected = VTrace(gamma=0.9, actor_network=actor, value_network=value)(td.clone())
    torch.testing.assert_close(loss(td), A2CLoss(actor, value)(expected))


@pytest.mark.parametrize("name", ["td0", "td1", "td_lambda", "gae", "vtrace", GAE, "instance"], ids=str)
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
