"""Conservative Q-learning: SAC, or DQN, on a dataset, with low values of actions outside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict.nn import TensorDictModuleBase

from torchrl.data import ReplayBuffer
from torchrl.envs import TransformedEnv
from torchrl.modules import make_actor, make_critic, make_q_actor
from torchrl.objectives import CQLLoss, DiscreteCQLLoss, SoftUpdate
from torchrl.trainers.algorithms.common import action_kind
from torchrl.trainers.algorithms.off_policy import OffPolicyTrainer
from torchrl.trainers.algorithms.offline import DatasetReader, OfflineConfig
from torchrl.trainers.hooks.optimization import DefaultOptimizationStepper


@dataclass
class CQLConfig(OfflineConfig):
    """Settings of CQL. "paper" is Kumar et al., 2020, https://arxiv.org/abs/2006.04779, "code" its repository.

    >>> config = CQLConfig(dataset="minari:mujoco/hopper/medium-v0", min_q_weight=1.0)
    >>> config.temperature, config.num_random
    (1.0, 10)
    """

    min_q_weight: float = 5.0  # weight of the penalty of actions outside the data; code
    temperature: float = 1.0  # of the soft maximum over actions; code
    num_random: int = 10  # actions that each part of it is estimated from, of continuous actions; paper
    lr_actor: float = 1e-4  # learning rate of the policy; code; paper: 3e-5
    lr_critic: float = 3e-4  # learning rate of the critics; paper
    lr_alpha: float = 1e-4  # learning rate of the entropy temperature; code
    gamma: float = 0.99  # discount per environment step; paper
    tau: float = 0.005  # share of the critics that the targets take over per gradient step; paper
    depth: int = 3  # hidden layers; code

    def check(self) -> None:
        super().check()
        self.at_least(1, "num_random")
        self.at_least(0, "min_q_weight", "lr_actor", "lr_critic", "lr_alpha", "tau")


def make_policy(env: TransformedEnv, config: CQLConfig) -> TensorDictModuleBase:
    """Return the policy: a squashed Gaussian, or for discrete actions the network of their values."""
    if action_kind(env.action_spec_unbatched) == "discrete":
        return make_q_actor(env, num_cells=config.cells, activation=config.activation)
    return make_actor(
        env, num_cells=config.cells, activation=config.activation, scale="network", gain=None, return_log_prob=False
    )


def make_trainer(
    env: TransformedEnv, config: CQLConfig, dataset: ReplayBuffer | None = None, **options: Any
) -> CQLTrainer:
    """Return the trainer; ``options`` are arguments of :class:`CQLTrainer`."""
    actor = make_policy(env, config)
    loss_module: CQLLoss | DiscreteCQLLoss
    if action_kind(env.action_spec_unbatched) == "discrete":
        loss_module = DiscreteCQLLoss(
            actor, temperature=config.temperature, min_q_weight=config.min_q_weight, gamma=config.gamma
        ).to(config.device)
        terms, groups = ["loss_qvalue", "loss_cql"], [{"params": loss_module.parameters(), "lr": config.lr_critic}]
    else:
        critic = make_critic(env, with_action=True, num_cells=config.cells, activation=config.activation, gain=None)
        loss_module = CQLLoss(
            actor,
            critic,
            action_spec=env.action_spec_unbatched,
            temperature=config.temperature,
            min_q_weight=config.min_q_weight,
            num_random=config.num_random,
            loss_function="l2",
            gamma=config.gamma,
        ).to(config.device)
        terms = ["loss_actor", "loss_qvalue", "loss_cql", "loss_alpha"]  # not loss_actor_bc, for a warm-up
        groups = [
            {"params": loss_module.actor_network.parameters(), "lr": config.lr_actor},
            {"params": loss_module.qvalue_network_params.parameters(), "lr": config.lr_critic},
            {"params": [loss_module.log_alpha], "lr": config.lr_alpha},
        ]

    optimizer = torch.optim.Adam(groups)
    return CQLTrainer(
        collector=DatasetReader(env, dataset or config.dataset, config),
        total_frames=config.rounded_frames,
        loss_module=loss_module,
        optimizer=optimizer,
        lr_scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, config.lr_factor) if config.anneal_lr else None,
        optimization_stepper=DefaultOptimizationStepper(terms),
        target_net_updater=SoftUpdate(loss_module, tau=config.tau),
        seed=config.seed,
        **options,
    )


class CQLTrainer(OffPolicyTrainer):
    """Conservative Q-learning, for a :class:`~torchrl.objectives.CQLLoss`; see :class:`OffPolicyTrainer`.

    >>> import tempfile
    >>> from torchrl.data.datasets import write_dataset
    >>> from torchrl.envs import GymEnv
    >>> path = write_dataset(tempfile.mkdtemp(), [GymEnv("Pendulum-v1").rollout(50)], 50)
    >>> trainer = CQLTrainer.from_env("Pendulum-v1", dataset=f"file:{path}", num_cells=64)
    >>> type(trainer.loss_module).__name__
    'CQLLoss'
    >>> trainer.train()  # doctest: +SKIP
    """

    algorithm, action_kinds = "cql", ("discrete", "continuous")
    config_class, make_policy, from_config = CQLConfig, staticmethod(make_policy), staticmethod(make_trainer)
