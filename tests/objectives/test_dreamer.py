"""Dreamer's losses against formulas written by hand, and a task that they solve together."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import (
    NormalParamExtractor,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictSequential,
)
from torch import nn

from torchrl._core.errors import MissingKeyError
from torchrl.data import Bounded, Composite
from torchrl.envs import DreamerEnv, PendulumEnv, check_env_specs
from torchrl.modules import MLP, RSSMPosterior, RSSMPrior, RSSMRollout, WorldModelWrapper
from torchrl.objectives import DreamerActorLoss, DreamerModelLoss, DreamerValueLoss
from torchrl.testing.networks import tanh_normal

S, BELIEF, OBS = 4, 8, 1
LATENT = ["state", "belief"]


def under_next(*names):
    return [("next", name) for name in names]


class Head(nn.Module):
    """Location and scale of an action."""

    def __init__(self, net):
        super().__init__()
        self.net, self.extract = net, NormalParamExtractor()

    def forward(self, *x):
        return self.extract(self.net(*x))


class Models:
    """A small world model, a policy and values."""

    def __init__(self, hidden=16):
        torch.manual_seed(0)
        size = S + BELIEF
        kw = {"hidden_dim": hidden, "state_dim": S, "rnn_hidden_dim": BELIEF}
        prior = RSSMPrior(action_dim=1, **kw)
        posterior = RSSMPosterior(obs_embed_dim=OBS, **kw)
        reward, decoder, value = (
            MLP(size, out, num_cells=[hidden], activation_class=nn.ELU) for out in (1, OBS, 1)
        )
        scan = RSSMRollout(
            TensorDictModule(
                prior,
                [*LATENT, "action"],
                [*under_next("prior_mean", "prior_std"), "_", ("next", "belief")],
            ),
            TensorDictModule(
                posterior,
                under_next("belief", "encoded_latents"),
                under_next("posterior_mean", "posterior_std", "state"),
            ),
        )
        self.model = TensorDictSequential(
            TensorDictModule(
                nn.Identity(), under_next("observation"), under_next("encoded_latents")
            ),
            scan,
            TensorDictModule(decoder, under_next(*LATENT), under_next("reco")),
            TensorDictModule(reward, under_next(*LATENT), under_next("reward")),
        )
        self.env = DreamerEnv(
            WorldModelWrapper(
                TensorDictModule(prior, [*LATENT, "action"], ["_", "_", *LATENT]),
                TensorDictModule(reward, LATENT, ["reward"]),
            ),
            [S],
            [BELIEF],
            obs_decoder=TensorDictModule(decoder, LATENT, ["reco"]),
        )
        self.env.action_spec = Bounded(-1, 1, (1,))
        head = Head(MLP(size, 2, num_cells=[hidden]))
        self.actor = ProbabilisticTensorDictSequential(
            TensorDictModule(head, LATENT, ["loc", "scale"]),
            ProbabilisticTensorDictModule(
                ["loc", "scale"], ["action"], distribution_class=tanh_normal
            ),
        )
        self.value = TensorDictModule(value, LATENT, ["state_value"])

    def losses(self, **kw):
        model = DreamerModelLoss(self.model, **kw)
        model.set_keys(pixels="observation", reco_pixels="reco")
        return (
            model,
            DreamerActorLoss(self.actor, self.value, self.env),
            DreamerValueLoss(self.value),
        )


def rows(batch=6, steps=5):
    """One number is seen all along; the reward is how near the action is to it."""
    goal = (torch.rand(batch, 1, 1) - 0.5).expand(batch, steps, 1)
    action = torch.rand(batch, steps, 1) * 2 - 1
    after = TensorDict(observation=goal, reward=-((action - goal) ** 2), batch_size=[batch, steps])
    return TensorDict(
        state=torch.zeros(batch, steps, S),
        belief=torch.zeros(batch, steps, BELIEF),
        action=action,
        next=after,
        batch_size=[batch, steps],
    )


@pytest.mark.parametrize("delayed", [False, True])
@pytest.mark.parametrize("average", [False, True])
def test_world_model(delayed, average):
    models, td = Models(), rows()
    loss, *_ = models.losses(
        lambda_kl=0.5,
        lambda_reward=2.0,
        free_nats=0.3,
        delayed_clamp=delayed,
        global_average=average,
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
    models, td = Models(), rows(2, 3)
    td["state"], td["belief"] = torch.randn(2, 3, S), torch.randn(2, 3, BELIEF)
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
