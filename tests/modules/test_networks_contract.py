"""What every network of plain tensors must do."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from torchrl.modules import models
from torchrl.modules.models import (
    MLP,
    BatchRenorm1d,
    Conv3dNet,
    ConvNet,
    DdpgCnnActor,
    DdpgCnnQNet,
    DdpgMlpActor,
    DdpgMlpQNet,
    DreamerActor,
    DuelingCnnDQNet,
    DuelingMlpDQNet,
    LazygSDEModule,
    MultiAgentConvNet,
    MultiAgentMLP,
    NoisyLazyLinear,
    NoisyLinear,
    ObsDecoder,
    ObsEncoder,
    QMixer,
    RSSMPosterior,
    RSSMPrior,
    SquashDims,
    Squeeze2dLayer,
    SqueezeLayer,
    VDNMixer,
    gSDEModule,
)

SMALL = {"num_cells": [4, 4], "kernel_sizes": 3, "strides": 1}
TINY = {"num_cells": [8]}


@dataclass
class Net:
    """A network, the features ``[*F]`` of what it takes, and of the first thing it returns."""

    make: Callable[[], nn.Module]
    takes: tuple
    gives: tuple
    batches: tuple = ((), (3,), (3, 2))


NETS = {
    "MLP": Net(lambda: MLP(3, 2, num_cells=[8]), ((3,),), (2,)),
    "lazy MLP of two inputs": Net(lambda: MLP(out_features=(2, 2)), ((3,), (4,)), (2, 2)),
    "ConvNet": Net(lambda: ConvNet(3, **SMALL), ((3, 8, 8),), (64,)),
    "lazy ConvNet": Net(lambda: ConvNet(**SMALL), ((3, 8, 8),), (64,)),
    "Conv3dNet": Net(lambda: Conv3dNet(2, num_cells=[4]), ((2, 5, 5, 5),), (108,)),
    "SquashDims": Net(SquashDims, ((2, 3, 4),), (24,)),
    "SqueezeLayer": Net(SqueezeLayer, ((3, 1),), (3,)),
    "Squeeze2dLayer": Net(Squeeze2dLayer, ((3, 1, 1),), (3,)),
    "DuelingMlpDQNet": Net(lambda: DuelingMlpDQNet(4), ((3,),), (4,)),
    "DuelingCnnDQNet": Net(lambda: DuelingCnnDQNet(4, cnn_kwargs=SMALL, mlp_kwargs=TINY), ((3, 8, 8),), (4,)),
    "DdpgMlpActor": Net(lambda: DdpgMlpActor(2), ((3,),), (2,)),
    "DdpgMlpQNet": Net(DdpgMlpQNet, ((3,), (2,)), (1,)),
    "DdpgCnnActor": Net(lambda: DdpgCnnActor(2, conv_net_kwargs=SMALL, mlp_net_kwargs=TINY), ((3, 8, 8),), (2,)),
    "DdpgCnnQNet": Net(lambda: DdpgCnnQNet(conv_net_kwargs=SMALL, mlp_net_kwargs=TINY), ((3, 8, 8), (2,)), (1,)),
    "NoisyLinear": Net(lambda: NoisyLinear(3, 2), ((3,),), (2,)),
    "NoisyLazyLinear": Net(lambda: NoisyLazyLinear(2), ((3,),), (2,)),
    "BatchRenorm1d": Net(lambda: BatchRenorm1d(3), ((3,),), (3,), ((5,), (5, 2))),
    "MultiAgentMLP": Net(
        lambda: MultiAgentMLP(3, 2, 2, centralized=False, share_params=False, depth=1), ((2, 3),), (2, 2)
    ),
    "MultiAgentConvNet": Net(
        lambda: MultiAgentConvNet(2, False, True, num_cells=[4], kernel_sizes=3), ((2, 3, 8, 8),), (2, 36)
    ),
    "QMixer": Net(lambda: QMixer((4,), 8, 2, "cpu"), ((2, 1), (4,)), (1,)),
    "VDNMixer": Net(lambda: VDNMixer(2, "cpu"), ((2, 1),), (1,)),
    "DreamerActor": Net(lambda: DreamerActor(2, 1, 8), ((5,), (6,)), (2,)),
    "RSSMPrior": Net(
        lambda: RSSMPrior(hidden_dim=8, rnn_hidden_dim=6, state_dim=5, action_dim=2), ((5,), (6,), (2,)), (5,)
    ),
    "RSSMPosterior": Net(lambda: RSSMPosterior(8, 5), ((6,), (7,)), (5,)),
    "ObsEncoder": Net(lambda: ObsEncoder(4), ((3, 64, 64),), (128,), ((), (2,), (2, 1))),
    "ObsDecoder": Net(lambda: ObsDecoder(4), ((5,), (6,)), (3, 64, 64), ((), (2,), (2, 1))),
    "gSDEModule": Net(lambda: gSDEModule(2, 3), ((2,), (3,)), (2,)),
    "LazygSDEModule": Net(LazygSDEModule, ((2,), (3,)), (2,)),
}
# What takes more than tensors of any batch size has its contract by itself.
ELSEWHERE = {
    "ConsistentDropout": "test_dropout_gsde.py",
    "ConsistentDropoutModule": "test_dropout_gsde.py",
    "DTActor": "test_decision_transformer.py",
    "DecisionTransformer": "test_decision_transformer.py",
    "DistributionalDQNnet": "test_models_rl.py",
    "Mixer": "a base",
    "MultiAgentNetBase": "a base",
    "OnlineDTActor": "test_decision_transformer.py",
    "RSSMRollout": "test_model_based.py",
}


@pytest.fixture(params=NETS.values(), ids=NETS)
def net(request):
    return request.param


def inputs(net, batch, dtype=torch.float32):
    return [torch.randn(*batch, *shape).to(dtype) for shape in net.takes]


def made(net):
    network = net.make()
    network(*inputs(net, net.batches[-1]))  # so that lazy parameters exist
    return network


def first(out):
    return out[0] if isinstance(out, tuple) else out


def test_every_public_network_is_listed():
    public = {
        name
        for name in models.__all__
        if isinstance(kind := getattr(models, name), type) and issubclass(kind, nn.Module)
    }
    listed = {type(net.make()).__name__ for net in NETS.values()} | set(ELSEWHERE)
    assert public == listed


def test_any_batch_dimensions(net):
    network = made(net).eval()
    for batch in net.batches:
        args = inputs(net, batch)
        out = first(network(*args))
        assert out.shape == (*batch, *net.gives)
        rows = [arg.reshape(-1, *shape) for arg, shape in zip(args, net.takes, strict=True)]
        alike = first(network(*rows))
        torch.testing.assert_close(out.reshape(alike.shape), alike, rtol=1e-4, atol=1e-5)


def test_every_parameter_gets_a_gradient(net):
    network = made(net)
    network.zero_grad()
    out = network(*inputs(net, net.batches[-1]))
    total = sum(part.sum() for part in (out if isinstance(out, tuple) else (out,)))
    if not list(network.parameters()):
        return
    total.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(net, dtype):
    network = made(net).to(dtype)
    out = first(network(*inputs(net, net.batches[-1], dtype)))
    assert out.dtype is dtype
    assert out.isfinite().all()


def test_state_dict(net):
    one, other, args = made(net), made(net), inputs(net, net.batches[-1])
    other.load_state_dict(one.state_dict())
    found = []
    for network in (one.eval(), other.eval()):
        torch.manual_seed(0)
        found.append(first(network(*args)))
    assert torch.equal(*found)


def test_compiles_without_graph_breaks(net):
    torch._dynamo.reset()  # what was compiled before counts against its limit
    network, args = made(net).eval(), inputs(net, net.batches[-1])
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    found = []
    for run in (network, compiled):
        torch.manual_seed(0)
        found.append(first(run(*args)))
    torch.testing.assert_close(found[1], found[0])
