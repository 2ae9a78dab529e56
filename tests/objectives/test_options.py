"""Options that several losses share, and calls of networks on flat records."""

import math

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictSequential,
)
from torch import nn

from tests.objectives.oracles import huber
from torchrl._core.records.policies import take
from torchrl.collectors import Collector
from torchrl.envs import GymEnv, TransformedEnv, gSDENoise
from torchrl.modules import ValueOperator, gSDEModule
from torchrl.objectives import (
    A2CLoss,
    BCLoss,
    ClipPPOLoss,
    DiscreteSACLoss,
    DreamerModelLoss,
    DreamerValueLoss,
    DTLoss,
    HardUpdate,
    KLPENPPOLoss,
    PPOLoss,
    REDQLoss,
    SACLoss,
    TD3Loss,
    TQCLoss,
)
from torchrl.objectives.distributions import distribution
from torchrl.testing.networks import (
    OBS,
    advantage_batch,
    critic,
    deterministic_actor,
    discrete_actor,
    gaussian_actor,
    independent_normal,
    q_critic,
    q_network,
    transitions,
)


def score(actor, td):
    loc, scale = actor[0].module(td["observation"])
    z = (td["action"] - loc) / scale
    return (-0.5 * z**2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


def moved(loss):
    with torch.no_grad():
        for p in loss.actor_network.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return loss


@pytest.mark.parametrize("actions", [1, 2, 17])
@pytest.mark.parametrize("kind", [PPOLoss, ClipPPOLoss, KLPENPPOLoss])
def test_ppo_near_a_delayed_policy(kind, actions):
    """Hilton et al., 2021: the ratio to the delayed policy, weighed by that to the data's."""
    actor, value = gaussian_actor(actions), critic()
    loss = moved(kind(actor, value, delay_actor=True))
    td = advantage_batch(actions, batch=(32,)).exclude("loc", "scale")
    td["action_log_prob"] = score(loss.target_actor_network, td) + 0.2 * torch.randn(32)
    now, near = score(actor, td), score(loss.target_actor_network, td)
    advantage = td["advantage"].squeeze(-1) * (near - td["action_log_prob"]).exp()
    ratio = (now - near).exp()
    gain = ratio * advantage
    if kind is ClipPPOLoss:
        gain = torch.minimum(gain, ratio.clamp(0.8, 1.2) * advantage)
    if kind is KLPENPPOLoss:
        (m0, s0), (m1, s1) = (net[0].module(td["observation"]) for net in (loss.target_actor_network, actor))
        kl = (s1 / s0).log() + (s0**2 + (m0 - m1) ** 2) / (2 * s1**2) - 0.5
        gain = gain - kl.sum(-1)
    out = loss(td)["loss_objective"]
    torch.testing.assert_close(out, -gain.mean(), atol=1e-5, rtol=1e-5)
    got = torch.autograd.grad(out, list(actor.parameters()))
    want = torch.autograd.grad(-gain.mean(), list(actor.parameters()))
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    HardUpdate(loss, value_network_update_interval=1).step()
    torch.testing.assert_close(score(loss.target_actor_network, td), now)


KINDS = {
    "sac": (lambda **kw: SACLoss(gaussian_actor(), q_critic(), **kw), False),
    "sac, first version": (lambda **kw: SACLoss(gaussian_actor(), q_critic(), critic(), **kw), False),
    "tqc": (lambda **kw: TQCLoss(gaussian_actor(), q_critic(2, 5), **kw), False),
    "discrete sac": (
        lambda **kw: DiscreteSACLoss(discrete_actor(), q_network(), action_space="one_hot", num_actions=3, **kw),
        True,
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_final_states_may_be_anything_if_they_are_skipped(name):
    make, discrete = KINDS[name]
    td = transitions(3 if discrete else 2, discrete=discrete)
    final = td["next", "terminated"].squeeze(-1)
    assert final.any()
    assert not final.all()
    plain, skipping = make(), make(skip_done_states=True)
    skipping.load_state_dict(plain.state_dict())
    spoilt = td.clone()
    spoilt["next", "observation"][final] = float("nan")
    assert skipping(spoilt)["loss_qvalue"].isfinite()
    if name in ("discrete sac", "sac, first version"):  # which draw nothing
        torch.testing.assert_close(skipping(td.clone())["loss_qvalue"], plain(td.clone())["loss_qvalue"])


def test_noise_of_the_data_is_not_asked_for():
    net = TensorDictModule(nn.Linear(OBS, 2), ["observation"], ["mu"])
    noise = TensorDictModule(
        gSDEModule(2, OBS), ["mu", "observation", "_eps_gSDE"], ["loc", "scale", "action", "_eps_gSDE"]
    )
    head = ProbabilisticTensorDictModule(["loc", "scale"], ["action"], distribution_class=independent_normal)
    actor = ProbabilisticTensorDictSequential(net, noise, head)
    loss = REDQLoss(actor, q_critic(), num_qvalue_nets=3, gSDE=True)
    assert not any("_eps_gSDE" in key for key in loss.in_keys)
    td = transitions()
    loss(td).backward()
    assert noise.module.log_sigma.grad is not None
    assert "_eps_gSDE" not in td
    with pytest.raises(TypeError, match=r"REDQLoss: got gSDE=True with a policy that has no gSDE"):
        REDQLoss(gaussian_actor(), q_critic(), gSDE=True)


class Q(nn.Linear):
    def forward(self, observation, action):
        return super().forward(torch.cat([observation, action], -1))


NOISY = {
    "ppo": lambda actor: ClipPPOLoss(actor, ValueOperator(nn.Linear(3, 1))),
    "a2c": lambda actor: A2CLoss(actor, ValueOperator(nn.Linear(3, 1))),
    "sac": lambda actor: SACLoss(actor, ValueOperator(Q(4, 1), in_keys=["observation", "action"])),
    "redq": lambda actor: REDQLoss(
        actor, ValueOperator(Q(4, 1), in_keys=["observation", "action"]), num_qvalue_nets=3, gSDE=True
    ),
}


@pytest.mark.parametrize("make", NOISY.values(), ids=NOISY)
def test_losses_learn_from_what_a_collector_keeps_of_state_dependent_exploration(make):
    noise = TensorDictModule(
        gSDEModule(1, 3), ["mu", "observation", "_eps_gSDE"], ["loc", "scale", "action", "_eps_gSDE"]
    )
    net = TensorDictModule(nn.Linear(3, 1), ["observation"], ["mu"])
    head = ProbabilisticTensorDictModule(
        ["loc", "scale"], ["action"], distribution_class=independent_normal, return_log_prob=True
    )
    actor = ProbabilisticTensorDictSequential(net, noise, head)
    env = TransformedEnv(GymEnv("Pendulum-v1"), gSDENoise(state_dim=3, action_dim=1))
    batch = next(iter(Collector(env, actor, frames_per_batch=20, total_frames=20)))
    assert "_eps_gSDE" not in batch  # private entries are dropped
    loss = make(actor)
    out = loss(batch)
    sum(value for name, value in out.items() if name.startswith("loss")).backward()
    assert noise.module.log_sigma.grad.abs().sum() > 0
    assert net.module.weight.grad.abs().sum() > 0


UNKNOWN_DISTANCES = {
    "ppo": lambda: ClipPPOLoss(discrete_actor(), critic(), loss_critic_type="huber"),
    "sac": lambda: SACLoss(gaussian_actor(), q_critic(), loss_function="huber"),
    "dt": lambda: DTLoss(deterministic_actor(), loss_function="huber"),
    "bc": lambda: BCLoss(deterministic_actor(), loss_function="huber"),
    "world": lambda: DreamerModelLoss(critic(), reward_loss="huber"),
    "dream": lambda: DreamerValueLoss(critic(), value_loss="huber"),
}


@pytest.mark.parametrize("make", UNKNOWN_DISTANCES.values(), ids=UNKNOWN_DISTANCES)
def test_unknown_distances_are_refused_at_once(make):
    match = r"Loss: got an unknown distance; expected one of \['l1', 'l2', 'smooth_l1'\], found 'hub"
    with pytest.raises(ValueError, match=match):
        make()


def test_scalars_of_unreduced_losses():
    def call(mode):
        torch.manual_seed(0)
        loss = SACLoss(gaussian_actor(), q_critic(), reduction="none", scalar_output_mode=mode)
        return loss(transitions())

    assert call(None)["alpha"].shape == ()
    assert set(call("exclude").keys()) == {"loss_actor", "loss_qvalue", "loss_alpha"}
    assert call("non_tensor")["alpha"] == 1.0
    with pytest.raises(ValueError, match=r"unknown scalar_output_mode.*'exclude'.*found 'drop'"):
        call("drop")


@pytest.mark.parametrize("loss_function", [None, "l2"])
def test_padding_of_cloned_behaviour(loss_function):
    actor = gaussian_actor()
    loss = BCLoss(actor, loss_function=loss_function)
    td = transitions()
    td["pad_mask"] = torch.tensor([0, 0, 1, 0, 1, 1]).bool()
    expected = loss(td[~td["pad_mask"]].exclude("pad_mask"))
    td["action"][td["pad_mask"]] = float("nan")
    torch.manual_seed(0)
    if loss_function is None:
        torch.testing.assert_close(loss(td)["loss_bc"], expected["loss_bc"])
    assert loss(td)["loss_bc"].isfinite()


def test_padding_within_a_sequence_of_actions():
    actor = TensorDictModule(nn.Sequential(nn.Linear(OBS, 8), nn.Unflatten(-1, (4, 2))), ["observation"], ["action"])
    td = transitions().set("action", torch.randn(6, 4, 2))
    pad = torch.rand(6, 4) < 0.5
    error = (actor.module(td["observation"]) - td["action"]).square().mean(-1)
    out = BCLoss(actor)(td.set("pad_mask", pad))["loss_bc"]
    torch.testing.assert_close(out, error[~pad].mean())


def test_choices_that_are_gone_are_taken_silently():
    TD3Loss(deterministic_actor(), q_critic(), bounds=(-1, 1), deactivate_vmap=True)
    A2CLoss(gaussian_actor(), critic(), functional=False)
    with pytest.raises(TypeError, match="deactivate_vmp"):
        TD3Loss(deterministic_actor(), q_critic(), bounds=(-1, 1), deactivate_vmp=True)


@pytest.mark.parametrize(
    "make", [lambda d: PPOLoss(gaussian_actor(), critic(), device=d), lambda d: DTLoss(deterministic_actor(), device=d)]
)
def test_losses_move_on_construction(make):
    loss = make("meta")
    tensors = [*loss.parameters(), *loss.buffers()]
    assert all(x.device.type == "meta" for x in tensors)


# networks are called on flat records where that is the same


class Doubled(TensorDictModule):
    """A module that does more than its network."""

    def forward(self, tensordict):
        out = super().forward(tensordict)
        return out.set("state_value", 2 * out["state_value"])


def test_calls_equal_the_ordinary_call():
    td = transitions()
    trunk = TensorDictModule(nn.Linear(OBS, 4), ["observation"], ["hidden"])
    deep = TensorDictSequential(trunk, TensorDictModule(nn.Linear(4, 1), ["hidden"], ["state_value"]))
    overridden = Doubled(nn.Linear(OBS, 1), ["observation"], ["state_value"])
    hooked = critic()
    hooked.register_forward_hook(lambda m, i, out: out.set("state_value", out["state_value"] + 1))
    for network in (critic(), deep, overridden, hooked):
        expected = network(td.copy())["state_value"]
        torch.testing.assert_close(take(network, td, "state_value"), expected)
        replaced = take(network, td, "state_value", {"observation": torch.zeros(6, OBS)})
        torch.testing.assert_close(replaced[0], replaced[1])
    assert "hidden" not in td
    actor = gaussian_actor()
    dist, expected = distribution(actor, td), actor.get_dist(td.copy())
    torch.testing.assert_close(dist.mean, expected.mean)
    torch.testing.assert_close(dist.stddev, expected.stddev)
    assert "loc" not in td


def test_values_after_an_end_may_be_anything():
    td = TensorDict(value=torch.zeros(3, 1), next=TensorDict(value=torch.tensor([[1.0], [float("nan")], [2.0]])))
    from torchrl.objectives.value.functional import generalized_advantage_estimate, td_lambda_return_estimate

    end = torch.tensor([[False], [True], [False]])
    args = (td["next", "value"], torch.ones(3, 1), end, end)
    advantage, _ = generalized_advantage_estimate(0.5, 0.5, td["value"], *args)
    torch.testing.assert_close(advantage.squeeze(-1), torch.tensor([1.75, 1.0, 2.0]))
    target = td_lambda_return_estimate(0.5, 1.0, *args).squeeze(-1)
    torch.testing.assert_close(target, torch.tensor([1.5, 1.0, 2.0]))
    assert huber(target).isfinite().all()
