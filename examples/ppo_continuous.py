"""Proximal policy optimisation in one file, for continuous actions.

    python examples/ppo_continuous.py

InvertedDoublePendulum-v5: mean return 1282 of 100 deterministic episodes after 50 000 frames,
seed 0; about 4 minutes on one core. The maximum is about 9300, which takes more frames.

Source: Schulman et al., 2017, https://arxiv.org/abs/1707.06347.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torch import nn

from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.envs import Compose, DoubleToFloat, GymEnv, ObservationNorm, RewardSum, StepCounter, TransformedEnv
from torchrl.modules import MLP, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE
from torchrl.record import Experiment, parse_args


@dataclass
class Args:
    """Settings. "paper" is the value of the source, for MuJoCo; the rest was chosen here."""

    env: str = "InvertedDoublePendulum-v5"  # a gymnasium task with continuous actions
    seed: int = 0  # of Python, numpy, torch and the environment
    device: str = "cpu"  # where environment, networks and data are
    total_frames: int = 50_000  # environment steps, of all copies together; paper: 1e6
    num_envs: int = 1  # copies of the environment; paper
    frames_per_batch: int = 1_000  # environment steps between gradient steps; paper: 2048
    minibatch_size: int = 64  # environment steps per gradient step; paper
    num_epochs: int = 10  # times that each batch is learned from; paper
    lr: float = 3e-4  # learning rate at the start, falls to 0; paper, without the fall
    gamma: float = 0.99  # discount per environment step; paper
    lmbda: float = 0.95  # of the generalised advantage; paper
    clip_epsilon: float = 0.2  # limit of the change of an action's probability; paper
    entropy_coeff: float = 1e-4  # weight of the entropy; paper: 0
    critic_coeff: float = 1.0  # weight of the critic's loss
    max_grad_norm: float = 1.0  # limit of the gradient's norm
    num_cells: int = 256  # units of a hidden layer; paper: 64
    depth: int = 3  # hidden layers; paper: 2
    norm_steps: int = 1_000  # random steps of which mean and scale of the observations are taken
    eval_episodes: int = 100  # episodes after training; their mean return is the score
    video: bool = True  # write a video of the trained policy
    log_dir: str = "runs"  # folder of the run's own folder


def make_env(args: Args) -> TransformedEnv:
    """Return the training environment, ``num_envs`` copies in one."""
    norm = ObservationNorm(in_keys=["observation"])
    env = TransformedEnv(
        GymEnv(args.env, num_envs=args.num_envs, device=args.device),
        Compose(DoubleToFloat(), StepCounter(), RewardSum(), norm),
    )
    env.set_seed(args.seed)
    norm.init_stats(args.norm_steps, reduce_dim=(0, 1))
    return env


def make_networks(env: TransformedEnv, args: Args) -> tuple[ProbabilisticActor, ValueOperator]:
    """Return the policy, which writes ``action``, and the critic, which writes ``state_value``."""
    spec = env.action_spec_unbatched
    num_obs = env.observation_spec["observation"].shape[-1]
    net = {"num_cells": [args.num_cells] * args.depth, "activation_class": nn.Tanh}
    actor_net = nn.Sequential(MLP(num_obs, 2 * spec.shape[-1], **net), NormalParamExtractor())
    actor = ProbabilisticActor(
        TensorDictModule(actor_net, in_keys=["observation"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        spec=spec,
        distribution_class=TanhNormal,
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
