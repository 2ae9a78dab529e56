"""Shared memory: files without a name, bytes mapped from them, and tensors in those bytes.

No name is left in the file system, so nothing remains when the last process that uses it ends.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
import weakref
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from torchrl._core.errors import WorkerError, describe

ALIGNMENT = 64  # bytes of a cache line; two processes never write to the same one
Key = TypeVar("Key", bound=Hashable)
Identity = tuple[int, int]  # device and inode of a file


def aligned(num_bytes: int) -> int:
    """Return the smallest multiple of :data:`ALIGNMENT` that is not less than ``num_bytes``.

    >>> aligned(1), aligned(64)
    (64, 64)
    """
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


def new_file(kind: str = "shared") -> int:
    """Return the descriptor of a new empty file without a name.

    Args:
        kind: ``"shared"`` for a file in memory, ``"file"`` for one on disk.
    """
    if kind == "shared" and hasattr(os, "memfd_create"):
        return os.memfd_create("torchrl")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def buffer_of(array: np.ndarray) -> Any:
    """Return the bytes of an array, which may be read-only, as a buffer for a :class:`Memory`.

    Torch knows no read-only tensors: what may not be written to must be copied before it is passed to users.

    >>> array = np.arange(4, dtype=np.uint8)
    >>> array.flags.writeable = False
    >>> Memory(4, buffer=buffer_of(array)).bytes
    tensor([0, 1, 2, 3], dtype=torch.uint8)
    """
    buffer: Any = (ctypes.c_uint8 * array.nbytes).from_address(array.ctypes.data)
    buffer.owner = array  # lives as long as what views the buffer
    return buffer


class Memory:
    """Bytes of one process, or bytes that processes share.

    Args:
        num_bytes: Size.
        kind: ``"shared"`` memory, a ``"file"`` on disk without a name, or the process's ``"own"``.
        file: Descriptor of a memory that another process made, instead of a new one.
        buffer: Bytes that are there already, instead of new ones, see :func:`buffer_of`.

    >>> memory = Memory(8, "shared")
    >>> again = Memory(8, file=memory.file)
    >>> memory.view(0, [2], torch.int32)[:] = 3
    >>> again.view(4, [], torch.int32)
    tensor(3, dtype=torch.int32)
    >>> memory.close()
    """

    def __init__(self, num_bytes: int, kind: str = "own", *, file: int | None = None, buffer: Any = None) -> None:
        self.num_bytes, self.file = num_bytes, file
        size = max(num_bytes, 1)
        if file is None and buffer is None and kind != "own":
            self.file = new_file(kind)
            os.truncate(self.file, size)
        if buffer is None:
            buffer = bytearray(size) if self.file is None else mmap.mmap(self.file, size)
        self.bytes = torch.frombuffer(buffer, dtype=torch.uint8)

    def view(self, offset: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return the tensor at byte ``offset``; writing to it writes to the memory."""
        size = torch.Size(shape)
        part = self.bytes[offset : offset + size.numel() * dtype.itemsize]
        return part.view(dtype).view(size)

    def close(self) -> None:
        """Close the descriptor; the bytes are freed with the last tensor that views them."""
        if self.file is not None:
            os.close(self.file)
            self.file = None


class SharedTensors(Memory, Generic[Key]):
    """Tensors in one memory, one after the other; writing to them writes to the memory.

    Args:
        layout: Shape and dtype of each tensor. It determines where they are, so a process that has
            the layout and the file has the same tensors.
        kind: As in :class:`Memory`.
        file: As in :class:`Memory`.
        buffer: As in :class:`Memory`.

    >>> layout = {"x": ([2], torch.float32), "flag": ([], torch.bool)}
    >>> ours = SharedTensors(layout, "shared")
    >>> theirs = SharedTensors(layout, file=ours.file)
    >>> ours["x"].fill_(1)
    tensor([1., 1.])
    >>> theirs["x"]
    tensor([1., 1.])
    >>> ours.close()
    """

    def __init__(
        self,
        layout: Mapping[Key, tuple[Sequence[int], torch.dtype]],
        kind: str = "own",
        *,
        file: int | None = None,
        buffer: Any = None,
    ) -> None:
        offsets, end = [], 0
        for shape, dtype in layout.values():
            offsets.append(end)
            end += aligned(torch.Size(shape).numel() * dtype.itemsize)
        super().__init__(end, kind, file=file, buffer=buffer)
        self.tensors: dict[Key, Tensor] = {
            key: self.view(offset, shape, dtype)
            for offset, (key, (shape, dtype)) in zip(offsets, layout.items(), strict=True)
        }

    def __getitem__(self, key: Key) -> Tensor:
        return self.tensors[key]


class AnonymousFile:
    """A file in memory without a name, which other processes reach by a fork or by a pickle.

    Each process has one object and one descriptor of a file. A pickle can be loaded while the
    process runs that made it.

    Args:
        number: Descriptor of the file; a new file if ``None``.

    >>> import pickle
    >>> file = AnonymousFile()
    >>> pickle.loads(pickle.dumps(file)) is file
    True
    """

    _known: weakref.WeakValueDictionary[Identity, AnonymousFile] = weakref.WeakValueDictionary()

    def __init__(self, number: int | None = None) -> None:
        self.number = new_file() if number is None else number
        self.identity = _identity(self.number)
        self._known[self.identity] = self
        weakref.finalize(self, os.close, self.number)

    def __reduce__(self) -> tuple[object, ...]:
        return self.open, self.address()

    def address(self) -> tuple[str, Identity]:
        """Return the arguments with which other processes :meth:`open` this file."""
        return f"/proc/{os.getpid()}/fd/{self.number}", self.identity

    @classmethod
    def open(cls, path: str, identity: Identity) -> AnonymousFile:
        """Return the file that another process, or this one, has open.

        Args:
            path: Path of the open file, see :meth:`address`.
            identity: Device and inode of the file.

        Raises:
            WorkerError: if the process has closed it.
        """
        known = cls._known.get(identity)
        if known is not None:
            return known
        try:
            number = os.open(path, os.O_RDWR)
        except OSError:
            number = -1
        if number < 0 or _identity(number) != identity:
            raise WorkerError(
                describe(
                    "shared memory",
                    "the process that made the memory has ended",
                    hint="Keep it running until the others have started.",
                )
            )
        return cls(number)


def _identity(number: int) -> Identity:
    status = os.fstat(number)
    return status.st_dev, status.st_ino
