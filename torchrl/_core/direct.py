"""Calls of networks that go straight to the work of their layers, where no hook listens.

On the way to its ``forward`` a module looks for hooks of eight kinds, and there it looks up its
parameters through ``__getattr__``: a quarter of the time of a small network on one row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.autograd import profiler
from torch.nn import functional
from torch.nn.modules import module as everywhere

_CALL = nn.Module._wrapped_call_impl  # what ``__call__`` is, unless somebody replaces it
_LINEAR, _SEQUENTIAL = nn.Linear.forward, nn.Sequential.forward


def call(network: Callable[..., Any], *inputs: Any) -> Any:
    """Return ``network(*inputs)``, bit for bit.

    >>> call(nn.Sequential(nn.ReLU(), nn.Flatten(0)), torch.tensor([[-1.0], [2.0]]))
    tensor([0., 2.])
    """
    if not isinstance(network, nn.Module) or is_intercepted(network):
        return network(*inputs)
    return _forward(network, inputs[0]) if len(inputs) == 1 else network.forward(*inputs)


def call_in_turn(layers: Iterable[nn.Module], value: Any) -> Any:
    """Return what the last layer makes of what the one before it made, and so on."""
    all_are_watched = _all_are_watched()
    for layer in layers:
        intercepted = all_are_watched or _is_watched(layer)
        value = layer(value) if intercepted else _forward(layer, value)
    return value


def _forward(layer: nn.Module, value: Any) -> Any:
    kind, own = type(layer), layer._parameters
    if kind is nn.Linear and kind.forward is _LINEAR:
        if "weight" in own and "bias" in own:  # not so in a functional call
            weight: Any = own["weight"]
            return functional.linear(value, weight, own["bias"])
    elif kind is nn.Sequential and kind.forward is _SEQUENTIAL:
        return call_in_turn(layer._modules.values(), value)  # type: ignore[arg-type]  # none is None
    return layer.forward(value)


def is_intercepted(module: nn.Module) -> bool:
    """Return whether anything but ``forward`` of its class takes part in a call of ``module``."""
    return _all_are_watched() or _is_watched(module)


def _all_are_watched() -> bool:
    return bool(
        everywhere._global_forward_hooks
        or everywhere._global_forward_pre_hooks
        or everywhere._global_backward_hooks
        or everywhere._global_backward_pre_hooks
        or profiler._is_profiler_enabled
        or torch.compiler.is_compiling()
    )


def _is_watched(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        or module._compiled_call_impl is not None
        or type(module).__call__ is not _CALL
    )
