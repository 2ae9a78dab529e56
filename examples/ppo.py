"""Proximal policy optimisation in one file: CartPole-v1, or a MuJoCo task with its own arguments.

    python examples/ppo.py
    python examples/ppo.py --env InvertedDoublePendulum-v5 --total_frames 50000

CartPole-v1: mean return 500, 500, 500 of 100 deterministic episodes after 100 000 frames,
seeds 0, 1, 2; about 1 minute each on one core.

Source: Schulman et al., 2017, https://arxiv.org/abs/1707.06347.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from experiment import Experiment, parse
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torch import nn

from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.envs import (
    Compose,
    DoubleToFloat,
    GymEnv,
    ObservationNorm,
    RewardSum,
    StepCounter,
    TransformedEnv,
)
from torchrl.modules import MLP, OneHotCategorical, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE


@dataclass
class Args:
    """Everything one may want to change; the defaults solve CartPole-v1."""

    env: str = "CartPole-v1"
    seed: int = 0
    total_frames: int = 100_000
    num_envs: int = 8
    frames_per_batch: int = 400
    minibatch_size: int = 100
    num_epochs: int = 10
    lr: float = 1e-3
    gamma: float = 0.98
    lmbda: float = 0.9
    clip_epsilon: float = 0.2
    entropy_coeff: float = 0.0
    critic_coeff: float = 0.5
    max_grad_norm: float = 0.5
    num_cells: int = 64
    depth: int = 2
    normalize_observations: bool = False
    eval_episodes: int = 100
    video: bool = True
    log_dir: str = "runs"


TASKS = {  # what another task changes
    "InvertedDoublePendulum": {
        "total_frames": 50_000,
        "num_envs": 1,
        "frames_per_batch": 1000,
        "minibatch_size": 64,
        "lr": 3e-4,
        "gamma": 0.99,
        "lmbda": 0.95,
        "entropy_coeff": 1e-4,
        "critic_coeff": 1.0,
        "max_grad_norm": 1.0,
        "num_cells": 256,
        "depth": 3,
        "normalize_observations": True,
    }
}


def make_env(args: Args) -> TransformedEnv:
    """Return the training environment, ``num_envs`` copies in one."""
    env = TransformedEnv(
        GymEnv(args.env, num_envs=args.num_envs),
        Compose(DoubleToFloat(), StepCounter(), RewardSum()),
    )
    env.set_seed(args.seed)
    if args.normalize_observations:
        norm = ObservationNorm(in_keys=["observation"])
        env.append_transform(norm)
        norm.init_stats(1000, reduce_dim=(0, 1))
    return env


def make_networks(env: TransformedEnv, args: Args) -> tuple[ProbabilisticActor, ValueOperator]:
    """Return the policy, which writes ``action``, and the critic, which writes ``state_value``."""
    spec = env.action_spec_unbatched
    num_obs = env.observation_spec["observation"].shape[-1]
    cells = [args.num_cells] * args.depth
    discrete = spec.domain == "discrete"
    num_out = spec.shape[-1] if discrete else 2 * spec.shape[-1]
    actor_net: nn.Module = MLP(num_obs, num_out, num_cells=cells, activation_class=nn.Tanh)
    if not discrete:
        actor_net = nn.Sequential(actor_net, NormalParamExtractor())
    params = ["logits"] if discrete else ["loc", "scale"]
    actor = ProbabilisticActor(
        TensorDictModule(actor_net, in_keys=["observation"], out_keys=params),
        in_keys=params,
        spec=spec,
        distribution_class=OneHotCategorical if discrete else TanhNormal,
        return_log_prob=True,
    )
    critic_net = MLP(num_obs, 1, num_cells=cells, activation_class=nn.Tanh)
    return actor, ValueOperator(critic_net, in_keys=["observation"])


def main(args: Args) -> float:
    """Train; return the mean return of the evaluation."""
    run = Experiment("ppo", args)
    env = make_env(args)
    actor, critic = make_networks(env, args)

    # Data: each batch is cut into minibatches, anew in every epoch
    collector = Collector(
        env, actor, frames_per_batch=args.frames_per_batch, total_frames=args.total_frames
    )
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(args.frames_per_batch),
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
    )
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=args.lr, eps=1e-5)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(collector))

    # Training
    for batch in collector:
        buffer.extend(advantage(batch).reshape(-1))
        for _ in range(args.num_epochs):
            for minibatch in buffer:
                losses = loss_module(minibatch)
                loss = losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(loss_module.parameters(), args.max_grad_norm)
                optimizer.step()
        scheduler.step()
        run.log(batch, loss=loss, max_step_count=batch["next", "step_count"].max())
    collector.shutdown()
    return run.finish(env, actor)


if __name__ == "__main__":
    main(parse(Args, __doc__, tasks=TASKS))
