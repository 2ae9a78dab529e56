"""Randomised ensembled double Q-learning: SAC with many critics and many gradient steps."""

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
from torchrl.objectives import REDQLoss, SoftUpdate
from torchrl.trainers.algorithms.off_policy import OffPolicyConfig, OffPolicyTrainer
from torchrl.trainers.algorithms.td3 import DelayedActorStepper


@dataclass
class REDQConfig(OffPolicyConfig):
    """Settings of REDQ. "paper" is Chen et al., 2021, https://arxiv.org/abs/2101.05982.

    >>> config = REDQConfig(num_critics=5)
    >>> config.critics_per_target
    2
    """

    learning_starts: int = 5_000  # environment steps of random actions, before any learning; paper
    updates_per_frame: float = 20.0  # gradient steps per environment step; paper
    policy_delay: int = 20  # gradient steps between two of the policy and of the temperature; paper
    num_critics: int = 10  # critics in all; paper
    critics_per_target: int = 2  # critics whose lowest value is the target, drawn each time; paper
    lr_actor: float = 3e-4  # learning rate of the policy; paper
    lr_critic: float = 3e-4  # learning rate of the critics; paper
    lr_alpha: float = 3e-4  # learning rate of the entropy temperature; paper
    tau: float = 0.005  # share of the critics that the targets take over per gradient step; paper
    alpha_init: float = 1.0  # entropy temperature at the start
    target_entropy: float = 0.0  # of the policy; 0: minus the number of dimensions of the action; SAC
    num_cells: int = 256  # units of a hidden layer; paper

    def check(self) -> None:
        super().check()
        self.at_least(1, "policy_delay", "num_critics", "critics_per_target")
        self.at_least(0, "lr_actor", "lr_critic", "lr_alpha", "tau")
        self.more_than_zero("alpha_init")
        if self.critics_per_target > self.num_critics:
            expected, found = f"at most num_critics={self.num_critics}", self.critics_per_target
            raise ValueError(describe(self, "critics_per_target is too large", expected=expected, found=found))


def make_policy(env: EnvBase, config: REDQConfig) -> TensorDictModuleBase:
    """Return the policy, which writes ``action``."""
    return make_actor(
        env, num_cells=config.cells, activation=config.activation, scale="network", gain=None, return_log_prob=False
    )


def make_trainer(env: EnvBase, config: REDQConfig, **options: Any) -> REDQTrainer:
    """Return the trainer; ``options`` are arguments of :class:`REDQTrainer`."""
    actor = make_policy(env, config)
    critic = make_critic(env, with_action=True, num_cells=config.cells, activation=config.activation, gain=None)

    # Loss: the lowest of a few critics is the target of all, their mean is what the policy climbs
    loss_module = REDQLoss(
        actor,
        critic,
        num_qvalue_nets=config.num_critics,
        sub_sample_len=config.critics_per_target,
        min_alpha=None,
        max_alpha=None,
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

    return REDQTrainer(
        collector=collector,
        total_frames=config.rounded_frames,
        optim_steps_per_batch=config.updates_per_batch,
        loss_module=loss_module,
        optimization_stepper=DelayedActorStepper(
            optimizer, config.policy_delay, actor_loss=("loss_actor", "loss_alpha")
        ),
        replay_buffer=buffer,
        target_net_updater=SoftUpdate(loss_module, tau=config.tau),
        seed=config.seed,
        **options,
    )


class REDQTrainer(OffPolicyTrainer):
    """SAC with many critics, for a :class:`~torchrl.objectives.REDQLoss`; see :class:`OffPolicyTrainer`.

    >>> trainer = REDQTrainer.from_env("Pendulum-v1", num_cells=64, num_critics=5)
    >>> trainer.config.num_critics, type(trainer.loss_module).__name__
    (5, 'REDQLoss')
    >>> trainer.train()  # doctest: +SKIP
    """

    algorithm, action_kinds = "redq", ("continuous",)
    config_class, make_policy, from_config = REDQConfig, staticmethod(make_policy), staticmethod(make_trainer)
