"""Bytes that processes share without a name in the file system, so that nothing can stay behind."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

ALIGNMENT = 64  # bytes: two processes never write to one cache line


class Memory:
    """Bytes that processes share, or that one process keeps to itself.

    Args:
        num_bytes: How many.
        kind: ``"shared"`` memory, a ``"file"`` on disk that nobody else can open, or ``"own"``.
        file: Descriptor of the memory that another process made, instead.

    >>> memory = Memory(8, "shared")
    >>> again = Memory(8, file=memory.file)
    >>> memory.view(0, [2], torch.int32)[:] = 3
    >>> again.view(4, [], torch.int32)
    tensor(3, dtype=torch.int32)
    >>> memory.close()
    """

    def __init__(self, num_bytes: int, kind: str = "own", *, file: int | None = None) -> None:
        self.num_bytes, self.file = num_bytes, file
        size = max(num_bytes, 1)
        if file is None and kind != "own":
            self.file = _new_file(kind)
            os.truncate(self.file, size)
        buffer: Any = bytearray(size) if self.file is None else mmap.mmap(self.file, size)
        self.bytes = torch.frombuffer(buffer, dtype=torch.uint8)

    def view(self, offset: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return the numbers from byte ``offset`` on; writing to them writes to the memory."""
        size = torch.Size(shape)
        part = self.bytes[offset : offset + size.numel() * dtype.itemsize]
        return part.view(dtype).view(size)

    def close(self) -> None:
        """Give the descriptor back; the bytes go with the last tensor that looks at them."""
        if self.file is not None:
            os.close(self.file)
            self.file = None


def aligned(num_bytes: int) -> int:
    """Return the smallest multiple of :data:`ALIGNMENT` that is not less.

    >>> aligned(1), aligned(64)
    (64, 64)
    """
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


def _new_file(kind: str) -> int:
    if kind == "shared" and hasattr(os, "memfd_create"):
        return os.memfd_create("torchrl")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
