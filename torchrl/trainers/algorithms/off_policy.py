"""`OffPolicyTrainer`: store every batch, learn from samples of all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from torchrl._core.errors import describe
from torchrl.data import ReplayBuffer
from torchrl.data.tensor_specs import ContinuousBox
from torchrl.envs import EnvBase
from torchrl.objectives.networks import TargetNetUpdater
from torchrl.trainers.algorithms.common import AlgorithmTrainer
from torchrl.trainers.algorithms.config import AlgorithmConfig
from torchrl.trainers.hooks.base import TrainerHookBase
from torchrl.trainers.hooks.data import ReplayBufferTrainer
from torchrl.trainers.hooks.optimization import TargetNetUpdaterHook
from torchrl.trainers.trainer import Trainer


@dataclass
class OffPolicyConfig(AlgorithmConfig):
    """Settings of algorithms that learn from a replay buffer.

    >>> config = OffPolicyConfig(frames_per_batch=4, updates_per_frame=0.5)
    >>> config.updates_per_batch
    2
    """

    frames_per_batch: int = 1  # environment steps between updates, of all copies together
    learning_starts: int = 10_000  # environment steps of random actions, before any learning
    updates_per_frame: float = 1.0  # gradient steps per environment step
    buffer_size: int = 1_000_000  # transitions
    batch_size: int = 256  # transitions per gradient step
    gamma: float = 0.99  # discount per environment step
    activation: str = "relu"  # between layers

    @property
    def updates_per_batch(self) -> int:
        """Gradient steps after each batch."""
        return round(self.frames_per_batch * self.updates_per_frame)

    def check(self) -> None:
        super().check()
        self.at_least(1, "frames_per_batch", "buffer_size", "batch_size")
        self.at_least(0, "learning_starts")
        if self.updates_per_batch < 1:
            fact, found = (
                "would never learn",
                f"{self.frames_per_batch} * {self.updates_per_frame} gradient steps a batch",
            )
            raise ValueError(describe(self, fact, found=found, hint="Raise frames_per_batch or updates_per_frame."))


def half_range(env: EnvBase) -> float:
    """Return half of the widest range of the numbers of an action; 1 without bounds.

    Args:
        env: An environment with continuous actions.

    >>> from torchrl.envs import GymEnv
    >>> half_range(GymEnv("Pendulum-v1"))
    2.0
    """
    space = env.action_spec_unbatched.space
    width = (space.high - space.low).max().item() if isinstance(space, ContinuousBox) else math.inf
    return width / 2 if math.isfinite(width) else 1.0


class _Anneal(TrainerHookBase):
    """Anneal the exploration by the frames of each batch."""

    stage, name = "post_steps", "greedy_module"

    def __init__(self, trainer: Trainer, module: Any) -> None:
        self.trainer, self.module, self._frames = trainer, module, 0

    def register(self, trainer: Trainer, name: str | None = None) -> None:
        trainer.register_op("setup", self._start)
        super().register(trainer, name)

    def _start(self) -> None:
        """Count from here: what was annealed before a save is in the state of the module."""
        self._frames = self.trainer.collected_frames

    def __call__(self) -> None:
        self.module.step(self.trainer.collected_frames - self._frames)
        self._frames = self.trainer.collected_frames


class OffPolicyTrainer(AlgorithmTrainer):
    """Store every batch, learn from samples of all.

    Args:
        replay_buffer: The buffer; without one, each optimisation step draws from the batch.
        batch_size: Size of a sample; the buffer's own if ``None``.
        sequence_length: Store and draw sequences of this many steps, for recurrent policies; single steps if
            ``None``.
        greedy_module: Exploration module of the policy, annealed by the frames of each batch.
        target_net_updater: Updates the target networks.
        target_update_interval: Optimisation steps between two of these updates.
        **kwargs: Of :class:`AlgorithmTrainer`.

    >>> import torch
    >>> from torchrl.collectors import Collector
    >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    >>> from torchrl.envs import GymEnv
    >>> from torchrl.modules import make_q_actor
    >>> from torchrl.objectives import DQNLoss, SoftUpdate
    >>> env = GymEnv("CartPole-v1")
    >>> loss = DQNLoss(make_q_actor(env, num_cells=(16,)))
    >>> trainer = OffPolicyTrainer(
    ...     collector=Collector(env, loss.value_network, frames_per_batch=20, total_frames=40),
    ...     total_frames=40,
    ...     loss_module=loss,
    ...     optimizer=torch.optim.Adam(loss.parameters()),
    ...     replay_buffer=TensorDictReplayBuffer(storage=LazyTensorStorage(100), batch_size=8),
    ...     target_net_updater=SoftUpdate(loss, tau=0.01),
    ...     optim_steps_per_batch=2,
    ...     progress_bar=False,
    ... )
    >>> trainer.train()
    >>> trainer.collected_frames
    40
    """

    def __init__(
        self,
        *,
        replay_buffer: ReplayBuffer | None = None,
        batch_size: int | None = None,
        sequence_length: int | None = None,
        greedy_module: nn.Module | None = None,
        target_net_updater: TargetNetUpdater | None = None,
        target_update_interval: int = 1,
        **kwargs: Any,
    ) -> None:
        if sequence_length is None:
            super().__init__(replay_buffer=replay_buffer, batch_size=batch_size, **kwargs)
        elif replay_buffer is None:
            raise ValueError(describe(self, "draws sequences from a buffer", hint="Pass replay_buffer."))
        else:
            super().__init__(**kwargs)
            ReplayBufferTrainer(replay_buffer, batch_size, sequence_length=sequence_length).register(self)
        if target_net_updater is not None:
            TargetNetUpdaterHook(target_net_updater, target_update_interval).register(self)
        if greedy_module is not None:
            _Anneal(self, greedy_module).register(self)
