"""Where the rows of a storage live that several processes see: a folder, or nameless memory."""

from __future__ import annotations

import json
import mmap
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchrl._core.files import damaged, reserve
from torchrl.data.replay_buffers.nameless import NamelessFile
from torchrl.data.replay_buffers.storages.base import MARKS

ROOM = 1 << 40  # bytes between two blocks of a file, which has holes where nothing was written
META, COUNTS = "storage.json", "counts.memmap"


class Home(ABC):
    """Counts, blocks of bytes, and a note that says what the rows in them look like.

    Hooks:
        marks: ``-> [len(MARKS)]``, int64.
        block: ``(number, nbytes) -> bytes [nbytes]``.
        read: ``-> note``, or ``None`` before one was written.
        write: ``note -> None``; comes after the blocks that it speaks of.
    """

    @abstractmethod
    def marks(self) -> Tensor: ...

    @abstractmethod
    def block(self, number: int, nbytes: int) -> Tensor: ...

    @abstractmethod
    def read(self) -> dict[str, Any] | None: ...

    @abstractmethod
    def write(self, note: dict[str, Any]) -> None: ...


class Folder(Home):
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
        name, nbytes = str(self.path / COUNTS), len(MARKS) * torch.int64.itemsize
        reserve(self.path / COUNTS, 0, nbytes)
        return torch.from_file(name, shared=True, size=len(MARKS), dtype=torch.int64)

    def block(self, number: int, nbytes: int) -> Tensor:
        """Map the file of a block; who writes to it reserves room on the disk first."""
        name = str(self.path / f"rows_{number}.memmap")
        return torch.from_file(name, shared=True, size=nbytes, dtype=torch.uint8)

    def read(self) -> dict[str, Any] | None:
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

    def write(self, note: dict[str, Any]) -> None:
        """Write ``storage.json``, all of it or nothing."""
        draft = self.path / f"{META}.{os.getpid()}"
        draft.write_text(json.dumps(note))
        draft.replace(self.path / META)


class SharedMemory(Home):
    """Memory that is gone with the last process that looks at it.

    It is one file in memory: counts, the length of the note, and the note; from :data:`ROOM` on,
    one block in each room. Whoever writes first makes it grow.
    """

    def __init__(self) -> None:
        self._file = NamelessFile()

    def _map(self, offset: int, nbytes: int) -> Tensor:
        number, size = self._file.number, max(nbytes, 1)
        if os.fstat(number).st_size < offset + size:
            os.truncate(number, offset + size)
        memory = mmap.mmap(number, size, offset=offset)
        return torch.frombuffer(memory, dtype=torch.uint8)[:nbytes]

    def marks(self) -> Tensor:
        """Map the counts."""
        return self._map(0, 8 * len(MARKS)).view(torch.int64)

    def block(self, number: int, nbytes: int) -> Tensor:
        """Map the room of a block."""
        return self._map((number + 1) * ROOM, nbytes)

    def read(self) -> dict[str, Any] | None:
        """Return the note that was written first."""
        start = 8 * (len(MARKS) + 1)
        length = int(self._map(0, start).view(torch.int64)[-1])
        if not length:
            return None
        return json.loads(self._map(0, start + length)[start:].numpy().tobytes())

    def write(self, note: dict[str, Any]) -> None:
        """Write the note, then its length."""
        start, text = 8 * (len(MARKS) + 1), json.dumps(note).encode()
        memory = self._map(0, start + len(text))
        memory[start:] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        memory[:start].view(torch.int64)[-1] = len(text)
