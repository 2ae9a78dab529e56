"""TD3: DDPG with two critics, a delayed actor, and smoothed targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase, TensorDictSequential

from torchrl._core.errors import describe
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import EnvBase
from torchrl.modules import AdditiveGaussianModule, make_critic, make_deterministic_actor
from torchrl.objectives import SoftUpdate, TD3Loss
from torchrl.trainers.algorithms.off_policy import OffPolicyConfig, OffPolicyTrainer, half_range
from torchrl.trainers.hooks.optimization import OptimizationStepper, total_loss
from torchrl.trainers.trainer import Trainer


@dataclass
class TD3Config(OffPolicyConfig):
    """Settings of TD3. "paper" is Fujimoto et al., 2018, https://arxiv.org/abs/1802.09477, "code" its repository.

    >>> config = TD3Config(policy_noise=0.1)
    >>> config.noise_clip, config.policy_delay
    (0.5, 2)
    """

    learning_starts: int = 10_000  # environment steps of random actions, before any learning; paper; code: 25_000
    lr_actor: float = 3e-4  # learning rate of the policy; code; paper: 1e-3
    lr_critic: float = 3e-4  # learning rate of both critics; code; paper: 1e-3
    batch_size: int = 256  # transitions per gradient step; code; paper: 100
    tau: float = 0.005  # share of the networks that the targets take over; paper
    policy_delay: int = 2  # gradient steps between two of the policy and of the targets; paper
    policy_noise: float = 0.2  # deviation of the noise on the targets' actions, in halves of their range; paper
    noise_clip: float = 0.5  # its limit; paper
    exploration_noise: float = 0.1  # deviation of the noise on actions, in halves of their range; paper
    num_cells: int = 256  # units of a hidden layer; code; paper: 400 and 300

    def check(self) -> None:
        super().check()
        self.at_least(1, "policy_delay")
        self.at_least(0, "lr_actor", "lr_critic", "tau", "policy_noise", "noise_clip", "exploration_noise")


def make_policy(env: EnvBase, config: TD3Config) -> TensorDictModuleBase:
    """Return the policy, which writes ``action``."""
    return make_deterministic_actor(env, num_cells=config.cells, activation=config.activation)


def make_trainer(env: EnvBase, config: TD3Config, **options: Any) -> TD3Trainer:
    """Return the trainer; ``options`` are arguments of :class:`TD3Trainer`."""
    actor = make_policy(env, config)
    critic = make_critic(env, with_action=True, num_cells=config.cells, activation=config.activation, gain=None)
    sigma = config.exploration_noise * half_range(env)
    noise = AdditiveGaussianModule(env.action_spec, sigma_init=sigma, sigma_end=sigma)

    # Loss
    loss_module = TD3Loss(
        actor,
        critic,
        action_spec=env.action_spec_unbatched,
        policy_noise=config.policy_noise * half_range(env),
        noise_clip=config.noise_clip * half_range(env),
        loss_function="l2",
        gamma=config.gamma,
    ).to(config.device)
    optimizer = torch.optim.Adam(
        [
            {"params": loss_module.actor_network.parameters(), "lr": config.lr_actor},
            {"params": loss_module.qvalue_network_params.parameters(), "lr": config.lr_critic},
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

    return TD3Trainer(
        collector=collector,
        total_frames=config.rounded_frames,
        optim_steps_per_batch=config.updates_per_batch,
        loss_module=loss_module,
        optimizer=optimizer,
        policy_update_delay=config.policy_delay,
        replay_buffer=buffer,
        target_net_updater=SoftUpdate(loss_module, tau=config.tau),
        target_update_interval=config.policy_delay,
        seed=config.seed,
        **options,
    )


class DelayedActorStepper(OptimizationStepper):
    """Update the critic at every step, and the actor at every ``delay``-th.

    Args:
        optimizer: Of actor and critic.
        delay: Number of steps between two updates of the actor.
        actor_loss: Name of its term of the loss; or of several terms.

    Source: Fujimoto et al., 2018, https://arxiv.org/abs/1802.09477, algorithm 1.

    >>> from torchrl.trainers.algorithms import TD3Trainer
    >>> trainer = TD3Trainer.from_env("Pendulum-v1", num_cells=16, policy_delay=3)
    >>> trainer.optimization_stepper.delay
    3
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, delay: int = 2, actor_loss: str | Sequence[str] = "loss_actor"
    ) -> None:
        if delay < 1:
            raise ValueError(describe(self, "counts steps", expected="delay >= 1", found=delay))
        self.optimizer, self.delay = optimizer, delay
        self.actor_losses = (actor_loss,) if isinstance(actor_loss, str) else tuple(actor_loss)

    def step(self, trainer: Trainer, sub_batch: TensorDictBase) -> TensorDictBase:
        """Compute the losses of a sample; update the critic, and maybe the actor."""
        losses = trainer.compute_losses(sub_batch)
        names = [name for name in losses.keys() if name.startswith("loss")]  # noqa: SIM118 - else rows
        if (trainer.num_optim_steps + 1) % self.delay:
            names = [name for name in names if name not in self.actor_losses]
        self.optimizer.zero_grad()
        total_loss(losses, names).backward()
        if trainer.clip_norm is not None:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
            clip = torch.nn.utils.clip_grad_norm_ if trainer.clip_grad_norm else torch.nn.utils.clip_grad_value_
            clip(parameters, trainer.clip_norm)
        self.optimizer.step()
        return losses


class TD3Trainer(OffPolicyTrainer):
    """Deterministic policy gradient with two critics and a delayed actor; see :class:`OffPolicyTrainer`.

    Args:
        optimizer: Of actor and critics.
        optimization_stepper: Does optimisation steps; a :class:`DelayedActorStepper` if ``None``.
        policy_update_delay: Steps between two updates of the actor.
        **kwargs: Of :class:`OffPolicyTrainer`.

    >>> trainer = TD3Trainer.from_env("Pendulum-v1", num_cells=64, policy_noise=0.1)
    >>> trainer.config.policy_noise, type(trainer.loss_module).__name__
    (0.1, 'TD3Loss')
    >>> trainer.train()  # doctest: +SKIP
    """

    algorithm, action_kinds = "td3", ("continuous",)
    config_class, make_policy, from_config = TD3Config, staticmethod(make_policy), staticmethod(make_trainer)

    def __init__(
        self,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        optimization_stepper: OptimizationStepper | None = None,
        policy_update_delay: int = 2,
        **kwargs: Any,
    ) -> None:
        if optimization_stepper is None and optimizer is not None:
            optimization_stepper = DelayedActorStepper(optimizer, policy_update_delay)
        super().__init__(optimizer=optimizer, optimization_stepper=optimization_stepper, **kwargs)
