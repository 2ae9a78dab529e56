"""Networks of particular algorithms, and initial weights."""

import math

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from torchrl.modules import (
    MLP,
    BatchRenorm1d,
    DdpgCnnActor,
    DdpgCnnQNet,
    DdpgMlpActor,
    DdpgMlpQNet,
    DistributionalDQNnet,
    DuelingCnnDQNet,
    DuelingMlpDQNet,
    init_weights,
)

DUELING = {
    "vectors": (lambda: DuelingMlpDQNet(4, mlp_kwargs_feature={"in_features": 3}), (3,)),
    "images": (lambda: DuelingCnnDQNet(4), (3, 36, 36)),
}


@pytest.mark.parametrize(("make", "shape"), DUELING.values(), ids=DUELING)
def test_dueling_heads(make, shape):
    net = make()
    for batch in ((), (5,), (5, 2)):
        assert net(torch.zeros(*batch, *shape)).shape == (*batch, 4)
    x = torch.randn(5, *shape)
    hidden = net.features(x)
    torch.testing.assert_close(net(x).mean(-1, keepdim=True), net.value(hidden))
    advantage = net.advantage(hidden)
    torch.testing.assert_close(net(x) - net.value(hidden), advantage - advantage.mean(-1, True))


def test_dueling_arguments_replace_defaults():
    net = DuelingMlpDQNet(
        4,
        mlp_kwargs_feature={"num_cells": [7], "out_features": 9, "in_features": 3},
        mlp_kwargs_output={"num_cells": [5], "activation_class": nn.Tanh},
    )
    assert [layer.out_features for layer in net.features if isinstance(layer, nn.Linear)] == [7, 9]
    assert [type(layer) for layer in net.advantage] == [nn.Linear, nn.Tanh, nn.Linear]
    assert net.value[-1].out_features == 1
    images = DuelingCnnDQNet(4, cnn_kwargs={"num_cells": [8], "kernel_sizes": 3, "strides": 2})
    assert images(torch.zeros(2, 3, 9, 9)).shape == (2, 4)


def test_distributional_net_normalises_atoms():
    scores = torch.randn(6, 5, 2)
    td = DistributionalDQNnet(out_keys=["q"])(TensorDict(action_value=scores, batch_size=[6]))
    torch.testing.assert_close(td["q"], scores.log_softmax(-2))


DDPG = {
    "actor of vectors": (lambda: DdpgMlpActor(2), [(3,)], (2,), 3e-3),
    "critic of vectors": (lambda: DdpgMlpQNet(), [(3,), (2,)], (1,), 3e-3),
    "actor of images": (lambda: DdpgCnnActor(2), [(3, 20, 20)], (2,), 3e-4),
    "critic of images": (lambda: DdpgCnnQNet(), [(3, 20, 20), (2,)], (1,), 3e-4),
}


@pytest.mark.parametrize(("make", "shapes", "out", "bound"), DDPG.values(), ids=DDPG)
def test_ddpg_networks(make, shapes, out, bound):
    net = make()
    for batch in ((5,), (5, 2)):
        result = net(*(torch.randn(*batch, *shape) for shape in shapes))
        result = result[0] if isinstance(result, tuple) else result
        assert result.shape == (*batch, *out)
    last = [m for m in net.modules() if isinstance(m, nn.Linear)][-1]
    assert last.weight.abs().max() <= bound
    assert last.bias.abs().max() <= bound
    result.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_ddpg_widths_are_the_paper_s():
    net = DdpgMlpQNet()
    net(torch.zeros(3), torch.zeros(2))
    linear = [m for m in net.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(3, 400), (402, 300), (300, 1)]
    pooled = DdpgCnnActor(2, use_avg_pooling=True)
    assert pooled(torch.zeros(5, 3, 20, 20))[1].shape == (5, 32)


def test_orthogonal_weights():
    net = init_weights(MLP(6, 2, num_cells=[8, 8]), gain=1.5, last_gain=0.01, bias=0.1)
    first, second, last = (m for m in net if isinstance(m, nn.Linear))
    torch.testing.assert_close(first.weight.T @ first.weight, 1.5**2 * torch.eye(6))
    torch.testing.assert_close(second.weight @ second.weight.T, 1.5**2 * torch.eye(8))
    torch.testing.assert_close(last.weight @ last.weight.T, 0.01**2 * torch.eye(2))
    assert all((m.bias == 0.1).all() for m in (first, second, last))
    default = init_weights(nn.Conv2d(2, 3, 2))
    flat = default.weight.flatten(1)
    torch.testing.assert_close(flat @ flat.T, 2 * torch.eye(3))
    with pytest.raises(ValueError, match=r"LazyLinear without parameters\. Call the network once"):
        init_weights(MLP(out_features=2))


def test_batch_renorm_warms_up_as_batch_norm():
    ours, theirs = BatchRenorm1d(3), nn.BatchNorm1d(3, momentum=0.01)
    for _ in range(5):
        x = 2 * torch.randn(64, 3) + 1
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=2e-2, atol=2e-2)


def test_batch_renorm_corrects_by_its_definition():
    layer = BatchRenorm1d(2, warmup_steps=0, max_r=1.5, max_d=0.5, momentum=0.1)
    layer.running_mean.copy_(torch.tensor([0.2, -3.0]))
    layer.running_var.copy_(torch.tensor([1.5, 0.01]))
    before = layer.running_mean.clone(), (layer.running_var + 1e-5).sqrt()
    x = torch.randn(50, 2, requires_grad=True)
    mean, std = x.mean(0), (x.var(0, correction=0) + 1e-5).sqrt()
    r = (std / before[1]).clamp(1 / 1.5, 1.5).detach()
    d = ((mean - before[0]) / before[1]).clamp(-0.5, 0.5).detach()
    out = layer(x)
    torch.testing.assert_close(out, (x - mean) / std * r + d)
    torch.testing.assert_close(layer.running_mean, 0.9 * before[0] + 0.1 * mean.detach())
    grad = torch.autograd.grad(out[:, 0].square().sum(), x)[0]
    again = torch.autograd.grad((((x - mean) / std * r + d)[:, 0]).square().sum(), x)[0]
    torch.testing.assert_close(grad, again)


def test_batch_renorm_grows_smoothly_if_asked():
    shifts, x = [], torch.randn(100, 1) + 2
    for smooth in (True, False):
        layer = BatchRenorm1d(1, warmup_steps=4, smooth=smooth, momentum=0.0)
        shifts.append([float(layer(x).detach().mean()) for _ in range(6)])
    d = shifts[1][5]
    assert shifts[0] == pytest.approx([0, d / 4, d / 2, 3 * d / 4, d, d], abs=1e-4)
    assert shifts[1] == pytest.approx([0, 0, 0, 0, d, d], abs=1e-4)
    assert d > 1


def test_batch_renorm_of_sequences_compiles():
    layer = BatchRenorm1d(3)
    assert layer(torch.randn(5, 4, 3)).shape == (5, 4, 3)
    x = torch.randn(5, 3)
    layer.eval()
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), layer(x))
    assert math.isclose(float(BatchRenorm1d(1)(torch.ones(4, 1)).detach().sum()), 0.0, abs_tol=1e-6)
