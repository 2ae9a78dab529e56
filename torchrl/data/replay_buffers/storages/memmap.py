"""`LazyMemmapStorage`: rows in files that are mapped into memory.

A storage is a folder: ``storage.json`` says what a row looks like, ``counts.memmap`` (int64) how
many rows there are, and ``rows_<n>.memmap`` hold them, in the layout of `LazyTensorStorage`; those
after the entries that are tensors hold numbers of lines of ``objects.jsonl``, int64.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchrl._core.devices import check_devices
from torchrl._core.errors import describe
from torchrl._core.files import hold, is_held, reserve
from torchrl._core.log import logger
from torchrl.data.replay_buffers.data_types import Data, State
from torchrl.data.replay_buffers.lock import ProcessLock
from torchrl.data.replay_buffers.storages.base import PENDING, Place, check_flags
from torchrl.data.replay_buffers.storages.object_column import ObjectColumn, ObjectTable
from torchrl.data.replay_buffers.storages.row_memory import META, FolderMemory
from torchrl.data.replay_buffers.storages.schema import Schema
from torchrl.data.replay_buffers.storages.tensor import LazyTensorStorage

FOLDER, LOCK, OBJECTS = "storage", "lock", "objects.jsonl"
AHEAD = 1 << 26  # bytes of a file that are reserved ahead, at most


class LazyMemmapStorage(LazyTensorStorage):
    """Rows in memory-mapped files: larger than memory, shared between processes, kept by a crash.

    Texts, numbers and lists and dictionaries of them are kept, too, each different one once, in the
    file ``objects.jsonl``.

    Args:
        max_size: Number of items.
        scratch_dir: Folder below which the folder of this storage is made; a temporary one if
            ``None``.
        device: Where samples go, ``"auto"`` being the CPU; the files stay where they are.
        ndim: Number of leading dimensions ``[R, *W]`` that count items.
        existsok: ``True`` goes on with the storage that ``scratch_dir`` holds, if it holds one;
            several processes may do so, and buffers of theirs write one after the other. ``False``
            refuses it, before anything is written. ``None`` makes a folder of its own for each
            storage below the same ``scratch_dir``.
        compilable: As for :class:`Storage`.
        shared_init: Make the files at once, so that any process may write the first rows, as a
            buffer with ``shared=True`` does. They are made at once anyway unless ``existsok`` is
            ``False``.
        auto_cleanup: Remove the files when this object goes; only temporary ones if ``None``.

    Raises:
        ShapeError: if the storage that was found has another size.
        RuntimeError: when rows are written, if ``existsok`` is ``False`` and the folder is taken,
            or if it is ``True`` and a storage is writing there that does not share its folder.
        DTypeError: when rows are written with objects that JSON does not give back.
        OSError: when rows are written that the disk has no room for; those before are whole.

    >>> from tensordict import TensorDict
    >>> storage = LazyMemmapStorage(10)
    >>> storage.set(slice(0, 2), TensorDict(a=torch.arange(2), batch_size=[2]))
    >>> sorted(path.name for path in storage.path.iterdir())
    ['counts.memmap', 'rows_0.memmap', 'storage.json']
    """

    def __init__(
        self,
        max_size: int,
        *,
        scratch_dir: str | Path | None = None,
        device: torch.device | str = "cpu",
        ndim: int = 1,
        existsok: bool | None = None,
        compilable: bool = False,
        shared_init: bool = False,
        auto_cleanup: bool | None = None,
    ) -> None:
        check_devices(self, device=None if device == "auto" else device)
        check_flags(self, shared_init=shared_init)
        device = torch.device("cpu") if device == "auto" else device
        super().__init__(max_size, device=device, ndim=ndim, compilable=compilable)
        self._existsok, self._room = existsok, 0
        self._remove_files = scratch_dir is None if auto_cleanup is None else auto_cleanup
        if scratch_dir is None:
            self.path = Path(tempfile.mkdtemp(prefix="torchrl_storage_"))
        elif existsok is None:
            self.path = _free_folder(Path(scratch_dir))
        else:
            self.path = Path(scratch_dir, FOLDER)
        if existsok is not False or scratch_dir is None:
            self._occupy(alone=scratch_dir is not None and not existsok)
            self._open()
        elif shared_init:
            self.share()

    def _occupy(self, *, alone: bool) -> None:
        """Keep the rows in the folder from now on; if alone, lock it as long as this lives."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = hold(self.path) if alone else None
        if lock is not None:
            weakref.finalize(self, os.close, lock)
        if alone and self._existsok is False and ((self.path / META).exists() or (lock is None and is_held(self.path))):
            raise RuntimeError(
                describe(
                    self,
                    f"a storage exists in {self.path}, and existsok is False",
                    hint="Nothing was written. Choose another scratch_dir, or go on with its rows with existsok=True.",
                )
            )
        self._move_to(FolderMemory(self.path))
        if self._remove_files:
            weakref.finalize(self, _remove, self.path, os.getpid())

    def _allocate(self, data: Data, ndim: int, row_shape: torch.Size) -> None:
        if self._memory is None:
            self._occupy(alone=True)
        super()._allocate(data, ndim, row_shape)

    _keeps_objects = True

    def _object_columns(self, schema: Schema, lead: Sequence[int]) -> list[Data]:
        if not schema.objects:
            return []
        self._table, columns = ObjectTable(self.path / OBJECTS, self), []
        for leaf in reversed(schema.objects):
            shape = (*lead, *leaf.shape)
            block = self._new_block(len(self._blocks), 8 * math.prod(shape))
            self._blocks.append(block)
            columns.append(ObjectColumn(block.view(torch.int64).numpy().reshape(shape), self._table))
        return columns

    def prepare(self, data: Data, many: bool) -> tuple[list[Tensor], int]:
        """Return the entries of ``data`` in the order of the columns, and the number of rows."""
        rows, count = super().prepare(data, many)
        if not self._objects:
            return rows, count
        leaves: list[Any] = rows
        first = len(self._columns)
        return [*leaves[:first], *(self._table.numbers(values) for values in leaves[first:])], count

    def share(self) -> None:
        """Make the files now, so that processes that get this storage see them."""
        if self._memory is None:
            self._occupy(alone=True)

    def lock(self) -> ProcessLock | None:
        """Return the lock of the folder, if processes share it by its name."""
        if not self._existsok:
            return None
        return ProcessLock(self.repair_after_crash, self.path / LOCK)

    def _put(self, place: Place, rows: list[Tensor], part: slice | None) -> None:
        stop = place + 1 if isinstance(place, int) else place.stop if isinstance(place, slice) else int(place.max()) + 1
        if stop > self._room:
            try:
                self._make_room(stop)
            except (OSError, RuntimeError):
                self._counts[PENDING] = 0  # nothing was written
                raise
        super()._put(place, rows, part)

    def _make_room(self, rows: int) -> None:
        """Reserve disk space for the first ``rows`` slots, and for more ahead where there is.

        Raises:
            OSError: if the disk is full. Without this, a write to the map would end the process.
        """
        if self._existsok and not self._room:
            self._check_shared()
        sizes = [block.numel() // self.capacity for block in self._blocks]  # bytes of a row
        ahead = max(min(2 * self._room, self._room + AHEAD // max([*sizes, 1])), rows)
        for count in (min(ahead, self.capacity), rows):
            try:
                for number, size in enumerate(sizes):
                    file = self.path / f"rows_{number}.memmap"
                    reserve(file, self._room * size, count * size)
            except OSError:
                if count == rows:
                    raise
                continue
            self._room = count
            return

    def _check_shared(self) -> None:
        """Raise if a storage writes to the folder that does not share it."""
        if is_held(self.path):
            raise RuntimeError(
                describe(
                    self,
                    f"a storage that was opened without existsok=True is writing to {self.path}",
                    hint="Nothing was written. Open it with existsok=True everywhere.",
                )
            )

    def __getstate__(self) -> State:
        return {**super().__getstate__(), "_room": 0}


def _free_folder(base: Path) -> Path:
    """Make a folder for one storage, of the first name that is free."""
    base.mkdir(parents=True, exist_ok=True)
    for number in itertools.count():
        path = base / (f"{FOLDER}_{number}" if number else FOLDER)
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            if number:
                logger.info("LazyMemmapStorage: %s is taken, %s is used", base / FOLDER, path)
            return path
    raise AssertionError("there is always a free number")


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(path, ignore_errors=True)
