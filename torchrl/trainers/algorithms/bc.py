"""Behaviour cloning: a policy that does what the data does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict.nn import TensorDictModuleBase

from torchrl.data import ReplayBuffer
from torchrl.envs import TransformedEnv
from torchrl.modules import make_actor, make_deterministic_actor
from torchrl.objectives import BCLoss
from torchrl.trainers.algorithms.common import ANY_ACTION, action_kind
from torchrl.trainers.algorithms.off_policy import OffPolicyTrainer
from torchrl.trainers.algorithms.offline import DatasetReader, OfflineConfig


@dataclass
class BCConfig(OfflineConfig):
    """Settings of behaviour cloning; those of the comparison in Fujimoto and Gu, 2021, https://arxiv.org/abs/2106.06860.

    >>> config = BCConfig(dataset="minari:mujoco/hopper/medium-v0", lr=1e-3)
    >>> config.batch_size
    256
    """

    lr: float = 3e-4  # learning rate

    def check(self) -> None:
        super().check()
        self.at_least(0, "lr")


def make_policy(env: TransformedEnv, config: BCConfig) -> TensorDictModuleBase:
    """Return the policy: deterministic for continuous actions, whose squared error is the loss."""
    if action_kind(env.action_spec_unbatched) == "continuous":
        return make_deterministic_actor(env, num_cells=config.cells, activation=config.activation)
    return make_actor(env, num_cells=config.cells, activation=config.activation, gain=None, return_log_prob=False)


def make_trainer(
    env: TransformedEnv, config: BCConfig, dataset: ReplayBuffer | None = None, **options: Any
) -> BCTrainer:
    """Return the trainer; ``options`` are arguments of :class:`BCTrainer`."""
    actor = make_policy(env, config)
    loss_module = BCLoss(actor).to(config.device)
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=config.lr)
    return BCTrainer(
        collector=DatasetReader(env, dataset or config.dataset, config),
        total_frames=config.rounded_frames,
        loss_module=loss_module,
        optimizer=optimizer,
        lr_scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, config.lr_factor) if config.anneal_lr else None,
        seed=config.seed,
        **options,
    )


class BCTrainer(OffPolicyTrainer):
    """Behaviour cloning, for a :class:`~torchrl.objectives.BCLoss`; see :class:`OffPolicyTrainer`.

    >>> import tempfile
    >>> from torchrl.data.datasets import write_dataset
    >>> from torchrl.envs import GymEnv
    >>> path = write_dataset(tempfile.mkdtemp(), [GymEnv("Pendulum-v1").rollout(50)], 50)
    >>> trainer = BCTrainer.from_env("Pendulum-v1", dataset=f"file:{path}", num_cells=64)
    >>> type(trainer.loss_module).__name__
    'BCLoss'
    >>> trainer.train()  # doctest: +SKIP
    """

    algorithm, action_kinds = "bc", ANY_ACTION
    config_class, make_policy, from_config = BCConfig, staticmethod(make_policy), staticmethod(make_trainer)
