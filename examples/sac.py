"""Soft actor-critic in one file.

    python examples/sac.py

Pendulum-v1: mean return -144, -130, -153 of 100 deterministic episodes after 20 000 frames,
seeds 0, 1, 2; about 3 minutes each on one core.

Source: Haarnoja et al., 2018, https://arxiv.org/abs/1812.05905.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from experiment import Experiment, parse
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torch import nn

from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import Compose, DoubleToFloat, GymEnv, RewardSum, TransformedEnv
from torchrl.modules import MLP, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import SACLoss, SoftUpdate


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
    run = Experiment("sac", args)

    # Environment
    env = TransformedEnv(GymEnv(args.env), Compose(DoubleToFloat(), RewardSum()))
    env.set_seed(args.seed)
    num_obs = env.observation_spec["observation"].shape[-1]
    num_act = env.action_spec.shape[-1]

    # Networks: a squashed Gaussian policy, two critics of observation and action
    cells = [args.num_cells] * args.depth
    policy_net = nn.Sequential(
        MLP(num_obs, 2 * num_act, num_cells=cells, activation_class=nn.ReLU),
        NormalParamExtractor(),
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
    loss_module = SACLoss(actor, critic, num_qvalue_nets=2, loss_function="l2", gamma=args.gamma)
    target_update = SoftUpdate(loss_module, tau=args.tau)
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=args.lr)

    # Data
    collector = Collector(
        env,
        actor,
        frames_per_batch=args.frames_per_batch,
        total_frames=args.total_frames,
        init_random_frames=args.init_random_frames,
    )
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(args.buffer_size), batch_size=args.batch_size
    )

    # Training
    for batch in collector:
        buffer.extend(batch)
        metrics = {}
        if run.frames >= args.init_random_frames:
            for _ in range(int(batch.numel() * args.updates_per_frame)):
                losses = loss_module(buffer.sample())
                loss = losses["loss_actor"] + losses["loss_qvalue"] + losses["loss_alpha"]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                target_update.step()
            metrics = {"loss_qvalue": losses["loss_qvalue"], "alpha": losses["alpha"]}
        run.log(batch, **metrics)
    collector.shutdown()
    return run.finish(env, actor)


if __name__ == "__main__":
    main(parse(Args, __doc__))
