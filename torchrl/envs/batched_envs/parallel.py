"""Several environments stepped at once, in worker processes."""

from __future__ import annotations

from collections.abc import Sequence

from torchrl.envs.batched_envs.base import BatchedEnvBase
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
        pin_memory: Return what is on the CPU in pinned memory, from where copies to an accelerator
            need not be waited for; without an accelerator there is none.
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
        consolidate: Pickle a record as one block of memory, rather than entry by entry.
        daemon: Forbid the workers to start processes of :mod:`multiprocessing` of their own.
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

    def _is_here(self) -> bool:
        return self._options.serial_for_single and self.num_workers == 1

    def _make_crew(self, recipes: Sequence[EnvCreator | EnvBase]) -> Crew:
        if self._is_here():
            return LocalCrew(recipes)
        return ProcessCrew(type(self).__name__, recipes, self.num_workers, self._options)

    def _memory_kind(self) -> str:
        return "own" if self._is_here() else self._options.memory
