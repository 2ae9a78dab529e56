"""Networks called without the cost of a call: the same numbers, and every hook is heard."""

from __future__ import annotations

import runpy
from collections.abc import Callable

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from torchrl._core.records import torch_private as direct
from torchrl._core.records.policies import compile_policy
from torchrl._core.records.torch_private import call, call_in_turn, is_intercepted
from torchrl.modules import MLP, Actor, NoisyLinear


def network() -> nn.Sequential:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(8, 8, bias=False), nn.LayerNorm(8), nn.ELU())
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), inner, NoisyLinear(8, 3), nn.Softmax(-1))


def ordinary(layers: nn.Sequential, value: Tensor) -> Tensor:
    for layer in layers:
        value = layer(value)
    return value


@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
def test_values_and_gradients_are_those_of_the_ordinary_call(batch: tuple[int, ...]) -> None:
    net, mlp = network(), MLP(4, 3, num_cells=[8, 8])
    value = torch.randn(*batch, 4, requires_grad=True)
    for made, expected in (
        (call(net, value), ordinary(net, value)),
        (call_in_turn(net, value), ordinary(net, value)),
        (mlp(value), ordinary(mlp, value)),
    ):
        assert torch.equal(made, expected)
        weights = torch.randn_like(made)
        grads = [torch.autograd.grad((out * weights).sum(), value) for out in (made, expected)]
        assert torch.equal(*[grad[0] for grad in grads])


def test_functions_and_networks_of_several_inputs_are_called_as_they_are() -> None:
    assert call(lambda a, b: a + b, 1, 2) == 3
    bilinear, a, b = nn.Bilinear(2, 3, 4), torch.randn(5, 2), torch.randn(5, 3)
    assert torch.equal(call(bilinear, a, b), bilinear(a, b))
    assert call(network().eval(), torch.zeros(4)).shape == (3,)


HOOKS: dict[str, Callable[[nn.Module, list], object]] = {
    "forward": lambda m, heard: m.register_forward_hook(lambda *_: heard.append(1)),
    "before": lambda m, heard: m.register_forward_pre_hook(lambda *_: heard.append(1)),
    "backward": lambda m, heard: m.register_full_backward_hook(lambda *_: heard.append(1)),
    "before backward": lambda m, heard: m.register_full_backward_pre_hook(lambda *_: heard.append(1)),
}


@pytest.mark.parametrize("where", [[], [0], [1], [2], [2, 0], [3]], ids=str)
@pytest.mark.parametrize("kind", HOOKS)
def test_hooks_are_heard_once(kind: str, where: list[int]) -> None:
    whole = network()
    target: nn.Module = whole
    for at in where:
        target = target[at]  # type: ignore[index]
    heard: list[int] = []
    HOOKS[kind](target, heard)
    call(whole, torch.randn(4, requires_grad=True)).sum().backward()
    assert heard == [1]


def test_hooks_on_all_modules_are_heard() -> None:
    heard: list[type] = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, *_: heard.append(type(m)))
    try:
        MLP(4, 2, num_cells=[3])(torch.zeros(4))
    finally:
        handle.remove()
    assert heard == [nn.Linear, nn.Tanh, nn.Linear, MLP]


def test_a_hook_inside_a_planned_policy_is_heard() -> None:
    net, heard = MLP(4, 2, num_cells=[3]), []
    policy = Actor(net)
    assert compile_policy(policy) is not None
    net[1].register_forward_hook(lambda *_: heard.append(1))  # after the first plan, too
    policy(TensorDict(observation=torch.zeros(4)))
    assert heard == [1]


def test_a_forward_of_its_own_counts() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    net[0].forward = torch.zeros_like  # type: ignore[method-assign]
    assert call(net, torch.ones(2)).tolist() == [0, 0]


def test_a_call_of_its_own_counts() -> None:
    class Doubled(nn.Linear):
        def __call__(self, value: Tensor) -> Tensor:
            return 2 * super().__call__(value)

    layer = Doubled(2, 2)
    plain = nn.Linear.forward(layer, torch.ones(2))
    assert torch.equal(call(nn.Sequential(layer), torch.ones(2)), 2 * plain)


@pytest.mark.parametrize("kind", [nn.Linear, nn.Sequential])
def test_a_forward_replaced_for_a_whole_class_counts(kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    net, value = network(), torch.randn(4)
    was, before = kind.forward, net(value)
    monkeypatch.setattr(kind, "forward", lambda self, x: was(self, x) + 1)
    assert torch.equal(call(net, value), net(value))
    assert not torch.equal(net(value), before)


def test_a_linear_function_replaced_in_torch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.functional, "linear", lambda value, *_: 0 * value)
    assert call(nn.Sequential(nn.Linear(2, 2)), torch.ones(2)).tolist() == [0, 0]


def test_a_call_replaced_before_the_import_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[type] = []

    def spied(self: nn.Module, *args: Tensor) -> Tensor:
        heard.append(type(self))
        return self._call_impl(*args)

    monkeypatch.setattr(nn.Module, "__call__", spied)
    runpy.run_path(direct.__file__)["call"](nn.Sequential(nn.Tanh()), torch.ones(2))
    assert heard == [nn.Sequential, nn.Tanh]


def test_a_profiler_listens() -> None:
    assert not is_intercepted(nn.Tanh())
    with torch.autograd.profiler.profile():
        assert is_intercepted(nn.Tanh())


@pytest.mark.parametrize("names", [["0.weight"], ["0.bias"], ["0.weight", "0.bias"]], ids=str)
def test_parameters_of_a_functional_call_count(names: list[str]) -> None:
    net, value = MLP(4, 2, depth=0), torch.randn(4)
    params = {name: torch.randn_like(p) for name, p in net.named_parameters() if name in names}
    own = dict(net.named_parameters()) | params
    expected = own["0.weight"] @ value + own["0.bias"]
    torch.testing.assert_close(functional_call(net, params, (value,)), expected)
    given = TensorDict(own).unflatten_keys(".")
    with given.to_module(net):
        torch.testing.assert_close(net(value), expected)
    with TensorDict(params).unflatten_keys(".").to_module(net):
        torch.testing.assert_close(net(value), expected)


def test_an_ensemble_under_vmap() -> None:
    nets, value = [MLP(4, 2, depth=1) for _ in range(3)], torch.randn(5, 4)
    params, _ = stack_module_state(nets)
    outs = vmap(lambda p: functional_call(nets[0], p, (value,)))(params)
    torch.testing.assert_close(outs, torch.stack([net(value) for net in nets]))


def test_reparametrized_layers() -> None:
    net = MLP(4, 2, depth=1)
    torch.nn.utils.parametrizations.weight_norm(net[0])
    torch.nn.utils.spectral_norm(net[2])
    net.eval()
    assert torch.equal(net(torch.ones(4)), ordinary(net, torch.ones(4)))


@pytest.mark.parametrize("make", [lambda: MLP(4, 2, depth=1), network])
def test_compiled_and_exported_networks(make: Callable[[], nn.Module]) -> None:
    net, value = make().eval(), torch.randn(3, 4)
    expected = net(value)
    compiled = torch.compile(lambda x: call(net, x), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(value), expected)
    torch.testing.assert_close(torch.export.export(net, (value,)).module()(value), expected)


def test_symbolic_traces_keep_the_layers() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, value: Tensor) -> Tensor:
            return call(self.net, value)

    nodes = torch.fx.symbolic_trace(Wrapper()).graph.nodes
    called = [node.target for node in nodes if node.op == "call_module"]
    assert called == ["net.0", "net.1", "net.2.0", "net.2.1", "net.2.2", "net.4"]  # torch's own
