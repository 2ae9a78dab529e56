"""Other libraries as yardsticks: each in an environment of its own, one round at a time."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

HERE = Path(__file__).parent
Round = Callable[[], float]


class Peer:
    """A program that runs a round for each line that it reads, and answers with its seconds.

    Args:
        variable: The environment variable with the path of the peer's virtual environment; there is
            no such peer where it is not set.
        script: What runs there, beside this file.
        args: Arguments of the script.
    """

    def __init__(self, variable: str, script: str, *args: str) -> None:
        self._process: subprocess.Popen | None = None
        place = os.environ.get(variable)
        if place is None:
            print(f"left out: {variable}=PATH names the virtual environment of the peer")
            return
        self._process = subprocess.Popen(
            [Path(place) / "bin" / "python", HERE / script, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            cwd="/",
        )

    @property
    def is_there(self) -> bool:
        """Say whether there is such a peer."""
        return self._process is not None

    def round(self, frames: int) -> float:
        """Return the processor seconds of a round."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{frames}\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    def close(self) -> None:
        """End the program."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def timed(loop: Callable[[], object]) -> float:
    """Return the processor seconds of a call."""
    start = time.process_time()
    loop()
    return time.process_time() - start


def in_turn(rounds: dict[str, Round], repeat: int) -> dict[str, list[float]]:
    """Return the seconds of each, in rounds that take turns; the first round does not count.

    >>> in_turn({"a": lambda: 2.0, "b": lambda: 3.0}, 2)
    {'a': [2.0, 2.0], 'b': [3.0, 3.0]}
    """
    turns = [[round_() for round_ in rounds.values()] for _ in range(repeat + 1)]
    return dict(zip(rounds, map(list, zip(*turns[1:], strict=True)), strict=True))


def report(seconds: dict[str, list[float]], frames: int, floor: str) -> list[dict[str, str | float]]:
    """Print and return frames/s of each, and its ratios to ``floor``, turn by turn: median and quartiles."""
    rows: list[dict[str, str | float]] = []
    for name, spent in seconds.items():
        ratios = [a / b for a, b in zip(seconds[floor], spent, strict=True)]
        low, middle, high = quantiles(ratios, n=4)
        rate = f"{frames / median(spent):10,.0f} frames/s"
        print(f"{name:40s} {rate}, ratio {middle:.2f} ({low:.2f} to {high:.2f})", flush=True)
        rows.append({"loop": name, "frames/s": round(frames / median(spent)), "ratio": middle})
    return rows
