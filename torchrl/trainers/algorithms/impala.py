"""IMPALA: an actor-critic whose V-trace corrects for data of older policies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict.nn import TensorDictModuleBase

from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.envs import EnvBase
from torchrl.modules import ActorCriticWrapper, make_actor, make_critic
from torchrl.objectives import A2CLoss
from torchrl.objectives.value import VTrace
from torchrl.trainers.algorithms.common import ANY_ACTION
from torchrl.trainers.algorithms.on_policy import OnPolicyConfig, OnPolicyTrainer


@dataclass
class IMPALAConfig(OnPolicyConfig):
    """Settings of IMPALA. "paper" is Espeholt et al., 2018, https://arxiv.org/abs/1802.01561, for Atari.

    >>> config = IMPALAConfig(num_envs=8)
    >>> config.rho_clip, config.c_clip
    (1.0, 1.0)
    """

    num_envs: int = 32  # copies of the environment that step together; paper: batches of 32 trajectories
    frames_per_batch: int = 32 * 20  # environment steps between updates, of all copies together; paper
    minibatch_size: int = 32 * 20  # environment steps per gradient step, whole trajectories; paper
    num_epochs: int = 1  # times that each batch is learned from, corrected by V-trace; paper
    lr: float = 6e-4  # learning rate of RMSProp; paper
    anneal_lr: bool = True  # the learning rate falls to 0; paper
    rms_decay: float = 0.99  # of the squared gradients; paper
    rms_eps: float = 0.3  # added to the root of the squared gradients; paper: 0.1 inside of the root
    gamma: float = 0.99  # discount per environment step; paper
    rho_clip: float = 1.0  # limit of the importance weight of a temporal difference; paper
    c_clip: float = 1.0  # limit of the importance weights of what follows; paper
    entropy_coeff: float = 0.01  # weight of the entropy; paper
    critic_coeff: float = 0.5  # weight of the critic's loss; paper
    max_grad_norm: float = 40.0  # limit of the gradient's norm; 0: none; paper
    recurrent: str = ""  # "lstm" or "gru": a policy and a critic with memory; paper: "lstm" in its large network
    hidden_size: int = 64  # units of the memory; paper: 256

    def check(self) -> None:
        super().check()
        self.at_least(1, "minibatch_size", "num_epochs")
        self.at_least(0, "lr", "rho_clip", "c_clip")
        self.at_least(1, "hidden_size")
        self.more_than_zero("rms_eps")


def make_policy(env: EnvBase, config: IMPALAConfig) -> TensorDictModuleBase:
    """Return the policy, which writes ``action`` and its log-probability."""
    return make_actor(
        env,
        num_cells=config.cells,
        activation=config.activation,
        recurrent=config.recurrent or None,
        hidden_size=config.hidden_size,
        scale="free",
    )


def make_trainer(env: EnvBase, config: IMPALAConfig, **options: Any) -> IMPALATrainer:
    """Return the trainer; ``options`` are arguments of :class:`IMPALATrainer`."""
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
        actor, critic, entropy_coeff=config.entropy_coeff, critic_coeff=config.critic_coeff, loss_critic_type="l2"
    ).to(config.device)
    optimizer = torch.optim.RMSprop(loss_module.parameters(), lr=config.lr, alpha=config.rms_decay, eps=config.rms_eps)

    # Data: minibatches are trajectories, one of each copy of the environment
    collector = Collector(
        env,
        ActorCriticWrapper(actor, critic) if config.recurrent else actor,
        frames_per_batch=config.frames_per_batch,
        total_frames=config.rounded_frames,
        device=config.device,
    )
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(config.frames_per_batch // config.steps_per_env, device=config.device),
        sampler=SamplerWithoutReplacement(),
        batch_size=max(1, config.minibatch_size // config.steps_per_env),
    )
    scheduler = None
    if config.anneal_lr:
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(collector))

    return IMPALATrainer(
        collector=collector,
        total_frames=config.rounded_frames,
        loss_module=loss_module,
        optimizer=optimizer,
        lr_scheduler=scheduler,
        clip_norm=config.max_grad_norm or None,
        num_epochs=config.num_epochs,
        replay_buffer=buffer,
        gae=VTrace(
            gamma=config.gamma,
            actor_network=actor,
            value_network=critic,
            rho_thresh=config.rho_clip,
            c_thresh=config.c_clip,
        ),
        gae_interval="minibatch",
        sequence_length=config.steps_per_env,
        seed=config.seed,
        **options,
    )


class IMPALATrainer(OnPolicyTrainer):
    """IMPALA: advantages by V-trace, of each minibatch; see :class:`OnPolicyTrainer`.

    >>> trainer = IMPALATrainer.from_env("CartPole-v1", num_cells=64, num_envs=8)
    >>> trainer.config.num_envs, type(trainer.loss_module).__name__
    (8, 'A2CLoss')
    >>> trainer.train()  # doctest: +SKIP
    """

    algorithm, action_kinds = "impala", ANY_ACTION
    config_class, make_policy, from_config = IMPALAConfig, staticmethod(make_policy), staticmethod(make_trainer)
