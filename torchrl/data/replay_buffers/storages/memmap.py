"""`LazyMemmapStorage`: rows in files that are mapped into memory.

A storage is a folder: ``storage.json`` says what a row looks like, ``counts.memmap`` (int64) how
many rows there are, and ``rows_<n>.memmap`` hold them, in the layout of `LazyTensorStorage`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

import torch

from torchrl._core.log import logger
from torchrl.data.replay_buffers.storages.homes import Folder
from torchrl.data.replay_buffers.storages.tensor import LazyTensorStorage


class LazyMemmapStorage(LazyTensorStorage):
    """Rows in memory-mapped files: larger than memory, shared between processes, kept by a crash.

    Args:
        max_size: Number of items.
        scratch_dir: Folder below which the folder of this storage is made; a temporary one if
            ``None``.
        device: Where samples go, ``"auto"`` being the CPU; the files stay where they are.
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
        device = torch.device("cpu") if device == "auto" else device
        super().__init__(max_size, device=device, ndim=ndim)
        self.path = _folder(scratch_dir, existsok)
        self._move_to(Folder(self.path))
        remove = scratch_dir is None if auto_cleanup is None else auto_cleanup
        if remove:
            self._finalizer = weakref.finalize(self, _remove, self.path, os.getpid())
        self._open()

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("_finalizer", None)
        return state


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
