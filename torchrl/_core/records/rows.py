"""Rows of a batch: a mask broadcast to the right, and ``where`` for whole records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tensordict import LazyStackedTensorDict, NestedKey, TensorDict, TensorDictBase, is_leaf_nontensor, is_non_tensor
from torch import Tensor

from torchrl._core.records.flat_record import FlatRecord, Record


def expand_right(mask: Tensor, like: Tensor | torch.Size) -> Tensor:
    """Expand a mask ``[*B]`` or ``[*B, 1]`` to the shape of ``like [*B, *S]``, or to that shape.

    >>> expand_right(torch.tensor([[True], [False]]), torch.Size([2, 3])).tolist()
    [[True, True, True], [False, False, False]]
    >>> expand_right(torch.tensor([True, False]), torch.zeros(2, 3)).tolist()
    [[True, True, True], [False, False, False]]
    >>> expand_right(torch.tensor(True), torch.Size([])).tolist()
    True
    """
    shape = like.shape if isinstance(like, Tensor) else like
    if mask.ndim > len(shape):
        mask = mask.squeeze(-1)
    return mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim)).expand(shape)


def where(mask: Tensor, new: Any, old: Any) -> Any:
    """Return the rows of ``new`` where ``mask [*B, 1]`` is true, those of ``old`` elsewhere."""
    if isinstance(new, Tensor):
        return torch.where(expand_right(mask, new.shape), new, old)
    rows = mask.squeeze(-1)  # [*B]
    if not rows.ndim:
        return new if rows else old
    both = (TensorDict({"x": value}, rows.shape) for value in (new, old))
    picked: Any = torch.where(rows, *both)
    return picked.get("x")


def where_rows(
    mask_of: Callable[[NestedKey], Tensor | None],
    new: Any,
    old: Any,
    default: Callable[[NestedKey, Any], object],
    path: tuple[Any, ...] = (),
) -> None:
    """Put back, in the record ``new``, what ``old`` holds in the rows outside of a mask.

    Args:
        mask_of: Returns the mask ``[*B, 1]`` of the rows of an entry that stay as they are in
            ``new``, given its key; ``None`` if all do.
        new: Record ``[*B]``; changed in place.
        old: Record ``[*B]`` or ``None``.
        default: ``(key, value in new) -> value``, in place of an entry that ``old`` lacks.
        path: Key of both, if they are part of a record.
    """
    if isinstance(new, LazyStackedTensorDict):  # its parts may differ in entries and shapes
        dim = new.stack_dim
        parts = [None] * len(new.tensordicts) if old is None else old.unbind(dim)
        for i, (part, before) in enumerate(zip(new.unbind(dim), parts, strict=True)):

            def mask_of_part(key: NestedKey, i: int = i) -> Tensor | None:
                mask = mask_of(key)
                return mask if mask is None or dim >= mask.ndim - 1 else mask.select(dim, i)

            where_rows(mask_of_part, part, before, default, path)
        return
    for name in part_names(new):
        parts_of_key = (*path, *((name,) if isinstance(name, str) else name))
        key = parts_of_key[0] if len(parts_of_key) == 1 else parts_of_key
        mask = mask_of(key)
        if mask is None:
            continue
        value, before = new.get(name), None if old is None else old.get(name, None)
        if is_lazy(value):
            where_rows(mask_of, value, before, default, parts_of_key)
        else:
            new.set(name, where(mask, value, default(key, value) if before is None else before))


def entry_names(record: Record) -> list[NestedKey]:
    """Return the keys of every leaf of a record, those of non-tensors too."""
    if isinstance(record, TensorDictBase):
        return list(record.keys(True, True, is_leaf=is_leaf_nontensor))
    return list(record.keys())


def part_names(record: Record) -> list[NestedKey]:
    """Return the keys of every leaf of a record, and of every lazy stack in place of its leaves.

    The parts of such a stack may differ in entries and shapes, so that it cannot be read as one.
    """
    if isinstance(record, FlatRecord):
        return list(record)
    keys: list[NestedKey] = []
    for name, value in record.items():  # type: ignore[attr-defined]  # a tensordict
        if isinstance(value, TensorDictBase) and not (is_non_tensor(value) or is_lazy(value)):
            inner = part_names(value)
            keys += [(name, *((key,) if isinstance(key, str) else key)) for key in inner]
        else:
            keys.append(name)
    return keys


def is_lazy(value: object) -> bool:
    """Return whether an entry is a lazy stack of records."""
    return isinstance(value, LazyStackedTensorDict) and not is_non_tensor(value)
