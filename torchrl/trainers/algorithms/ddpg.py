"""Deep deterministic policy gradient: a deterministic policy with noise, and a critic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict.nn import TensorDictModuleBase, TensorDictSequential

from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import EnvBase
from torchrl.modules import AdditiveGaussianModule, make_critic, make_deterministic_actor
from torchrl.objectives import DDPGLoss, SoftUpdate
from torchrl.trainers.algorithms.off_policy import OffPolicyConfig, OffPolicyTrainer, half_range


@dataclass
class DDPGConfig(OffPolicyConfig):
    """Settings of DDPG.

    "paper" is Lillicrap et al., 2016, https://arxiv.org/abs/1509.02971, "TD3" the settings that Fujimoto et al.,
    2018, https://arxiv.org/abs/1802.09477, found to be better for it.

    >>> config = DDPGConfig(tau=0.01)
    >>> config.exploration_noise
    0.1
    """

    learning_starts: int = 10_000  # environment steps of random actions, before any learning; TD3
    lr_actor: float = 1e-3  # learning rate of the policy; TD3; paper: 1e-4
    lr_critic: float = 1e-3  # learning rate of the critic; paper
    batch_size: int = 100  # transitions per gradient step; TD3; paper: 64
    tau: float = 0.005  # share of the networks that the targets take over per gradient step; TD3; paper: 0.001
    exploration_noise: float = 0.1  # deviation of the noise on actions, in halves of their range; TD3
    num_cells: int = 256  # units of a hidden layer; TD3's code; paper: 400 and 300

    def check(self) -> None:
        super().check()
        self.at_least(0, "lr_actor", "lr_critic", "tau", "exploration_noise")


def make_policy(env: EnvBase, config: DDPGConfig) -> TensorDictModuleBase:
    """Return the policy, which writes ``action``."""
    return make_deterministic_actor(env, num_cells=config.cells, activation=config.activation)


def make_trainer(env: EnvBase, config: DDPGConfig, **options: Any) -> DDPGTrainer:
    """Return the trainer; ``options`` are arguments of :class:`DDPGTrainer`."""
    actor = make_policy(env, config)
    critic = make_critic(env, with_action=True, num_cells=config.cells, activation=config.activation, gain=None)
    sigma = config.exploration_noise * half_range(env)
    noise = AdditiveGaussianModule(env.action_spec, sigma_init=sigma, sigma_end=sigma)

    # Loss
    loss_module = DDPGLoss(actor, critic, gamma=config.gamma, delay_actor=True).to(config.device)
    optimizer = torch.optim.Adam(
        [
            {"params": loss_module.actor_network.parameters(), "lr": config.lr_actor},
            {"params": loss_module.value_network_params.parameters(), "lr": config.lr_critic},
        ]
    )

    # Data
    collector = Collector(
        env,
        TensorDictSequential(actor, noise).to(config.device),
        frames_per_batch=config.frames_per_batch,
        total_frames=config.rounded_frames,
        init_random_frames=config.learning_starts,
        device=config.device,
    )
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(config.buffer_size, device=config.device), batch_size=config.batch_size
    )

    return DDPGTrainer(
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


class DDPGTrainer(OffPolicyTrainer):
    """Deterministic policy gradient, for a :class:`~torchrl.objectives.DDPGLoss`; see :class:`OffPolicyTrainer`.

    >>> trainer = DDPGTrainer.from_env("Pendulum-v1", num_cells=64, exploration_noise=0.2)
    >>> trainer.config.exploration_noise, type(trainer.loss_module).__name__
    (0.2, 'DDPGLoss')
    >>> trainer.train()  # doctest: +SKIP
    """

    algorithm, action_kinds = "ddpg", ("continuous",)
    config_class, make_policy, from_config = DDPGConfig, staticmethod(make_policy), staticmethod(make_trainer)
