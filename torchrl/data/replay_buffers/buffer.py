"""`ReplayBuffer`: a storage, a sampler, a writer and transforms of samples."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tensordict import NestedKey, TensorDictBase, is_tensor_collection, unravel_key
from torch import Tensor

from torchrl._core.errors import BatchSizeError, MissingKeyError, describe
from torchrl._core.files import check_files
from torchrl._core.safe_load import load_file
from torchrl.data.replay_buffers.checkpointers import (
    ConvertingCheckpointer,
    StorageCheckpointerBase,
    current,
    explain_absent_files,
    explain_absent_state,
    replacing,
)
from torchrl.data.replay_buffers.conditional_update import (
    INFO_OF_TENSORDICT_BUFFERS,
    ITEM_INFO,
    ConditionalUpdateResult,
    entries_of,
    update_unless_overwritten,
)
from torchrl.data.replay_buffers.data_types import Convert, Data, Index, Info, State, made
from torchrl.data.replay_buffers.lock import ProcessLock
from torchrl.data.replay_buffers.prefetch import Batch, Drawn, Prefetcher, drop_prepared
from torchrl.data.replay_buffers.sample_transforms import SampleTransforms
from torchrl.data.replay_buffers.sample_units import SampleUnit
from torchrl.data.replay_buffers.samplers.base import Sampler, check_drawn, require_items
from torchrl.data.replay_buffers.samplers.episodes import stored_trajectories
from torchrl.data.replay_buffers.samplers.random import ConsumingSampler, RandomSampler
from torchrl.data.replay_buffers.storages.base import Storage, check_by_loading
from torchrl.data.replay_buffers.storages.list import ListStorage
from torchrl.data.replay_buffers.storages.schema import expand_items, lead_shape, transpose_entries
from torchrl.data.replay_buffers.tables import Table, write_table
from torchrl.data.replay_buffers.torch_dataset import BufferDataset
from torchrl.data.replay_buffers.writers import RoundRobinWriter, Writer
from torchrl.data.trajectory_query import Trajectory, TrajectoryPredicate

if TYPE_CHECKING:
    from typing_extensions import Self  # of the typing module from Python 3.11 on

    from torchrl.data.replay_buffers.compile_ops import CompiledCalls

CHECKED_DRAWS = 100  # of each sampler: its first draws, whose output is checked
MADE_LATER = ("_lock", "_storage", "_sampler", "_writer", "dim_extend")  # with delayed_init
_MAKING = threading.RLock()  # threads that use a buffer for the first time at once make its parts once
SAVED = ("_storage", "_sampler", "_writer", "_transforms", "_generator", "_batch_size")


class ReplayBuffer:
    """Store items and sample batches of them. Thread-safe.

    Args:
        storage: Keeps the items: a storage or a function that makes one; a list of 1000 slots if
            ``None``.
        sampler: Selects the items that :meth:`sample` returns; uniformly, with replacement, if
            ``None``. What its first 100 calls return is checked: see :class:`Sampler`.
        sample_unit: What is returned for each item that the sampler draws: the item itself if
            ``None``, or a window of steps, :class:`Sequence`.
        writer: Selects the slots that are filled; the oldest if ``None``.
        collate_fn: Makes a batch of a list of items, or maps the batch that a storage of tensors
            returns; stacks if ``None``.
        pin_memory: Copy samples to pinned memory if CUDA is available.
        prefetch: Number of batches that threads prepare ahead while the buffer does not change.
            Samples equal those of a buffer without prefetching, except that updated priorities
            count from the first batch that is not yet prepared.
        transform: Applied to each sample: any callable ``data -> data``. If it has a method
            ``inv``, this is applied to data that are written.
        transform_factory: Makes the transform; in place of ``transform``.
        batch_size: Default size of a sample.
        dim_extend: Dimension of extended data along which rows are counted; the last dimension of
            the storage if ``None``, which is time if the storage also has environments. Data that
            are read or written by index, and ``index``, have the order of dimensions of the data:
            ``buffer[env, step]``.
        checkpointer: Writes the storage to disk; the default of the storage if ``None``.
        delayed_init: Make the parts at their first use, in the process that uses them; they must be
            functions or ``None``.
        generator: Random generator of the sampler; torch's default one if ``None``.
        consume_after_n_samples: Sample each item at most that many times, with a
            :class:`ConsumingSampler`; in place of ``sampler``.
        shared: Let other processes that receive this buffer write to it and read from it.
        compilable: Make each call one operator of the graph inside functions that
            ``torch.compile`` compiles; for storages of tensors with random or prioritized
            sampling. There ``add`` returns a tensor.

    Raises:
        TypeError: if two arguments exclude each other, such as ``transform`` and
            ``transform_factory``, or ``delayed_init`` and a part that is not a function.

    Hooks:
        _default_sampler, _default_writer: ``-> part`` that is used if ``None`` was given.
        _draw: ``batch_size -> (positions [B], info, ran_out)``.
        _read: ``(positions [B], info) -> data``; called with the lock held.
        _annotates: Whether all of ``info`` is written into samples, also index and weights.

    >>> buffer = ReplayBuffer(batch_size=2)
    >>> buffer.extend(["a", "b", "c"]).tolist(), buffer.add("d"), len(buffer)
    ([0, 1, 2], 3, 4)
    >>> len(buffer.sample())
    2
    """

    def __init__(
        self,
        *,
        storage: Storage | Callable[[], Storage] | None = None,
        sampler: Sampler | Callable[[], Sampler] | None = None,
        sample_unit: SampleUnit | None = None,
        writer: Writer | Callable[[], Writer] | None = None,
        collate_fn: Convert | None = None,
        pin_memory: bool = False,
        prefetch: int | None = None,
        transform: Convert | None = None,
        transform_factory: Callable[[], Convert] | None = None,
        batch_size: int | None = None,
        dim_extend: int | None = None,
        checkpointer: StorageCheckpointerBase | None = None,
        delayed_init: bool | None = None,
        generator: torch.Generator | None = None,
        consume_after_n_samples: int | None = None,
        shared: bool = False,
        compilable: bool | None = None,
    ) -> None:
        if transform is not None and transform_factory is not None:
            raise TypeError(describe(self, "takes transform or transform_factory, not both"))
        if consume_after_n_samples is not None:
            if sampler is not None:
                raise TypeError(describe(self, "takes sampler or consume_after_n_samples, not both"))
            sampler = partial(ConsumingSampler, consume_after_n_samples)
        if transform_factory is not None:
            transform = transform_factory()
        self._transform = SampleTransforms([transform] if transform is not None else [])
        self._collate_fn, self._pin_memory = collate_fn, pin_memory
        self.batch_size, self._ran_out = batch_size, False
        self._generator, self._unit = generator, sample_unit
        self._unchecked = CHECKED_DRAWS
        self._recipe: Any = (storage, sampler, writer, checkpointer, dim_extend)
        if not delayed_init:
            self._make_parts()
        elif shared or compilable or any(isinstance(x, Storage | Sampler | Writer) for x in (storage, sampler, writer)):
            fact = "delayed_init makes the parts later, in the process that uses them"
            expected = "functions that make the parts, neither shared nor compilable"
            hint = "LazyMemmapStorage(existsok=True) opens the same files in every process."
            raise TypeError(describe(self, fact, expected=expected, hint=hint))
        self.prefetch = prefetch or 0
        self._prefetcher: Prefetcher | None = None
        if self.prefetch:
            calls = (self._draw, self._make, self._version, self._current_sampler)
            self._prefetcher = Prefetcher(self.prefetch, *calls)
        self.shared = shared
        if shared:
            self.share()
        self._graph = _graph_of(self) if compilable else None

    def _make_parts(self) -> None:
        storage, sampler, writer, checkpointer, dim_extend = self._recipe
        self._storage: Storage = made(storage, Storage, partial(ListStorage, 1000))
        if checkpointer is not None:
            self._storage.checkpointer = checkpointer
        self._sampler: Sampler = made(sampler, Sampler, self._default_sampler)
        self._sampler.generator = self._generator
        if getattr(self._sampler, "drop_last", False) and self.batch_size is None:
            raise BatchSizeError(describe(self, "drop_last of the sampler needs a batch size", hint="Give batch_size."))
        self._writer: Writer = made(writer, Writer, self._default_writer)
        self._writer.register_storage(self._storage)
        lock = self._storage.lock() if self._writer.writes else None
        # Not before: whoever waited for another lock would write beside other processes.
        self._lock: Any = lock or threading.RLock()
        self.dim_extend: int = self._storage.ndim - 1 if dim_extend is None else dim_extend
        self._count_along(self.dim_extend)
        del self._recipe

    def __getattr__(self, name: str) -> Any:
        """Make the parts at the first access to one of them."""
        if name in MADE_LATER and "_recipe" in self.__dict__:
            with _MAKING:
                if "_recipe" in self.__dict__:
                    self._make_parts()
            return self.__dict__[name]
        return object.__getattribute__(self, name)  # raises the error, also that of a property

    def _default_sampler(self) -> Sampler:
        return RandomSampler()

    def _default_writer(self) -> Writer:
        return RoundRobinWriter()

    @property
    def initialized(self) -> bool:
        """Whether the parts have been made, which ``delayed_init`` puts off."""
        return "_recipe" not in self.__dict__

    @property
    def ran_out(self) -> bool:
        """Whether the last sample ended a pass over the items."""
        return self._ran_out

    @property
    def storage(self) -> Storage:
        """The part that keeps the items."""
        return self._storage

    @property
    def sampler(self) -> Sampler:
        """The part that selects the items of a sample."""
        return self._sampler

    @property
    def writer(self) -> Writer:
        """The part that selects the slots of new rows."""
        return self._writer

    @property
    def transform(self) -> SampleTransforms:
        """The transforms of samples; their inverses are applied to data that are written."""
        return self._transform

    @property
    def ndim(self) -> int:
        """Number of leading dimensions ``[R, *W]`` that count items."""
        return self._storage.ndim

    @property
    def writes_from_anywhere(self) -> bool:
        """Whether rows that copies in other processes write are sampled like rows written here."""
        return self.shared and (self._sampler.catches_up or not self._sampler.listens)

    def set_storage(self, storage: Storage, collate_fn: Convert | None = None) -> None:
        """Replace the storage, with all that it holds."""
        with self._writing():
            self._storage, self._collate_fn = storage, collate_fn
            self._writer.register_storage(storage)
            self.dim_extend = storage.ndim - 1
            self._count_along(self.dim_extend)
            self._lock = storage.lock() or self._lock
            if self.shared:
                storage.share()
                self._lock.look = storage.repair_after_crash

    def _count_along(self, dim: int) -> None:
        """Read and write the dimensions of the storage in the order of the data."""
        self._storage.time_dim = dim if 0 < dim < self._storage.ndim else 0

    def set_sampler(self, sampler: Sampler) -> None:
        """Replace the sampler; all items that are stored are new to it."""
        with self._writing():
            self._sampler, self._unchecked = sampler, CHECKED_DRAWS
            sampler.generator = self._generator
            if len(self._storage):
                sampler.extend(torch.arange(len(self._storage)))

    def set_writer(self, writer: Writer) -> None:
        """Replace the writer."""
        with self._writing():
            self._writer = writer
            writer.register_storage(self._storage)

    def append_transform(self, transform: Convert, *, invert: bool = False) -> Self:
        """Add a transform after the others; ``invert=True`` swaps its two directions."""
        return self.insert_transform(len(self._transform.steps), transform, invert=invert)

    def insert_transform(self, index: int, transform: Convert, *, invert: bool = False) -> Self:
        """Add a transform before number ``index``; ``invert=True`` swaps its two directions."""
        with self._writing():
            self._transform.insert(index, transform, invert)
        return self

    def stats(self) -> State:
        """Return the numbers of items, of slots, of items written, and the classes of the parts."""
        parts = {"storage": self._storage, "sampler": self._sampler, "writer": self._writer}
        return {
            "items": len(self._storage),
            "max_size": self._storage.max_size,
            "write_count": self.write_count,
            **{name: type(part).__name__ for name, part in parts.items()},
        }

    @property
    def write_count(self) -> int:
        """Number of items written so far."""
        return self._storage.written * self._storage.width

    def add(self, data: Data) -> Any:
        """Store one item; return its slot, or ``None`` if the writer does not store it.

        In a storage of several dimensions this is a row, and its index ``[W, ndim]``.

        Raises:
            MissingKeyError, UnexpectedKeyError, ShapeError, DTypeError: if it differs in
                layout from the items before; nothing is written then.
        """
        if self._graph is not None and torch.compiler.is_compiling():
            index = self._graph.extend(data.unsqueeze(0).transpose(0, self.dim_extend))
            return index[0] if self._storage.ndim == 1 else index
        if self._transform.steps:
            data = self._transform.inward(data)
        with self._writing():
            slot = self._writer.add(data)
            if slot is not None and self._sampler.listens:
                self._note_written(torch.tensor([slot]))
        one_number = slot is None or self._storage.ndim == 1
        return slot if one_number else self._storage.index_of(torch.tensor([slot]))

    def extend(self, data: Data) -> Tensor:
        """Store items ``[N]``; return their slots ``[N]``, ``-1`` where one was not kept.

        In a storage of several dimensions, the index ``[N * W, ndim]`` of all items, in the order
        of ``data.reshape(-1)``.

        Raises:
            MissingKeyError, UnexpectedKeyError, ShapeError, DTypeError: if they differ in
                layout from the items before; nothing is written then.
        """
        if self._graph is not None and torch.compiler.is_compiling():
            return self._graph.extend(data)
        if self._transform.steps:
            data = self._transform.inward(data)
        slots = self._extend(data)
        return slots if self._storage.ndim == 1 else self._storage.index_of(slots)

    def _extend(self, data: Data) -> Tensor:
        """Write items, to which inverse transforms were applied; return the slots ``[N]``."""
        if self.dim_extend > 0:
            data = transpose_entries(data, self.dim_extend)
        with self._writing():
            slots = self._writer.extend(data)
            if self._sampler.listens:
                self._note_written(slots)
        return slots

    def _note_written(self, slots: Tensor) -> None:
        """Pass the items of newly written slots ``[N]`` to the sampler."""
        self._sampler.extend(self._storage.items_of(slots))

    def __setitem__(self, index: Index, data: Data) -> None:
        """Replace items; an entry that is not stored yet is added, zero in all others."""
        self._writer.allow_edits()
        if self._transform.steps:
            data = self._transform.inward(data)
        storage, writer = self._storage, self._writer
        with self._writing():
            slots = storage.whole_rows(index)
            if slots is None:
                positions = storage.positions_at(index)
                items = writer.stamped_items(data, positions)
                storage.widen(items, positions.ndim)
                storage.set_items(positions, items)
                self._sampler.extend(positions.reshape(-1))
                return
            if storage.time_dim:
                if not slots.ndim:
                    data, slots = data.unsqueeze(storage.time_dim), slots.reshape(1)
                data, index = transpose_entries(data, storage.time_dim), slots
            rows = writer.stamped(data, slots)
            storage.widen(rows, storage.ndim - 1 + slots.ndim)
            storage.set(index, rows)
            self._note_written(slots.reshape(-1))

    def empty(self) -> None:
        """Delete all items, and the state of sampler and writer that is about them."""
        with self._writing():
            self._storage.empty()
            self._unchecked = CHECKED_DRAWS
            self._sampler._empty()
            self._writer._empty()

    def sample(
        self, batch_size: int | None = None, return_info: bool = False, include_info: bool | None = None
    ) -> Data:
        """Return a batch, or, with ``return_info``, the batch and a dict about its items.

        Args:
            batch_size: Number of items ``B``, or of windows; the constructor's if ``None``.
            return_info: Return also a dict with ``index [B]`` (``[B, ndim]`` if the storage has
                several dimensions) and the info of the sampler.
            include_info: Write the dict into a batch that is a tensordict; ``None`` is true in a
                :class:`TensorDictReplayBuffer`, false here.

        Raises:
            BatchSizeError: if no batch size was given here or to the constructor.
            RuntimeError: if the buffer is empty.
        """
        size = self._size(batch_size)
        if self._graph is not None and torch.compiler.is_compiling():
            data, info = self._graph.sample(self, size)
            data = self._finish(data, info)
        elif self._prefetcher is not None:
            batch = self._prefetcher.next(size)
            data, info, self._ran_out = batch.data, batch.info, batch.ran_out
        else:
            with self._lock:
                positions, info, ran_out = self._draw(size)
                data = self._read(positions, info)
            info = {"index": self._storage.coordinates(positions), **info}
            data = self._finish(data, info)
            self._ran_out = ran_out
        if include_info is False and is_tensor_collection(data):
            data = data.exclude(*ITEM_INFO)
        elif include_info and not self._annotates and is_tensor_collection(data):
            data.update({key: expand_items(value, 1, data.batch_size) for key, value in info.items()})
        return (data, info) if return_info else data

    def _size(self, batch_size: int | None) -> int:
        size = self.batch_size if batch_size is None else batch_size
        if size is not None and size >= 1:
            return size
        hint = "Give one to sample() or to the constructor."
        raise BatchSizeError(
            describe(self, "the size of a sample is not known", expected="a positive batch_size", found=size, hint=hint)
        )

    def _draw(self, batch_size: int) -> Drawn:
        with self._lock:
            if self._unchecked:
                require_items(self._storage, self._sampler)
            drawn = self._sampler.sample(self._storage, batch_size)
            if self._unchecked:
                self._unchecked -= 1
                check_drawn(self._sampler, drawn, self._storage)
            positions, info = drawn
            if self._unit is not None:
                positions, info = self._unit(self._sampler, positions, info, self._storage)
            if self._writer.track_generations:
                info = {**info, "generation": self._storage.generations(positions)}
        return positions, info, self._sampler.ran_out

    def _version(self) -> tuple[bytes, int]:
        """Return a value that differs after each change of stored rows or of transforms."""
        return self._storage.version, self._transform.changes

    def _current_sampler(self) -> Sampler:
        return self._sampler

    def _make(self, drawn: Drawn, version: object) -> Batch | None:
        """Return the batch of drawn positions, or ``None`` if rows have changed since the draw."""
        positions, info, ran_out = drawn
        info = dict(info)
        with self._lock:
            if self._version() != version:
                return None
            data = self._read(positions, info)
        info = {"index": self._storage.coordinates(positions), **info}
        return Batch(self._finish(data, info), info, ran_out)

    def _read(self, positions: Tensor, info: Info) -> Data:
        """Read the items at ``positions [B]``."""
        return self._storage.take(positions)

    _annotates = False

    def _finish(self, data: Data, info: Info) -> Data:
        """Collate, annotate, transform and pin the items that were read."""
        if self._collate_fn is not None:
            data = self._collate_fn(data)
        elif isinstance(data, list):
            data = self._storage.collate(data)
        if (len(info) > 1 or self._annotates) and is_tensor_collection(data):
            for key, value in info.items():
                if self._annotates or key not in INFO_OF_TENSORDICT_BUFFERS:
                    data.set(key, expand_items(value, 1, data.batch_size))
        if self._transform.steps:
            data = self._transform.outward(data)
        if self._pin_memory and torch.cuda.is_available():
            data = data.pin_memory()
        return data

    def __getitem__(self, index: Index) -> Data:
        key = index if isinstance(index, str) else None
        if isinstance(index, tuple) and index and all(isinstance(part, str) for part in index):
            key = unravel_key(index)
        with self._lock:
            data = self._storage.read(index if key is None else slice(None))
        if self._transform.steps:
            data = self._transform.outward(data.clone() if hasattr(data, "clone") else data)
        return data if key is None else data[key]

    def __len__(self) -> int:
        return len(self._storage)

    def __iter__(self) -> Iterator[Data]:
        self._size(None)
        while True:
            yield self.sample()
            if self._ran_out:
                return

    def __next__(self) -> Data:
        return self.sample()

    next = __next__

    def as_dataset(self, batch_size: int | None = None, num_batches: int | None = None) -> BufferDataset:
        """Return the samples as a dataset for a ``DataLoader``: see :class:`BufferDataset`."""
        return BufferDataset(self, batch_size, num_batches)

    def export(self, path: str | Path, format: str = "parquet") -> Path:
        """Write all items to a folder, as a table for other programs and for ``load_dataset(path)``.

        Formats are ``"parquet"``, and ``"huggingface"`` for ``datasets.load_from_disk(path)``.
        """
        found = self.read_all_in_order()
        items = self._storage.collate(found) if isinstance(found, list) else found
        lead = lead_shape(items, self._storage.ndim, self)
        return write_table(Table(items, tuple(lead), self._storage.time_dim), path, format, self)

    def can_sample(self, batch_size: int | None = None) -> bool:
        """Return whether :meth:`sample` would find items; nothing is drawn."""
        size = self._size(batch_size)
        if self._prefetcher is not None and self._prefetcher.has(size):
            return True
        with self._lock:
            return len(self._storage) > 0 and self._sampler.can_sample(self._storage, size)

    def update_priority(self, index: Index, priority: Tensor | float) -> None:
        """Set the priorities of the items ``index [N]``; only prioritized samplers use them.

        Args:
            index: As in ``info["index"]``.
            priority: ``[N]``, or one number for all.
        """
        if self._graph is not None and torch.compiler.is_compiling():
            self._graph.update_priority(torch.as_tensor(index), torch.as_tensor(priority))
            return
        with self._rating():
            positions = self._storage.positions(index)
            self._sampler.update_priority(positions, torch.as_tensor(priority))

    def mark_update(self, index: Index) -> None:
        """Treat the items ``index [N]`` as new: prioritized samplers give them the default priority."""
        with self._rating():
            self._sampler.mark_update(self._storage.positions(index))

    def share(self) -> ReplayBuffer:
        """Let other processes that receive this buffer write to it and read from it.

        Raises:
            RuntimeError: if the storage cannot be shared.
        """
        self._storage.share()
        self._lock = self._storage.lock() or ProcessLock(look=self._storage.repair_after_crash)
        self.shared = True
        return self

    def _writing(self) -> AbstractContextManager[object]:
        """Return a context in which nothing else reads or writes, and no batch is prepared."""
        return self._lock if self._prefetcher is None else self._changing(self._prefetcher)

    @contextmanager
    def _changing(self, prefetcher: Prefetcher) -> Iterator[None]:
        prefetcher.check_process()
        with prefetcher.lock:
            prefetcher.note_change()
            with self._lock:
                yield

    def _rating(self) -> AbstractContextManager[object]:
        """Return a context to change priorities in; prepared batches stay if they may."""
        return self._lock if self._sampler.rates_apart else self._writing()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Return a context in which nothing is written or drawn; prepared batches stay."""
        if self._prefetcher is not None:
            self._prefetcher.check_process()
        with self._prefetcher.lock if self._prefetcher is not None else nullcontext(), self._lock:
            yield

    def query(
        self, predicate: TrajectoryPredicate | None = None, *, trajectory_key: NestedKey | None = None
    ) -> list[Trajectory]:
        """Return the stored trajectories for which a predicate is true, in order of their ends.

        Of a trajectory whose first steps were overwritten the stored rest is used.

        Args:
            predicate: ``trajectory -> bool``; all trajectories are returned if ``None``.
            trajectory_key: Entry with their numbers; if ``None``, ``("collector", "traj_ids")`` if
                it is stored, else they end where ``("next", "done")`` is true.
        """
        with self._reading():
            return stored_trajectories(self._storage, predicate, trajectory_key)

    def set_(self, key: NestedKey, value: Data) -> None:
        """Replace one entry of all stored rows by ``value``, of the shape of ``buffer[:]``.

        Raises:
            MissingKeyError, ShapeError, DTypeError: if it does not fit the stored rows; nothing is
                written then.
        """
        self.set_at_(key, value, slice(None))

    def set_at_(self, key: NestedKey, value: Data, index: Index) -> None:
        """Replace one entry of the rows ``buffer[index]``; raise the errors of :meth:`set_`."""
        self._replace({key: value}, index)

    def update_(self, data: TensorDictBase, index: Index = slice(None)) -> None:
        """Replace the entries that ``data`` has, of the rows ``buffer[index]``; of all by default.

        Raises the errors of :meth:`set_`.
        """
        self._replace(entries_of(data), index)

    def _replace(self, entries: dict[NestedKey, Data], index: Index) -> None:
        self._writer.allow_edits()
        with self._writing():
            self._storage.set_entries(entries, self._storage.place_at(index))

    def update_if_present(self, data: TensorDictBase, version_key: NestedKey | None = None) -> ConditionalUpdateResult:
        """Replace entries of sampled items, unless they were overwritten in the meantime.

        Args:
            data: A sample ``[B]``, with the entries that are to change and without the others.
            version_key: Entry that numbers versions: items whose stored version is higher stay.

        Reads: ``index`` and ``generation [B]``, as samples have them where the writer counts
        generations.

        Raises:
            MissingKeyError: if ``data`` lacks one of them, or has an entry that is not stored.
        """
        self._writer.allow_edits()
        with self._writing():
            return update_unless_overwritten(self, self._storage, data, version_key)

    # --- saving and loading ---

    def set_rng(self, generator: torch.Generator | None) -> None:
        """Take randomness from ``generator``; from the default one of torch if ``None``."""
        self._generator = generator
        self._sampler.generator = generator

    def state_dict(self) -> State:
        """Return the whole state, so that another buffer continues exactly as this one."""
        with self._reading():
            return {"_storage": self._storage.state_dict(), **self._state_of_parts()}

    def _state_of_parts(self) -> State:
        generator = self._generator
        return {
            "_sampler": self._sampler.state_dict(),
            "_writer": self._writer.state_dict(),
            "_transforms": self._transform.state_dict(),
            "_batch_size": self.batch_size,
            "_generator": None if generator is None else generator.get_state(),
            "_prefetch": self._prefetcher.state_dict() if self._prefetcher else None,
        }

    def load_state_dict(self, state_dict: State) -> None:
        """Load the state of a :meth:`state_dict`, all of it or, with an error, none.

        Raises:
            MissingKeyError: if it had another kind of storage, sampler or writer.
            ShapeError: if its rows do not fit.
        """
        with self._writing():
            self.check_state(state_dict)
            self._storage.load_state_dict(state_dict["_storage"])
            self._load_parts(state_dict)

    def check_state(self, state_dict: State) -> None:
        """Raise the errors of :meth:`load_state_dict` without loading."""
        with explain_absent_state(self):
            parts = [state_dict[name] for name in SAVED]
        with self._writing():
            with explain_absent_state(self._storage):
                self._storage.check_state(parts[0])
            for part, state in zip((self._sampler, self._writer), parts[1:3], strict=True):
                with explain_absent_state(part):
                    check_by_loading(part, state)
            check_by_loading(self._transform, parts[3])
            prepared = state_dict.get("_prefetch")
            if prepared is not None and not (isinstance(prepared, dict) and "drawn" in prepared):
                raise MissingKeyError(describe(self, "the save has no prefetched draws"))
            if parts[4] is not None:
                device = "cpu" if self._generator is None else self._generator.device
                torch.Generator(device).set_state(parts[4])

    def _load_parts(self, parts: State) -> None:
        self._sampler.load_state_dict(parts["_sampler"])
        self._writer.load_state_dict(parts["_writer"])
        self._transform.load_state_dict(parts["_transforms"])
        self.batch_size = parts["_batch_size"]
        if parts["_generator"] is not None:
            generator = self._generator or torch.Generator()
            self.set_rng(generator.set_state(parts["_generator"]))
        prepared = parts.get("_prefetch")
        if prepared is not None and self._prefetcher is not None:
            self._prefetcher.load_state_dict(prepared)
        elif prepared is not None:
            drop_prepared(self._sampler, prepared)

    def dumps(self, path: str | Path) -> None:
        """Write the whole state to a folder.

        If the save is interrupted, the previous one in that folder stays valid. The checksum of
        each file is saved.
        """
        with self._reading(), replacing(path) as folder:
            self.write_save(folder)

    def write_save(self, folder: Path) -> None:
        """Write the files of a save to an empty folder."""
        with self._reading():
            self._storage.dumps(folder / "storage")
            torch.save(self._state_of_parts(), folder / "parts.pt")

    def loads(self, path: str | Path, *, trust: bool = False) -> None:
        """Load the state that :meth:`dumps` wrote, all of it or, with an error, none.

        Args:
            path: The folder.
            trust: Unpickle any object, which runs the code in the files. Tensors, tensordicts,
                arrays, numbers, texts and containers of them need no trust.

        Raises:
            FileNotFoundError: if the folder holds no save, or one by another checkpointer.
            UntrustedFileError: if it holds other objects, and ``trust`` is false.
            DamagedFileError: if a file, which is named, differs from what was written.
        """
        self.load_state_dict(self.read_save(current(path), trust=trust))

    def read_save(self, folder: Path, *, trust: bool = False) -> State:
        """Return the state that :meth:`write_save` wrote, for :meth:`load_state_dict`."""
        check_files(folder)
        with explain_absent_files(self._storage, folder / "storage"):
            rows = self._storage.checkpointer.read(self._storage, folder / "storage", trust)
        return {**load_file(folder / "parts.pt", trust=trust), "_storage": rows}

    dump = save = dumps
    load = loads

    def register_save_hook(self, hook: Convert) -> None:
        """Apply ``hook``, ``rows [R, *W] -> anything``, to the rows that :meth:`dumps` writes.

        Hooks run in order of registration; load hooks must invert them.
        """
        self._converter().save_hooks.append(hook)

    def register_load_hook(self, hook: Convert) -> None:
        """Apply the inverse of a save hook in :meth:`loads`; the last registered is the first."""
        self._converter().load_hooks.insert(0, hook)

    def _converter(self) -> ConvertingCheckpointer:
        checkpointer = self._storage.checkpointer
        if not isinstance(checkpointer, ConvertingCheckpointer):
            checkpointer = self._storage.checkpointer = ConvertingCheckpointer()
        return checkpointer

    def read_all_in_order(self) -> Data:
        """Return all rows, the oldest first, with the dimensions of ``buffer[:]``."""
        with self._reading():
            rows, written = self._storage.rows, self._storage.written
            oldest = written % rows if rows and self._storage.is_full else 0
            order = (torch.arange(rows) + oldest) % max(rows, 1)
            time_dim = self._storage.time_dim
            return self._storage.read((slice(None),) * time_dim + (order,) if time_dim else order)

    def write_all(self, data: Data) -> Tensor:
        """Delete all items, store items ``[N]``, and return their slots ``[N]``."""
        with self._writing():
            self.empty()
            return self.extend(data)

    def __getstate__(self) -> State:
        if self._prefetcher is not None:
            with self._prefetcher.lock:
                self._prefetcher.discard()  # the copy draws them itself
        return {**self.__dict__, "_lock": self._lock if self.shared else None}

    def __setstate__(self, state: State) -> None:
        self.__dict__.update(state)
        if "_recipe" in state:
            del self._lock  # made with the parts
        elif self._lock is None:
            self._lock = (self._storage.lock() if self._writer.writes else None) or threading.RLock()
        if self._graph is not None:
            self._graph = _graph_of(self)

    def __repr__(self) -> str:
        parts = (self._storage, self._sampler, self._writer)
        names = ", ".join(type(part).__name__ for part in parts)
        size = f"items={len(self._storage)}, batch_size={self.batch_size}"
        return f"{type(self).__name__}({names}, {size})"


def _graph_of(buffer: ReplayBuffer) -> CompiledCalls:
    from torchrl.data.replay_buffers import compile_ops  # noqa: PLC0415 - registers operators

    return compile_ops.CompiledCalls(buffer)
