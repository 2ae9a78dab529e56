"""Flat records: the record of one step as a dictionary, in place of a nested tensordict.

The public path carries a ``TensorDict`` through policy, transforms and environment; the fast path
carries :class:`FlatRecord` through the same code. Code that touches its record only through
``get``, ``set``, ``[key]``, ``pop``, ``update`` and ``copy`` serves both, and declares
``supports_flat_records = True``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor

from torchrl._core.records.capabilities import supports

if TYPE_CHECKING:
    from typing_extensions import Self  # of the typing module from Python 3.11 on


TD = TypeVar("TD", bound=TensorDictBase)


class Record(Protocol):
    """What a tensordict and a :class:`FlatRecord` have in common.

    Annotate with it what may be either of them.
    """

    def get(self, key: NestedKey, default: Any = ..., /) -> Any: ...
    def set(self, key: NestedKey, value: object, /) -> object: ...
    def __getitem__(self, key: NestedKey, /) -> Any: ...
    @overload
    def pop(self, key: NestedKey, /) -> Any: ...
    @overload
    def pop(self, key: NestedKey, default: object, /) -> Any: ...
    def update(self, other: Any, /) -> object: ...
    def copy(self) -> Self: ...
    def keys(self) -> Any: ...


class FlatRecord(dict[NestedKey, Any]):
    """Tensors by key; nested keys are tuples, and there are no sub-records.

    >>> entries = FlatRecord({"a": 1}).set(("agents", "b"), 2)
    >>> entries["agents", "b"], entries.get("c")
    (2, None)
    """

    __slots__ = ()

    def set(self, key: NestedKey, value: object) -> FlatRecord:
        """Write one entry and return the record."""
        self[key] = value
        return self

    def copy(self) -> FlatRecord:
        """Return a record of the same tensors."""
        return FlatRecord(self)


def takes_flat_records(component: object) -> bool:
    """Return whether a component takes a :class:`FlatRecord` in place of a tensordict."""
    return supports(component, "supports_flat_records")


Groups = Sequence[tuple[tuple[str, ...], torch.Size]]


def nested_tensordict(
    entries: Mapping[NestedKey, object], batch_size: torch.Size, device: torch.device | None, groups: Groups = ()
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


def with_group_sizes(td: TD, groups: Groups) -> TD:
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


def resize_if_fitting(td: TensorDictBase, size: torch.Size) -> None:
    """Give a tensordict a batch size, in place, where all its entries have it."""
    if td.batch_size != size and all(value.shape[: len(size)] == size for value in td.values(True, True)):
        td.batch_size = size


def as_constant(tensor: Tensor) -> Tensor:
    """Mark a tensor that many steps may share, since it is never written again."""
    tensor._is_constant = True  # type: ignore[attr-defined]  # the mark
    return tensor


def is_constant(tensor: Tensor) -> bool:
    """Return whether a tensor was marked by :func:`as_constant`."""
    return getattr(tensor, "_is_constant", False)


def stack_flat_records(
    records: Sequence[FlatRecord], batch_size: torch.Size, device: torch.device | None, groups: Groups = ()
) -> TensorDictBase:
    """Stack records of steps along a new last batch dimension, time.

    Args:
        records: One a step, all with the same keys; values ``[*batch_size, *feature]``.
        batch_size: Batch size ``[*B]`` of each record.
        device: Device of the result.
        groups: As in :func:`nested_tensordict`.

    Returns: a tensordict ``[*B, T]``.
    """
    dim, stacked = len(batch_size), {}
    for key in records[0]:
        values = []
        for record in records:
            values.append(record[key])  # noqa: PERF401 - a comprehension is a call
        stacked[key] = torch.stack(values, dim)
    td = TensorDict(stacked, torch.Size([*batch_size, len(records)]), device=device)
    return with_group_sizes(td, groups) if groups else td


def next_root(
    root: FlatRecord, result: FlatRecord, dropped: Iterable[NestedKey], carried: Iterable[NestedKey]
) -> FlatRecord:
    """Return the root that follows a step of flat records.

    Args:
        root: The root that the step was taken from.
        result: What the step returned.
        dropped: Entries of the result that are left out: rewards.
        carried: Entries of the root that the result lacks and the next root has: the action.

    >>> next_root(FlatRecord(x=1, a=2), FlatRecord(x=3, reward=4), ["reward"], ["a"])
    {'x': 3, 'a': 2}
    """
    new_root = FlatRecord(result)
    for key in dropped:
        new_root.pop(key, None)
    for key in carried:
        new_root[key] = root[key]
    return new_root
