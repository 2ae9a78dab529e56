"""DDPG and TD3 against the papers, written by hand."""

import pytest
import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

from tests.objectives.oracles import ACTIONS, GAMMA, apart, assert_same, data, huber, q_of, without_gradient
from torchrl.data import Bounded, Composite
from torchrl.objectives import DDPGLoss, REDQLoss, SACLoss, TD3BCLoss, TD3Loss
from torchrl.testing.networks import OBS, deterministic_actor, gaussian_actor, q_critic, transitions


@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize(
    ("delay_actor", "delay_value", "weights"), [(False, True, False), (True, True, True), (False, False, False)]
)
def test_ddpg(actions, delay_actor, delay_value, weights):
    loss = apart(
        DDPGLoss(
            deterministic_actor(actions),
            q_critic(actions),
            gamma=GAMMA,
            delay_actor=delay_actor,
            delay_value=delay_value,
        )
    )
    td, weight, reward, alive = data(actions, weights)
    obs, after = td["observation"], td["next", "observation"]
    pi, q = loss.actor_network.module, q_of(loss.value_network)
    with torch.no_grad():
        next_action = loss.target("actor_network").module(after)
        target = reward + GAMMA * alive * q_of(loss.target("value_network"))(after, next_action)
    predicted = q(obs, td["action"])
    expected = {
        "loss_actor": -without_gradient(loss.value_network)(obs, pi(obs)).mean(),
        "loss_value": (weight * (predicted - target) ** 2).mean(),
        "pred_value": predicted.mean().detach(),
        "target_value": target.mean(),
        "pred_value_max": predicted.max().detach(),
        "target_value_max": target.max(),
        "td_error": ((predicted - target) ** 2).mean().detach(),
    }
    assert_same(loss, td, expected)
    torch.testing.assert_close(td["td_error"], ((predicted - target) ** 2).detach())


def test_ddpg_with_done_alone():
    loss = DDPGLoss(deterministic_actor(), q_critic(), gamma=0.99)
    td = transitions()
    td["next", "done"] = td["next", "terminated"].clone()
    expected = loss(td)
    torch.testing.assert_close(loss(td.exclude(("next", "terminated"))), expected)


def test_separate_losses_spare_the_shared_trunk():
    trunk = TensorDictModule(nn.Linear(OBS, 4), ["observation"], ["hidden"])
    actor = TensorDictSequential(trunk, TensorDictModule(nn.Linear(4, 2), ["hidden"], ["action"]))

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(6, 1)

        def forward(self, *x):
            return self.net(torch.cat(x, -1))

    head = TensorDictModule(Head(), ["hidden", "action"], ["state_action_value"])
    for separate in (False, True):
        loss = DDPGLoss(actor, TensorDictSequential(trunk, head), separate_losses=separate)
        assert len(list(loss.parameters())) == 6
        loss.zero_grad()
        loss(transitions())["loss_value"].backward()
        assert (trunk.module.weight.grad is None) == separate
        assert head.module.net.weight.grad is not None


@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("delay", [False, True])
@pytest.mark.parametrize("behaviour", [False, True])
def test_td3(actions, delay, behaviour):
    low, high = torch.full((actions,), -0.5), torch.full((actions,), 1.5)
    make = TD3BCLoss if behaviour else TD3Loss
    loss = apart(
        make(
            deterministic_actor(actions),
            q_critic(actions),
            bounds=(low, high),
            gamma=GAMMA,
            delay_actor=delay,
            delay_qvalue=delay,
        )
    )
    td, weight, reward, alive = data(actions, weights=True)
    obs, after = td["observation"], td["next", "observation"]
    pi = loss.actor_network.module
    q1, q2 = (q_of(n) for n in loss.network("qvalue_network"))
    t1, t2 = (q_of(n) for n in loss.target("qvalue_network"))
    torch.manual_seed(0)
    with torch.no_grad():
        noise = (torch.randn(32, actions) * 0.2).clamp(-0.5, 0.5)
        smoothed = loss.target("actor_network").module(after) + noise
        smoothed = torch.max(torch.min(smoothed, high), low)
        ahead = torch.min(t1(after, smoothed), t2(after, smoothed))
        target = reward + GAMMA * alive * ahead
    errors = [q(obs, td["action"]) - target for q in (q1, q2)]
    value = without_gradient(loss.network("qvalue_network")[0])(obs, pi(obs))
    expected = {
        "loss_actor": -value.mean(),
        "loss_qvalue": (weight * (huber(errors[0]) + huber(errors[1]))).mean(),
        "next_state_value": ahead,
        "target_value": target,
        "state_action_value_actor": value.detach(),
    }
    if behaviour:
        weight = 2.5 / value.abs().mean().detach()
        distance = ((pi(obs) - td["action"]) ** 2).mean()
        expected["loss_actor"] = -weight * value.mean() + distance
        expected["lmbd"], expected["bc_loss"] = weight, distance.detach()
    out = assert_same(loss, td, expected)
    assert out["pred_value"].shape == (2, 32)
    largest = torch.stack(errors).abs().amax(0).detach()
    torch.testing.assert_close(td["td_error"], largest, atol=1e-5, rtol=1e-5)


def test_td3_needs_the_range_of_actions_once():
    spec = Bounded(-2.0, 3.0, (2,))
    for given in (spec, Composite(action=spec)):
        loss = TD3Loss(deterministic_actor(), q_critic(), action_spec=given)
        assert loss.action_low.tolist() == [-2, -2]
        assert loss.action_high.tolist() == [3, 3]
    message = r"TD3Loss: needs to know the range of the actions once.*found {}"
    with pytest.raises(TypeError, match=message.format("neither")):
        TD3Loss(deterministic_actor(), q_critic())
    with pytest.raises(TypeError, match=message.format("both")):
        TD3Loss(deterministic_actor(), q_critic(), action_spec=spec, bounds=(-1, 1))


def test_any_network_works():
    """Dropout, normalisation and in-place layers need no special care."""

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(
                nn.Linear(OBS + 2, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Linear(8, 1)
            )

        def forward(self, *x):
            return self.net(torch.cat(x, -1))

    q = TensorDictModule(Odd(), ["observation", "action"], ["state_action_value"])
    for loss in (
        SACLoss(gaussian_actor(), q),
        TD3Loss(deterministic_actor(), q, bounds=(-1, 1)),
        DDPGLoss(deterministic_actor(), q),
        REDQLoss(gaussian_actor(), q, num_qvalue_nets=3),
    ):
        loss(transitions(batch=(16,))).backward()
        assert all(p.grad is not None for p in loss.parameters())
