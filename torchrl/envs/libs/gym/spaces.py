"""Gymnasium spaces: the spec of each, and how its values become tensors and back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from tensordict import NestedKey, NonTensorData, NonTensorStack
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
            for name, (_, child) in (_children(space) or {}).items()
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
    return torch.from_numpy(np.empty(0, _STAND_INS.get(np.dtype(dtype), dtype))).dtype


# Torch does not compute with these: another dtype replaces them; larger bounds are clipped to its greatest.
_STAND_INS = {np.dtype(np.uint64): np.dtype(np.int64)}


def _as_tensor(array: np.ndarray, dtype: Any) -> Tensor:
    """Return a copy of an array as a tensor: a simulator may reuse its buffer."""
    array, stand_in = np.array(array, dtype), _STAND_INS.get(np.dtype(dtype))
    if stand_in is not None:
        array = np.minimum(array, np.iinfo(stand_in).max).astype(stand_in)
    return torch.from_numpy(array)


Reader = Callable[[Any], object]


def leaf_readers(
    space: object, spec: TensorSpec, *, batched: bool, device: Any, path: tuple[str, ...]
) -> list[tuple[NestedKey, Reader]]:
    """Return, for each leaf of a space, its key and how to read its tensor out of a sample.

    Args:
        space: The space of one environment.
        spec: Its spec, without batch dimensions, on the CPU.
        batched: Whether samples carry one leading dimension, environments.
        device: Where the entries go; ``None`` for the CPU, and for objects of no device.
        path: Key of the space in the record.
    """
    children = _children(space)
    if children is None:
        key = path[0] if len(path) == 1 else path
        return [(key, _reader(space, spec, key, batched=batched, device=device))]
    leaves: list[tuple[NestedKey, Reader]] = []
    for name, (index, child) in children.items():
        for leaf, read in leaf_readers(child, spec[name], batched=batched, device=device, path=(*path, name)):

            def read_part(sample: Mapping[object, object], index: object = index, read: Reader = read) -> object:
                return read(sample[index])

            leaves.append((leaf, read_part))
    return leaves


def _children(space: Any) -> dict[str, tuple[object, object]] | None:
    kind = kind_of(space)
    if kind == "Dict":
        return {key: (key, child) for key, child in space.spaces.items()}
    if kind == "Tuple":
        return {str(i): (i, child) for i, child in enumerate(space.spaces)}
    return None


def _reader(
    space: Any, spec: TensorSpec, key: NestedKey, *, batched: bool, device: torch.device | str | int | None
) -> Reader:
    move = device is not None and torch.device(device).type != "cpu"

    def finish(tensor: Tensor) -> Tensor:
        return tensor.to(device) if move else tensor

    kind = kind_of(space)
    if isinstance(spec, NonTensor):
        one = partial(NonTensorData, device=device)
        return (lambda samples: NonTensorStack(*map(one, samples))) if batched else one
    if kind == "Discrete":
        start, n, one_hot = int(space.start), int(space.n), isinstance(spec, OneHot)
        eye = torch.eye(n, dtype=spec.dtype)

        def choice(sample: object) -> Tensor:
            index = np.asarray(sample, np.int64) - start
            return finish(eye[index] if one_hot else torch.from_numpy(np.array(index)))

        return choice
    if kind == "MultiDiscrete":
        starts, dims = np.asarray(getattr(space, "start", 0)), space.nvec.ndim

        def choices(sample: object) -> Tensor:
            index = np.asarray(sample, np.int64) - starts
            index = index.reshape(*index.shape[: index.ndim - dims], -1)
            return finish(spec.encode(index) if isinstance(spec, MultiOneHot) else torch.from_numpy(index))

        return choices
    dtype = space.dtype if kind in ("Box", "MultiBinary") else None
    if dtype is None:
        return lambda sample: finish(spec.encode(sample))
    stand_in = _STAND_INS.get(np.dtype(dtype), dtype)
    if space.shape and np.prod(space.shape) == 1:  # it may be returned without its dimensions
        shape = (-1, *space.shape) if batched else space.shape

        def number(sample: object) -> Tensor:
            array = copy_array(sample, stand_in, key)
            return finish(torch.from_numpy(array.reshape(shape) if array.ndim == int(batched) else array))

        return number

    def numbers(sample: object) -> Tensor:
        # A simulator may reuse its buffer, hence the copy.
        if type(sample) is np.ndarray and sample.dtype == stand_in:
            tensor = torch.from_numpy(sample.copy())
        else:
            tensor = torch.from_numpy(copy_array(sample, stand_in, key))
        return tensor.to(device) if move else tensor

    return numbers


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


def record_writer(
    space: object, spec: TensorSpec, *, batched: bool, path: tuple[str, ...] = ()
) -> Callable[[Any], object]:
    """Return how the actions of a record become what ``step`` of the foreign environment takes.

    Args:
        space: The action space of one environment.
        spec: Its spec, without batch dimensions.
        batched: Whether actions carry one leading dimension, environments.
        path: Key of the space in the record; a lone action is called ``action``.
    """
    children = _children(space)
    if children is None:
        write = _writer(space, spec, batched)
        key: NestedKey = "action" if not path else path[0] if len(path) == 1 else path
        return lambda record: write(record.get(key))
    parts = {
        index: record_writer(child, spec[name], batched=batched, path=(*path, name))
        for name, (index, child) in children.items()
    }
    if kind_of(space) == "Tuple":
        return lambda record: tuple(write(record) for write in parts.values())
    return lambda record: {name: write(record) for name, write in parts.items()}


def _writer(space: Any, spec: TensorSpec, batched: bool) -> Callable[[Any], object]:
    kind = kind_of(space)
    if isinstance(spec, NonTensor):
        return lambda action: tuple(action.tolist()) if batched else action.tolist()
    if kind == "Discrete":
        start = int(space.start)
        if isinstance(spec, OneHot):
            if batched:
                return lambda action: action.numpy(force=True).argmax(-1) + start
            return lambda action: int(action.numpy(force=True).argmax()) + start
        if batched:
            return lambda action: action.numpy(force=True) + start
        return lambda action: int(action) + start
    if kind == "MultiDiscrete":
        shape, starts = space.nvec.shape, np.asarray(getattr(space, "start", 0))

        def choices(action: Tensor) -> np.ndarray:
            if isinstance(spec, MultiOneHot):
                parts = action.split(space.nvec.flatten().tolist(), -1)
                action = torch.stack([part.argmax(-1) for part in parts], -1)
            array = action.numpy(force=True)
            return array.reshape(*array.shape[:-1], *shape) + starts

        return choices
    if kind in ("Box", "MultiBinary"):
        dtype = space.dtype
        # A simulator may edit its action, hence the copy.
        return lambda action: np.array(action.numpy(force=True), dtype)
    return lambda action: spec.to_numpy(action.clone())
