"""Quantile regression Q-learning: a network of quantiles of returns, whose mean is the value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict.nn import TensorDictModuleBase, TensorDictSequential

from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import EnvBase
from torchrl.modules import EGreedyModule, make_q_actor
from torchrl.objectives import HardUpdate, QRDQNLoss
from torchrl.trainers.algorithms.environments import mask_key
from torchrl.trainers.algorithms.off_policy import OffPolicyConfig, OffPolicyTrainer


@dataclass
class QRDQNConfig(OffPolicyConfig):
    """Settings of QR-DQN. "paper" is Dabney et al., 2018, https://arxiv.org/abs/1710.10044, for Atari.

    >>> config = QRDQNConfig(num_quantiles=51)
    >>> config.kappa
    1.0
    """

    num_quantiles: int = 200  # of the return of each action; paper
    kappa: float = 1.0  # where the Huber loss of an error becomes linear; paper
    frames_per_batch: int = 4  # environment steps between updates; paper, as DQN
    learning_starts: int = 50_000  # environment steps before the first gradient step; paper, as DQN
    updates_per_frame: float = 0.25  # gradient steps per environment step; paper, as DQN
    target_interval: int = 10_000  # gradient steps per copy to the target network; paper, as DQN
    batch_size: int = 32  # transitions per gradient step; paper
    lr: float = 5e-5  # learning rate of Adam; paper
    anneal_lr: bool = False  # the learning rate falls to 0
    adam_eps: float = 0.01 / 32  # paper
    eps_end: float = 0.01  # probability of a random action after eps_frames; paper
    eps_frames: int = 1_000_000  # environment steps until it has fallen there from 1; paper, as DQN
    max_grad_norm: float = 10.0  # limit of the gradient's norm; 0: none

    def check(self) -> None:
        super().check()
        self.at_least(1, "num_quantiles", "target_interval", "eps_frames")
        self.at_least(0, "kappa")
        self.more_than_zero("adam_eps")


def make_policy(env: EnvBase, config: QRDQNConfig) -> TensorDictModuleBase:
    """Return the greedy policy, which writes ``action`` and the quantiles ``action_value``."""
    return make_q_actor(env, num_cells=config.cells, activation=config.activation, num_quantiles=config.num_quantiles)


def make_trainer(env: EnvBase, config: QRDQNConfig, **options: Any) -> QRDQNTrainer:
    """Return the trainer; ``options`` are arguments of :class:`QRDQNTrainer`."""
    actor = make_policy(env, config)
    eps = EGreedyModule(
        env.action_spec,
        eps_init=1.0,
        eps_end=config.eps_end,
        annealing_num_steps=config.eps_frames,
        action_key=env.action_key,
        action_mask_key=mask_key(env),
    )

    # Loss
    loss_module = QRDQNLoss(actor, kappa=config.kappa, gamma=config.gamma).to(config.device)
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=config.lr, eps=config.adam_eps)

    # Data
    collector = Collector(
        env,
        TensorDictSequential(actor, eps).to(config.device),
        frames_per_batch=config.frames_per_batch,
        total_frames=config.rounded_frames,
        init_random_frames=config.learning_starts,
        device=config.device,
    )
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(config.buffer_size, device=config.device), batch_size=config.batch_size
    )

    scheduler = None
    if config.anneal_lr:
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(collector))

    return QRDQNTrainer(
        collector=collector,
        total_frames=config.rounded_frames,
        optim_steps_per_batch=config.updates_per_batch,
        loss_module=loss_module,
        optimizer=optimizer,
        lr_scheduler=scheduler,
        clip_norm=config.max_grad_norm or None,
        replay_buffer=buffer,
        target_net_updater=HardUpdate(loss_module, value_network_update_interval=config.target_interval),
        greedy_module=eps,
        seed=config.seed,
        **options,
    )


class QRDQNTrainer(OffPolicyTrainer):
    """Quantile regression, for a :class:`~torchrl.objectives.QRDQNLoss`; see :class:`OffPolicyTrainer`.

    >>> trainer = QRDQNTrainer.from_env("CartPole-v1", num_cells=64, num_quantiles=51)
    >>> trainer.config.num_quantiles, type(trainer.loss_module).__name__
    (51, 'QRDQNLoss')
    >>> trainer.train()  # doctest: +SKIP
    """

    algorithm, action_kinds = "qr_dqn", ("discrete",)
    config_class, make_policy, from_config = QRDQNConfig, staticmethod(make_policy), staticmethod(make_trainer)
