"""`ParallelEnv`: environments stepped at the same time, in worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torchrl.envs.base import EnvBase
from torchrl.envs.batched.base import BatchedEnvBase
from torchrl.envs.batched.pools import EnvPool, LocalPool, ProcessPool
from torchrl.envs.batched.serial import SerialEnv
from torchrl.envs.env_creator import EnvCreator


class ParallelEnv(BatchedEnvBase):
    """Steps several environments at the same time, in worker processes.

    A step is one round trip. In rollouts, collectors and ``step_and_maybe_reset``, environments
    whose episode has ended are reset in the same round trip. Tensors are exchanged through shared
    memory. If a worker raises, dies or hangs, all of them are ended; the error names the
    environment and shows the worker's traceback.

    Args:
        num_workers: Number of processes; each runs one environment, or, with a list of two, three, ...
            times as many functions, that many.
        create_env_fn: Builds an environment; or a list with a function or a built environment for
            each. Lambdas and closures are fine, and scripts need no guard. Environments may differ:
            what they return is then stacked lazily.
        create_env_kwargs: Its keyword arguments, for all, or a list with a dictionary for each
            environment.
        pin_memory: Return what is on the CPU in pinned memory, which can be copied to an
            accelerator asynchronously; without an accelerator it has no effect.
        device: Device of what is returned; that of the environments if ``None``.
        share_individual_td: Give each environment buffers of its own instead of rows of common
            ones, for which ``False`` requires entries of equal shapes and dtypes. If ``None``,
            environments with equal specs have common buffers.
        shared_memory: Keep the buffers in memory that the processes share.
        memmap: Keep the buffers in a file that they share.
        use_buffers: Use buffers where every entry is a tensor of a fixed shape; elsewhere, and if
            ``False``, records are pickled. ``None`` is the same as ``True``.
        num_threads: Torch threads in this process while the workers run; as they are if ``None``.
        num_sub_threads: Torch threads in each worker.
        serial_for_single: With one worker, build a :class:`SerialEnv` instead, which steps in this
            process.
        non_blocking: Do not wait for copies to ``device``.
        mp_start_method: ``"fork"``, or ``"spawn"`` for workers that share nothing with this
            process; fork where that is safe if ``None``.
        metadata_from_workers: Start the workers when the specs are needed, instead of building one
            environment in this process to read them.
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

    supports_flat_records = property(BatchedEnvBase.is_flat)
    _workers_step_as_many = True

    @classmethod
    def _built_instead(cls, args: tuple, kwargs: dict[str, Any]) -> SerialEnv | None:
        given = dict(zip(("num_workers", "create_env_fn"), args, strict=False), **kwargs)
        if cls is not ParallelEnv or not given.get("serial_for_single") or given.get("num_workers") != 1:
            return None
        makers = given["create_env_fn"]
        is_one = isinstance(makers, EnvBase) or callable(makers)
        return SerialEnv(**{**given, "num_workers": 1 if is_one else len(makers)})

    def _is_here(self) -> bool:
        return self._options.serial_for_single and self.num_workers == 1

    def _make_pool(self, recipes: Sequence[EnvCreator | EnvBase]) -> EnvPool:
        if self._is_here():
            return LocalPool(recipes)
        return ProcessPool(type(self).__name__, recipes, self.num_workers, self._options)

    def _memory_kind(self) -> str:
        return "own" if self._is_here() else self._options.memory
