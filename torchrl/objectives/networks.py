"""What losses do to networks: freeze them for a call, copy them, multiply them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams, unravel_key
from tensordict.nn import TensorDictSequential
from torch import Tensor, nn

from torchrl._core.errors import describe


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
    recurrent = []
    for module in network.modules():
        parameters: dict = module._parameters
        for name, parameter in parameters.items():
            if parameter is not None and (only is None or id(parameter) in only):
                swapped.append((parameters, name, parameter))
        if hasattr(module, "_flat_weights_names"):
            recurrent.append(module)
    for parameters, name, parameter in swapped:
        parameters[name] = parameter.detach()
    _refresh_flat_weights(recurrent)
    try:
        yield network
    finally:
        for parameters, name, parameter in swapped:
            parameters[name] = parameter
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


def input_keys(network: Any) -> list[NestedKey]:
    """Return what a network must be given: its ``in_keys`` but the groups that it fills itself.

    A composite policy may read an entry as a whole (``"params"``) that its own layers write piece
    by piece (``("params", "head", "loc")``).
    """
    filled = filled_groups(network)
    return [key for key in network.in_keys if key not in filled] if filled else [*network.in_keys]


def filled_groups(network: Any) -> set[NestedKey]:
    """Return the groups that a sequence reads as a whole after it wrote entries of them.

    What a batch holds under their names was written by the network as it was then.
    """
    if not isinstance(network, TensorDictSequential):
        return set()
    groups = groups_of(written_keys(network))
    if groups.isdisjoint(network.in_keys):
        return set()
    given: set[tuple] = set()  # what is read before anything of it is written
    written: set[tuple] = set()
    for module in network.module:
        given.update({_parts(key) for key in input_keys(module)} - written)
        for key in map(_parts, written_keys(module)):
            written.update(key[:depth] for depth in range(1, len(key) + 1))
    return {key for key in network.in_keys if key in groups and _parts(key) not in given}


def groups_of(keys: Iterable[NestedKey]) -> set[NestedKey]:
    """Return the names of all groups that hold one of the entries.

    >>> sorted(groups_of(["a", ("b", "c")]))
    ['b']
    """
    nested = (key for key in keys if isinstance(key, tuple))
    return {unravel_key(key[:depth]) for key in nested for depth in range(1, len(key))}


def written_keys(network: Any) -> list[NestedKey]:
    """Return every entry that a network writes, those that are not selected as output too."""
    return list(getattr(network, "out_keys_source", network.out_keys))


def _parts(key: NestedKey) -> tuple:
    return (key,) if isinstance(key, str) else key


def check_network(component: object, name: str, network: object) -> None:
    """Refuse what a loss cannot use: no keys, or parameters that have no shape yet.

    Raises:
        TypeError: if ``network`` does not read and write entries of a tensordict.
        ValueError: if a lazy layer has not run yet.
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
    for path, parameter in network.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ValueError(
                describe(
                    component,
                    f"got a {name} whose parameter {path!r} has no shape yet",
                    hint="Run the network once on an example, such as env.reset(), before.",
                )
            )
