"""Several environments, one after the other, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from torchrl.envs.batched_envs.base import BatchedEnvBase, Factory
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
        share_individual_td: Give each environment buffers of its own instead of rows of common
            ones; found out if ``None``.
        use_buffers: Keep the numbers in buffers; ``False`` hands records over as they are, so that
            gradients flow from step to step. Found out if ``None``.
        non_blocking: Do not wait for copies to ``device``.

    Reads: the action ``[N, *B, *S]``, and what the environments read.
    Writes: what the environments write, stacked.

    >>> from torchrl.envs import GymEnv
    >>> env = SerialEnv(2, lambda: GymEnv("CartPole-v1"))
    >>> env.rollout(5, break_when_any_done=False).batch_size
    torch.Size([2, 5])
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
        use_buffers: bool | None = None,
        non_blocking: bool = False,
    ) -> None:
        super().__init__(
            num_workers,
            create_env_fn,
            create_env_kwargs=create_env_kwargs,
            device=device,
            share_individual_td=share_individual_td,
            use_buffers=use_buffers,
            non_blocking=non_blocking,
        )

    def _make_crew(self, recipes: Sequence[EnvCreator | EnvBase]) -> Crew:
        return LocalCrew(recipes)

    def _memory_kind(self) -> str:
        return "own"
