"""Soft actor-critic for discrete actions: expectations over all actions take the place of samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict.nn import TensorDictModuleBase

from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import EnvBase
from torchrl.modules import make_actor, make_critic
from torchrl.objectives import DiscreteSACLoss, SoftUpdate
from torchrl.trainers.algorithms.off_policy import OffPolicyConfig, OffPolicyTrainer


@dataclass
class DiscreteSACConfig(OffPolicyConfig):
    """Settings of SAC for discrete actions.

    "paper" is Christodoulou, 2019, https://arxiv.org/abs/1910.07207, for Atari.

    >>> config = DiscreteSACConfig(target_entropy_weight=0.5)
    >>> config.alpha_init
    1.0
    """

    frames_per_batch: int = 4  # environment steps between updates; paper
    updates_per_frame: float = 0.25  # gradient steps per environment step; paper
    learning_starts: int = 20_000  # environment steps of random actions, before any learning; paper
    batch_size: int = 64  # transitions per gradient step; paper
    lr_actor: float = 3e-4  # learning rate of the policy; paper
    lr_critic: float = 3e-4  # learning rate of both critics; paper
    lr_alpha: float = 3e-4  # learning rate of the entropy temperature; paper
    tau: float = 0.005  # share of the critics that the targets take over per gradient step
    alpha_init: float = 1.0  # entropy temperature at the start
    target_entropy_weight: float = 0.98  # of the entropy of equal probabilities, which the policy is held at; paper
    num_cells: int = 256  # units of a hidden layer

    def check(self) -> None:
        super().check()
        self.at_least(0, "lr_actor", "lr_critic", "lr_alpha", "tau", "target_entropy_weight")
        self.more_than_zero("alpha_init")


def make_policy(env: EnvBase, config: DiscreteSACConfig) -> TensorDictModuleBase:
    """Return the policy, which writes ``action``."""
    return make_actor(env, num_cells=config.cells, activation=config.activation, gain=None, return_log_prob=False)


def make_trainer(env: EnvBase, config: DiscreteSACConfig, **options: Any) -> DiscreteSACTrainer:
    """Return the trainer; ``options`` are arguments of :class:`DiscreteSACTrainer`."""
    actor = make_policy(env, config)
    critic = make_critic(env, values_of_actions=True, num_cells=config.cells, activation=config.activation, gain=None)

    # Loss
    loss_module = DiscreteSACLoss(
        actor,
        critic,
        action_space=env.action_spec_unbatched,
        num_qvalue_nets=2,
        loss_function="l2",
        gamma=config.gamma,
        alpha_init=config.alpha_init,
        target_entropy_weight=config.target_entropy_weight,
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

    return DiscreteSACTrainer(
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


class DiscreteSACTrainer(OffPolicyTrainer):
    """Soft actor-critic for discrete actions; see :class:`OffPolicyTrainer`.

    >>> trainer = DiscreteSACTrainer.from_env("CartPole-v1", num_cells=64, alpha_init=0.5)
    >>> trainer.config.alpha_init, type(trainer.loss_module).__name__
    (0.5, 'DiscreteSACLoss')
    >>> trainer.train()  # doctest: +SKIP
    """

    algorithm, action_kinds = "discrete_sac", ("discrete",)
    config_class, make_policy = DiscreteSACConfig, staticmethod(make_policy)
    from_config = staticmethod(make_trainer)
