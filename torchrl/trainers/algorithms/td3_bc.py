"""TD3+BC: TD3 on a dataset, whose policy also does what the data does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict.nn import TensorDictModuleBase

from torchrl.data import ReplayBuffer
from torchrl.envs import TransformedEnv
from torchrl.modules import make_critic, make_deterministic_actor
from torchrl.objectives import SoftUpdate, TD3BCLoss
from torchrl.trainers.algorithms.off_policy import OffPolicyTrainer, half_range
from torchrl.trainers.algorithms.offline import DatasetReader, OfflineConfig
from torchrl.trainers.algorithms.td3 import DelayedActorStepper


@dataclass
class TD3BCConfig(OfflineConfig):
    """Settings of TD3+BC. "paper" is Fujimoto and Gu, 2021, https://arxiv.org/abs/2106.06860.

    >>> config = TD3BCConfig(dataset="minari:mujoco/hopper/medium-v0", alpha=1.0)
    >>> config.policy_delay
    2
    """

    alpha: float = 2.5  # weight of the value of the policy's actions against the distance to the data's; paper
    lr_actor: float = 3e-4  # learning rate of the policy; paper
    lr_critic: float = 3e-4  # learning rate of both critics; paper
    gamma: float = 0.99  # discount per environment step; paper
    tau: float = 0.005  # share of the networks that the targets take over; paper
    policy_delay: int = 2  # gradient steps between two of the policy and of the targets; paper
    policy_noise: float = 0.2  # deviation of the noise on the targets' actions, in halves of their range; paper
    noise_clip: float = 0.5  # its limit; paper
    normalize_observations: bool = True  # to mean 0 and deviation 1 in the dataset; paper

    def check(self) -> None:
        super().check()
        self.at_least(1, "policy_delay")
        self.at_least(0, "alpha", "lr_actor", "lr_critic", "tau", "policy_noise", "noise_clip")


def make_policy(env: TransformedEnv, config: TD3BCConfig) -> TensorDictModuleBase:
    """Return the policy, which writes ``action``."""
    return make_deterministic_actor(env, num_cells=config.cells, activation=config.activation)


def make_trainer(
    env: TransformedEnv, config: TD3BCConfig, dataset: ReplayBuffer | None = None, **options: Any
) -> TD3BCTrainer:
    """Return the trainer; ``options`` are arguments of :class:`TD3BCTrainer`."""
    actor = make_policy(env, config)
    critic = make_critic(env, with_action=True, num_cells=config.cells, activation=config.activation, gain=None)
    loss_module = TD3BCLoss(
        actor,
        critic,
        alpha=config.alpha,
        action_spec=env.action_spec_unbatched,
        policy_noise=config.policy_noise * half_range(env),
        noise_clip=config.noise_clip * half_range(env),
        loss_function="l2",
        gamma=config.gamma,
    ).to(config.device)
    optimizer = torch.optim.Adam(
        [
            {"params": loss_module.actor_network.parameters(), "lr": config.lr_actor},
            {"params": loss_module.qvalue_network_params.parameters(), "lr": config.lr_critic},
        ]
    )
    return TD3BCTrainer(
        collector=DatasetReader(env, dataset or config.dataset, config),
        total_frames=config.rounded_frames,
        loss_module=loss_module,
        optimization_stepper=DelayedActorStepper(optimizer, config.policy_delay),
        lr_scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, config.lr_factor) if config.anneal_lr else None,
        target_net_updater=SoftUpdate(loss_module, tau=config.tau),
        target_update_interval=config.policy_delay,
        seed=config.seed,
        **options,
    )


class TD3BCTrainer(OffPolicyTrainer):
    """TD3 with cloning, for a :class:`~torchrl.objectives.TD3BCLoss`; see :class:`OffPolicyTrainer`.

    >>> import tempfile
    >>> from torchrl.data.datasets import write_dataset
    >>> from torchrl.envs import GymEnv
    >>> path = write_dataset(tempfile.mkdtemp(), [GymEnv("Pendulum-v1").rollout(50)], 50)
    >>> trainer = TD3BCTrainer.from_env("Pendulum-v1", dataset=f"file:{path}", num_cells=64)
    >>> type(trainer.loss_module).__name__
    'TD3BCLoss'
    >>> trainer.train()  # doctest: +SKIP
    """

    algorithm, action_kinds = "td3_bc", ("continuous",)
    config_class, make_policy, from_config = TD3BCConfig, staticmethod(make_policy), staticmethod(make_trainer)
