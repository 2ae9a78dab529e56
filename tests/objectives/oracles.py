"""What oracles of actor-critic losses share: formulas of the papers in plain torch."""

import math

import torch

from torchrl.testing.networks import transitions

ACTIONS = [1, 2, 17]
GAMMA = 0.9


def apart(loss):
    """Move the networks away from their targets."""
    with torch.no_grad():
        for name, p in loss.named_parameters():
            if "alpha" not in name:
                p.add_(0.2 * torch.randn_like(p))
    return loss


def data(actions, weights=False, batch=32, discrete=False):
    td = transitions(actions, discrete, (batch,))
    weight = torch.rand(batch) if weights else torch.ones(batch)
    if weights:
        td["priority_weight"] = weight.unsqueeze(-1)
    alive = 1 - td["next", "terminated"].squeeze(-1).float()
    return td, weight, td["next", "reward"].squeeze(-1), alive


def q_of(net):
    return lambda obs, action: net.module(obs, action).squeeze(-1)


def huber(x):
    return torch.where(x.abs() < 1, 0.5 * x**2, x.abs() - 0.5)


def assert_same(loss, td, expected, seed=0):
    """Compare every loss, and the gradient of their sum."""
    torch.manual_seed(seed)
    out = loss(td)
    for name, value in expected.items():
        torch.testing.assert_close(out[name], value, atol=1e-5, rtol=1e-5, msg=name)
    parameters = list(loss.parameters())
    got = torch.autograd.grad(sum(v for k, v in out.items() if k.startswith("loss")), parameters, allow_unused=True)
    want = torch.autograd.grad(
        sum(v for k, v in expected.items() if k.startswith("loss")), parameters, allow_unused=True
    )
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    return out


def without_gradient(net):
    """The same function of its inputs, with constant parameters."""
    params = {k: v.detach() for k, v in net.module.named_parameters()}
    return lambda *x: torch.func.functional_call(net.module, params, x).squeeze(-1)


def draw(actor, obs):
    """A reparametrised action of the Gaussian actor, and its log-probability."""
    loc, scale = actor[0].module(obs)
    noise = torch.randn_like(loc)
    log_prob = (-0.5 * noise**2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)
    return loc + scale * noise, log_prob


def sac_by_hand(loss, td, weight, reward, alive, *, subset=None, mean=False, target_entropy):
    """The three losses; draws in the order of the library: next step first."""
    obs, after = td["observation"], td["next", "observation"]
    alpha = loss.log_alpha.exp().detach()
    actor = loss.actor_network
    with torch.no_grad():
        next_action, next_log_prob = draw(loss.target("actor_network"), after)
        ahead = torch.stack([q_of(n)(after, next_action) for n in loss.target("qvalue_network")])
        if subset is not None:
            ahead = ahead[torch.randperm(len(ahead))[:subset]]
        target = reward + GAMMA * alive * (ahead.min(0).values - alpha * next_log_prob)
    errors = torch.stack([q_of(n)(obs, td["action"]) for n in loss.network("qvalue_network")]) - target
    action, log_prob = draw(actor, obs)
    values = torch.stack([without_gradient(n)(obs, action) for n in loss.network("qvalue_network")])
    value = values.mean(0) if mean else values.min(0).values
    return {
        "loss_actor": (alpha * log_prob - value).mean(),
        "loss_qvalue": (weight * huber(errors).sum(0)).mean(),
        "loss_alpha": -(loss.log_alpha * (log_prob + target_entropy).detach()).mean(),
        "alpha": alpha,
        "entropy": -log_prob.mean().detach(),
    }, errors
