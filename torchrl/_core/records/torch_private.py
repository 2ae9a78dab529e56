"""Every private attribute of torch and tensordict that the library uses, each in a named function.

Private attributes may change with a release: then this file changes, and nothing else. Subclasses
that override a method of torch, such as ``_load_from_state_dict``, are the exception.

The largest user is :func:`call`, which calls the layers of a network without the checks for hooks
of eight kinds and the lookups of parameters through ``__getattr__`` that take a quarter of the time
of a small network on one row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import (
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictModuleBase,
    TensorDictSequential,
)
from torch import Tensor, nn
from torch.autograd import profiler
from torch.distributions import Distribution
from torch.nn import functional
from torch.nn.modules import module as module_hooks

_CALL = nn.Module._wrapped_call_impl  # ``nn.Module.__call__``, unless something replaces it
_LINEAR, _SEQUENTIAL = nn.Linear.forward, nn.Sequential.forward

# --- calls of networks -------------------------------------------------------------------------


def call(network: Callable[..., Any], *inputs: Any) -> Any:
    """Return ``network(*inputs)``, bit for bit.

    >>> call(nn.Sequential(nn.ReLU(), nn.Flatten(0)), torch.tensor([[-1.0], [2.0]]))
    tensor([0., 2.])
    """
    if isinstance(network, nn.Module):
        if len(inputs) == 1:
            return call_in_turn((network,), inputs[0])
        if not is_intercepted(network):
            return network.forward(*inputs)
    return network(*inputs)


def call_in_turn(layers: nn.Module | Iterable[nn.Module], value: Any) -> Any:
    """Return the output of the last layer, each being called with the output of the one before.

    Args:
        layers: The layers; of a module, its children.
        value: Input of the first layer.
    """
    all_have_hooks = _all_have_hooks()
    own: dict[str, Any]
    children: Any = layers._modules.values() if isinstance(layers, nn.Module) else layers
    for layer in children:
        kind = type(layer)
        if (  # as in _has_hooks: a call for each layer would take as long as a small layer
            all_have_hooks
            or layer._forward_hooks
            or layer._forward_pre_hooks
            or layer._backward_hooks
            or layer._backward_pre_hooks
            or "forward" in layer.__dict__
            or layer._compiled_call_impl is not None
            or kind.__call__ is not _CALL
        ):
            value = layer(value)
            continue
        if kind is nn.Linear and kind.forward is _LINEAR:
            own = layer._parameters
            if "weight" in own and "bias" in own:  # not so in a functional call
                value = functional.linear(value, own["weight"], own["bias"])
                continue
        elif kind is nn.Sequential and kind.forward is _SEQUENTIAL:
            value = call_in_turn(layer, value)
            continue
        value = layer.forward(value)
    return value


def is_intercepted(module: nn.Module) -> bool:
    """Return whether a call of ``module`` runs anything but the ``forward`` of its class."""
    return _all_have_hooks() or _has_hooks(module)


def _all_have_hooks() -> bool:
    return bool(
        module_hooks._global_forward_hooks
        or module_hooks._global_forward_pre_hooks
        or module_hooks._global_backward_hooks
        or module_hooks._global_backward_pre_hooks
        or profiler._is_profiler_enabled
        or torch.compiler.is_compiling()
    )


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        or module._compiled_call_impl is not None
        or type(module).__call__ is not _CALL
    )


# --- modules of torch --------------------------------------------------------------------------


def parameter_slots(module: nn.Module) -> dict[str, Tensor | None]:
    """Return the dictionary in which a module keeps its own parameters, for replacing them.

    >>> list(parameter_slots(nn.Linear(1, 1)))
    ['weight', 'bias']
    """
    return module._parameters  # type: ignore[return-value]  # any tensor may replace a parameter


def buffer_slots(module: nn.Module) -> dict[str, Tensor | None]:
    """Return the dictionary in which a module keeps its own buffers, for replacing them.

    >>> list(buffer_slots(nn.BatchNorm1d(1)))
    ['running_mean', 'running_var', 'num_batches_tracked']
    """
    return module._buffers


def has_flat_weights(module: nn.Module) -> bool:
    """Return whether a module keeps a list of its parameters, as recurrent layers of torch do.

    >>> has_flat_weights(nn.LSTM(1, 1)), has_flat_weights(nn.Linear(1, 1))
    (True, False)
    """
    return hasattr(module, "_flat_weights_names")


def refresh_flat_weights(module: nn.Module) -> None:
    """Build the list of a module with :func:`has_flat_weights` again from its parameters."""
    rnn: Any = module
    rnn._flat_weights = [getattr(rnn, name, None) for name in rnn._flat_weights_names]


def version_of(tensor: Tensor) -> int:
    """Return how often a tensor was written in place; always 0 for one of inference mode.

    >>> tensor = torch.zeros(2)
    >>> version_of(tensor), version_of(tensor.add_(1))
    (0, 1)
    """
    return 0 if tensor.is_inference() else tensor._version


lerp_all_ = torch._foreach_lerp_  # (targets, sources, weight): in place, in one kernel
copy_all_ = torch._foreach_copy_  # (targets, sources): in place, in one kernel


def check_sample(distribution: Distribution, value: Tensor) -> None:
    """Raise ValueError if a distribution that validates its arguments does not support ``value``.

    >>> check_sample(torch.distributions.Uniform(0.0, 1.0, validate_args=True), torch.tensor(2.0))
    Traceback (most recent call last):
    ValueError: Expected value argument ... but found invalid values:
    tensor(2.)
    """
    if distribution._validate_args:
        distribution._validate_sample(value)


def validates(distribution: Distribution) -> bool:
    """Return whether a distribution validates its arguments."""
    return distribution._validate_args


# --- modules of tensordict ---------------------------------------------------------------------


def has_plain_call(module: TensorDictModule) -> bool:
    """Return whether a module calls its network with tensors by position and writes in place.

    >>> has_plain_call(TensorDictModule(nn.Identity(), ["a"], ["b"]))
    True
    """
    return (
        module.inplace is True
        and module.method is None
        and not module.method_kwargs
        and not module.strict
        and getattr(module, "_kwargs", 0) is None
        and not getattr(module, "_get_kwargs", 1)
    )


def members(sequence: TensorDictSequential) -> list[Any]:
    """Return the modules of a sequence, named or not.

    >>> module = TensorDictModule(nn.Identity(), ["a"], ["b"])
    >>> members(TensorDictSequential({"name": module})) == [module]
    True
    """
    modules: Any = sequence._modules["module"]
    return list(modules._modules.values())


def draws_sample(sequence: ProbabilisticTensorDictSequential) -> bool:
    """Return whether a call of a sequence draws from its distribution."""
    return sequence._requires_sample


def leaves_of(params: TensorDictParams) -> TensorDictBase:
    """Return the tensordict in which ``params`` keeps its parameters."""
    return params._param_td


def set_leaves(params: TensorDictParams, leaves: TensorDictBase) -> None:
    """Replace the tensordict in which ``params`` keeps its parameters."""
    params._param_td = leaves


def register_leaves(params: TensorDictParams) -> None:
    """Register the leaves of ``params`` again: those that require no gradient are buffers."""
    params._reset_params()


# Attributes of modules of tensordicts by which a compiled policy is chosen.
_OPTIONS = ("inplace", "method", "partial_tolerant", "return_composite", "_projected")


def structure_of(network: nn.Module) -> list[tuple]:
    """Return the modules of tensordicts in a network, each with its parts, keys and options."""
    modules: list[Any] = [network]
    structure = []
    for module in modules:  # grows by the modules of sequences
        inner = members(module) if isinstance(module, TensorDictSequential) else []
        modules += inner
        child = module._modules.get("module", module.__dict__.get("module"))
        in_keys, out_keys = list(module.in_keys), list(module.out_keys)
        options = list(map(module.__dict__.get, _OPTIONS))
        structure.append((module, child, inner, in_keys, out_keys, options))
    return structure


def has_structure(structure: list[tuple]) -> bool:
    """Return whether modules are as :func:`structure_of` found them, and without hooks.

    >>> module = TensorDictModule(nn.Identity(), ["a"], ["b"])
    >>> found = structure_of(module)
    >>> module.module = nn.Tanh()
    >>> has_structure(found), has_structure(structure_of(module))
    (False, True)
    """
    if _all_have_hooks():
        return False
    for module, child, inner, in_keys, out_keys, options in structure:
        if (
            _has_hooks(module)
            or module._modules.get("module", module.__dict__.get("module")) is not child
            or (inner and list(child._modules.values()) != inner)
            or module.in_keys != in_keys
            or module.out_keys != out_keys
            or list(map(module.__dict__.get, _OPTIONS)) != options
        ):
            return False
    return True


# --- tensordicts -------------------------------------------------------------------------------


def has_names(td: TensorDictBase) -> bool:
    """Return whether a dimension of a tensordict has a name.

    >>> has_names(TensorDict(batch_size=[2])), has_names(TensorDict(batch_size=[2], names=["time"]))
    (False, True)
    """
    return td._has_names()


def shared_entries(node: Any) -> TensorDictBase:
    """Return the tensordict of a tensorclass, which the copies that indexing makes share.

    >>> from tensordict import tensorclass
    >>> node = tensorclass(type("Node", (), {"__annotations__": {"x": Tensor}}))(x=torch.zeros(2), batch_size=[])
    >>> shared_entries(node)["x"]
    tensor([0., 0.])
    """
    return node._tensordict


# A tensordict of values that are known to fit: no checks, which take half of the time of a sample.
unchecked_tensordict: Callable[..., TensorDict] = getattr(TensorDict, "_new_unsafe", TensorDict)


def share_out_keys(module: TensorDictModuleBase, keys: list[NestedKey]) -> None:
    """Let a module use this very list as its ``out_keys``, to which keys may be added."""
    module._out_keys = module._out_keys_apparent = keys
