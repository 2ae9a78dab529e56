"""The bar that shows how far training has come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tqdm import tqdm


class Progress:
    """A progress bar, or none.

    Args:
        total: Frames in all.
        done: Frames so far.
        shown: Whether there is a bar.

    >>> with Progress(100, 0, shown=False) as progress:
    ...     progress.show(10, {"reward": 1.0})
    """

    def __init__(self, total: int, done: int, *, shown: bool) -> None:
        self._bar = tqdm(
            total=total, initial=done, unit=" frames", unit_scale=True, disable=not shown
        )
        self._done = done

    def show(self, done: int, values: Mapping[str, Any]) -> None:
        """Move the bar to ``done`` frames, with numbers beside it."""
        if not self._bar.disable:
            text = ", ".join(f"{name}: {float(value):.4g}" for name, value in values.items())
            self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(done - self._done)
        self._done = done

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.close()
