"""Soft actor-critic: a squashed Gaussian policy, two critics, an entropy temperature that is learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict.nn import TensorDictModuleBase

from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import EnvBase
from torchrl.modules import make_actor, make_critic
from torchrl.objectives import SACLoss, SoftUpdate
from torchrl.trainers.algorithms.off_policy import OffPolicyConfig, OffPolicyTrainer


@dataclass
class SACConfig(OffPolicyConfig):
    """Settings of SAC. "paper" is Haarnoja et al., 2018, https://arxiv.org/abs/1812.05905.

    >>> config = SACConfig(total_frames=20_000, tau=0.01)
    >>> config.lr_actor, config.target_entropy
    (0.0003, 0.0)
    """

    lr_actor: float = 3e-4  # learning rate of the policy; paper
    lr_critic: float = 3e-4  # learning rate of both critics; paper
    lr_alpha: float = 3e-4  # learning rate of the entropy temperature; paper
    tau: float = 0.005  # share of the critics that the targets take over per gradient step; paper
    alpha_init: float = 1.0  # entropy temperature at the start
    target_entropy: float = 0.0  # of the policy; 0: minus the number of dimensions of the action; paper
    num_cells: int = 256  # units of a hidden layer; paper

    def check(self) -> None:
        super().check()
        self.at_least(0, "lr_actor", "lr_critic", "lr_alpha", "tau")
        self.more_than_zero("alpha_init")


def make_policy(env: EnvBase, config: SACConfig) -> TensorDictModuleBase:
    """Return the policy, which writes ``action``."""
    return make_actor(
        env, num_cells=config.cells, activation=config.activation, scale="network", gain=None, return_log_prob=False
    )


def make_trainer(env: EnvBase, config: SACConfig, **options: Any) -> SACTrainer:
    """Return the trainer; ``options`` are arguments of :class:`SACTrainer`."""
    actor = make_policy(env, config)
    critic = make_critic(env, with_action=True, num_cells=config.cells, activation=config.activation, gain=None)

    # Loss
    loss_module = SACLoss(
        actor,
        critic,
        num_qvalue_nets=2,
        loss_function="l2",
        gamma=config.gamma,
        alpha_init=config.alpha_init,
        target_entropy=config.target_entropy or "auto",
    ).to(config.device)
    optimizer = torch.optim.Adam(
        [
            {"params": loss_module.actor_network.parameters(), "lr": config.lr_actor},
            {"params": loss_module.qvalue_network_params.parameters(), "lr": config.lr_critic},
            {"params": [loss_module.log_alpha], "lr": config.lr_alpha},
        ]
    )

    # Data
    collector = Collector(
        env,
        actor,
        frames_per_batch=config.frames_per_batch,
        total_frames=config.rounded_frames,
        init_random_frames=config.learning_starts,
        device=config.device,
    )
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(config.buffer_size, device=config.device), batch_size=config.batch_size
    )

    return SACTrainer(
        collector=collector,
        total_frames=config.rounded_frames,
        optim_steps_per_batch=config.updates_per_batch,
        loss_module=loss_module,
        optimizer=optimizer,
        replay_buffer=buffer,
        target_net_updater=SoftUpdate(loss_module, tau=config.tau),
        seed=config.seed,
        **options,
    )


class SACTrainer(OffPolicyTrainer):
    """Soft actor-critic, for an :class:`~torchrl.objectives.SACLoss`; see :class:`OffPolicyTrainer`.

    >>> trainer = SACTrainer.from_env("Pendulum-v1", num_cells=64, tau=0.01)
    >>> trainer.config.tau, type(trainer.loss_module).__name__
    (0.01, 'SACLoss')
    >>> trainer.train()  # doctest: +SKIP
    """

    algorithm, action_kinds = "sac", ("continuous",)
    config_class, make_policy, from_config = SACConfig, staticmethod(make_policy), staticmethod(make_trainer)
