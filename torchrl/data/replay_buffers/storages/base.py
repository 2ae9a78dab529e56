"""`Storage`: a fixed number of slots with rows in them.

Legend: ``N`` rows, ``R`` slots, ``*W`` the further dimensions of a multi-dimensional storage,
``B`` items of a sample. An item is one element of ``[R, *W]``; its *position* is its row-major
number.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import NestedKey
from torch import Tensor

from torchrl._core.errors import ShapeError, WorkerError, describe
from torchrl._core.log import logger
from torchrl.data.replay_buffers.checkpointers import (
    ListStorageCheckpointer,
    StorageCheckpointerBase,
)
from torchrl.data.replay_buffers.storages.schema import (
    fitting,
    is_non_tensor,
    lead_shape,
    stack_rows,
)

WRITTEN, FILLED, EDITS, BEGUN, PENDING, ERA = MARKS = range(6)
OUT_OF_ORDER = -1  # rows PENDING that were not to follow the others
Place = int | slice | Tensor
LISTS = (list, range, np.ndarray)


class Storage(ABC):
    """Slots with rows in them, and a count of what was written.

    Args:
        max_size: Number of items that the slots can hold.
        ndim: Number of dimensions of the storage: a row holds ``[*W]`` items, ``ndim - 1`` sizes.

    Attributes:
        row_shape: ``[*W]``; empty until the first rows are seen.
        time_dim: Dimension along which rows follow one another in the data that a buffer takes and
            returns, where it is not the first: 1 for ``[W, R]``. The buffer sets it.
        width: Items in a row.
        capacity: Number of slots ``R``.

    Hooks:
        prepare: ``(data, many) -> (rows, N)``; checks everything before anything is written.
        _put: ``(place, rows, part)`` writes ``rows[part]`` to the slots ``place``.
        _get: ``place -> data``; ``place`` is what Python can index with.
        _take: ``positions [B] -> data [B]``.
        entry: ``(key, place) -> tensor``; one entry of the rows in the slots ``place``;
            ``has_entry`` says whether there is one.

    Besides, ``state_dict`` copies rows and counts, and ``load_state_dict`` takes them over;
    ``check_state`` says before whether it can, and ``blank`` returns an empty storage: override
    these two where the default is too slow.

    Raises:
        ValueError: if ``max_size`` or ``ndim`` is not positive.
    """

    time_dim: int = 0

    def __init__(self, max_size: int | float, ndim: int = 1) -> None:
        if max_size <= 0 or ndim < 1:
            raise ValueError(
                describe(self, "max_size and ndim must be positive", found=(max_size, ndim))
            )
        self.max_size, self.ndim = max_size, ndim
        self._settle(torch.Size())  # *W is known from the first rows on
        self._marks = torch.zeros(len(MARKS), dtype=torch.int64)
        self._counts = self._marks.numpy()

    def collate(self, rows: Sequence[Any]) -> Any:
        """Make a batch of a list of rows; objects that cannot be stacked stay a list."""
        return stack_rows(rows) if rows else []

    @abstractmethod
    def prepare(self, data: Any, many: bool) -> tuple[Any, int]: ...

    @abstractmethod
    def _put(self, place: Place, rows: Any, part: slice | None) -> None: ...

    @abstractmethod
    def _get(self, place: Any) -> Any: ...

    @abstractmethod
    def _take(self, positions: Tensor) -> Any: ...

    @abstractmethod
    def entry(self, key: NestedKey, place: Any) -> Tensor: ...

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
        """What differs whenever rows were written since it was last asked for."""
        return self._counts.tobytes()

    @property
    def shape(self) -> torch.Size:
        """Shape ``[R, *W]`` of what is stored."""
        return torch.Size([self.rows, *self.row_shape])

    def __len__(self) -> int:
        return self.rows * self.width

    @property
    def is_full(self) -> bool:
        """Whether every slot holds a row."""
        return self.rows == self.capacity

    def _settle(self, row_shape: torch.Size) -> None:
        """Fix the shape ``[*W]`` of a row, and with it ``width``, its number of items."""
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

    def learn_row_shape(self, data: Any, many: bool) -> None:
        """Take ``[*W]`` from the first rows, if it is not known yet."""
        if self.ndim > 1 and not self.row_shape:
            lead = lead_shape(data, self.ndim if many else self.ndim - 1, self)
            self._settle(lead[1:] if many else lead)

    def write_run(self, start: int, rows: Any, count: int) -> None:
        """Write ``count`` prepared rows to the slots from ``start`` on, around the end at need."""
        capacity, skip = self.capacity, 0
        if count > capacity:  # the first rows would be overwritten by the last
            skip = count - capacity
        at = (start + skip) % capacity
        fits = min(count - skip, capacity - at)
        whole = fits == count
        counts = self._counts
        in_order = start == counts[WRITTEN] % capacity
        counts[BEGUN], counts[PENDING] = counts[WRITTEN], count if in_order else OUT_OF_ORDER
        self._put(slice(at, at + fits), rows, None if whole else slice(skip, skip + fits))
        if skip + fits < count:
            self._put(slice(0, count - skip - fits), rows, slice(skip + fits, count))
        counts[WRITTEN if in_order else EDITS] += count if in_order else 1
        counts[FILLED] = max(counts[FILLED], min(start + count, capacity))
        counts[PENDING] = 0

    def write_row(self, slot: int, row: Any) -> None:
        """Write one prepared row to the slot that is next in the ring."""
        counts = self._counts
        begun = counts[BEGUN] = counts[WRITTEN]
        counts[PENDING] = 1
        self._put(slot, row, None)
        counts[WRITTEN] = begun + 1
        if slot >= counts[FILLED]:
            counts[FILLED] = slot + 1
        counts[PENDING] = 0

    def repair(self) -> None:
        """Make good what a process left that died while it wrote.

        Of rows that it wrote over, some may be half old and half new: copies of the newest whole
        row take their place. Rows that it added are not there.

        Raises:
            WorkerError: if it wrote out of order, so that nobody knows which rows to trust.
        """
        begun, pending = self._counts[[BEGUN, PENDING]].tolist()
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
        if self.written > begun:  # they are whole, it only had no time to say so
            self._counts[FILLED] = min(max(self.written, self.rows), self.capacity)
        elif pending >= self.rows:
            self.empty()
        else:
            torn = torch.arange(begun, begun + pending) % self.capacity
            torn = torn[torn < self.rows]
            if len(torn):
                name = type(self).__name__
                logger.warning("%s: a process died while it wrote %d rows", name, len(torn))
                self.set(torn, self.get(torch.full_like(torn, (begun - 1) % self.capacity)))
        self._counts[PENDING] = 0

    def set(self, index: Any, data: Any) -> None:
        """Write one row to the slot ``index``, or rows ``[N]`` to several slots.

        Raises:
            IndexError: if a slot lies outside the storage, or would leave a hole.
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

    def _place(self, index: Any, count: int) -> int | Tensor:
        """Turn an index into a slot or slots ``[N]`` that may be written without leaving a hole."""
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
            raise IndexError(
                describe(self, "slot out of range", expected=f"[0, {self.capacity})", found=slots)
            )
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

    def slots_of(self, index: Any) -> Tensor:
        """Return the slot ``[]`` or slots ``[N]`` that an index of rows to write stands for."""
        if isinstance(index, slice):
            stop = index.stop if index.stop is not None else self.rows
            index = range(*slice(index.start, stop, index.step).indices(self.capacity))
        slots = torch.as_tensor(index)
        if slots.dtype is torch.bool:
            slots = slots.nonzero().squeeze(-1)
        return torch.where(slots < 0, slots + self.rows, slots)

    def get(self, index: Any) -> Any:
        """Return the row in the slot ``index``, or the rows of several.

        ``index`` is what a list or tensor ``[R, *W]`` can be indexed with. Slices of a storage of
        tensors are views of it.

        Raises:
            IndexError: if a slot holds no row.
        """
        return self._get(self._readable(index))

    def _readable(self, index: Any) -> Any:
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
            raise IndexError(
                describe(self, "a slot holds no row", expected=f"[{-rows}, {rows})", found=index)
            )
        return torch.where(slots < 0, slots + rows, slots)

    def take(self, positions: Tensor) -> Any:
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

    def flatten(self) -> Storage:
        """Return a storage ``[N]`` of the items that are stored: itself, if it has one dimension.

        What is written to the one is written to the other, if they are storages of tensors.
        """
        return self

    def items_of(self, slots: Tensor) -> Tensor:
        """Return the positions ``[N * W]`` of the items in the slots ``[N]``."""
        if self.ndim == 1:
            return slots
        width = self.width
        return (slots.unsqueeze(-1) * width + torch.arange(width)).flatten()

    def coordinates(self, positions: Tensor) -> Tensor:
        """Turn positions into an index of the buffer: the same in one dimension.

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

    def positions(self, index: Any) -> Tensor:
        """Turn an index, as :meth:`coordinates` makes them, into positions ``[*I]``."""
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

    # --- rows and items in the order of dimensions of the data, where time is not the first ------

    def positions_at(self, index: Any) -> Tensor:
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

    def place_at(self, index: Any) -> Any:
        """Return what :meth:`get` and :meth:`set_entries` take for ``buffer[index]``."""
        return self._place_of_items(self.positions_at(index)) if self.time_dim else index

    def read(self, index: Any) -> Any:
        """Return the items ``buffer[index]``."""
        if not self.time_dim:
            return self.get(index)
        positions = self.positions_at(index)
        return self.take(positions.flatten()).reshape(positions.shape)

    def whole_rows(self, index: Any) -> Tensor | None:
        """Return the slots ``[]`` or ``[N]`` of which ``buffer[index]`` is all, if it is."""
        if not self.time_dim:
            return self.slots_of(index)
        parts = self._full_index(index)
        others = [part for dim, part in enumerate(parts) if dim != self.time_dim]
        every = all(isinstance(part, slice) and part == slice(None) for part in others)
        if len(parts) != self.ndim or not every:
            return None
        return self.slots_of(parts[self.time_dim])

    def set_items(self, positions: Tensor, data: Any) -> None:
        """Replace the items at ``positions [*I]`` by those of a tensordict ``[*I]``.

        Raises:
            MissingKeyError, UnexpectedKeyError, ShapeError, DTypeError: if they do not look like
                what is stored; nothing is written then.
        """
        slots, row = (positions // self.width).unique(return_inverse=True)
        within = self._place_of_items(positions)[1:]
        rows = self.get(slots).clone()
        rows[(row, *within)] = data
        self.set(slots, rows)

    def _full_index(self, index: Any) -> tuple[Any, ...]:
        """Return an index with a part for each dimension, without an ellipsis.

        Raises:
            IndexError: if it has more parts than there are dimensions.
        """
        parts = list(index) if isinstance(index, tuple) else [index]
        parts = [torch.as_tensor(part) if isinstance(part, LISTS) else part for part in parts]
        missing = self.ndim - sum(_dimensions_of(part) for part in parts)
        if missing < 0:
            raise IndexError(
                describe(
                    self, "too many indices", expected=f"at most {self.ndim}", found=len(parts)
                )
            )
        gaps = [number for number, part in enumerate(parts) if part is Ellipsis] or [len(parts)]
        return (*parts[: gaps[0]], *(slice(None),) * missing, *parts[gaps[0] + 1 :])

    def generations(self, positions: Tensor) -> Tensor:
        """Return how often the slots of the items at ``positions [B]`` have been filled anew.

        An item and what takes its place differ in this number; what changes in place keeps it.
        """
        newest = self.written - 1 - positions // self.width
        return newest.div(self.capacity, rounding_mode="floor") + int(self._counts[ERA])

    def set_entries(self, values: Mapping[NestedKey, Any], index: Any) -> None:
        """Replace entries of the rows ``get(index)``; what else is in these rows stays.

        Raises:
            MissingKeyError, ShapeError, DTypeError: if a value does not look like what is stored;
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
        """Forget all rows; keep the memory and what a row looks like."""
        counts = self._counts
        era = counts[ERA] - (-counts[WRITTEN] // self.capacity)
        counts[:] = (0, 0, counts[EDITS] + 1, 0, 0, era)

    def share(self) -> None:
        """Move rows and counts to memory that other processes see.

        Raises:
            RuntimeError: if this storage cannot be shared.
        """
        raise RuntimeError(
            describe(
                self,
                "cannot be shared between processes",
                hint="LazyTensorStorage and LazyMemmapStorage can.",
            )
        )

    def lock(self) -> Any:
        """Return the lock that buffers of this storage take, if processes share it by its name."""
        return None

    checkpointer: StorageCheckpointerBase = ListStorageCheckpointer()

    def dumps(self, path: str | Path) -> None:
        """Write rows and counts to the folder ``path``, as the checkpointer does."""
        self.checkpointer.dumps(self, path)

    def loads(self, path: str | Path, *, trust: bool = False) -> None:
        """Take over what :meth:`dumps` wrote; ``trust`` runs code of the files, if there is any.

        Raises:
            UntrustedFileError: if they hold objects that can only be unpickled, without ``trust``.
        """
        self.load_state_dict(self.checkpointer.read(self, Path(path), trust))

    @abstractmethod
    def state_dict(self) -> dict[str, Any]: ...

    @abstractmethod
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...

    def check_state(self, state_dict: dict[str, Any]) -> None:
        """Raise what :meth:`load_state_dict` would raise, and change nothing.

        By default the state is loaded, and then the one of before again.
        """
        rehearse(self, state_dict)

    def blank(self) -> Storage:
        """Return an empty storage in memory that takes the same rows."""
        twin = copy.deepcopy(self)
        twin.empty()
        return twin

    @property
    def counts(self) -> list[int]:
        """Numbers of rows written in ring order since the start, of rows there, and of rounds."""
        return self._counts[[WRITTEN, FILLED, ERA]].tolist()

    def load_counts(self, counts: list[int], row_shape: list[int]) -> None:
        """Take over the :attr:`counts` and the shape ``[*W]`` of rows that were brought in.

        Raises:
            ShapeError: if the rows are a full ring of another size: going on, the next ones would
                not replace the oldest.
        """
        self._check_counts(counts, row_shape)
        self._settle(torch.Size(row_shape))
        self._counts[[WRITTEN, FILLED, ERA]] = counts
        self._counts[EDITS] += 1
        self._counts[PENDING] = 0

    def _check_counts(self, counts: list[int], row_shape: list[int]) -> None:
        """Raise what :meth:`load_counts` would raise."""
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


def rehearse(part: Any, state: Any) -> None:
    """Raise what ``part.load_state_dict(state)`` raises, and leave the part as it is."""
    before = copy.deepcopy(part.state_dict())
    try:
        part.load_state_dict(copy.deepcopy(state))
    finally:
        part.load_state_dict(before)


def _dimensions_of(part: Any) -> int:
    """Return how many dimensions a part of an index takes."""
    if part is None or part is Ellipsis:
        return 0
    return part.ndim if isinstance(part, Tensor) and part.dtype is torch.bool else 1
