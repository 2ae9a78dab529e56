"""Files that are whole: drafted, flushed to the disk, put in place in one step, checked when read.

A folder of a save has a file ``CHECKSUMS``: a line ``crc32 size path`` for each of its files, after
a first line with the checksum of these lines.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torchrl._core.errors import DamagedFileError, TorchRLError, describe, summary

with contextlib.suppress(ImportError):  # not on Windows
    import fcntl

CHECKSUMS = "CHECKSUMS"
CHUNK = 1 << 20  # bytes read at a time
_DRAFT, _BEFORE = "draft", "before"  # inside the folder of a draft
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux
_NOT_SUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM)


# --- flushing ------------------------------------------------------------------------------------


def flush(path: Path) -> None:
    """Write what the system holds of a file, or of the names in a folder, to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def flush_tree(path: Path) -> None:
    """Write a file, or a folder with all that is in it, to the disk.

    Files with several names are left out: they were flushed when an earlier save made them.
    """
    if path.is_dir():
        for child in path.iterdir():
            flush_tree(child)
    elif path.stat().st_nlink > 1:
        return
    flush(path)


# --- checksums -----------------------------------------------------------------------------------


def write_checksums(folder: Path, known: Mapping[Path, int] | None = None) -> None:
    """Note the size and the CRC-32 of each file of a folder in its ``CHECKSUMS``.

    Of a folder inside that has ``CHECKSUMS`` of its own, this file alone is noted.

    Args:
        folder: The folder.
        known: The CRC-32 of files, which are not read then.

    >>> home = Path(tempfile.mkdtemp())
    >>> _ = (home / "rows.bin").write_bytes(b"0123")
    >>> write_checksums(home)
    >>> print((home / CHECKSUMS).read_text().splitlines()[1])
    a6669d7d 4 rows.bin
    >>> _ = (home / "rows.bin").write_bytes(b"0133")
    >>> check_files(home)
    Traceback (most recent call last):
    torchrl._core.errors.DamagedFileError: ...: the file is damaged; ...
    """
    names = sorted(file.relative_to(folder).as_posix() for file in _files(folder, folder))
    found = known or {}
    crcs = [found[folder / name] if folder / name in found else _crc(folder / name) for name in names]
    sizes = [(folder / name).stat().st_size for name in names]
    text = "".join(f"{crc:08x} {size} {name}\n" for crc, size, name in zip(crcs, sizes, names, strict=True))
    (folder / CHECKSUMS).write_text(f"{zlib.crc32(text.encode()):08x}\n{text}", encoding="utf-8")


def check_files(folder: Path, below: Iterable[str] | None = None) -> None:
    """Check the files of a folder against its ``CHECKSUMS``, if it has one.

    Args:
        folder: The folder.
        below: Names of files and folders, relative to it, that are checked; all if ``None``.

    Raises:
        DamagedFileError: if a file is missing or not what was written; it is named.
    """
    wanted = None if below is None else tuple(below)
    for name, (crc, size) in read_checksums(folder).items():
        if wanted is None or any(name == each or name.startswith(f"{each}/") for each in wanted):
            _check_file(folder / name, size, crc)


def read_checksums(folder: Path) -> dict[str, tuple[str, int]]:
    """Return the CRC-32 and the size of the files of a folder by their ``CHECKSUMS``, nothing without it."""
    note = folder / CHECKSUMS
    if not note.is_file():
        return {}  # written before there were checksums
    first, _, text = note.read_text(encoding="utf-8", errors="replace").partition("\n")
    if first != f"{zlib.crc32(text.encode()):08x}":
        raise damaged(note)
    lines = [line.split(" ", 2) for line in text.splitlines()]
    return {name: (crc, int(size)) for crc, size, name in lines}


def _check_file(file: Path, size: int, crc: str) -> None:
    if not file.is_file():
        raise damaged(file, "is missing")
    if (length := file.stat().st_size) != size:
        raise damaged(file, expected=f"{size} bytes", found=f"{length} bytes")
    if (found := f"{_crc(file):08x}") != crc:
        raise damaged(file, expected=f"CRC-32 {crc}", found=found)


def damaged(file: object, fact: str = "is damaged", expected: object = None, found: object = None) -> DamagedFileError:
    """Return the error that says that a file of a save cannot be used."""
    hint = "It is not what was saved. Load an earlier save."
    return DamagedFileError(describe(str(file), f"the file {fact}", expected=expected, found=found, hint=hint))


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Name a file in the errors of a block that reads it.

    Errors of this library, and those of a file or a package that is missing, keep their types.

    Raises:
        DamagedFileError: for any other error.

    >>> with naming(Path("notes.json")):
    ...     int("no number")
    Traceback (most recent call last):
    torchrl._core.errors.DamagedFileError: notes.json: the file is damaged; ...
    """
    try:
        yield
    except (FileNotFoundError, ImportError):
        raise
    except TorchRLError as error:
        if file.name in str(error):
            raise
        raise type(error)(f"{file}: {error}") from error
    except Exception as error:
        raise damaged(file, found=summary(error)[0]) from error


class NewerFormatError(TorchRLError, RuntimeError):
    """A file has a format that was made after this version of the library."""


def check_version(file: Path, found: object, known: int) -> None:
    """Raise unless the version of the format of a file is one from 1 to ``known``.

    Raises:
        NewerFormatError: if it is higher.
        DamagedFileError: if it is no version.
    """
    if not isinstance(found, int) or found < 1:
        raise damaged(file, "has no valid version of its format", expected=f"1 to {known}", found=repr(found)[:40])
    if found > known:
        fact, hint = f"has version {found} of its format", "Load it with a newer version of torchrl."
        raise NewerFormatError(describe(str(file), f"the file {fact}", expected=f"at most {known}", hint=hint))


def _files(folder: Path, root: Path) -> Iterator[Path]:
    if folder != root and (folder / CHECKSUMS).is_file():
        yield folder / CHECKSUMS
        return
    for child in folder.iterdir():
        if child.is_dir():
            yield from _files(child, root)
        elif child != root / CHECKSUMS:
            yield child


def _crc(file: Path) -> int:
    crc, chunk = 0, memoryview(bytearray(CHUNK))
    with file.open("rb", buffering=0) as stream:
        while count := stream.readinto(chunk):
            crc = zlib.crc32(chunk[:count], crc)
    return crc


# --- replacing -----------------------------------------------------------------------------------


@contextmanager
def replaced(path: str | Path) -> Iterator[Path]:
    """Yield a path to write a file or a folder to, which then replaces the one at ``path``.

    There is always a complete one at ``path``, whenever the process dies or the power fails. Drafts
    of processes that died are removed.

    Args:
        path: The file or folder that is replaced; its parents are made.

    Raises:
        OSError: if it cannot be written, also where ``torch.save()`` says so with a RuntimeError.

    >>> path = Path(tempfile.mkdtemp(), "runs", "note.txt")
    >>> for text in ("first", "second"):
    ...     with replaced(path) as draft:
    ...         _ = draft.write_text(text)
    >>> path.read_text(), [file.name for file in path.parent.iterdir()]
    ('second', ['note.txt'])
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_drafts(path)
    place, lock = _new_draft(path)
    try:
        yield place / _DRAFT
        flush_tree(place / _DRAFT)
        _put(place / _DRAFT, path, place / _BEFORE)
        flush(path.parent)
    except RuntimeError as error:
        if not re.search("iostream|inline_container|PytorchStreamWriter", str(error)):
            raise
        fact, hint = f"{path} cannot be written", "Is there space on the disk?"
        raise OSError(describe("torch.save", fact, found=str(error).splitlines()[0], hint=hint)) from error
    finally:
        if path.exists() or not (place / _BEFORE).exists():
            shutil.rmtree(place, ignore_errors=True)
        os.close(lock)


def remove_drafts(path: Path) -> None:
    """Remove the drafts for ``path`` of processes that died; bring back what they moved away."""
    for place in _drafts(path):
        lock = hold(place)
        if lock is None:
            continue  # another process is writing it
        try:
            if not path.exists() and (place / _BEFORE).exists():
                (place / _BEFORE).rename(path)
            shutil.rmtree(place, ignore_errors=True)
        finally:
            os.close(lock)


def restore(path: Path) -> None:
    """Bring back what a process moved away from ``path`` that died before it put the new one."""
    if not path.exists() and path.parent.is_dir():
        for place in _drafts(path):
            if (place / _BEFORE).exists() and (lock := hold(place)) is not None:
                if not path.exists():
                    (place / _BEFORE).rename(path)
                os.close(lock)


def hold(folder: Path) -> int | None:
    """Lock a folder for this process; return the descriptor that holds the lock.

    The lock ends with the descriptor, so that it tells whether who made the folder lives.

    Returns: ``None`` if it is locked, gone, or cannot be locked.
    """
    try:
        number = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(number), os.stat(folder)):
            return number
    except (OSError, NameError):  # it is locked or gone, or there are no locks
        pass
    os.close(number)
    return None


def is_held(folder: Path) -> bool:
    """Return whether a process, or another descriptor of this one, has locked a folder."""
    try:
        number = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(number, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (OSError, NameError):  # there are no locks
        return False
    finally:
        os.close(number)
    return False


def _drafts(path: Path) -> list[Path]:
    named = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}\.draft")
    return [each for each in path.parent.iterdir() if named.fullmatch(each.name)]


def _new_draft(path: Path) -> tuple[Path, int]:
    """Make a folder beside ``path``, locked as long as the returned descriptor is open."""
    while True:
        place = Path(tempfile.mkdtemp(".draft", f".{path.name}.", path.parent))
        if (lock := hold(place)) is not None:
            return place, lock
        if place.exists():  # there are no locks here: nothing else removes it
            return place, os.open(os.devnull, os.O_RDONLY)


def _put(draft: Path, path: Path, aside: Path) -> None:
    """Move a draft to its path, in one step where the system can."""
    if not path.exists() or not (draft.is_dir() or path.is_dir()):
        os.replace(draft, path)
        return
    if exchange(draft, path):
        return
    os.rename(path, aside)  # restore() finds it there
    try:
        os.rename(draft, path)
    except BaseException:
        os.rename(aside, path)
        raise


def exchange(one: Path, other: Path) -> bool:
    """Swap two files or folders in one step; return whether that can be done here."""
    if sys.platform != "linux":
        return False
    swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if swap is None:
        return False
    sides = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other))
    if swap(*sides, _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NOT_SUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


# --- room ----------------------------------------------------------------------------------------


def reserve(file: Path, start: int, stop: int) -> None:
    """Make sure that the disk has room for bytes ``[start, stop)`` of a file.

    What is written to a memory map without room ends the process.

    Raises:
        OSError: if the disk is full.
    """
    allocate = getattr(os, "posix_fallocate", None)  # not on macOS
    if allocate is None or stop <= start:
        return
    number = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        allocate(number, start, stop - start)
    finally:
        os.close(number)
