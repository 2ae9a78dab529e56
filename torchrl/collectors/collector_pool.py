"""The pool of collectors in worker processes, of which multi-process collectors collect batches."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch

from torchrl._core.workers.pool import WorkerPool
from torchrl._core.workers.protocol import (
    BATCH,
    BATCH_IN_MEMORY,
    COLLECT,
    COLLECT_RANDOM,
    MEMORY,
    QUIT,
    QUIT_OPEN,
    WRITTEN,
)
from torchrl._core.workers.shared_batch import SharedBatch
from torchrl._core.workers.shared_memory import Memory
from torchrl.collectors.interrupt import Interruptor
from torchrl.collectors.pool import Found
from torchrl.collectors.worker import WorkerConfig, WorkerInfo, serve
from torchrl.weight_update import SharedMemSender, WeightSender
from torchrl.weight_update.scheme import Layout


class CollectorPool(WorkerPool):
    """Collectors in worker processes; the first failure ends all of them.

    Args:
        owner: Name of the collector, for error messages.
        configs: What each worker builds.
        mp_start_method: ``"fork"`` or ``"spawn"``; fork where that is safe if ``None``.
        num_threads: Torch threads in each worker.
        timeout: Seconds that a worker may take for an answer; unlimited if ``None``.
        shutdown_timeout: Seconds in which workers may close their environments.

    Raises:
        WorkerError: from each method, if a worker raised, died or did not answer in time.
    """

    def __init__(
        self,
        owner: str,
        configs: Sequence[WorkerConfig],
        *,
        mp_start_method: str | None = None,
        num_threads: int = 1,
        timeout: float | None = None,
        shutdown_timeout: float = 10.0,
    ) -> None:
        self._shared: list[SharedBatch | None] = [None] * len(configs)
        self._found: deque[tuple[int, Found]] = deque()
        memory = Memory(1, "shared")
        self._interruptor = Interruptor(memory.view(0, [1], torch.bool))
        try:
            super().__init__(
                owner,
                serve,
                [(config,) for config in configs],
                mp_start_method=mp_start_method,
                preload="torchrl.collectors",
                num_threads=num_threads,
                timeout=timeout,
                shutdown_timeout=shutdown_timeout,
            )
            for worker in range(len(configs)):
                self.send(worker, MEMORY, None, memory.file)
            self.worker_info: list[WorkerInfo] = self.gather()
        finally:
            memory.close()

    def request(self, worker: int, *, random: bool = False) -> None:
        """Request a batch of a worker. It overwrites the batch before in shared memory."""
        self.busy[worker] = time.monotonic()
        self.send(worker, COLLECT_RANDOM if random else COLLECT)

    def is_requested(self, worker: int) -> bool:
        """Return whether a batch of this worker was requested and not yet returned."""
        return worker in self.busy or any(number == worker for number, _ in self._found)

    def wait(self) -> tuple[int, Found]:
        """Wait for a batch; return the number of its worker and the batch.

        A batch in shared memory is valid until the next request. Where workers write into a replay
        buffer, the number of frames that they wrote is returned instead.
        """
        while not self._found:
            for worker in self.ready():
                with self._ending_on_failure():
                    self._receive(worker)
        return self._found.popleft()

    def call_all(self, name: str, *args: object) -> list[Any]:
        """Call a method of all workers at the same time; return its values."""
        return self.call_each(name, [args] * len(self.workers))

    def connect(self, layout: Layout) -> WeightSender:
        """Return a sender of weights, which all workers follow from now on."""
        sender = SharedMemSender(layout)
        try:
            for worker in range(len(self.workers)):
                self.send(worker, MEMORY, layout, sender.file)
            self.gather()
        finally:
            sender.close()
        return sender

    def start_collection(self) -> None:
        """Let workers collect full batches."""
        self._interruptor.start_collection()

    def stop_collection(self) -> None:
        """Let workers end their batches after the next step."""
        self._interruptor.stop_collection()

    def end(self, timeout: float | None, close_env: bool) -> None:
        """End the workers, which close their environments or leave them open."""
        self.close(timeout, QUIT if close_env else QUIT_OPEN)

    def _receive(self, worker: int, first_byte: bytes | None = None) -> tuple[bytes, Any]:
        """Receive one message of a worker; keep the batch that it may hold for :meth:`wait`."""
        code, payload = super()._receive(worker, first_byte)
        if code == MEMORY:
            layout, file = payload
            self._shared[worker] = SharedBatch(layout, file)
            os.close(file)
        elif code in (BATCH_IN_MEMORY, BATCH, WRITTEN):
            shared = self._shared[worker]
            if code == BATCH_IN_MEMORY:
                assert shared is not None
                payload = shared.batch
            del self.busy[worker]
            self._found.append((worker, payload))
        return code, payload

    def _end(self, timeout: float, code: bytes = QUIT) -> None:
        if not self.is_closed and self._pid == os.getpid():
            self.stop_collection()
        super()._end(timeout, code)
