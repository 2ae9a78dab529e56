"""Proximal policy optimisation on several processes: each collects, and gradients are averaged.

    torchrun --nproc-per-node 2 examples/distributed/ppo_ddp.py

Each process has its own environments, collector and buffer; ``DistributedDataParallel`` around the
loss averages the gradients of all. Advantages are normalised with the mean and the deviation of all
processes, so that two of them learn what one learns from their joint minibatch.

CartPole-v1: mean return 500 of 100 deterministic episodes after 100 000 frames of two ranks, seed 0;
2 minutes of processor time a rank.

Source: Schulman et al., 2017, https://arxiv.org/abs/1707.06347.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.envs import Compose, DoubleToFloat, GymEnv, RewardSum, StepCounter, TransformedEnv
from torchrl.modules import MLP, OneHotCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE
from torchrl.record import Experiment, parse_args


@dataclass
class Args:
    """Settings. Counts of frames and environments are those of all processes together."""

    env: str = "CartPole-v1"  # a gymnasium task with discrete actions
    seed: int = 0  # of rank 0; others add their rank
    total_frames: int = 100_000  # environment steps
    num_envs: int = 8  # copies of the environment
    frames_per_batch: int = 400  # environment steps between gradient steps
    minibatch_size: int = 100  # environment steps per gradient step
    num_epochs: int = 10  # times that each batch is learned from
    lr: float = 1e-3  # learning rate at the start, falls to 0
    gamma: float = 0.98  # discount per environment step
    lmbda: float = 0.9  # of the generalised advantage
    clip_epsilon: float = 0.2  # limit of the change of an action's probability
    critic_coeff: float = 0.5  # weight of the critic's loss
    max_grad_norm: float = 0.5  # limit of the gradient's norm
    num_cells: int = 64  # units of a hidden layer
    depth: int = 2  # hidden layers
    eval_episodes: int = 100  # episodes after training; their mean return is the score
    video: bool = False  # write a video of the trained policy
    log_dir: str = "runs"  # folder of the run's own folder
    device: str = "cpu"  # where environment, networks and data are


def make_loss(env: TransformedEnv, args: Args) -> ClipPPOLoss:
    """Return the loss, with a new policy and a new critic."""
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
    critic = ValueOperator(MLP(num_obs, 1, **net), in_keys=["observation"])
    options = {"clip_epsilon": args.clip_epsilon, "critic_coeff": args.critic_coeff, "entropy_coeff": 0.0}
    return ClipPPOLoss(actor, critic, loss_critic_type="l2", **options)


def normalise(batch: TensorDictBase) -> TensorDictBase:
    """Normalise the advantages of a minibatch with the moments of those of all processes."""
    advantage = batch["advantage"]
    sums = torch.stack([advantage.new_tensor(advantage.numel()), advantage.sum(), advantage.square().sum()])
    dist.all_reduce(sums)
    count, mean = sums[0], sums[1] / sums[0]
    deviation = ((sums[2] - count * mean**2) / (count - 1)).clamp_min(1e-12).sqrt()
    return batch.set("advantage", (advantage - mean) / deviation)


def main(args: Args) -> float | None:
    """Train; return the mean return of the evaluation, in rank 0."""
    if "RANK" not in os.environ:
        raise SystemExit("Start it as: torchrun --nproc-per-node 2 examples/distributed/ppo_ddp.py")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    args.seed += rank
    args.log_dir = args.log_dir if rank == 0 else ""
    run = Experiment("ppo_ddp", args) if rank == 0 else None
    torch.manual_seed(args.seed)
    env = TransformedEnv(
        GymEnv(args.env, num_envs=args.num_envs // size), Compose(DoubleToFloat(), StepCounter(), RewardSum())
    )
    env.set_seed(args.seed)

    loss_module = make_loss(env, args)
    parallel = DistributedDataParallel(loss_module)  # all start with the weights of rank 0
    advantage = GAE(gamma=args.gamma, lmbda=args.lmbda, value_network=loss_module.critic_network)
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=args.lr, eps=1e-5)

    frames = args.frames_per_batch // size
    collector = Collector(
        env, loss_module.actor_network, frames_per_batch=frames, total_frames=args.total_frames // size
    )
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(frames), sampler=SamplerWithoutReplacement(), batch_size=args.minibatch_size // size
    )
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(collector))

    for batch in collector:
        buffer.extend(advantage(batch).reshape(-1))
        for _ in range(args.num_epochs):
            for minibatch in buffer:
                losses = parallel(normalise(minibatch))
                optimizer.zero_grad()
                losses.backward()
                nn.utils.clip_grad_norm_(loss_module.parameters(), args.max_grad_norm)
                optimizer.step()
        scheduler.step()
        if run is not None:
            run.log(batch, max_step_count=batch["next", "step_count"].max(), **losses)
    collector.shutdown()
    dist.barrier()
    dist.destroy_process_group()
    return None if run is None else run.finish(env, loss_module.actor_network)


if __name__ == "__main__":
    main(parse_args(Args, __doc__))
