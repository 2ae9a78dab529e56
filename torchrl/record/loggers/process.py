"""`ProcessLogger`: a logger in a process of its own, so that slow backends do not delay training."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Callable, Mapping
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchrl._core.errors import WorkerError, describe, summary
from torchrl.record.loggers.base import Logger, Numbers, Pictures, number

POLL = 0.1  # seconds between two checks that the process lives


def _run(make: Callable[..., Logger], args: tuple, kwargs: dict, calls: Any, replies: Any) -> None:
    """Build a logger and make the calls of a queue; reply to those with a number, and report errors."""
    errors: list[str] = []
    try:
        logger = make(*args, **kwargs)
        replies.put((0, (logger.exp_name, logger.log_dir), None))
    except Exception as error:
        replies.put((0, None, "\n".join(summary(error))))
        return
    while True:
        ticket, name, arguments, keywords = calls.get()
        try:
            getattr(logger, name)(*arguments, **keywords)
        except Exception as error:
            errors.append("\n".join(summary(error)))
        if ticket is not None:
            replies.put((ticket, None, errors[0] if errors else None))
            errors.clear()
        if name == "close":
            return


def _portable(value: object) -> Any:
    """Return tensors as arrays, which are copied to the process; others as they are."""
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy()
    return value.copy() if isinstance(value, np.ndarray) else value


class ProcessLogger(Logger):
    """Run a logger in another process; a call returns as soon as its values are copied.

    Args:
        logger_cls: Class of the logger, or a function that builds it; it must be picklable.
        *args: Its arguments.
        mp_context: How the process is started: a name or a context of :mod:`multiprocessing`; ``"spawn"`` if
            ``None``.
        max_queue_size: Calls that may wait; with more, a call waits for the process.
        startup_timeout: Seconds in which the logger must be built.
        **kwargs: Its keyword arguments.

    Raises:
        WorkerError: if the logger cannot be built in time; at the next :meth:`flush` or :meth:`close`, if a call
            failed in the process or that ended. The message has its traceback.

    >>> import tempfile
    >>> from torchrl.record import CSVLogger
    >>> with ProcessLogger(CSVLogger, "first", tempfile.mkdtemp(), mp_context="fork") as logger:
    ...     logger.log_scalar("reward", 1.0, step=0)
    """

    def __init__(
        self,
        logger_cls: Callable[..., Logger],
        *args: object,
        mp_context: str | BaseContext | None = None,
        max_queue_size: int = 1000,
        startup_timeout: float = 60.0,
        **kwargs: Any,
    ) -> None:
        context: Any = mp_context
        if mp_context is None or isinstance(mp_context, str):
            context = multiprocessing.get_context(mp_context or "spawn")
        self._calls, self._replies = context.Queue(max_queue_size), context.Queue()
        work = (logger_cls, args, kwargs, self._calls, self._replies)
        self._process = context.Process(target=_run, args=work, daemon=True, name="ProcessLogger")
        self._process.start()
        self._ticket, self._is_closed = 0, False
        try:
            exp_name, log_dir = self._reply(0, startup_timeout)
        except WorkerError:
            self._is_closed = True
            self._process.terminate()
            raise
        super().__init__(exp_name, log_dir)

    def _create_experiment(self) -> Any:
        return self._process

    def _reply(self, ticket: int, timeout: float | None = None) -> Any:
        waited = 0.0
        while timeout is None or waited < timeout:
            try:
                found, value, error = self._replies.get(timeout=POLL)
            except queue.Empty:
                waited += POLL
                if not self._process.is_alive() and self._replies.empty():
                    raise WorkerError(describe(self, f"its process ended with {self._process.exitcode}")) from None
                continue
            if error is not None:
                raise WorkerError(describe(self, f"a call failed in its process:\n{error}"))
            if found == ticket:
                return value
        fact = f"its logger was not built in {timeout} seconds"
        raise WorkerError(describe(self, fact, hint="Raise startup_timeout."))

    def _send(self, name: str, *args: object, ticket: int | None = None, **kwargs: Any) -> None:
        if self._is_closed:
            raise WorkerError(describe(self, "is closed"))
        item = ticket, name, tuple(map(_portable, args)), kwargs
        while True:
            try:
                return self._calls.put(item, timeout=POLL)
            except queue.Full:  # noqa: PERF203 - the process may have ended
                if not self._process.is_alive():
                    raise WorkerError(describe(self, f"its process ended with {self._process.exitcode}")) from None

    def _call(self, name: str) -> None:
        self._ticket += 1
        self._send(name, ticket=self._ticket)
        self._reply(self._ticket)

    def log_scalar(self, name: str, value: float | Tensor, step: int | None = None) -> None:
        self._send("log_scalar", name, number(self, name, value), step)

    def log_scalars(self, values: Mapping[str, float | Tensor], step: int | None = None) -> None:
        """Log several numbers with one message."""
        self._send("log_scalars", {name: number(self, name, value) for name, value in values.items()}, step)

    def log_str(self, name: str, value: str, step: int | None = None) -> None:
        self._send("log_str", name, value, step)

    def log_histogram(self, name: str, data: Numbers, step: int | None = None, *, bins: int = 64) -> None:
        self._send("log_histogram", name, torch.as_tensor(data), step, bins=bins)

    def log_video(self, name: str, video: Pictures, step: int | None = None, *, fps: float | None = None) -> None:
        self._send("log_video", name, torch.as_tensor(video), step, fps=fps)

    def log_hparams(self, cfg: object) -> None:
        self._send("log_hparams", cfg)

    def flush(self) -> None:
        """Wait until all values are written."""
        self._call("flush")

    def close(self) -> None:
        """Wait until all values are written, close the logger and end the process; may be called again."""
        if self._is_closed:
            return
        try:
            self._call("close")
        finally:
            self._is_closed = True
            self._process.join(timeout=10)
            if self._process.is_alive():
                self._process.terminate()
