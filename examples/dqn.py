"""Deep Q-learning in one file, with each of the six improvements of Rainbow as a switch.

    python examples/dqn.py
    python examples/dqn.py --dueling true --prioritized true --n_steps 3
    python examples/dqn.py --rainbow true --num_cells 128 --lr 1e-3 --total_frames 30000

CartPole-v1: mean return 167, 500, 500 of 100 deterministic episodes after 50 000 frames,
seeds 0, 1, 2; about 3 minutes each on one core.
Rainbow, as in the last line above: 500, 480, 430 after 30 000 frames,
seeds 0, 1, 2; about 4 minutes each.

Source: Mnih et al., 2015, https://doi.org/10.1038/nature14236; all improvements together, Hessel et
al., 2018, https://arxiv.org/abs/1710.02298.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from torch import nn

from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, PrioritizedSampler, RandomSampler, TensorDictReplayBuffer
from torchrl.envs import Compose, DoubleToFloat, GymEnv, MultiStepTransform, RewardSum, TransformedEnv
from torchrl.modules import (
    MLP,
    DistributionalQValueActor,
    DuelingMlpDQNet,
    EGreedyModule,
    NoisyLinear,
    QValueActor,
    reset_noise,
)
from torchrl.objectives import DistributionalDQNLoss, DQNLoss, HardUpdate, LossModule
from torchrl.record import Experiment, parse_args


@dataclass
class Args:
    """Settings; ``rainbow`` turns all the switches on.

    "paper" is the value of Mnih et al., "Rainbow" that of Hessel et al.; the others were chosen for
    this task.
    """

    env: str = "CartPole-v1"  # a gymnasium task with discrete actions
    seed: int = 0  # of Python, numpy, torch and the environment
    device: str = "cpu"  # where environment, networks and replay buffer are
    total_frames: int = 50_000  # environment steps; paper: 5e7
    rainbow: bool = False  # all of the following switches, with n_steps of at least 3
    double: bool = True  # the trained network chooses the next action, the target network values it
    dueling: bool = False  # Q = V + A - mean(A)
    prioritized: bool = False  # transitions of high error are drawn more often
    n_steps: int = 1  # rewards that a target sums before it bootstraps; Rainbow: 3
    noisy: bool = False  # exploration by noise on the weights, not by random actions
    distributional: bool = False  # a distribution over num_atoms returns, not a mean
    frames_per_batch: int = 250  # environment steps between gradient steps; paper: 4
    learning_starts: int = 1_000  # environment steps before the first gradient step; paper: 50_000
    updates_per_frame: float = 0.5  # gradient steps per environment step; paper: 0.25
    updates_per_target: int = 125  # gradient steps per copy to the target network; paper: 10_000
    buffer_size: int = 50_000  # transitions; paper: 1e6
    batch_size: int = 64  # transitions per gradient step; paper: 32
    lr: float = 2e-3  # learning rate at the start, falls to 0; paper: 2.5e-4, Rainbow: 6.25e-5
    gamma: float = 0.99  # discount per environment step; paper
    eps_end: float = 0.04  # probability of a random action after eps_frames; paper: 0.1
    eps_frames: int = 8_000  # environment steps until it has fallen there from 1; paper: 1e6
    alpha: float = 0.5  # exponent of the priorities; Rainbow
    beta: float = 0.4  # exponent of the importance weights at the start, rises to 1; Rainbow
    value_min: float = 0.0  # lowest return of the distribution; Rainbow: -10
    value_max: float = 100.0  # highest return of the distribution; Rainbow: 10
    num_atoms: int = 51  # returns of the distribution; Rainbow
    num_cells: int = 256  # units of a hidden layer
    depth: int = 2  # hidden layers
    max_grad_norm: float = 10.0  # limit of the gradient's norm; Rainbow
    eval_episodes: int = 100  # episodes after training; their mean return is the score
    video: bool = True  # write a video of the trained policy
    log_dir: str = "runs"  # folder of the run's own folder

    def __post_init__(self) -> None:
        if self.rainbow:
            self.double = self.dueling = self.prioritized = self.noisy = True
            self.distributional, self.n_steps = True, max(self.n_steps, 3)


def make_network(num_obs: int, num_act: int, args: Args) -> nn.Module:
    """Return a network of action values ``[*B, N]``, or of their ``Z`` atoms ``[*B, Z, N]``."""
    plain = {"activation_class": nn.ReLU}
    layers = plain | {"layer_class": NoisyLinear if args.noisy else nn.Linear}
    atoms = (args.num_atoms,) if args.distributional else ()
    if not args.dueling:
        return MLP(num_obs, (*atoms, num_act), num_cells=[args.num_cells] * args.depth, **layers)
    features = {"in_features": num_obs, "out_features": args.num_cells, "num_cells": []}
    heads = {"num_cells": [args.num_cells] * (args.depth - 1)}
    # the layers that both heads share have no noise
    return DuelingMlpDQNet((*atoms, num_act), (*atoms, 1), features | plain, heads | layers)


def make_loss(env: TransformedEnv, args: Args) -> LossModule:
    """Return the loss around a greedy policy, which writes ``action``."""
    spec = env.action_spec
    net = make_network(env.observation_spec["observation"].shape[-1], spec.shape[-1], args)
    if args.distributional:
        support = torch.linspace(args.value_min, args.value_max, args.num_atoms)
        actor = DistributionalQValueActor(net, support, spec=spec)
        return DistributionalDQNLoss(actor, gamma=args.gamma, double_dqn=args.double)
    actor = QValueActor(net, spec=spec)
    return DQNLoss(actor, loss_function="smooth_l1", gamma=args.gamma, double_dqn=args.double)


def make_buffer(args: Args) -> TensorDictReplayBuffer:
    """Return the buffer, whose samples are transitions of ``n_steps`` steps."""
    sampler = RandomSampler()
    if args.prioritized:
        sampler = PrioritizedSampler(args.buffer_size, alpha=args.alpha, beta=args.beta)
    return TensorDictReplayBuffer(
        storage=LazyTensorStorage(args.buffer_size, device=args.device),
        sampler=sampler,
        batch_size=args.batch_size,
        transform=MultiStepTransform(args.n_steps, args.gamma) if args.n_steps > 1 else None,
    )


def main(args: Args) -> float:
    """Train; return the mean return of the evaluation."""
    run = Experiment("rainbow" if args.rainbow else "dqn", args)
    env = TransformedEnv(GymEnv(args.env, device=args.device), Compose(DoubleToFloat(), RewardSum()))
    env.set_seed(args.seed)
    loss_module = make_loss(env, args).to(args.device)
    actor: TensorDictModuleBase = loss_module.value_network
    eps = EGreedyModule(
        env.action_spec,
        eps_init=0.0 if args.noisy else 1.0,
        eps_end=0.0 if args.noisy else args.eps_end,
        annealing_num_steps=args.eps_frames,
    )
    buffer = make_buffer(args)
    collector = Collector(
        env,
        TensorDictSequential(actor, eps).to(args.device),
        frames_per_batch=args.frames_per_batch,
        total_frames=args.total_frames,
    )
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=args.lr)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(collector))
    target_update = HardUpdate(loss_module, value_network_update_interval=args.updates_per_target)

    losses = {}
    for batch in collector:
        buffer.extend(batch)
        eps.step(batch.numel())
        if run.frames >= args.learning_starts:
            for _ in range(int(batch.numel() * args.updates_per_frame)):
                loss_module.apply(reset_noise)
                sample = buffer.sample()
                losses = loss_module(sample)
                optimizer.zero_grad()
                losses.backward()
                nn.utils.clip_grad_norm_(loss_module.parameters(), args.max_grad_norm)
                optimizer.step()
                target_update.step()
                if args.prioritized:
                    buffer.update_tensordict_priority(sample)
            scheduler.step()
        if args.prioritized:
            buffer.sampler.beta = args.beta + (1 - args.beta) * run.frames / args.total_frames
        run.log(batch, eps=eps.eps, **losses)
    collector.shutdown()
    return run.finish(env, actor)


if __name__ == "__main__":
    main(parse_args(Args, __doc__))
