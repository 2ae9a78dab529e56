"""A flat record of one step: what a TensorDict offers to a step, at the price of a dict.

The public path carries a ``TensorDict`` through policy, transforms and environment; the fast path
carries :class:`Entries` through the same code. Code that touches its record only through ``get``,
``set``, ``[key]``, ``pop``, ``update`` and ``copy`` serves both, and says so with ``entrywise``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor

from torchrl._core.capabilities import supports


class Entries(dict[NestedKey, Any]):
    """Tensors by key; nested keys are tuples, and there are no sub-records.

    >>> entries = Entries({"a": 1}).set(("agents", "b"), 2)
    >>> entries["agents", "b"], entries.get("c")
    (2, None)
    """

    __slots__ = ()

    def set(self, key: NestedKey, value: Any) -> Entries:
        """Write one entry and return the record."""
        self[key] = value
        return self

    def copy(self) -> Entries:
        """Return a record of the same tensors."""
        return Entries(self)


def is_entrywise(component: object) -> bool:
    """Return whether a component takes :class:`Entries` in place of a tensordict."""
    return supports(component, "entrywise")


Groups = Sequence[tuple[tuple[str, ...], torch.Size]]


def nested_tensordict(
    entries: Mapping[NestedKey, Any],
    batch_size: torch.Size,
    device: torch.device | None,
    groups: Groups = (),
) -> TensorDict:
    """Return a tensordict of flat entries.

    Args:
        entries: Values ``[*batch_size, *feature]``.
        batch_size: Of the tensordict.
        device: Of the tensordict.
        groups: Nested tensordicts whose batch size is longer: where, and what follows
            ``batch_size`` there.

    >>> entries = {("agents", "x"): torch.zeros(4, 3, 2)}
    >>> groups = [(("agents",), torch.Size([3]))]
    >>> nested_tensordict(entries, torch.Size([4]), None, groups)["agents"].batch_size
    torch.Size([4, 3])
    """
    return with_group_sizes(TensorDict(dict(entries), batch_size, device=device), groups)


def with_group_sizes(td: Any, groups: Groups) -> Any:
    """Give nested tensordicts the batch size of their group, in place, where all entries have it.

    Args:
        td: Has them.
        groups: As in :func:`nested_tensordict`.
    """
    for path, tail in groups:  # outer ones first
        size = torch.Size([*td.batch_size, *tail])
        group = td.get(path, None)
        if group is not None:  # what a policy adds need not be there for each agent
            resize_if_fitting(group, size)
    return td


def resize_if_fitting(td: Any, size: torch.Size) -> None:
    """Give a tensordict a batch size, in place, where all its entries have it."""
    if td.batch_size != size and all(
        value.shape[: len(size)] == size for value in td.values(True, True)
    ):
        td.batch_size = size


def as_constant(tensor: Tensor) -> Tensor:
    """Mark a tensor that many steps may share, since it is never written again."""
    tensor._is_constant = True  # type: ignore[attr-defined]  # the mark
    return tensor


def is_constant(tensor: Tensor) -> bool:
    """Return whether a tensor was marked by :func:`as_constant`."""
    return getattr(tensor, "_is_constant", False)


def stack_entries(
    records: Sequence[Entries],
    batch_size: torch.Size,
    device: torch.device | None,
    groups: Groups = (),
) -> TensorDictBase:
    """Stack records of steps along a new last batch dimension, time.

    Args:
        records: One a step, all with the same keys; values ``[*batch_size, *feature]``.
        batch_size: Batch size ``[*B]`` of each record.
        device: Device of the result.
        groups: As in :func:`nested_tensordict`.

    Returns: a tensordict ``[*B, T]``.
    """
    dim = len(batch_size)
    stacked = {key: torch.stack([record[key] for record in records], dim) for key in records[0]}
    return nested_tensordict(stacked, torch.Size([*batch_size, len(records)]), device, groups)
