"""Several environments stepped at once, in worker processes."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import torch

from torchrl._core.errors import WorkerError, describe
from torchrl._core.processes import Launcher, WorkerProcess, start_method, stop_all
from torchrl.envs.batched_envs.base import BatchedEnvBase, Factory
from torchrl.envs.batched_envs.buffers import SIGNAL, Block, Memory
from torchrl.envs.batched_envs.exchange import Crew
from torchrl.envs.batched_envs.serial import LocalCrew
from torchrl.envs.batched_envs.worker import ATTACH, CALL, DONE, ENDED, FAILED, serve
from torchrl.envs.common import EnvBase
from torchrl.envs.env_creator import EnvCreator

_AFTER_FAILURE = 1.0  # seconds that the other workers get to close their environments


class ProcessCrew(Crew):
    """Teams in worker processes. The first sign of trouble ends them all.

    Args:
        owner: Name of the environment, for messages.
        recipes: Build the environments; shared out in order, as evenly as they go.
        num_workers: Number of processes.
        launcher: Makes them.
        num_threads: Torch threads in each.
        timeout: Seconds that a worker may take for an answer; ``None`` waits for as long as it
            lives.
        shutdown_timeout: Seconds that workers get to close their environments.

    Raises:
        WorkerError: from each method, if a worker raised, died or did not answer in time.
    """

    is_remote = True

    def __init__(
        self,
        owner: str,
        recipes: Sequence[EnvCreator | EnvBase],
        num_workers: int,
        *,
        launcher: Launcher,
        num_threads: int,
        timeout: float | None,
        shutdown_timeout: float,
    ) -> None:
        self._name, self._launcher = owner, launcher
        self._timeout, self._shutdown_timeout = timeout, shutdown_timeout
        self._at: Any = None
        self._pid = os.getpid()
        self._workers: list[WorkerProcess] = []
        small, larger = divmod(len(recipes), num_workers)
        ends = [(k + 1) * small + min(k + 1, larger) for k in range(num_workers)]
        self._ranges = list(zip([0, *ends[:-1]], ends, strict=True))
        try:
            for number, (first, end) in enumerate(self._ranges):
                self._workers.append(
                    WorkerProcess(
                        serve,
                        (first, recipes[first:end]),
                        launcher,
                        number=number,
                        num_threads=num_threads,
                    )
                )
            self.metas = self._gather()
        except BaseException:
            self._end(_AFTER_FAILURE)
            raise

    # --- talking ---------------------------------------------------------------------------------

    def step(self, code: bytes) -> bool:
        """Let all workers step from their rows into their rows; say whether an episode has ended.

        The quick way: anything but a plain answer is looked into afterwards.
        """
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
        try:
            for worker, (first, end) in zip(self._workers, self._ranges, strict=True):
                own = () if values is None else (values[first:end],)
                self._send(worker, CALL, (name, (*own, *args)))
            return self._gather()
        except BaseException:
            self._end(_AFTER_FAILURE)
            raise

    def chain(self, name: str, value: Any, *args: Any) -> Any:
        """Call a method of one team after the other with the answer of the one before."""
        try:
            for worker in self._workers:
                self._send(worker, CALL, (name, (value, *args)))
                value = self._answer(worker)
            return value
        except BaseException:
            self._end(_AFTER_FAILURE)
            raise

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
            raise self._failed(worker, *payload)
        return payload

    # --- trouble ---------------------------------------------------------------------------------

    def _look(self, waited_for: WorkerProcess, started: float) -> None:
        """Look after all workers while one of them takes its time."""
        for worker in self._workers:
            if worker.channel.pending() == FAILED:
                self._answer(worker)
            if not worker.is_alive():
                raise self._lost(worker)
        if self._timeout is not None and time.monotonic() - started > self._timeout:
            trace = waited_for.traceback() if waited_for.is_alive() else ""
            fact = f"did not answer within {self._timeout} s and was killed"
            waited_for.kill()
            raise self._error(waited_for, fact, trace, "Raise timeout, or mend that environment.")

    def _lost(self, worker: WorkerProcess) -> WorkerError:
        mend = "It left no traceback; a simulator or the system may have said more on stderr."
        return self._error(worker, worker.ending(), "", mend)

    def _failed(self, worker: WorkerProcess, env: int, brief: str, trace: str) -> WorkerError:
        text = describe(self._name, f"worker {worker.number} failed at environment {env}: {brief}")
        return WorkerError(f"{text}\n\nIts own traceback:\n\n{trace}")

    def _error(self, worker: WorkerProcess, fact: str, trace: str, mend: str) -> WorkerError:
        first, end = self._ranges[worker.number]
        env = f"environments {first} to {end - 1}" if end - first > 1 else f"environment {first}"
        if self._at is not None:
            env = f"environment {int(self._at[first])}"
        text = describe(self._name, f"worker {worker.number} {fact}, at {env}", mend=mend)
        return WorkerError(f"{text}\n\nIts own traceback:\n\n{trace}" if trace else text)

    def _end(self, timeout: float) -> None:
        if not self.is_closed and self._pid == os.getpid():
            self.is_closed = True
            stop_all(self._workers, timeout)
            self._launcher.close()

    def close(self) -> None:
        """Close the environments and end the workers."""
        self._end(self._shutdown_timeout)


class ParallelEnv(BatchedEnvBase):
    """Steps several environments at once, in worker processes.

    A step is one round trip, in which the environments whose episode has ended also begin the next
    one if the caller is going to ask for it (rollouts, collectors and ``step_and_maybe_reset``
    are). Numbers travel through shared memory. If a worker raises, dies or hangs, all of them are
    ended and the error says which environment it was and shows the worker's traceback.

    Args:
        num_workers: Number of processes; each runs one environment, or, with a list of more
            functions, several.
        create_env_fn: Builds an environment; or a list with one function, or one built environment,
            an environment. Lambdas and closures travel, and scripts need no guard. Environments
            may differ: what they return is then stacked lazily.
        create_env_kwargs: Its keyword arguments, for all, or a list with one dictionary an
            environment.
        device: Device of what is returned; that of the environments if ``None``.
        share_individual_td: Give each environment buffers of its own instead of rows of common
            ones; found out if ``None``.
        shared_memory: Keep the buffers in memory that the processes share.
        memmap: Keep the buffers in a file that they share.
        use_buffers: Use buffers at all; else records are pickled. Found out if ``None``: entries
            without a fixed shape, and those that are no tensors, have no place in a buffer.
        num_threads: Torch threads in this process while the workers run; as they are if ``None``.
        num_sub_threads: Torch threads in each worker.
        serial_for_single: With one worker, step in this process instead.
        non_blocking: Do not wait for copies to ``device``.
        mp_start_method: ``"fork"``, or ``"spawn"`` for workers that share nothing with this
            process; fork where that is safe if ``None``.
        metadata_from_workers: Start the workers when the specs are asked for, rather than build one
            environment here to look at them.
        timeout: Seconds that a worker may take for an answer; unlimited if ``None``.
        shutdown_timeout: Seconds that workers get to close their environments before they are
            killed.

    Reads: the action ``[N, *B, *S]``, and what the environments read.
    Writes: what the environments write, stacked.

    Raises:
        WorkerError: at any use, if a worker raised, was killed, or did not answer in time.

    >>> from torchrl.envs import GymEnv
    >>> env = ParallelEnv(2, lambda: GymEnv("CartPole-v1"))
    >>> env.rollout(5, break_when_any_done=False).batch_size
    torch.Size([2, 5])
    >>> env.close()
    """

    entrywise = property(BatchedEnvBase.is_flat)

    def __init__(
        self,
        num_workers: int,
        create_env_fn: Factory | Sequence[Factory],
        *,
        create_env_kwargs: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
        device: torch.device | str | int | None = None,
        share_individual_td: bool | None = None,
        shared_memory: bool = True,
        memmap: bool = False,
        use_buffers: bool | None = None,
        num_threads: int | None = None,
        num_sub_threads: int = 1,
        serial_for_single: bool = False,
        non_blocking: bool = False,
        mp_start_method: str | None = None,
        metadata_from_workers: bool = False,
        timeout: float | None = None,
        shutdown_timeout: float = 10.0,
    ) -> None:
        if use_buffers and not (shared_memory or memmap):
            raise ValueError(
                "ParallelEnv: use_buffers=True needs shared_memory or memmap to keep them in."
            )
        super().__init__(
            num_workers,
            create_env_fn,
            create_env_kwargs=create_env_kwargs,
            device=device,
            share_individual_td=share_individual_td,
            use_buffers=use_buffers if shared_memory or memmap else False,
            non_blocking=non_blocking,
        )
        if mp_start_method is not None:
            start_method(mp_start_method)
        self._memmap, self._start_method = memmap, mp_start_method
        self._num_threads, self._num_sub_threads = num_threads, num_sub_threads
        self._threads_before: int | None = None
        self._here = serial_for_single and num_workers == 1
        self._metadata_from_workers = metadata_from_workers
        self._timeout, self._shutdown_timeout = timeout, shutdown_timeout

    def _learn(self) -> None:
        if self._metas is None and self._metadata_from_workers:
            self.start()
        super()._learn()

    def _make_crew(self, recipes: Sequence[EnvCreator | EnvBase]) -> Crew:
        if self._num_threads is not None:
            self._threads_before = torch.get_num_threads()
            torch.set_num_threads(self._num_threads)
        if self._here:
            return LocalCrew(recipes)
        return ProcessCrew(
            type(self).__name__,
            recipes,
            self.num_workers,
            launcher=Launcher(start_method(self._start_method), preload="torchrl.envs"),
            num_threads=self._num_sub_threads,
            timeout=self._timeout,
            shutdown_timeout=self._shutdown_timeout,
        )

    def _memory_kind(self) -> str:
        if self._here:
            return "own"
        return "file" if self._memmap else "shared"

    def close(self, *, raise_if_closed: bool = False) -> None:
        """Close the environments and end the workers; what stays is a recipe."""
        super().close(raise_if_closed=raise_if_closed)
        if self._threads_before is not None:
            torch.set_num_threads(self._threads_before)
            self._threads_before = None
