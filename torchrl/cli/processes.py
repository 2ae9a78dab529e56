"""Run a function in several processes, some of them at a time."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from torchrl._core.errors import WorkerError, summary


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_parallel(
    function: Callable[..., object],
    calls: Sequence[tuple],
    at_once: int,
    *,
    tick: Callable[[], object] = lambda: None,
    interval: float = 0.5,
) -> Iterator[tuple[int, Any]]:
    """Call a function in a new process each; yield number and result of the calls, in the order in which they end.

    After Ctrl-C, which all processes get, those that run end by themselves, and no other is started.

    Args:
        function: Can be imported by name.
        calls: Arguments of each call.
        at_once: Processes at a time.
        tick: Called about every ``interval`` seconds.
        interval: Seconds.

    Raises:
        WorkerError: if a process failed, once the others have ended.
        KeyboardInterrupt: after Ctrl-C, once all have ended.
    """
    context = multiprocessing.get_context("spawn")
    running: dict[Connection, tuple[int, BaseProcess]] = {}
    waiting = list(enumerate(calls))
    failed: list[str] = []
    interrupted = False
    while running or (waiting and not failed and not interrupted):
        try:
            while waiting and len(running) < at_once and not failed and not interrupted:
                number, args = waiting.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                process: BaseProcess = context.Process(target=_call, args=(theirs, function, args))
                process.start()
                theirs.close()
                running[ours] = (number, process)
            tick()
            for connection in wait(list(running), interval):
                assert isinstance(connection, Connection)
                number, process = running.pop(connection)
                try:
                    is_result, value = connection.recv()
                    process.join()
                except EOFError:
                    process.join()
                    code = process.exitcode or 0
                    how = f"by signal {-code}, perhaps for want of memory" if code < 0 else f"with exit code {code}"
                    is_result, value = False, f"process {number + 1} of {len(calls)} was ended {how}"
                if is_result:
                    yield number, value
                elif value == "KeyboardInterrupt":
                    interrupted = True
                else:
                    failed.append(value)
        except KeyboardInterrupt:  # noqa: PERF203  # of the user, at most twice
            interrupted = True
    if interrupted:
        raise KeyboardInterrupt
    if failed:
        raise WorkerError(failed[0])


def _call(connection: Connection, function: Callable[..., object], args: tuple) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result: tuple[bool, object] = (True, function(*args))
    except KeyboardInterrupt:
        result = (False, "KeyboardInterrupt")
    except Exception as error:
        text, trace = summary(error)
        result = (False, text if isinstance(error, ValueError | OSError) else trace)
    with contextlib.suppress(BrokenPipeError):  # the command was killed
        connection.send(result)
