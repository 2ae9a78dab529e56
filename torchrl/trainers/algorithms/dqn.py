"""Q-learning: double, dueling, prioritised, multi-step, noisy, distributional; all of them are Rainbow."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from tensordict.nn import TensorDictModuleBase, TensorDictSequential

from torchrl._core.errors import describe
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, PrioritizedSampler, RandomSampler, TensorDictReplayBuffer
from torchrl.envs import EnvBase, ExplorationType, MultiStepTransform
from torchrl.modules import EGreedyModule, make_q_actor, reset_noise
from torchrl.objectives import DistributionalDQNLoss, DQNLoss, HardUpdate, LossModule
from torchrl.trainers.algorithms.environments import mask_key
from torchrl.trainers.algorithms.off_policy import OffPolicyConfig, OffPolicyTrainer


@dataclass
class DQNConfig(OffPolicyConfig):
    """Settings of DQN; ``rainbow`` turns all the switches on.

    "paper" is Mnih et al., 2015, https://doi.org/10.1038/nature14236, for Atari, "Rainbow" Hessel et al.,
    2018, https://arxiv.org/abs/1710.02298.

    >>> config = DQNConfig(double=True, dueling=True)
    >>> config.target_interval, config.eps_end
    (10000, 0.1)
    """

    rainbow: bool = False  # all of the following switches, with n_steps of at least 3
    double: bool = True  # the trained network chooses the next action, the target network values it; Rainbow
    dueling: bool = False  # Q = V + A - mean(A); Rainbow
    prioritized: bool = False  # transitions of high error are drawn more often; Rainbow
    n_steps: int = 1  # rewards that a target sums before it bootstraps; Rainbow: 3
    noisy: bool = False  # exploration by noise on the weights, not by random actions; Rainbow
    distributional: bool = False  # a distribution over num_atoms returns, not a mean; Rainbow
    frames_per_batch: int = 4  # environment steps between updates; paper
    learning_starts: int = 50_000  # environment steps before the first gradient step; paper
    updates_per_frame: float = 0.25  # gradient steps per environment step; paper
    target_interval: int = 10_000  # gradient steps per copy to the target network; paper
    buffer_size: int = 1_000_000  # transitions; paper
    batch_size: int = 32  # transitions per gradient step; paper
    lr: float = 1e-4  # learning rate of Adam; paper: 2.5e-4, of RMSProp; Rainbow: 6.25e-5
    anneal_lr: bool = False  # the learning rate falls to 0
    gamma: float = 0.99  # discount per environment step; paper
    eps_end: float = 0.1  # probability of a random action after eps_frames; paper
    eps_frames: int = 1_000_000  # environment steps until it has fallen there from 1; paper
    alpha: float = 0.5  # exponent of the priorities; Rainbow
    beta: float = 0.4  # exponent of the importance weights at the start, rises to 1; Rainbow
    value_min: float = -10.0  # lowest return of the distribution; Rainbow
    value_max: float = 10.0  # highest return of the distribution; Rainbow
    num_atoms: int = 51  # returns of the distribution; Rainbow
    max_grad_norm: float = 10.0  # limit of the gradient's norm; 0: none; Rainbow
    recurrent: str = ""  # "lstm" or "gru": a network with memory; Hausknecht and Stone, 2015
    hidden_size: int = 64  # units of the memory
    sequence_length: int = 8  # steps that a recurrent gradient sees; batch_size then counts sequences
    activation: str = "relu"  # between layers; paper

    def __post_init__(self) -> None:
        if self.rainbow:
            self.double = self.dueling = self.prioritized = self.noisy = self.distributional = True
            self.n_steps = max(self.n_steps, 3)

    def check(self) -> None:
        super().check()
        self.at_least(1, "target_interval", "n_steps", "eps_frames", "hidden_size", "sequence_length")
        steps = self.frames_per_batch // self.num_envs
        if self.recurrent and steps % self.sequence_length:
            expected = f"a multiple of sequence_length={self.sequence_length}"
            raise ValueError(describe(self, "frames_per_batch / num_envs", expected=expected, found=steps))
        if self.recurrent and (self.n_steps > 1 or self.prioritized or self.noisy):
            raise ValueError(describe(self, "recurrent goes with neither n_steps, prioritized nor noisy"))


def make_policy(env: EnvBase, config: DQNConfig) -> TensorDictModuleBase:
    """Return the greedy policy, which writes ``action`` and ``action_value``."""
    return make_q_actor(
        env,
        num_cells=config.cells,
        activation=config.activation,
        dueling=config.dueling,
        noisy=config.noisy,
        recurrent=config.recurrent or None,
        hidden_size=config.hidden_size,
        support=(config.value_min, config.value_max, config.num_atoms) if config.distributional else None,
    )


def make_trainer(env: EnvBase, config: DQNConfig, **options: Any) -> DQNTrainer:
    """Return the trainer; ``options`` are arguments of :class:`DQNTrainer`."""
    actor = make_policy(env, config)
    eps = EGreedyModule(
        env.action_spec,
        eps_init=0.0 if config.noisy else 1.0,
        eps_end=0.0 if config.noisy else config.eps_end,
        annealing_num_steps=config.eps_frames,
        action_key=env.action_key,
        action_mask_key=mask_key(env),
    )

    # Loss
    loss_module: LossModule
    if config.distributional:
        loss_module = DistributionalDQNLoss(actor, gamma=config.gamma, double_dqn=config.double)
    else:
        loss_module = DQNLoss(actor, loss_function="smooth_l1", gamma=config.gamma, double_dqn=config.double)
    if config.noisy:  # the loss has the noise too; Fortunato et al., 2018, https://arxiv.org/abs/1706.10295
        loss_module.deterministic_sampling_mode = ExplorationType.RANDOM
    loss_module.to(config.device)
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=config.lr)

    # Data
    collector = Collector(
        env,
        TensorDictSequential(actor, eps).to(config.device),
        frames_per_batch=config.frames_per_batch,
        total_frames=config.rounded_frames,
        init_random_frames=config.learning_starts,
        device=config.device,
    )
    priorities = PrioritizedSampler(config.buffer_size, alpha=config.alpha, beta=config.beta)
    steps = config.sequence_length if config.recurrent else 1  # per item of the buffer
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(config.buffer_size // steps, device=config.device),
        sampler=priorities if config.prioritized else RandomSampler(),
        batch_size=config.batch_size,
        transform=MultiStepTransform(config.n_steps, config.gamma) if config.n_steps > 1 else None,
    )

    scheduler = None
    if config.anneal_lr:
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(collector))

    trainer = DQNTrainer(
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
        sequence_length=config.sequence_length if config.recurrent else None,
        seed=config.seed,
        **options,
    )

    def anneal_priorities() -> None:
        priorities.beta = config.beta + (1 - config.beta) * trainer.collected_frames / config.total_frames

    if config.prioritized:
        trainer.register_op("post_steps", anneal_priorities)
    if config.noisy:
        trainer.register_op("post_optim", partial(loss_module.apply, reset_noise))
    return trainer


class DQNTrainer(OffPolicyTrainer):
    """Q-learning, for a :class:`~torchrl.objectives.DQNLoss`; see :class:`OffPolicyTrainer`.

    >>> trainer = DQNTrainer.from_env("CartPole-v1", num_cells=64, double=True, n_steps=3)
    >>> trainer.config.double, type(trainer.loss_module).__name__
    (True, 'DQNLoss')
    >>> trainer.train()  # doctest: +SKIP
    """

    algorithm, action_kinds = "dqn", ("discrete", "multi-discrete")
    config_class, make_policy, from_config = DQNConfig, staticmethod(make_policy), staticmethod(make_trainer)
