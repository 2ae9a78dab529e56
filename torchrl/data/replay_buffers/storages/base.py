"""`Storage`: rows in a fixed number of slots. `StorageEnsemble`: several storages.

Legend: ``N`` rows, ``R`` slots, ``*W`` the further dimensions of a multi-dimensional storage,
``B`` items of a sample.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import NestedKey
from torch import Tensor

from torchrl._core.errors import DTypeError, ShapeError, WorkerError, describe
from torchrl._core.log import logger
from torchrl.data.replay_buffers.checkpointers import ListStorageCheckpointer, StorageCheckpointerBase
from torchrl.data.replay_buffers.data_types import Convert, Data, Index, State
from torchrl.data.replay_buffers.storages.schema import fitting, is_non_tensor, lead_shape, stack_rows

WRITTEN, FILLED, EDITS, STARTED, PENDING, ERA = HEADER_COUNTERS = range(6)
OUT_OF_ORDER = -1  # rows PENDING that were not to follow the others
Place = int | slice | Tensor
LISTS = (list, range, np.ndarray)


class Storage(ABC):
    """Keeps rows in slots, and counts the rows that were written.

    A *slot* holds one *row* of ``width`` items. The *position* of an item is its row-major number.
    Of a storage of 5 slots with rows of 2 items (``max_size=10``, ``ndim=2``), after 7 rows::

        slot        0      1      2      3      4        capacity = 5    rows = 5
        row         5      6      2      3      4        width    = 2    len  = 10
        positions   0 1    2 3    4 5    6 7    8 9      written  = 7

    The next row is written to slot ``written % capacity``, here 2. In a storage of one dimension,
    rows are items and slots are positions.

    Rows are read and written by index, ``storage[3:5]``, and iterated over.

    Args:
        max_size: Number of items that the slots can hold.
        ndim: Number of dimensions of the storage: a row holds ``[*W]`` items, ``ndim - 1`` sizes.
        checkpointer: Writes rows to disk; that of the class if ``None``.
        compilable: Whether functions that call the storage are compiled. It changes nothing: what
            ``torch.compile`` needs is made by a buffer with ``compilable=True``.

    Attributes:
        row_shape: ``[*W]``; empty until the first rows are written.
        time_dim: Dimension of time in the data that a buffer takes and returns, if it is not the
            first: 1 for ``[W, R]``. The buffer sets it.
        width: Items in a row.
        capacity: Number of slots ``R``.

    Hooks:
        prepare: ``(data, many) -> (rows, N)``; checks everything before anything is written.
        _put: ``(place, rows, part)`` writes ``rows[part]`` to the slots ``place``.
        _get: ``place -> data``; ``place`` is an index of Python.
        _take: ``positions [B] -> data [B]``, or a list.
        entry: ``(key, place) -> tensor``: one entry of the rows in the slots ``place``.
        has_entry: ``key -> bool``.
        state_dict: ``-> state``: a copy of rows and counts.
        load_state_dict: ``state -> None``; ends with :meth:`load_counts`.

    Hooks with a default, to be overridden if that is too slow or does not fit:
        collate: ``list of rows -> batch``.
        take_entry: ``(key, positions [B]) -> tensor [B, *F]``.
        set_entries, set_items, read: replace entries, replace items, read by index.
        flatten: ``-> storage [N]`` of the same items.
        empty: Delete all rows.
        widen: ``(rows, lead) -> None``; adds the entries of rows that are not stored yet.
        check_state: Raise the errors of ``load_state_dict`` without loading.
        blank: ``-> storage``, an empty one in memory for the same rows.
        share, lock: Move to shared memory; the lock of processes that open the same storage.

    Raises:
        ValueError: if ``max_size`` or ``ndim`` is not positive.

    >>> from torchrl.data import LazyTensorStorage
    >>> storage = LazyTensorStorage(5)
    >>> storage.set(range(3), torch.arange(3))
    >>> len(storage), storage.capacity, storage[1:]
    (3, 5, tensor([1, 2]))
    """

    time_dim: int = 0

    def __init__(
        self,
        max_size: int | float,
        ndim: int = 1,
        *,
        checkpointer: StorageCheckpointerBase | None = None,
        compilable: bool = False,
    ) -> None:
        if max_size <= 0 or ndim < 1:
            raise ValueError(describe(self, "max_size and ndim must be positive", found=(max_size, ndim)))
        check_flags(self, compilable=compilable)
        self.compilable = compilable
        if checkpointer is not None:
            self.checkpointer = checkpointer
        self.max_size, self.ndim = max_size, ndim
        self._set_row_shape(torch.Size())  # *W is known from the first rows on
        self._marks = torch.zeros(len(HEADER_COUNTERS), dtype=torch.int64)
        self._counts = self._marks.numpy()

    def collate(self, rows: Sequence[Data]) -> Data:
        """Make a batch of a list of rows; objects that cannot be stacked stay a list."""
        return stack_rows(rows) if rows else []

    @abstractmethod
    def prepare(self, data: Data, many: bool) -> tuple[Data, int]: ...

    @abstractmethod
    def _put(self, place: Place, rows: Data, part: slice | None) -> None: ...

    @abstractmethod
    def _get(self, place: Index) -> Data: ...

    @abstractmethod
    def _take(self, positions: Tensor) -> Data: ...

    @abstractmethod
    def entry(self, key: NestedKey, place: Index) -> Tensor: ...

    @abstractmethod
    def has_entry(self, key: NestedKey) -> bool: ...

    @property
    def rows(self) -> int:
        """Number of slots that hold a row."""
        return int(self._counts[FILLED])

    @property
    def written(self) -> int:
        """Number of rows written in ring order since the start."""
        return int(self._counts[WRITTEN])

    @property
    def edits(self) -> int:
        """Number of times that rows were written out of ring order."""
        return int(self._counts[EDITS])

    @property
    def version(self) -> bytes:
        """A value that differs after each change of the rows."""
        return self._counts.tobytes()

    @property
    def shape(self) -> torch.Size:
        """Shape ``[R, *W]`` of what is stored."""
        return torch.Size([self.rows, *self.row_shape])

    @property
    def item_shape(self) -> torch.Size:
        """Batch size of an item; empty unless items are batches themselves."""
        return torch.Size()

    def __len__(self) -> int:
        return self.rows * self.width

    @property
    def is_full(self) -> bool:
        """Whether every slot holds a row."""
        return self.rows == self.capacity

    def __getitem__(self, index: Index) -> Data:
        """Return the row in a slot, or the rows of several: see :meth:`get`."""
        return self.get(index)

    def __setitem__(self, index: Index, data: Data) -> None:
        """Replace the row in a slot, or the rows of several: see :meth:`set`."""
        self.set(index, data)

    def __iter__(self) -> Iterator[Data]:
        return (self.get(slot) for slot in range(self.rows))

    def contains(self, index: Index) -> bool | Tensor:
        """Return whether slots hold rows: a bool for a number, bool ``[N]`` for several."""
        if isinstance(index, slice):
            index = range(*index.indices(self.capacity))
        slots = torch.as_tensor(index)
        held = (slots >= -self.rows) & (slots < self.rows)
        return held if slots.ndim else bool(held)

    def __contains__(self, index: Index) -> bool:
        return bool(torch.as_tensor(self.contains(index)).all())

    def _set_row_shape(self, row_shape: torch.Size) -> None:
        """Set the shape ``[*W]`` of a row, ``width`` and ``capacity``."""
        if row_shape.numel() > self.max_size:
            raise ShapeError(
                describe(
                    self,
                    "one row has more items than the storage",
                    expected=f"at most {self.max_size}",
                    found=list(row_shape),
                )
            )
        self.row_shape, self.width = row_shape, row_shape.numel()
        unbounded = isinstance(self.max_size, float)
        self.capacity = 2**62 if unbounded else int(self.max_size) // self.width

    def learn_row_shape(self, data: Data, many: bool) -> None:
        """Set ``[*W]`` from the first rows, if it is not set yet."""
        if self.ndim > 1 and not self.row_shape:
            lead = lead_shape(data, self.ndim if many else self.ndim - 1, self)
            self._set_row_shape(lead[1:] if many else lead)

    def write_run(self, start: int, rows: Data, count: int) -> None:
        """Write ``count`` prepared rows to the slots from ``start`` on, modulo the capacity."""
        capacity, skip = self.capacity, 0
        if count > capacity:  # the first rows would be overwritten by the last
            skip = count - capacity
        at = (start + skip) % capacity
        fits = min(count - skip, capacity - at)
        whole = fits == count
        counts = self._counts
        in_order = start == counts[WRITTEN] % capacity
        counts[STARTED], counts[PENDING] = counts[WRITTEN], count if in_order else OUT_OF_ORDER
        self._put(slice(at, at + fits), rows, None if whole else slice(skip, skip + fits))
        if skip + fits < count:
            self._put(slice(0, count - skip - fits), rows, slice(skip + fits, count))
        counts[WRITTEN if in_order else EDITS] += count if in_order else 1
        counts[FILLED] = max(counts[FILLED], min(start + count, capacity))
        counts[PENDING] = 0

    def write_row(self, slot: int, row: Data) -> None:
        """Write one prepared row to the slot that is next in the ring."""
        counts = self._counts
        started = counts[STARTED] = counts[WRITTEN]
        counts[PENDING] = 1
        self._put(slot, row, None)
        counts[WRITTEN] = started + 1
        if slot >= counts[FILLED]:
            counts[FILLED] = slot + 1
        counts[PENDING] = 0

    def repair_after_crash(self) -> None:
        """Repair the rows that a process was writing when it died.

        Rows that it was overwriting may be incomplete: they are replaced by copies of the newest
        complete row. Rows that it was adding are dropped.

        Raises:
            WorkerError: if it wrote out of order, so that the incomplete rows are not known.
        """
        started, pending = self._counts[[STARTED, PENDING]].tolist()
        if not pending:
            return
        if pending == OUT_OF_ORDER:
            raise WorkerError(
                describe(
                    self,
                    "a process died while it replaced rows, and may have left one half written",
                    hint="Load a save into a new buffer.",
                )
            )
        if self.written > started:  # the rows are complete, the counts are not
            self._counts[FILLED] = min(max(self.written, self.rows), self.capacity)
        elif pending >= self.rows:
            self.empty()
        else:
            torn = torch.arange(started, started + pending) % self.capacity
            torn = torn[torn < self.rows]
            if len(torn):
                name = type(self).__name__
                logger.warning("%s: a process died while it wrote %d rows", name, len(torn))
                self.set(torn, self.get(torch.full_like(torn, (started - 1) % self.capacity)))
        self._counts[PENDING] = 0

    def set(self, index: Index, data: Data) -> None:
        """Write one row to the slot ``index``, or rows ``[N]`` to several slots.

        Raises:
            IndexError: if a slot lies outside the storage, or a lower slot would stay empty.
        """
        many = not isinstance(index, int)
        rows, count = self.prepare(data, many)
        place = self._place(index, count)
        self._counts[PENDING] = OUT_OF_ORDER
        self._put(place, rows, None)
        self._counts[EDITS] += 1
        last = place.max().item() + 1 if isinstance(place, Tensor) else place + 1
        self._counts[FILLED] = max(self._counts[FILLED], last)
        self._counts[PENDING] = 0

    def _place(self, index: Index, count: int) -> int | Tensor:
        """Return the slot or slots ``[N]`` of an index; all slots below them must hold a row."""
        place = self.slots_of(index)
        if place.ndim and place.shape != (count,):
            raise ShapeError(
                describe(
                    self,
                    "as many slots as rows are needed",
                    expected=[count],
                    found=list(place.shape),
                    hint="Nothing was written.",
                )
            )
        slots = place.unique().tolist()
        new = [slot for slot in slots if slot >= self.rows]
        if slots and (slots[0] < 0 or slots[-1] >= self.capacity):
            raise IndexError(describe(self, "slot out of range", expected=f"[0, {self.capacity})", found=slots))
        if new != list(range(self.rows, self.rows + len(new))):
            raise IndexError(
                describe(
                    self,
                    "a slot would stay empty below a written one",
                    expected=f"slots up to {self.rows}",
                    found=new[:3],
                    hint="Nothing was written. Fill the slots in order.",
                )
            )
        return place if place.ndim else int(place)

    def slots_of(self, index: Index) -> Tensor:
        """Return the slot ``[]`` or slots ``[N]`` of an index of rows to write."""
        if isinstance(index, slice):
            stop = index.stop if index.stop is not None else self.rows
            index = range(*slice(index.start, stop, index.step).indices(self.capacity))
        slots = torch.as_tensor(index)
        if slots.dtype is torch.bool:
            slots = slots.nonzero().squeeze(-1)
        return torch.where(slots < 0, slots + self.rows, slots)

    def get(self, index: Index) -> Data:
        """Return the row in the slot ``index``, or the rows of several.

        ``index`` is any index of a tensor ``[R, *W]``. Slices of a storage of
        tensors are views of it.

        Raises:
            IndexError: if a slot holds no row.
        """
        return self._get(self._readable(index))

    def _readable(self, index: Index) -> Index:
        rows = self.rows
        if isinstance(index, slice):
            return slice(*index.indices(rows))
        if isinstance(index, int):
            if not -rows <= index < rows:
                raise IndexError(describe(self, f"slot {index} holds no row", found=f"{rows} rows"))
            return index % rows
        if isinstance(index, tuple):
            return (self._readable(index[0]), *index[1:]) if index else slice(0, rows)
        if index is Ellipsis:
            return slice(0, rows)
        slots = torch.as_tensor(index)
        if slots.dtype is torch.bool:
            slots = slots.nonzero().squeeze(-1)
        if slots.numel() and not (-rows <= int(slots.min()) and int(slots.max()) < rows):
            raise IndexError(describe(self, "a slot holds no row", expected=f"[{-rows}, {rows})", found=index))
        return torch.where(slots < 0, slots + rows, slots)

    def take(self, positions: Tensor) -> Data:
        """Return the items ``[B]`` at row-major positions ``[B]``."""
        return self._take(positions)

    def take_entry(self, key: NestedKey, positions: Tensor) -> Tensor:
        """Return one entry ``[B, *F]`` of the items at positions ``[B]``.

        Raises:
            MissingKeyError: if items have no such entry.
        """
        if self.ndim == 1:
            return self.entry(key, positions)
        return self.entry(key, torch.unravel_index(positions, (self.capacity, *self.row_shape)))

    def widen(self, rows: Data, lead: int) -> None:
        """Make place for entries of rows that are not stored yet, zero in all rows.

        Args:
            rows: Rows or items ``[*lead, *F]`` that are about to be written.
            lead: Number of their leading dimensions.
        """

    def flatten(self) -> Storage:
        """Return a storage ``[N]`` of the items that are stored: itself, if it has one dimension.

        Storages of tensors share their memory.
        """
        return self

    def items_of(self, slots: Tensor) -> Tensor:
        """Return the positions ``[N * W]`` of the items in the slots ``[N]``."""
        if self.ndim == 1:
            return slots
        width = self.width
        return (slots.unsqueeze(-1) * width + torch.arange(width)).flatten()

    def index_of(self, slots: Tensor) -> Tensor:
        """Return the index in the buffer of what is in the slots ``[N]``: the slots in one dimension.

        In several it is ``[N * W, ndim]``, one row for each item, in the order of the data; -1 in
        place of items of slots of -1, that are not stored.
        """
        if self.ndim == 1:
            return slots
        items = self.items_of(slots.clamp_min(0)).view(len(slots), *self.row_shape)  # [N, *W]
        index = self.coordinates(items)
        index[slots < 0] = -1
        return index.transpose(0, self.time_dim).reshape(-1, self.ndim)

    def coordinates(self, positions: Tensor) -> Tensor:
        """Return the index in the buffer of positions ``[*I]``: the same in one dimension.

        In several it is ``[*I, ndim]``, in the order of the dimensions of the data.
        """
        if self.ndim == 1:
            return positions
        index = list(self._place_of_items(positions))
        index[0], index[self.time_dim] = index[self.time_dim], index[0]
        return torch.stack(index, -1)

    def _place_of_items(self, positions: Tensor) -> tuple[Tensor, ...]:
        """Return slots and places within rows ``[*I]`` of the items at ``positions [*I]``."""
        return torch.unravel_index(positions, (self.capacity, *self.row_shape))

    def positions(self, index: Index) -> Tensor:
        """Return the positions ``[*I]`` of an index: the inverse of :meth:`coordinates`."""
        if isinstance(index, tuple):
            index = torch.stack([torch.as_tensor(i) for i in index], -1)
        index = torch.as_tensor(index)
        if self.ndim == 1:
            return index.squeeze(-1) if index.ndim > 1 and index.shape[-1] == 1 else index
        if index.shape[-1:] != (self.ndim,):
            raise ShapeError(
                describe(
                    self,
                    "an index of a multi-dimensional storage has one number for each dimension",
                    expected=f"[*, {self.ndim}]",
                    found=list(index.shape),
                )
            )
        columns = list(index.unbind(-1))
        columns[0], columns[self.time_dim] = columns[self.time_dim], columns[0]
        out = columns[0]
        for size, column in zip(self.row_shape, columns[1:], strict=True):
            out = out * size + column
        return out

    # --- rows and items by an index of the data, in which time need not be the first dimension ---

    def positions_at(self, index: Index) -> Tensor:
        """Return the positions ``[*I]`` of the stored items ``buffer[index]``."""
        grid = torch.arange(len(self)).view(self.rows, *self.row_shape).transpose(0, self.time_dim)
        place = self._full_index(index)
        try:
            return grid[place]
        except IndexError as error:
            raise IndexError(
                describe(
                    self,
                    "the index leads to a place that holds no row",
                    expected=f"places in {list(grid.shape)}",
                    found=index,
                )
            ) from error

    def place_at(self, index: Index) -> Index:
        """Return the index of ``buffer[index]`` for :meth:`get` and :meth:`set_entries`."""
        return self._place_of_items(self.positions_at(index)) if self.time_dim else index

    def read(self, index: Index) -> Data:
        """Return the items ``buffer[index]``."""
        if not self.time_dim:
            return self.get(index)
        positions = self.positions_at(index)
        return self.take(positions.flatten()).reshape(positions.shape)

    def whole_rows(self, index: Index) -> Tensor | None:
        """Return the slots ``[]`` or ``[N]`` if ``buffer[index]`` is whole rows, else ``None``."""
        if not self.time_dim:
            return self.slots_of(index)
        parts = self._full_index(index)
        others = [part for dim, part in enumerate(parts) if dim != self.time_dim]
        every = all(isinstance(part, slice) and part == slice(None) for part in others)
        if len(parts) != self.ndim or not every:
            return None
        return self.slots_of(parts[self.time_dim])

    def set_items(self, positions: Tensor, data: Data) -> None:
        """Replace the items at ``positions [*I]`` by those of a tensordict ``[*I]``.

        Raises:
            MissingKeyError, UnexpectedKeyError, ShapeError, DTypeError: if they do not fit
                the stored rows; nothing is written then.
        """
        slots, row = (positions // self.width).unique(return_inverse=True)
        within = self._place_of_items(positions)[1:]
        rows = self.get(slots).clone()
        rows[(row, *within)] = data
        self.set(slots, rows)

    def _full_index(self, index: Index) -> tuple[Index, ...]:
        """Return an index with one part for each dimension, without an ellipsis.

        Raises:
            IndexError: if it has more parts than there are dimensions.
        """
        parts = list(index) if isinstance(index, tuple) else [index]
        parts = [torch.as_tensor(part) if isinstance(part, LISTS) else part for part in parts]
        selecting = [part for part in parts if part is not None and part is not Ellipsis]
        masks = [part for part in selecting if isinstance(part, Tensor) and part.dtype is torch.bool]
        missing = self.ndim - len(selecting) - sum(mask.ndim - 1 for mask in masks)
        if missing < 0:
            raise IndexError(describe(self, "too many indices", expected=f"at most {self.ndim}", found=len(parts)))
        gaps = [number for number, part in enumerate(parts) if part is Ellipsis] or [len(parts)]
        return (*parts[: gaps[0]], *(slice(None),) * missing, *parts[gaps[0] + 1 :])

    def generations(self, positions: Tensor) -> Tensor:
        """Return how often the slots of the items at ``positions [B]`` were overwritten.

        An item and the one that replaces it differ in this number; edits in place do not change it.
        """
        newest = self.written - 1 - positions // self.width
        return newest.div(self.capacity, rounding_mode="floor") + int(self._counts[ERA])

    def set_entries(self, values: Mapping[NestedKey, Data], index: Index) -> None:
        """Replace entries of the rows ``get(index)``; their other entries stay.

        Raises:
            MissingKeyError, ShapeError, DTypeError: if a value does not fit the stored rows;
                nothing is written then.
        """
        every = slice(0, self.rows)
        rows, place = self.get(every).clone(), self._readable(index)
        for key, value in values.items():
            if is_non_tensor(value):
                rows[place] = rows[place].set(key, value)
                continue
            old = self.entry(key, place)
            rows.get(key)[place] = fitting(self, key, old, value).to(old.device)
        self.set(every, rows)

    def empty(self) -> None:
        """Delete all rows; the memory and the layout of a row stay."""
        counts = self._counts
        era = counts[ERA] - (-counts[WRITTEN] // self.capacity)
        counts[:] = (0, 0, counts[EDITS] + 1, 0, 0, era)

    def share(self) -> None:
        """Move rows and counts to shared memory.

        Raises:
            RuntimeError: if this storage cannot be shared.
        """
        raise RuntimeError(
            describe(self, "cannot be shared between processes", hint="LazyTensorStorage and LazyMemmapStorage can.")
        )

    def lock(self) -> Any:
        """Return the lock of processes that open the storage by its name, if they can."""
        return None

    checkpointer: StorageCheckpointerBase = ListStorageCheckpointer()

    def dumps(self, path: str | Path) -> None:
        """Write rows and counts to the folder ``path`` with the checkpointer."""
        self.checkpointer.dumps(self, path)

    def loads(self, path: str | Path, *, trust: bool = False) -> None:
        """Load the files of :meth:`dumps`; ``trust`` unpickles objects, which runs their code.

        Raises:
            UntrustedFileError: if they hold objects that can only be unpickled, without ``trust``.
        """
        self.load_state_dict(self.checkpointer.read(self, Path(path), trust))

    @abstractmethod
    def state_dict(self) -> State: ...

    @abstractmethod
    def load_state_dict(self, state_dict: State) -> None: ...

    def check_state(self, state_dict: State) -> None:
        """Raise the errors of :meth:`load_state_dict` without loading.

        By default the state is loaded, and then the previous one again.
        """
        check_by_loading(self, state_dict)

    def blank(self) -> Storage:
        """Return an empty storage in memory that takes the same rows."""
        empty = copy.deepcopy(self)
        empty.empty()
        return empty

    @property
    def counts(self) -> list[int]:
        """Numbers of rows written in ring order, of rows stored, and of the era of generations."""
        return self._counts[[WRITTEN, FILLED, ERA]].tolist()

    def load_counts(self, counts: list[int], row_shape: list[int]) -> None:
        """Set the :attr:`counts` and the shape ``[*W]`` of rows that were loaded.

        Raises:
            ShapeError: if the rows are a full ring of another size: the next rows would not replace
                the oldest.
        """
        self._check_counts(counts, row_shape)
        self._set_row_shape(torch.Size(row_shape))
        self._counts[[WRITTEN, FILLED, ERA]] = counts
        self._counts[EDITS] += 1
        self._counts[PENDING] = 0

    def _check_counts(self, counts: list[int], row_shape: list[int]) -> None:
        """Raise the errors of :meth:`load_counts`."""
        written, rows, _ = counts
        unbounded, width = isinstance(self.max_size, float), torch.Size(row_shape).numel()
        capacity = 2**62 if unbounded else int(self.max_size) // max(width, 1)
        if not 0 <= rows <= capacity:
            raise ShapeError(
                describe(
                    self,
                    "the saved rows do not fit",
                    expected=f"at most {capacity} rows of {list(row_shape)}",
                    found=f"{rows} rows",
                    hint="Load them into a buffer built like the saved one.",
                )
            )
        if written > rows != capacity:
            raise ShapeError(
                describe(
                    self,
                    "the saved rows are a full ring of another size",
                    expected=f"{capacity} rows",
                    found=rows,
                    hint="Load them into a buffer of that size, then hand its read_all_in_order() "
                    "to write_all() of this one.",
                )
            )


class StorageEnsemble:
    """The storages of several buffers, indexed as one: number of the storage, then rows.

    Args:
        *storages: One for each buffer.
        transforms: For each storage, a callable ``data -> data`` that its samples go through, or
            ``None``.

    Raises:
        ValueError: if there are not as many transforms as storages.

    >>> from torchrl.data import ListStorage
    >>> first, second = ListStorage(2), ListStorage(2)
    >>> second.set(0, "here")
    >>> storages = StorageEnsemble(first, second)
    >>> storages[1, 0], len(storages)
    ('here', 1)
    """

    def __init__(self, *storages: Storage, transforms: Sequence[Convert | None] | None = None) -> None:
        self.storages = list(storages)
        self.transforms = [None] * len(storages) if transforms is None else list(transforms)
        if len(self.transforms) != len(storages):
            raise ValueError(
                describe(
                    self,
                    "takes a transform, or None, for each storage",
                    expected=len(storages),
                    found=len(self.transforms),
                )
            )

    def __getitem__(self, index: Index) -> Data:
        """Return a storage, or, of a pair, the rows ``index[1]`` of storage ``index[0]``."""
        if not isinstance(index, tuple):
            return self.storages[index]
        number, rows = index
        data, transform = self.storages[number].get(rows), self.transforms[number]
        return data if transform is None else transform(data)

    def __len__(self) -> int:
        return sum(len(storage) for storage in self.storages)


def check_flags(owner: object, **flags: object) -> None:
    """Raise :class:`DTypeError` unless each flag is true or false."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise DTypeError(describe(owner, f"{name} is a flag", expected="True or False", found=value))


def check_by_loading(part: Any, state: State) -> None:
    """Raise the errors of ``part.load_state_dict(state)``; its state stays."""
    before = copy.deepcopy(part.state_dict())
    try:
        part.load_state_dict(copy.deepcopy(state))
    finally:
        part.load_state_dict(before)
