"""`ReplayBuffer`: a storage, a sampler, a writer, perhaps transforms."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from tensordict import is_tensor_collection, unravel_key
from torch import Tensor

from torchrl._core.errors import describe
from torchrl.data.replay_buffers.checkpointers import StorageCheckpointerBase
from torchrl.data.replay_buffers.editing import EditedBuffer
from torchrl.data.replay_buffers.lock import ProcessLock
from torchrl.data.replay_buffers.parts import MadeOfParts
from torchrl.data.replay_buffers.pipeline import Pipeline
from torchrl.data.replay_buffers.prefetch import Batch, Drawn, Prefetcher
from torchrl.data.replay_buffers.sample_units import SampleUnit
from torchrl.data.replay_buffers.samplers.base import Sampler
from torchrl.data.replay_buffers.samplers.random import ConsumingSampler, RandomSampler
from torchrl.data.replay_buffers.saving import SavedBuffer
from torchrl.data.replay_buffers.storages.base import Storage
from torchrl.data.replay_buffers.storages.list import ListStorage
from torchrl.data.replay_buffers.storages.schema import expand_items
from torchrl.data.replay_buffers.writers.base import Writer
from torchrl.data.replay_buffers.writers.round_robin import RoundRobinWriter

if TYPE_CHECKING:
    from torchrl.data.replay_buffers.compiled import GraphCalls

_PARTS, _MADE = (Storage, Sampler, Writer), ("_storage", "_sampler", "_writer", "dim_extend")
_ABOUT_ITEMS = (
    "index",
    "priority_weight",
    "generation",
)  # info that only tensordict buffers write into samples


class ReplayBuffer(MadeOfParts, SavedBuffer, EditedBuffer):
    """Stores items and hands out batches of them. Thread-safe.

    Args:
        storage: Keeps the items: a storage, or a function that makes one; a list of 1000 slots
            if ``None``.
        sampler: Chooses what :meth:`sample` returns; uniformly, with replacement, if ``None``.
        sample_unit: What an item that the sampler draws stands for: itself if ``None``, or a window
            of steps, :class:`Sequence`.
        writer: Chooses which slots are filled; the oldest if ``None``.
        collate_fn: Makes a batch of a list of items, or works on the batch that a storage of
            tensors makes; stacks if ``None``.
        pin_memory: Put samples into pinned memory, where there is CUDA to copy them to.
        prefetch: Number of batches that threads prepare ahead while the buffer does not change.
            Samples are those of a buffer without it, except that priorities which are updated
            meanwhile count from the first batch on that was not prepared yet.
        transform: Applied to each sample: any callable ``data -> data``. If it has an ``inv``,
            that is applied to what comes in.
        transform_factory: Makes the transform; in place of ``transform``.
        batch_size: Size of a sample, unless :meth:`sample` is told otherwise.
        dim_extend: Dimension of extended data along which rows are counted; the last of the
            storage's if ``None``, which is time where a storage has environments besides. What is
            read, written by index, and ``index`` have their dimensions in the order of the data:
            ``buffer[env, step]``.
        checkpointer: Writes the storage to disk; the storage's own way if ``None``.
        delayed_init: Make the parts when they are first needed, in the process that needs them;
            they must be functions then, or ``None``.
        generator: Where randomness comes from; the default one of torch if ``None``.
        consume_after_n_samples: Sample each item that many times and no more, with a
            :class:`ConsumingSampler`; in place of ``sampler``.
        shared: Let processes that are handed this buffer write to it and read from it.
        compilable: Make each call one operation of the graph inside of functions that
            ``torch.compile`` compiles; for tensors, drawn at random or by priority. There
            ``add`` returns a tensor.

    Raises:
        TypeError: if two arguments say the same thing, ``transform`` and ``transform_factory``,
            say, or ``delayed_init`` comes with a part that is made already.

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
        collate_fn: Callable[[Any], Any] | None = None,
        pin_memory: bool = False,
        prefetch: int | None = None,
        transform: Callable[[Any], Any] | None = None,
        transform_factory: Callable[[], Callable[[Any], Any]] | None = None,
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
            sampler = _consuming(self, sampler, consume_after_n_samples)
        if transform_factory is not None:
            transform = transform_factory()
        self._transform = Pipeline([transform] if transform is not None else [])
        self._collate_fn, self._pin_memory = collate_fn, pin_memory
        self.batch_size, self._ran_out = batch_size, False
        self._generator, self._unit = generator, sample_unit
        self._lock: Any = threading.RLock()
        self._recipe: Any = (storage, sampler, writer, checkpointer, dim_extend)
        if not delayed_init:
            self._make_parts()
        elif (
            shared
            or compilable
            or any(isinstance(part, _PARTS) for part in (storage, sampler, writer))
        ):
            raise TypeError(
                describe(
                    self,
                    "delayed_init makes the parts later, and each process its own",
                    expected="functions that make the parts, neither shared nor compilable",
                    hint="A LazyMemmapStorage with existsok=True is found by every process.",
                )
            )
        self.prefetch = prefetch or 0
        self._prefetcher = (
            Prefetcher(self.prefetch, self._draw, self._make, self._version, self._current_sampler)
            if self.prefetch
            else None
        )
        self.shared = shared
        if shared:
            self.share()
        self._graph = _graph_of(self) if compilable else None

    def _in_graph(self) -> GraphCalls | None:
        """Return the operations that stand for calls, where a graph is made of them."""
        return self._graph if self._graph is not None and torch.compiler.is_compiling() else None

    def _make_parts(self) -> None:
        storage, sampler, writer, checkpointer, dim_extend = self.__dict__.pop("_recipe")
        self._storage: Storage = _made(storage, Storage, partial(ListStorage, 1000))
        if checkpointer is not None:
            self._storage.checkpointer = checkpointer
        self._sampler: Sampler = _made(sampler, Sampler, self._default_sampler)
        self._sampler.generator = self._generator
        self._writer: Writer = _made(writer, Writer, self._default_writer)
        self._writer.register_storage(self._storage)
        if self._writer.writes:
            self._lock = self._storage.lock() or self._lock
        self.dim_extend: int = self._storage.ndim - 1 if dim_extend is None else dim_extend
        self._count_along(self.dim_extend)

    def __getattr__(self, name: str) -> Any:
        """Make the parts, if they were not made yet and one of them is asked for."""
        if name in _MADE and "_recipe" in self.__dict__:
            self._make_parts()
            return self.__dict__[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _default_sampler(self) -> Sampler:
        return RandomSampler()

    def _default_writer(self) -> Writer:
        return RoundRobinWriter()

    @property
    def ran_out(self) -> bool:
        """Whether the last sample ended a pass over the items."""
        return self._ran_out

    def add(self, data: Any) -> Any:
        """Store one item; return its slot, or ``None`` if the writer does not keep it.

        Raises:
            MissingKeyError, UnexpectedKeyError, ShapeError, DTypeError: if it does not look like
                the items before; nothing is written then.
        """
        if (graph := self._in_graph()) is not None:
            return graph.extend(data.unsqueeze(0).transpose(0, self.dim_extend))[0]
        if len(self._transform):
            data = self._transform.inward(data)
        with self._writing():
            slot = self._writer.add(data)
            if slot is not None and self._sampler.listens:
                self._note_written(torch.tensor([slot]))
        return slot

    def extend(self, data: Any) -> Tensor:
        """Store items ``[N]``; return their slots ``[N]``, ``-1`` where one was not kept.

        Raises:
            MissingKeyError, UnexpectedKeyError, ShapeError, DTypeError: if they do not look like
                the items before; nothing is written then.
        """
        if (graph := self._in_graph()) is not None:
            return graph.extend(data)
        if len(self._transform):
            data = self._transform.inward(data)
        if self.dim_extend > 0:
            data = _transpose(data, self.dim_extend)
        with self._writing():
            slots = self._writer.extend(data)
            if self._sampler.listens:
                self._note_written(slots)
        return slots

    def _note_written(self, slots: Tensor) -> None:
        """Tell the sampler about slots ``[N]`` that were just written."""
        self._sampler.extend(self._storage.items_of(slots))

    def __setitem__(self, index: Any, data: Any) -> None:
        self._writer.allow_edits()
        if len(self._transform):
            data = self._transform.inward(data)
        storage, writer = self._storage, self._writer
        with self._writing():
            slots = storage.whole_rows(index)
            if slots is None:
                positions = storage.positions_at(index)
                storage.set_items(positions, writer.stamped_items(data, positions))
                self._sampler.extend(positions.reshape(-1))
                return
            if storage.time_dim:
                if not slots.ndim:
                    data, slots = data.unsqueeze(storage.time_dim), slots.reshape(1)
                data, index = _transpose(data, storage.time_dim), slots
            storage.set(index, writer.stamped(data, slots))
            self._note_written(slots.reshape(-1))

    def empty(self) -> None:
        """Forget all items, and what sampler and writer know of them."""
        with self._writing():
            self._storage.empty()
            self._sampler._empty()
            self._writer._empty()

    def sample(self, batch_size: int | None = None, return_info: bool = False) -> Any:
        """Return a batch, or, with ``return_info``, the batch and what is known about it.

        Args:
            batch_size: Number of items ``B``, or of windows; the constructor's if ``None``.
            return_info: Return also a dict with ``index [B]`` (``[B, ndim]`` where a storage has
                several dimensions) and what the sampler says.

        Raises:
            ValueError: if no batch size was given here or to the constructor.
            RuntimeError: if the buffer is empty.
        """
        size = self._size(batch_size)
        if (graph := self._in_graph()) is not None:
            data, info = graph.sample(self, size)
            data = self._dress(data, info)
            return (data, info) if return_info else data
        if self._prefetcher is not None:
            batch = self._prefetcher.next(size)
        else:
            with self._lock:
                drawn = self._draw(size)
                data = self._read(drawn[0], drawn[1])
            batch = self._finish(data, *drawn)
        self._ran_out = batch.ran_out
        return (batch.data, batch.info) if return_info else batch.data

    def _size(self, batch_size: int | None) -> int:
        size = self.batch_size if batch_size is None else batch_size
        if size is None or size < 1:
            raise ValueError(
                describe(
                    self,
                    "the size of a sample is not known",
                    expected="a positive batch_size",
                    found=size,
                    hint="Give one to sample() or to the constructor.",
                )
            )
        return size

    def _draw(self, batch_size: int) -> Drawn:
        with self._lock:
            positions, info = self._sampler.sample(self._storage, batch_size)
            if self._unit is not None:
                positions, info = self._unit(self._sampler, positions, info, self._storage)
            if self._writer.track_generations:
                info = {**info, "generation": self._storage.generations(positions)}
        return positions, info, self._sampler.ran_out

    def _version(self) -> Any:
        """Return what differs whenever stored rows or transforms have changed."""
        return self._storage.version, self._transform.changes

    def _current_sampler(self) -> Sampler:
        return self._sampler

    def _make(self, drawn: Drawn, version: Any) -> Batch | None:
        """Make the batch of what was drawn, or ``None`` if rows have changed since then."""
        positions, info, ran_out = drawn
        info = dict(info)
        with self._lock:
            if self._version() != version:
                return None
            data = self._read(positions, info)
        return self._finish(data, positions, info, ran_out)

    def _read(self, positions: Tensor, info: dict[Any, Any]) -> Any:
        """Read the items at ``positions [B]``."""
        return self._storage.take(positions)

    def _finish(self, data: Any, positions: Tensor, info: dict[Any, Any], ran_out: bool) -> Batch:
        """Collate, annotate, transform and pin what was read."""
        info = {"index": self._storage.coordinates(positions), **info}
        return Batch(self._dress(data, info), info, ran_out)

    def _dress(self, data: Any, info: dict[Any, Any]) -> Any:
        data = self._collate(data)
        if len(info) > 1 or self._annotates:
            data = self._annotate(data, info)
        if len(self._transform):
            data = self._transform.outward(data)
        if self._pin_memory and torch.cuda.is_available():
            data = data.pin_memory()
        return data

    _annotates = False

    def _annotate(self, data: Any, info: dict[Any, Any]) -> Any:
        """Write into a sample what the sampler says about its entries."""
        keys = info if self._annotates else [key for key in info if key not in _ABOUT_ITEMS]
        if keys and is_tensor_collection(data):
            for key in keys:
                data.set(key, expand_items(info[key], 1, data.batch_size))
        return data

    def _collate(self, data: Any) -> Any:
        if self._collate_fn is not None:
            return self._collate_fn(data)
        return self._storage.collate(data) if isinstance(data, list) else data

    def __getitem__(self, index: Any) -> Any:
        key = index if isinstance(index, str) else None
        if isinstance(index, tuple) and index and all(isinstance(part, str) for part in index):
            key = unravel_key(index)
        with self._lock:
            data = self._storage.read(index if key is None else slice(None))
        if len(self._transform):
            data = self._transform.outward(data.clone() if hasattr(data, "clone") else data)
        return data if key is None else data[key]

    def __len__(self) -> int:
        return len(self._storage)

    def __iter__(self) -> Iterator[Any]:
        self._size(None)
        while True:
            yield self.sample()
            if self._ran_out:
                return

    def __next__(self) -> Any:
        return self.sample()

    next = __next__

    def can_sample(self, batch_size: int | None = None) -> bool:
        """Return whether :meth:`sample` would find items, without drawing any."""
        size = self._size(batch_size)
        if self._prefetcher is not None and self._prefetcher.has(size):
            return True
        with self._lock:
            return len(self._storage) > 0 and self._sampler.can_sample(self._storage, size)

    def update_priority(self, index: Any, priority: Any) -> None:
        """Tell the sampler how surprising the items ``index [N]`` were.

        Args:
            index: As ``info["index"]`` has it.
            priority: ``[N]``, or one number for all.
        """
        if (graph := self._in_graph()) is not None:
            graph.update_priority(torch.as_tensor(index), torch.as_tensor(priority))
            return
        with self._rating():
            positions = self._storage.positions(index)
            self._sampler.update_priority(positions, torch.as_tensor(priority))

    def share(self) -> ReplayBuffer:
        """Let processes that are handed this buffer write to it and read from it.

        Raises:
            RuntimeError: if the storage cannot be shared.
        """
        self._storage.share()
        self._lock = self._storage.lock() or ProcessLock(look=self._storage.repair)
        self.shared = True
        return self

    def _writing(self) -> Any:
        """Return a context in which nothing else reads or writes, and no batch is prepared."""
        return self._lock if self._prefetcher is None else self._changing(self._prefetcher)

    @contextmanager
    def _changing(self, prefetcher: Prefetcher) -> Iterator[None]:
        prefetcher.check_process()
        with prefetcher.lock:
            prefetcher.note_change()
            with self._lock:
                yield

    def _rating(self) -> Any:
        """Return a context to change priorities in; prepared batches stay if they may."""
        return self._lock if self._sampler.rates_apart else self._writing()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Return a context in which nothing is written or drawn; prepared batches stay."""
        prefetcher = self._prefetcher
        if prefetcher is not None:
            prefetcher.check_process()
        with prefetcher.lock if prefetcher is not None else nullcontext(), self._lock:
            yield

    def __getstate__(self) -> dict[str, Any]:
        if self._prefetcher is not None:
            with self._prefetcher.lock:
                self._prefetcher.discard()  # a copy draws what comes next by itself
        state = self.__dict__.copy()
        if not self.shared:
            state["_lock"] = None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._lock is None:
            parts = "_recipe" not in state and self._writer.writes
            self._lock = (self._storage.lock() if parts else None) or threading.RLock()
        if self._graph is not None:
            self._graph = _graph_of(self)


def _graph_of(buffer: ReplayBuffer) -> GraphCalls:
    from torchrl.data.replay_buffers import compiled  # noqa: PLC0415 - tells torch of operations

    return compiled.GraphCalls(buffer)


def _consuming(buffer: ReplayBuffer, sampler: Any, times: int) -> Callable[[], Sampler]:
    if sampler is not None:
        raise TypeError(describe(buffer, "takes sampler or consume_after_n_samples, not both"))
    return partial(ConsumingSampler, times)


def _made(part: Any, kind: type, default: Callable[[], Any]) -> Any:
    """Return a part that was given, or that the given function, or ``default``, makes."""
    if part is None:
        return default()
    if not isinstance(part, kind) and not callable(part):
        what = kind.__name__
        raise TypeError(
            f"ReplayBuffer: expected a {what} or a function that makes one, found {part!r}."
        )
    return part if isinstance(part, kind) else part()


def _transpose(data: Any, dim: int) -> Any:
    """Put dimension ``dim`` of every entry first."""
    if is_tensor_collection(data) or isinstance(data, Tensor):
        return data.transpose(0, dim)
    if isinstance(data, dict):
        return {name: _transpose(value, dim) for name, value in data.items()}
    return type(data)(_transpose(value, dim) for value in data)
