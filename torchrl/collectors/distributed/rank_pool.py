"""The pool of collectors in ranks of torch.distributed."""

from __future__ import annotations

import contextlib
import os
import queue
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchrl._core.errors import WorkerError
from torchrl._core.workers.pool import worker_error
from torchrl._core.workers.protocol import (
    BATCH,
    BATCH_IN_MEMORY,
    CALL,
    COLLECT,
    COLLECT_RANDOM,
    CONFIG,
    FAILED,
    LAYOUT,
    LOST,
    QUIT,
    QUIT_OPEN,
    START,
    STOP,
    TICK,
    WRITTEN,
)
from torchrl._core.workers.rank_link import RankLink, unpickled
from torchrl._core.workers.shared_batch import SharedBatch
from torchrl.collectors.distributed.launchers import RankLauncher
from torchrl.collectors.distributed.rank_worker import RankConfig, RankInfo
from torchrl.collectors.pool import Found
from torchrl.collectors.worker import WorkerConfig
from torchrl.weight_update import DistributedSender, WeightSender
from torchrl.weight_update.scheme import Layout

_AFTER_FAILURE = 1.0  # seconds in which the other ranks may end by themselves
_LAST_WORDS = 2.0  # seconds in which the error of a process that has ended may arrive


class RankPool:
    """Collectors in ranks of torch.distributed; the first failure ends all of them.

    This process is rank 0, and worker ``i`` is rank ``i + 1``. Each is connected by a process group
    of its own, so that a group that the caller initialised is not used.

    Args:
        owner: Name of the collector, for error messages.
        configs: What each rank builds.
        launcher: Starts or finds the ranks.
        num_threads: Torch threads in each rank.
        timeout: Seconds that a rank may take for an answer; unlimited if ``None``.
        shutdown_timeout: Seconds in which ranks may close their environments.
        max_silence: Seconds without a sign of life after which a rank that is waited for counts as
            lost; the launcher's if ``None``.
        weight_timeout: Seconds in which sent weights must be received; not waited for if ``None``.

    Raises:
        WorkerError: from each method, if a rank raised, was lost, or did not answer in time.
    """

    def __init__(
        self,
        owner: str,
        configs: Sequence[WorkerConfig],
        launcher: RankLauncher,
        *,
        num_threads: int = 1,
        timeout: float | None = None,
        shutdown_timeout: float = 10.0,
        max_silence: float | None = None,
        weight_timeout: float | None = None,
    ) -> None:
        self.owner, self.timeout, self.shutdown_timeout = owner, timeout, shutdown_timeout
        self.is_closed, self._pid = False, os.getpid()
        self._launcher, self._weight_timeout = launcher, weight_timeout
        self._max_silence = launcher.max_silence if max_silence is None else max_silence
        self._recipes = [getattr(config.create_env_fn, "__qualname__", "") for config in configs]
        count = range(len(configs))
        self._reports: list[RankInfo | None] = [None for _ in count]
        self._batches: list[SharedBatch | None] = [None for _ in count]
        self._heard, self._silent, self._checked = [0 for _ in count], [0 for _ in count], time.monotonic()
        self._since: dict[int, float] = {}  # time of the request of a batch, by worker
        self._found: deque[tuple[int, Found]] = deque()
        self._inbox: queue.SimpleQueue[tuple[int, bytes, Tensor]] = queue.SimpleQueue()
        self.links: list[RankLink] = []
        with self._ending_on_failure():
            launcher.start(configs, num_threads)
            for worker, config in enumerate(configs):
                link = RankLink(partial(launcher.connect, worker), 0, partial(self._deliver, worker))
                self.links.append(link)
                if launcher.sends_configs:
                    link.send(CONFIG, RankConfig(config, torch.initial_seed(), num_threads))
            self._answers(count)
        self.worker_info: list[Any] = self._reports

    @contextlib.contextmanager
    def _ending_on_failure(self) -> Iterator[None]:
        if self.is_closed:
            raise RuntimeError(f"{self.owner}: it was shut down; build a new one.")
        try:
            yield
        except BaseException:
            self._end(_AFTER_FAILURE)
            raise

    # --- messages --------------------------------------------------------------------------------

    def _deliver(self, worker: int, code: bytes, data: Tensor, number: int) -> None:
        """Take a message, in the thread that received it."""
        if code == LAYOUT:
            batch = self._batches[worker] = SharedBatch(unpickled(data), kind="own")
            self.links[worker].buffers[BATCH_IN_MEMORY] = batch.memory.bytes
        else:
            self._inbox.put((worker, code, data))

    def _receive(self, awaited: Mapping[int, float]) -> tuple[int, bytes, Any]:
        """Wait for a message; return its worker, code and payload.

        Args:
            awaited: The workers of which one has to answer, and since when.
        """
        while True:
            if time.monotonic() - self._checked >= TICK:
                self._checked = time.monotonic()
                self._check(awaited)
            try:
                worker, code, data = self._inbox.get(timeout=TICK)
            except queue.Empty:
                continue
            if code == LOST:
                raise self._lost(worker, data.numpy().tobytes().decode())
            if code == BATCH_IN_MEMORY:
                shared = self._batches[worker]
                assert shared is not None
                return worker, code, shared.batch
            payload = unpickled(data)
            if code == FAILED:
                place, error, trace = payload
                raise worker_error(self.owner, f"{self._name(worker)} failed{place}: {error.rstrip('.')}", trace)
            return worker, code, payload

    def _next(self, awaited: Mapping[int, float]) -> tuple[int, bytes, Any]:
        """As :meth:`_receive`; keep a batch for :meth:`wait`."""
        worker, code, payload = self._receive(awaited)
        if code in (BATCH, BATCH_IN_MEMORY, WRITTEN):
            del self._since[worker]
            self._found.append((worker, payload))
        return worker, code, payload

    def _answers(self, workers: Sequence[int]) -> list[Any]:
        """Wait for the answers of the workers of which one was requested."""
        answers: dict[int, Any] = {}
        start = time.monotonic()
        while left := set(workers) - answers.keys():
            worker, code, payload = self._next(dict.fromkeys(left, start))
            if code not in (BATCH, BATCH_IN_MEMORY, WRITTEN):
                answers[worker] = payload
            if isinstance(payload, RankInfo):
                self._reports[worker] = payload
        return [answers[worker] for worker in workers]

    def request(self, worker: int, *, random: bool = False) -> None:
        """Request a batch of a worker. It overwrites the batch before."""
        with self._ending_on_failure():
            self._since[worker] = time.monotonic()
            self.links[worker].send(COLLECT_RANDOM if random else COLLECT)

    def is_requested(self, worker: int) -> bool:
        """Return whether a batch of this worker was requested and not yet returned."""
        return worker in self._since or any(number == worker for number, _ in self._found)

    def wait(self) -> tuple[int, Found]:
        """Wait for a batch; return the number of its worker and the batch."""
        with self._ending_on_failure():
            while not self._found:
                self._next(self._since)
            return self._found.popleft()

    def call(self, worker: int, name: str, *args: object) -> Any:
        """Call a method of one worker; return its value."""
        with self._ending_on_failure():
            self.links[worker].send(CALL, (name, args))
            return self._answers([worker])[0]

    def call_all(self, name: str, *args: object) -> list[Any]:
        """Call a method of all workers at the same time; return its values."""
        with self._ending_on_failure():
            for link in self.links:
                link.send(CALL, (name, args))
            return self._answers(range(len(self.links)))

    def connect(self, layout: Layout) -> WeightSender:
        """Return a sender of weights, which all workers follow from now on."""
        self.call_all("receive_weights", layout)
        return DistributedSender(layout, self.links, self._weight_timeout)

    def start_collection(self) -> None:
        """Let workers collect full batches."""
        for link in self.links:
            link.send(START)

    def stop_collection(self) -> None:
        """Let workers end their batches after the next step."""
        for link in self.links:
            link.send(STOP)

    # --- failures --------------------------------------------------------------------------------

    def _check(self, awaited: Mapping[int, float]) -> None:
        """Raise WorkerError if a process has ended, or those that are waited for do not answer."""
        for worker, link in enumerate(self.links):
            if (ending := self._launcher.ending(worker)) is not None:
                self._raise_last_words()
                raise self._error(worker, ending)
            stopped = self._launcher.is_stopped(worker)
            if stopped is None:  # nothing is sent before both are connected
                stopped = 0 < link.heard == self._heard[worker]
            self._silent[worker] = self._silent[worker] + 1 if stopped else 0
            self._heard[worker] = link.heard
        if awaited and all(self._silent[worker] * TICK >= self._max_silence for worker in awaited):
            fact = f"gave no sign of life for {self._max_silence:g} s: it is stopped, or cannot be reached"
            raise self._error(min(awaited), fact, "Raise max_silence.")
        since = {**self._since, **awaited}
        late = [w for w, start in since.items() if self.timeout and time.monotonic() - start > self.timeout]
        if late:
            raise self._error(late[0], f"did not answer within {self.timeout} s", "Raise timeout.")

    def _raise_last_words(self) -> None:
        """Raise the error that a process sent before it ended, if one arrives."""
        deadline = time.monotonic() + _LAST_WORDS
        with contextlib.suppress(queue.Empty):
            while (left := deadline - time.monotonic()) > 0:
                worker, code, data = self._inbox.get(timeout=left)
                if code == FAILED:
                    self._inbox.put((worker, code, data))
                    self._receive({})
                elif code == LOST:
                    return

    def _lost(self, worker: int, reason: str) -> WorkerError:
        deadline, ending = time.monotonic() + _LAST_WORDS, None
        # A connection closes a moment before its process ends.
        while ending is None and reason and time.monotonic() < deadline:
            ending = self._launcher.ending(worker)
            time.sleep(0.01)
        return self._error(worker, ending or f"closed its connection ({reason.partition('. This is')[0]})")

    def _error(self, worker: int, fact: str, hint: str = "") -> WorkerError:
        hint = hint or "It left no traceback; the simulator or the system may say more on stderr."
        return worker_error(self.owner, f"{self._name(worker)} {fact}", hint=hint)

    def _name(self, worker: int) -> str:
        report = self._reports[worker]
        if report is None:
            known = f"{self._launcher.where(worker)}environment {self._recipes[worker] or 'of its own'}"
        else:
            known = f"host {report.host}, pid {report.pid}, environment {report.environment}"
        return f"rank {worker + 1} ({known})"

    # --- end -------------------------------------------------------------------------------------

    def _end(self, timeout: float, code: bytes = QUIT) -> None:
        if self.is_closed or self._pid != os.getpid():
            return
        self.is_closed = True
        self.stop_collection()
        deadline = time.monotonic() + timeout
        for link in self.links:
            link.send(code)
        try:
            for link in self.links:
                link.wait_sent(max(0.0, deadline - time.monotonic()))
            self._launcher.end(max(0.0, deadline - time.monotonic()))
        finally:
            for link in self.links:
                link.close(max(0.0, deadline - time.monotonic()))

    def end(self, timeout: float | None, close_env: bool) -> None:
        """End the workers, which close their environments or leave them open."""
        self._end(self.shutdown_timeout if timeout is None else timeout, QUIT if close_env else QUIT_OPEN)

    def close(self) -> None:
        """End the workers; calling it again is fine."""
        self._end(self.shutdown_timeout)

    def kill(self) -> None:
        """End the workers at once; another thread that waits for one of them raises then."""
        self._launcher.kill()
        self._inbox.put((0, LOST, torch.empty(0, dtype=torch.uint8)))
