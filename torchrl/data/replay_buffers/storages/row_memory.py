"""`RowMemory`: rows that processes share, in files of a folder or in anonymous shared memory."""

from __future__ import annotations

import json
import mmap
import os
from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import Tensor

from torchrl._core.files import damaged, reserve
from torchrl._core.workers.shared_memory import AnonymousFile
from torchrl.data.replay_buffers.data_types import State
from torchrl.data.replay_buffers.storages.base import HEADER_COUNTERS

ROOM = 1 << 40  # bytes between two blocks of a file, which has holes where nothing was written
META, COUNTS = "storage.json", "counts.memmap"


class RowMemory(ABC):
    """Header counters, blocks of bytes, and a note with the layout of the rows.

    Hooks:
        marks: ``-> header counters``, int64.
        block: ``(number, nbytes) -> bytes [nbytes]``.
        read: ``-> note``, or ``None`` before one was written.
        write: ``note -> None``; comes after the blocks that it speaks of.
    """

    @abstractmethod
    def marks(self) -> Tensor: ...

    @abstractmethod
    def block(self, number: int, nbytes: int) -> Tensor: ...

    @abstractmethod
    def read(self) -> State | None: ...

    @abstractmethod
    def write(self, note: State) -> None: ...


class FolderMemory(RowMemory):
    """Files in a folder: ``storage.json``, ``counts.memmap`` and ``rows_<n>.memmap``.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def marks(self) -> Tensor:
        """Map the counts.

        Raises:
            OSError: if the disk is full.
        """
        name, nbytes = str(self.path / COUNTS), len(HEADER_COUNTERS) * torch.int64.itemsize
        reserve(self.path / COUNTS, 0, nbytes)
        return torch.from_file(name, shared=True, size=len(HEADER_COUNTERS), dtype=torch.int64)

    def block(self, number: int, nbytes: int) -> Tensor:
        """Map the file of a block; who writes to it reserves room on the disk first."""
        name = str(self.path / f"rows_{number}.memmap")
        return torch.from_file(name, shared=True, size=nbytes, dtype=torch.uint8)

    def read(self) -> State | None:
        """Return what ``storage.json`` says.

        Raises:
            DamagedFileError: if it is not what was written.
        """
        note = self.path / META
        if not note.exists():
            return None
        try:
            found = json.loads(note.read_text())
            _ = found["max_size"], found["ndim"], [*found["row_shape"]], found["schema"]["leaves"]
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(note, found=f"{type(error).__name__}: {error}") from error
        return found

    def write(self, note: State) -> None:
        """Write ``storage.json``, all of it or nothing."""
        draft = self.path / f"{META}.{os.getpid()}"
        draft.write_text(json.dumps(note))
        draft.replace(self.path / META)


class AnonymousMemory(RowMemory):
    """Anonymous shared memory, freed with the last process that maps it.

    It is one file in memory: counts, the length of the note, and the note; from :data:`ROOM` on,
    one block in each room. Whoever writes first makes it grow.
    """

    def __init__(self) -> None:
        self._file = AnonymousFile()

    def _map(self, offset: int, nbytes: int) -> Tensor:
        number, size = self._file.number, max(nbytes, 1)
        if os.fstat(number).st_size < offset + size:
            os.truncate(number, offset + size)
        memory = mmap.mmap(number, size, offset=offset)
        return torch.frombuffer(memory, dtype=torch.uint8)[:nbytes]

    def marks(self) -> Tensor:
        """Map the counts."""
        return self._map(0, 8 * len(HEADER_COUNTERS)).view(torch.int64)

    def block(self, number: int, nbytes: int) -> Tensor:
        """Map the room of a block."""
        return self._map((number + 1) * ROOM, nbytes)

    def read(self) -> State | None:
        """Return the note that was written first."""
        start = 8 * (len(HEADER_COUNTERS) + 1)
        length = int(self._map(0, start).view(torch.int64)[-1])
        if not length:
            return None
        return json.loads(self._map(0, start + length)[start:].numpy().tobytes())

    def write(self, note: State) -> None:
        """Write the note, then its length."""
        start, text = 8 * (len(HEADER_COUNTERS) + 1), json.dumps(note).encode()
        memory = self._map(0, start + len(text))
        memory[start:] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        memory[:start].view(torch.int64)[-1] = len(text)
