"""`SavedBuffer`: how a buffer takes its state out, and in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchrl._core.errors import MissingKeyError, describe
from torchrl.data.replay_buffers.checkpointers import (
    ConvertingCheckpointer,
    current,
    replacing,
)
from torchrl.data.replay_buffers.pipeline import Pipeline
from torchrl.data.replay_buffers.prefetch import Prefetcher, drop_prepared
from torchrl.data.replay_buffers.samplers.base import Sampler
from torchrl.data.replay_buffers.storages.base import Storage
from torchrl.data.replay_buffers.writers.base import Writer


class SavedBuffer(ABC):
    """The half of a replay buffer that saves and loads the other half.

    Hooks:
        _writing, _reading: contexts in which nothing else writes.
        empty: forgets all items; extend: ``rows [N] -> slots [N]``.
    """

    _storage: Storage
    _sampler: Sampler
    _writer: Writer
    _transform: Pipeline
    _prefetcher: Prefetcher | None
    _generator: torch.Generator | None
    batch_size: int | None

    @abstractmethod
    def _writing(self) -> AbstractContextManager[Any]: ...

    @abstractmethod
    def _reading(self) -> AbstractContextManager[Any]: ...

    @abstractmethod
    def empty(self) -> None: ...

    @abstractmethod
    def extend(self, data: Any) -> Tensor: ...

    def set_rng(self, generator: torch.Generator | None) -> None:
        """Take randomness from ``generator``; from the default one of torch if ``None``."""
        self._generator = generator
        self._sampler.generator = generator

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on exactly where this buffer stands."""
        with self._reading():
            return {"_storage": self._storage.state_dict(), **self._state_of_parts()}

    def _state_of_parts(self) -> dict[str, Any]:
        generator = self._generator
        return {
            "_sampler": self._sampler.state_dict(),
            "_writer": self._writer.state_dict(),
            "_transforms": self._transform.state_dict(),
            "_batch_size": self.batch_size,
            "_generator": None if generator is None else generator.get_state(),
            "_prefetch": self._prefetcher.state_dict() if self._prefetcher else None,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the buffer stood whose :meth:`state_dict` this is.

        Raises:
            MissingKeyError: if it had another kind of storage, sampler or writer.
            ShapeError: if its rows do not fit.
        """
        with self._writing():
            with _like_the_saved(self._storage):
                self._storage.load_state_dict(state_dict["_storage"])
            self._load_parts(state_dict)

    def _load_parts(self, parts: dict[str, Any]) -> None:
        with _like_the_saved(self._sampler):
            self._sampler.load_state_dict(parts["_sampler"])
        with _like_the_saved(self._writer):
            self._writer.load_state_dict(parts["_writer"])
        self._transform.load_state_dict(parts["_transforms"])
        self.batch_size = parts["_batch_size"]
        if parts["_generator"] is not None:
            generator = self._generator or torch.Generator()
            self.set_rng(generator.set_state(parts["_generator"]))
        prepared = parts["_prefetch"]
        if prepared is not None and self._prefetcher is not None:
            self._prefetcher.load_state_dict(prepared)
        elif prepared is not None:
            drop_prepared(self._sampler, prepared)

    def dumps(self, path: str | Path) -> None:
        """Write all that is needed to go on exactly where this buffer stands to a folder.

        A save that is cut short leaves the last good one in that folder in place.
        """
        with self._reading(), replacing(path) as folder:
            self._storage.dumps(folder / "storage")
            torch.save(self._state_of_parts(), folder / "parts.pt")

    def loads(self, path: str | Path) -> None:
        """Go on where the buffer stood that wrote to this folder. Load only what you have saved.

        Raises:
            FileNotFoundError: if the folder holds no save, or one by another checkpointer.
        """
        folder = current(path)
        parts = torch.load(folder / "parts.pt", weights_only=False)
        with self._writing():
            with _by_the_same_checkpointer(self._storage, folder / "storage"):
                self._storage.loads(folder / "storage")
            self._load_parts(parts)

    dump = save = dumps
    load = loads

    def register_save_hook(self, hook: Callable[[Any], Any]) -> None:
        """Let ``hook``, ``rows [R, *W] -> anything``, change what :meth:`dumps` writes of the rows.

        Hooks run one after the other; those of :meth:`register_load_hook` must undo them.
        """
        self._converter().save_hooks.append(hook)

    def register_load_hook(self, hook: Callable[[Any], Any]) -> None:
        """Let ``hook`` undo, in :meth:`loads`, what a save hook does; the last one undone first."""
        self._converter().load_hooks.insert(0, hook)

    def _converter(self) -> ConvertingCheckpointer:
        checkpointer = self._storage.checkpointer
        if not isinstance(checkpointer, ConvertingCheckpointer):
            checkpointer = self._storage.checkpointer = ConvertingCheckpointer()
        return checkpointer

    def read_all_in_order(self) -> Any:
        """Return all rows, the oldest first, with the dimensions of ``buffer[:]``."""
        with self._reading():
            rows, written = self._storage.rows, self._storage.written
            oldest = written % rows if rows and self._storage.is_full else 0
            order = (torch.arange(rows) + oldest) % max(rows, 1)
            time_dim = self._storage.time_dim
            return self._storage.read((slice(None),) * time_dim + (order,) if time_dim else order)

    def write_all(self, data: Any) -> Tensor:
        """Forget all items, and store these ``[N]`` in their place; return their slots ``[N]``."""
        with self._writing():
            self.empty()
            return self.extend(data)


@contextmanager
def _like_the_saved(part: Storage | Sampler | Writer) -> Iterator[None]:
    """Explain why ``part`` cannot take the state of another kind of part."""
    try:
        yield
    except MissingKeyError:
        raise
    except KeyError as error:
        hint = "Load it into a buffer built like the saved one."
        fact = f"the save is that of another kind of part: it lacks {error}"
        raise MissingKeyError(describe(part, fact, hint=hint)) from error


@contextmanager
def _by_the_same_checkpointer(storage: Storage, folder: Path) -> Iterator[None]:
    """Explain why files are absent that another checkpointer would not have written."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(
            describe(
                storage.checkpointer,
                "the rows were saved by another checkpointer, or with hooks",
                expected=Path(error.filename or folder).name,
                found=sorted(file.name for file in folder.iterdir()),
                hint="Load with the checkpointer, and with load hooks for the save hooks, of then.",
            )
        ) from error
