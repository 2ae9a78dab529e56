"""Ctrl-C during training: finish the batch, save, then stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torchrl._core.log import logger as log


@contextmanager
def on_interrupt(stop: Callable[[], object]) -> Iterator[Callable[[], bool]]:
    """Call a function at the first Ctrl-C; a second one raises :class:`KeyboardInterrupt` as usual.

    Outside of the main thread, and where the program handles Ctrl-C itself, nothing changes.

    Args:
        stop: Called by the signal handler.

    Yields: a function that returns whether there was a Ctrl-C.

    >>> with on_interrupt(lambda: None) as interrupted:
    ...     interrupted()
    False
    """
    seen = threading.Event()
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield seen.is_set
        return

    def handle(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        seen.set()
        log.warning("Trainer: Ctrl-C: this batch is finished and saved; press it again to stop at once.")
        stop()

    signal.signal(signal.SIGINT, handle)
    try:
        yield seen.is_set
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
