"""Networks of tensors."""

import copy
import math

import pytest
import torch
from torch import nn

from torchrl._core.errors import ShapeError
from torchrl._core.exploration import set_exploration_type
from torchrl.modules import (
    MLP,
    BatchRenorm1d,
    Conv3dNet,
    ConvNet,
    MultiAgentMLP,
    NoisyLazyLinear,
    NoisyLinear,
    NormalParamWrapper,
    SquashDims,
    SqueezeLayer,
    reset_noise,
)


def layers(net):
    return [type(layer).__name__ for layer in net]


def test_mlp_without_width_or_depth_is_one_layer():
    net = MLP(3, 1)
    assert layers(net) == ["Linear"]
    assert net.depth == 0


def test_mlp_reads_widths_and_depth():
    assert [layer.out_features for layer in MLP(3, 4, num_cells=[32, 64])[::2]] == [32, 64, 4]
    assert [layer.out_features for layer in MLP(3, 4, depth=2)[::2]] == [32, 32, 4]
    assert [layer.out_features for layer in MLP(3, 4, depth=2, num_cells=8)[::2]] == [8, 8, 4]
    assert [layer.out_features for layer in MLP(3, 4, num_cells=8)[::2]] == [8, 4]


def test_mlp_order_of_a_hidden_layer():
    net = MLP(
        3,
        4,
        num_cells=[8, 16],
        activation_class=nn.ELU,
        activation_kwargs={"alpha": 0.5},
        dropout=0.25,
        norm_class=nn.LayerNorm,
        norm_kwargs=[{"normalized_shape": 8}, {"normalized_shape": 16}],
    )
    hidden = ["Linear", "Dropout", "LayerNorm", "ELU"]
    assert layers(net) == [*hidden, *hidden, "Linear"]
    assert net[3].alpha == 0.5
    assert net[1].p == 0.25


def test_mlp_activates_and_normalises_the_last_layer_if_asked():
    net = MLP(3, 4, depth=1, activate_last_layer=True, dropout=0.1)
    assert layers(net) == ["Linear", "Dropout", "Tanh"] * 2


def test_mlp_biases_of_the_last_layer():
    assert MLP(3, 4, bias_last_layer=False)[-1].bias is None
    net = MLP(3, 4, single_bias_last_layer=True)
    assert net[0].bias is None
    net[1].bias.data.fill_(2.0)
    torch.testing.assert_close(net(torch.zeros(5, 3)), torch.full((5, 4), 2.0))


def test_mlp_shapes():
    net = MLP(5, (2, 3), depth=1)
    assert net(torch.zeros(3), torch.zeros(2)).shape == (2, 3)
    assert net(torch.zeros(7, 6, 3), torch.zeros(7, 6, 2)).shape == (7, 6, 2, 3)


def test_mlp_infers_its_input():
    net = MLP(out_features=4, num_cells=[8])
    assert isinstance(net[0], nn.LazyLinear)
    assert net(torch.zeros(2, 7)).shape == (2, 4)
    assert net[0].in_features == 7
    noisy = MLP(out_features=4, num_cells=[8], layer_class=NoisyLinear)
    assert noisy(torch.zeros(2, 7)).shape == (2, 4)


def test_mlp_layer_class_and_kwargs():
    net = MLP(3, 4, depth=1, layer_class=NoisyLinear, layer_kwargs={"std_init": 0.25})
    assert {layer.std_init for layer in net if isinstance(layer, NoisyLinear)} == {0.25}


def test_mlp_old_name_of_the_activation():
    assert layers(MLP(3, 4, depth=1, activation=nn.ELU)) == ["Linear", "ELU", "Linear"]


def test_mlp_computes_what_its_layers_compute():
    net = MLP(3, 2, num_cells=[4])
    x = torch.randn(5, 3)
    hidden = (x @ net[0].weight.T + net[0].bias).tanh()
    torch.testing.assert_close(net(x), hidden @ net[2].weight.T + net[2].bias)


def test_what_mlp_refuses():
    with pytest.raises(ValueError, match="MLP: needs the size of its output: out_features"):
        MLP(3)
    with pytest.raises(ValueError, match=r"one element of 'num_cells'.*expected 3, found \[8\]"):
        MLP(3, 1, depth=3, num_cells=[8])
    with pytest.raises(ValueError, match="'norm_kwargs' for each layer; expected 1, found 2"):
        MLP(3, 1, depth=1, norm_class=nn.LayerNorm, norm_kwargs=[{}, {}])
    with pytest.raises(ValueError, match=r"cannot infer the input of Bilinear\. Give in_features"):
        MLP(out_features=1, layer_class=nn.Bilinear)


@pytest.mark.parametrize("batch", [(), (5,), (5, 4)], ids=str)
def test_conv_net_serves_any_batch_dimensions(batch):
    net = ConvNet(3, num_cells=[4, 8], kernel_sizes=[3, 5], strides=[2, 1], paddings=[1, 0])
    images = torch.randn(*batch, 3, 12, 12)
    out = net(images)
    assert out.shape == (*batch, 8 * 2 * 2)
    flat = images.reshape(-1, 3, 12, 12)
    expected = net[3](net[2](net[1](net[0](flat)))).flatten(1)
    torch.testing.assert_close(out.reshape(expected.shape), expected)


def test_conv_net_defaults():
    net = ConvNet()
    assert layers(net) == ["LazyConv2d", "ELU", "Conv2d", "ELU", "Conv2d", "ELU", "SquashDims"]
    assert net(torch.zeros(2, 3, 16, 16)).shape == (2, 32 * 10 * 10)
    assert ConvNet(3, depth=2).num_cells == [32, 32]
    with pytest.raises(ShapeError, match=r"ConvNet: reads images of 3 dim.*found \[64, 64\]"):
        net(torch.zeros(64, 64))
    assert ConvNet(3, kernel_sizes=[3, 3]).depth == 2


def test_conv_net_norm_bias_and_squeeze():
    net = ConvNet(
        3,
        num_cells=[4],
        kernel_sizes=6,
        norm_class=nn.BatchNorm2d,
        norm_kwargs={"num_features": 4},
        bias_last_layer=False,
        aggregator_class=None,
        squeeze_output=True,
    )
    assert layers(net) == ["Conv2d", "ELU", "BatchNorm2d", "Squeeze2dLayer"]
    assert net[0].bias is None
    assert net(torch.zeros(2, 5, 3, 6, 6)).shape == (2, 5, 4)
    pooled = ConvNet(3, num_cells=[4], aggregator_class=nn.AdaptiveAvgPool2d, aggregator_kwargs={"output_size": 2})
    assert pooled(torch.zeros(2, 3, 9, 9)).shape == (2, 4, 2, 2)


def test_conv3d_net():
    net = Conv3dNet(1, num_cells=[4], kernel_sizes=4, aggregator_class=None, squeeze_output=True)
    assert net(torch.zeros(2, 3, 1, 4, 4, 4)).shape == (2, 3, 4)
    assert Conv3dNet(num_cells=[4])(torch.zeros(1, 5, 5, 5)).shape == (4 * 27,)


@pytest.mark.parametrize("net", [MLP(3, 2, depth=1), ConvNet(3, num_cells=[4])], ids=["mlp", "conv"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes_and_compilation(net, dtype):
    net = net.to(dtype)
    x = torch.randn(5, 3, dtype=dtype) if isinstance(net, MLP) else torch.randn(2, 3, 8, 8).to(dtype)
    assert net(x).dtype is dtype
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), net(x))


def test_squash_and_squeeze():
    assert SquashDims(2)(torch.zeros(4, 3, 2)).shape == (4, 6)
    assert SqueezeLayer((-2,))(torch.zeros(4, 1, 2)).shape == (4, 2)
    with pytest.raises(ValueError, match="expected dims < 0"):
        SqueezeLayer((0,))


def test_normal_param_wrapper_splits_and_passes_on():
    net = NormalParamWrapper(nn.LSTM(3, 4), scale_mapping="exp", scale_lb=0.5)
    loc, scale, state = net(torch.zeros(2, 5, 3))
    assert loc.shape == scale.shape == (2, 5, 2)
    assert len(state) == 2
    assert (scale >= 0.5).all()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lazy", [True, False])
def test_noisy_linear_is_the_paper_s(bias, lazy):
    layer = NoisyLazyLinear(50, bias) if lazy else NoisyLinear(40, 50, bias)
    layer(torch.zeros(40))
    bound = 1 / math.sqrt(40)
    assert layer.weight_mu.shape == (50, 40)
    assert layer.weight_mu.abs().max() <= bound
    assert (layer.weight_sigma == 0.5 * bound).all()
    assert (layer.bias_mu is None) is not bias
    assert torch.linalg.matrix_rank(layer.weight_epsilon) == 1  # factorised
    x = torch.randn(7, 40)
    weight = layer.weight_mu + layer.weight_sigma * layer.weight_epsilon
    expected = x @ weight.T
    if bias:
        expected = expected + layer.bias_mu + layer.bias_sigma * layer.bias_epsilon
    torch.testing.assert_close(layer(x), expected)


def test_noise_has_the_paper_s_distribution():
    draws = []
    layer = NoisyLinear(1, 20_000)
    for _ in range(2):
        layer.reset_noise()
        draws.append(layer.bias_epsilon.clone())
    assert not draws[0].equal(draws[1])
    normal = draws[0].sign() * draws[0].square()  # the inverse of sgn(e) sqrt(|e|)
    assert abs(float(normal.mean())) < 0.03
    assert float(normal.std()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(("kind", "noisy"), [(None, True), ("random", True), ("mode", False), ("deterministic", False)])
def test_noise_follows_the_exploration_type(kind, noisy):
    layer, x = NoisyLinear(3, 4), torch.randn(3)
    with set_exploration_type(kind):
        assert layer.noise_is_on is noisy
        same = torch.allclose(layer(x), nn.functional.linear(x, layer.weight_mu, layer.bias_mu))
        assert same is not noisy


def test_noise_follows_training_if_asked():
    layer = NoisyLinear(3, 4, use_exploration_type=False)
    with set_exploration_type("mode"):
        assert layer.noise_is_on
        assert not layer.eval().noise_is_on


def test_reset_noise_of_a_whole_network():
    net = MLP(3, 1, depth=1, layer_class=NoisyLinear)
    before = [layer.weight_epsilon.clone() for layer in net if isinstance(layer, NoisyLinear)]
    net(torch.zeros(3))
    net.apply(reset_noise)
    after = [layer.weight_epsilon for layer in net if isinstance(layer, NoisyLinear)]
    assert all(not a.equal(b) for a, b in zip(before, after, strict=True))


def test_noise_scales_get_gradients():
    layer = NoisyLinear(3, 4)
    layer(torch.randn(5, 3)).square().sum().backward()
    assert all((p.grad != 0).any() for p in layer.parameters())


@pytest.mark.parametrize("kind", ["mlp", "conv", "agents"])
def test_activations_may_be_functions(kind):
    """A factory that returns a function of tensors, with arguments for each layer."""
    options = {
        "activation_class": lambda power=1: lambda x: x.abs() ** power,
        "activation_kwargs": [{"power": 2}, {"power": 0.5}],
    }
    if kind == "mlp":
        net, x = MLP(3, 2, num_cells=[4, 4], **options), torch.randn(5, 3)
    elif kind == "conv":
        net, x = ConvNet(3, num_cells=[4, 4], **options), torch.randn(5, 3, 8, 8)
    else:
        sizes = {"num_cells": [4, 4], "centralized": False, "share_params": False}
        net, x = MultiAgentMLP(3, 2, 2, **sizes, **options), torch.randn(5, 2, 3)
    assert net(x).isfinite().all()
    assert copy.deepcopy(net)(x).equal(net(x))
    if kind == "mlp":
        first, act, second, _, last = net
        h = first(x).square()
        torch.testing.assert_close(act(first(x)), h)
        torch.testing.assert_close(net(x), last(second(h).abs().sqrt()))


@pytest.mark.parametrize("kind", [ConvNet, Conv3dNet])
def test_depth_of_a_convolutional_network(kind):
    assert kind(3, num_cells=16, kernel_sizes=[3, 3]).depth == 2
    assert kind(3, num_cells=16, strides=[1, 1, 2], activation_kwargs=[{}, {}, {}]).depth == 3
    assert (kind(3).depth, kind(3, num_cells=[4]).depth, kind(3, 2, 16).depth) == (3, 1, 2)
    with pytest.raises(ValueError, match="has no depth"):
        kind(3, num_cells=16)


def test_the_network_of_the_atari_paper():
    net = ConvNet.default_atari_dqn(4)
    assert net(torch.zeros(2, 4, 84, 84)).shape == (2, 4)
    assert [layer.out_channels for layer in net.modules() if isinstance(layer, nn.Conv2d)] == [32, 64, 64]


@pytest.mark.parametrize("size", [2, 8, 100])
@pytest.mark.parametrize("steps", [0, 5])
def test_batch_renorm_keeps_the_statistics_of_batch_norm(size, steps):
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(3, momentum=0.3)
    renorm = BatchRenorm1d(3, momentum=0.3, warmup_steps=steps, max_r=1e4, max_d=1e4)
    for _ in range(10):
        x = 2 * torch.randn(size, 3) + 1
        norm(x), renorm(x)
    torch.testing.assert_close(renorm.running_var, norm.running_var)
    torch.testing.assert_close(renorm.eval()(x), norm.eval()(x))
