"""Proximal policy optimisation: clipped or penalised, any action space, feed-forward or recurrent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict.nn import TensorDictModuleBase

from torchrl._core.errors import describe
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.envs import EnvBase
from torchrl.modules import ActorCriticWrapper, make_actor, make_critic
from torchrl.objectives import ClipPPOLoss, KLPENPPOLoss
from torchrl.objectives.value import GAE
from torchrl.trainers.algorithms.common import ANY_ACTION
from torchrl.trainers.algorithms.on_policy import OnPolicyConfig, OnPolicyTrainer


@dataclass
class PPOConfig(OnPolicyConfig):
    """Settings of PPO.

    "paper" is Schulman et al., 2017, https://arxiv.org/abs/1707.06347, for MuJoCo, "details" Huang et al.,
    2022, https://iclr-blog-track.github.io/2022/03/25/ppo-implementation-details.

    >>> config = PPOConfig(num_envs=8, recurrent="lstm")
    >>> config.clip_epsilon, config.hidden_size
    (0.2, 64)
    """

    frames_per_batch: int = 2048  # environment steps between updates, of all copies together; paper
    minibatch_size: int = 64  # environment steps per gradient step; paper
    num_epochs: int = 10  # times that each batch is learned from; paper
    lr: float = 3e-4  # learning rate; paper
    anneal_lr: bool = True  # the learning rate falls to 0; details, 4
    adam_eps: float = 1e-5  # details, 3
    gamma: float = 0.99  # discount per environment step; paper
    lmbda: float = 0.95  # of the generalised advantage; paper
    penalty: str = "clip"  # of the change of the policy: "clip" or "kl"; paper, 3 and 4
    clip_epsilon: float = 0.2  # limit of the change of an action's probability; paper
    kl_target: float = 0.01  # divergence that the weight of the penalty "kl" is adapted to; paper
    clip_value: bool = False  # limit the change of the critic likewise; details, 9: no help
    entropy_coeff: float = 0.0  # weight of the entropy; paper
    critic_coeff: float = 0.5  # weight of the critic's loss; details
    normalize_advantage: bool = True  # within a minibatch; details, 7
    max_grad_norm: float = 0.5  # limit of the gradient's norm; 0: none; details, 11
    recurrent: str = ""  # "lstm" or "gru": a policy and a critic with memory
    hidden_size: int = 64  # units of the memory
    sequence_length: int = 16  # steps that a recurrent gradient sees

    def check(self) -> None:
        super().check()
        self.at_least(1, "minibatch_size", "num_epochs", "hidden_size", "sequence_length")
        self.at_least(0, "clip_epsilon")
        self.more_than_zero("adam_eps", "kl_target")
        if self.penalty not in ("clip", "kl"):
            raise ValueError(describe(self, "no such penalty", expected=["clip", "kl"], found=self.penalty))
        if self.recurrent and self.steps_per_env % self.sequence_length:
            expected, found = f"a multiple of sequence_length={self.sequence_length}", self.steps_per_env
            raise ValueError(describe(self, "frames_per_batch / num_envs", expected=expected, found=found))


def make_policy(env: EnvBase, config: PPOConfig) -> TensorDictModuleBase:
    """Return the policy, which writes ``action`` and its log-probability."""
    return make_actor(
        env,
        num_cells=config.cells,
        activation=config.activation,
        recurrent=config.recurrent or None,
        hidden_size=config.hidden_size,
        scale="free",  # details, 19: one scale per dimension, the same in every state
    )


def make_trainer(env: EnvBase, config: PPOConfig, **options: Any) -> PPOTrainer:
    """Return the trainer; ``options`` are arguments of :class:`PPOTrainer`."""
    actor = make_policy(env, config)
    critic = make_critic(
        env,
        num_cells=config.cells,
        activation=config.activation,
        recurrent=config.recurrent or None,
        hidden_size=config.hidden_size,
        last_gain=1.0,
    )

    # Loss
    change: dict[str, Any] = {"clip_epsilon": config.clip_epsilon, "clip_value": config.clip_value}
    loss_module = (ClipPPOLoss if config.penalty == "clip" else KLPENPPOLoss)(
        actor,
        critic,
        entropy_coeff=config.entropy_coeff,
        critic_coeff=config.critic_coeff,
        loss_critic_type="l2",
        normalize_advantage=config.normalize_advantage,
        **(change if config.penalty == "clip" else {"dtarg": config.kl_target}),
    ).to(config.device)
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=config.lr, eps=config.adam_eps)

    # Data; a critic with memory goes along with the policy, so that its state is in the batch
    collector = Collector(
        env,
        ActorCriticWrapper(actor, critic) if config.recurrent else actor,
        frames_per_batch=config.frames_per_batch,
        total_frames=config.rounded_frames,
        device=config.device,
    )
    # Every epoch draws each step of the batch once, in minibatches
    steps = config.sequence_length if config.recurrent else 1  # per item of the buffer
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(config.frames_per_batch // steps, device=config.device),
        sampler=SamplerWithoutReplacement(),
        batch_size=max(1, config.minibatch_size // steps),
    )
    scheduler = None
    if config.anneal_lr:
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(collector))

    return PPOTrainer(
        collector=collector,
        total_frames=config.rounded_frames,
        loss_module=loss_module,
        optimizer=optimizer,
        lr_scheduler=scheduler,
        clip_norm=config.max_grad_norm or None,
        num_epochs=config.num_epochs,
        replay_buffer=buffer,
        gae=GAE(gamma=config.gamma, lmbda=config.lmbda, value_network=critic),
        gae_interval="batch",
        sequence_length=config.sequence_length if config.recurrent else None,
        seed=config.seed,
        **options,
    )


class PPOTrainer(OnPolicyTrainer):
    """Proximal policy optimisation: four epochs a batch, unless told otherwise; see :class:`OnPolicyTrainer`.

    >>> trainer = PPOTrainer.from_env("Pendulum-v1", num_cells=64, frames_per_batch=512, num_epochs=5)
    >>> trainer.config.frames_per_batch, type(trainer.loss_module).__name__
    (512, 'ClipPPOLoss')
    >>> trainer.train()  # doctest: +SKIP
    """

    algorithm, action_kinds, default_epochs = "ppo", ANY_ACTION, 4
    config_class, make_policy, from_config = PPOConfig, staticmethod(make_policy), staticmethod(make_trainer)
