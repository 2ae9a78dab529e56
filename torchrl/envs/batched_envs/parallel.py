"""Several environments stepped at once, in worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from torchrl._core.processes import Launcher, start_method
from torchrl.envs.batched_envs.base import BatchedEnvBase, Factory
from torchrl.envs.batched_envs.crew import Crew, LocalCrew
from torchrl.envs.batched_envs.process_crew import ProcessCrew
from torchrl.envs.common import EnvBase
from torchrl.envs.env_creator import EnvCreator


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
