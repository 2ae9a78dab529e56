"""CrossQ: SAC without target networks, with batch normalisation in its critics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict.nn import TensorDictModuleBase

from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import EnvBase
from torchrl.modules import make_actor, make_critic
from torchrl.objectives import CrossQLoss
from torchrl.trainers.algorithms.off_policy import OffPolicyConfig, OffPolicyTrainer
from torchrl.trainers.algorithms.td3 import DelayedActorStepper


@dataclass
class CrossQConfig(OffPolicyConfig):
    """Settings of CrossQ. "paper" is Bhatt et al., 2024, https://arxiv.org/abs/1902.05605.

    >>> config = CrossQConfig(lr_critic=3e-4)
    >>> config.policy_delay, config.critic_cells
    (3, 2048)
    """

    learning_starts: int = 5_000  # environment steps of random actions, before any learning; paper
    policy_delay: int = 3  # gradient steps between two of the policy and of the temperature; paper
    lr_actor: float = 1e-3  # learning rate of the policy; paper
    lr_critic: float = 1e-3  # learning rate of both critics; paper
    lr_alpha: float = 1e-3  # learning rate of the entropy temperature; paper
    adam_beta1: float = 0.5  # decay of Adam's mean of gradients; paper
    alpha_init: float = 1.0  # entropy temperature at the start
    target_entropy: float = 0.0  # of the policy; 0: minus the number of dimensions of the action; paper
    num_cells: int = 256  # units of a hidden layer of the policy; paper
    critic_cells: int = 2048  # units of a hidden layer of a critic; paper

    def check(self) -> None:
        super().check()
        self.at_least(1, "policy_delay", "critic_cells")
        self.at_least(0, "lr_actor", "lr_critic", "lr_alpha", "adam_beta1")
        self.more_than_zero("alpha_init")


def make_policy(env: EnvBase, config: CrossQConfig) -> TensorDictModuleBase:
    """Return the policy, which writes ``action``."""
    return make_actor(
        env, num_cells=config.cells, activation=config.activation, scale="network", gain=None, return_log_prob=False
    )


def make_trainer(env: EnvBase, config: CrossQConfig, **options: Any) -> CrossQTrainer:
    """Return the trainer; ``options`` are arguments of :class:`CrossQTrainer`."""
    actor = make_policy(env, config)
    critic = make_critic(
        env,
        with_action=True,
        batch_norm="renorm",
        num_cells=(config.critic_cells,) * config.depth,
        activation=config.activation,
        gain=None,
    )

    # Loss
    loss_module = CrossQLoss(
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
        ],
        betas=(config.adam_beta1, 0.999),
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

    return CrossQTrainer(
        collector=collector,
        total_frames=config.rounded_frames,
        optim_steps_per_batch=config.updates_per_batch,
        loss_module=loss_module,
        optimization_stepper=DelayedActorStepper(
            optimizer, config.policy_delay, actor_loss=("loss_actor", "loss_alpha")
        ),
        replay_buffer=buffer,
        seed=config.seed,
        **options,
    )


class CrossQTrainer(OffPolicyTrainer):
    """SAC without targets, for a :class:`~torchrl.objectives.CrossQLoss`; see :class:`OffPolicyTrainer`.

    >>> trainer = CrossQTrainer.from_env("Pendulum-v1", num_cells=64, critic_cells=64, policy_delay=2)
    >>> trainer.config.policy_delay, type(trainer.loss_module).__name__
    (2, 'CrossQLoss')
    >>> trainer.train()  # doctest: +SKIP
    """

    algorithm, action_kinds = "crossq", ("continuous",)
    config_class, make_policy, from_config = CrossQConfig, staticmethod(make_policy), staticmethod(make_trainer)
