"""Freezing, copying and multiplying networks; merging optimisers."""

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from torchrl.objectives import group_optimizers, hold_out_net, hold_out_params
from torchrl.objectives.networks import copies, frozen, frozen_copy
from torchrl.testing.networks import critic


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(2, 3, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0]


NETS = {
    "linear": lambda: nn.Linear(2, 3),
    "lstm": Recurrent,
    "norm": lambda: nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)),
    "spectral": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(2, 3)),
}


@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
def test_gradients_pass_a_frozen_network_but_do_not_reach_it(make):
    net, x = make(), torch.randn(4, 5, 2, requires_grad=True)
    expected = torch.autograd.grad(net.eval()(x).sum(), x)[0]
    with frozen(net):
        out = net(x)
    out.sum().backward()
    torch.testing.assert_close(x.grad, expected)
    assert all(p.grad is None for p in net.parameters())
    assert all(isinstance(p, nn.Parameter) for p in net.parameters())
    net(x).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_only_some_parameters_frozen():
    net = nn.Linear(2, 3)
    with frozen(net, only={id(net.bias)}):
        net(torch.ones(2)).sum().backward()
    assert net.bias.grad is None
    assert net.weight.grad is not None


@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
def test_a_frozen_copy_computes_the_same_and_has_no_parameters(make):
    net, x = make().eval(), torch.randn(4, 5, 2)
    twin = frozen_copy(net)
    torch.testing.assert_close(twin(x), net(x))
    assert not list(twin.parameters())
    assert not twin(x).requires_grad
    with torch.no_grad():
        for p in net.parameters():
            p.add_(1)
    assert not torch.allclose(twin(x), net(x))
    assert not torch.allclose(twin.double()(x.double()).float(), net(x))


def test_copies_are_drawn_like_the_original():
    net = nn.Linear(30, 30)
    nn.init.zeros_(net.bias)
    nn.init.normal_(net.weight, 3.0, 0.1)
    first, *others = copies(net, 3)
    assert first is net
    for other in others:
        assert (other.bias == 0).all()
        assert (other.weight != net.weight).any()
        torch.testing.assert_close(other.weight.sort().values.mean(), net.weight.mean())
        torch.testing.assert_close(other.weight.std(), net.weight.std())
    assert (others[0].weight != others[1].weight).any()


def test_a_network_held_out_learns_nothing():
    net = critic()
    net.module.net[0].bias.requires_grad_(False)
    with hold_out_net(net):
        assert not net(TensorDict(observation=torch.ones(3)))["state_value"].requires_grad
    wanted = [p.requires_grad for p in net.parameters()]
    assert wanted == [True, False, True, True]
    with hold_out_params(TensorDict.from_module(net)) as params:
        assert not any(p.requires_grad for p in params.values(True, True))


def test_optimizers_merge_with_their_state():
    nets = nn.Linear(1, 1), nn.Linear(1, 1)
    optimizers = [torch.optim.Adam(n.parameters(), lr) for n, lr in zip(nets, (0.1, 0.2), strict=True)]
    for net, optimizer in zip(nets, optimizers, strict=True):
        net(torch.ones(1)).backward()
        optimizer.step()
    merged = group_optimizers(*optimizers)
    assert [g["lr"] for g in merged.param_groups] == [0.1, 0.2]
    assert all(merged.state[p]["step"] == 1 for n in nets for p in n.parameters())
    with pytest.raises(TypeError, match=r"several classes; expected Adam, found \['Adam', 'SGD'\]"):
        group_optimizers(optimizers[0], torch.optim.SGD(nets[1].parameters(), 0.1))
