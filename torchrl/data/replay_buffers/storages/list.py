"""`ListStorage`, `LazyStackStorage`: any Python object per slot."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, is_tensor_collection
from torch import Tensor

from torchrl._core.devices import check_devices
from torchrl._core.errors import DTypeError, MissingKeyError, ShapeError, describe
from torchrl.data.replay_buffers.storages.base import Storage
from torchrl.data.replay_buffers.storages.schema import fitting, lead_shape


class ListStorage(Storage):
    """Rows of any type, in a list. Tensors and tensordicts are copied in, other objects are not.

    Args:
        max_size: Number of rows; unbounded if ``None``.
        device: Where tensors and tensordicts go; where they are if ``None``.

    >>> storage = ListStorage(2)
    >>> storage.set(0, "anything")
    >>> storage.get(0)
    'anything'
    """

    def __init__(
        self, max_size: int | None = None, *, device: torch.device | str | None = None
    ) -> None:
        check_devices(self, device=device)
        super().__init__(float("inf") if max_size is None else max_size)
        self.device = torch.device(device) if device is not None else None
        self._list: list[Any] = []

    def prepare(self, data: Any, many: bool) -> tuple[list[Any], int]:
        """Return the rows of ``data`` as a list, and their number."""
        rows = [_own(row, self.device) for row in (unstack_rows(data, self) if many else [data])]
        return rows, len(rows)

    def _put(self, place: Any, rows: list[Any], part: slice | None) -> None:
        if part is not None:
            rows = rows[part]
        if isinstance(place, slice):
            gap = place.start - len(self._list)  # filled by the second half of a run
            self._list.extend([None] * gap)
            self._list[place] = rows
            return
        for slot, row in zip(
            [place] if isinstance(place, int) else place.tolist(), rows, strict=True
        ):
            self._list[slot : slot + 1] = [row]

    def _get(self, place: Any) -> Any:
        if isinstance(place, int):
            return self.row(place)
        if isinstance(place, tuple):
            rows = self._get(place[0])
            return rows[place[1:]] if len(place) > 1 else rows
        if isinstance(place, slice):
            return self.collate([self.row(slot) for slot in range(self.rows)[place]])
        return self.collate([self.row(slot) for slot in place.tolist()])

    def _take(self, positions: Tensor) -> list[Any]:
        return [self.row(position) for position in positions.tolist()]

    def row(self, slot: int) -> Any:
        """Return the row in a slot; entries can be replaced without replacing the stored ones."""
        row = self._list[slot]
        return row.copy() if is_tensor_collection(row) else row

    def entry(self, key: NestedKey, place: Any = slice(None)) -> Tensor:
        """Return one entry of the rows in the slots ``place``, stacked.

        Raises:
            MissingKeyError: if a row has no such entry.
        """
        slots = range(self.rows)[place] if isinstance(place, slice) else place.tolist()
        values = []
        for slot in slots:
            value = _dig(self.row(slot), key)
            if value is None:
                raise MissingKeyError(describe(self, "is not in every row", key=key))
            values.append(torch.as_tensor(value))
        return torch.stack(values) if values else torch.empty(0)

    def set_entries(self, values: Mapping[NestedKey, Any], index: Any) -> None:
        """Replace entries of the rows ``get(index)``; what else is in these rows stays.

        Raises:
            MissingKeyError, ShapeError, DTypeError: if a value does not look like what is stored;
                nothing is written then.
        """
        place = self._readable(index)
        slots = torch.arange(self.rows)[place].reshape(-1)
        rows = [_own(self.row(slot), None) for slot in slots.tolist()]
        for key, value in values.items():
            news = [value] if isinstance(place, int) else list(value)
            olds = self.entry(key, slots)
            for row, old, new in zip(rows, olds, news, strict=True):
                _plant(row, key, fitting(self, key, old, new))
        self.set(slots, rows)

    def has_entry(self, key: NestedKey) -> bool:
        """Whether the first row has this entry."""
        return bool(self._list) and _dig(self.row(0), key) is not None

    def empty(self) -> None:
        """Forget all rows."""
        super().empty()
        self._list.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return the rows and the counts; tensors and tensordicts are copied."""
        rows = [_own(row, None) for row in self._list]
        counts = self.counts
        return {"rows": rows, "counts": counts, "row_shape": []}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the rows of a :meth:`state_dict`."""
        self.check_state(state_dict)
        rows = [_own(row, self.device) for row in state_dict["rows"]]
        self.load_counts(state_dict["counts"], state_dict["row_shape"])
        self._list = rows

    def check_state(self, state_dict: dict[str, Any]) -> None:
        """Raise what :meth:`load_state_dict` would raise, and change nothing."""
        rows = state_dict["rows"]
        if len(rows) > self.max_size:
            raise ValueError(
                describe(self, "the saved rows do not fit", expected=self.max_size, found=len(rows))
            )
        if state_dict.get("compressed", False) != self._compresses:
            raise ValueError(
                describe(
                    self,
                    "the save is that of another kind of storage",
                    expected="compressed rows" if self._compresses else "rows as they are",
                    hint="Load it into a buffer built like the saved one.",
                )
            )
        self._check_counts(state_dict["counts"], state_dict["row_shape"])
        self._check_rows(rows)

    def saved_state(self, state: dict[str, Any], trust: bool) -> dict[str, Any]:
        """Return the state that a file holds, as this version has it."""
        return state

    _compresses = False

    def _check_rows(self, rows: list[Any]) -> None:
        """Raise if rows are of a kind that is not kept."""

    def blank(self) -> Storage:
        """Return an empty storage that takes the same rows."""
        twin = copy.copy(self)
        twin._marks = self._marks.new_zeros(len(self._marks))
        twin._counts, twin._list = twin._marks.numpy(), []
        return twin


class LazyStackStorage(ListStorage):
    """A list of tensordicts that may differ in shape; a batch is a lazy stack of them.

    Args:
        max_size: Number of rows; unbounded if ``None``.
        stack_dim: Dimension along which a batch is stacked.
        device: Where the rows go; where they are if ``None``.

    >>> storage = LazyStackStorage(2)
    >>> for slot, length in enumerate((3, 4)):
    ...     storage.set(slot, TensorDict(token=torch.zeros(length)))
    >>> storage.get(slice(0, 2)).batch_size
    torch.Size([2])
    """

    def __init__(
        self,
        max_size: int | None = None,
        *,
        stack_dim: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        check_devices(self, device=device)
        super().__init__(max_size, device=device)
        self.stack_dim = stack_dim

    def prepare(self, data: Any, many: bool) -> tuple[list[Any], int]:
        """Return the rows of ``data`` as a list, and their number."""
        rows, count = super().prepare(data, many)
        self._check_rows(rows)
        return rows, count

    def _check_rows(self, rows: list[Any]) -> None:
        odd = [row for row in rows if not is_tensor_collection(row)]
        if odd:
            raise DTypeError(
                describe(
                    self,
                    "only tensordicts can be stacked lazily",
                    found=type(odd[0]).__name__,
                    hint="Nothing was written. ListStorage keeps any object.",
                )
            )

    def collate(self, rows: Sequence[Any]) -> Any:
        """Stack copies of rows lazily: what is done to the stack is not done to what is stored."""
        copies = [row.clone() for row in rows]
        return TensorDict.lazy_stack(copies, self.stack_dim) if rows else []


def unstack_rows(data: Any, owner: object) -> list[Any]:
    """Return the rows ``[*F]`` that rows ``[N, *F]``, or any sequence, are made of.

    Raises:
        DTypeError: if ``data`` is a single object.
        ShapeError: if it is a single tensordict or tensor.
    """
    if is_tensor_collection(data) or isinstance(data, Tensor):
        lead_shape(data, 1, owner)
        return list(data.unbind(0))
    if isinstance(data, dict):
        columns = {name: unstack_rows(value, owner) for name, value in data.items()}
        _check_lengths(columns, owner)
        values = zip(*columns.values(), strict=True)
        return [dict(zip(columns, row, strict=True)) for row in values]
    if isinstance(data, tuple) and data and all(_has_rows(value) for value in data):
        fields = getattr(data, "_fields", range(len(data)))
        parts = {name: unstack_rows(value, owner) for name, value in zip(fields, data, strict=True)}
        _check_lengths(parts, owner)
        rows = zip(*parts.values(), strict=True)
        return [type(data)(*row) if hasattr(data, "_fields") else row for row in rows]
    if isinstance(data, str | bytes) or not hasattr(data, "__iter__"):
        raise DTypeError(
            describe(
                owner,
                "extend() takes several rows",
                expected="a sequence, a tensordict or tensors",
                found=type(data).__name__,
                hint="Nothing was written. add() takes one row.",
            )
        )
    return list(data)


def _check_lengths(columns: Mapping[Any, Sequence[Any]], owner: object) -> None:
    """Raise :class:`ShapeError` unless all columns have as many rows as the first."""
    lengths = {name: len(column) for name, column in columns.items()}
    odd = [name for name, length in lengths.items() if length != next(iter(lengths.values()))]
    if odd:
        raise ShapeError(
            describe(
                owner,
                "has another number of rows than the first column",
                key=odd[0],
                found=lengths,
                hint="Nothing was written.",
            )
        )


def _has_rows(value: Any) -> bool:
    return isinstance(value, Tensor | dict | tuple) or is_tensor_collection(value)


def _own(row: Any, device: torch.device | None) -> Any:
    """Copy tensors, so that what happens to them outside does not happen to the stored row."""
    if is_tensor_collection(row):
        return row.detach().to(device) if _moves(row, device) else row.detach().clone()
    if isinstance(row, Tensor):
        return row.detach().to(device) if _moves(row, device) else row.detach().clone()
    if isinstance(row, dict):
        return {name: _own(value, device) for name, value in row.items()}
    if type(row) in (list, tuple):
        return type(row)(_own(value, device) for value in row)
    return row


def _moves(row: Any, device: torch.device | None) -> bool:
    return device is not None and row.device != device


def _dig(row: Any, key: NestedKey) -> Any:
    if is_tensor_collection(row):
        return row.get(key, None)
    for part in (key,) if isinstance(key, str) else key:
        row = row.get(part) if isinstance(row, dict) else None
    return row


def _plant(row: Any, key: NestedKey, value: Tensor) -> None:
    """Put a value where :func:`_dig` found one."""
    if is_tensor_collection(row):
        row.set(key, value)
        return
    *path, last = (key,) if isinstance(key, str) else key
    for part in path:
        row = row[part]
    row[last] = value
