"""Losses of groups of agents against formulas written by hand."""

import math
from copy import deepcopy

import pytest
import torch
from torch import nn

from torchrl.modules import PopArtValueNorm, RunningValueNorm
from torchrl.objectives import ClipPPOLoss, IPPOLoss, MAPPOLoss, QMixerLoss
from torchrl.objectives.value import MultiAgentGAE
from torchrl.testing.networks import AGENTS, mixing_networks, team, team_advantages, team_networks


@pytest.mark.parametrize("kind", [MAPPOLoss, IPPOLoss])
@pytest.mark.parametrize("actions", [1, 2, 17])
def test_mappo(kind, actions):
    actor, critic = team_networks(actions)
    td = team_advantages(actions, batch=(5, 8))
    loss = kind(actor, critic, entropy_coeff=0.1)
    obs = td["agents", "observation"]
    loc, scale = actor[0].module(obs)
    z = (td["agents", "action"] - loc) / scale
    log_prob = (-0.5 * z**2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)
    ratio = (log_prob - td["agents", "action_log_prob"]).exp()
    a = td["advantage"].squeeze(-1)  # each agent by itself
    a = (a - a.mean((0, 1))) / a.std((0, 1))
    gain = torch.min(ratio * a, ratio.clamp(0.8, 1.2) * a)
    error = (critic.module(obs) - td["value_target"]).squeeze(-1)
    expected = {
        "loss_objective": -gain.mean(),
        "loss_critic": nn.functional.smooth_l1_loss(error, torch.zeros_like(error)),
        "loss_entropy": -0.1 * (scale.log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1).mean(),
    }
    out = loss(td)
    for name, value in expected.items():
        torch.testing.assert_close(out[name], value, atol=1e-5, rtol=1e-5)
    parameters = list(loss.parameters())
    got = torch.autograd.grad(sum(out[name] for name in expected), parameters)
    want = torch.autograd.grad(sum(expected.values()), parameters)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_mappo_computes_advantages_from_the_rewards_of_the_team():
    actor, critic = team_networks()
    td = team_advantages(batch=(3, 6))
    bare = td.exclude("advantage", "value_target")
    loss = MAPPOLoss(actor, critic, gamma=0.9, lmbda=0.8)
    gae = MultiAgentGAE(gamma=0.9, lmbda=0.8, value_network=critic)
    expected = ClipPPOLoss(actor, critic, normalize_advantage=True, normalize_advantage_exclude_dims=(-2,))(
        gae(td.clone())
    )
    torch.testing.assert_close(loss(bare), expected)


@pytest.mark.parametrize("kind", [PopArtValueNorm, RunningValueNorm])
def test_mappo_with_normalised_values(kind):
    actor, critic = team_networks()
    td = team_advantages(batch=(3, 6))
    norm = kind()
    norm.update(torch.tensor([[2.0], [16.0]]))  # mean 9, deviation 7
    loss = MAPPOLoss(actor, critic, value_norm=norm, gamma=0.9, lmbda=0.8, loss_critic_type="l2")
    values = critic.module(td["agents", "observation"])
    bare = td.exclude("advantage", "value_target")
    estimated = loss.value_estimator(bare.clone())
    unit = 7 * values.detach() + 9
    torch.testing.assert_close(estimated["agents", "state_value"], unit, atol=1e-4, rtol=1e-4)
    other = deepcopy(norm)
    other.update(estimated["value_target"])
    expected = ((values - other.normalize(estimated["value_target"])) ** 2).mean()
    torch.testing.assert_close(loss(bare)["loss_critic"], expected)
    torch.testing.assert_close(norm.state_dict(), other.state_dict())
    assert any("value_norm" in key for key in loss.state_dict())


def test_values_of_padding_do_not_move_the_normaliser():
    norm = RunningValueNorm()
    loss = MAPPOLoss(*team_networks(), value_norm=norm)
    td = team_advantages(batch=(4,))
    mask = torch.tensor([True, True, False, True])
    td["value_target"][2] = float("nan")
    out = loss(td.set(("collector", "mask"), mask))
    assert out["loss_critic"].isfinite()
    torch.testing.assert_close(norm.mean, td["value_target"][mask].mean((0, 1)))


@pytest.mark.parametrize("delay", [False, True])
@pytest.mark.parametrize("actions", [2, 17])
def test_qmix(delay, actions):
    local, mixer = mixing_networks(actions)
    loss = QMixerLoss(local, mixer, action_space="one_hot", gamma=0.9, delay_value=delay)
    with torch.no_grad():
        for p in loss.parameters():
            p.add_(0.2 * torch.randn_like(p))
    td = team(actions, batch=(32,))
    weight = torch.rand(32)
    td["priority_weight"] = weight
    values = local.module(td["agents", "observation"])
    taken = (values * td["agents", "action"]).sum(-1, keepdim=True)
    total = mixer.module(taken, td["state"]).squeeze(-1)
    with torch.no_grad():
        after = loss.target("local_value_network").module(td["next", "agents", "observation"])
        best = after.amax(-1, keepdim=True)
        ahead = loss.target("mixer_network").module(best, td["next", "state"]).squeeze(-1)
        alive = ~td["next", "terminated"].squeeze(-1)
        target = td["next", "reward"].squeeze(-1) + 0.9 * alive * ahead
    expected = (weight * (total - target) ** 2).mean()
    out = loss(td)["loss"]
    torch.testing.assert_close(out, expected)
    parameters = list(loss.parameters())
    pairs = zip(torch.autograd.grad(out, parameters), torch.autograd.grad(expected, parameters), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert td["td_error"].shape == (32, 1)
    assert values.shape == (32, AGENTS, actions)
