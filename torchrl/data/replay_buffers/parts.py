"""`MadeOfParts`: a buffer has a storage, a sampler, a writer and transforms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from torchrl.data.replay_buffers.pipeline import Pipeline
from torchrl.data.replay_buffers.samplers.base import Sampler
from torchrl.data.replay_buffers.storages.base import Storage
from torchrl.data.replay_buffers.writers.base import Writer


class MadeOfParts(ABC):
    """The part of a replay buffer that knows what it is made of.

    Hooks:
        _writing: a context in which nobody else reads or writes.
    """

    _storage: Storage
    _sampler: Sampler
    _writer: Writer
    _transform: Pipeline
    _collate_fn: Any
    _generator: torch.Generator | None
    _lock: Any
    dim_extend: int
    batch_size: int | None
    shared: bool

    @abstractmethod
    def _writing(self) -> AbstractContextManager[Any]: ...

    @property
    def storage(self) -> Storage:
        """Keeps the items."""
        return self._storage

    @property
    def sampler(self) -> Sampler:
        """Chooses what is sampled."""
        return self._sampler

    @property
    def writer(self) -> Writer:
        """Chooses what is overwritten."""
        return self._writer

    @property
    def transform(self) -> Pipeline:
        """What happens to samples, and, inverted, to what comes in."""
        return self._transform

    @property
    def ndim(self) -> int:
        """Number of leading dimensions ``[R, *W]`` that count items."""
        return self._storage.ndim

    @property
    def writes_from_anywhere(self) -> bool:
        """Whether what copies in other processes write is sampled here as if it had come here."""
        return self.shared and (self._sampler.catches_up or not self._sampler.listens)

    def set_storage(self, storage: Storage, collate_fn: Callable[[Any], Any] | None = None) -> None:
        """Replace the storage, with all that it holds."""
        with self._writing():
            self._storage, self._collate_fn = storage, collate_fn
            self._writer.register_storage(storage)
            self.dim_extend = storage.ndim - 1
            self._count_along(self.dim_extend)
            self._lock = storage.lock() or self._lock
            if self.shared:
                storage.share()
                self._lock.look = storage.repair

    def _count_along(self, dim: int) -> None:
        """Read and write the dimensions of the storage in the order of the data."""
        self._storage.time_dim = dim if 0 < dim < self._storage.ndim else 0

    def set_sampler(self, sampler: Sampler) -> None:
        """Replace the sampler; it knows nothing of the items that are already stored."""
        with self._writing():
            self._sampler = sampler
            sampler.generator = self._generator
            if len(self._storage):
                sampler.extend(torch.arange(len(self._storage)))

    def set_writer(self, writer: Writer) -> None:
        """Replace the writer."""
        with self._writing():
            self._writer = writer
            writer.register_storage(self._storage)

    def append_transform(self, transform: Callable[[Any], Any], *, invert: bool = False) -> Any:
        """Add a transform after the others; ``invert=True`` swaps its two directions."""
        return self.insert_transform(len(self._transform), transform, invert=invert)

    def insert_transform(
        self, index: int, transform: Callable[[Any], Any], *, invert: bool = False
    ) -> Any:
        """Add a transform before number ``index``; ``invert=True`` swaps its two directions."""
        with self._writing():
            self._transform.insert(index, transform, invert)
        return self

    def stats(self) -> dict[str, Any]:
        """Return how many items there are, can be, and were ever written, and the parts' names."""
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

    def __repr__(self) -> str:
        parts = (self._storage, self._sampler, self._writer)
        names = ", ".join(type(part).__name__ for part in parts)
        size = f"items={len(self._storage)}, batch_size={self.batch_size}"
        return f"{type(self).__name__}({names}, {size})"
