"""Q-learning against the papers, written by hand."""

import pytest
import torch
from torch import nn

from torchrl._core.errors import ShapeError
from torchrl.data import Categorical, OneHot
from torchrl.modules import QValueActor
from torchrl.objectives import DistributionalDQNLoss, DQNLoss, QRDQNLoss
from torchrl.objectives.dqn import project, quantile_huber
from torchrl.objectives.value.functional import td_lambda_return_estimate
from torchrl.testing.networks import distributional_q_network, q_network, quantile_q_network, transitions

ACTIONS = [1, 2, 17]


def apart(loss):
    """Move the network away from its target."""
    with torch.no_grad():
        for p in loss.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return loss


def raw(net):
    """The bare network of a tensordict module, as a function of the observation."""
    inner = net.module
    return inner if not isinstance(inner, nn.ModuleList) else inner[0].module


def assert_gradients(loss, got, want):
    parameters = list(loss.parameters())
    pairs = zip(torch.autograd.grad(got, parameters), torch.autograd.grad(want, parameters), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("delay", [False, True])
@pytest.mark.parametrize("weights", [False, True])
def test_dqn(actions, double, delay, weights):
    if double and not delay:
        with pytest.raises(ValueError, match=r"DQNLoss: cannot be double without a target network"):
            DQNLoss(q_network(), action_space="one_hot", double_dqn=True, delay_value=False)
        return
    net = QValueActor(q_network(actions), action_space="one_hot")
    loss = apart(DQNLoss(net, double_dqn=double, delay_value=delay, gamma=0.9))
    td = transitions(actions, discrete=True, batch=(32,))
    weight = torch.rand(32) if weights else torch.ones(32)
    if weights:
        td["priority_weight"] = weight.unsqueeze(-1)
    online, frozen = raw(loss.value_network), raw(loss.target("value_network"))
    taken = (online(td["observation"]) * td["action"]).sum(-1)
    after = td["next", "observation"]
    with torch.no_grad():
        chooser = online if double else frozen
        best = chooser(after).argmax(-1)
        ahead = frozen(after)[range(32), best]
        alive = 1 - td["next", "terminated"].squeeze(-1).float()
        target = td["next", "reward"].squeeze(-1) + 0.9 * alive * ahead
    expected = (weight * (taken - target) ** 2).mean()
    out = loss(td)["loss"]
    torch.testing.assert_close(out, expected)
    assert_gradients(loss, out, expected)
    torch.testing.assert_close(td["td_error"].squeeze(-1), ((taken - target) ** 2).detach())


def test_truncation_is_no_end():
    """What is done but not terminated bootstraps; without the flag, done ends the future."""
    net = q_network()
    loss = DQNLoss(net, action_space="one_hot", gamma=0.9)
    td = transitions(3, discrete=True)
    td["next", "done"][:] = True
    td["next", "terminated"][:] = False
    taken = (net.module(td["observation"]) * td["action"]).sum(-1)
    ahead = net.module(td["next", "observation"]).amax(-1)
    reward = td["next", "reward"].squeeze(-1)
    torch.testing.assert_close(loss(td)["loss"], ((taken - reward - 0.9 * ahead) ** 2).mean())
    bare = td.exclude(("next", "terminated"))
    torch.testing.assert_close(loss(bare)["loss"], ((taken - reward) ** 2).mean())


@pytest.mark.parametrize("spec", [OneHot(3), Categorical(3)], ids=lambda s: type(s).__name__)
def test_action_spaces(spec):
    td = transitions(3, discrete=True)
    expected = DQNLoss(net := q_network(), action_space="one_hot")(td)["loss"]
    if isinstance(spec, Categorical):
        td["action"] = td["action"].argmax(-1)
    torch.testing.assert_close(DQNLoss(net, action_space=spec)(td)["loss"], expected)
    torch.testing.assert_close(DQNLoss(QValueActor(net, spec=spec))(td)["loss"], expected)
    with pytest.raises(ValueError, match=r"DQNLoss: needs an action space"):
        DQNLoss(net)


LOSSES = {
    "dqn": lambda space: DQNLoss(q_network(), action_space=space),
    "c51": lambda space: DistributionalDQNLoss(distributional_q_network(), gamma=0.9, action_space=space),
    "quantiles": lambda space: QRDQNLoss(quantile_q_network(), action_space=space),
}


@pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES)
def test_actions_fit_the_values(make):
    td, index = transitions(3, discrete=True), torch.randint(3, (6,))
    loss = make("categorical")
    expected = loss(td.set("action", index))["loss"]
    assert loss(td.set("action", index.unsqueeze(-1)))["loss"] == expected
    for wrong in (nn.functional.one_hot(index, 3), torch.zeros(6, 2, 1), torch.zeros(5)):
        odd = td.exclude("action").auto_batch_size_(0).set("action", wrong.long())
        with pytest.raises(ShapeError, match=r"'categorical' does not fit.*expected \[6\], found"):
            loss(odd)
    with pytest.raises(ShapeError, match=r"'one_hot' does not fit.*expected \[6, 3\], found \[6\]"):
        make("one_hot")(td.set("action", index))


def test_masked_actions_are_no_targets():
    net = q_network()
    actor = QValueActor(net, action_space="one_hot", action_mask_key="mask")
    td = transitions(3, discrete=True)
    td["mask"] = torch.ones(6, 3, dtype=torch.bool)
    best = net.module(td["next", "observation"]).argmax(-1)
    td["next", "mask"] = ~nn.functional.one_hot(best, 3).bool()
    for double in (False, True):
        out = DQNLoss(actor, gamma=0.9, double_dqn=double)(td)["loss"]
        second = net.module(td["next", "observation"]).sort(-1).values[:, 1]
        alive = 1 - td["next", "terminated"].squeeze(-1).float()
        target = td["next", "reward"].squeeze(-1) + 0.9 * alive * second
        taken = (net.module(td["observation"]) * td["action"]).sum(-1)
        torch.testing.assert_close(out, ((taken - target.detach()) ** 2).mean())


def test_several_steps_in_one():
    net, steps = q_network(), torch.randint(1, 4, (6, 1))
    td = transitions(3, discrete=True).set("steps_to_next_obs", steps)
    loss = DQNLoss(net, action_space="one_hot", gamma=0.9)
    ahead = net.module(td["next", "observation"]).amax(-1, keepdim=True)
    target = td["next", "reward"] + 0.9**steps * ~td["next", "terminated"] * ahead
    taken = (net.module(td["observation"]) * td["action"]).sum(-1, keepdim=True)
    torch.testing.assert_close(loss(td)["loss"], ((taken - target) ** 2).mean())


def test_lambda_returns_over_trajectories():
    net = q_network()
    loss = DQNLoss(net, action_space="one_hot")
    loss.make_value_estimator("td_lambda", gamma=0.9, lmbda=0.8)
    td = transitions(3, discrete=True, batch=(2, 7))
    ahead = net.module(td["next", "observation"]).amax(-1, keepdim=True)
    ends = [td["next", key] for key in ("reward", "done", "terminated")]
    target = td_lambda_return_estimate(0.9, 0.8, ahead, *ends)
    taken = (net.module(td["observation"]) * td["action"]).sum(-1, keepdim=True)
    torch.testing.assert_close(loss(td)["loss"], ((taken - target) ** 2).mean())
    with pytest.raises(ValueError, match=r"cannot use this value estimator.*'td0'.*found gae"):
        loss.make_value_estimator("gae")


def slow_projection(p, atoms, support):
    """Algorithm 1 of the paper, atom by atom."""
    low, high, count = support[0].item(), support[-1].item(), len(support)
    step = (high - low) / (count - 1)
    out = torch.zeros(len(p), count)
    for row in range(len(p)):
        for j in range(count):
            b = (min(max(atoms[row, j].item(), low), high) - low) / step
            lower, upper = int(b + 1e-6), min(int(b + 1e-6) + 1, count - 1)
            share = b - lower
            out[row, lower] += p[row, j] * (1 - share)
            out[row, upper] += p[row, j] * share
    return out


def test_projection():
    support = torch.linspace(-3, 5, 9)
    p, atoms = torch.rand(20, 9).softmax(-1), 4 * torch.randn(20, 9)
    got = project(p, atoms, support)
    torch.testing.assert_close(got, slow_projection(p, atoms, support), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got.sum(-1), torch.ones(20))


@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("delay", [False, True])
@pytest.mark.parametrize("double", [False, True])
def test_c51(actions, delay, double):
    if double and not delay:
        pytest.skip("refused, see test_dqn")
    net = distributional_q_network(actions)
    loss = apart(DistributionalDQNLoss(net, gamma=0.9, delay_value=delay, double_dqn=double))
    td = transitions(actions, discrete=True, batch=(16,))
    support = torch.linspace(-2, 2, 5)
    online, frozen = (
        lambda o, n=n: raw(n.module[0])(o).log_softmax(-2) for n in (loss.value_network, loss.target("value_network"))
    )
    log_p = (online(td["observation"]) * td["action"].unsqueeze(-2)).sum(-1)
    with torch.no_grad():
        after = frozen(td["next", "observation"]).exp()
        scores = online(td["next", "observation"]).exp() if double else after
        best = (scores * support.unsqueeze(-1)).sum(-2).argmax(-1)
        p = after[range(16), :, best]
        alive = 1 - td["next", "terminated"].float()
        target = slow_projection(p, td["next", "reward"] + 0.9 * alive * support, support)
    expected = -(target * log_p).sum(-1)
    out = loss(td)["loss"]
    torch.testing.assert_close(out, expected.mean(), atol=1e-5, rtol=1e-5)
    assert_gradients(loss, out, expected.mean())
    torch.testing.assert_close(td["td_error"].squeeze(-1), expected.detach(), atol=1e-5, rtol=1e-5)


def slow_quantile_huber(quantiles, target, kappa):
    out = []
    for row, want in zip(quantiles, target, strict=True):
        total = 0
        for i, q in enumerate(row):
            tau = (i + 0.5) / len(row)
            for t in want:
                u = t - q
                huber = 0.5 * u**2 if u.abs() <= kappa else kappa * (u.abs() - 0.5 * kappa)
                total = total + abs(tau - float(u < 0)) * huber / kappa / len(want)
        out.append(total)
    return torch.stack(out)


def test_quantile_regression():
    quantiles, target = torch.randn(5, 4, requires_grad=True), torch.randn(5, 3)
    for kappa in (1.0, 0.3):
        got, want = (quantile_huber(quantiles, target, kappa), slow_quantile_huber(quantiles, target, kappa))
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(
            torch.autograd.grad(got.sum(), quantiles), torch.autograd.grad(want.sum(), quantiles)
        )
    absolute = quantile_huber(torch.tensor([[1.0]]), torch.tensor([[4.0]]), 0.0)
    assert absolute.item() == 1.5


@pytest.mark.parametrize("double", [False, True])
def test_qr_dqn(double):
    net = quantile_q_network()
    loss = apart(QRDQNLoss(net, action_space="one_hot", gamma=0.9, double_dqn=double))
    td = transitions(3, discrete=True)
    online, frozen = raw(loss.value_network), raw(loss.target("value_network"))
    quantiles = (online(td["observation"]) * td["action"].unsqueeze(-2)).sum(-1)
    with torch.no_grad():
        after = frozen(td["next", "observation"])
        scores = online(td["next", "observation"]) if double else after
        ahead = after[range(6), :, scores.mean(-2).argmax(-1)]
        alive = 1 - td["next", "terminated"].float()
        target = td["next", "reward"] + 0.9 * alive * ahead
    expected = slow_quantile_huber(quantiles, target, 1.0).mean()
    out = loss(td)["loss"]
    torch.testing.assert_close(out, expected)
    assert_gradients(loss, out, expected)


def test_keyword_arguments_of_another_generation():
    net = QValueActor(q_network(), action_space="one_hot")
    loss = DQNLoss(value_network=net, gamma=0.99, priority_key="my_error")
    td = transitions(3, discrete=True)
    assert loss(td)["loss"].requires_grad
    assert "my_error" in td
