"""`SerialEnv`: environments stepped one after the other, in this process."""

from __future__ import annotations

from collections.abc import Sequence

from torchrl.envs.base import EnvBase
from torchrl.envs.batched.base import BatchedEnvBase
from torchrl.envs.batched.pools import EnvPool, LocalPool
from torchrl.envs.env_creator import EnvCreator


class SerialEnv(BatchedEnvBase):
    """Steps several environments one after the other, as one, in this process.

    The same numbers come out as from :class:`ParallelEnv`, whatever its number of workers, and
    from the vector form of the same gymnasium environments.

    Args:
        num_workers: Number of environments.
        create_env_fn: Builds an environment; or a list with a function or a built environment for
            each. Environments may differ: what they return is then stacked lazily.
        create_env_kwargs: Its keyword arguments, for all, or a list with a dictionary for each
            environment.
        device: Device of what is returned; that of the environments if ``None``.
        use_buffers: Copy entries to and from buffers where every entry is a tensor of a fixed
            shape; ``False`` passes records as they are, always. Gradients flow either way: steps
            whose action or root requires one pass records.

    All other arguments are those of :class:`ParallelEnv`, so that the classes are interchangeable.
    Those for workers have no effect here (``num_sub_threads``, ``serial_for_single``,
    ``mp_start_method``, ``consolidate``, ``daemon``, the two timeouts), and buffers are memory of
    this process, unless ``memmap`` is set.

    Reads: the action ``[N, *B, *S]``, and what the environments read.
    Writes: what the environments write, stacked.

    >>> from torchrl.envs import GymEnv
    >>> env = SerialEnv(2, lambda: GymEnv("CartPole-v1"))
    >>> env.rollout(5, break_when_any_done=False).batch_size
    torch.Size([2, 5])
    """

    supports_flat_records = property(BatchedEnvBase.is_flat)
    _workers_step_several = False

    def _make_pool(self, recipes: Sequence[EnvCreator | EnvBase]) -> EnvPool:
        return LocalPool(recipes)

    def _memory_kind(self) -> str:
        return "file" if self._options.memmap else "own"
