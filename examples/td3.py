"""Twin delayed DDPG in one file.

    python examples/td3.py

Pendulum-v1: mean return -144, -133, -159 of 100 deterministic episodes after 20 000 frames,
seeds 0, 1, 2; about 2 minutes each on one core.

Source: Fujimoto et al., 2018, https://arxiv.org/abs/1802.09477.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import Compose, DoubleToFloat, GymEnv, RewardSum, TransformedEnv
from torchrl.modules import MLP, AdditiveGaussianModule, TanhModule, ValueOperator
from torchrl.objectives import SoftUpdate, TD3Loss
from torchrl.record import Experiment, parse_args


@dataclass
class Args:
    """Settings. "paper" is the value of the source; the others were chosen for this task."""

    env: str = "Pendulum-v1"  # a gymnasium task with continuous actions
    seed: int = 0  # of Python, numpy, torch and the environment
    device: str = "cpu"  # where environment, networks and replay buffer are
    total_frames: int = 20_000  # environment steps; paper: 1e6
    frames_per_batch: int = 50  # environment steps between gradient steps; paper: 1
    init_random_frames: int = 1_000  # environment steps of random actions; paper: 1_000 or 10_000
    buffer_size: int = 100_000  # transitions; paper: 1e6
    batch_size: int = 128  # transitions per gradient step; paper: 100
    updates_per_frame: float = 0.5  # gradient steps of the critics per environment step; paper: 1
    policy_delay: int = 2  # gradient steps of the critics per step of policy and targets; paper
    exploration_noise: float = 0.1  # standard deviation, in halves of the range of actions; paper
    policy_noise: float = 0.2  # the same of the noise on the target's action; paper
    noise_clip: float = 0.5  # limit of that noise, in halves of the range of actions; paper
    lr_actor: float = 1e-3  # learning rate of the policy; paper
    lr_critic: float = 1e-3  # learning rate of both critics; paper
    gamma: float = 0.98  # discount per environment step; paper: 0.99
    tau: float = 0.005  # share that the targets take over each time; paper
    num_cells: int = 256  # units of a hidden layer; paper: 400 and 300
    depth: int = 2  # hidden layers; paper: 2
    eval_episodes: int = 100  # episodes after training; their mean return is the score
    video: bool = True  # write a video of the trained policy
    log_dir: str = "runs"  # folder of the run's own folder


def main(args: Args) -> float:
    """Train; return the mean return of the evaluation."""
    run = Experiment("td3", args)

    # Environment
    env = TransformedEnv(GymEnv(args.env, device=args.device), Compose(DoubleToFloat(), RewardSum()))
    env.set_seed(args.seed)
    num_obs = env.observation_spec["observation"].shape[-1]
    num_act = env.action_spec.shape[-1]

    # Networks: a deterministic policy, noise around it, two critics of observation and action
    cells = [args.num_cells] * args.depth
    policy_net = MLP(num_obs, num_act, num_cells=cells, activation_class=nn.ReLU)
    actor = TensorDictSequential(
        TensorDictModule(policy_net, in_keys=["observation"], out_keys=["action"]),
        TanhModule(in_keys=["action"], spec=env.action_spec),
    )
    half_range = (env.action_spec.space.high - env.action_spec.space.low).max().item() / 2
    noise = AdditiveGaussianModule(
        env.action_spec, sigma_init=args.exploration_noise * half_range, sigma_end=args.exploration_noise * half_range
    )
    critic_net = MLP(num_obs + num_act, 1, num_cells=cells, activation_class=nn.ReLU)
    critic = ValueOperator(critic_net, in_keys=["observation", "action"])

    # Loss
    loss_module = TD3Loss(
        actor,
        critic,
        action_spec=env.action_spec,
        policy_noise=args.policy_noise * half_range,
        noise_clip=args.noise_clip * half_range,
        loss_function="l2",
        gamma=args.gamma,
    ).to(args.device)
    target_update = SoftUpdate(loss_module, tau=args.tau)
    actor_optimizer = torch.optim.Adam(loss_module.actor_network.parameters(), lr=args.lr_actor)
    critic_optimizer = torch.optim.Adam(loss_module.qvalue_network_params.parameters(), lr=args.lr_critic)

    # Data
    collector = Collector(
        env,
        TensorDictSequential(actor, noise).to(args.device),
        frames_per_batch=args.frames_per_batch,
        total_frames=args.total_frames,
        init_random_frames=args.init_random_frames,
    )
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(args.buffer_size, device=args.device), batch_size=args.batch_size
    )

    # Training: policy and targets are updated less often than the critics
    losses = {}
    for batch in collector:
        buffer.extend(batch)
        if run.frames >= args.init_random_frames:
            for i in range(int(batch.numel() * args.updates_per_frame)):
                losses = loss_module(buffer.sample())
                if i % args.policy_delay == 0:  # before the critics change
                    actor_optimizer.zero_grad()
                    losses["loss_actor"].backward()
                    actor_optimizer.step()
                critic_optimizer.zero_grad()
                losses["loss_qvalue"].backward()
                critic_optimizer.step()
                if i % args.policy_delay == 0:
                    target_update.step()
        run.log(batch, **losses)
    collector.shutdown()
    return run.finish(env, actor)


if __name__ == "__main__":
    main(parse_args(Args, __doc__))
