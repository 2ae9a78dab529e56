"""Truncated quantile critics: SAC with distributions of returns, whose highest quantiles are dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict.nn import TensorDictModuleBase

from torchrl._core.errors import describe
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import EnvBase
from torchrl.modules import make_actor, make_critic
from torchrl.objectives import SoftUpdate, TQCLoss
from torchrl.trainers.algorithms.off_policy import OffPolicyConfig, OffPolicyTrainer


@dataclass
class TQCConfig(OffPolicyConfig):
    """Settings of TQC. "paper" is Kuznetsov et al., 2020, https://arxiv.org/abs/2005.04269.

    >>> config = TQCConfig(dropped_quantiles=3)
    >>> config.num_critics, config.num_quantiles
    (5, 25)
    """

    num_critics: int = 5  # paper
    num_quantiles: int = 25  # of the distribution of each critic; paper
    dropped_quantiles: int = 2  # highest ones per critic that targets leave out; paper, 0 to 5 by task
    lr_actor: float = 3e-4  # learning rate of the policy; paper
    lr_critic: float = 3e-4  # learning rate of the critics; paper
    lr_alpha: float = 3e-4  # learning rate of the entropy temperature; paper
    tau: float = 0.005  # share of the critics that the targets take over per gradient step; paper
    alpha_init: float = 1.0  # entropy temperature at the start
    target_entropy: float = 0.0  # of the policy; 0: minus the number of dimensions of the action; paper
    num_cells: int = 256  # units of a hidden layer of the policy; paper
    critic_cells: int = 512  # units of a hidden layer of a critic; paper
    critic_depth: int = 3  # hidden layers of a critic; paper

    def check(self) -> None:
        super().check()
        self.at_least(1, "num_critics", "num_quantiles", "critic_cells", "critic_depth")
        self.at_least(0, "lr_actor", "lr_critic", "lr_alpha", "tau", "dropped_quantiles")
        self.more_than_zero("alpha_init")
        if self.dropped_quantiles >= self.num_quantiles:
            expected, found = f"less than num_quantiles={self.num_quantiles}", self.dropped_quantiles
            raise ValueError(describe(self, "dropped_quantiles is too large", expected=expected, found=found))


def make_policy(env: EnvBase, config: TQCConfig) -> TensorDictModuleBase:
    """Return the policy, which writes ``action``."""
    return make_actor(
        env, num_cells=config.cells, activation=config.activation, scale="network", gain=None, return_log_prob=False
    )


def make_trainer(env: EnvBase, config: TQCConfig, **options: Any) -> TQCTrainer:
    """Return the trainer; ``options`` are arguments of :class:`TQCTrainer`."""
    actor = make_policy(env, config)
    critic = make_critic(
        env,
        with_action=True,
        num_quantiles=config.num_quantiles,
        num_cells=(config.critic_cells,) * config.critic_depth,
        activation=config.activation,
        gain=None,
    )

    # Loss
    loss_module = TQCLoss(
        actor,
        critic,
        num_qvalue_nets=config.num_critics,
        top_quantiles_to_drop_per_net=config.dropped_quantiles,
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

    return TQCTrainer(
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


class TQCTrainer(OffPolicyTrainer):
    """SAC with quantiles, for a :class:`~torchrl.objectives.TQCLoss`; see :class:`OffPolicyTrainer`.

    >>> trainer = TQCTrainer.from_env("Pendulum-v1", num_cells=64, critic_cells=64, num_quantiles=11)
    >>> trainer.config.num_quantiles, type(trainer.loss_module).__name__
    (11, 'TQCLoss')
    >>> trainer.train()  # doctest: +SKIP
    """

    algorithm, action_kinds = "tqc", ("continuous",)
    config_class, make_policy, from_config = TQCConfig, staticmethod(make_policy), staticmethod(make_trainer)
