"""A pool of supervised worker processes: start, send, gather, time out, fail, close.

:class:`WorkerPool` is the parent's side, :class:`RequestHandler` the worker's side. Batched
environments, collectors, evaluators and replay buffers in other processes are built on them.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torchrl._core.errors import WorkerError, describe, summary
from torchrl._core.workers.process import Launcher, WorkerProcess, check_parent, start_method, stop_all
from torchrl._core.workers.protocol import CALL, DONE, FAILED, QUIT, RESULT, TICK, Channel, Sender

_AFTER_FAILURE = 1.0  # seconds in which the other workers may end by themselves


class WorkerPool:
    """Worker processes that answer requests, and are checked while they are waited for.

    Each worker sends one answer once it is ready, see :meth:`gather`, and then one for each
    request. The first failure ends all workers; the pool is closed then.

    Args:
        owner: Name of the class that uses the workers, for error messages.
        target: Function that runs in each worker, ``target(channel, *args)``; see
            :class:`RequestHandler`.
        args: Its other arguments, one tuple for each worker.
        mp_start_method: ``"fork"`` or ``"spawn"``; fork where that is safe if ``None``.
        preload: Modules that the fork server of ``"spawn"`` imports, separated by commas.
        first_number: Number of the first worker, part of its random seed.
        num_threads: Torch threads in each worker.
        timeout: Seconds that an answer may take; unlimited if ``None``.
        shutdown_timeout: Seconds in which workers may end by themselves when the pool is closed.

    Attributes:
        workers: The processes.
        busy: Time at which the pending request of a worker was sent, by worker; see :meth:`ready`.
        is_closed: Whether the workers have been ended.

    Hooks:
        _name: ``worker -> str``; name of a worker in error messages.
        _place: ``worker -> str``; where a worker was when it was lost, for error messages.
        _receive: ``worker -> (code, payload)``; receive one message.

    Raises:
        WorkerError: from each method, if a worker raised, died or did not answer in time.
        RuntimeError: from each method, if the pool is closed.

    >>> def serve(channel):
    ...     handler = RequestHandler(channel)
    ...     handler.answer(lambda: "ready")
    ...     while (message := channel.receive(handler.tick))[0] == CALL:
    ...         handler.call([3, 1, 2], *message[1])
    >>> pool = WorkerPool("Example", serve, [(), ()], mp_start_method="fork")
    >>> pool.gather(), pool.call(0, "index", 2)
    (['ready', 'ready'], 2)
    >>> pool.close()
    """

    def __init__(
        self,
        owner: str,
        target: Callable[..., object],
        args: Sequence[tuple[object, ...]],
        *,
        mp_start_method: str | None = None,
        preload: str = "torchrl._core.workers.pool",
        first_number: int = 0,
        num_threads: int = 1,
        timeout: float | None = None,
        shutdown_timeout: float = 10.0,
    ) -> None:
        self.owner, self.timeout, self.shutdown_timeout = owner, timeout, shutdown_timeout
        self.workers: list[WorkerProcess] = []
        self.busy: dict[int, float] = {}
        self.is_closed = False
        self._pid, self._checked = os.getpid(), -math.inf
        self._launcher = Launcher(start_method(mp_start_method), preload)
        self._poll = select.poll()
        self._by_file: dict[int, int] = {}
        with self._ending_on_failure():
            for number, own in enumerate(args):
                worker = WorkerProcess(
                    target, own, self._launcher, number=first_number + number, num_threads=num_threads
                )
                self.workers.append(worker)
                self._by_file[worker.channel.sock.fileno()] = number
                self._poll.register(worker.channel.sock, select.POLLIN)

    @contextlib.contextmanager
    def _ending_on_failure(self) -> Iterator[None]:
        if self.is_closed:
            raise RuntimeError(f"{self.owner}: it was shut down; build a new one.")
        try:
            yield
        except BaseException:
            self._fail()
            raise

    # --- messages --------------------------------------------------------------------------------

    def send(self, worker: int, code: bytes, payload: object = None, file: int | None = None) -> None:
        """Send a message to one worker; see :meth:`Channel.send`."""
        with self._ending_on_failure():
            self._send(worker, code, payload, file)

    def _send(self, worker: int, code: bytes, payload: object = None, file: int | None = None) -> None:
        start = time.monotonic()
        try:
            channel = self.workers[worker].channel
            channel.send(code, payload, lambda: self._check(worker, start), file)
        except OSError:
            while True:  # until the error that it sent before it ended, or the end of its messages
                self._receive(worker)

    def _receive(self, worker: int, first_byte: bytes | None = None) -> tuple[bytes, Any]:
        """Receive one message of a worker.

        Args:
            worker: Number of the worker.
            first_byte: The first byte of the message, if it was received before.
        """
        start, channel = self.busy.get(worker, time.monotonic()), self.workers[worker].channel

        def tick() -> None:
            self._check(worker, start)

        try:
            if first_byte is None:
                code, payload = channel.receive(tick)
            else:
                code, payload = channel.resume(first_byte, tick)
        except EOFError:
            raise self._lost(worker) from None
        if code == FAILED:
            raise self.failure(worker, *payload)
        return code, payload

    def answer(self, worker: int) -> Any:
        """Wait for the answer of a worker to the last request; return its value."""
        with self._ending_on_failure():
            return self._answer(worker)

    def _answer(self, worker: int) -> Any:
        while True:
            code, payload = self._receive(worker)
            if code in (DONE, RESULT):
                self.busy.pop(worker, None)
                return payload

    def gather(self) -> list[Any]:
        """Wait for one answer of each worker; return their values."""
        with self._ending_on_failure():
            return [self._answer(worker) for worker in range(len(self.workers))]

    def call(self, worker: int, name: str, *args: object) -> Any:
        """Call a method of the object in one worker; return its value."""
        with self._ending_on_failure():
            self._send(worker, CALL, (name, args))
            return self._answer(worker)

    def call_each(self, name: str, args: Sequence[tuple[object, ...]]) -> list[Any]:
        """Call a method in all workers at the same time; return its values.

        Args:
            name: Name of the method.
            args: Its arguments, one tuple for each worker.
        """
        with self._ending_on_failure():
            for worker, own in enumerate(args):
                self._send(worker, CALL, (name, own))
            return [self._answer(worker) for worker in range(len(self.workers))]

    def ready(self, timeout: float | None = None) -> list[int]:
        """Wait until a busy worker has sent a message; return the numbers of those that have.

        Args:
            timeout: Seconds to wait; unlimited if ``None``.
        """
        with self._ending_on_failure():
            deadline = math.inf if timeout is None else time.monotonic() + timeout
            while True:
                wait = max(0.0, min(TICK, deadline - time.monotonic()))
                found = sorted(self._by_file[file] for file, _ in self._poll.poll(1000 * wait))
                for worker in found:
                    if worker not in self.busy and not self.workers[worker].channel.pending():
                        raise self._lost(worker)
                found = [worker for worker in found if worker in self.busy]
                now = time.monotonic()
                if now - self._checked >= TICK:
                    self._checked = now
                    for worker, start in list(self.busy.items()):
                        self._check(worker, start)
                if found or now >= deadline:
                    return found

    # --- failures --------------------------------------------------------------------------------

    def _check(self, waited_for: int, start: float) -> None:
        """Raise WorkerError if a worker failed or died, or one has not answered since ``start``."""
        for worker, process in enumerate(self.workers):
            is_alive, code = process.is_alive(), process.channel.pending()
            if worker == waited_for:
                if not is_alive and not code:
                    raise self._lost(worker)
            elif code == FAILED:
                self._receive(worker)
            elif not is_alive:
                raise self._lost(worker)
        if self.timeout is not None and time.monotonic() - start > self.timeout:
            process = self.workers[waited_for]
            trace = process.traceback() if process.is_alive() else ""
            place = self._place(waited_for)
            process.kill()
            fact = f"did not answer within {self.timeout} s and was killed{place}"
            raise worker_error(self.owner, f"{self._name(waited_for)} {fact}", trace, "Raise timeout.")

    def _name(self, worker: int) -> str:
        return f"worker {worker}"

    def _place(self, worker: int) -> str:
        return ""

    def _lost(self, worker: int) -> WorkerError:
        fact = f"{self._name(worker)} {self.workers[worker].ending()}{self._place(worker)}"
        hint = "It left no traceback; the simulator or the system may say more on stderr."
        return worker_error(self.owner, fact, hint=hint)

    def failure(self, worker: int, place: str, error: str, trace: str) -> WorkerError:
        """Return the error for the payload of :data:`~.protocol.FAILED`."""
        return worker_error(self.owner, f"{self._name(worker)} failed{place}: {error.rstrip('.')}", trace)

    # --- end -------------------------------------------------------------------------------------

    def _fail(self) -> None:
        self._end(_AFTER_FAILURE)

    def _end(self, timeout: float, code: bytes = QUIT) -> None:
        if not self.is_closed and self._pid == os.getpid():
            self.is_closed = True
            try:
                stop_all(self.workers, timeout, code)
            finally:
                self._launcher.close()

    def close(self, timeout: float | None = None, code: bytes = QUIT) -> None:
        """End the workers; calling it again is fine.

        Args:
            timeout: Seconds in which they may end by themselves; ``shutdown_timeout`` if ``None``.
            code: Message that lets them end.
        """
        self._end(self.shutdown_timeout if timeout is None else timeout, code)

    def kill(self) -> None:
        """Kill the workers; another thread that waits for one of them raises then."""
        for worker in self.workers:
            worker.kill()


def worker_error(owner: str, fact: str, trace: str = "", hint: str = "") -> WorkerError:
    """Return the error of a worker.

    Args:
        owner: Name of the class that uses the workers.
        fact: Which worker failed, and how.
        trace: The worker's own traceback, if there is one.
        hint: What to do.
    """
    text = describe(owner, fact, hint=hint)
    return WorkerError(f"{text}\n\nIts own traceback:\n\n{trace}" if trace else text)


class RequestHandler:
    """The worker's side of a :class:`WorkerPool`: sends the answers to requests.

    Args:
        channel: Leads to the pool.
        place: Returns where the worker is, for error messages.

    Attributes:
        tick: To be called while waiting; raises ``EOFError`` once the parent process has died.
    """

    def __init__(self, channel: Sender, place: Callable[[], str] = str) -> None:
        self.channel, self.place, self.tick = channel, place, check_parent()

    def answer(self, work: Callable[..., object], *args: object) -> bool:
        """Send what ``work(*args)`` returns, or the error that it raises.

        Returns: whether it succeeded.
        """

        def message() -> bytes:
            result = work(*args)
            return Channel.message(DONE if result is None else RESULT, result)

        return self.reply(message)

    def reply(self, message: Callable[[], bytes]) -> bool:
        """Send the message that a function returns, or the error that it raises.

        Returns: whether it succeeded.
        """
        try:
            data = message()
        except BaseException as error:
            self.fail(error)
            return False
        self._send(data)
        return True

    def fail(self, error: BaseException) -> None:
        """Send an error."""
        self._send(Channel.message(FAILED, (self.place(), *summary(error))))

    def _send(self, message: bytes) -> None:
        try:
            self.channel.send_message(message, self.tick)
        except OSError:
            raise EOFError("the pool was closed") from None

    def call(self, target: object, name: str, args: tuple[object, ...]) -> None:
        """Answer :data:`~.protocol.CALL`: call a method of ``target``."""
        self.answer(lambda: getattr(target, name)(*args))
