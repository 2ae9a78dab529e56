"""Implicit Q-learning: critics of the data's actions alone, and a policy that clones the better ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from tensordict.nn import TensorDictModuleBase

from torchrl.data import ReplayBuffer
from torchrl.envs import TransformedEnv
from torchrl.modules import make_actor, make_critic
from torchrl.objectives import DiscreteIQLLoss, IQLLoss, SoftUpdate
from torchrl.trainers.algorithms.common import action_kind
from torchrl.trainers.algorithms.off_policy import OffPolicyTrainer
from torchrl.trainers.algorithms.offline import DatasetReader, OfflineConfig


@dataclass
class IQLConfig(OfflineConfig):
    """Settings of IQL. "paper" is Kostrikov et al., 2021, https://arxiv.org/abs/2110.06169, for MuJoCo.

    >>> config = IQLConfig(dataset="minari:mujoco/hopper/medium-v0", expectile=0.9)
    >>> config.temperature
    3.0
    """

    temperature: float = 3.0  # how strongly the policy prefers good actions; paper; AntMaze: 10
    expectile: float = 0.7  # from 0.5, the mean of the data, to 1, its best; paper; AntMaze: 0.9
    lr_actor: float = 3e-4  # learning rate of the policy, falls to 0 along a cosine; paper
    lr_critic: float = 3e-4  # learning rate of the critics and of the value; paper
    gamma: float = 0.99  # discount per environment step; paper
    tau: float = 0.005  # share of the critics that the targets take over per gradient step; paper

    def check(self) -> None:
        super().check()
        self.at_least(0, "temperature", "expectile", "lr_actor", "lr_critic", "tau")


def make_policy(env: TransformedEnv, config: IQLConfig) -> TensorDictModuleBase:
    """Return the policy, which writes ``action``."""
    return make_actor(
        env, num_cells=config.cells, activation=config.activation, scale="free", gain=None, return_log_prob=False
    )


def make_trainer(
    env: TransformedEnv, config: IQLConfig, dataset: ReplayBuffer | None = None, **options: Any
) -> IQLTrainer:
    """Return the trainer; ``options`` are arguments of :class:`IQLTrainer`."""
    is_discrete = action_kind(env.action_spec_unbatched) == "discrete"
    cells: dict[str, Any] = {"num_cells": config.cells, "activation": config.activation, "gain": None}
    actor = make_policy(env, config)
    critic = make_critic(env, with_action=not is_discrete, values_of_actions=is_discrete, **cells)
    value = make_critic(env, **cells)

    # Loss
    settings: dict[str, Any] = {"temperature": config.temperature, "expectile": config.expectile}
    loss_module: IQLLoss
    if is_discrete:
        space = env.action_spec_unbatched
        loss_module = DiscreteIQLLoss(actor, critic, value, action_space=space, gamma=config.gamma, **settings)
    else:
        loss_module = IQLLoss(actor, critic, value, loss_function="l2", gamma=config.gamma, **settings)
    loss_module.to(config.device)
    optimizer = torch.optim.Adam(
        [
            {"params": loss_module.actor_network.parameters(), "lr": config.lr_actor},
            {"params": loss_module.qvalue_network_params.parameters(), "lr": config.lr_critic},
            {"params": loss_module.value_network.parameters(), "lr": config.lr_critic},
        ]
    )

    def cosine(step: int) -> float:
        return config.lr_factor(step) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, step / config.total_frames)))

    return IQLTrainer(
        collector=DatasetReader(env, dataset or config.dataset, config),
        total_frames=config.rounded_frames,
        loss_module=loss_module,
        optimizer=optimizer,
        lr_scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, [cosine, config.lr_factor, config.lr_factor]),
        target_net_updater=SoftUpdate(loss_module, tau=config.tau),
        seed=config.seed,
        **options,
    )


class IQLTrainer(OffPolicyTrainer):
    """Implicit Q-learning, for an :class:`~torchrl.objectives.IQLLoss`; see :class:`OffPolicyTrainer`.

    >>> import tempfile
    >>> from torchrl.data.datasets import write_dataset
    >>> from torchrl.envs import GymEnv
    >>> path = write_dataset(tempfile.mkdtemp(), [GymEnv("Pendulum-v1").rollout(50)], 50)
    >>> trainer = IQLTrainer.from_env("Pendulum-v1", dataset=f"file:{path}", num_cells=64)
    >>> type(trainer.loss_module).__name__
    'IQLLoss'
    >>> trainer.train()  # doctest: +SKIP
    """

    algorithm, action_kinds = "iql", ("discrete", "continuous")
    config_class, make_policy, from_config = IQLConfig, staticmethod(make_policy), staticmethod(make_trainer)
