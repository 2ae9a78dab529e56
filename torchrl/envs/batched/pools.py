"""Pools that step environments: in this process, in threads, or in worker processes.

Each worker has an :class:`~torchrl.envs.batched.worker.EnvGroup`; a pool calls the methods of all
groups, or of one, and returns what they return.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from torchrl._core.errors import summary
from torchrl._core.workers.pool import WorkerPool, worker_error
from torchrl._core.workers.process import start_method
from torchrl._core.workers.protocol import CALL, DONE, ENDED, MEMORY
from torchrl.envs.base import EnvBase
from torchrl.envs.batched.shared_rows import SIGNAL, Rows
from torchrl.envs.batched.worker import EnvGroup, serve
from torchrl.envs.env_creator import EnvCreator
from torchrl.envs.metadata import EnvMeta


@dataclass(frozen=True)
class BatchOptions:
    """Arguments of :class:`~torchrl.envs.ParallelEnv`, which explains them.

    Raises:
        ValueError: if they contradict each other.
    """

    pin_memory: bool = False
    share_individual_td: bool | None = None
    shared_memory: bool = True
    memmap: bool = False
    num_threads: int | None = None
    num_sub_threads: int = 1
    serial_for_single: bool = False
    non_blocking: bool = False
    mp_start_method: str | None = None
    use_buffers: bool | None = None
    metadata_from_workers: bool = False
    consolidate: bool = True
    daemon: bool = False
    timeout: float | None = None
    shutdown_timeout: float = 10.0

    def __post_init__(self) -> None:
        if self.use_buffers and not (self.shared_memory or self.memmap):
            raise ValueError("use_buffers=True needs shared_memory or memmap to keep the buffers in.")
        if self.mp_start_method is not None:
            start_method(self.mp_start_method)

    @property
    def buffers(self) -> bool | None:
        """Whether to use shared rows; ``None`` if that depends on the environments."""
        return self.use_buffers if self.shared_memory or self.memmap else False

    @property
    def memory(self) -> str:
        """Kind of the memory that processes share, see :class:`~.shared_memory.Memory`."""
        return "file" if self.memmap else "shared"


class EnvPool(ABC):
    """Groups of environments, wherever they run.

    Attributes:
        metas: The metadata of each environment.
        is_remote: Whether the environments run in other processes.
        is_closed: Whether the environments have been closed.

    Hooks:
        attach: let the environments of all groups read and write the rows of a memory.
        step: ``code -> bool``; let all step from their rows into their rows; return whether an
            episode has ended.
        scatter: ``name, values, *args -> [one for each environment]``; call a method of each group
            with the values of its environments.
        chain: ``name, value, *args -> value``; call a method of each group with the value that the
            group before returned.
        close: close the environments.
    """

    metas: list[EnvMeta]
    is_remote = False
    is_closed = False

    @abstractmethod
    def attach(self, rows: Rows) -> None: ...

    @abstractmethod
    def step(self, code: bytes) -> bool: ...

    @abstractmethod
    def scatter(self, name: str, values: Sequence[object] | None, *args: object) -> list[Any]: ...

    @abstractmethod
    def chain(self, name: str, value: object, *args: object) -> Any: ...

    @abstractmethod
    def close(self) -> None: ...


class AsyncPool(EnvPool):
    """Groups that work at the same time; one may be called while others are busy.

    Hooks:
        submit: ``worker, name, *args``; let one worker call a method of its group.
        collect: ``timeout -> [(worker, value)]``; wait for at least one of the calls that were
            submitted, as long as ``timeout``; return those that are done.
        call_each: ``name, [args] -> [value]``; call a method of all groups, with arguments for each.
    """

    ranges: list[tuple[int, int]]  # first and end of the environments of each worker
    busy: dict[int, float]  # when the pending call of a worker was submitted

    @abstractmethod
    def submit(self, worker: int, name: str, *args: object) -> None: ...

    @abstractmethod
    def collect(self, timeout: float | None = None) -> list[tuple[int, Any]]: ...

    @abstractmethod
    def call_each(self, name: str, args: Sequence[tuple[object, ...]]) -> list[Any]: ...

    def scatter(self, name: str, values: Sequence[Any] | None, *args: object) -> list[Any]:
        """Call a method of all groups at the same time; return one value for each environment."""
        answers = self.call_each(name, self._share(values, args))
        return [value for answer in answers for value in answer or ()]

    def chain(self, name: str, value: object, *args: object) -> Any:
        """Call a method of one group after the other, with the value that the last one returned."""
        for worker in range(len(self._share(None, ()))):
            self.submit(worker, name, value, *args)
            ((_, value),) = self.collect()
        return value

    def _share(self, values: Sequence[Any] | None, args: tuple[object, ...]) -> list[tuple[object, ...]]:
        """Return the arguments of each worker: its share of the values, then ``args``.

        Raises:
            RuntimeError: if some workers are busy, so that not all can be called.
        """
        if self.busy:
            raise RuntimeError(f"Workers {sorted(self.busy)} have not answered yet; receive what was sent first.")
        if values is None:
            return [args] * len(self.ranges)
        return [(values[first:end], *args) for first, end in self.ranges]


def share_out(num_envs: int, num_workers: int) -> list[tuple[int, int]]:
    """Return the range of environments of each worker, in order and as even as possible.

    >>> share_out(5, 2)
    [(0, 3), (3, 5)]
    """
    small, larger = divmod(num_envs, num_workers)
    ends = [(k + 1) * small + min(k + 1, larger) for k in range(num_workers)]
    return list(zip([0, *ends[:-1]], ends, strict=True))


class LocalPool(EnvPool):
    """One group, in this process.

    Args:
        recipes: Build the environments.
    """

    def __init__(self, recipes: Sequence[EnvCreator | EnvBase]) -> None:
        self._env_group = EnvGroup()
        try:
            self.metas = self._env_group.build(recipes)
        except BaseException:
            self._env_group.close()
            raise

    def attach(self, rows: Rows) -> None:
        """Let the environments read and write rows."""
        self._env_group.attach(rows)

    def step(self, code: bytes) -> bool:
        """Step from the rows into the rows; return whether an episode has ended."""
        return self._env_group.step(code)

    def scatter(self, name: str, values: Sequence[object] | None, *args: object) -> list[object]:
        """Call a method of the group."""
        method = getattr(self._env_group, name)
        return method(*args) if values is None else method(values, *args)

    def chain(self, name: str, value: object, *args: object) -> Any:
        """Call a method of the group with a value."""
        return getattr(self._env_group, name)(value, *args)

    def close(self) -> None:
        """Close the environments."""
        if not self.is_closed:
            self.is_closed = True
            self._env_group.close()


class ProcessPool(WorkerPool, AsyncPool):
    """Groups in worker processes; the first failure ends all of them.

    Args:
        owner: Name of the environment, for error messages.
        recipes: Build the environments; shared out among the workers in order.
        num_workers: Number of processes.
        options: How they are started, and how long they may take.

    Raises:
        WorkerError: from each method, if a worker raised, died or did not answer in time.
    """

    is_remote = True

    def __init__(
        self, owner: str, recipes: Sequence[EnvCreator | EnvBase], num_workers: int, options: BatchOptions
    ) -> None:
        self.ranges = share_out(len(recipes), num_workers)
        self._at: Any = None  # the environment that each worker steps now [N]
        own = (options.daemon, options.consolidate)
        super().__init__(
            owner,
            serve,
            [(first, recipes[first:end], *own) for first, end in self.ranges],
            mp_start_method=options.mp_start_method,
            preload="torchrl.envs" + (",gymnasium" if "gymnasium" in sys.modules else ""),
            num_threads=options.num_sub_threads,
            timeout=options.timeout,
            shutdown_timeout=options.shutdown_timeout,
        )
        self.metas = [meta for metas in self.gather() for meta in metas]
        self._sockets = [worker.channel.sock for worker in self.workers]

    def step(self, code: bytes) -> bool:
        """Let all workers step from their rows into their rows; return whether an episode ended."""
        if self.busy:
            self._share(None, ())  # raises
        ended = False
        try:
            for worker, sock in enumerate(self._sockets):
                try:
                    sock.send(code)
                except OSError:  # noqa: PERF203 - each may be gone
                    self._send(worker, code)
            for worker, sock in enumerate(self._sockets):
                try:
                    answer = sock.recv(1)
                except BlockingIOError:  # it takes more than a second
                    answer = self._receive(worker)[0]
                except ConnectionError:
                    answer = b""
                if answer == ENDED:
                    ended = True
                elif answer != DONE:
                    self._receive(worker, answer)  # raises its error
            return ended
        except BaseException:
            self._fail()
            raise

    def attach(self, rows: Rows) -> None:
        """Let the environments of all workers read and write rows."""
        blocks = list(rows.tensors)
        at = next(block for block in blocks if block.part == SIGNAL and block.key == "at")
        self._at = rows[at]
        for worker in range(len(self.workers)):
            self.send(worker, MEMORY, blocks, rows.file)
        self.gather()

    def submit(self, worker: int, name: str, *args: object) -> None:
        """Let one worker call a method of its group; :meth:`collect` returns the value."""
        self.busy[worker] = time.monotonic()
        self.send(worker, CALL, (name, args))

    def collect(self, timeout: float | None = None) -> list[tuple[int, object]]:
        """Wait for calls that were submitted, as long as ``timeout``; return their values."""
        return [(worker, self.answer(worker)) for worker in self.ready(timeout)]

    def _place(self, worker: int) -> str:
        first, end = self.ranges[worker]
        if self._at is not None:
            return f", at environment {int(self._at[first])}"
        if end - first > 1:
            return f", at environments {first} to {end - 1}"
        return f", at environment {first}"


class _Thread:
    """A group in a thread of its own.

    Args:
        number: Number of the thread, part of each answer.
        first: Number of its first environment in the batch.
        answers: Queue for ``(number, value, error)``, where the error is
            ``(place, error, traceback)``.
    """

    def __init__(self, number: int, first: int, answers: SimpleQueue) -> None:
        self.number, self.env_group = number, EnvGroup(first)
        self.inbox: SimpleQueue = SimpleQueue()
        self._answers = answers
        self.thread = threading.Thread(target=self._work, name=f"env-{number}", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        for name, args in iter(self.inbox.get, None):
            try:
                value, failure = getattr(self.env_group, name)(*args), None
            except BaseException as error:
                value, failure = None, (self.env_group.place(), *summary(error))
            self._answers.put((self.number, value, failure))
        self.env_group.close()

    def trace(self) -> str:
        """Return the current traceback of the thread."""
        frame = sys._current_frames().get(self.thread.ident or 0)
        return "".join(traceback.format_stack(frame)) if frame is not None else ""


class ThreadPool(AsyncPool):
    """Groups in threads; the first failure ends all of them.

    A thread cannot be killed: one that hangs is abandoned, and ends when its call returns.

    Args:
        owner: Name of the environment, for error messages.
        recipes: Build the environments; shared out among the threads in order.
        num_workers: Number of threads.
        options: How long they may take.

    Raises:
        WorkerError: from each method, if a thread raised or did not answer in time.
    """

    def __init__(
        self, owner: str, recipes: Sequence[EnvCreator | EnvBase], num_workers: int, options: BatchOptions
    ) -> None:
        self._name, self._timeout = owner, options.timeout
        self._shutdown_timeout = options.shutdown_timeout
        self._answers: SimpleQueue = SimpleQueue()
        self.busy: dict[int, float] = {}
        self.ranges = share_out(len(recipes), num_workers)
        self._threads = [_Thread(k, first, self._answers) for k, (first, _) in enumerate(self.ranges)]
        self.metas = self.scatter("build", recipes)

    def submit(self, worker: int, name: str, *args: object) -> None:
        """Let one thread call a method of its group; :meth:`collect` returns the value."""
        self.busy[worker] = time.monotonic()
        self._threads[worker].inbox.put((name, args))

    def collect(self, timeout: float | None = None) -> list[tuple[int, object]]:
        """Wait for calls that were submitted, as long as ``timeout``; return their values."""
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            found = [self._wait(deadline)]
            while not self._answers.empty():
                found.append(self._answers.get())
            return [(item[0], self._value(*item)) for item in found if item is not None]
        except BaseException:
            self._end(0.0)
            raise

    def _wait(self, deadline: float | None) -> Any:
        """Return the next answer, ``None`` if there is none before the deadline."""
        while True:
            limits = [] if deadline is None else [deadline]
            if self._timeout is not None and self.busy:
                limits.append(min(self.busy.values()) + self._timeout)
            wait = max(0.0, min(limits) - time.monotonic()) if limits else None
            try:
                return self._answers.get(timeout=wait)
            except Empty:
                self._check()
            if deadline is not None and time.monotonic() >= deadline:
                return None

    def _check(self) -> None:
        """Raise WorkerError if a thread takes longer than the timeout."""
        for worker, start in self.busy.items():
            if self._timeout is not None and time.monotonic() - start >= self._timeout:
                thread = self._threads[worker]
                fact = f"did not answer within {self._timeout} s and was abandoned"
                raise worker_error(
                    self._name, f"worker {worker} {fact},{thread.env_group.place()}", thread.trace(), "Raise timeout."
                )

    def _value(self, worker: int, value: object, failure: tuple[str, str, str] | None) -> object:
        del self.busy[worker]
        if failure is not None:
            place, error, trace = failure
            fact = f"worker {worker} failed{place}: {error.rstrip('.')}"
            raise worker_error(self._name, fact, trace)
        return value

    def call_each(self, name: str, args: Sequence[tuple[object, ...]]) -> list[Any]:
        """Call a method of all groups at the same time; return the value of each group."""
        for worker, own in enumerate(args):
            self.submit(worker, name, *own)
        answers: dict[int, object] = {}
        while self.busy:
            answers.update(self.collect())
        return [answers[worker] for worker in range(len(self._threads))]

    def attach(self, rows: Rows) -> None:
        """Let the environments of all threads read and write rows."""
        self.call_each("attach", self._share(None, (rows,)))

    def step(self, code: bytes) -> bool:
        """Step all from their rows into their rows; return whether an episode has ended."""
        return any(self.call_each("step", self._share(None, (code,))))

    def _end(self, timeout: float) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        deadline = time.monotonic() + timeout
        for each in self._threads:
            each.inbox.put(None)
        for each in self._threads:
            each.thread.join(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """Close the environments and end the threads."""
        self._end(self._shutdown_timeout)
