"""REINFORCE with a baseline: the gradient of the return of whole episodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict.nn import TensorDictModuleBase

from torchrl.collectors import Collector
from torchrl.envs import EnvBase
from torchrl.modules import make_actor, make_critic
from torchrl.objectives import ReinforceLoss
from torchrl.objectives.value import GAE
from torchrl.trainers.algorithms.common import ANY_ACTION
from torchrl.trainers.algorithms.on_policy import OnPolicyConfig, OnPolicyTrainer


@dataclass
class ReinforceConfig(OnPolicyConfig):
    """Settings of REINFORCE.

    The algorithm is that of Williams, 1992, https://doi.org/10.1007/BF00992696, whose settings are for other
    tasks; "Spinning Up" is VPG of https://spinningup.openai.com.

    >>> config = ReinforceConfig(gamma=0.97)
    >>> config.lmbda, config.normalize_advantage
    (1.0, True)
    """

    frames_per_batch: int = 1000  # environment steps per gradient step; Spinning Up: 4000
    lr: float = 1e-2  # learning rate of policy and baseline; Spinning Up: 3e-4 and 1e-3
    anneal_lr: bool = True  # the learning rate falls to 0
    gamma: float = 0.99  # discount per environment step; Spinning Up
    lmbda: float = 1.0  # of the generalised advantage; 1 is the return less the baseline; Williams, section 4
    entropy_coeff: float = 0.0  # weight of the entropy; Williams
    normalize_advantage: bool = True  # to mean 0 and deviation 1, in each batch; Spinning Up
    max_grad_norm: float = 0.0  # limit of the gradient's norm, of policy and baseline together; 0: none; Williams

    def check(self) -> None:
        super().check()
        self.at_least(0, "lr", "entropy_coeff")


def make_policy(env: EnvBase, config: ReinforceConfig) -> TensorDictModuleBase:
    """Return the policy, which writes ``action``."""
    return make_actor(env, num_cells=config.cells, activation=config.activation, scale="free", return_log_prob=False)


def make_trainer(env: EnvBase, config: ReinforceConfig, **options: Any) -> ReinforceTrainer:
    """Return the trainer; ``options`` are arguments of :class:`ReinforceTrainer`."""
    actor = make_policy(env, config)
    critic = make_critic(env, num_cells=config.cells, activation=config.activation)

    # Loss
    loss_module = ReinforceLoss(
        actor, critic, loss_critic_type="l2", entropy_bonus=config.entropy_coeff > 0, entropy_coeff=config.entropy_coeff
    ).to(config.device)
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=config.lr)

    # Data
    collector = Collector(
        env, actor, frames_per_batch=config.frames_per_batch, total_frames=config.rounded_frames, device=config.device
    )
    scheduler = None
    if config.anneal_lr:
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(collector))

    return ReinforceTrainer(
        collector=collector,
        total_frames=config.rounded_frames,
        loss_module=loss_module,
        optimizer=optimizer,
        lr_scheduler=scheduler,
        clip_norm=config.max_grad_norm or None,
        gae=GAE(gamma=config.gamma, lmbda=config.lmbda, value_network=critic, average_gae=config.normalize_advantage),
        seed=config.seed,
        **options,
    )


class ReinforceTrainer(OnPolicyTrainer):
    """Policy gradient with a baseline: one epoch a batch; see :class:`OnPolicyTrainer`.

    >>> trainer = ReinforceTrainer.from_env("CartPole-v1", num_cells=64, frames_per_batch=500)
    >>> trainer.config.frames_per_batch, type(trainer.loss_module).__name__
    (500, 'ReinforceLoss')
    >>> trainer.train()  # doctest: +SKIP
    """

    algorithm, action_kinds = "reinforce", ANY_ACTION
    config_class, make_policy = ReinforceConfig, staticmethod(make_policy)
    from_config = staticmethod(make_trainer)
