"""`LoggerMonitor`: numbers of collectors, buffers and functions, logged at intervals."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torchrl._core.errors import describe, nearest
from torchrl._core.log import logger as log
from torchrl.record.loggers.base import Logger

KINDS = ("seconds", "polls", "value")
ON_ERROR = ("warn", "raise", "ignore")
Metrics = Mapping[str, Any]


class Every:
    """A schedule of a :class:`LoggerMonitor`.

    Args:
        kind: ``"seconds"`` and ``"polls"`` count those since the last time; ``"value"`` is the increase of one
            of the numbers.
        interval: How many.
        key: Name of the number, for ``"value"``.

    Raises:
        ValueError: for an unknown kind, an interval that is not positive, or a missing or needless ``key``.

    >>> schedule = Every("value", 100, key="frames")
    >>> [schedule.is_due({"frames": frames}) for frames in (0, 50, 120, 130)]
    [True, False, True, False]
    """

    def __init__(self, kind: str, interval: float, key: str | None = None) -> None:
        if kind not in KINDS:
            raise ValueError(describe(self, "is unknown", key=kind, expected=list(KINDS), hint=nearest(kind, KINDS)))
        if interval <= 0:
            raise ValueError(describe(self, "has no such interval", expected="interval > 0", found=interval))
        if (kind == "value") is (key is None):
            raise ValueError(describe(self, "takes a key for the kind 'value' alone", found=(kind, key)))
        self.kind, self.interval, self.key = kind, interval, key
        self._last: float | None = None
        self._polls = 0

    def is_due(self, values: Metrics) -> bool:
        """Return whether the interval has passed since the last time, and start the next one if so."""
        self._polls += 1
        now = {"seconds": time.monotonic, "polls": lambda: self._polls, "value": lambda: float(values[str(self.key)])}
        at = now[self.kind]()
        is_due = self._last is None or at - self._last >= self.interval
        if is_due:
            self._last = at
        return is_due


class LoggerMonitor:
    """Log the numbers of sources at intervals, in the background if wished; use it in a ``with`` block.

    Args:
        logger: The logger.
        poll_interval: Seconds between two polls in the background.
        background: Poll in a thread between :meth:`start` and :meth:`stop`; otherwise call :meth:`poll`.
        on_error: What an error of a source does: ``"warn"`` writes it to the log of the library, ``"raise"``
            raises it, from the thread at :meth:`stop`, and ``"ignore"`` does nothing.

    Raises:
        ValueError: for an unknown ``on_error`` or an interval that is not positive.

    >>> import tempfile
    >>> from torchrl.record import CSVLogger
    >>> logger = CSVLogger("demo", tempfile.mkdtemp())
    >>> monitor = LoggerMonitor(logger, background=False)
    >>> monitor.add("queue", lambda: {"length": 3})
    >>> monitor.poll()
    {'queue/length': 3.0}
    """

    def __init__(
        self, logger: Logger, *, poll_interval: float = 1.0, background: bool = True, on_error: str = "warn"
    ) -> None:
        if on_error not in ON_ERROR:
            raise ValueError(describe(self, "has no such on_error", expected=list(ON_ERROR), found=on_error))
        if poll_interval <= 0:
            raise ValueError(describe(self, "waits between polls", expected="poll_interval > 0", found=poll_interval))
        self.logger, self.poll_interval, self.background, self.on_error = logger, poll_interval, background, on_error
        self._sources: dict[str, tuple[Callable[[], Metrics], Every]] = {}
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def add(self, name: str, source: object, every: Every | None = None) -> None:
        """Add a source.

        Args:
            name: Put before the names of its numbers, with a slash.
            source: A function that returns numbers by name; or an object with ``write_count``, such as a replay
                buffer, of which ``size`` and ``write_count`` are logged.
            every: When; at each poll if ``None``.

        Raises:
            TypeError: if it is neither.
        """
        if hasattr(source, "write_count"):
            buffer: Any = source
            read: Any = lambda: {"size": len(buffer), "write_count": int(buffer.write_count)}  # noqa: E731
        elif callable(source):
            read = source
        else:
            expected = "a function, or an object with write_count"
            raise TypeError(
                describe(self, "cannot be polled", key=name, expected=expected, found=type(source).__name__)
            )
        with self._lock:
            self._sources[name] = read, every or Every("polls", 1)

    def poll(self) -> dict[str, float]:
        """Log the numbers of the sources that are due; return them by name."""
        logged: dict[str, float] = {}
        with self._lock:
            for name, (read, every) in self._sources.items():
                with self._caught(name):
                    values = read()
                    if every.is_due(values):
                        logged.update(self.logger.log_metrics({name: values}))
        return logged

    @contextmanager
    def _caught(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if self.on_error == "raise":
                raise
            if self.on_error == "warn":
                log.warning("LoggerMonitor: the source %r failed: %s: %s", name, type(error).__name__, error)

    def start(self) -> LoggerMonitor:
        """Start polling in the background, if wished; return the monitor."""
        if self.background and self._thread is None:
            self._stopped.clear()
            self._thread = threading.Thread(target=self._run, name="LoggerMonitor", daemon=True)
            self._thread.start()
        return self

    def _run(self) -> None:
        try:
            while not self._stopped.wait(self.poll_interval):
                self.poll()
        except Exception as error:
            self._error = error

    def stop(self) -> None:
        """Stop polling in the background, after a last poll.

        Raises:
            Exception: that of a source, with ``on_error="raise"``.
        """
        if self._thread is not None:
            self._stopped.set()
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
        self.poll()

    def __enter__(self) -> LoggerMonitor:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()
