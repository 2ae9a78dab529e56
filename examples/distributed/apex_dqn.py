"""Ape-X DQN in one file: actors of a Ray cluster fill one prioritized replay buffer, one learner draws from it.

    python examples/distributed/apex_dqn.py
    python examples/distributed/apex_dqn.py --num_actors 64 --address auto

Each actor explores with a probability of its own. New transitions have the priorities of their errors: the learner
computes them as they come, in the paper the actors do. With the highest priority so far, as in other buffers, the
learner would draw little else than the newest data.

CartPole-v1: mean returns of 500, 498 and 500 of 100 deterministic episodes after 50 000 frames, seeds 0, 1 and 2; two
minutes of processor time of the learner, four by the clock on two cores. Which data come when depends on the clock: so
do the results.

Source: Horgan et al., 2018, https://arxiv.org/abs/1803.00933.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import nn

from torchrl.collectors.distributed import RayCollector
from torchrl.data import LazyTensorStorage, MultiStep, PrioritizedSampler, RayReplayBuffer, TensorDictReplayBuffer
from torchrl.envs import Compose, DoubleToFloat, GymEnv, RewardSum, TransformedEnv
from torchrl.modules import MLP, QValueActor
from torchrl.objectives import DQNLoss, HardUpdate
from torchrl.record import Experiment, parse_args


@dataclass
class Args:
    """Settings. "paper" is the value of the source; the others were chosen for this task."""

    env: str = "CartPole-v1"  # a gymnasium task with discrete actions
    seed: int = 0  # of Python, numpy, torch and the environments
    address: str = "local"  # of a Ray cluster, "auto" on one of its nodes; "local" starts one of this machine
    num_actors: int = 4  # Ray actors; paper: 360
    total_frames: int = 50_000  # environment steps, of all actors together; paper: 2.2e10
    frames_per_batch: int = 250  # environment steps that an actor writes at a time; paper: 50
    learning_starts: int = 1_000  # environment steps before the first gradient step; paper: 50_000
    updates_per_frame: float = 0.6  # gradient steps per environment step; paper: as fast as the learner can
    updates_per_target: int = 125  # gradient steps per copy to the target network; paper: 2_500
    updates_per_sync: int = 25  # gradient steps per update of the weights of the actors
    n_steps: int = 3  # rewards that a target sums before it bootstraps; paper
    buffer_size: int = 50_000  # transitions; paper: 2e6
    batch_size: int = 128  # transitions per gradient step; paper: 512
    lr: float = 5e-4  # learning rate at the start, falls to 0
    gamma: float = 0.99  # discount per environment step; paper
    eps: float = 0.4  # base of the actors' probabilities of random actions; paper
    eps_alpha: float = 7.0  # exponent of the last actor's; paper
    alpha: float = 0.6  # exponent of the priorities; paper
    beta: float = 0.4  # exponent of the importance weights; paper
    num_cells: int = 256  # units of a hidden layer
    depth: int = 2  # hidden layers
    max_grad_norm: float = 10.0  # limit of the gradient's norm; paper: 40
    eval_episodes: int = 100  # episodes after training; their mean return is the score
    video: bool = True  # write a video of the trained policy
    log_dir: str = "runs"  # folder of the run's own folder


def make_env(name: str) -> TransformedEnv:
    """Return the environment of an actor."""
    return TransformedEnv(GymEnv(name), Compose(DoubleToFloat(), RewardSum()))


class Explorer(TensorDictModuleBase):
    """Acts greedily, or at random with a probability that is no weight: updates of the weights leave it alone."""

    def __init__(self, actor: QValueActor, eps: float) -> None:
        super().__init__()
        self.actor, self.eps = actor, eps
        self.in_keys, self.out_keys = actor.in_keys, actor.out_keys

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write ``action``."""
        tensordict = self.actor(tensordict)
        if torch.rand(()) < self.eps:
            tensordict["action"] = self.actor.spec["action"].rand().to(tensordict["action"].dtype)
        return tensordict


def main(args: Args) -> float:
    """Train; return the mean return of the evaluation."""
    run = Experiment("apex_dqn", args)
    env = make_env(args.env)
    num_obs, num_act = env.observation_spec["observation"].shape[-1], env.action_spec.shape[-1]
    net = MLP(num_obs, num_act, num_cells=[args.num_cells] * args.depth, activation_class=nn.ReLU)
    actor = QValueActor(net, spec=env.action_spec)
    loss_module = DQNLoss(actor, loss_function="smooth_l1", gamma=args.gamma, double_dqn=True)
    init = {"address": args.address}

    # Data: a buffer in an actor of its own, which the others write to
    buffer = RayReplayBuffer(
        replay_buffer_cls=TensorDictReplayBuffer,
        storage=LazyTensorStorage(args.buffer_size),
        sampler=PrioritizedSampler(args.buffer_size, alpha=args.alpha, beta=args.beta),
        batch_size=args.batch_size,
        ray_init_config=init,
    )
    last = max(args.num_actors - 1, 1)
    eps = [args.eps ** (1 + args.eps_alpha * i / last) for i in range(args.num_actors)]
    collector = RayCollector(
        partial(make_env, args.env),
        policy_factory=[partial(Explorer, actor, each) for each in eps],
        sync=False,
        num_collectors=args.num_actors,
        frames_per_batch=args.frames_per_batch,
        total_frames=args.total_frames,
        init_random_frames=args.learning_starts,
        replay_buffer=buffer,
        postproc=MultiStep(args.gamma, args.n_steps),
        on_failure="restart",
    )
    collector.set_seed(args.seed)
    sent = Explorer(actor, 0.0)  # has the weights by the names that the policies of the actors have
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=args.lr)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(collector))
    target_update = HardUpdate(loss_module, value_network_update_interval=args.updates_per_target)

    def prioritize(first: int) -> int:
        """Give the transitions from number ``first`` on the priorities of their errors; return how many there are."""
        written = buffer.storage.written
        newest = torch.arange(max(first, written - args.buffer_size), written) % args.buffer_size
        if len(newest):
            batch = buffer[newest].set("index", newest)
            with torch.no_grad():
                loss_module(batch)
            buffer.update_tensordict_priority(batch.select("index", "td_error"))
        return written

    losses, known = {}, 0
    for _ in collector:  # as fast as the learner uses the data
        count = collector.stats()["frames"]
        batch = buffer[torch.arange(count - args.frames_per_batch, count) % args.buffer_size]
        known = prioritize(known)
        if count > args.learning_starts:
            for update in range(int(args.frames_per_batch * args.updates_per_frame)):
                sample = buffer.sample()
                losses = loss_module(sample)
                optimizer.zero_grad()
                losses.backward()
                nn.utils.clip_grad_norm_(loss_module.parameters(), args.max_grad_norm)
                optimizer.step()
                target_update.step()
                buffer.update_tensordict_priority(sample.select("index", "td_error"))
                if update % args.updates_per_sync == 0:
                    collector.update_policy_weights_(sent)
                    known = prioritize(known)
            scheduler.step()
        run.log(batch, **losses)
    collector.shutdown()
    buffer.close()
    return run.finish(env, actor)


if __name__ == "__main__":
    main(parse_args(Args, __doc__))
