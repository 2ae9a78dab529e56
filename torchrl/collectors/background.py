"""Collecting beside the learner: a thread that can be paused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

_END = object()


class Background:
    """Exhausts an iterator in a thread of its own.

    Args:
        batches: What to exhaust.
        name: Of the thread.

    >>> counted = []
    >>> background = Background(iter(map(counted.append, range(3))), "counting")
    >>> background.stop()
    >>> len(counted) <= 3
    True
    """

    def __init__(self, batches: Iterator[Any], name: str) -> None:
        self._batches = batches
        self._gate = threading.Condition()
        self._pauses, self._stopping, self._busy = 0, False, False
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while self._may_go_on():
                item = next(self._batches, _END)
                self._rest()
                if item is _END:
                    return
        except BaseException as error:  # raised again where the caller asks
            self.error = error
        finally:
            self._rest()

    def _may_go_on(self) -> bool:
        with self._gate:
            self._gate.wait_for(lambda: self._stopping or not self._pauses)
            self._busy = not self._stopping
            return self._busy

    def _rest(self) -> None:
        with self._gate:
            self._busy = False
            self._gate.notify_all()

    def is_running(self) -> bool:
        """Return whether the thread goes on, or would without a pause."""
        return self._thread.is_alive()

    def is_current(self) -> bool:
        """Return whether the caller runs in the thread."""
        return self._thread is threading.current_thread()

    def check(self) -> None:
        """Raise what ended the thread, once, if it was an error."""
        error, self.error = self.error, None
        if error is not None:
            raise error

    def pause(self) -> None:
        """Wait for the batch in the making; begin no other until :meth:`resume`."""
        with self._gate:
            self._pauses += 1
            self._gate.wait_for(lambda: not self._busy)

    def resume(self) -> None:
        """Take back one pause."""
        with self._gate:
            self._pauses -= 1
            self._gate.notify_all()

    def stop(self, timeout: float | None = None) -> None:
        """End the thread after the batch in the making."""
        with self._gate:
            self._stopping = True
            self._gate.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)
