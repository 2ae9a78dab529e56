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
from torchrl._core.files import check_files
from torchrl._core.safe_load import load_file
from torchrl.data.replay_buffers.checkpointers import (
    ConvertingCheckpointer,
    current,
    replacing,
)
from torchrl.data.replay_buffers.pipeline import Pipeline
from torchrl.data.replay_buffers.prefetch import Prefetcher, drop_prepared
from torchrl.data.replay_buffers.samplers.base import Sampler
from torchrl.data.replay_buffers.storages.base import Storage, rehearse
from torchrl.data.replay_buffers.writers.base import Writer

_PARTS = ("_storage", "_sampler", "_writer", "_transforms", "_generator", "_batch_size")


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
        """Go on where the buffer stood whose :meth:`state_dict` this is, or change nothing.

        Raises:
            MissingKeyError: if it had another kind of storage, sampler or writer.
            ShapeError: if its rows do not fit.
        """
        with self._writing():
            self.check_state(state_dict)
            self._storage.load_state_dict(state_dict["_storage"])
            self._load_parts(state_dict)

    def check_state(self, state_dict: dict[str, Any]) -> None:
        """Raise what :meth:`load_state_dict` would raise, and change nothing."""
        with _like_the_saved(self):
            parts = [state_dict[name] for name in _PARTS]
        with self._writing():
            with _like_the_saved(self._storage):
                self._storage.check_state(parts[0])
            for part, state in zip((self._sampler, self._writer), parts[1:3], strict=True):
                with _like_the_saved(part):
                    rehearse(part, state)
            rehearse(self._transform, parts[3])
            prepared = state_dict.get("_prefetch")
            if prepared is not None and not (isinstance(prepared, dict) and "drawn" in prepared):
                raise MissingKeyError(describe(self, "the save has no prefetched draws"))
            if parts[4] is not None:
                torch.Generator(self._device_of_chance()).set_state(parts[4])

    def _device_of_chance(self) -> torch.device | str:
        return "cpu" if self._generator is None else self._generator.device

    def _load_parts(self, parts: dict[str, Any]) -> None:
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
        """Write all that is needed to go on exactly where this buffer stands to a folder.

        A save that is cut short leaves the last good one in that folder in place. Each file is
        noted with its checksum.
        """
        with self._reading(), replacing(path) as folder:
            self.write_save(folder)

    def write_save(self, folder: Path) -> None:
        """Write what :meth:`read_save` reads to an empty folder."""
        with self._reading():
            self._storage.dumps(folder / "storage")
            torch.save(self._state_of_parts(), folder / "parts.pt")

    def loads(self, path: str | Path, *, trust: bool = False) -> None:
        """Go on where the buffer stood that wrote to this folder, or change nothing.

        Args:
            path: The folder.
            trust: Unpickle objects too, which runs whatever code the files hold. Tensors,
                tensordicts, arrays, numbers, texts, and what holds them need no trust.

        Raises:
            FileNotFoundError: if the folder holds no save, or one by another checkpointer.
            UntrustedFileError: if it holds other objects, and ``trust`` is false.
            DamagedFileError: if a file is not what was written; it is named.
        """
        self.load_state_dict(self.read_save(current(path), trust=trust))

    def read_save(self, folder: Path, *, trust: bool = False) -> dict[str, Any]:
        """Return the state that :meth:`write_save` wrote, for :meth:`load_state_dict`."""
        check_files(folder)
        with _by_the_same_checkpointer(self._storage, folder / "storage"):
            rows = self._storage.checkpointer.read(self._storage, folder / "storage", trust)
        return {**load_file(folder / "parts.pt", trust=trust), "_storage": rows}

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
def _like_the_saved(part: object) -> Iterator[None]:
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
