"""`NamelessFile`: an open file that nothing but open descriptors leads to."""

from __future__ import annotations

import os
import tempfile
import weakref
from typing import Any

from torchrl._core.errors import WorkerError, describe

Identity = tuple[int, int]  # device and inode of a file


class NamelessFile:
    """A file in memory that has no name, so that nothing can stay behind.

    Copies that reach other processes, by a fork or in a pickle, are the same file. A pickle leads
    there as long as the process runs that made it; each process has one descriptor of a file.

    >>> import pickle
    >>> file = NamelessFile()
    >>> pickle.loads(pickle.dumps(file)) is file
    True
    """

    _known: weakref.WeakValueDictionary[Identity, NamelessFile] = weakref.WeakValueDictionary()

    def __init__(self, number: int | None = None) -> None:
        self.number = _new_file() if number is None else number
        self.identity = _identity(self.number)
        self._known[self.identity] = self
        weakref.finalize(self, os.close, self.number)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._at, (f"/proc/{os.getpid()}/fd/{self.number}", self.identity)

    @classmethod
    def _at(cls, path: str, identity: Identity) -> NamelessFile:
        """Return the file that another process, or this one, has open."""
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
                    "ReplayBuffer",
                    "the process that handed over the shared buffer has ended",
                    hint="Keep it running until the others have started.",
                )
            )
        return cls(number)


def _identity(number: int) -> Identity:
    status = os.fstat(number)
    return status.st_dev, status.st_ino


def _new_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("torchrl_buffer")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
