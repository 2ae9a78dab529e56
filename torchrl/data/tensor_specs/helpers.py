"""Functions that all specs share: sizes, dimensions, indices, devices, messages."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from torchrl._core.errors import DTypeError, ShapeError, describe
from torchrl.data.tensor_specs.spaces import NARROW_UNSIGNED

Value: TypeAlias = Any  # of a spec: tensor, tensordict, NonTensorData, array, ...
Index: TypeAlias = Any  # whatever a tensor can be indexed with
Shape: TypeAlias = Sequence[int] | int
DeviceLike = torch.device | str | int | None


def as_size(*shape: Any) -> torch.Size:
    """Return a size from ``(2, 3)``, ``2, 3`` or ``2``.

    >>> as_size(2, 3), as_size([2, 3]), as_size(2), as_size()
    (torch.Size([2, 3]), torch.Size([2, 3]), torch.Size([2]), torch.Size([]))
    """
    if len(shape) == 1 and not isinstance(shape[0], int | np.integer):
        return torch.Size(shape[0])
    return torch.Size(shape)


def as_device(device: DeviceLike) -> torch.device | None:
    """Return a device with its index, as tensors carry it."""
    if device is None:
        return None
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def drawable(shape: torch.Size) -> torch.Size:
    """Return the shape in which a value is drawn: sizes that vary are one."""
    return torch.Size(1 if s == -1 else s for s in shape) if -1 in shape else shape


def wrap_dim(who: object, dim: int, ndim: int) -> int:
    """Return a dimension counted from the front.

    Raises:
        ShapeError: if there is no such dimension.
    """
    if not -ndim <= dim < ndim:
        raise ShapeError(describe(who, f"has no dimension {dim}", expected=f"{-ndim} to {ndim - 1}"))
    return dim % ndim


def expand_ellipsis(index: Index, ndim: int) -> tuple[Index, ...]:
    """Return an index of at most ``ndim`` dimensions without ellipsis.

    >>> expand_ellipsis((..., 0), 3)
    (slice(None, None, None), slice(None, None, None), 0)
    """
    parts = index if isinstance(index, tuple) else (index,)
    used = sum(_consumed(part) for part in parts)
    if used > ndim:
        raise IndexError(f"{used} indices for a spec of {ndim} dimensions.")
    at = next((i for i, part in enumerate(parts) if part is Ellipsis), None)
    if at is None:
        return parts
    return (*parts[:at], *(slice(None),) * (ndim - used), *parts[at + 1 :])


def forward_slices(parts: tuple[Index, ...], shape: torch.Size) -> tuple[Index, ...]:
    """Replace slices with a negative step, which tensors do not take, by the indices they name.

    >>> forward_slices((slice(None, None, -1), 0), torch.Size([3, 2]))
    ([2, 1, 0], 0)
    """
    out, dim = [], 0
    for part in parts:
        if isinstance(part, slice) and part.step is not None and part.step < 0:
            part = list(range(shape[dim]))[part]
        out.append(part)
        dim += _consumed(part)
    return tuple(out)


def _consumed(part: Index) -> int:
    if part is None or part is Ellipsis:
        return 0
    if isinstance(part, Tensor | np.ndarray) and part.dtype in (torch.bool, np.bool_):
        return part.ndim
    return 1


def fits(shape: Sequence[int], own: Sequence[int]) -> bool:
    """Return whether a shape is ``own``, in which ``-1`` matches any size."""
    return len(shape) == len(own) and all(b in (-1, a) for a, b in zip(shape, own, strict=True))


def to_front(val: Tensor, start: int, extra: int) -> Tensor:
    """Move ``extra`` dimensions from ``start`` on before all others."""
    if not extra or not start:
        return val
    return val.movedim(tuple(range(start, start + extra)), tuple(range(extra)))


def to_tensor(val: Value, dtype: torch.dtype | None) -> Tensor:
    """Return a tensor of some dtype from an array, a number, a list or a tensor.

    Memory is shared with an array where torch can share it without a warning.

    Raises:
        DTypeError: if a number has no place among the whole numbers of the dtype.
    """
    if not isinstance(val, Tensor):
        if isinstance(val, list | tuple) and any(isinstance(part, Tensor) for part in val):
            val = torch.stack([to_tensor(part, dtype) for part in val])
        else:
            val = _from_array(np.asarray(val))
    if dtype is None or val.dtype is dtype:
        return val
    if not (dtype.is_floating_point or dtype.is_complex or dtype is torch.bool) and val.numel():
        wide = val if val.dtype.is_signed else val.double()  # torch orders few unsigned numbers
        low, high, limits = wide.min().item(), wide.max().item(), torch.iinfo(dtype)
        if not limits.min <= low <= high <= limits.max:
            raise DTypeError(
                describe(
                    "encode",
                    "got numbers that do not fit the dtype of the spec",
                    expected=f"{dtype} from {limits.min} to {limits.max}",
                    found=f"from {low} to {high}",
                    hint="Give the spec a dtype that holds what is encoded.",
                )
            )
    return val.to(dtype)


def _from_array(array: np.ndarray) -> Tensor:
    if not array.flags.writeable:
        array = array.copy()
    try:
        return torch.from_numpy(array)
    except (TypeError, ValueError):  # negative strides, or bytes in another order
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))


def found_range(val: Tensor) -> str:
    """Describe the values of a tensor for a message."""
    if not val.numel():
        return "no values"
    if val.is_floating_point() and bool(val.isnan().any()):
        return f"{int(val.isnan().sum())} NaN among {val.numel()} values"
    if val.numel() <= 8:
        return str(val.tolist())
    wide = val.to(torch.int64) if val.dtype in (torch.bool, *NARROW_UNSIGNED) else val
    return f"values from {wide.min().item()} to {wide.max().item()}"


def format_fields(name: str, fields: Mapping[str, object]) -> str:
    """Lay out a repr, one field a line; fields that are ``None`` are shown as such.

    >>> print(format_fields("Spec", {"shape": [1], "device": None}))
    Spec(
        shape=[1],
        device=None)
    """
    lines = ",\n".join(f"{key}={value}" for key, value in fields.items())
    return f"{name}(\n{textwrap.indent(lines, '    ')})"


def all_combinations(
    choices: Sequence[Sequence[int]], dtype: torch.dtype | None, device: torch.device | None
) -> Tensor:
    """Return every choice of one number from each range, ``[N, len(choices)]``, the last fastest.

    >>> all_combinations([[0, 1], [5, 6]], torch.int64, None).tolist()
    [[0, 5], [0, 6], [1, 5], [1, 6]]
    """
    if not choices:
        return torch.empty(1, 0, dtype=dtype, device=device)
    columns = [torch.tensor(list(values), dtype=dtype, device=device) for values in choices]
    return torch.stack([c.flatten() for c in torch.meshgrid(*columns, indexing="ij")], -1)
