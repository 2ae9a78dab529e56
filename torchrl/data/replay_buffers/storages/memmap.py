"""`LazyMemmapStorage`: rows in files that are mapped into memory.

A storage is a folder: ``storage.json`` says what a row looks like, ``counts.memmap`` (int64) how
many rows there are, and ``rows_<n>.memmap`` hold them, in the layout of `LazyTensorStorage`.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchrl._core.errors import ShapeError, describe
from torchrl._core.log import logger
from torchrl.data.replay_buffers.storages.base import MARKS
from torchrl.data.replay_buffers.storages.schema import Schema
from torchrl.data.replay_buffers.storages.tensor import LazyTensorStorage

_META, _COUNTS = "storage.json", "counts.memmap"


class LazyMemmapStorage(LazyTensorStorage):
    """Rows in memory-mapped files: larger than memory, shared between processes, kept by a crash.

    Args:
        max_size: Number of items.
        scratch_dir: Folder below which the folder of this storage is made; a temporary one if
            ``None``.
        device: Where samples go; the files stay where they are.
        ndim: Number of leading dimensions ``[R, *W]`` that count items.
        existsok: Go on with the storage that ``scratch_dir`` holds, if it holds one. Without it, a
            second storage below the same ``scratch_dir`` gets a folder of its own.
        auto_cleanup: Remove the files when this object goes; only temporary ones if ``None``.

    Raises:
        ShapeError: if the storage that was found has another size.

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
        existsok: bool = False,
        auto_cleanup: bool | None = None,
    ) -> None:
        super().__init__(max_size, device=device, ndim=ndim)
        self.path = _folder(scratch_dir, existsok)
        self._map_counts()
        remove = scratch_dir is None if auto_cleanup is None else auto_cleanup
        if remove:
            self._finalizer = weakref.finalize(self, _remove, self.path, os.getpid())
        self._open()

    def _map_counts(self) -> None:
        name = str(self.path / _COUNTS)
        self._marks = torch.from_file(name, shared=True, size=len(MARKS), dtype=torch.int64)
        self._counts = self._marks.numpy()

    def _open(self) -> None:
        """Map the rows that this process, or another one, wrote before."""
        meta = self.path / _META
        if not meta.exists():
            return
        state = json.loads(meta.read_text())
        mine, theirs = (self.max_size, self.ndim), (state["max_size"], state["ndim"])
        if mine != theirs:
            raise ShapeError(
                describe(
                    self,
                    f"the storage in {self.path} has another size",
                    expected=f"max_size, ndim = {mine}",
                    found=theirs,
                    mend="Open it with its own size, or choose another scratch_dir.",
                )
            )
        self._settle(torch.Size(state["row_shape"]))
        schema = Schema.from_state(type(self).__name__, state["schema"])
        self._adopt(schema, self._reserve(schema, self._new_block))

    def _allocate(self, data: Any, ndim: int, row_shape: torch.Size) -> None:
        self._open()
        if self._schema is not None:
            return
        if self.device == "auto":
            self.device = torch.device("cpu")
        super()._allocate(data, ndim, row_shape)
        assert self._schema is not None
        meta = {
            "max_size": self.max_size,
            "ndim": self.ndim,
            "row_shape": list(row_shape),
            "schema": self._schema.state(),
        }
        draft = self.path / f"{_META}.{os.getpid()}"
        draft.write_text(json.dumps(meta))
        draft.replace(self.path / _META)

    def _new_block(self, name: str, nbytes: int) -> Tensor:
        path = str(self.path / f"{name}.memmap")
        return torch.from_file(path, shared=True, size=nbytes, dtype=torch.uint8)

    def _known(self, what: str) -> Schema:
        if self._schema is None:
            self._open()
        return super()._known(what)

    def share(self) -> None:
        """Do nothing: files are shared as they are."""

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        for name in ("_marks", "_blocks", "_finalizer", "_schema"):
            state.pop(name, None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._schema, self._bulk, self._reader, self._row = None, None, None, None
        self._map_counts()
        self._open()


def _folder(scratch_dir: str | Path | None, existsok: bool) -> Path:
    """Make a folder for one storage; the first name that is free, or the first name."""
    if scratch_dir is None:
        return Path(tempfile.mkdtemp(prefix="torchrl_storage_"))
    base, number = Path(scratch_dir), 0
    base.mkdir(parents=True, exist_ok=True)
    while True:
        path = base / (f"storage_{number}" if number else "storage")
        try:
            path.mkdir(exist_ok=existsok)
        except FileExistsError:
            number += 1
            continue
        if number:
            logger.info("LazyMemmapStorage: %s is taken, %s is used", base / "storage", path)
        return path


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(path, ignore_errors=True)
