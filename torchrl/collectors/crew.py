"""Several collectors in worker processes, asked and heard by one."""

from __future__ import annotations

import os
import selectors
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tensordict import TensorDictBase

from torchrl._core.errors import WorkerError, describe
from torchrl._core.memory import Memory
from torchrl._core.processes import TICK, Launcher, WorkerProcess, stop_all
from torchrl.collectors.interrupt import Interruptor
from torchrl.collectors.slab import Slab
from torchrl.collectors.worker import (
    BATCH,
    BATCH_IN_SLAB,
    CALL,
    COLLECT,
    COLLECT_RANDOM,
    DONE,
    FAILED,
    RESULT,
    SLAB,
    WEIGHTS,
    WRITTEN,
    Facts,
    Job,
    serve,
)
from torchrl.weight_update import SharedMemSender

_AFTER_FAILURE = 1.0  # seconds that the other workers get to close their environments
Found = TensorDictBase | int


class CollectorCrew:
    """Collectors in worker processes. The first sign of trouble ends them all.

    Args:
        owner: Name of the collector, for messages.
        jobs: What each worker builds.
        launcher: Makes the processes.
        num_threads: Torch threads in each.
        timeout: Seconds that a worker may take for an answer; ``None`` waits for as long as it
            lives.
        shutdown_timeout: Seconds that workers get to close their environments.

    Raises:
        WorkerError: from each method, if a worker raised, died or did not answer in time.
    """

    def __init__(
        self,
        owner: str,
        jobs: Sequence[Job],
        *,
        launcher: Launcher,
        num_threads: int = 1,
        timeout: float | None = None,
        shutdown_timeout: float = 10.0,
    ) -> None:
        self._name, self._launcher = owner, launcher
        self._timeout, self.shutdown_timeout = timeout, shutdown_timeout
        self._pid, self.is_closed = os.getpid(), False
        self._workers: list[WorkerProcess] = []
        self._slabs: list[Slab | None] = [None] * len(jobs)
        self._asked: dict[int, float] = {}  # when, by worker
        self._found: deque[tuple[int, Found]] = deque()
        self._selector = selectors.PollSelector()
        self._looked = time.monotonic()
        memory = Memory(1, "shared")
        self.interruptor = Interruptor(memory.view(0, [1], torch.bool))
        try:
            for number, job in enumerate(jobs):
                worker = WorkerProcess(
                    serve, (job,), launcher, number=number, num_threads=num_threads
                )
                self._workers.append(worker)
                self._selector.register(worker.channel.sock, selectors.EVENT_READ, number)
                assert memory.file is not None
                worker.channel.send_file(memory.file)
            self.facts: list[Facts] = [self._answer(i) for i in range(len(jobs))]
        except BaseException:
            self._end(_AFTER_FAILURE)
            raise
        finally:
            memory.close()

    def __len__(self) -> int:
        return len(self._workers)

    # --- batches ---------------------------------------------------------------------------------

    def request(self, worker: int, *, random: bool = False) -> None:
        """Ask a worker for a batch. What it handed over before is no longer to be looked at."""
        self._asked[worker] = time.monotonic()
        self._guarded(self._send, worker, COLLECT_RANDOM if random else COLLECT)

    def is_asked(self, worker: int) -> bool:
        """Return whether a batch of this worker was requested and not yet handed over."""
        return worker in self._asked or any(number == worker for number, _ in self._found)

    def wait(self) -> tuple[int, Found]:
        """Return the next batch that is ready and who made it.

        It lies in shared memory and holds until the next request; where workers write into a
        replay buffer, it is the number of frames that they wrote.
        """
        while not self._found:
            self._guarded(self._listen)
        return self._found.popleft()

    def _listen(self) -> None:
        events = self._selector.select(TICK)
        for key, _ in events:
            if key.data in self._asked:
                self._receive(key.data)
            elif not self._workers[key.data].channel.pending():
                raise self._lost(self._workers[key.data])
        now = time.monotonic()
        if not events or now - self._looked > TICK:
            self._looked = now
            for number, since in list(self._asked.items()):
                self._look(self._workers[number], since)

    # --- calls -----------------------------------------------------------------------------------

    def call(self, worker: int, name: str, *args: Any) -> Any:
        """Call a method of one worker; return its answer."""
        self._guarded(self._send, worker, CALL, (name, args))
        return self._guarded(self._answer, worker)

    def call_all(self, name: str, *args: Any) -> list[Any]:
        """Call a method of all workers at once; return their answers."""
        for number in range(len(self)):
            self._guarded(self._send, number, CALL, (name, args))
        return [self._guarded(self._answer, number) for number in range(len(self))]

    def follow(self, sender: SharedMemSender) -> None:
        """Let all workers take the weights that ``sender`` sends."""
        for number, worker in enumerate(self._workers):
            self._guarded(self._send, number, WEIGHTS, sender.layout)
            self._guarded(worker.channel.send_file, sender.file)
            self._guarded(self._answer, number)

    # --- talking ---------------------------------------------------------------------------------

    def _guarded(self, method: Callable[..., Any], *args: Any) -> Any:
        if self.is_closed:
            raise RuntimeError(f"{self._name}: it was shut down; build a new one.")
        try:
            return method(*args)
        except BaseException:
            self._end(_AFTER_FAILURE)
            raise

    def _send(self, number: int, code: bytes, payload: Any = None) -> None:
        worker, since = self._workers[number], time.monotonic()
        try:
            worker.channel.send(code, payload, lambda: self._look(worker, since))
        except OSError:
            self._answer(number)  # it may have said why before it went
            raise self._lost(worker) from None

    def _answer(self, number: int) -> Any:
        """Return what a worker answers to a call; keep the batches that come before."""
        while True:
            code, payload = self._receive(number)
            if code in (DONE, RESULT):
                return payload

    def _receive(self, number: int) -> tuple[bytes, Any]:
        """Return one message of a worker, having done what is to be done about it."""
        worker = self._workers[number]
        since = self._asked.get(number, time.monotonic())
        try:
            code, payload = worker.channel.receive(lambda: self._look(worker, since))
            if code == SLAB:
                file = worker.channel.receive_file()
                self._slabs[number] = Slab(payload, file)
                os.close(file)
        except EOFError:
            raise self._lost(worker) from None
        if code == FAILED:
            raise self._failed(worker, *payload)
        if code == BATCH_IN_SLAB:
            slab = self._slabs[number]
            assert slab is not None
            self._keep(number, slab.batch)
        elif code in (BATCH, WRITTEN):
            self._keep(number, payload)
        return code, payload

    def _keep(self, number: int, found: Found) -> None:
        del self._asked[number]
        self._found.append((number, found))

    # --- trouble ---------------------------------------------------------------------------------

    def _look(self, waited_for: WorkerProcess, since: float) -> None:
        """Look after all workers while one of them takes its time."""
        for worker in self._workers:
            if not worker.is_alive() and not worker.channel.pending():
                raise self._lost(worker)
        if self._timeout is not None and time.monotonic() - since > self._timeout:
            trace = waited_for.traceback() if waited_for.is_alive() else ""
            waited_for.kill()
            fact = f"did not answer within {self._timeout} s and was killed"
            text = describe(self._name, f"worker {waited_for.number} {fact}", hint="Raise timeout.")
            raise WorkerError(f"{text}\n\nIts own traceback:\n\n{trace}" if trace else text)

    def _lost(self, worker: WorkerProcess) -> WorkerError:
        return WorkerError(
            describe(
                self._name,
                f"worker {worker.number} {worker.ending()}",
                hint="It left no traceback; the simulator or the system may say more on stderr.",
            )
        )

    def _failed(self, worker: WorkerProcess, brief: str, trace: str) -> WorkerError:
        text = describe(self._name, f"worker {worker.number} failed: {brief}")
        return WorkerError(f"{text}\n\nIts own traceback:\n\n{trace}")

    def _end(self, timeout: float) -> None:
        if not self.is_closed and self._pid == os.getpid():
            self.is_closed = True
            try:
                self.interruptor.stop_collection()
                self._selector.close()
                stop_all(self._workers, timeout)
            finally:
                self._launcher.close()

    def close(self, timeout: float | None = None) -> None:
        """Close the environments and end the workers; calling it again is fine."""
        self._end(self.shutdown_timeout if timeout is None else timeout)

    def kill(self) -> None:
        """End the workers at once, also beside a thread that waits for them and then raises."""
        for worker in self._workers:
            worker.kill()
