"""IMPALA in one file: actors of a Ray cluster collect, one learner corrects for their older weights by V-trace.

    python examples/distributed/impala_ray.py
    python examples/distributed/impala_ray.py --num_actors 64 --address auto

CartPole-v1: mean return 490, 487, 500 of 100 deterministic episodes after 400 000 frames, seeds 0, 1, 2; about one
minute of processor time of the learner each. Which weights acted depends on the speed of the actors: no two runs are
alike.

Source: Espeholt et al., 2018, https://arxiv.org/abs/1802.01561.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from tensordict.nn import TensorDictModule
from torch import nn

from torchrl.collectors.distributed import RayCollector
from torchrl.envs import Compose, DoubleToFloat, GymEnv, RewardSum, TransformedEnv
from torchrl.modules import MLP, OneHotCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import A2CLoss
from torchrl.objectives.value import VTrace
from torchrl.record import Experiment, parse_args


@dataclass
class Args:
    """Settings. "paper" is the value of the source; the others were chosen for this task."""

    env: str = "CartPole-v1"  # a gymnasium task with discrete actions
    seed: int = 0  # of Python, numpy, torch and the environments
    device: str = "cpu"  # where the learner is; actors act on the CPU
    address: str = "local"  # of a Ray cluster, "auto" on one of its nodes; "local" starts one of this machine
    num_actors: int = 2  # Ray actors; paper: up to 500
    total_frames: int = 400_000  # environment steps, of all actors together
    num_envs: int = 8  # copies of the environment in each actor; paper: 1
    steps_per_batch: int = 10  # steps of each copy per gradient step; paper: 20
    lr: float = 1e-3  # learning rate at the start; falls to 0, as in the paper
    gamma: float = 0.99  # discount per environment step; paper
    rho_clip: float = 1.0  # limit of the importance weight of a temporal difference; paper
    c_clip: float = 1.0  # limit of the importance weights of what follows; paper
    entropy_coeff: float = 0.0  # weight of the entropy; paper: 0.01
    critic_coeff: float = 0.5  # weight of the critic's loss; paper
    max_grad_norm: float = 40.0  # limit of the gradient's norm; paper
    num_cells: int = 64  # units of a hidden layer
    depth: int = 2  # hidden layers
    eval_episodes: int = 100  # episodes after training; their mean return is the score
    video: bool = True  # write a video of the trained policy
    log_dir: str = "runs"  # folder of the run's own folder


def make_env(name: str, num_envs: int) -> TransformedEnv:
    """Return several copies of the environment, stepped as one."""
    return TransformedEnv(GymEnv(name, num_envs=num_envs), Compose(DoubleToFloat(), RewardSum()))


def main(args: Args) -> float:
    """Train; return the mean return of the evaluation."""
    run = Experiment("impala_ray", args)
    env = make_env(args.env, args.num_envs)
    spec = env.action_spec_unbatched
    num_obs = env.observation_spec["observation"].shape[-1]

    # Networks: a policy over one-hot actions that writes their log-probability, and a critic of observations
    net = {"num_cells": [args.num_cells] * args.depth, "activation_class": nn.Tanh}
    actor = ProbabilisticActor(
        TensorDictModule(MLP(num_obs, spec.shape[-1], **net), ["observation"], ["logits"]),
        in_keys=["logits"],
        spec=spec,
        distribution_class=OneHotCategorical,
        return_log_prob=True,
    )
    critic = ValueOperator(MLP(num_obs, 1, **net), in_keys=["observation"])

    # Data: each batch comes from one actor, which goes on with the newest weights
    collector = RayCollector(
        partial(make_env, args.env, args.num_envs),
        actor,
        sync=False,
        num_collectors=args.num_actors,
        frames_per_batch=args.num_envs * args.steps_per_batch,
        total_frames=args.total_frames,
        storing_device=args.device,
        ray_init_config={"address": args.address},
        on_failure="restart",
    )
    collector.set_seed(args.seed)

    # Loss
    advantage = VTrace(
        gamma=args.gamma, actor_network=actor, value_network=critic, rho_thresh=args.rho_clip, c_thresh=args.c_clip
    )
    loss_module = A2CLoss(
        actor, critic, entropy_coeff=args.entropy_coeff, critic_coeff=args.critic_coeff, loss_critic_type="l2"
    ).to(args.device)
    optimizer = torch.optim.RMSprop(loss_module.parameters(), lr=args.lr, alpha=0.99, eps=1e-5)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(collector))

    # Training: each batch is used once, whatever weights it was collected with
    for batch in collector:
        losses = loss_module(advantage(batch))
        optimizer.zero_grad()
        losses.backward()
        nn.utils.clip_grad_norm_(loss_module.parameters(), args.max_grad_norm)
        optimizer.step()
        scheduler.step()
        collector.update_policy_weights_()
        run.log(batch, **losses)
    collector.shutdown()
    return run.finish(env, actor)


if __name__ == "__main__":
    main(parse_args(Args, __doc__))
