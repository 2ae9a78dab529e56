"""Writers: `RoundRobinWriter`, `TensorDictMaxValueWriter`, ...: which slots new rows fill."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from pathlib import Path

import torch
from tensordict import NestedKey, TensorDictBase, is_tensor_collection
from torch import Tensor

from torchrl._core.errors import DTypeError, describe
from torchrl._core.keys import require
from torchrl.data.replay_buffers.checkpointers import dump_state, load_state
from torchrl.data.replay_buffers.data_types import Data, State
from torchrl.data.replay_buffers.storages.base import Storage, check_flags
from torchrl.data.replay_buffers.storages.schema import expand_items, lead_shape, stack_rows

__all__ = [
    "ImmutableDatasetWriter",
    "RoundRobinWriter",
    "TensorDictMaxValueWriter",
    "TensorDictRoundRobinWriter",
    "Writer",
    "WriterEnsemble",
]

FILE = "writer.pt"
REDUCTIONS = ("sum", "max", "min", "mean", "median")


class Writer(ABC):
    """Selects the slots of new rows, and writes them.

    Hooks:
        extend: ``rows [N] -> slots [N]``; ``-1`` where a row was not stored.
        add: ``row -> slot``, or ``None``.
        stamped, stamped_items: ``(rows, slots) -> rows``, ``(items, positions) -> items``: add the
            entries that this writer stores besides, such as ``index``.
        allow_edits: Raises if rows that are stored must not change.
        _empty: Called after all items were deleted.
        state_dict, load_state_dict: The state that a writer needs to continue exactly.

    Args:
        compilable: Whether functions that call the writer are compiled. It changes nothing: what
            ``torch.compile`` needs is made by a buffer with ``compilable=True``.

    A writer of rows in order calls ``storage.prepare(data, True)``, which checks them, then
    ``storage.write_run(first_slot, rows, count)``; for any other slots
    ``storage.set(slots, data)``.

    Attributes:
        track_generations: Whether samples contain how often their slots were overwritten.
        writes: Whether anything is ever written.

    >>> from torchrl.data import LazyTensorStorage, ReplayBuffer
    >>> class KeepFirst(Writer):
    ...     def extend(self, data):
    ...         slots = torch.arange(len(data)) + len(self.storage)
    ...         slots[slots >= self.storage.capacity] = -1  # not stored
    ...         self.storage.set(slots[slots >= 0], data[slots >= 0])
    ...         return slots
    ...
    ...     def add(self, data):
    ...         return int(self.extend(data[None]))
    >>> buffer = ReplayBuffer(storage=LazyTensorStorage(3), writer=KeepFirst())
    >>> buffer.extend(torch.arange(5))
    tensor([ 0,  1,  2, -1, -1])
    >>> buffer[:]
    tensor([0, 1, 2])
    """

    track_generations: bool = False
    writes: bool = True
    _storage: Storage | None = None
    compilable: bool = False

    def __init__(self, compilable: bool = False) -> None:
        check_flags(self, compilable=compilable)
        self.compilable = compilable

    def register_storage(self, storage: Storage) -> None:
        """Write to ``storage`` from now on."""
        self._storage = storage

    @property
    def storage(self) -> Storage:
        """The storage that is written to.

        Raises:
            RuntimeError: if there is none yet.
        """
        if self._storage is None:
            raise RuntimeError(describe(self, "has no storage", hint="Pass it to a ReplayBuffer, with a storage."))
        return self._storage

    @abstractmethod
    def extend(self, data: Data) -> Tensor: ...

    @abstractmethod
    def add(self, data: Data) -> int | None: ...

    def stamped(self, data: Data, slots: Tensor) -> Data:
        """Return rows with the entries that this writer adds, for slots ``[N]`` or one ``[]``."""
        return data

    def stamped_items(self, data: Data, positions: Tensor) -> Data:
        """Return items with the entries that this writer adds, for ``positions [*I]``."""
        return data

    def allow_edits(self) -> None:
        """Raise an error if stored rows must not change."""

    def _empty(self) -> None:
        pass

    def state_dict(self) -> State:
        """Return the state that a writer needs to continue exactly as this one."""
        return {}

    def load_state_dict(self, state_dict: State) -> None:
        """Load the state of a :meth:`state_dict`."""

    def dumps(self, path: str | Path) -> None:
        """Write the state of the writer to a folder, which may hold other files."""
        dump_state(self, path, FILE)

    def loads(self, path: str | Path) -> None:
        """Load what :meth:`dumps` wrote."""
        load_state(self, path, FILE)


class RoundRobinWriter(Writer):
    """Fill the slots in order, then overwrite the oldest row.

    The cursor follows from the storage's count of written rows, so that processes that share a
    storage share the cursor too. A cursor that is loaded counts until there is a storage.

    Args:
        compilable: As for :class:`Writer`.
        track_generations: Add to samples, as ``generation [B]``, how often the slot of an item
            was overwritten, so that
            :meth:`~torchrl.data.ReplayBuffer.update_if_present` finds it again.

    >>> from torchrl.data import LazyTensorStorage, ReplayBuffer
    >>> buffer = ReplayBuffer(storage=LazyTensorStorage(3), writer=RoundRobinWriter())
    >>> buffer.extend(torch.arange(5))
    tensor([0, 1, 2, 0, 1])
    >>> buffer[:]
    tensor([3, 4, 2])
    """

    _loaded: int = 0  # the cursor, as long as there is no storage

    def __init__(self, compilable: bool = False, *, track_generations: bool = False) -> None:
        super().__init__(compilable)
        self.track_generations = track_generations

    @property
    def cursor(self) -> int:
        """The slot that the next row fills."""
        storage = self._storage
        return self._loaded if storage is None else storage.written % storage.capacity

    def state_dict(self) -> State:
        """Return the slot that the next row fills."""
        return {"cursor": self.cursor}

    def load_state_dict(self, state_dict: State) -> None:
        """Load the cursor of a :meth:`state_dict`; a storage loads it with its rows."""
        self._loaded = int(state_dict.get("cursor", 0))

    def extend(self, data: Data) -> Tensor:
        """Write rows ``[N]``; return their slots ``[N]``."""
        storage = self.storage
        rows, count = storage.prepare(data, True)
        start = storage.written % storage.capacity
        storage.write_run(start, rows, count)
        return _slots(start, count, storage)

    def add(self, data: Data) -> int:
        """Write one row; return its slot."""
        storage = self.storage
        rows, _ = storage.prepare(data, False)
        start = storage.written % storage.capacity
        storage.write_row(start, rows)
        return start


class TensorDictRoundRobinWriter(RoundRobinWriter):
    """Fill the slots in order; each row also stores its own slot.

    Args:
        compilable: As for :class:`Writer`.
        track_generations: As for :class:`RoundRobinWriter`.

    Writes: ``index [N]``, or ``[N, *W, ndim]`` in a multi-dimensional storage.

    >>> from tensordict import TensorDict
    >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    >>> buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(3), writer=TensorDictRoundRobinWriter())
    >>> _ = buffer.extend(TensorDict(observation=torch.arange(5), batch_size=[5]))
    >>> buffer[:]["observation"], buffer[:]["index"]
    (tensor([3, 4, 2]), tensor([0, 1, 2]))
    """

    def extend(self, data: Data) -> Tensor:
        """Write rows ``[N]``; return their slots ``[N]``."""
        storage = self.storage
        if isinstance(data, list):
            data = stack_rows(data)
        require_tensordict(data, self)
        storage.learn_row_shape(data, True)
        slots = _slots(self.cursor, lead_shape(data, 1, storage)[0], storage)
        return super().extend(stamp(data, slots, storage))

    def add(self, data: Data) -> int:
        """Write one row; return its slot."""
        storage = self.storage
        require_tensordict(data, self)
        storage.learn_row_shape(data, False)
        return super().add(stamp(data, torch.tensor(self.cursor), storage))

    def stamped(self, data: Data, slots: Tensor) -> Data:
        """Return rows with their slots in them."""
        require_tensordict(data, self)
        return stamp(data, slots, self.storage)

    def stamped_items(self, data: Data, positions: Tensor) -> Data:
        """Return items with their index in them."""
        require_tensordict(data, self)
        return data.copy().set("index", self.storage.coordinates(positions))


class TensorDictMaxValueWriter(Writer):
    """Keep the rows of the highest rank; of equal ones the first.

    Args:
        rank_key: Entry that rows are ranked by; ``("next", "reward")`` if ``None``.
        reduction: Reduces an entry of several numbers to one: ``"sum"``, ``"max"``,
            ``"min"``, ``"mean"`` or ``"median"``.
        compilable: As for :class:`Writer`.

    Reads: ``rank_key [N, *]``.
    Writes: ``index [N]``, the slot of each row.

    Raises:
        ValueError: if ``reduction`` is unknown, or a rank is not a number.
        MissingKeyError: if rows have no ``rank_key``; nothing is written then.

    >>> from tensordict import TensorDict
    >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    >>> writer = TensorDictMaxValueWriter("score")
    >>> buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(2), writer=writer)
    >>> buffer.extend(TensorDict(score=torch.tensor([3.0, 1.0, 2.0, 0.0]), batch_size=[4])).tolist()
    [0, -1, 1, -1]
    >>> buffer[:]["score"]
    tensor([3., 2.])
    """

    def __init__(self, rank_key: NestedKey | None = None, reduction: str = "sum", *, compilable: bool = False) -> None:
        super().__init__(compilable)
        if reduction not in REDUCTIONS:
            raise ValueError(describe(self, "unknown reduction", expected=REDUCTIONS, found=reduction))
        self.rank_key = ("next", "reward") if rank_key is None else rank_key
        self.reduction = reduction
        self._empty()

    def _empty(self) -> None:
        self._heap: list[tuple[float, int, int]] = []  # rank, minus the count of rows, slot
        self._count = 0

    def extend(self, data: Data) -> Tensor:
        """Write the rows ``[N]`` that rank high enough; return slots ``[N]``, ``-1`` for others."""
        if isinstance(data, list):
            data = stack_rows(data)
        require_tensordict(data, self)
        storage, ranks = self.storage, self._ranks(data)
        storage.learn_row_shape(data, True)
        self._check(data, storage)
        heap, count, slot_of = list(self._heap), self._count, dict[int, int]()
        for row, rank in enumerate(ranks):
            entry = (rank, -count, len(heap))
            if len(heap) < storage.capacity:
                heapq.heappush(heap, entry)
            elif rank > heap[0][0]:
                entry = (rank, -count, heap[0][2])
                heapq.heapreplace(heap, entry)
            else:
                continue
            slot_of[entry[2]] = row
            count += 1
        slots = torch.full((len(ranks),), -1)
        if slot_of:
            kept = torch.tensor([slot_of[slot] for slot in sorted(slot_of)])
            slots[kept] = torch.tensor(sorted(slot_of))
            storage.set(slots[kept], stamp(data[kept], slots[kept], storage))
        self._heap, self._count = heap, count
        return slots

    def add(self, data: Data) -> int | None:
        """Write a row if it ranks high enough; return its slot, or ``None``."""
        require_tensordict(data, self)
        slot = int(self.extend(data.unsqueeze(0)))
        return None if slot < 0 else slot

    def get_insert_index(self, data: TensorDictBase) -> int | None:
        """Return the slot that a row would fill, or ``None`` if it does not rank high enough."""
        require_tensordict(data, self)
        rank, heap = self._ranks(data.unsqueeze(0))[0], self._heap
        if len(heap) < self.storage.capacity:
            return len(heap)
        return heap[0][2] if rank > heap[0][0] else None

    def stamped(self, data: Data, slots: Tensor) -> Data:
        """Return rows with their slots in them."""
        require_tensordict(data, self)
        return stamp(data, slots, self.storage)

    def stamped_items(self, data: Data, positions: Tensor) -> Data:
        """Return items with their index in them."""
        require_tensordict(data, self)
        return data.copy().set("index", self.storage.coordinates(positions))

    def _ranks(self, data: Data) -> list[float]:
        require(data, [self.rank_key], self, "Name yours by rank_key.")
        ranks = data.get(self.rank_key)
        ranks = ranks.double().reshape(data.shape[0], -1)  # [N, *]
        ranks = getattr(ranks, self.reduction)(1)
        ranks = ranks if isinstance(ranks, Tensor) else ranks.values
        if ranks.isnan().any():
            raise ValueError(describe(self, "is not a number", key=self.rank_key, hint="Nothing was written."))
        return ranks.tolist()

    def _check(self, data: Data, storage: Storage) -> None:
        """Raise if rows do not fit the storage, also those that would not be kept."""
        slots = torch.zeros(data.shape[0], dtype=torch.long)
        storage.prepare(stamp(data, slots, storage), True)

    def state_dict(self) -> State:
        """Return the ranks of the stored rows."""
        return {"heap": list(self._heap), "count": self._count}

    def load_state_dict(self, state_dict: State) -> None:
        """Load the ranks of a :meth:`state_dict`."""
        self._heap = [tuple(entry) for entry in state_dict["heap"]]
        self._count = state_dict["count"]


class ImmutableDatasetWriter(Writer):
    """Refuse to write, for data that must not change.

    Args:
        compilable: As for :class:`Writer`.

    Raises:
        RuntimeError: whenever something would be written.

    >>> from torchrl.data import ReplayBuffer
    >>> ReplayBuffer(writer=ImmutableDatasetWriter()).add(1)
    Traceback (most recent call last):
    RuntimeError: ImmutableDatasetWriter: this buffer is read-only. ...
    """

    writes = False

    def extend(self, data: Data) -> Tensor:
        """Raise RuntimeError."""
        raise self._refusal()

    def add(self, data: Data) -> int | None:
        """Raise RuntimeError."""
        raise self._refusal()

    def allow_edits(self) -> None:
        """Raise RuntimeError."""
        raise self._refusal()

    def _refusal(self) -> RuntimeError:
        return RuntimeError(describe(self, "this buffer is read-only", hint="Copy what you need to another one."))


class WriterEnsemble:
    """The writers of several buffers; each call names the number of the buffer.

    Args:
        *writers: One for each buffer.

    >>> from torchrl.data import ListStorage, RoundRobinWriter
    >>> writers = WriterEnsemble(RoundRobinWriter(), RoundRobinWriter())
    >>> for writer in writers.writers:
    ...     writer.register_storage(ListStorage(4))
    >>> writers.extend(1, ["a", "b"]), writers.add(1, "c")
    (tensor([0, 1]), 2)
    """

    def __init__(self, *writers: Writer) -> None:
        self.writers = list(writers)

    def add(self, number: int, data: Data) -> int | None:
        """Write one row to storage ``number``; return its slot."""
        return self.writers[number].add(data)

    def extend(self, number: int, data: Data) -> Tensor:
        """Write rows ``[N]`` to storage ``number``; return their slots ``[N]``."""
        return self.writers[number].extend(data)

    def state_dict(self) -> State:
        """Return the state of each writer."""
        return {str(number): writer.state_dict() for number, writer in enumerate(self.writers)}

    def load_state_dict(self, state_dict: State) -> None:
        """Load the states of a :meth:`state_dict`."""
        for number, writer in enumerate(self.writers):
            writer.load_state_dict(state_dict[str(number)])

    def dumps(self, path: str | Path) -> None:
        """Write the state of each writer to a folder, which may hold other files."""
        dump_state(self, path, FILE)

    def loads(self, path: str | Path) -> None:
        """Load what :meth:`dumps` wrote."""
        load_state(self, path, FILE)


def _slots(start: int, count: int, storage: Storage) -> Tensor:
    """Return ``count`` slots from ``start`` on, modulo the capacity."""
    slots = torch.arange(start, start + count)
    return slots if start + count <= storage.capacity else slots % storage.capacity


def stamp(data: Data, slots: Tensor, storage: Storage) -> Data:
    """Return a shallow copy of ``data`` with the index of every item in it."""
    index = slots
    if storage.ndim > 1:
        within = torch.arange(storage.width).view(storage.row_shape)  # [*W]
        slots = slots.reshape(*slots.shape, *(1,) * within.ndim)
        index = storage.coordinates(slots * storage.width + within)  # [*N, *W, ndim]
    lead = slots.ndim
    return data.copy().set("index", expand_items(index, lead, data.batch_size))


def require_tensordict(data: Data, writer: Writer) -> None:
    """Raise :class:`DTypeError` unless ``data`` is a tensordict or tensorclass."""
    if is_tensor_collection(data):
        return
    raise DTypeError(
        describe(
            writer,
            "writes tensordicts only",
            found=type(data).__name__,
            hint="Nothing was written. ReplayBuffer with RoundRobinWriter keeps any object.",
        )
    )
