"""Gymnasium spaces: the spec of each."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tensordict import NestedKey
from torch import Tensor

from torchrl._core.errors import DTypeError, describe
from torchrl.data import (
    Binary,
    Bounded,
    Categorical,
    Composite,
    MultiCategorical,
    MultiOneHot,
    NonTensor,
    OneHot,
    TensorSpec,
    Unbounded,
)

Conversion = Callable[..., TensorSpec]
_registered: dict[type, Conversion] = {}


def register_gym_spec_conversion(space_type: type) -> Callable[[Conversion], Conversion]:
    """Teach the conversion of a space class of your own; a decorator.

    The function gets the space and the keywords ``categorical`` and ``device``, and returns a spec
    whose ``encode`` and ``to_numpy`` speak the values of the space.

    Args:
        space_type: The class; subclasses without a conversion of their own are converted in this way too.

    >>> import gymnasium
    >>> class Percent(gymnasium.spaces.Box):
    ...     def __init__(self):
    ...         super().__init__(0, 100)
    >>> @register_gym_spec_conversion(Percent)
    ... def convert(space, categorical=False, device=None):
    ...     return Bounded(0, 100, space.shape, device=device)
    >>> spec_from_space(Percent()).space.high
    tensor([100.])
    """

    def decorate(function: Conversion) -> Conversion:
        _registered[space_type] = function
        return function

    return decorate


def spec_from_space(
    space: object, *, categorical: bool = False, device: torch.device | str | None = "cpu"
) -> TensorSpec:
    """Return the spec of a Gymnasium space.

    Args:
        space: The space.
        categorical: Encode choices as integers instead of one-hot vectors.
        device: Device of the spec.

    Raises:
        TypeError: for a class of spaces that has no spec.

    >>> from gymnasium.spaces import Discrete
    >>> spec_from_space(Discrete(3)).shape
    torch.Size([3])
    """
    if (conversion := _own_conversion(space)) is not None:
        return conversion(space, categorical=categorical, device=device)
    kind = kind_of(space)
    if not kind:
        raise TypeError(
            f"GymWrapper: no spec for the space {space!r}; expected one of {sorted(_CONVERSIONS)}. "
            "Write one with register_gym_spec_conversion."
        )
    return _CONVERSIONS[kind](space, categorical, device)


def _own_conversion(space: object) -> Conversion | None:
    return next((made for known, made in _registered.items() if isinstance(space, known)), None)


def kind_of(space: object) -> str:
    """Return the name of the class of spaces that we know a space by; empty for another's."""
    if _own_conversion(space) is not None:
        return ""
    return next((c.__name__ for c in type(space).__mro__ if c.__name__ in _CONVERSIONS), "")


def _box(space: Any, categorical: bool, device: torch.device | str | int | None) -> TensorSpec:
    dtype = torch_dtype(space.dtype)
    if dtype is torch.bool:
        return Categorical(2, shape=space.shape, dtype=dtype, device=device)
    if dtype.is_floating_point and np.isinf(space.low).all() and np.isinf(space.high).all():
        return Unbounded(space.shape, dtype=dtype, device=device)
    low, high = (_as_tensor(bound, space.dtype) for bound in (space.low, space.high))
    return Bounded(low, high, shape=space.shape, dtype=dtype, device=device)


def _discrete(space: Any, categorical: bool, device: torch.device | str | int | None) -> TensorSpec:
    if categorical:
        return Categorical(int(space.n), shape=(), dtype=torch.int64, device=device)
    return OneHot(int(space.n), dtype=torch.int64, device=device)


def _multi_discrete(space: Any, categorical: bool, device: torch.device | str | int | None) -> TensorSpec:
    nvec = torch.as_tensor(space.nvec).flatten().tolist()
    if categorical:
        return MultiCategorical(nvec, dtype=torch.int64, device=device, remove_singleton=False)
    return MultiOneHot(nvec, dtype=torch.int64, device=device)


def _multi_binary(space: Any, categorical: bool, device: torch.device | str | int | None) -> TensorSpec:
    return Binary(int(space.shape[-1]), shape=space.shape, dtype=torch.int8, device=device)


def _composite(space: object, categorical: bool, device: Any) -> TensorSpec:
    return Composite(
        {
            name: spec_from_space(child, categorical=categorical, device=device)
            for name, (_, child) in (children_of(space) or {}).items()
        }
    )


def _object(space: Any, categorical: bool, device: torch.device | str | int | None) -> TensorSpec:
    probe = copy.deepcopy(space)
    probe.seed(0)  # ours, so that the space itself draws what it would have drawn
    return NonTensor(shape=(), device=device, example_data=probe.sample())


_CONVERSIONS: dict[str, Callable[[object, bool, Any], TensorSpec]] = {
    "Box": _box,
    "Discrete": _discrete,
    "MultiDiscrete": _multi_discrete,
    "MultiBinary": _multi_binary,
    "Dict": _composite,
    "Tuple": _composite,
    "Text": _object,
    "MissionSpace": _object,  # minigrid's: sentences
    "Sequence": _object,
    "Graph": _object,
    "OneOf": _object,
}


def choice_index(action: Tensor, spec: TensorSpec) -> Tensor:
    """Return the index of a one-hot choice, or of each of several; other actions as they are."""
    if isinstance(spec, OneHot):
        return action.long().argmax(-1)
    if isinstance(spec, MultiOneHot):
        parts = action.split([int(n) for n in spec.nvec], -1)
        return torch.stack([part.long().argmax(-1) for part in parts], -1)
    return action


def torch_dtype(dtype: Any) -> torch.dtype:
    """Return the torch dtype of a numpy dtype.

    >>> torch_dtype(np.uint8)
    torch.uint8
    """
    return torch.from_numpy(np.empty(0, STAND_INS.get(np.dtype(dtype), dtype))).dtype


# Torch does not compute with these: another dtype replaces them; larger bounds are clipped to its greatest.
STAND_INS = {np.dtype(np.uint64): np.dtype(np.int64)}


def _as_tensor(array: np.ndarray, dtype: Any) -> Tensor:
    """Return a copy of an array as a tensor: a simulator may reuse its buffer."""
    array, stand_in = np.array(array, dtype), STAND_INS.get(np.dtype(dtype))
    if stand_in is not None:
        array = np.minimum(array, np.iinfo(stand_in).max).astype(stand_in)
    return torch.from_numpy(array)


def children_of(space: Any) -> dict[str, tuple[object, object]] | None:
    """Return, for each part of a ``Dict`` or a ``Tuple``, its index in samples and its space; ``None`` for others."""
    kind = kind_of(space)
    if kind == "Dict":
        return {key: (key, child) for key, child in space.spaces.items()}
    if kind == "Tuple":
        return {str(i): (i, child) for i, child in enumerate(space.spaces)}
    return None


def copy_array(sample: object, dtype: np.dtype, key: NestedKey) -> np.ndarray:
    """Return a copy of what a simulator shows, as an array of the dtype of its entry.

    Raises:
        DTypeError: if a whole number has no place in it.
    """
    if type(sample) is np.ndarray and sample.dtype == dtype:
        return sample.copy()
    array = np.asarray(sample)
    if dtype.kind not in "iu" or array.dtype.kind == "b":
        return array.astype(dtype)
    limits = np.iinfo(dtype)
    if array.size and not limits.min <= array.min().item() <= array.max().item() <= limits.max:
        raise DTypeError(
            describe(
                "GymWrapper",
                "does not fit the dtype of its space",
                key=key,
                expected=f"{dtype} from {limits.min} to {limits.max}",
                found=f"from {array.min()} to {array.max()}",
                hint="Give the space a dtype that holds what the environment returns.",
            )
        )
    return array.astype(dtype)
