"""GAIL, RND, adaptive learning rates and one-step targets, by hand."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn

from torchrl.objectives import GAILLoss, KLAdaptiveLR, RNDLoss, next_state_value
from torchrl.testing.networks import Concat, critic, transitions


def batch(actions):
    td, other = transitions(actions, batch=(32,)), transitions(actions, batch=(32,), seed=1)
    td["collector_observation"], td["collector_action"] = other["observation"], other["action"]
    return td


def gradients(value, module):
    return torch.autograd.grad(value, list(module.parameters()))


@pytest.mark.parametrize("actions", [1, 2, 17])
@pytest.mark.parametrize("penalty", [False, True])
def test_gail(actions, penalty):
    net = TensorDictModule(Concat(3 + actions), ["observation", "action"], ["d_logits"])
    td = batch(actions)
    loss = GAILLoss(net, use_grad_penalty=penalty, gp_lambda=3.0)
    torch.manual_seed(0)
    expert = torch.cat([td["observation"], td["action"]], -1)
    policy = torch.cat([td["collector_observation"], td["collector_action"]], -1)
    d = lambda x: net.module(x).squeeze(-1).sigmoid()
    expected = -(d(expert).log() + (1 - d(policy)).log()).mean()
    if penalty:
        share = torch.rand(32).unsqueeze(-1)
        point = (share * expert + (1 - share) * policy).requires_grad_()
        slope = torch.autograd.grad(net.module(point).sum(), point, create_graph=True)[0]
        extra = 3.0 * ((slope.norm(dim=-1) - 1) ** 2).mean()
        expected = expected + extra
    torch.manual_seed(0)
    out = loss(td)
    torch.testing.assert_close(out["loss"], expected, atol=1e-5, rtol=1e-5)
    pairs = zip(gradients(out["loss"], net), gradients(expected, net), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    if penalty:
        torch.testing.assert_close(out["gp_loss"], extra.detach())


def features():
    return TensorDictModule(Concat(3, 4), ["observation"], ["features"])


@pytest.mark.parametrize("fraction", [0.25, 1.0])
def test_rnd(fraction):
    predictor, random = features(), features()
    td = transitions(batch=(64,))
    scale = lambda x: 10 * x
    loss = RNDLoss(predictor, random, obs_rms=scale, obs_clip=2.0, update_fraction=fraction)
    seen = (10 * td["next", "observation"]).clamp(-2, 2)
    error = ((predictor.module(seen) - random.module(seen).detach()) ** 2).mean(-1)
    torch.manual_seed(0)
    counts = torch.rand(64) < fraction if fraction < 1 else torch.ones(64, dtype=torch.bool)
    expected = error[counts].mean()
    torch.manual_seed(0)
    out = loss(td)["loss_predictor"]
    torch.testing.assert_close(out, expected)
    pairs = zip(gradients(out, predictor), gradients(expected, predictor), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other)
    assert {id(p) for p in loss.parameters()} == {id(p) for p in predictor.parameters()}


def test_rnd_refuses_an_impossible_fraction():
    with pytest.raises(ValueError, match=r"RNDLoss: got an update_fraction that is none.*found 0"):
        RNDLoss(features(), features(), update_fraction=0.0)


def test_learning_rate_follows_the_divergence():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    schedule = KLAdaptiveLR(optimizer, 0.01, factor=2.0, min_lr=4e-4, max_lr=1.5e-3)
    rate = lambda: optimizer.param_groups[0]["lr"]
    for kl, expected in ((0.01, 1e-3), (torch.tensor(0.03), 5e-4), (0.03, 4e-4), (0.001, 8e-4), (0.001, 1.5e-3)):
        schedule.step(kl)
        assert rate() == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"KLAdaptiveLR.*expected factor > 1"):
        KLAdaptiveLR(optimizer, 0.01, factor=0.5)


def test_next_state_value():
    td = transitions()
    value = critic()
    steps = torch.randint(1, 4, (6, 1))
    ahead = value.module(td["next", "observation"])
    alive = ~td["next", "terminated"]
    expected = td["next", "reward"] + 0.9 * alive * ahead
    got = next_state_value(td, value, "state_value", gamma=0.9)
    torch.testing.assert_close(got, expected.squeeze(-1).detach())
    td["steps_to_next_obs"] = steps
    expected = td["next", "reward"] + 0.9**steps * alive * ahead
    got = next_state_value(td, gamma=0.9, pred_next_val=ahead)
    torch.testing.assert_close(got, expected.squeeze(-1).detach())
    assert not got.requires_grad
    with pytest.raises(TypeError, match=r"next_state_value: needs the next values once.*neither"):
        next_state_value(td)


def test_a_discriminator_learns_to_tell():
    net = TensorDictModule(nn.Bilinear(1, 1, 1), ["observation", "action"], ["d_logits"])
    loss = GAILLoss(net)
    one = torch.ones(8, 1)
    td = TensorDict(observation=one, action=one, collector_observation=one, collector_action=-one, batch_size=8)
    optimizer = torch.optim.Adam(loss.parameters(), 0.1)
    for _ in range(50):
        loss(td).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert net.module(one, one).min() > 1
    assert net.module(one, -one).max() < -1
