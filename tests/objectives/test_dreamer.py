"""Dreamer's losses against formulas written by hand, and a task that they solve together."""

import pytest
import torch
from tensordict import TensorDict

from tests.objectives.dreams import BELIEF, LATENT, OBS, Models, S, latents, rows
from torchrl._core.errors import MissingKeyError
from torchrl.data import Composite
from torchrl.envs import DreamerEnv, PendulumEnv, check_env_specs
from torchrl.objectives import DreamerActorLoss, DreamerValueLoss


@pytest.mark.parametrize("delayed", [False, True])
@pytest.mark.parametrize("average", [False, True])
def test_world_model(delayed, average):
    models, td = Models(), rows()
    loss, *_ = models.losses(
        lambda_kl=0.5, lambda_reward=2.0, free_nats=0.3, delayed_clamp=delayed, global_average=average
    )
    torch.manual_seed(1)
    out, data = loss(td)
    torch.manual_seed(1)
    now = models.model(td.copy())["next"]
    p = torch.distributions.Normal(now["prior_mean"], now["prior_std"])
    q = torch.distributions.Normal(now["posterior_mean"], now["posterior_std"])
    pool = (lambda x: x.mean(-1)) if average else (lambda x: x.sum(-1))
    kl = pool(torch.distributions.kl_divergence(q, p))
    kl = kl.mean().clamp_min(0.3) if delayed else kl.clamp_min(0.3).mean()
    expected = {
        "loss_model_kl": 0.5 * kl,
        "loss_model_reco": pool((now["reco"] - td["next", "observation"]) ** 2).mean(),
        "loss_model_reward": 2 * ((now["reward"] - td["next", "reward"]) ** 2).mean(),
    }
    got = torch.autograd.grad(out.sum(reduce=True), list(loss.parameters()))
    want = torch.autograd.grad(sum(expected.values()), list(loss.parameters()))
    for name, value in expected.items():
        torch.testing.assert_close(out[name], value, atol=1e-5, rtol=1e-5)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(data["next", "true_reward"], td["next", "reward"])
    assert not data["next", "state"].requires_grad
    assert ("next", "reco") not in td.keys(True)
    with pytest.raises(MissingKeyError, match=r"DreamerModelLoss: entry \('next', 'observation'\)"):
        loss(td.exclude(("next", "observation")))


@pytest.mark.parametrize("discount", [False, True])
def test_policy_and_values(discount):
    """The same steps are imagined by hand."""
    gamma, lmbda, horizon = 0.9, 0.8, 4
    models, td = Models(), latents(2, 3)
    loss = DreamerActorLoss(
        models.actor,
        models.value,
        models.env,
        imagination_horizon=horizon,
        discount_loss=discount,
        gamma=gamma,
        lmbda=lmbda,
    )
    assert {id(p) for p in loss.parameters()} == {id(p) for p in models.actor.parameters()}
    torch.manual_seed(1)
    out, imagined = loss(td)
    torch.manual_seed(1)
    state, belief = td["state"].flatten(0, 1), td["belief"].flatten(0, 1)
    transition, reward = (m.module for m in models.env.world_model.module)
    rewards, values = [], []
    for _ in range(horizon):
        loc, scale = models.actor[0].module(state, belief)
        action = (loc + scale * torch.randn_like(loc)).tanh()
        _, _, state, belief = transition(state, belief, action)
        rewards.append(reward(state, belief))
        values.append(models.value.module(state, belief))
    returns = [values[-1]]
    for t in reversed(range(horizon)):
        ahead = (1 - lmbda) * values[t] + lmbda * returns[0]
        returns.insert(0, rewards[t] + gamma * ahead)
    weights = [gamma**t if discount else 1 for t in range(horizon)]
    expected = -sum(w * r for w, r in zip(weights, returns[:-1], strict=True)).mean()
    torch.testing.assert_close(out["loss_actor"], expected, atol=1e-5, rtol=1e-5)
    parameters = list(models.actor.parameters())
    got = torch.autograd.grad(out["loss_actor"], parameters)
    for one, other in zip(got, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    target = torch.stack(returns[:-1], 1).detach()
    torch.testing.assert_close(imagined["lambda_target"], target)

    follow = DreamerValueLoss(models.value, discount_loss=discount, gamma=gamma)
    out, data = follow(imagined)
    now = models.value.module(imagined["state"], imagined["belief"])
    error = ((now - target) ** 2).squeeze(-1) * torch.tensor(weights)
    torch.testing.assert_close(out["loss_value"], error.sum(-1).mean())
    torch.testing.assert_close(data["state_value"], now.detach())
    assert all(p.grad is None for p in models.env.world_model.parameters())


def test_latent_environment():
    env = Models().env
    check_env_specs(env)
    start = TensorDict(state=torch.ones(3, S), batch_size=[3])
    td = env.reset(start)
    assert (td["state"] == 1).all()
    assert (td["belief"] == 0).all()
    assert env.decode_obs(td)["reco"].shape == (3, OBS)
    torch.manual_seed(0)
    moved = env.decode_obs(td.clone(), compute_latents=True)
    assert moved["reco"].shape == (3, OBS)
    assert (moved["reco"] != env.decode_obs(td.clone())["reco"]).any()
    torch.manual_seed(0)
    acted = env.decode_obs(td.clone().set("action", env.action_spec.zero((3,))), compute_latents=True)
    torch.testing.assert_close(acted["reco"], moved["reco"])
    env.set_specs_from_env(PendulumEnv())
    assert env.action_spec.space.high == 2
    assert isinstance(env.observation_spec, Composite)
    bare = DreamerEnv(env.world_model, [S], [BELIEF])
    with pytest.raises(ValueError, match="DreamerEnv: has no obs_decoder"):
        bare.decode_obs(td)


@pytest.mark.slow
def test_learns_in_imagination_what_is_rewarded():
    models = Models(hidden=32)
    model, actor, value = models.losses(free_nats=0.1)
    actor.imagination_horizon = 2
    learners = [(x, torch.optim.Adam(x.parameters(), 5e-3)) for x in (model, actor, value)]
    for _ in range(200):
        data = rows(32, 3)
        data["next", "reward"] *= 10
        for loss, optimizer in learners:
            out, data = loss(data["next"][:, -1] if loss is actor else data)
            out.sum(reduce=True).backward()
            optimizer.step()
            optimizer.zero_grad()
    td = rows(64, 3)
    _, data = model(td)
    with torch.no_grad():
        loc, _ = models.actor[0].module(*(data["next", key][:, -1] for key in LATENT))
    gap = (loc.tanh() - td["next", "observation"][:, -1]).abs().mean()
    assert gap < 0.18  # the best constant action is off by 0.25
