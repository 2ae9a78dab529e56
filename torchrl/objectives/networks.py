"""What losses do to networks: freeze them for a call, copy them, multiply them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase, TensorDictParams
from torch import Tensor, nn

from torchrl._core.errors import describe
from torchrl._core.plan import check_states


@contextmanager
def frozen(network: nn.Module, only: Container[int] | None = None) -> Iterator[nn.Module]:
    """Let gradients pass through a network without reaching its parameters.

    Unlike ``requires_grad_(False)`` it can be traced and mapped (``torch.compile``,
    ``torch.vmap``), since it puts detached twins in the place of the parameters.

    Args:
        network: Any module.
        only: ``id`` of the parameters to freeze; all of them if not given.

    >>> net, x = nn.Linear(1, 1), torch.ones(1, requires_grad=True)
    >>> with frozen(net):
    ...     net(x).backward()
    >>> net.weight.grad is None, x.grad is None
    (True, False)
    """
    swapped: list[tuple[dict[str, Tensor | None], str, Tensor]] = []
    nested: list[tuple[Any, TensorDictBase]] = []  # which keep their leaves in a tensordict
    recurrent = []
    for module in network.modules():
        if isinstance(module, TensorDictParams):
            nested.append((module, module._param_td))
            continue
        parameters: dict = module._parameters
        for name, parameter in parameters.items():
            if parameter is not None and (only is None or id(parameter) in only):
                swapped.append((parameters, name, parameter))
        if hasattr(module, "_flat_weights_names"):
            recurrent.append(module)
    for parameters, name, parameter in swapped:
        parameters[name] = parameter.detach()
    for module, leaves in nested:
        module._param_td = leaves.apply(
            lambda leaf: leaf.detach() if only is None or id(leaf) in only else leaf
        )
    _refresh_flat_weights(recurrent)
    try:
        yield network
    finally:
        for parameters, name, parameter in swapped:
            parameters[name] = parameter
        for module, leaves in nested:
            module._param_td = leaves
        _refresh_flat_weights(recurrent)


def _refresh_flat_weights(modules: list[Any]) -> None:
    """Tell recurrent layers of torch, which keep a list of their weights, that these changed."""
    for module in modules:
        names = module._flat_weights_names
        module._flat_weights = [getattr(module, name, None) for name in names]


@contextmanager
def hold_out_net(network: nn.Module) -> Iterator[nn.Module]:
    """Keep a network from learning inside the block: its parameters require no gradient.

    >>> net = nn.Linear(1, 1)
    >>> with hold_out_net(net):
    ...     net(torch.ones(1)).requires_grad
    False
    >>> net(torch.ones(1)).requires_grad
    True
    """
    held = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield network
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


@contextmanager
def hold_out_params(params: TensorDictBase) -> Iterator[TensorDictBase]:
    """Yield detached twins of parameters held in a tensordict."""
    yield params.detach()


def frozen_copy(network: nn.Module) -> nn.Module:
    """Return a deep copy whose parameters are buffers: it moves and saves, but never trains."""
    twin = deepcopy(network)
    tied: dict[int, Tensor] = {}  # what was one tensor stays one
    for module in twin.modules():
        if isinstance(module, TensorDictParams):
            module._param_td = module._param_td.apply(
                lambda leaf: tied.setdefault(id(leaf), leaf.detach())
            )
            module._reset_params()  # leaves that require no gradient are buffers
            continue
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                delattr(module, name)
                module.register_buffer(name, tied.setdefault(id(parameter), parameter.detach()))
    _refresh_flat_weights([m for m in twin.modules() if hasattr(m, "_flat_weights_names")])
    return twin


def copies(network: nn.Module, count: int) -> nn.ModuleList:
    """Return the network and ``count - 1`` others drawn like it.

    The entries of every parameter of a copy are shuffled: that draws from the initialisation of
    the original, whatever it was, and leaves constants as they are.
    """
    networks = [network]
    for _ in range(count - 1):
        twin = deepcopy(network)
        with torch.no_grad():
            for parameter in twin.parameters():
                entries = parameter.reshape(-1)
                order = torch.randperm(entries.numel(), device=entries.device)
                parameter.copy_(entries[order].view_as(parameter))
        networks.append(twin)
    return nn.ModuleList(networks)


def parameters_of(network: nn.Module, spared: Iterable[nn.Parameter] = ()) -> TensorDictParams:
    """Return the parameters of a network as a tensordict, some of them without gradient."""
    params, held = TensorDict.from_module(network), {id(parameter) for parameter in spared}
    params = params.apply(lambda p: p.detach() if id(p) in held else p) if held else params
    return TensorDictParams(params, no_convert=True)


def check_network(component: object, name: str, network: object) -> None:
    """Refuse what a loss cannot use: no keys, or parameters that have no shape yet.

    Raises:
        TypeError: if ``network`` does not read and write entries of a tensordict.
        ValueError: if a lazy layer has not run yet, or two recurrent modules share a state.
    """
    if not isinstance(network, nn.Module) or not hasattr(network, "in_keys"):
        raise TypeError(
            describe(
                component,
                f"got a {name} without in_keys and out_keys",
                expected="a tensordict module",
                found=type(network).__name__,
                hint="Wrap it: TensorDictModule(net, in_keys=[...], out_keys=[...]).",
            )
        )
    check_states(network)
    for path, parameter in network.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ValueError(
                describe(
                    component,
                    f"got a {name} whose parameter {path!r} has no shape yet",
                    hint="Run the network once on an example, such as env.reset(), before.",
                )
            )
