"""Storages to disk and back.

A save is a folder. What is written goes to a fresh folder inside it first, and one rename makes
that the current one: a save that is cut short leaves the last good one in place.
"""

from __future__ import annotations

import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase, is_tensor_collection
from torch import Tensor

from torchrl._core.errors import DTypeError, describe
from torchrl._core.optional import require_package
from torchrl.data.replay_buffers.layouts import (
    Flat2TED,
    H5Combine,
    H5Split,
    Nested2TED,
    TED2Flat,
    TED2Nested,
)

CURRENT = "CURRENT"  # the file that names the current folder
META = "storage.json"
Convert = Callable[[Any], Any]
CHUNK = 1 << 16  # rows written at a time


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a fresh folder to write to; if all goes well, it replaces what ``path`` held.

    >>> import tempfile
    >>> home = tempfile.mkdtemp()
    >>> with replacing(home) as folder:
    ...     _ = (folder / "note").write_text("kept")
    >>> (current(home) / "note").read_text()
    'kept'
    """
    home = Path(path)
    home.mkdir(parents=True, exist_ok=True)
    taken = [int(child.name) for child in home.iterdir() if child.name.isdigit()]
    folder = home / str(max(taken, default=0) + 1)
    folder.mkdir()
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    for file in folder.rglob("*"):
        if file.is_file():
            _flush(file)
    draft = home / f"{CURRENT}.draft"
    draft.write_text(folder.name)
    _flush(draft)
    draft.replace(home / CURRENT)
    for child in home.iterdir():
        if child.name.isdigit() and child != folder:
            shutil.rmtree(child, ignore_errors=True)


def current(path: str | Path) -> Path:
    """Return the folder of the last good save.

    Raises:
        FileNotFoundError: if there is none.
    """
    pointer = Path(path) / CURRENT
    if not pointer.exists():
        raise FileNotFoundError(
            describe("loads", f"there is no save in {path}", hint="Write one with dumps().")
        )
    return Path(path) / pointer.read_text()


def _flush(file: Path) -> None:
    """Make sure that a file is on the disk, not only on its way there."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


class StorageCheckpointerBase(ABC):
    """Writes a storage to a folder, and reads it.

    Hooks:
        dumps: ``(storage, folder) -> None``.
        loads: ``(storage, folder) -> None``.
    """

    @abstractmethod
    def dumps(self, storage: Any, path: str | Path) -> None: ...

    @abstractmethod
    def loads(self, storage: Any, path: str | Path) -> None: ...


class TensorStorageCheckpointer(StorageCheckpointerBase):
    """One file of raw bytes for each entry, and a JSON file that says what they are.

    ``storage.json`` holds ``counts`` (rows written, rows there), ``row_shape`` and ``schema``;
    ``entry_<i>.bin`` the rows of entry ``i``, row by row.
    """

    def dumps(self, storage: Any, path: str | Path) -> None:
        """Write the rows that ``storage`` holds."""
        folder = Path(path)
        state = storage.state_dict(copy=False)
        _require_json(storage, state)
        folder.mkdir(parents=True, exist_ok=True)
        for number, column in enumerate(state.pop("columns", [])):
            with (folder / f"entry_{number}.bin").open("wb") as file:
                for first in range(0, len(column), CHUNK):
                    rows = column[first : first + CHUNK].cpu().contiguous()
                    file.write(rows.flatten().view(torch.uint8).numpy().tobytes())
        (folder / META).write_text(json.dumps(state))

    def loads(self, storage: Any, path: str | Path) -> None:
        """Take over the rows of a save."""
        folder = Path(path)
        state = json.loads((folder / META).read_text())
        if "schema" in state:
            lead = (state["counts"][1], *state["row_shape"])
            state["columns"] = [
                _map(folder / f"entry_{number}.bin", (*lead, *shape), getattr(torch, dtype))
                for number, (shape, dtype) in enumerate(state["schema"]["leaves"])
            ]
        storage.load_state_dict(state)


def _require_json(storage: Any, state: dict[str, Any]) -> None:
    """Raise :class:`DTypeError` for an entry of objects that JSON does not give back alike."""
    for number, values in enumerate(state.get("objects", [])):
        try:
            same = json.loads(json.dumps(values)) == values
        except (TypeError, ValueError):
            same = False
        if not same:
            names = [leaf.name for leaf in reversed(storage._schema.objects)]
            raise DTypeError(
                describe(
                    storage,
                    "holds objects that cannot be saved",
                    key=names[number],
                    expected="texts, numbers, and lists and dictionaries of them",
                    hint="state_dict() keeps any object.",
                )
            )


def _map(file: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    size = torch.Size(shape).numel() * dtype.itemsize
    if not size:
        return torch.empty(shape, dtype=dtype)
    data = torch.from_file(str(file), shared=False, size=size, dtype=torch.uint8)
    return data.view(dtype).view(shape)


class ListStorageCheckpointer(StorageCheckpointerBase):
    """One file with the rows, as ``torch.save`` writes them. Load only what you have saved."""

    def dumps(self, storage: Any, path: str | Path) -> None:
        """Write the rows that ``storage`` holds."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(storage.state_dict(), folder / "rows.pt")

    def loads(self, storage: Any, path: str | Path) -> None:
        """Take over the rows of a save."""
        storage.load_state_dict(torch.load(Path(path) / "rows.pt", weights_only=False))


class ConvertingCheckpointer(StorageCheckpointerBase):
    """One file with what functions make of the rows. Load only what you have saved.

    Args:
        save_hooks: Functions, run in order: ``rows [R, *W] -> anything`` that ``torch.save`` takes.
        load_hooks: Functions that undo that, run in order.

    >>> import tempfile
    >>> from tensordict import TensorDict
    >>> from torchrl.data import LazyTensorStorage, ReplayBuffer
    >>> half = ConvertingCheckpointer([lambda td: td.half()], [lambda td: td.float()])
    >>> buffer = ReplayBuffer(storage=LazyTensorStorage(3), checkpointer=half)
    >>> _ = buffer.extend(TensorDict(a=torch.tensor([0.1, 0.2]), batch_size=[2]))
    >>> folder = tempfile.mkdtemp()
    >>> buffer.dumps(folder); buffer.loads(folder); buffer[:]["a"]
    tensor([0.1000, 0.2000])
    """

    def __init__(
        self, save_hooks: Iterable[Convert] = (), load_hooks: Iterable[Convert] = ()
    ) -> None:
        self.save_hooks, self.load_hooks = list(save_hooks), list(load_hooks)

    def dumps(self, storage: Any, path: str | Path) -> None:
        """Write what the save hooks make of the rows."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        rows = storage.get(slice(None)) if storage.rows else None
        if rows is not None:
            rows = rows.clone() if is_tensor_collection(rows) else rows  # packed rows are views
            for hook in self.save_hooks:
                rows = hook(rows)
        state = {"counts": storage.counts, "row_shape": list(storage.row_shape)}
        self._write({**state, "rows": rows}, folder)

    def loads(self, storage: Any, path: str | Path) -> None:
        """Take over what the load hooks make of a save."""
        state = self._read(Path(path))
        storage.empty()
        if state["rows"] is not None:
            rows = state["rows"]
            for hook in self.load_hooks:
                rows = hook(rows)
            storage.write_run(0, *storage.prepare(rows, True))
        storage.load_counts(state["counts"], state["row_shape"])

    def _write(self, state: dict[str, Any], folder: Path) -> None:
        torch.save(state, folder / "converted.pt")

    def _read(self, folder: Path) -> dict[str, Any]:
        return torch.load(folder / "converted.pt", weights_only=False)


class FlatStorageCheckpointer(ConvertingCheckpointer):
    """Saves what follows a step once: see :class:`TED2Flat`."""

    def __init__(self) -> None:
        super().__init__([TED2Flat()], [Flat2TED()])


class NestedStorageCheckpointer(ConvertingCheckpointer):
    """Saves runs of steps as nested tensors: see :class:`TED2Nested`."""

    def __init__(self) -> None:
        super().__init__([TED2Nested()], [Nested2TED()])


class H5StorageCheckpointer(ConvertingCheckpointer):
    """Saves runs of steps as groups of an HDF5 file, ``rows.h5``: see :class:`H5Split`.

    Raises:
        ImportError: when something is saved or loaded without h5py.
    """

    def __init__(self) -> None:
        super().__init__([H5Split()], [H5Combine()])

    def _write(self, state: dict[str, Any], folder: Path) -> None:
        h5py = require_package("h5py", needed_by=self, extra="offline")
        with h5py.File(folder / "rows.h5", "w") as file:
            file.attrs["counts"], file.attrs["row_shape"] = state["counts"], state["row_shape"]
            if state["rows"] is not None:
                _write_group(file.create_group("rows"), state["rows"])

    def _read(self, folder: Path) -> dict[str, Any]:
        h5py = require_package("h5py", needed_by=self, extra="offline")
        with h5py.File(folder / "rows.h5") as file:
            rows = _read_group(h5py, file["rows"]) if "rows" in file else None
            counts, row_shape = (file.attrs[name].tolist() for name in ("counts", "row_shape"))
        shape = [int(size) for size in row_shape]
        return {"counts": counts, "row_shape": shape, "rows": rows}


def _write_group(group: Any, data: TensorDictBase) -> None:
    for name, value in data.items():
        if isinstance(value, TensorDictBase):
            child = group.create_group(name)
            child.attrs["batch_size"] = list(value.batch_size)
            _write_group(child, value)
        else:
            assert isinstance(value, Tensor)
            group.create_dataset(name, data=value.numpy(force=True))


def _read_group(h5py: Any, group: Any) -> TensorDict:
    size = [int(size) for size in group.attrs.get("batch_size", [])]
    entries = {
        name: _read_group(h5py, child)
        if isinstance(child, h5py.Group)
        else torch.as_tensor(child[()])
        for name, child in group.items()
    }
    return TensorDict(entries, size)
