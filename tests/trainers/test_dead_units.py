"""The share of dead units is counted as defined, and logged."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn

from torchrl.modules import MLP, ConvNet
from torchrl.trainers import LogDeadUnits, dead_units


def killed(layer, units):
    """Return a layer whose first units are never positive."""
    with torch.no_grad():
        layer.weight[:units] = 0
        layer.bias[:units] = -1
    return layer


@pytest.mark.parametrize("units", [0, 3, 8])
def test_linear_layers(units):
    torch.manual_seed(0)
    second = nn.Linear(8, 8)
    nn.init.constant_(second.bias, 10.0)
    net = nn.Sequential(killed(nn.Linear(4, 8), units), nn.ReLU(), second, nn.ReLU(), nn.Linear(8, 2))
    assert dead_units(net, torch.randn(200, 4)) == pytest.approx(units / 16)
    assert dead_units(net, torch.randn(7, 30, 4)) == pytest.approx(units / 16)


def test_units_of_a_convolution_are_its_channels():
    net = nn.Sequential(killed(nn.Conv2d(1, 6, 3), 2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))
    net[0].bias.data[2:] = 5.0
    assert dead_units(net, torch.randn(5, 1, 8, 8)) == pytest.approx(2 / 6)


def test_networks_of_the_library_and_tensordicts():
    mlp = MLP(4, 2, num_cells=[8], activation_class=nn.ReLU)
    killed(mlp[0], 2)
    mlp[0].bias.data[2:] = 5.0
    actor = TensorDictModule(mlp, ["observation"], ["action"])
    batch = TensorDict(observation=torch.randn(50, 4), batch_size=[50])
    assert dead_units(actor, batch) == pytest.approx(2 / 8)
    assert set(batch.keys()) == {"observation"}
    assert 0 <= dead_units(ConvNet(1, num_cells=[4, 4], activation_class=nn.ReLU), torch.randn(3, 1, 32, 32)) <= 1


def test_small_units_are_dormant():
    layer = nn.Linear(1, 4)
    layer.weight.data[:] = torch.tensor([[1.0], [1.0], [1.0], [0.01]])
    nn.init.zeros_(layer.bias)
    net = nn.Sequential(layer, nn.ReLU())
    inputs = torch.rand(100, 1)
    assert dead_units(net, inputs) == 0
    assert dead_units(net, inputs, tau=0.025) == 0.25


def test_modes_hooks_and_statistics_stay():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5)).train()
    net[1].eval()
    mean = net[1].running_mean.clone()
    dead_units(net, torch.randn(6, 3))
    assert [part.training for part in net] == [True, False, True, True]
    assert torch.equal(net[1].running_mean, mean)
    assert not any(part._forward_hooks for part in net.modules())
    with pytest.raises(RuntimeError):
        dead_units(net, torch.randn(6, 5))
    assert not any(part._forward_hooks for part in net.modules())
    assert net[3].training


def test_without_activation_modules():
    with pytest.raises(ValueError, match="no activation function of Linear ran"):
        dead_units(nn.Linear(2, 2), torch.randn(3, 2))


def test_the_hook_logs_at_intervals():
    net = nn.Sequential(killed(nn.Linear(3, 4), 4), nn.ReLU())
    hook = LogDeadUnits(net, interval=3, logname="dead/actor", inputs=lambda batch: batch["observation"])
    batch = TensorDict(observation=torch.randn(5, 3), batch_size=[5])
    assert [hook(batch) for _ in range(4)] == [{"dead/actor": 1.0}, None, None, {"dead/actor": 1.0}]
    with pytest.raises(ValueError, match="interval >= 1, found 0"):
        LogDeadUnits(net, interval=0)
