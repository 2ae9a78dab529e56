"""Environments in worker processes, which are watched while they are spoken to."""

from __future__ import annotations

import math
import os
import select
import sys
import time
from collections.abc import Sequence
from typing import Any

from torchrl._core.errors import WorkerError, describe
from torchrl._core.processes import TICK, Launcher, WorkerProcess, start_method, stop_all
from torchrl.envs.batched_envs.buffers import SIGNAL, Block, Memory
from torchrl.envs.batched_envs.crew import AsyncCrew, failure, share_out
from torchrl.envs.batched_envs.options import BatchOptions
from torchrl.envs.batched_envs.worker import ATTACH, CALL, DONE, ENDED, FAILED, serve
from torchrl.envs.common import EnvBase
from torchrl.envs.env_creator import EnvCreator

_AFTER_FAILURE = 1.0  # seconds that the other workers get to close their environments


def _preload() -> str:
    """Return what a fresh interpreter imports once for all workers: what each would import."""
    return "torchrl.envs,gymnasium" if "gymnasium" in sys.modules else "torchrl.envs"


class ProcessCrew(AsyncCrew):
    """Teams in worker processes. The first sign of trouble ends them all.

    Args:
        owner: Name of the environment, for messages.
        recipes: Build the environments; shared out in order, as evenly as they go.
        num_workers: Number of processes.
        options: How they are started, and how long they may take.

    Raises:
        WorkerError: from each method, if a worker raised, died or did not answer in time.
    """

    is_remote = True

    def __init__(
        self,
        owner: str,
        recipes: Sequence[EnvCreator | EnvBase],
        num_workers: int,
        options: BatchOptions,
    ) -> None:
        self._name, self._options = owner, options
        self._launcher = Launcher(start_method(options.mp_start_method), preload=_preload())
        self._at: Any = None
        self._pid = os.getpid()
        self._workers: list[WorkerProcess] = []
        self._busy: dict[int, float] = {}  # since when a worker has something to answer
        self.ranges = share_out(len(recipes), num_workers)
        try:
            for number, (first, end) in enumerate(self.ranges):
                self._workers.append(
                    WorkerProcess(
                        serve,
                        (first, recipes[first:end], options.daemon, options.consolidate),
                        self._launcher,
                        number=number,
                        num_threads=options.num_sub_threads,
                    )
                )
            self.metas = self._gather()
        except BaseException:
            self._end(_AFTER_FAILURE)
            raise

    # --- talking ---------------------------------------------------------------------------------

    def step(self, code: bytes) -> bool:
        """Let all workers step from their rows into their rows; return whether an episode ended.

        The quick way: anything but a plain answer is looked into afterwards.
        """
        self._refuse_busy()
        ended = False
        try:
            for worker in self._workers:
                try:
                    worker.channel.sock.send(code)
                except OSError:  # noqa: PERF203 - each may be gone
                    self._send(worker, code)
            for worker in self._workers:
                try:
                    answer = worker.channel.sock.recv(1)
                except BlockingIOError:
                    answer = self._wait(worker)
                except ConnectionError:
                    answer = b""
                if answer == ENDED:
                    ended = True
                elif answer != DONE:
                    self._understand(worker, answer)
            return ended
        except BaseException:
            self._end(_AFTER_FAILURE)
            raise

    def attach(self, blocks: Sequence[Block], memory: Memory) -> None:
        """Let the environments of all workers take their rows."""
        at = next(block for block in blocks if block.part == SIGNAL and block.key == "at")
        self._at = memory.rows(at)
        assert memory.file is not None
        try:
            for worker in self._workers:
                self._send(worker, ATTACH, blocks)
                worker.channel.send_file(memory.file)
            self._gather()
        except BaseException:
            self._end(_AFTER_FAILURE)
            raise

    def scatter(self, name: str, values: Sequence[Any] | None, *args: Any) -> list[Any]:
        """Call a method of all teams at once; return their answers, one an environment."""
        self._refuse_busy()
        try:
            for worker, (first, end) in zip(self._workers, self.ranges, strict=True):
                own = () if values is None else (values[first:end],)
                self._send(worker, CALL, (name, (*own, *args)))
            return self._gather()
        except BaseException:
            self._end(_AFTER_FAILURE)
            raise

    def chain(self, name: str, value: Any, *args: Any) -> Any:
        """Call a method of one team after the other with the answer of the one before."""
        self._refuse_busy()
        try:
            for worker in self._workers:
                self._send(worker, CALL, (name, (value, *args)))
                value = self._answer(worker)
            return value
        except BaseException:
            self._end(_AFTER_FAILURE)
            raise

    def submit(self, worker: int, name: str, *args: Any) -> None:
        """Have one worker call a method of its team; :meth:`collect` returns the answer."""
        try:
            self._busy[worker] = time.monotonic()
            self._send(self._workers[worker], CALL, (name, args))
        except BaseException:
            self._end(_AFTER_FAILURE)
            raise

    def collect(self, timeout: float | None = None) -> list[tuple[int, Any]]:
        """Return the answers that have come; wait for the first one, as long as ``timeout``."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        poll = select.poll()
        numbers = {self._workers[k].channel.sock.fileno(): k for k in self._busy}
        for file in numbers:
            poll.register(file, select.POLLIN)
        try:
            while True:
                wait = min(TICK, deadline - time.monotonic())
                ready = sorted(numbers[file] for file, _ in poll.poll(max(0.0, 1000 * wait)))
                if ready or time.monotonic() >= deadline:
                    return [(k, self._finish(k)) for k in ready]
                for k, started in self._busy.items():
                    self._look(self._workers[k], started)
        except BaseException:
            self._end(_AFTER_FAILURE)
            raise

    def _finish(self, worker: int) -> Any:
        del self._busy[worker]
        return self._answer(self._workers[worker])

    def _gather(self) -> list[Any]:
        return [value for worker in self._workers for value in self._answer(worker) or ()]

    def _send(self, worker: WorkerProcess, code: bytes, payload: Any = None) -> None:
        started = time.monotonic()
        try:
            worker.channel.send(code, payload, lambda: self._look(worker, started))
        except OSError:
            # It may have said why before it went.
            self._answer(worker)
            raise self._lost(worker) from None

    def _answer(self, worker: WorkerProcess) -> Any:
        """Return the result of the last command, ``None`` for a bare confirmation."""
        return self._understand(worker, self._wait(worker))

    def _wait(self, worker: WorkerProcess) -> bytes:
        """Return the first byte of an answer, none if the worker is gone; look after all."""
        started = time.monotonic()
        while True:
            try:
                return worker.channel.sock.recv(1)
            except BlockingIOError:  # noqa: PERF203 - nothing came for a second
                self._look(worker, started)
            except ConnectionError:
                return b""

    def _understand(self, worker: WorkerProcess, code: bytes) -> Any:
        """Return the rest of an answer.

        Raises:
            WorkerError: if there is none, or if it is a complaint.
        """
        started = time.monotonic()
        try:
            code, payload = worker.channel.resume(code, lambda: self._look(worker, started))
        except EOFError:
            raise self._lost(worker) from None
        if code == FAILED:
            raise failure(self._name, worker.number, *payload)
        return payload

    # --- trouble ---------------------------------------------------------------------------------

    def _look(self, waited_for: WorkerProcess, started: float) -> None:
        """Look after all workers while one of them takes its time."""
        for worker in self._workers:
            if worker.channel.pending() == FAILED:
                self._answer(worker)
            if not worker.is_alive():
                raise self._lost(worker)
        timeout = self._options.timeout
        if timeout is not None and time.monotonic() - started > timeout:
            trace = waited_for.traceback() if waited_for.is_alive() else ""
            fact = f"did not answer within {timeout} s and was killed"
            waited_for.kill()
            raise self._error(waited_for, fact, trace, "Raise timeout, or fix that environment.")

    def _lost(self, worker: WorkerProcess) -> WorkerError:
        hint = "It left no traceback; a simulator or the system may have said more on stderr."
        return self._error(worker, worker.ending(), "", hint)

    def _error(self, worker: WorkerProcess, fact: str, trace: str, hint: str) -> WorkerError:
        first, end = self.ranges[worker.number]
        env = f"environments {first} to {end - 1}" if end - first > 1 else f"environment {first}"
        if self._at is not None:
            env = f"environment {int(self._at[first])}"
        text = describe(self._name, f"worker {worker.number} {fact}, at {env}", hint=hint)
        return WorkerError(f"{text}\n\nIts own traceback:\n\n{trace}" if trace else text)

    def _end(self, timeout: float) -> None:
        if not self.is_closed and self._pid == os.getpid():
            self.is_closed = True
            try:
                stop_all(self._workers, timeout)
            finally:
                self._launcher.close()

    def close(self) -> None:
        """Close the environments and end the workers."""
        self._end(self._options.shutdown_timeout)
