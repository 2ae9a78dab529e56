"""`ProcessLock`: a lock of threads and processes that is freed if its holder dies."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

from torchrl._core.workers.shared_memory import AnonymousFile

with contextlib.suppress(ImportError):  # there is none on systems without fork
    import fcntl

LOCK, TURNSTILE = 0, 1  # bytes of the file


class ProcessLock:
    """A reentrant lock of threads and processes.

    The kernel keeps it for the process that took it: if that process is killed, the lock is free.
    Copies that reach other processes, by a fork or in a pickle, are the same lock.

    Args:
        look: Called whenever the lock is taken for the first time; it may repair what a process
            that died with the lock left incomplete.
        path: File to lock, for processes that share a folder; a file without a name if ``None``.

    >>> import pickle
    >>> lock = ProcessLock()
    >>> with lock, pickle.loads(pickle.dumps(lock)):
    ...     print("both are held")
    both are held
    """

    def __init__(self, look: Callable[[], None] | None = None, path: Path | None = None) -> None:
        self.look, self._gate = look, _Gate() if path is None else _Gate.of(path)

    def acquire(self) -> None:
        """Wait until the lock is free, and take it."""
        if self._gate.enter() and self.look is not None:
            try:
                self.look()
            except BaseException:
                self._gate.leave()
                raise

    def release(self) -> None:
        """Release the lock."""
        self._gate.leave()

    def __enter__(self) -> ProcessLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._gate.leave()


class _Gate(AnonymousFile):
    """The file and the state that equal locks of one process share.

    Record locks belong to a process, so threads need another lock; and closing any descriptor of
    the file frees them, so a process keeps a single one.
    """

    def __init__(self, number: int | None = None) -> None:
        super().__init__(number)
        self._start()

    @classmethod
    def of(cls, path: Path) -> _Gate:
        """Return the gate of a file, the same object for each call in this process."""
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()  # before opening it: closing it again would free the locks
            if (known := cls._known.get((status.st_dev, status.st_ino))) is not None:
                return known  # type: ignore[return-value]  # files of locks are gates
        return cls(os.open(path, os.O_RDWR | os.O_CREAT, 0o666))

    def _start(self) -> None:
        self._process, self._threads, self._depth = os.getpid(), threading.RLock(), 0

    def enter(self) -> bool:
        """Take the lock; return whether it was free."""
        if os.getpid() != self._process:  # a fork, whose threads do not hold the lock
            self._start()
        self._threads.acquire()
        if not self._depth:
            try:
                self._wait_for_turn()
            except BaseException:
                self._threads.release()
                raise
        self._depth += 1
        return self._depth == 1

    def _wait_for_turn(self) -> None:
        """Take the lock in two stages, so that a process that just released it waits its turn."""
        fcntl.lockf(self.number, fcntl.LOCK_EX, 1, TURNSTILE)
        try:
            fcntl.lockf(self.number, fcntl.LOCK_EX, 1, LOCK)
        finally:
            fcntl.lockf(self.number, fcntl.LOCK_UN, 1, TURNSTILE)

    def leave(self) -> None:
        """Release the lock, once for each time that it was taken."""
        self._depth -= 1
        if not self._depth:
            fcntl.lockf(self.number, fcntl.LOCK_UN, 1, LOCK)
        self._threads.release()
