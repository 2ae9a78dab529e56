"""`TensorStorage`, `LazyTensorStorage`: one tensor per entry; a sample is one gather per entry."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, is_tensor_collection
from torch import Tensor

from torchrl._core.devices import check_devices
from torchrl._core.errors import DTypeError, MissingKeyError, ShapeError, describe, nearest
from torchrl.data.replay_buffers.checkpointers import StorageCheckpointerBase, TensorStorageCheckpointer
from torchrl.data.replay_buffers.data_types import Data, Index, State
from torchrl.data.replay_buffers.storages.base import EDITS, FILLED, OUT_OF_ORDER, PENDING, WRITTEN, Place, Storage
from torchrl.data.replay_buffers.storages.packed import (
    BULK,
    NUMPY_DTYPES,
    BulkWriter,
    Group,
    GroupReader,
    RowWriter,
    groups_of,
)
from torchrl.data.replay_buffers.storages.row_memory import AnonymousMemory, RowMemory
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
            Of a tensordict without entries only the batch size counts: the first rows that are
            written say what a row looks like, and the tensordict gets their entries.
        max_size: Number of items; all that ``storage`` has if ``None``.
        device: Where samples go; ``"auto"`` is where the data are.
        ndim: Number of leading dimensions ``[R, *W]`` that count items.
        compilable: As for :class:`Storage`.

    Raises:
        MissingKeyError, UnexpectedKeyError, ShapeError, DTypeError: when rows that do not match
            the stored ones are written; nothing is written then.

    >>> from tensordict import TensorDict
    >>> storage = TensorStorage(TensorDict(a=torch.arange(3), batch_size=[3]))
    >>> len(storage), storage.get(1)["a"]
    (3, tensor(1))
    """

    checkpointer: StorageCheckpointerBase = TensorStorageCheckpointer()
    _schema: Schema | None = None
    _columns: Sequence[Tensor] = ()
    _objects: Sequence[Data] = ()

    def __init__(
        self,
        storage: Data,
        max_size: int | None = None,
        *,
        device: torch.device | str = "cpu",
        ndim: int = 1,
        compilable: bool = False,
    ) -> None:
        check_devices(self, device=None if device == "auto" else device)
        lead = lead_shape(storage, ndim, self)
        super().__init__(max_size or lead.numel(), ndim, compilable=compilable)
        self._set_row_shape(lead[1:])
        if self.capacity != lead[0]:
            raise ShapeError(
                describe(self, "max_size is not the size of the given tensors", expected=lead.numel(), found=max_size)
            )
        if is_tensor_collection(storage) and storage.is_empty():
            self._given = storage
            self.device = torch.device("cpu" if device == "auto" else device)
            return
        schema = Schema(type(self).__name__, storage, ndim)
        self._adopt(schema, schema.read(storage, lead))
        if device == "auto":
            device = self._columns[0].device if self._columns else "cpu"
        self.device = torch.device(device)
        self._counts[WRITTEN] = self._counts[FILLED] = lead[0]

    def _adopt(self, schema: Schema, columns: list[Tensor]) -> None:
        """Make ``columns [R, *W, *F]`` the memory of this storage.

        Objects, such as texts, are kept in separate arrays, the last entry first.
        """
        columns, given = columns[: len(schema.leaves)], columns[len(schema.leaves) :]
        self._schema, self._columns = schema, columns
        lead = (self.capacity, *self.row_shape)
        self._objects = list(given) or self._object_columns(schema, lead)
        self._items = columns  # [R * W, *F]
        if self.ndim > 1:
            self._items = [column.view(-1, *column.shape[self.ndim :]) for column in columns]
        on_cpu = all(column.device.type == "cpu" for column in columns)
        numpy_knows = all(leaf.dtype in NUMPY_DTYPES for leaf in schema.leaves)
        self._arrays = [column.numpy() for column in columns] if on_cpu and numpy_knows else None

    def _object_columns(self, schema: Schema, lead: Sequence[int]) -> list[Data]:
        """Return arrays ``[*lead, *F]`` for the objects of rows, the last entry first."""
        return [np.empty((*lead, *leaf.shape), dtype=object) for leaf in reversed(schema.objects)]

    def prepare(self, data: Data, many: bool) -> tuple[list[Tensor], int]:
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
        schema = self._schema or self._known("write")
        return schema.read(data, lead), lead[0] if many else 1

    def _allocate(self, data: Data, ndim: int, row_shape: torch.Size) -> None:
        """Make the entries of the tensordict that was given without any."""
        schema, lead = Schema(type(self).__name__, data, ndim), (self.capacity, *self.row_shape)
        columns = [
            torch.zeros(*lead, *leaf.shape, dtype=leaf.dtype, device=self._given.device) for leaf in schema.leaves
        ]
        self._adopt(schema, columns)
        if not schema.objects:
            self._given.update(schema.build(columns, lead))

    def _put_objects(self, place: Place, rows: list[Data], part: slice | None) -> list[Tensor]:
        """Write the objects among prepared rows; return the tensors."""
        where = place.numpy() if isinstance(place, Tensor) else place
        count = len(self._columns)
        for array, values in zip(self._objects, rows[count:], strict=True):
            new = values if part is None else values[part]
            array[where] = new.item() if not new.ndim and new.dtype == object else new
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
            where: Index = place.numpy() if isinstance(place, Tensor) else place
            for array, leaf in zip(self._arrays, rows, strict=True):
                array[where] = (leaf if part is None else leaf[part]).numpy(force=True)
            return
        for column, leaf in zip(self._columns, rows, strict=True):
            value = leaf if part is None else leaf[part]
            column[place] = value.detach().to(column.device)

    def _get(self, place: Index) -> Data:
        schema = self._known("get")
        leaves: list[Data] = [self._send(column[place]) for column in self._columns]
        if self._objects:
            grid = torch.arange(self.capacity * self.width).view(self.capacity, *self.row_shape)
            leaves += self._take_objects(grid[place])
        first = (*schema.leaves, *reversed(schema.objects))[0]
        lead = leaves[0].shape[: len(leaves[0].shape) - len(first.shape)]
        return schema.build(leaves, lead, self.device)

    def read(self, index: Index) -> Data:
        """Return the items ``buffer[index]``, views where they can be."""
        if not self.time_dim:
            return self.get(index)
        schema, rows = self._known("get"), slice(0, self.rows)
        positions = self.positions_at(index)
        place = self._full_index(index)
        views = [column[rows].transpose(0, self.time_dim) for column in self._columns]
        leaves = [self._send(view[place]) for view in views] + self._take_objects(positions)
        return schema.build(leaves, positions.shape, self.device)

    def set_items(self, positions: Tensor, data: Data) -> None:
        """Replace the items at ``positions [*I]`` by items ``[*I]``.

        Raises:
            MissingKeyError, UnexpectedKeyError, ShapeError, DTypeError: if they do not fit
                the stored rows; nothing is written then.
        """
        leaves, counts = (self._known("replace").read(as_tensors(data), positions.shape), self._counts)
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

    def _take(self, positions: Tensor) -> Data:
        schema = self._schema or self._known("sample")
        device = self._items[0].device if self._items else positions.device
        if positions.device != device:
            positions = positions.to(device)
        leaves: list[Data] = self._gather(positions)
        if self._objects:
            leaves += self._take_objects(positions)
        return schema.build(leaves, positions.shape, self.device)

    def flatten(self) -> Storage:
        """Return a storage ``[N]`` of the items that are stored, in the same memory."""
        if self.ndim == 1:
            return self
        items: list[Data] = [item[: len(self)] for item in self._items]
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
            raise RuntimeError(describe(self, f"nothing was written yet, so there is nothing to {what}"))
        return self._schema

    def entry(self, key: NestedKey, place: Index = slice(None)) -> Tensor:
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

    def set_entries(self, values: Mapping[NestedKey, Data], index: Index) -> None:
        """Replace entries of the rows ``get(index)``; what else is in these rows stays.

        Raises:
            MissingKeyError, ShapeError, DTypeError: if a value does not fit the stored rows;
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

    def widen(self, rows: Data, lead: int) -> None:
        """Make place for entries of a tensordict that are not stored yet, zero in all rows.

        Raises:
            MissingKeyError, ShapeError, DTypeError: if its other entries do not fit.
        """
        schema = self._known("widen")
        if not is_tensor_collection(rows) or not issubclass(schema.kind, TensorDictBase):
            return
        stored = [leaf.key for leaf in (*schema.leaves, *schema.objects)]
        if not all(isinstance(part, str) for key in stored for part in key):
            return  # agents that differ
        new = rows.exclude(*stored)
        if not self.rows or not rows.numel() or new.is_empty():
            return
        if any(is_non_tensor(new.get(key)) for key in new.keys(True, True)):
            return
        schema.read(rows.select(*stored, strict=False), rows.batch_size[:lead])
        every = self.get(slice(0, self.rows)).clone()
        example = new.reshape(-1, *new.batch_size[lead:])[0]
        self._replace_layout(every.update(example.expand(*every.shape, *example.shape).clone().zero_()))

    def _replace_layout(self, rows: TensorDictBase) -> None:
        """Keep the entries of ``rows [R', *W]``, some of which are new, and zero."""
        old = {leaf.key: column for leaf, column in zip(self._known("widen").leaves, self._columns, strict=True)}
        schema, lead = Schema(type(self).__name__, rows, self.ndim), (self.capacity, *self.row_shape)
        device = self._columns[0].device if self._columns else None
        columns = [
            old[leaf.key] if leaf.key in old else torch.zeros(*lead, *leaf.shape, dtype=leaf.dtype, device=device)
            for leaf in schema.leaves
        ]
        self._adopt(schema, [*columns, *self._objects])

    def empty(self) -> None:
        """Forget all rows; keep the memory and what a row looks like."""
        super().empty()
        for array in self._objects if self._schema is not None else ():
            array.fill(None)

    def _number(self, key: NestedKey) -> int:
        schema = self._known("read")
        path: Any = (key,) if isinstance(key, str) else tuple(key)
        number = schema.numbers.get(path)
        if number is None:
            names = [leaf.name for leaf in schema.leaves]
            raise MissingKeyError(describe(self, "is not stored", key=key, expected=names, hint=nearest(key, names)))
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

    def state_dict(self, copy: bool = True) -> State:
        """Return the rows, by entry, and the counts; ``copy=False`` returns views of the rows."""
        counts = self.counts
        state: State = {"counts": counts, "row_shape": list(self.row_shape)}
        if self.rows:
            rows = slice(0, self.rows)
            state["schema"] = self._known("save").state()
            state["columns"] = [column[rows].clone() if copy else column[rows] for column in self._columns]
            if self._objects:
                state["objects"] = [array[rows].tolist() for array in self._objects]
        return state

    def load_state_dict(self, state_dict: State) -> None:
        """Take over the rows of a :meth:`state_dict`; what cannot be taken changes nothing.

        Raises:
            ShapeError: if they are more than fit, or look different from the rows at hand.
            OSError: if there is no room for them on the disk.
        """
        self.check_state(state_dict)
        row_shape = state_dict["row_shape"]
        if "schema" in state_dict:
            columns = [_parts(column) for column in state_dict["columns"]]
            if self._schema is None:
                schema = Schema.from_state(type(self).__name__, state_dict["schema"])
                lead = (1, *row_shape)
                shapes = [(*lead, *leaf.shape) for leaf in reversed(schema.objects)]
                blank = [np.empty(shape, dtype=object) for shape in shapes]
                data = schema.build([*(parts[0][:1] for parts in columns), *blank], lead)
                self._allocate(data, self.ndim, torch.Size(row_shape))
            self._make_room(state_dict["counts"][1])
            for mine, parts in zip(self._columns, columns, strict=True):
                first = 0
                for part in parts:
                    mine[first : first + len(part)] = part.to(mine.device)
                    first += len(part)
            for array, listed in zip(self._objects, state_dict.get("objects", []), strict=True):
                array[: len(listed)] = array_of_lists(listed, (len(listed), *array.shape[1:]))
        elif self._schema is not None:
            row_shape = list(self.row_shape)  # that of an empty storage may not be known
        self.load_counts(state_dict["counts"], row_shape)

    def check_state(self, state_dict: State) -> None:
        """Raise what :meth:`load_state_dict` would raise of the rows, and change nothing."""
        counts, row_shape = state_dict["counts"], state_dict["row_shape"]
        if "schema" not in state_dict:
            self._check_counts(counts, row_shape)
            return
        mine = self._schema_if_any()
        # A class that is known is not looked up, which a local one could not be.
        if mine is not None and mine.state() == state_dict["schema"]:
            schema = mine
        else:
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
        parts = [_parts(column) for column in state_dict["columns"]]
        found = [[sum(map(len, each)), *each[0].shape[1:]] for each in parts]
        if found != [list(shape) for shape in shapes]:
            raise ShapeError(describe(self, "the saved entries differ from their note", found=found))

    @property
    def item_shape(self) -> torch.Size:
        """Batch size of an item; empty unless items are batches themselves."""
        return torch.Size() if self._schema is None else self._schema.extra

    def _schema_if_any(self) -> Schema | None:
        return self._schema

    def _make_room(self, rows: int) -> None:
        """Make sure that there is memory for the first ``rows`` slots."""

    def blank(self) -> LazyTensorStorage:
        """Return an empty storage in memory that takes the same rows."""
        return LazyTensorStorage(int(self.max_size), device=self.device, ndim=self.ndim)


class LazyTensorStorage(TensorStorage):
    """Rows in memory that is allocated for the layout of the first rows.

    Texts and other objects, as ``NonTensorData`` and ``NonTensorStack``, are kept beside them, and
    entries of agents that differ in shape, as lazy stacks.

    The entries of a row share one block; entries of a kilobyte and more have a block each. A sample
    is a copy; its entries from one block share their memory, row by row, so that ``stride(0)`` is
    the size of a row.

    Args:
        max_size: Number of items.
        device: Where the rows live; ``"auto"`` is where the first rows are.
        ndim: Number of leading dimensions ``[R, *W]`` that count items.
        compilable: As for :class:`Storage`.
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
        compilable: bool = False,
        shared_init: bool = False,
    ) -> None:
        check_devices(self, device=None if device == "auto" else device)
        Storage.__init__(self, max_size, ndim, compilable=compilable)
        self.device: Any = device if device == "auto" else torch.device(device)
        self._memory: RowMemory | None = None
        self._forget_layout()
        if shared_init:
            self.share()

    def _forget_layout(self) -> None:
        self._schema = None
        self._blocks: list[Tensor] = []
        self._columns, self._objects = [], []
        self._reader: GroupReader | None = None
        self._bulk: BulkWriter | None = None
        self._row: RowWriter | None = None

    def _allocate(self, data: Data, ndim: int, row_shape: torch.Size) -> None:
        if self._open():
            return
        schema = Schema(type(self).__name__, data, ndim)
        if schema.objects and self._memory is not None and not self._keeps_objects:
            raise self._refusal(schema)
        self._set_row_shape(row_shape)
        if self.device == "auto":
            first = data
            while not isinstance(first, Tensor) and not is_tensor_collection(first):
                first = next(iter(first.values() if isinstance(first, dict) else first))
            self.device = first.device or torch.device("cpu")
        self._lay_out(schema)

    _keeps_objects = False  # in shared memory or in files

    def _refusal(self, schema: Schema) -> DTypeError:
        return DTypeError(
            describe(
                self,
                "is no tensor, and only tensors are in memory that processes share",
                key=schema.objects[0].name,
                hint="Nothing was written. LazyMemmapStorage keeps texts, and its files are shared.",
            )
        )

    def _lay_out(self, schema: Schema) -> None:
        """Reserve memory for rows, and tell other processes what they look like."""
        self._adopt(schema, self._reserve(schema, self._new_block))
        if self._memory is not None:
            note: State = {"max_size": self.max_size, "ndim": self.ndim}
            note |= {"row_shape": list(self.row_shape), "schema": schema.state()}
            self._memory.write(note)

    def _open(self) -> bool:
        """Map the rows that another process, or an earlier one, has written, if any."""
        note = None if self._memory is None else self._memory.read()
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
        self._set_row_shape(torch.Size(note["row_shape"]))
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
        if self._memory is not None:
            return self._memory.block(number, nbytes)
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
            device = "cpu" if self._memory is not None else self.device
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
        rows_are_items = self.ndim == 1 and all(column.is_cpu for column in self._columns)
        self._row = RowWriter(self._columns) if rows_are_items else None

    def _gather(self, positions: Tensor) -> list[Tensor]:
        if self._reader is None:
            return super()._gather(positions)
        leaves: list[Data] = [None] * len(self._items)
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

    def widen(self, rows: Data, lead: int) -> None:
        """Make place for entries of a tensordict that are not stored yet, zero in all rows.

        Where processes share the rows nothing changes: the others would not see it.
        """
        if self._memory is None:
            super().widen(rows, lead)

    def _replace_layout(self, rows: TensorDictBase) -> None:
        counts = self._counts.copy()
        self._forget_layout()
        self._allocate(rows, self.ndim, self.row_shape)
        self._put(slice(0, len(rows)), self._known("replace").read(rows, rows.batch_size[: self.ndim]), None)
        counts[EDITS] += 1
        self._counts[:] = counts

    def share(self) -> None:
        """Move rows and counts to shared memory, so that processes that get this storage see them.

        Samples still go to :attr:`device`.
        """
        if self._memory is not None:
            return
        if self._schema is not None and self._schema.objects:
            raise self._refusal(self._schema)
        marks, old = self._marks, self._blocks
        if self.device == "auto":
            self.device = torch.device("cpu")
        self._move_to(AnonymousMemory())
        self._marks.copy_(marks)
        if self._schema is not None:
            self._lay_out(self._schema)
            for block, values in zip(self._blocks, old, strict=True):
                block.copy_(values)

    def _move_to(self, memory: RowMemory) -> None:
        """Use the counters in ``memory`` from now on."""
        self._memory, self._marks = memory, memory.marks()
        self._counts = self._marks.numpy()

    def __getstate__(self) -> State:
        state = self.__dict__.copy()
        away = ["_counts", "_columns", "_items", "_arrays", "_bulk", "_reader", "_row"]
        if self._memory is not None:
            away += ["_marks", "_blocks", "_schema", "_objects"]
        for name in away:
            state.pop(name, None)
        return state

    def __setstate__(self, state: State) -> None:
        if state["_memory"] is not None:
            self._forget_layout()
        self.__dict__.update(state)
        if self._memory is not None:
            self._move_to(self._memory)
            self._open()
            return
        self._counts = self._marks.numpy()
        if self._schema is not None:
            blocks = self._blocks
            columns = self._reserve(self._schema, lambda number, _: blocks[number])
            self._adopt(self._schema, [*columns, *self._objects])


def _parts(column: Tensor | list[Tensor]) -> list[Tensor]:
    """Return the parts of a column of a state, whose rows follow each other."""
    return column if isinstance(column, list) else [column]


def _entries(schema: Schema) -> list[tuple[object, list[int], torch.dtype]]:
    return [(leaf.name, list(leaf.shape), leaf.dtype) for leaf in schema.leaves]
