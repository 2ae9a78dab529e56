"""Checkpointers: write the rows of storages to folders, and read them.

A save is a folder. Files are written to a new folder inside it, and one rename makes that the
current one: if a save is interrupted, the previous one stays valid.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import shutil
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase, is_tensor_collection
from torch import Tensor

from torchrl._core.errors import DamagedFileError, DTypeError, MissingKeyError, describe
from torchrl._core.files import check_version, damaged, flush, flush_tree, hold, read_checksums, write_checksums
from torchrl._core.optional import require_package
from torchrl._core.records.torch_private import version_of
from torchrl._core.safe_load import find_dtype, load_file
from torchrl.data.replay_buffers.data_types import Convert, State
from torchrl.data.replay_buffers.ted_layouts import Flat2TED, H5Combine, H5Split, Nested2TED, TED2Flat, TED2Nested

if TYPE_CHECKING:
    from torchrl.data.replay_buffers.storages.base import Storage

CURRENT = "CURRENT"  # the file that names the current folder
META = "storage.json"
VERSION = 2  # of the files of storages of tensors
CHUNKS, CHUNK_BYTES = 32, 1 << 20  # files of a full storage at most, bytes of a full one at least
_PIECE = 1 << 22  # bytes that are read or written at a time
_ALIGN = 16  # bytes, in files of rows


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a new folder to write to, which then replaces the content of ``path``.

    The files are on the disk, with their checksums, before they replace others. Folders of saves
    that were interrupted are removed first. Files of rows that did not change are hard links to
    those of the save before, so that no file of a save may be changed once it is written.

    >>> import tempfile
    >>> home = tempfile.mkdtemp()
    >>> with replacing(home) as folder:
    ...     _ = (folder / "note").write_text("kept")
    >>> (current(home) / "note").read_text()
    'kept'
    """
    home = Path(path)
    home.mkdir(parents=True, exist_ok=True)
    _remove_numbered(home)
    taken = [int(child.name) for child in home.iterdir() if child.name.isdigit()]
    folder = home / str(max(taken, default=0) + 1)
    folder.mkdir()
    lock = hold(folder)
    save = SaveFiles(folder, home)
    token = _SAVE.set(save)
    try:
        yield folder
        write_checksums(folder, save.crcs)
        flush_tree(folder)
        draft = home / f"{CURRENT}.draft"
        draft.write_text(folder.name)
        flush(draft)
        os.replace(draft, home / CURRENT)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        _SAVE.reset(token)
        if lock is not None:
            os.close(lock)
    flush(home)
    _remove_numbered(home)


class SaveFiles:
    """The files of a save that is being written, and of the one that it replaces.

    Args:
        folder: The folder that is written to.
        home: The folder of both saves.

    Attributes:
        crcs: The CRC-32 of files that were written, by path.
    """

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder, self.crcs = folder, dict[Path, int]()
        self._old, self._noted = folder, dict[str, tuple[str, int]]()
        try:
            self._old = current(home)
            self._noted = read_checksums(self._old)
        except (OSError, DamagedFileError):  # there is none that could be used
            self._noted = {}

    def earlier(self, file: Path) -> Path | None:
        """Return the file of the save before in the place of ``file``, if it has its checksum."""
        name = file.relative_to(self.folder).as_posix()
        return self._old / name if name in self._noted else None

    def link(self, file: Path) -> bool:
        """Make ``file`` a hard link to that of the save before; return whether that can be done."""
        name = file.relative_to(self.folder).as_posix()
        crc, size = self._noted.get(name, ("", -1))
        try:
            if (self._old / name).stat().st_size != size:
                return False  # damaged since
            os.link(self._old / name, file)
        except OSError:
            return False
        self.crcs[file] = int(crc, 16)
        return True


_SAVE: ContextVar[SaveFiles | None] = ContextVar("_SAVE", default=None)


def _remove_numbered(home: Path) -> None:
    """Remove the numbered folders that are not current, and that no process is writing."""
    for child in home.iterdir():
        if child.name.isdigit() and (lock := hold(child)) is not None:
            pointer = home / CURRENT  # read now: the lock may have ended with a good save
            if not pointer.is_file() or pointer.read_text() != child.name:
                shutil.rmtree(child, ignore_errors=True)
            os.close(lock)


def current(path: str | Path) -> Path:
    """Return the folder of the last good save.

    Raises:
        FileNotFoundError: if there is none.
        DamagedFileError: if ``CURRENT`` is not the number of a folder beside it.
    """
    pointer = Path(path) / CURRENT
    if not pointer.exists():
        raise FileNotFoundError(describe("loads", f"there is no save in {path}", hint="Write one with dumps()."))
    number = pointer.read_bytes().decode(errors="replace")
    folder = Path(path) / number
    if not (number.isascii() and number.isdigit() and folder.is_dir()):
        raise damaged(pointer, expected="the number of a folder beside it", found=repr(number[:40]))
    return folder


class StorageCheckpointerBase(ABC):
    """Writes the rows of a storage to a folder, and reads them.

    Hooks:
        dumps: ``(storage, folder) -> None``.
        read: ``(storage, folder, trust) -> state``, as the storage's ``state_dict`` has it; the
            storage stays as it is. Without ``trust`` it runs no code of a file.
        loads: ``(storage, folder) -> None``; in place of ``read``, if that is simpler.

    >>> import tempfile
    >>> from torchrl.data import LazyTensorStorage, ReplayBuffer
    >>> class OneFile(StorageCheckpointerBase):
    ...     def dumps(self, storage, path):
    ...         Path(path).mkdir(parents=True, exist_ok=True)
    ...         torch.save(storage.state_dict(), Path(path) / "rows.pt")
    ...
    ...     def read(self, storage, path, trust=False):
    ...         return torch.load(Path(path) / "rows.pt", weights_only=not trust)
    >>> buffer, other = (ReplayBuffer(storage=LazyTensorStorage(9), checkpointer=OneFile()) for _ in range(2))
    >>> _ = buffer.extend(torch.arange(5))
    >>> buffer.dumps(folder := tempfile.mkdtemp())
    >>> other.loads(folder)
    >>> other[:]
    tensor([0, 1, 2, 3, 4])
    """

    @abstractmethod
    def dumps(self, storage: Storage, path: str | Path) -> None: ...

    def read(self, storage: Storage, path: str | Path, trust: bool = False) -> State:
        """Return the state of a save; by default the state after :meth:`loads`."""
        if type(self).loads is StorageCheckpointerBase.loads:
            raise NotImplementedError(describe(self, "has neither the hook read() nor loads()"))
        before = storage.state_dict()
        try:
            self.loads(storage, path)
            return storage.state_dict()
        finally:
            storage.load_state_dict(before)

    def loads(self, storage: Storage, path: str | Path) -> None:
        """Take over the rows of a save."""
        storage.load_state_dict(self.read(storage, path))


class TensorStorageCheckpointer(StorageCheckpointerBase):
    """Files of raw bytes with some thousand slots each, and a JSON file that describes them.

    ``storage.json`` holds ``version``, ``counts`` (rows written, rows there), ``row_shape`` and
    ``schema``; ``entry_<i>.bin`` the rows of entry ``i``, row by row. A storage of more than a
    megabyte is saved in up to 32 files instead: ``rows_<k>.bin`` holds the slots from
    ``k * chunk_rows`` on, entry after entry, each from a multiple of 16 bytes on.

    A save into the folder of an earlier one writes the files whose rows changed since; the others
    become hard links. Rows that were written by the methods of the buffer are known by its counts;
    if others may have changed, files are compared with the rows. A change to a view such as
    ``buffer[:]`` is noticed if torch made it, but not if numpy did.

    >>> import tempfile
    >>> from torchrl.data import LazyTensorStorage, ReplayBuffer
    >>> buffer = ReplayBuffer(storage=LazyTensorStorage(10))  # saves in this way unless told otherwise
    >>> _ = buffer.extend(TensorDict(observation=torch.arange(5), batch_size=[5]))
    >>> buffer.dumps(folder := tempfile.mkdtemp())
    >>> other = ReplayBuffer(storage=LazyTensorStorage(10))
    >>> other.loads(folder)
    >>> other[:]["observation"]
    tensor([0, 1, 2, 3, 4])
    """

    def dumps(self, storage: Any, path: str | Path) -> None:
        """Write the rows that ``storage`` holds."""
        folder, save = Path(path), _SAVE.get()
        state = storage.state_dict(copy=False)
        _require_json(storage, state)
        folder.mkdir(parents=True, exist_ok=True)
        columns = state.pop("columns", [])
        row_bytes = sum(column[:1].nbytes for column in columns)
        size = max(-(-storage.capacity // CHUNKS), -(-CHUNK_BYTES // max(row_bytes, 1)))
        versions = list(map(version_of, columns))
        seen = _Seen(secrets.token_hex(8), size, storage.written, storage.edits, versions, {})
        stamps = _SEEN[storage].stamps if storage in _SEEN else {}
        same = None if save is None else _unchanged(storage, seen, save.earlier(folder / META))
        with ThreadPoolExecutor(1) as thread:  # computes checksums while files are written
            for name, first, rows in _files_of(columns, storage, size):
                file = folder / name
                if save is not None and (old := save.earlier(file)) is not None:
                    changed = same is not None and not bool(same[first : first + size].all())
                    intact = same is not None and stamps.get(name) == _stamp(old)
                    if not changed and (intact or _is_same(old, rows)) and save.link(file):
                        seen.stamps[name] = _stamp(file)
                        continue
                crc = _write(file, rows, thread)
                seen.stamps[name] = _stamp(file)
                if save is not None:
                    save.crcs[file] = crc
        note = {**state, "version": VERSION, "token": seen.token}
        if size < storage.capacity:
            note["chunk_rows"] = size
        (folder / META).write_text(json.dumps(note))
        _SEEN[storage] = seen

    def read(self, storage: Any, path: str | Path, trust: bool = False) -> State:
        """Return the state of a save, whose rows are files that are mapped into memory.

        ``columns`` has a list of tensors for each entry, which follow each other.
        """
        folder = Path(path)
        state = _read_json(folder / META)
        size, _ = state.pop("chunk_rows", None), state.pop("token", None)
        check_version(folder / META, state.pop("version", 1), VERSION)
        if "schema" not in state:
            return state
        leaves = [
            ((*state["row_shape"], *shape), find_dtype(dtype, storage)) for shape, dtype in state["schema"]["leaves"]
        ]
        rows = state["counts"][1]
        if size is None:
            state["columns"] = [_map(folder / f"entry_{i}.bin", rows, [leaf]) for i, leaf in enumerate(leaves)]
            return state
        starts = range(0, rows, size)
        chunks = [_map(folder / f"rows_{k}.bin", min(size, rows - at), leaves) for k, at in enumerate(starts)]
        state["columns"] = [[chunk[number] for chunk in chunks] for number in range(len(leaves))]
        return state


class _Seen(NamedTuple):
    """What a save holds: its token, rows in a file, counts of the storage, versions of columns, its files."""

    token: str
    chunk_rows: int
    written: int
    edits: int
    versions: list[int]
    stamps: dict[str, tuple[int, ...]]


def _stamp(file: Path) -> tuple[int, ...]:
    """Return what changes when a program writes to a file or replaces it; nothing if it is missing."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


_SEEN: WeakKeyDictionary[Any, _Seen] = WeakKeyDictionary()  # the last save of each storage


def _unchanged(storage: Any, now: _Seen, note: Path | None) -> Tensor | None:
    """Return which slots hold what the save before holds, ``None`` if that is not known.

    Args:
        storage: The storage.
        now: What is saved now.
        note: ``storage.json`` of the save before.
    """
    last = _SEEN.get(storage)
    if (
        last is None
        or note is None
        or (last.chunk_rows, last.edits, last.versions) != (now.chunk_rows, now.edits, now.versions)
    ):
        return None
    with contextlib.suppress(OSError, DamagedFileError):
        if _read_json(note).get("token") != last.token:
            return None
        rows, capacity = storage.rows, storage.capacity
        same = torch.ones(rows, dtype=torch.bool)
        if now.written - last.written >= capacity:
            return same.zero_()
        first, last_slot = last.written % capacity, now.written % capacity
        if now.written > last.written:
            same[first : last_slot if last_slot > first else rows] = False
            same[: last_slot if last_slot <= first else 0] = False
        return same
    return None


def _files_of(columns: list[Tensor], storage: Any, size: int) -> Iterator[tuple[str, int, list[Tensor]]]:
    """Return the names of the files of rows, their first slots and what they hold."""
    if size >= storage.capacity:
        yield from ((f"entry_{number}.bin", 0, [column]) for number, column in enumerate(columns))
        return
    for number, first in enumerate(range(0, storage.rows if columns else 0, size)):
        yield f"rows_{number}.bin", first, [column[first : first + size] for column in columns]


def _pieces(rows: list[Tensor]) -> Iterator[np.ndarray]:
    """Return the bytes of a file of rows ``[R, *W, *F]``, one array after the other."""
    for column in rows:
        count = max(_PIECE // max(column[:1].nbytes, 1), 1)
        for first in range(0, len(column) if column.numel() else 0, count):
            piece = column[first : first + count].cpu().contiguous()
            # That of one number may have any stride, which view() refuses.
            yield piece.as_strided((piece.numel(),), (1,)).view(torch.uint8).numpy()
        if len(rows) > 1:
            yield np.zeros(-column.nbytes % _ALIGN, dtype=np.uint8)


def _write(file: Path, rows: list[Tensor], thread: ThreadPoolExecutor) -> int:
    """Write a file of rows; return its CRC-32, which another thread computes meanwhile."""
    crc: Future[int] = thread.submit(int)
    waiting: list[np.ndarray] = []
    with file.open("wb", buffering=0) as stream:
        for piece in _pieces(rows):
            waiting.append(piece)
            if sum(map(len, waiting)) >= _PIECE:
                crc, waiting = thread.submit(_crc_of, waiting, crc.result()), []
            left = memoryview(piece)
            while left:
                left = left[stream.write(left) :]
    return _crc_of(waiting, crc.result())


def _crc_of(pieces: list[np.ndarray], crc: int) -> int:
    for piece in pieces:
        crc = zlib.crc32(piece, crc)
    return crc


def _is_same(file: Path, rows: list[Tensor]) -> bool:
    """Return whether a file holds these rows."""
    if not file.is_file():
        return False
    with file.open("rb", buffering=0) as stream:
        for piece in _pieces(rows):
            found = np.empty_like(piece)
            if stream.readinto(found) != len(piece) or not np.array_equal(found, piece):
                return False
        return not stream.read(1)


def _read_json(file: Path) -> State:
    try:
        state = json.loads(file.read_text())
        if "schema" in state:
            _ = state["counts"][1], list(state["row_shape"]), dict(state["schema"])["leaves"]
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise damaged(file, found=f"{type(error).__name__}: {error}") from error
    return state


def _require_json(storage: Any, state: State) -> None:
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


def _map(file: Path, rows: int, leaves: list[tuple[tuple[int, ...], torch.dtype]]) -> list[Tensor]:
    """Return the entries ``[rows, *W, *F]`` of a file, for the shapes ``[*W, *F]`` and dtypes of ``leaves``."""
    sizes = [rows * math.prod(shape) * dtype.itemsize for shape, dtype in leaves]
    align = _ALIGN if len(leaves) > 1 else 1
    total = sum(size + -size % align for size in sizes)
    if (found := file.stat().st_size) != total:
        raise damaged(file, expected=f"{total} bytes", found=f"{found} bytes")
    data = torch.empty(0, dtype=torch.uint8)
    if total:
        data = torch.from_file(str(file), shared=False, size=total, dtype=torch.uint8)
    entries, at = [], 0
    for size, (shape, dtype) in zip(sizes, leaves, strict=True):
        entries.append(data[at : at + size].view(dtype).view(rows, *shape))
        at += size + -size % align
    return entries


class ListStorageCheckpointer(StorageCheckpointerBase):
    """One file with the rows, as ``torch.save`` writes them.

    Objects other than tensors, tensordicts, arrays, numbers, texts and what holds them can only be
    loaded with ``trust``.

    >>> import tempfile
    >>> from torchrl.data import ListStorage, ReplayBuffer
    >>> buffer = ReplayBuffer(storage=ListStorage(10))  # saves in this way unless told otherwise
    >>> _ = buffer.extend(["left", "right"])
    >>> buffer.dumps(folder := tempfile.mkdtemp())
    >>> other = ReplayBuffer(storage=ListStorage(10))
    >>> other.loads(folder)
    >>> other[:]
    ['left', 'right']
    """

    def dumps(self, storage: Storage, path: str | Path) -> None:
        """Write the rows that ``storage`` holds."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(storage.state_dict(), folder / "rows.pt")

    def read(self, storage: Storage, path: str | Path, trust: bool = False) -> State:
        """Return the state of a save."""
        state = load_file(Path(path) / "rows.pt", trust=trust)
        return storage.saved_state(state, trust) if hasattr(storage, "saved_state") else state


class ConvertingCheckpointer(StorageCheckpointerBase):
    """One file with what functions make of the rows.

    Args:
        save_hooks: Functions, run in order: ``rows [R, *W] -> anything`` that ``torch.save`` takes;
            objects of one's own can only be loaded with ``trust``.
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

    def __init__(self, save_hooks: Iterable[Convert] = (), load_hooks: Iterable[Convert] = ()) -> None:
        self.save_hooks, self.load_hooks = list(save_hooks), list(load_hooks)

    def dumps(self, storage: Storage, path: str | Path) -> None:
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

    def read(self, storage: Storage, path: str | Path, trust: bool = False) -> State:
        """Return the state of a storage that holds what the load hooks make of a save."""
        saved, staging = self._read(Path(path), trust), storage.blank()
        if saved["rows"] is not None:
            rows = saved["rows"]
            for hook in self.load_hooks:
                rows = hook(rows)
            staging.write_run(0, *staging.prepare(rows, True))
        staging.load_counts(saved["counts"], saved["row_shape"])
        return staging.state_dict()

    def _write(self, state: State, folder: Path) -> None:
        torch.save(state, folder / "converted.pt")

    def _read(self, folder: Path, trust: bool) -> State:
        return load_file(folder / "converted.pt", trust=trust)


class FlatStorageCheckpointer(ConvertingCheckpointer):
    """Saves what follows a step once: see :class:`TED2Flat`.

    >>> import tempfile
    >>> from torchrl.data import LazyTensorStorage, ReplayBuffer
    >>> make = lambda: ReplayBuffer(storage=LazyTensorStorage(10), checkpointer=FlatStorageCheckpointer())
    >>> rows = TensorDict(x=torch.arange(3.0), batch_size=[3])
    >>> rows["next", "x"] = rows["x"] + 1
    >>> buffer, other = make(), make()
    >>> _ = buffer.extend(rows)
    >>> buffer.dumps(folder := tempfile.mkdtemp())  # four states, not six
    >>> other.loads(folder)
    >>> other[:]["next", "x"]
    tensor([1., 2., 3.])
    """

    def __init__(self) -> None:
        super().__init__([TED2Flat()], [Flat2TED()])


class NestedStorageCheckpointer(ConvertingCheckpointer):
    """Saves runs of steps as nested tensors: see :class:`TED2Nested`.

    >>> import tempfile
    >>> from torchrl.data import LazyTensorStorage, ReplayBuffer
    >>> make = lambda: ReplayBuffer(storage=LazyTensorStorage(10), checkpointer=NestedStorageCheckpointer())
    >>> rows = TensorDict(x=torch.arange(3.0), batch_size=[3])
    >>> rows["next", "x"] = rows["x"] + 1
    >>> buffer, other = make(), make()
    >>> _ = buffer.extend(rows)
    >>> buffer.dumps(folder := tempfile.mkdtemp())
    >>> other.loads(folder)
    >>> other[:]["next", "x"]
    tensor([1., 2., 3.])
    """

    def __init__(self) -> None:
        super().__init__([TED2Nested()], [Nested2TED()])


class H5StorageCheckpointer(ConvertingCheckpointer):
    """Saves runs of steps as groups of an HDF5 file, ``rows.h5``: see :class:`H5Split`.

    Raises:
        ImportError: when something is saved or loaded without h5py.

    >>> import tempfile
    >>> from torchrl.data import LazyTensorStorage, ReplayBuffer
    >>> make = lambda: ReplayBuffer(storage=LazyTensorStorage(10), checkpointer=H5StorageCheckpointer())
    >>> rows = TensorDict(x=torch.arange(3.0), batch_size=[3])
    >>> rows["next", "x"] = rows["x"] + 1
    >>> buffer, other = make(), make()
    >>> _ = buffer.extend(rows)
    >>> buffer.dumps(folder := tempfile.mkdtemp())
    >>> other.loads(folder)
    >>> other[:]["next", "x"]
    tensor([1., 2., 3.])
    """

    def __init__(self) -> None:
        super().__init__([H5Split()], [H5Combine()])

    def _write(self, state: State, folder: Path) -> None:
        h5py = require_package("h5py", needed_by=self, extra="offline")
        with h5py.File(folder / "rows.h5", "w") as file:
            file.attrs["counts"], file.attrs["row_shape"] = state["counts"], state["row_shape"]
            if state["rows"] is not None:
                _write_group(file.create_group("rows"), state["rows"])

    def _read(self, folder: Path, trust: bool) -> State:
        h5py = require_package("h5py", needed_by=self, extra="offline")
        path = folder / "rows.h5"
        try:
            with h5py.File(path) as file:
                rows = _read_group(h5py, file["rows"]) if "rows" in file else None
                counts, row_shape = (file.attrs[name].tolist() for name in ("counts", "row_shape"))
        except FileNotFoundError:
            raise
        except (OSError, KeyError, RuntimeError) as error:  # what h5py makes of a damaged file
            raise damaged(path, found=str(error)) from error
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
        name: _read_group(h5py, child) if isinstance(child, h5py.Group) else torch.as_tensor(child[()])
        for name, child in group.items()
    }
    return TensorDict(entries, size)


def dump_state(part: Any, path: str | Path, name: str) -> None:
    """Write ``part.state_dict()`` to a file of a folder, all of it or nothing."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{name}.draft"
    torch.save(part.state_dict(), draft)
    draft.replace(folder / name)


def load_state(part: Any, path: str | Path, name: str) -> None:
    """Load what :func:`dump_state` wrote."""
    with explain_absent_state(part):
        part.load_state_dict(load_file(Path(path) / name))


@contextmanager
def explain_absent_state(part: object) -> Iterator[None]:
    """Explain a ``KeyError``: the state is that of another kind of part."""
    try:
        yield
    except MissingKeyError:
        raise
    except KeyError as error:
        hint = "Load it into a buffer built like the saved one."
        fact = f"the save is that of another kind of part: it lacks {error}"
        raise MissingKeyError(describe(part, fact, hint=hint)) from error


@contextmanager
def explain_absent_files(storage: Storage, folder: Path) -> Iterator[None]:
    """Add to a FileNotFoundError that another checkpointer has written the files."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(
            describe(
                storage.checkpointer,
                "the rows were saved by another checkpointer, or with hooks",
                expected=Path(error.filename or folder).name,
                found=sorted(file.name for file in folder.iterdir()),
                hint="Load with that checkpointer, and with load hooks for its save hooks.",
            )
        ) from error
