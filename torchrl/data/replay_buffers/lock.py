"""`ProcessLock`: excludes threads and processes, and does not outlive the process that holds it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

from torchrl.data.replay_buffers.nameless import NamelessFile

with contextlib.suppress(ImportError):  # there is none where there is no fork
    import fcntl

LOCK, TURNSTILE = 0, 1  # bytes of the file


class ProcessLock:
    """A lock of threads and processes; who holds it may take it again.

    The kernel keeps it for the process that took it: if that process is killed, the lock is free.
    Copies that reach other processes, by a fork or in a pickle, are the same lock.

    Args:
        look: Called whenever the lock was free and is taken: here one sees what a process that
            died with the lock in its hands left behind.
        path: File whose lock this is, for processes that only know its name; a nameless one if
            ``None``.

    >>> import pickle
    >>> lock = ProcessLock()
    >>> with lock, pickle.loads(pickle.dumps(lock)):
    ...     print("both are held")
    both are held
    """

    def __init__(self, look: Callable[[], None] | None = None, path: Path | None = None) -> None:
        self.look, self._gate = look, _Gate() if path is None else _Gate.of(path)

    def acquire(self) -> None:
        """Wait until nobody else holds the lock, and take it."""
        if self._gate.enter() and self.look is not None:
            try:
                self.look()
            except BaseException:
                self._gate.leave()
                raise

    def release(self) -> None:
        """Give the lock back."""
        self._gate.leave()

    def __enter__(self) -> ProcessLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._gate.leave()


class _Gate(NamelessFile):
    """What the locks of one process that are the same lock have in common.

    Record locks belong to a process, so that threads need a lock besides; and closing any
    descriptor of the file frees them, so that a process keeps a single one.
    """

    def __init__(self, number: int | None = None) -> None:
        super().__init__(number)
        self._begin()

    @classmethod
    def of(cls, path: Path) -> _Gate:
        """Return the gate of a file, the same for all that name it in this process."""
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()  # before it is opened: to close it again would free the locks
            if (known := cls._known.get((status.st_dev, status.st_ino))) is not None:
                return known  # type: ignore[return-value]  # files of locks are gates
        return cls(os.open(path, os.O_RDWR | os.O_CREAT, 0o666))

    def _begin(self) -> None:
        self._process, self._threads, self._depth = os.getpid(), threading.RLock(), 0

    def enter(self) -> bool:
        """Take the lock; return whether it was free."""
        if os.getpid() != self._process:  # a fork: who held the lock before is not here
            self._begin()
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
        """Take the lock through a turnstile, so that who just left cannot pass those who wait."""
        fcntl.lockf(self.number, fcntl.LOCK_EX, 1, TURNSTILE)
        try:
            fcntl.lockf(self.number, fcntl.LOCK_EX, 1, LOCK)
        finally:
            fcntl.lockf(self.number, fcntl.LOCK_UN, 1, TURNSTILE)

    def leave(self) -> None:
        """Give the lock back, once for each time that it was taken."""
        self._depth -= 1
        if not self._depth:
            fcntl.lockf(self.number, fcntl.LOCK_UN, 1, LOCK)
        self._threads.release()
