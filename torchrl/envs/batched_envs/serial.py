"""Several environments, one after the other, in this process."""

from __future__ import annotations

from collections.abc import Sequence

from torchrl.envs.batched_envs.base import BatchedEnvBase
from torchrl.envs.batched_envs.crew import Crew, LocalCrew
from torchrl.envs.common import EnvBase
from torchrl.envs.env_creator import EnvCreator


class SerialEnv(BatchedEnvBase):
    """Steps several environments one after the other, as one, in this process.

    The same numbers come out as from :class:`ParallelEnv`, whatever its number of workers, and
    from the vector form of the same gymnasium environments.

    Args:
        num_workers: Number of environments, if there is one ``create_env_fn`` for all.
        create_env_fn: Builds an environment; or a list with one function, or one built environment,
            an environment. Environments may differ: what they return is then stacked lazily.
        create_env_kwargs: Its keyword arguments, for all, or a list with one dictionary an
            environment.
        device: Device of what is returned; that of the environments if ``None``.
        use_buffers: Keep the numbers in buffers; ``False`` hands records over as they are. Found
            out if ``None``. Gradients flow either way: steps whose action or root requires one hand
            records over.

    All other arguments are those of :class:`ParallelEnv`, so that one can stand for the other.
    Those that speak of workers have nobody to speak to here (``num_sub_threads``,
    ``serial_for_single``, ``mp_start_method``, ``consolidate``, ``daemon``, the two timeouts), and
    buffers lie in memory of this process, unless they are to lie in a file.

    Reads: the action ``[N, *B, *S]``, and what the environments read.
    Writes: what the environments write, stacked.

    >>> from torchrl.envs import GymEnv
    >>> env = SerialEnv(2, lambda: GymEnv("CartPole-v1"))
    >>> env.rollout(5, break_when_any_done=False).batch_size
    torch.Size([2, 5])
    """

    entrywise = property(BatchedEnvBase.is_flat)

    def _make_crew(self, recipes: Sequence[EnvCreator | EnvBase]) -> Crew:
        return LocalCrew(recipes)

    def _memory_kind(self) -> str:
        return "file" if self._options.memmap else "own"
