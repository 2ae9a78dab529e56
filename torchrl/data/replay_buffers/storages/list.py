"""`ListStorage`, `LazyStackStorage`: any Python object per slot."""

from __future__ import annotations

import copy
import io
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from tensordict import NestedKey, TensorDict, is_tensor_collection
from torch import Tensor

from torchrl._core.devices import check_devices
from torchrl._core.errors import DTypeError, MissingKeyError, ShapeError, describe
from torchrl._core.safe_load import is_data, load_file
from torchrl.data.replay_buffers.data_types import Data, Index, Key, State
from torchrl.data.replay_buffers.storages.base import Storage
from torchrl.data.replay_buffers.storages.schema import fitting, lead_shape

Codec = Callable[[bytes], bytes]


class ListStorage(Storage):
    """Rows of any type, in a list. Tensors and tensordicts are copied in, other objects are not.

    Args:
        max_size: Number of rows; unbounded if ``None``.
        compilable: As for :class:`Storage`.
        device: Where tensors and tensordicts go; where they are if ``None``.

    >>> storage = ListStorage(2)
    >>> storage.set(0, "anything")
    >>> storage.get(0)
    'anything'
    """

    def __init__(
        self, max_size: int | None = None, *, compilable: bool = False, device: torch.device | str | None = None
    ) -> None:
        check_devices(self, device=device)
        super().__init__(float("inf") if max_size is None else max_size, compilable=compilable)
        self.device = torch.device(device) if device is not None else None
        self._list: list[Data] = []

    def prepare(self, data: Data, many: bool) -> tuple[list[Data], int]:
        """Return the rows of ``data`` as a list, and their number."""
        rows = [_own(row, self.device) for row in (unstack_rows(data, self) if many else [data])]
        return rows, len(rows)

    def _put(self, place: Index, rows: list[Data], part: slice | None) -> None:
        if part is not None:
            rows = rows[part]
        if isinstance(place, slice):
            gap = place.start - len(self._list)  # filled by the second half of a run
            self._list.extend([None] * gap)
            self._list[place] = rows
            return
        for slot, row in zip([place] if isinstance(place, int) else place.tolist(), rows, strict=True):
            self._list[slot : slot + 1] = [row]

    def _get(self, place: Index) -> Data:
        if isinstance(place, int):
            return self.row(place)
        if isinstance(place, tuple):
            rows = self._get(place[0])
            return rows[place[1:]] if len(place) > 1 else rows
        if isinstance(place, slice):
            return self.collate([self.row(slot) for slot in range(self.rows)[place]])
        return self.collate([self.row(slot) for slot in place.tolist()])

    def _take(self, positions: Tensor) -> list[Data]:
        return [self.row(position) for position in positions.tolist()]

    def row(self, slot: int) -> Data:
        """Return the row in a slot; entries can be replaced without replacing the stored ones."""
        row = self._list[slot]
        return row.copy() if is_tensor_collection(row) else row

    def entry(self, key: NestedKey, place: Index = slice(None)) -> Tensor:
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

    def set_entries(self, values: Mapping[NestedKey, Data], index: Index) -> None:
        """Replace entries of the rows ``get(index)``; what else is in these rows stays.

        Raises:
            MissingKeyError, ShapeError, DTypeError: if a value does not fit the stored rows;
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

    @property
    def item_shape(self) -> torch.Size:
        """Batch size of the first row; empty unless rows are batches themselves."""
        return self.row(0).batch_size if self._list and is_tensor_collection(self.row(0)) else torch.Size()

    def has_entry(self, key: NestedKey) -> bool:
        """Whether the first row has this entry."""
        return bool(self._list) and _dig(self.row(0), key) is not None

    def empty(self) -> None:
        """Forget all rows."""
        super().empty()
        self._list.clear()

    def state_dict(self) -> State:
        """Return the rows and the counts; tensors and tensordicts are copied."""
        rows = [_own(row, None) for row in self._list]
        counts = self.counts
        return {"rows": rows, "counts": counts, "row_shape": []}

    def load_state_dict(self, state_dict: State) -> None:
        """Take over the rows of a :meth:`state_dict`."""
        self.check_state(state_dict)
        rows = [_own(row, self.device) for row in state_dict["rows"]]
        self.load_counts(state_dict["counts"], state_dict["row_shape"])
        self._list = rows

    def check_state(self, state_dict: State) -> None:
        """Raise what :meth:`load_state_dict` would raise, and change nothing."""
        rows = state_dict["rows"]
        if len(rows) > self.max_size:
            raise ValueError(describe(self, "the saved rows do not fit", expected=self.max_size, found=len(rows)))
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

    def saved_state(self, state: State, trust: bool) -> State:
        """Return the state that a file holds, as this version has it."""
        return state

    _compresses = False

    def _check_rows(self, rows: list[Data]) -> None:
        """Raise if rows are of a kind that is not kept."""

    def blank(self) -> Storage:
        """Return an empty storage that takes the same rows."""
        blank = copy.copy(self)
        blank._marks = self._marks.new_zeros(len(self._marks))
        blank._counts, blank._list = blank._marks.numpy(), []
        return blank


class LazyStackStorage(ListStorage):
    """A list of tensordicts that may differ in shape; a batch is a lazy stack of them.

    Args:
        max_size: Number of rows; unbounded if ``None``.
        compilable: As for :class:`Storage`.
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
        compilable: bool = False,
        stack_dim: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        check_devices(self, device=device)
        super().__init__(max_size, compilable=compilable, device=device)
        self.stack_dim = stack_dim

    def prepare(self, data: Data, many: bool) -> tuple[list[Data], int]:
        """Return the rows of ``data`` as a list, and their number."""
        rows, count = super().prepare(data, many)
        self._check_rows(rows)
        return rows, count

    def _check_rows(self, rows: list[Data]) -> None:
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

    def collate(self, rows: Sequence[Data]) -> Data:
        """Stack copies of rows lazily: what is done to the stack is not done to what is stored."""
        copies = [row.clone() for row in rows]
        return TensorDict.lazy_stack(copies, self.stack_dim) if rows else []


class PickledRow(bytes):
    """A row that can only be unpickled; a file that holds one is only loaded with ``trust``."""


class CompressedListStorage(ListStorage):
    """Rows of any type as compressed bytes: images take a fraction of their memory.

    Args:
        max_size: Number of rows.
        compression_fn: ``bytes -> bytes``; zlib if ``None``.
        decompression_fn: Its inverse.
        compression_level: Of zlib: 1 is fast, 9 is small.
        device: Where samples go.
        compilable: As for :class:`Storage`.

    Raises:
        TypeError: unless both functions are given, or none.

    >>> storage = CompressedListStorage(2)
    >>> storage.set(0, torch.zeros(3, 64, 64))
    >>> storage.nbytes < 1000, storage.get(0).shape
    (True, torch.Size([3, 64, 64]))
    """

    def __init__(
        self,
        max_size: int,
        *,
        compression_fn: Codec | None = None,
        decompression_fn: Codec | None = None,
        compression_level: int = 3,
        device: torch.device | str = "cpu",
        compilable: bool = False,
    ) -> None:
        check_devices(self, device=device)
        if (compression_fn is None) != (decompression_fn is None):
            raise TypeError(describe(self, "takes both functions of a compression, or none"))
        super().__init__(max_size, compilable=compilable, device=device)
        self._pack = compression_fn or partial(zlib.compress, level=compression_level)
        self._unpack = decompression_fn or zlib.decompress

    @property
    def nbytes(self) -> int:
        """Bytes that the compressed rows take."""
        return sum(len(row) for row in self._list)

    def prepare(self, data: Data, many: bool) -> tuple[list[Data], int]:
        """Return the compressed rows of ``data``, and their number."""
        rows, count = super().prepare(data, many)
        return [self._compressed(row) for row in rows], count

    def row(self, slot: int) -> Data:
        """Return the row in a slot, decompressed."""
        return self._decompressed(self._list[slot])

    def _decompressed(self, row: bytes) -> Data:
        trust = isinstance(row, PickledRow)
        return load_file(io.BytesIO(self._unpack(row)), trust=trust, map_location=self.device)

    def _compressed(self, row: Data) -> bytes:
        stream = io.BytesIO()
        torch.save(row, stream)
        kind = bytes if isinstance(row, Tensor) or is_data(stream) else PickledRow
        return kind(self._pack(stream.getvalue()))

    _compresses = True

    def state_dict(self) -> State:
        """Return the compressed rows and the counts."""
        return {**super().state_dict(), "compressed": True}

    def saved_state(self, state: State, trust: bool) -> State:
        """Return the state that a file holds, as this version has it."""
        if "compressed" in state or not all(type(row) is bytes for row in state["rows"]):
            return state
        rows = state["rows"]  # of a version that pickled every row
        if trust:
            rows = [PickledRow(row) for row in rows]
        for row in rows:
            self._decompressed(row)  # says now what cannot be read without trust
        return {**state, "rows": rows, "compressed": True}


def unstack_rows(data: Data, owner: object) -> list[Data]:
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
    is_columns = isinstance(data, tuple) and len(data) > 0
    if is_columns and all(isinstance(x, Tensor | dict | tuple) or is_tensor_collection(x) for x in data):
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


def _check_lengths(columns: Mapping[Key, Sequence[Data]], owner: object) -> None:
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


def _own(row: Data, device: torch.device | None) -> Data:
    """Copy tensors, so that what happens to them outside does not happen to the stored row."""
    if is_tensor_collection(row) or isinstance(row, Tensor):
        row = row.detach()
        if device is None:
            return row.clone()
        is_elsewhere = row.device is not None and row.device.type != device.type  # then to() makes a copy
        return row.to(device) if is_elsewhere else row.clone().to(device)
    if isinstance(row, dict):
        return {name: _own(value, device) for name, value in row.items()}
    if type(row) in (list, tuple):
        return type(row)(_own(value, device) for value in row)
    return row


def _dig(row: Data, key: NestedKey) -> Data:
    if is_tensor_collection(row):
        return row.get(key, None)
    for part in (key,) if isinstance(key, str) else key:
        row = row.get(part) if isinstance(row, dict) else None
    return row


def _plant(row: Data, key: NestedKey, value: Tensor) -> None:
    """Put a value where :func:`_dig` found one."""
    if is_tensor_collection(row):
        row.set(key, value)
        return
    *path, last = (key,) if isinstance(key, str) else key
    for part in path:
        row = row[part]
    row[last] = value
