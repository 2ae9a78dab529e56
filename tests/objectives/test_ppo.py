"""PPO and its variants against the formulas of the paper, written by hand."""

import math

import pytest
import torch
from tensordict.nn import (
    CompositeDistribution,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictSequential,
)
from torch import distributions as d
from torch import nn

from torchrl._core.errors import MissingKeyError, ShapeError
from torchrl._core.keys import leaf_keys
from torchrl.objectives import ClipPPOLoss, KLPENPPOLoss, PPOLoss
from torchrl.objectives.value import GAE
from torchrl.testing.networks import advantage_batch, critic, discrete_actor, gaussian_actor, tanh_normal, transitions


def by_hand(actor, critic, td, *, clip=None, entropy_coeff=0.01, critic_coeff=1.0, beta=None):
    """Losses of each sample, for a Gaussian policy."""
    loc, scale = actor[0].module(td["observation"])
    z = (td["action"] - loc) / scale
    log_prob = (-0.5 * z**2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)
    ratio = (log_prob - td["action_log_prob"]).exp()
    advantage = td["advantage"].squeeze(-1)
    gain = ratio * advantage
    if clip is not None:
        gain = torch.min(gain, ratio.clamp(1 - clip[0], 1 + clip[1]) * advantage)
    objective = -gain
    if beta is not None:
        kl = (scale / td["scale"]).log() + (td["scale"] ** 2 + (td["loc"] - loc) ** 2) / (2 * scale**2)
        objective = objective + beta * (kl - 0.5).sum(-1)
    entropy = (scale.log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)
    error = (critic.module(td["observation"]) - td["value_target"]).squeeze(-1)
    huber = torch.where(error.abs() < 1, 0.5 * error**2, error.abs() - 0.5)
    return {"loss_objective": objective, "loss_entropy": -entropy_coeff * entropy, "loss_critic": critic_coeff * huber}


def assert_same_values_and_gradients(loss, td, expected):
    out = loss(td.clone())
    parameters = list(loss.parameters())
    for name, samples in expected.items():
        torch.testing.assert_close(out[name], samples.mean(), atol=1e-5, rtol=1e-5)
    got = torch.autograd.grad(sum(out[name] for name in expected), parameters)
    want = torch.autograd.grad(sum(s.mean() for s in expected.values()), parameters)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("actions", [1, 2, 17])
@pytest.mark.parametrize("batch", [(64,), (4, 8), ()])
def test_ppo(actions, batch):
    actor, value = gaussian_actor(actions), critic()
    td = advantage_batch(actions, batch=batch)
    assert_same_values_and_gradients(PPOLoss(actor, value), td, by_hand(actor, value, td))


@pytest.mark.parametrize("actions", [1, 2, 17])
@pytest.mark.parametrize("epsilon", [0.2, (0.1, 0.4)])
def test_clip_ppo(actions, epsilon):
    actor, value = gaussian_actor(actions), critic()
    td = advantage_batch(actions, batch=(64,))
    pair = epsilon if isinstance(epsilon, tuple) else (epsilon, epsilon)
    loss = ClipPPOLoss(actor, value, clip_epsilon=epsilon, entropy_coeff=0.3, critic_coeff=0.5)
    expected = by_hand(actor, value, td, clip=pair, entropy_coeff=0.3, critic_coeff=0.5)
    assert_same_values_and_gradients(loss, td, expected)


@pytest.mark.parametrize("actions", [1, 2, 17])
def test_kl_ppo(actions):
    actor, value = gaussian_actor(actions), critic()
    td = advantage_batch(actions, batch=(64,))
    loss = KLPENPPOLoss(actor, value, beta=0.7)
    assert_same_values_and_gradients(loss, td, by_hand(actor, value, td, beta=0.7))


def test_kl_weight_follows_the_divergence():
    actor, value = gaussian_actor(), critic()
    td = advantage_batch()
    near = actor.get_dist_params(td.select("observation"))
    far = KLPENPPOLoss(actor, value, beta=1.0, dtarg=0.01)
    far(td)
    assert far.beta == 2.0
    td["loc"], td["scale"] = near["loc"].detach(), near["scale"].detach()
    close = KLPENPPOLoss(actor, value, beta=1.0, dtarg=0.01)
    close(td)
    assert close.beta == 0.5


def test_discrete_actions():
    actor, value = discrete_actor(), critic()
    td = advantage_batch(3, discrete=True)
    logits = actor[0].module(td["observation"]).log_softmax(-1)
    log_prob = (logits * td["action"]).sum(-1)
    gain = (log_prob - td["action_log_prob"]).exp() * td["advantage"].squeeze(-1)
    expected = {"loss_objective": -gain, "loss_entropy": 0.01 * (logits.exp() * logits).sum(-1)}
    out = PPOLoss(actor, value)(td)
    for name, samples in expected.items():
        torch.testing.assert_close(out[name], samples.mean())


def test_factors_that_are_not_summed_are_summed():
    """A bare Normal has a log-probability for each action."""
    actor, value = gaussian_actor(), critic()
    bare = ProbabilisticTensorDictSequential(
        actor[0], ProbabilisticTensorDictModule(["loc", "scale"], ["action"], distribution_class=d.Normal)
    )
    td = advantage_batch()
    expected = PPOLoss(actor, value)(td)
    td["action_log_prob"] = td["action_log_prob"].unsqueeze(-1).expand(-1, 2) / 2
    out = PPOLoss(bare, value)(td)
    for name in ("loss_objective", "loss_entropy", "entropy"):
        torch.testing.assert_close(out[name], expected[name])


def test_what_is_reported():
    actor, value = gaussian_actor(), critic()
    td = advantage_batch(batch=(64,))
    td["action_log_prob"] = actor.log_prob(td.copy()).detach() + 0.3 * torch.randn(64)
    ratio = (actor.log_prob(td.copy()) - td["action_log_prob"]).exp().detach()
    out = ClipPPOLoss(actor, value, clip_epsilon=0.2)(td)
    predicted, target = value.module(td["observation"]), td["value_target"]
    expected = {
        "kl_approx": (ratio - 1 - ratio.log()).mean(),
        "clip_fraction": ((ratio - 1).abs() > 0.2).float().mean(),
        "ESS": ratio.sum() ** 2 / (ratio**2).sum() / 64,
        "max_ratio": ratio.max(),
        "mean_ratio": ratio.mean(),
        "explained_variance": 1 - (target - predicted).var() / target.var(),
    }
    for name, number in expected.items():
        torch.testing.assert_close(out[name], number.detach(), msg=name)


def test_the_value_may_be_kept_near_that_of_the_data():
    actor, value = gaussian_actor(), critic()
    td = advantage_batch(batch=(64,))
    out = PPOLoss(actor, value, clip_value=0.2, loss_critic_type="l2")(td)
    new, old, target = value.module(td["observation"]), td["state_value"], td["value_target"]
    near = old + (new - old).clamp(-0.2, 0.2)
    expected = torch.maximum((new - target) ** 2, (near - target) ** 2)
    torch.testing.assert_close(out["loss_critic"], expected.mean())
    share = ((near - target) ** 2 > (new - target) ** 2).float().mean()
    torch.testing.assert_close(out["value_clip_fraction"], share)


def test_advantages_are_standardised_per_batch_and_without_padding():
    actor, value = gaussian_actor(), critic()
    td = advantage_batch(batch=(16,))
    advantage = td["advantage"]
    loss = PPOLoss(actor, value, normalize_advantage=True)
    plain = PPOLoss(actor, value)
    by_hand_td = td.clone().set("advantage", (advantage - advantage.mean()) / advantage.std())
    expected = plain(by_hand_td)["loss_objective"]
    torch.testing.assert_close(loss(td)["loss_objective"], expected)
    padding = td[:3].clone()
    padding["advantage"] = padding["advantage"] + 100
    padded = torch.cat([td, padding])
    padded["collector", "mask"] = torch.arange(19) < 16
    torch.testing.assert_close(loss(padded)["loss_objective"], expected)
    assert loss(td[0])["loss_objective"] == 0


def test_dimensions_with_their_own_standardisation():
    actor, value = gaussian_actor(), critic()
    td = advantage_batch(batch=(8, 2))
    loss = PPOLoss(actor, value, normalize_advantage=True, normalize_advantage_exclude_dims=(-2,))
    a = td["advantage"]
    by_hand_td = td.clone().set("advantage", (a - a.mean(0)) / a.std(0))
    torch.testing.assert_close(loss(td)["loss_objective"], PPOLoss(actor, value)(by_hand_td)["loss_objective"])


def test_a_limit_to_the_importance_weight():
    actor, value = gaussian_actor(), critic()
    td = advantage_batch(batch=(16,))
    td["action_log_prob"] = td["action_log_prob"] - 20
    out = PPOLoss(actor, value, max_importance_ratio=2.0)(td)
    torch.testing.assert_close(out["loss_objective"], -2 * td["advantage"].mean())


def test_entropy_without_closed_form_is_sampled():
    actor = gaussian_actor(2, tanh_normal)
    td = advantage_batch(batch=(2000,))
    td["observation"] = torch.ones_like(td["observation"])
    loss = PPOLoss(actor, critic(), samples_mc_entropy=50)
    dist = actor.get_dist(td[:1].copy())
    sample = dist.sample((100_000,))
    expected = -dist.log_prob(sample).mean()
    assert abs(loss(td)["entropy"] - expected.detach()) < 0.02


def composite_actor():
    spread = {"a": d.Normal, "b": d.OneHotCategorical}

    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, observation):
            loc, scale, logits = self.layer(observation).split([1, 1, 2], -1)
            return loc, scale.exp(), logits

    keys = [("params", "a", "loc"), ("params", "a", "scale"), ("params", "b", "logits")]
    return ProbabilisticTensorDictSequential(
        TensorDictModule(Heads(), ["observation"], keys),
        ProbabilisticTensorDictModule(
            in_keys=["params"],
            out_keys=["a", "b"],
            distribution_class=CompositeDistribution,
            distribution_kwargs={"distribution_map": spread},
            return_log_prob=True,
        ),
    )


def test_composite_policies():
    actor, value = composite_actor(), critic()
    td = advantage_batch()
    td = actor(td.exclude("action", "loc", "scale", "action_log_prob")).detach()
    assert "a_log_prob" in td
    coefficients = {"a": 0.1, "b": 0.2}
    out = PPOLoss(actor, value, entropy_coeff=coefficients)(td)
    loc, scale, logits = actor[0].module(td["observation"])
    entropies = {"a": d.Normal(loc, scale).entropy().sum(-1), "b": d.OneHotCategorical(logits=logits).entropy()}
    expected = -sum(coefficients[k] * entropies[k] for k in coefficients).mean()
    torch.testing.assert_close(out["loss_entropy"], expected)
    torch.testing.assert_close(out["kl_approx"], torch.tensor(0.0))
    torch.testing.assert_close(out["loss_objective"].detach(), -td["advantage"].mean())
    with pytest.raises(ValueError, match=r"does not name the heads of the policy.*'a', 'b'"):
        PPOLoss(actor, value, entropy_coeff={"a": 1.0})(td)


def test_without_an_advantage_the_loss_computes_it():
    actor, value = gaussian_actor(), critic()
    td = advantage_batch(batch=(4, 10))
    bare = td.exclude("advantage", "value_target", "state_value")
    keys = set(bare.keys(True, True))
    out = PPOLoss(actor, value, gamma=0.9, lmbda=0.8)(bare)
    assert set(bare.keys(True, True)) == keys
    GAE(gamma=0.9, lmbda=0.8, value_network=value)(td)
    torch.testing.assert_close(out, PPOLoss(actor, value)(td))


def test_what_an_advantage_is_made_of_may_come_by_keyword():
    loss = ClipPPOLoss(gaussian_actor(2), critic(), entropy_bonus=False)
    td = advantage_batch(2, batch=(6,))
    td = td.exclude("advantage", "value_target", "state_value", "loc", "scale")
    for old in (td, td.clone().rename_key_("action_log_prob", "sample_log_prob")):
        given = {key if isinstance(key, str) else "_".join(key): old[key] for key in leaf_keys(old)}
        expected = loss(old)
        for key, value in zip(loss.out_keys, loss(**given), strict=True):
            torch.testing.assert_close(value, expected[key])


def test_entries_without_a_dimension_for_the_reward_are_refused():
    loss, td = PPOLoss(gaussian_actor(2), critic()), advantage_batch(2, batch=(6,))
    flat = td.clone().set("advantage", td["advantage"].squeeze(-1))
    with pytest.raises(ShapeError, match=r"'advantage' .*expected \[6, 1\], found \[6\]"):
        loss(flat)
    flat = td.exclude("advantage").set(("next", "reward"), td["next", "reward"].squeeze(-1))
    with pytest.raises(ShapeError, match=r"'reward': \[6\].*unsqueeze"):
        loss(flat)


def test_without_an_advantage_and_the_means_for_it_the_loss_refuses():
    td = advantage_batch().exclude("advantage", ("next", "reward"))
    message = (
        r"ClipPPOLoss: entry 'advantage' is read but absent; expected one of the entries at hand, "
        r"found \[.*\]\. .*Run GAE on the batch first, or let the loss compute it, which needs "
        r"\[\('next', 'reward'\)\] too\."
    )
    with pytest.raises(MissingKeyError, match=message):
        ClipPPOLoss(gaussian_actor(), critic())(td)
    with pytest.raises(MissingKeyError, match=r"'advantage'.*Run GAE on the batch first\."):
        ClipPPOLoss(gaussian_actor())(td)
    with pytest.raises(MissingKeyError, match="'action' is read but absent"):
        ClipPPOLoss(gaussian_actor(), critic())(transitions().exclude("action"))


def test_old_spellings():
    """A script of another generation."""
    actor, value = gaussian_actor(), critic()
    td = advantage_batch()
    expected = ClipPPOLoss(actor, value, entropy_coeff=1e-4)(td)
    td = td.rename_key_("advantage", "adv").rename_key_("action_log_prob", "sample_log_prob")
    loss = ClipPPOLoss(
        actor=actor,
        critic=value,
        advantage_key="adv",
        clip_epsilon=0.2,
        entropy_bonus=True,
        entropy_coef=1e-4,
        value_target_key="value_target",
        critic_coef=1.0,
        gamma=0.99,
        loss_critic_type="smooth_l1",
    )
    torch.testing.assert_close(loss(td), expected)


def test_coefficients_are_buffers_that_can_be_set():
    loss = ClipPPOLoss(gaussian_actor(), critic())
    loss.clip_epsilon.copy_(0.1)
    loss.entropy_coeff = 0.5
    state = loss.state_dict()
    assert state["clip_epsilon"] == torch.tensor(0.1)
    assert state["entropy_coeff"] == torch.tensor(0.5)


def test_a_shared_trunk_is_trained_once_or_spared():
    trunk = nn.Linear(3, 4)
    hidden = TensorDictModule(trunk, ["observation"], ["hidden"])
    head = gaussian_actor()
    net = nn.Sequential(nn.Linear(4, 4), head[0].module[1])
    actor = ProbabilisticTensorDictSequential(hidden, TensorDictModule(net, ["hidden"], ["loc", "scale"]), head[1])
    value = TensorDictSequential(hidden, TensorDictModule(nn.Linear(4, 1), ["hidden"], ["state_value"]))
    td = advantage_batch()
    loss = PPOLoss(actor, value)
    assert len(list(loss.parameters())) == 6
    loss(td)["loss_critic"].backward()
    assert trunk.weight.grad is not None
    loss.zero_grad()
    PPOLoss(actor, value, separate_losses=True)(td)["loss_critic"].backward()
    assert trunk.weight.grad is None
    assert value[1].module.weight.grad is not None


def test_a_network_that_is_none_of_these_is_refused():
    with pytest.raises(TypeError, match=r"PPOLoss: got a critic_network without in_keys.*Wrap it"):
        PPOLoss(gaussian_actor(), nn.Linear(3, 1))
    with pytest.raises(TypeError, match=r"PPOLoss: got an actor_network without get_dist"):
        PPOLoss(critic(), critic())


def test_terminated_and_truncated_are_told_apart():
    """What the loss computes by itself bootstraps where the episode was only cut."""
    actor, value = gaussian_actor(), critic()
    td = transitions(batch=(1,)).unsqueeze(0)
    td["action_log_prob"] = torch.zeros(1, 1)
    losses = {}
    for name, terminated in {"terminated": True, "truncated": False}.items():
        flags = td.clone()
        flags["next", "done"] = torch.ones(1, 1, 1, dtype=torch.bool)
        flags["next", "terminated"] = torch.full((1, 1, 1), terminated)
        losses[name] = PPOLoss(actor, value, loss_critic_type="l2", gamma=0.9)(flags)["loss_critic"]
    now, after = value.module(td["observation"]), value.module(td["next", "observation"])
    reward = td["next", "reward"]
    torch.testing.assert_close(losses["terminated"], ((reward - now) ** 2).mean())
    torch.testing.assert_close(losses["truncated"], ((reward + 0.9 * after - now) ** 2).mean())
