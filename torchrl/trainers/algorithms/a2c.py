"""Advantage actor-critic: one gradient step a batch, then the batch is dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict.nn import TensorDictModuleBase

from torchrl.collectors import Collector
from torchrl.envs import EnvBase
from torchrl.modules import ActorCriticWrapper, make_actor, make_critic
from torchrl.objectives import A2CLoss
from torchrl.objectives.value import GAE
from torchrl.trainers.algorithms.common import ANY_ACTION
from torchrl.trainers.algorithms.on_policy import OnPolicyConfig, OnPolicyTrainer


@dataclass
class A2CConfig(OnPolicyConfig):
    """Settings of A2C.

    "paper" is Mnih et al., 2016, https://arxiv.org/abs/1602.01783, for Atari, "sb3" Stable-Baselines3.

    >>> config = A2CConfig(lr=1e-3)
    >>> config.gamma, config.lmbda
    (0.99, 1.0)
    """

    num_envs: int = 16  # copies of the environment that step together; paper
    frames_per_batch: int = 16 * 5  # environment steps per gradient step, of all copies together; paper
    lr: float = 7e-4  # learning rate of RMSProp; sb3, within the range of the paper
    anneal_lr: bool = True  # the learning rate falls to 0; paper
    rms_decay: float = 0.99  # of the squared gradients; paper
    rms_eps: float = 3e-3  # added to the root of the squared gradients; sb3: 1e-5 inside of the root
    gamma: float = 0.99  # discount per environment step; paper
    lmbda: float = 1.0  # of the generalised advantage; 1 is the sum of discounted rewards; paper
    entropy_coeff: float = 0.01  # weight of the entropy; paper
    critic_coeff: float = 0.5  # weight of the critic's loss; sb3
    normalize_advantage: bool = False  # within a batch
    max_grad_norm: float = 0.5  # limit of the gradient's norm; 0: none; sb3
    recurrent: str = ""  # "lstm" or "gru": a policy and a critic with memory; paper: "lstm"
    hidden_size: int = 64  # units of the memory; paper: 256

    def check(self) -> None:
        super().check()
        self.at_least(0, "lr")
        self.at_least(1, "hidden_size")
        self.more_than_zero("rms_eps")


def make_policy(env: EnvBase, config: A2CConfig) -> TensorDictModuleBase:
    """Return the policy, which writes ``action`` and its log-probability."""
    return make_actor(
        env,
        num_cells=config.cells,
        activation=config.activation,
        recurrent=config.recurrent or None,
        hidden_size=config.hidden_size,
        scale="free",
    )


def make_trainer(env: EnvBase, config: A2CConfig, **options: Any) -> A2CTrainer:
    """Return the trainer; ``options`` are arguments of :class:`A2CTrainer`."""
    actor = make_policy(env, config)
    critic = make_critic(
        env,
        num_cells=config.cells,
        activation=config.activation,
        recurrent=config.recurrent or None,
        hidden_size=config.hidden_size,
    )

    # Loss
    loss_module = A2CLoss(
        actor,
        critic,
        entropy_coeff=config.entropy_coeff,
        critic_coeff=config.critic_coeff,
        loss_critic_type="l2",
        normalize_advantage=config.normalize_advantage,
    ).to(config.device)
    optimizer = torch.optim.RMSprop(loss_module.parameters(), lr=config.lr, alpha=config.rms_decay, eps=config.rms_eps)

    # Data; a critic with memory goes along with the policy, so that its state is in the batch
    collector = Collector(
        env,
        ActorCriticWrapper(actor, critic) if config.recurrent else actor,
        frames_per_batch=config.frames_per_batch,
        total_frames=config.rounded_frames,
        device=config.device,
    )
    scheduler = None
    if config.anneal_lr:
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(collector))

    return A2CTrainer(
        collector=collector,
        total_frames=config.rounded_frames,
        loss_module=loss_module,
        optimizer=optimizer,
        lr_scheduler=scheduler,
        clip_norm=config.max_grad_norm or None,
        gae=GAE(gamma=config.gamma, lmbda=config.lmbda, value_network=critic),
        sequence_length=config.steps_per_env if config.recurrent else None,
        seed=config.seed,
        **options,
    )


class A2CTrainer(OnPolicyTrainer):
    """Advantage actor-critic: one epoch a batch; see :class:`OnPolicyTrainer`.

    >>> trainer = A2CTrainer.from_env("CartPole-v1", num_cells=64, num_envs=4)
    >>> trainer.config.num_envs, type(trainer.loss_module).__name__
    (4, 'A2CLoss')
    >>> trainer.train()  # doctest: +SKIP
    """

    algorithm, action_kinds = "a2c", ANY_ACTION
    config_class, make_policy, from_config = A2CConfig, staticmethod(make_policy), staticmethod(make_trainer)
