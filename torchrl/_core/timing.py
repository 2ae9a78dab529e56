"""Named timers: number of calls and wall time."""

from __future__ import annotations

import sys
import time
from contextlib import ContextDecorator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.profiler import record_function

_profiling = False


def set_profiling_enabled(enabled: bool = True) -> None:
    """Show the blocks of :class:`timeit` as ranges of that name in :func:`torch.profiler.profile`, or not.

    Args:
        enabled: Whether they are shown.

    >>> set_profiling_enabled(True)
    >>> set_profiling_enabled(False)
    """
    global _profiling
    _profiling = enabled


@dataclass
class Laps:
    """Total seconds and number of calls of one timer."""

    seconds: float = 0.0
    count: int = 0


class timeit(ContextDecorator):  # noqa: N801 - used like a function
    """Measure the wall time of a ``with`` block, or of each call of a function, under a name.

    All timers of a process share one table, which the class methods return. Between :meth:`start`
    and :meth:`stop`, or :meth:`mark_start` and :meth:`mark_end`, time is measured without a block.

    Args:
        name: Name of the timer to which the time is added.
        sync: Wait for the accelerator before each reading of the clock, so that its work is counted
            in the block that started it.

    >>> timeit.erase()
    >>> for _ in range(3):
    ...     with timeit("sleep"):
    ...         time.sleep(0.001)
    >>> timeit.todict(percall=False)["sleep"] > 0.003
    True
    """

    laps: ClassVar[dict[str, Laps]] = {}
    _marked: ClassVar[dict[str, timeit]] = {}  # of mark_start(), by name
    _print_calls: ClassVar[int] = 0  # of printevery()

    def __init__(self, name: str, *, sync: bool = False) -> None:
        self.name, self.sync = name, sync
        self._starts: list[float] = []  # a decorated function may call itself
        self._ranges: list[record_function] = []

    def __enter__(self) -> timeit:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> timeit:
        """Start measuring; return the timer."""
        if _profiling:
            self._ranges.append(record_function(self.name).__enter__())
        self._starts.append(self._now())
        return self

    def stop(self) -> None:
        """Add the time since the last :meth:`start` that was not stopped yet.

        Raises:
            RuntimeError: if there is none.
        """
        seconds = self.elapsed()
        laps = self.laps.setdefault(self.name, Laps())
        laps.seconds += seconds
        laps.count += 1
        self._starts.pop()
        if self._ranges:
            self._ranges.pop().__exit__(None, None, None)

    def elapsed(self) -> float:
        """Return the seconds since the last :meth:`start`.

        Raises:
            RuntimeError: if the timer was not started.
        """
        if not self._starts:
            raise RuntimeError(f"timeit: the timer {self.name!r} is not running; call start() before.")
        return self._now() - self._starts[-1]

    @classmethod
    def mark_start(cls, name: str) -> None:
        """Start measuring under a name, until :meth:`mark_end`."""
        cls._marked.setdefault(name, cls(name)).start()

    @classmethod
    def mark_end(cls, name: str) -> None:
        """Add the time since :meth:`mark_start`.

        Raises:
            RuntimeError: if that was not called before.
        """
        cls._marked.get(name, cls(name)).stop()

    def _now(self) -> float:
        if self.sync and torch.accelerator.is_available():
            torch.accelerator.synchronize()
        return time.perf_counter()

    @classmethod
    def todict(cls, percall: bool = True, prefix: str | None = None) -> dict[str, float]:
        """Return seconds by name.

        Args:
            percall: The mean of a call, rather than the sum of all.
            prefix: Put before each name, with a slash.
        """
        head = f"{prefix}/" if prefix else ""
        return {head + name: laps.seconds / (laps.count if percall else 1) for name, laps in cls.laps.items()}

    @classmethod
    def print(cls, prefix: str | None = None) -> None:
        """Write the table to standard output, sorted by time."""
        head = f"{prefix}/" if prefix else ""
        for name, laps in sorted(cls.laps.items(), key=lambda item: -item[1].seconds):
            mean = 1000 * laps.seconds / laps.count
            sys.stdout.write(f"{head}{name}: {laps.seconds:.3f} s in {laps.count} calls of {mean:.3f} ms\n")

    @classmethod
    def printevery(cls, num_prints: int, total_count: int, *, prefix: str | None = None, erase: bool = False) -> None:
        """Print the table at some of the iterations of a loop.

        Args:
            num_prints: How often to print during the loop.
            total_count: Number of iterations, each of which calls this once.
            prefix: Of :meth:`print`.
            erase: Delete all timers after printing.

        >>> timeit.erase()
        >>> for _ in range(4):
        ...     timeit.printevery(num_prints=2, total_count=4, erase=True)
        """
        timeit._print_calls += 1
        if timeit._print_calls % max(1, total_count // max(1, num_prints)) == 0:
            cls.print(prefix)
            if erase:
                cls.laps.clear()

    @classmethod
    def erase(cls) -> None:
        """Delete all timers."""
        cls.laps.clear()
        cls._marked.clear()
        timeit._print_calls = 0
