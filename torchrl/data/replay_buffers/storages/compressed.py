"""`CompressedListStorage`: rows of any type, compressed one by one."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchrl._core.devices import check_devices
from torchrl._core.errors import describe
from torchrl._core.safe_load import is_data, load_file
from torchrl.data.replay_buffers.storages.list import ListStorage

Codec = Callable[[bytes], bytes]


class PickledRow(bytes):
    """A row that can only be unpickled; a file that holds one is only loaded with ``trust``."""


class CompressedListStorage(ListStorage):
    """Rows of any type as compressed bytes: images take a fraction of their memory.

    Args:
        max_size: Number of rows.
        compression_fn: ``bytes -> bytes``; zlib if ``None``.
        decompression_fn: Its inverse.
        compression_level: Of zlib: 1 is fast, 9 is small.
        device: Where samples go.

    Raises:
        TypeError: unless both functions are given, or none.

    >>> storage = CompressedListStorage(2)
    >>> storage.set(0, torch.zeros(3, 64, 64))
    >>> storage.nbytes < 1000, storage.get(0).shape
    (True, torch.Size([3, 64, 64]))
    """

    def __init__(
        self,
        max_size: int,
        *,
        compression_fn: Codec | None = None,
        decompression_fn: Codec | None = None,
        compression_level: int = 3,
        device: torch.device | str = "cpu",
    ) -> None:
        check_devices(self, device=device)
        if (compression_fn is None) != (decompression_fn is None):
            raise TypeError(describe(self, "takes both functions of a compression, or none"))
        super().__init__(max_size, device=device)
        self._pack = compression_fn or partial(zlib.compress, level=compression_level)
        self._unpack = decompression_fn or zlib.decompress

    @property
    def nbytes(self) -> int:
        """Bytes that the compressed rows take."""
        return sum(len(row) for row in self._list)

    def prepare(self, data: Any, many: bool) -> tuple[list[Any], int]:
        """Return the compressed rows of ``data``, and their number."""
        rows, count = super().prepare(data, many)
        return [self._compressed(row) for row in rows], count

    def row(self, slot: int) -> Any:
        """Return the row in a slot, decompressed."""
        return self._decompressed(self._list[slot])

    def _decompressed(self, row: bytes) -> Any:
        trust = isinstance(row, PickledRow)
        return load_file(io.BytesIO(self._unpack(row)), trust=trust, map_location=self.device)

    def _compressed(self, row: Any) -> bytes:
        stream = io.BytesIO()
        torch.save(row, stream)
        kind = bytes if isinstance(row, Tensor) or is_data(stream) else PickledRow
        return kind(self._pack(stream.getvalue()))

    _compresses = True

    def state_dict(self) -> dict[str, Any]:
        """Return the compressed rows and the counts."""
        return {**super().state_dict(), "compressed": True}

    def saved_state(self, state: dict[str, Any], trust: bool) -> dict[str, Any]:
        """Return the state that a file holds, as this version has it."""
        if "compressed" in state or not all(type(row) is bytes for row in state["rows"]):
            return state
        rows = state["rows"]  # of a version that pickled every row
        if trust:
            rows = [PickledRow(row) for row in rows]
        for row in rows:
            self._decompressed(row)  # says now what cannot be read without trust
        return {**state, "rows": rows, "compressed": True}
