"""Environments in threads of this process, for those that wait more than they compute."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import Any

from torchrl._core.errors import WorkerError, describe
from torchrl.envs.batched_envs.buffers import Block, Memory
from torchrl.envs.batched_envs.crew import AsyncCrew, failure, share_out
from torchrl.envs.batched_envs.options import BatchOptions
from torchrl.envs.batched_envs.worker import Team, complaint
from torchrl.envs.common import EnvBase
from torchrl.envs.env_creator import EnvCreator


class _Thread:
    """A team in a thread of its own.

    Args:
        number: Sent along with each answer.
        first: Number of its first environment in the batch.
        answers: Where ``(number, answer, complaint)`` go.
    """

    def __init__(self, number: int, first: int, answers: SimpleQueue) -> None:
        self.number, self.team = number, Team(first)
        self.inbox: SimpleQueue = SimpleQueue()
        self._answers = answers
        self.thread = threading.Thread(target=self._work, name=f"env-{number}", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        for name, args in iter(self.inbox.get, None):
            try:
                answer, words = getattr(self.team, name)(*args), None
            except BaseException as error:
                answer, words = None, complaint(self.team, error)
            self._answers.put((self.number, answer, words))
        self.team.close()

    def trace(self) -> str:
        """Return where the thread is right now."""
        frame = sys._current_frames().get(self.thread.ident or 0)
        return "".join(traceback.format_stack(frame)) if frame is not None else ""


class ThreadCrew(AsyncCrew):
    """Teams in threads. The first sign of trouble ends them all.

    A thread cannot be killed: one that hangs is left behind, and goes when it returns.

    Args:
        owner: Name of the environment, for messages.
        recipes: Build the environments; shared out in order, as evenly as they go.
        num_workers: Number of threads.
        options: How long they may take.

    Raises:
        WorkerError: from each method, if a thread raised or did not answer in time.
    """

    def __init__(
        self,
        owner: str,
        recipes: Sequence[EnvCreator | EnvBase],
        num_workers: int,
        options: BatchOptions,
    ) -> None:
        self._name, self._options = owner, options
        self._timeout = options.timeout
        self._answers: SimpleQueue = SimpleQueue()
        self._busy: dict[int, float] = {}  # since when a thread has something to answer
        self.ranges = share_out(len(recipes), num_workers)
        self._threads = [
            _Thread(k, first, self._answers) for k, (first, _) in enumerate(self.ranges)
        ]
        self.metas = self.scatter("build", recipes)

    # --- talking ---------------------------------------------------------------------------------

    def submit(self, worker: int, name: str, *args: Any) -> None:
        """Have one thread call a method of its team; :meth:`collect` returns the answer."""
        self._busy[worker] = time.monotonic()
        self._threads[worker].inbox.put((name, args))

    def collect(self, timeout: float | None = None) -> list[tuple[int, Any]]:
        """Return the answers that have come; wait for the first one, as long as ``timeout``."""
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            found = [self._wait(deadline)]
            while not self._answers.empty():
                found.append(self._answers.get())
            return [(item[0], self._understand(*item)) for item in found if item is not None]
        except BaseException:
            self._end(0.0)
            raise

    def _wait(self, deadline: float | None) -> Any:
        """Return the next answer, ``None`` if there is none before the deadline."""
        while True:
            limits = [] if deadline is None else [deadline]
            if self._timeout is not None and self._busy:
                limits.append(min(self._busy.values()) + self._timeout)
            wait = max(0.0, min(limits) - time.monotonic()) if limits else None
            try:
                return self._answers.get(timeout=wait)
            except Empty:
                self._look()
            if deadline is not None and time.monotonic() >= deadline:
                return None

    def _look(self) -> None:
        for worker, started in self._busy.items():
            if self._timeout is not None and time.monotonic() - started >= self._timeout:
                thread = self._threads[worker]
                text = describe(
                    self._name,
                    f"worker {worker} did not answer within {self._timeout} s and was left behind, "
                    f"at environment {thread.team.turn}",
                    hint="Raise timeout, or fix that environment.",
                )
                raise WorkerError(f"{text}\n\nIts own traceback:\n\n{thread.trace()}")

    def _understand(self, worker: int, answer: Any, words: Any) -> Any:
        del self._busy[worker]
        if words is not None:
            raise failure(self._name, worker, *words)
        return answer

    def _call_all(self, name: str, arguments: Sequence[tuple]) -> list[Any]:
        """Call a method of all teams at once; return their answers, one a team."""
        self._refuse_busy()
        for worker, args in enumerate(arguments):
            self.submit(worker, name, *args)
        answers: dict[int, Any] = {}
        while self._busy:
            answers.update(self.collect())
        return [answers[worker] for worker in range(len(self._threads))]

    def attach(self, blocks: Sequence[Block], memory: Memory) -> None:
        """Let the environments of all threads take their rows."""
        self._call_all("attach", [(blocks, memory)] * len(self._threads))

    def step(self, code: bytes) -> bool:
        """Step all from their rows into their rows; return whether an episode has ended."""
        return any(self._call_all("step", [(code,)] * len(self._threads)))

    def scatter(self, name: str, values: Sequence[Any] | None, *args: Any) -> list[Any]:
        """Call a method of all teams at once; return their answers, one an environment."""
        own = [() if values is None else (values[first:end],) for first, end in self.ranges]
        answers = self._call_all(name, [(*mine, *args) for mine in own])
        return [value for answer in answers for value in answer or ()]

    def chain(self, name: str, value: Any, *args: Any) -> Any:
        """Call a method of one team after the other with the answer of the one before."""
        self._refuse_busy()
        for worker in range(len(self._threads)):
            self.submit(worker, name, value, *args)
            ((_, value),) = self.collect()
        return value

    # --- end -------------------------------------------------------------------------------------

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
        self._end(self._options.shutdown_timeout)
