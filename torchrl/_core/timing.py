"""Named timers: how often something ran, and how long it took."""

from __future__ import annotations

import sys
import time
from contextlib import ContextDecorator
from dataclasses import dataclass
from typing import ClassVar

import torch


@dataclass
class Laps:
    """What one timer has measured: seconds in all, and how often."""

    seconds: float = 0.0
    count: int = 0


class timeit(ContextDecorator):  # noqa: N801 - reads like the keyword that it stands beside
    """Measures the wall time of a ``with`` block, or of each call of a function, under a name.

    All timers of a process share one table, which the class methods read.

    Args:
        name: Where the time is added.
        sync: Wait for the accelerator before each look at the clock, so that the time of what it
            does is counted where it was asked for.

    >>> timeit.erase()
    >>> for _ in range(3):
    ...     with timeit("sleep"):
    ...         time.sleep(0.001)
    >>> timeit.todict(percall=False)["sleep"] > 0.003
    True
    """

    laps: ClassVar[dict[str, Laps]] = {}

    def __init__(self, name: str, *, sync: bool = False) -> None:
        self.name, self.sync = name, sync
        self._starts: list[float] = []  # a decorated function may call itself

    def __enter__(self) -> timeit:
        self._starts.append(self._now())
        return self

    def __exit__(self, *exc: object) -> None:
        laps = self.laps.setdefault(self.name, Laps())
        laps.seconds += self._now() - self._starts.pop()
        laps.count += 1

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
        return {
            head + name: laps.seconds / (laps.count if percall else 1)
            for name, laps in cls.laps.items()
        }

    @classmethod
    def print(cls, prefix: str | None = None) -> None:
        """Write the table to standard output, the longest first."""
        head = f"{prefix}/" if prefix else ""
        for name, laps in sorted(cls.laps.items(), key=lambda item: -item[1].seconds):
            mean = 1000 * laps.seconds / laps.count
            sys.stdout.write(
                f"{head}{name}: {laps.seconds:.3f} s in {laps.count} calls of {mean:.3f} ms\n"
            )

    @classmethod
    def erase(cls) -> None:
        """Forget all that was measured."""
        cls.laps.clear()
