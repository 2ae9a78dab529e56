"""`TensorStorage`, `LazyTensorStorage`: one tensor per entry; a sample is one gather per entry."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from tensordict import NestedKey, TensorDict, is_tensor_collection
from torch import Tensor

from torchrl._core.devices import check_devices
from torchrl._core.errors import DTypeError, MissingKeyError, ShapeError, describe, nearest
from torchrl.data.replay_buffers.checkpointers import (
    StorageCheckpointerBase,
    TensorStorageCheckpointer,
)
from torchrl.data.replay_buffers.storages.base import (
    EDITS,
    FILLED,
    OUT_OF_ORDER,
    PENDING,
    WRITTEN,
    Place,
    Storage,
)
from torchrl.data.replay_buffers.storages.homes import Home, SharedMemory
from torchrl.data.replay_buffers.storages.packed import (
    BULK,
    NUMPY_DTYPES,
    BulkWriter,
    Group,
    GroupReader,
    RowWriter,
    groups_of,
)
from torchrl.data.replay_buffers.storages.schema import (
    Schema,
    array_of_lists,
    as_tensors,
    fitting,
    is_non_tensor,
    lead_shape,
    stack_rows,
)

Allocate = Callable[[int, int], Tensor]


class TensorStorage(Storage):
    """Rows in given tensors: what they hold is stored, and what is written goes into them.

    Args:
        storage: A tensordict, tensorclass, tensor, or dicts and tuples of tensors ``[R, *W, *F]``.
        max_size: Number of items; all that ``storage`` has if ``None``.
        device: Where samples go; ``"auto"`` is where the data are.
        ndim: Number of leading dimensions ``[R, *W]`` that count items.

    Raises:
        MissingKeyError, UnexpectedKeyError, ShapeError, DTypeError: when rows that do not match
            the stored ones are written; nothing is written then.

    >>> from tensordict import TensorDict
    >>> storage = TensorStorage(TensorDict(a=torch.arange(3), batch_size=[3]))
    >>> len(storage), storage.get(1)["a"]
    (3, tensor(1))
    """

    checkpointer: StorageCheckpointerBase = TensorStorageCheckpointer()

    def __init__(
        self,
        storage: Any,
        max_size: int | None = None,
        *,
        device: torch.device | str = "cpu",
        ndim: int = 1,
    ) -> None:
        check_devices(self, device=None if device == "auto" else device)
        lead = lead_shape(storage, ndim, self)
        super().__init__(max_size or lead.numel(), ndim)
        self._settle(lead[1:])
        if self.capacity != lead[0]:
            raise ShapeError(
                describe(
                    self,
                    "max_size is not the size of the given tensors",
                    expected=lead.numel(),
                    found=max_size,
                )
            )
        schema = Schema(type(self).__name__, storage, ndim)
        self._adopt(schema, schema.read(storage, lead))
        self._choose_device(device)
        self._counts[WRITTEN] = self._counts[FILLED] = lead[0]

    def _choose_device(self, device: torch.device | str) -> None:
        auto = device == "auto" and bool(self._columns)
        plain = torch.device("cpu" if device == "auto" else device)
        self.device = self._columns[0].device if auto else plain

    def _adopt(self, schema: Schema, columns: list[Tensor]) -> None:
        """Make ``columns [R, *W, *F]`` the memory of this storage.

        Objects, such as texts, stand in arrays of their own, the last entry first.
        """
        columns, given = columns[: len(schema.leaves)], columns[len(schema.leaves) :]
        self._schema, self._columns = schema, columns
        lead = (self.capacity, *self.row_shape)
        self._objects: list[Any] = list(given) or [
            np.empty((*lead, *leaf.shape), dtype=object) for leaf in reversed(schema.objects)
        ]
        flat = self.capacity * self.width
        self._items = [_flatten(column, self.ndim, flat) for column in columns]  # [R * W, *F]
        on_cpu = all(column.device.type == "cpu" for column in columns)
        numpy_knows = all(leaf.dtype in NUMPY_DTYPES for leaf in schema.leaves)
        self._arrays = [column.numpy() for column in columns] if on_cpu and numpy_knows else None

    def prepare(self, data: Any, many: bool) -> tuple[list[Tensor], int]:
        """Return the entries of ``data`` in the order of the columns, and the number of rows."""
        if type(data) is not TensorDict:
            data = as_tensors(stack_rows(data) if many and isinstance(data, list) else data)
        ndim = self.ndim if many else self.ndim - 1
        lead = lead_shape(data, ndim, self)
        row_shape = lead[1:] if many else lead
        if self._schema is None:
            self._allocate(data, ndim, row_shape)
        if row_shape != self.row_shape:
            raise ShapeError(
                describe(
                    self,
                    "the rows have the wrong shape",
                    expected=list(self.row_shape),
                    found=list(row_shape),
                    hint="Nothing was written.",
                )
            )
        return self._schema.read(data, lead), lead[0] if many else 1

    def _allocate(self, data: Any, ndim: int, row_shape: torch.Size) -> None:
        raise AssertionError("a TensorStorage has its memory from the start")

    def _put_objects(self, place: Place, rows: list[Any], part: slice | None) -> list[Tensor]:
        """Write the objects among prepared rows; return the tensors."""
        where = place.numpy() if isinstance(place, Tensor) else place
        count = len(self._columns)
        for array, values in zip(self._objects, rows[count:], strict=True):
            new = values if part is None else values[part]
            array[where] = new.item() if not new.ndim else new
        return rows[:count]

    def _take_objects(self, positions: Tensor) -> list[np.ndarray]:
        """Return the objects ``[*I, *F]`` of the items at ``positions [*I]``."""
        index, lead = positions.numpy(force=True).reshape(-1), 1 + len(self.row_shape)
        found = [array.reshape(-1, *array.shape[lead:])[index] for array in self._objects]
        return [values.reshape((*positions.shape, *values.shape[1:])) for values in found]

    def _put(self, place: Place, rows: list[Tensor], part: slice | None) -> None:
        if len(rows) > len(self._columns):
            rows = self._put_objects(place, rows, part)
        if self._arrays is not None:
            where: Any = place.numpy() if isinstance(place, Tensor) else place
            for array, leaf in zip(self._arrays, rows, strict=True):
                array[where] = (leaf if part is None else leaf[part]).numpy(force=True)
            return
        for column, leaf in zip(self._columns, rows, strict=True):
            value = leaf if part is None else leaf[part]
            column[place] = value.detach().to(column.device)

    def _get(self, place: Any) -> Any:
        schema = self._known("get")
        leaves: list[Any] = [self._send(column[place]) for column in self._columns]
        if self._objects:
            grid = torch.arange(self.capacity * self.width).view(self.capacity, *self.row_shape)
            leaves += self._take_objects(grid[place])
        lead = self.row_shape if isinstance(place, int) else self._lead_of(leaves)
        return schema.build(leaves, lead, self.device)

    def _lead_of(self, leaves: list[Any]) -> torch.Size:
        """Return the leading shape of leaves ``[*I, *F]``."""
        schema = self._known("get")
        first = (*schema.leaves, *reversed(schema.objects))[0]
        return torch.Size(leaves[0].shape[: len(leaves[0].shape) - len(first.shape)])

    def read(self, index: Any) -> Any:
        """Return the items ``buffer[index]``, views where they can be."""
        if not self.time_dim:
            return self.get(index)
        schema, rows = self._known("get"), slice(0, self.rows)
        positions = self.positions_at(index)
        place = self._full_index(index)
        views = [column[rows].transpose(0, self.time_dim) for column in self._columns]
        leaves = [self._send(view[place]) for view in views] + self._take_objects(positions)
        return schema.build(leaves, positions.shape, self.device)

    def set_items(self, positions: Tensor, data: Any) -> None:
        """Replace the items at ``positions [*I]`` by items ``[*I]``.

        Raises:
            MissingKeyError, UnexpectedKeyError, ShapeError, DTypeError: if they do not look like
                what is stored; nothing is written then.
        """
        leaves, counts = (
            self._known("replace").read(as_tensors(data), positions.shape),
            self._counts,
        )
        counts[PENDING] = OUT_OF_ORDER
        if self._objects:
            places = self._place_of_items(positions)
            index = tuple(part.numpy() for part in places) if self.ndim > 1 else positions.numpy()
            for array, values in zip(self._objects, leaves[len(self._items) :], strict=True):
                array[index] = values.item() if not values.ndim else values
        for items, leaf in zip(self._items, leaves, strict=False):
            value = leaf.detach().reshape(-1, *items.shape[1:])
            items[positions.flatten().to(items.device)] = value.to(items.device)
        counts[EDITS] += 1
        counts[PENDING] = 0

    def _take(self, positions: Tensor) -> Any:
        schema = self._schema or self._known("sample")
        home = self._items[0].device if self._items else positions.device
        if positions.device != home:
            positions = positions.to(home)
        leaves: list[Any] = self._gather(positions)
        if self._objects:
            leaves += self._take_objects(positions)
        return schema.build(leaves, positions.shape, self.device)

    def flatten(self) -> Storage:
        """Return a storage ``[N]`` of the items that are stored, in the same memory."""
        if self.ndim == 1:
            return self
        items: list[Any] = [item[: len(self)] for item in self._items]
        device = items[0].device if items else None
        items += self._take_objects(torch.arange(len(self)))
        data = self._known("flatten").build(items, (len(self),), device)
        return TensorStorage(data, device=self.device)

    def _gather(self, positions: Tensor) -> list[Tensor]:
        """Return the entries ``[B, *F]`` of the items at ``positions [B]``, on :attr:`device`."""
        return [self._send(item.index_select(0, positions)) for item in self._items]

    def _send(self, leaf: Tensor) -> Tensor:
        return leaf if leaf.device == self.device else leaf.to(self.device, non_blocking=True)

    def _known(self, what: str) -> Schema:
        if self._schema is None:
            raise RuntimeError(
                describe(self, f"nothing was written yet, so there is nothing to {what}")
            )
        return self._schema

    def entry(self, key: NestedKey, place: Any = slice(None)) -> Tensor:
        """Return the column of one entry in the slots ``place``, a view where it can be.

        Raises:
            MissingKeyError: if rows have no such entry.
        """
        number = self._number(key)  # first, since it may have to open what others have written
        return self._columns[number][place]

    def take_entry(self, key: NestedKey, positions: Tensor) -> Tensor:
        """Return one entry ``[B, *F]`` of the items at positions ``[B]``.

        Raises:
            MissingKeyError: if items have no such entry.
        """
        number = self._number(key)
        items = self._items[number]
        if positions.device != items.device:
            positions = positions.to(items.device)
        return items.index_select(0, positions)

    def set_entries(self, values: Mapping[NestedKey, Any], index: Any) -> None:
        """Replace entries of the rows ``get(index)``; what else is in these rows stays.

        Raises:
            MissingKeyError, ShapeError, DTypeError: if a value does not look like what is stored;
                nothing is written then.
        """
        place, counts = self._readable(index), self._counts
        if self._objects and any(is_non_tensor(value) for value in values.values()):
            super().set_entries(values, index)
            return
        columns = [self._columns[self._number(key)] for key in values]
        news = [
            fitting(self, key, column[place], value)
            for (key, value), column in zip(values.items(), columns, strict=True)
        ]
        counts[PENDING] = OUT_OF_ORDER
        for column, value in zip(columns, news, strict=True):
            column[place] = value.detach().to(column.device)
        counts[EDITS] += 1
        counts[PENDING] = 0

    def empty(self) -> None:
        """Forget all rows; keep the memory and what a row looks like."""
        super().empty()
        for array in self._objects if self._schema is not None else ():
            array.fill(None)

    def _number(self, key: NestedKey) -> int:
        schema = self._known("read")
        path = (key,) if isinstance(key, str) else tuple(key)
        number = schema.numbers.get(path)
        if number is None:
            names = [leaf.name for leaf in schema.leaves]
            raise MissingKeyError(
                describe(
                    self,
                    "is not stored",
                    key=key,
                    expected=names,
                    hint=nearest(key, names),
                )
            )
        if number < 0:
            raise DTypeError(
                describe(
                    self,
                    "is no tensor",
                    key=key,
                    expected="a tensor",
                    hint="Texts and other objects are read with their rows.",
                )
            )
        return number

    def has_entry(self, key: NestedKey) -> bool:
        """Whether rows have this entry."""
        path = (key,) if isinstance(key, str) else tuple(key)
        return self.rows > 0 and path in self._known("read").numbers

    def state_dict(self, copy: bool = True) -> dict[str, Any]:
        """Return the rows, by entry, and the counts; ``copy=False`` returns views of the rows."""
        counts = self.counts
        state: dict[str, Any] = {"counts": counts, "row_shape": list(self.row_shape)}
        if self.rows:
            rows = slice(0, self.rows)
            state["schema"] = self._known("save").state()
            state["columns"] = [
                column[rows].clone() if copy else column[rows] for column in self._columns
            ]
            if self._objects:
                state["objects"] = [array[rows].tolist() for array in self._objects]
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the rows of a :meth:`state_dict`; what cannot be taken changes nothing.

        Raises:
            ShapeError: if they are more than fit, or look different from the rows at hand.
            OSError: if there is no room for them on the disk.
        """
        self.check_state(state_dict)
        row_shape = state_dict["row_shape"]
        if "schema" in state_dict:
            columns = state_dict["columns"]
            if self._schema is None:
                schema = Schema.from_state(type(self).__name__, state_dict["schema"])
                lead = (state_dict["counts"][1], *row_shape)
                shapes = [(*lead, *leaf.shape) for leaf in reversed(schema.objects)]
                blank = [np.empty(shape, dtype=object) for shape in shapes]
                data = schema.build([*columns, *blank], lead)
                self._allocate(data, self.ndim, torch.Size(row_shape))
            self._make_room(state_dict["counts"][1])
            for mine, theirs in zip(self._columns, columns, strict=True):
                mine[: len(theirs)] = theirs.to(mine.device)
            for array, listed in zip(self._objects, state_dict.get("objects", []), strict=True):
                array[: len(listed)] = array_of_lists(listed, (len(listed), *array.shape[1:]))
        elif self._schema is not None:
            row_shape = list(self.row_shape)  # that of an empty storage may not be known
        self.load_counts(state_dict["counts"], row_shape)

    def check_state(self, state_dict: dict[str, Any]) -> None:
        """Raise what :meth:`load_state_dict` would raise of the rows, and change nothing."""
        counts, row_shape = state_dict["counts"], state_dict["row_shape"]
        if "schema" not in state_dict:
            self._check_counts(counts, row_shape)
            return
        mine = self._schema_if_any()
        schema = Schema.from_state(type(self).__name__, state_dict["schema"])
        width = torch.Size(row_shape).numel()
        fits = width > 0 and counts[1] <= self.max_size // width
        same = mine is None or (schema == mine and list(row_shape) == list(self.row_shape))
        if not fits or not same or len(row_shape) != self.ndim - 1:
            rows = _entries(mine or schema)
            shape = [list(self.row_shape)] if mine is not None and self.ndim > 1 else []
            raise ShapeError(
                describe(
                    self,
                    "the saved rows do not fit",
                    expected=f"at most {self.max_size} rows of {shape or ''}{rows}",
                    found=f"{counts[1]} rows of {list(row_shape) or ''}{_entries(schema)}",
                    hint="Load them into a buffer built like the saved one.",
                )
            )
        self._check_counts(counts, row_shape)
        lead = torch.Size([counts[1], *row_shape])
        shapes = [lead + leaf.shape for leaf in schema.leaves]
        if [column.shape for column in state_dict["columns"]] != shapes:
            found = [list(column.shape) for column in state_dict["columns"]]
            raise ShapeError(
                describe(self, "the saved entries differ from their note", found=found)
            )

    def _schema_if_any(self) -> Schema | None:
        return self._schema

    def _make_room(self, rows: int) -> None:
        """Make sure that there is memory for the first ``rows`` slots."""

    def blank(self) -> LazyTensorStorage:
        """Return an empty storage in memory that takes the same rows."""
        return LazyTensorStorage(int(self.max_size), device=self.device, ndim=self.ndim)


class LazyTensorStorage(TensorStorage):
    """Rows in memory that is reserved when the first rows arrive, and look like them for good.

    Texts and other objects, as ``NonTensorData`` and ``NonTensorStack``, are kept beside them, and
    entries of agents that differ in shape, as lazy stacks.

    The entries of a row stand side by side in one block; entries of a kilobyte and more have a
    block each. A sample is a copy; its entries from one block share their memory, row by row, so
    that ``stride(0)`` is the size of a row.

    Args:
        max_size: Number of items.
        device: Where the rows live; ``"auto"`` is where the first rows are.
        ndim: Number of leading dimensions ``[R, *W]`` that count items.
        shared_init: Share the memory from the start: any process may write the first rows. A
            buffer with ``shared=True`` does that too.

    Raises:
        MissingKeyError, UnexpectedKeyError, ShapeError, DTypeError: when rows that do not match
            the first ones are written; nothing is written then.

    >>> from tensordict import TensorDict
    >>> from torchrl.data import ReplayBuffer
    >>> buffer = ReplayBuffer(storage=LazyTensorStorage(10), batch_size=4)
    >>> buffer.extend(TensorDict(observation=torch.zeros(3, 2), batch_size=[3])).tolist()
    [0, 1, 2]
    >>> buffer.sample()["observation"].shape
    torch.Size([4, 2])
    >>> buffer.extend(TensorDict(obs=torch.zeros(3, 2), batch_size=[3]))
    Traceback (most recent call last):
    torchrl._core.errors.MissingKeyError: LazyTensorStorage: entry 'observation' is missing ...
    """

    def __init__(
        self,
        max_size: int,
        *,
        device: torch.device | str = "cpu",
        ndim: int = 1,
        shared_init: bool = False,
    ) -> None:
        check_devices(self, device=None if device == "auto" else device)
        Storage.__init__(self, max_size, ndim)
        self.device: Any = device if device == "auto" else torch.device(device)
        self._home: Home | None = None
        self._forget_layout()
        if shared_init:
            self.share()

    def _forget_layout(self) -> None:
        self._schema: Any = None
        self._blocks: list[Tensor] = []
        self._columns: list[Tensor] = []
        self._objects: list[Any] = []
        self._reader: GroupReader | None = None
        self._bulk: BulkWriter | None = None
        self._row: RowWriter | None = None

    def _allocate(self, data: Any, ndim: int, row_shape: torch.Size) -> None:
        if self._open():
            return
        schema = Schema(type(self).__name__, data, ndim)
        if schema.objects and self._home is not None:
            raise self._refusal(schema)
        self._settle(row_shape)
        if self.device == "auto":
            self.device = _device_of(data)
        self._lay_out(schema)

    def _refusal(self, schema: Schema) -> DTypeError:
        return DTypeError(
            describe(
                self,
                "is no tensor, and only tensors are kept on disk or shared between processes",
                key=schema.objects[0].name,
                hint="Nothing was written. LazyTensorStorage and ListStorage keep texts.",
            )
        )

    def _lay_out(self, schema: Schema) -> None:
        """Reserve memory for rows, and tell other processes what they look like."""
        self._adopt(schema, self._reserve(schema, self._new_block))
        if self._home is not None:
            note: dict[str, Any] = {"max_size": self.max_size, "ndim": self.ndim}
            note |= {"row_shape": list(self.row_shape), "schema": schema.state()}
            self._home.write(note)

    def _open(self) -> bool:
        """Map the rows that another process, or an earlier one, has begun to write, if any."""
        note = None if self._home is None else self._home.read()
        if note is None:
            return False
        mine, theirs = (self.max_size, self.ndim), (note["max_size"], note["ndim"])
        if mine != theirs:
            raise ShapeError(
                describe(
                    self,
                    "the storage that is there has another size",
                    expected=f"max_size, ndim = {mine}",
                    found=theirs,
                    hint="Open it with its own size, or choose another scratch_dir.",
                )
            )
        self._settle(torch.Size(note["row_shape"]))
        schema = Schema.from_state(type(self).__name__, note["schema"])
        self._adopt(schema, self._reserve(schema, self._new_block))
        return True

    def _known(self, what: str) -> Schema:
        self._schema_if_any()
        return super()._known(what)

    def _schema_if_any(self) -> Schema | None:
        if self._schema is None:
            self._open()
        return self._schema

    def _new_block(self, number: int, nbytes: int) -> Tensor:
        if self._home is not None:
            return self._home.block(number, nbytes)
        if self.device.type == "cpu":  # for numpy the kernel sets huge pages aside: faster to find
            return torch.from_numpy(np.zeros(nbytes, dtype=np.uint8))
        return torch.zeros(nbytes, dtype=torch.uint8, device=self.device)

    def _reserve(self, schema: Schema, allocate: Allocate) -> list[Tensor]:
        """Lay out the columns ``[R, *W, *F]`` in blocks of bytes."""
        groups, lead = groups_of(schema), (self.capacity, *self.row_shape)
        columns: dict[int, Tensor] = {}
        self._blocks, self._bulk, self._reader = [], None, None
        self._alone = list(range(len(schema.leaves)))
        for number, group in enumerate(groups):
            nbytes = math.prod(lead) * group.stride
            device = "cpu" if self._home is not None else self.device
            block = allocate(number, nbytes) if nbytes else torch.empty(0, device=device)
            self._blocks.append(block)
            columns.update(group.columns(schema, block, lead))
            if len(group.numbers) > 1:
                self._pack(group, schema, block)
        return [columns[number] for number in range(len(columns))]

    def _pack(self, group: Group, schema: Schema, block: Tensor) -> None:
        """Read and write the entries of ``group``, which share a block, together."""
        self._alone = [n for n in self._alone if n not in group.numbers]
        self._reader = GroupReader(group, schema, block)
        known = all(schema.leaves[n].dtype in NUMPY_DTYPES for n in group.numbers)
        if known and block.device.type == "cpu":
            self._bulk = BulkWriter(group, schema, block, self.row_shape)

    def _adopt(self, schema: Schema, columns: list[Tensor]) -> None:
        super()._adopt(schema, columns)
        columns = self._columns
        rows_are_items = self.ndim == 1 and all(column.is_cpu for column in columns)
        self._row = RowWriter(columns) if rows_are_items else None

    def _gather(self, positions: Tensor) -> list[Tensor]:
        if self._reader is None:
            return super()._gather(positions)
        leaves: list[Any] = [None] * len(self._items)
        self._reader.take(positions, self.device, leaves)
        for number in self._alone:
            leaves[number] = self._send(self._items[number].index_select(0, positions))
        return leaves

    def _put(self, place: Place, rows: list[Tensor], part: slice | None) -> None:
        if len(rows) > len(self._columns):
            rows = self._put_objects(place, rows, part)
        if type(place) is int and self._row is not None and self._row.write(place, rows):
            return
        arrays, bulk = self._arrays, self._bulk
        run = isinstance(place, slice) and place.stop - place.start >= BULK
        if bulk is None or arrays is None or not run:
            super()._put(place, rows, part)
            return
        assert isinstance(place, slice)
        leaves = [(leaf if part is None else leaf[part]).numpy(force=True) for leaf in rows]
        bulk.write(place.start, leaves, place.stop - place.start)
        for number in self._alone:
            arrays[number][place] = leaves[number]

    def share(self) -> None:
        """Move rows and counts to shared memory, so that processes that get this storage see them.

        Samples still go to :attr:`device`.
        """
        if self._home is not None:
            return
        if self._schema is not None and self._schema.objects:
            raise self._refusal(self._schema)
        marks, old = self._marks, self._blocks
        if self.device == "auto":
            self.device = torch.device("cpu")
        self._move_to(SharedMemory())
        self._marks.copy_(marks)
        if self._schema is not None:
            self._lay_out(self._schema)
            for block, values in zip(self._blocks, old, strict=True):
                block.copy_(values)

    def _move_to(self, home: Home) -> None:
        """Count what stands in ``home`` from now on."""
        self._home, self._marks = home, home.marks()
        self._counts = self._marks.numpy()

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        away = ["_counts", "_columns", "_items", "_arrays", "_bulk", "_reader", "_row"]
        if self._home is not None:
            away += ["_marks", "_blocks", "_schema"]
        for name in away:
            state.pop(name, None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["_home"] is not None:
            self._forget_layout()
        self.__dict__.update(state)
        if self._home is not None:
            self._move_to(self._home)
            self._open()
            return
        self._counts = self._marks.numpy()
        if self._schema is not None:
            blocks = self._blocks
            columns = self._reserve(self._schema, lambda number, _: blocks[number])
            self._adopt(self._schema, [*columns, *self._objects])


def _flatten(column: Tensor, ndim: int, items: int) -> Tensor:
    """View a column ``[R, *W, *F]`` as ``[R * W, *F]``."""
    return column if ndim == 1 else column.view(items, *column.shape[ndim:])


def _device_of(data: Any) -> torch.device:
    while not isinstance(data, Tensor) and not is_tensor_collection(data):
        data = next(iter(data.values() if isinstance(data, dict) else data))
    return data.device or torch.device("cpu")


def _entries(schema: Any) -> list[tuple[Any, list[int], torch.dtype]]:
    return [(leaf.name, list(leaf.shape), leaf.dtype) for leaf in schema.leaves]
