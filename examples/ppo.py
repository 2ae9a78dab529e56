"""Proximal policy optimisation in one file, for discrete actions.

    python examples/ppo.py

CartPole-v1: mean return 500, 500, 500 of 100 deterministic episodes after 100 000 frames,
seeds 0, 1, 2; about 1 minute each on one core.

Source: Schulman et al., 2017, https://arxiv.org/abs/1707.06347.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict.nn import TensorDictModule
from torch import nn

from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.envs import Compose, DoubleToFloat, GymEnv, RewardSum, StepCounter, TransformedEnv
from torchrl.modules import MLP, OneHotCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE
from torchrl.record import Experiment, parse_args


@dataclass
class Args:
    """Settings. "paper" is the value of the source, for Atari; the rest was chosen here."""

    env: str = "CartPole-v1"  # a gymnasium task with discrete actions
    seed: int = 0  # of Python, numpy, torch and the environment
    device: str = "cpu"  # where environment, networks and data are
    total_frames: int = 100_000  # environment steps, of all copies together; paper: 1e7
    num_envs: int = 8  # copies of the environment; paper: 8
    frames_per_batch: int = 400  # environment steps between gradient steps; paper: 1024
    minibatch_size: int = 100  # environment steps per gradient step; paper: 256
    num_epochs: int = 10  # times that each batch is learned from; paper: 3
    lr: float = 1e-3  # learning rate at the start, falls to 0; paper: 2.5e-4
    gamma: float = 0.98  # discount per environment step; paper: 0.99
    lmbda: float = 0.9  # of the generalised advantage; paper: 0.95
    clip_epsilon: float = 0.2  # limit of the change of an action's probability; paper: 0.1
    entropy_coeff: float = 0.0  # weight of the entropy; paper: 0.01
    critic_coeff: float = 0.5  # weight of the critic's loss; paper: 1
    max_grad_norm: float = 0.5  # limit of the gradient's norm
    num_cells: int = 64  # units of a hidden layer; paper: 512, after convolutions
    depth: int = 2  # hidden layers; paper: 1, after convolutions
    eval_episodes: int = 100  # episodes after training; their mean return is the score
    video: bool = True  # write a video of the trained policy
    log_dir: str = "runs"  # folder of the run's own folder


def make_env(args: Args) -> TransformedEnv:
    """Return the training environment, ``num_envs`` copies in one."""
    env = TransformedEnv(
        GymEnv(args.env, num_envs=args.num_envs, device=args.device),
        Compose(DoubleToFloat(), StepCounter(), RewardSum()),
    )
    env.set_seed(args.seed)
    return env


def make_networks(env: TransformedEnv, args: Args) -> tuple[ProbabilisticActor, ValueOperator]:
    """Return the policy, which writes ``action``, and the critic, which writes ``state_value``."""
    spec = env.action_spec_unbatched
    num_obs = env.observation_spec["observation"].shape[-1]
    net = {"num_cells": [args.num_cells] * args.depth, "activation_class": nn.Tanh}
    actor = ProbabilisticActor(
        TensorDictModule(MLP(num_obs, spec.shape[-1], **net), ["observation"], ["logits"]),
        in_keys=["logits"],
        spec=spec,
        distribution_class=OneHotCategorical,
        return_log_prob=True,
    )
    return actor, ValueOperator(MLP(num_obs, 1, **net), in_keys=["observation"])


def main(args: Args) -> float:
    """Train; return the mean return of the evaluation."""
    run = Experiment("ppo", args)
    env = make_env(args)
    actor, critic = make_networks(env, args)

    # Data: every epoch draws each step of the batch once, in minibatches
    collector = Collector(env, actor, frames_per_batch=args.frames_per_batch, total_frames=args.total_frames)
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(args.frames_per_batch, device=args.device),
        sampler=SamplerWithoutReplacement(),
        batch_size=args.minibatch_size,
    )

    # Loss
    advantage = GAE(gamma=args.gamma, lmbda=args.lmbda, value_network=critic)
    loss_module = ClipPPOLoss(
        actor,
        critic,
        clip_epsilon=args.clip_epsilon,
        entropy_coeff=args.entropy_coeff,
        critic_coeff=args.critic_coeff,
        loss_critic_type="l2",
        normalize_advantage=True,
    ).to(args.device)
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=args.lr, eps=1e-5)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(collector))

    # Training
    for batch in collector:
        buffer.extend(advantage(batch).reshape(-1))
        for _ in range(args.num_epochs):
            for minibatch in buffer:
                losses = loss_module(minibatch)
                optimizer.zero_grad()
                losses.backward()
                nn.utils.clip_grad_norm_(loss_module.parameters(), args.max_grad_norm)
                optimizer.step()
        scheduler.step()
        run.log(batch, max_step_count=batch["next", "step_count"].max(), **losses)
    collector.shutdown()
    return run.finish(env, actor)


if __name__ == "__main__":
    main(parse_args(Args, __doc__))
