"""Specs of arrays in the format of ``dm_env``, which other libraries use, too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from tensordict import NestedKey

from torchrl._core.errors import describe
from torchrl.data import Bounded, Categorical, MultiCategorical, MultiOneHot, OneHot, TensorSpec, Unbounded
from torchrl.envs.libs.gym.spaces import torch_dtype


def array_leaves(spec: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the path and the array of each leaf of nested specs; a single array has no path.

    >>> from dm_env.specs import Array
    >>> [path for path, _ in array_leaves({"arm": {"angle": Array((), float)}})]
    [('arm', 'angle')]
    """
    if "Array" in _kinds(spec):
        yield path, spec
        return
    # Jumanji's specs hold their children in a private mapping.
    children = spec if isinstance(spec, Mapping) else getattr(spec, "_specs", {})
    for name, child in children.items():
        yield from array_leaves(child, (*path, name))


def key_of(path: tuple[str, ...]) -> NestedKey:
    """Return the key of a leaf; that of a single array is ``observation``."""
    return path if len(path) > 1 else path[0] if path else "observation"


def observation_spec(array: Any) -> TensorSpec:
    """Return the spec of an observed array; numbers get a dimension of 1.

    Raises:
        TypeError: if it holds no numbers.

    >>> from dm_env.specs import BoundedArray
    >>> observation_spec(BoundedArray((), float, 0, 1)).shape
    torch.Size([1])
    """
    _check(array, "observation")
    return _bounds(array, tuple(array.shape) or (1,))


def action_spec(array: Any, *, categorical: bool = False) -> TensorSpec:
    """Return the spec of an array of actions.

    Args:
        array: The spec of the library.
        categorical: Encode choices as integers instead of one-hot vectors.

    Raises:
        TypeError: if it holds no numbers.

    >>> from dm_env.specs import DiscreteArray
    >>> action_spec(DiscreteArray(3)).shape
    torch.Size([3])
    """
    _check(array, "action")
    kinds = _kinds(array)
    if "MultiDiscreteArray" in kinds:
        nvec = np.asarray(array.num_values).reshape(-1).tolist()
        if categorical:
            return MultiCategorical(nvec, dtype=torch.int64, remove_singleton=False)
        return MultiOneHot(nvec, dtype=torch.int64)
    if "DiscreteArray" in kinds:
        n = int(array.num_values)
        if categorical:
            return Categorical(n, shape=(), dtype=torch.int64)
        return OneHot(n, dtype=torch.int64)
    return _bounds(array, tuple(array.shape))


def _kinds(array: Any) -> set[str]:
    return {kind.__name__ for kind in type(array).__mro__}


def _check(array: Any, what: str) -> None:
    if "Array" not in _kinds(array) or np.dtype(array.dtype).kind not in "biuf":
        raise TypeError(
            describe(
                "array_specs",
                f"there is no spec for this {what}",
                expected="an array of numbers",
                found=array,
                hint="Wrap the environment in one with an array.",
            )
        )


def _bounds(array: Any, shape: tuple[int, ...]) -> TensorSpec:
    dtype = torch_dtype(array.dtype)
    if dtype is torch.bool:
        return Categorical(2, shape=shape, dtype=dtype)
    if "BoundedArray" not in _kinds(array):
        return Unbounded(shape, dtype=dtype)
    low, high = (
        torch.from_numpy(np.array(np.broadcast_to(end, array.shape), array.dtype)).reshape(shape)
        for end in (array.minimum, array.maximum)
    )
    return Bounded(low, high, shape=shape, dtype=dtype)
