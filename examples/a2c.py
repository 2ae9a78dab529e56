"""Advantage actor-critic in one file.

    python examples/a2c.py

CartPole-v1: mean return 500, 500, 500 of 100 deterministic episodes after 300 000 frames,
seeds 0, 1, 2; about 2 minutes each on one core.

Source: Mnih et al., 2016, https://arxiv.org/abs/1602.01783.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict.nn import TensorDictModule
from torch import nn

from torchrl.collectors import Collector
from torchrl.envs import Compose, DoubleToFloat, GymEnv, RewardSum, TransformedEnv
from torchrl.modules import MLP, OneHotCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import A2CLoss
from torchrl.objectives.value import GAE
from torchrl.record import Experiment, parse_args


@dataclass
class Args:
    """Settings. "paper" is the value of the source; the others were chosen for this task."""

    env: str = "CartPole-v1"  # a gymnasium task with discrete actions
    seed: int = 0  # of Python, numpy, torch and the environment
    device: str = "cpu"  # where environment, networks and data are
    total_frames: int = 300_000  # environment steps, of all copies together
    num_envs: int = 8  # copies of the environment; paper: 16
    steps_per_batch: int = 5  # steps of each copy per gradient step; paper
    lr: float = 1e-3  # learning rate at the start; falls to 0, as in the paper
    gamma: float = 0.99  # discount per environment step; paper
    lmbda: float = 1.0  # of the generalised advantage; 1 is the sum of discounted rewards; paper
    entropy_coeff: float = 0.0  # weight of the entropy; paper: 0.01
    critic_coeff: float = 0.5  # weight of the critic's loss, as in OpenAI Baselines
    max_grad_norm: float = 0.5  # limit of the gradient's norm, as in OpenAI Baselines
    num_cells: int = 64  # units of a hidden layer
    depth: int = 2  # hidden layers
    eval_episodes: int = 100  # episodes after training; their mean return is the score
    video: bool = True  # write a video of the trained policy
    log_dir: str = "runs"  # folder of the run's own folder


def main(args: Args) -> float:
    """Train; return the mean return of the evaluation."""
    run = Experiment("a2c", args)

    # Environment: several copies, stepped as one
    env = TransformedEnv(
        GymEnv(args.env, num_envs=args.num_envs, device=args.device), Compose(DoubleToFloat(), RewardSum())
    )
    env.set_seed(args.seed)
    spec = env.action_spec_unbatched
    num_obs = env.observation_spec["observation"].shape[-1]

    # Networks: a policy over one-hot actions, and a critic of observations
    net = {"num_cells": [args.num_cells] * args.depth, "activation_class": nn.Tanh}
    actor = ProbabilisticActor(
        TensorDictModule(MLP(num_obs, spec.shape[-1], **net), ["observation"], ["logits"]),
        in_keys=["logits"],
        spec=spec,
        distribution_class=OneHotCategorical,
    )
    critic = ValueOperator(MLP(num_obs, 1, **net), in_keys=["observation"])

    # Data
    collector = Collector(
        env, actor, frames_per_batch=args.num_envs * args.steps_per_batch, total_frames=args.total_frames
    )

    # Loss
    advantage = GAE(gamma=args.gamma, lmbda=args.lmbda, value_network=critic)
    loss_module = A2CLoss(
        actor, critic, entropy_coeff=args.entropy_coeff, critic_coeff=args.critic_coeff, loss_critic_type="l2"
    ).to(args.device)
    optimizer = torch.optim.RMSprop(loss_module.parameters(), lr=args.lr, alpha=0.99, eps=1e-5)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(collector))

    # Training: each batch is used once
    for batch in collector:
        losses = loss_module(advantage(batch))
        optimizer.zero_grad()
        losses.backward()
        nn.utils.clip_grad_norm_(loss_module.parameters(), args.max_grad_norm)
        optimizer.step()
        scheduler.step()
        run.log(batch, **losses)
    collector.shutdown()
    return run.finish(env, actor)


if __name__ == "__main__":
    main(parse_args(Args, __doc__))
