"""PPO and SAC from the first line to the last, beside Stable-Baselines3 with the same numbers.

PPO also beside a loop by hand, which says how much of the time is the arithmetic's and gymnasium's.

PEER_SB3=path/of/its/virtual/environment python benchmarks/whole_loop.py [ppo] [sac]
"""

from __future__ import annotations

import sys

import torch
from peers.beside import Peer, in_turn, report, timed
from ppo_by_hand import PPOByHand
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torch import nn

from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.envs import GymEnv
from torchrl.modules import MLP, OneHotCategorical, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import ClipPPOLoss, SACLoss, SoftUpdate
from torchrl.objectives.value import GAE

ENVS, STEPS, EPOCHS, MINIBATCHES = 8, 128, 4, 4
PPO_FRAMES, SAC_FRAMES = ENVS * STEPS, 25


class PPO:
    """Separate networks of 64 x 64 tanh units for actor and critic, on eight CartPoles."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        env = GymEnv("CartPole-v1", num_envs=ENVS)
        cells = {"num_cells": [64, 64], "activation_class": nn.Tanh}
        actor = ProbabilisticActor(
            TensorDictModule(MLP(4, 2, **cells), ["observation"], ["logits"]),
            in_keys=["logits"],
            spec=env.action_spec_unbatched,
            distribution_class=OneHotCategorical,
            return_log_prob=True,
        )
        critic = ValueOperator(MLP(4, 1, **cells), in_keys=["observation"])
        self.collector = iter(Collector(env, actor, frames_per_batch=ENVS * STEPS))
        self.advantage = GAE(gamma=0.99, lmbda=0.95, value_network=critic)
        self.loss = ClipPPOLoss(
            actor,
            critic,
            clip_epsilon=0.2,
            entropy_coeff=0.0,
            critic_coeff=0.5,
            loss_critic_type="l2",
            normalize_advantage=True,
        )
        self.buffer = TensorDictReplayBuffer(
            storage=LazyTensorStorage(ENVS * STEPS),
            sampler=SamplerWithoutReplacement(),
            batch_size=ENVS * STEPS // MINIBATCHES,
        )
        self.parameters = list(self.loss.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=3e-4, eps=1e-5)

    def train(self, frames: int) -> None:
        for _ in range(frames // (ENVS * STEPS)):
            batch = next(self.collector)
            self.advantage(batch)
            self.buffer.extend(batch.reshape(-1))
            for _ in range(EPOCHS):
                for minibatch in self.buffer:
                    losses = self.loss(minibatch)
                    loss = losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]
                    self.optimizer.zero_grad()
                    loss.backward()
                    nn.utils.clip_grad_norm_(self.parameters, 0.5)
                    self.optimizer.step()


class SAC:
    """Two layers of 256 units in actor and critics, batches of 256, one update a frame."""

    def __init__(self, *, fused: bool) -> None:
        torch.manual_seed(0)
        env = GymEnv("Pendulum-v1")
        cells = {"num_cells": [256, 256], "activation_class": nn.ReLU}
        actor = ProbabilisticActor(
            TensorDictModule(
                nn.Sequential(MLP(3, 2, **cells), NormalParamExtractor()), ["observation"], ["loc", "scale"]
            ),
            in_keys=["loc", "scale"],
            spec=env.action_spec,
            distribution_class=TanhNormal,
            distribution_kwargs={"low": -2.0, "high": 2.0},
        )
        critic = ValueOperator(MLP(4, 1, **cells), in_keys=["observation", "action"])
        self.loss = SACLoss(actor, critic, num_qvalue_nets=2, loss_function="l2", action_spec=env.action_spec)
        self.target_update = SoftUpdate(self.loss, tau=0.005)
        self.collector = iter(Collector(env, actor, frames_per_batch=1, init_random_frames=100))
        self.buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(10**6), batch_size=256)
        self.optimizer = torch.optim.Adam(self.loss.parameters(), lr=3e-4, fused=fused or None)
        for _ in range(100):
            self.buffer.extend(next(self.collector))

    def train(self, frames: int) -> None:
        for _ in range(frames):
            self.buffer.extend(next(self.collector))
            losses = self.loss(self.buffer.sample())
            loss = losses["loss_actor"] + losses["loss_qvalue"] + losses["loss_alpha"]
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.target_update.step()


def ppo() -> None:
    print("PPO, CartPole-v1: 8 environments x 128 steps, 4 epochs of 4 minibatches, 64 x 64")
    peer = Peer("PEER_SB3", "sb3.py", "ppo")
    if not peer.is_there:
        return
    ours, by_hand = PPO(), PPOByHand(ENVS, STEPS, EPOCHS, MINIBATCHES)
    rounds = {
        "Stable-Baselines3": lambda: peer.round(PPO_FRAMES),
        "torchrl": lambda: timed(lambda: ours.train(PPO_FRAMES)),
        "by hand": lambda: timed(lambda: by_hand.train(PPO_FRAMES)),
    }
    report(in_turn(rounds, repeat=25), PPO_FRAMES, "Stable-Baselines3")
    peer.close()


def sac() -> None:
    print("SAC, Pendulum-v1: 256 x 256, batches of 256, one update a frame")
    peer = Peer("PEER_SB3", "sb3.py", "sac")
    if not peer.is_there:
        return
    ours, fused = SAC(fused=False), SAC(fused=True)
    rounds = {
        "Stable-Baselines3": lambda: peer.round(SAC_FRAMES),
        "torchrl": lambda: timed(lambda: ours.train(SAC_FRAMES)),
        "torchrl, fused Adam": lambda: timed(lambda: fused.train(SAC_FRAMES)),
    }
    report(in_turn(rounds, repeat=5), SAC_FRAMES, "Stable-Baselines3")
    peer.close()


def main(*names: str) -> None:
    torch.set_num_threads(1)
    for name in names or ("ppo", "sac"):
        {"ppo": ppo, "sac": sac}[name]()


if __name__ == "__main__":
    main(*sys.argv[1:])
