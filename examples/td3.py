"""Twin delayed DDPG in one file.

    python examples/td3.py

Pendulum-v1: mean return -144, -133, -159 of 100 deterministic episodes after 20 000 frames,
seeds 0, 1, 2; about 2 minutes each on one core.

Source: Fujimoto et al., 2018, https://arxiv.org/abs/1802.09477.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from experiment import Experiment, parse
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import Compose, DoubleToFloat, GymEnv, RewardSum, TransformedEnv
from torchrl.modules import MLP, AdditiveGaussianModule, TanhModule, ValueOperator
from torchrl.objectives import SoftUpdate, TD3Loss


@dataclass
class Args:
    """Everything one may want to change."""

    env: str = "Pendulum-v1"
    seed: int = 0
    total_frames: int = 20_000
    frames_per_batch: int = 50
    init_random_frames: int = 1_000
    buffer_size: int = 100_000
    batch_size: int = 128
    updates_per_frame: float = 0.5
    policy_delay: int = 2
    exploration_noise: float = 0.1  # in halves of the range of actions, as are the next two
    policy_noise: float = 0.2
    noise_clip: float = 0.5
    lr: float = 1e-3
    gamma: float = 0.98
    tau: float = 0.005
    num_cells: int = 256
    depth: int = 2
    eval_episodes: int = 100
    video: bool = True
    log_dir: str = "runs"


def main(args: Args) -> float:
    """Train; return the mean return of the evaluation."""
    run = Experiment("td3", args)

    # Environment
    env = TransformedEnv(GymEnv(args.env), Compose(DoubleToFloat(), RewardSum()))
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
        env.action_spec,
        sigma_init=args.exploration_noise * half_range,
        sigma_end=args.exploration_noise * half_range,
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
    )
    target_update = SoftUpdate(loss_module, tau=args.tau)
    actor_optimizer = torch.optim.Adam(loss_module.actor_network.parameters(), lr=args.lr)
    critic_optimizer = torch.optim.Adam(loss_module.qvalue_network.parameters(), lr=args.lr)

    # Data
    collector = Collector(
        env,
        TensorDictSequential(actor, noise),
        frames_per_batch=args.frames_per_batch,
        total_frames=args.total_frames,
        init_random_frames=args.init_random_frames,
    )
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(args.buffer_size), batch_size=args.batch_size
    )

    # Training: the policy moves, and the targets with it, every other time
    for batch in collector:
        buffer.extend(batch)
        metrics = {}
        if run.frames >= args.init_random_frames:
            for i in range(int(batch.numel() * args.updates_per_frame)):
                losses = loss_module(buffer.sample())
                if i % args.policy_delay == 0:  # before the critic that it climbs has moved
                    actor_optimizer.zero_grad()
                    losses["loss_actor"].backward()
                    actor_optimizer.step()
                critic_optimizer.zero_grad()
                losses["loss_qvalue"].backward()
                critic_optimizer.step()
                if i % args.policy_delay == 0:
                    target_update.step()
            metrics = {"loss_qvalue": losses["loss_qvalue"], "loss_actor": losses["loss_actor"]}
        run.log(batch, **metrics)
    collector.shutdown()
    return run.finish(env, actor)


if __name__ == "__main__":
    main(parse(Args, __doc__))
