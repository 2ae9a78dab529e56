"""Frames per second of a collector: beside the hand-written loop, and beside a peer with this API.

[PEER_TORCHRL=path/of/its/virtual/environment] python benchmarks/collect.py
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from floors import cartpoles, collect_cartpole, network
from keep import Row, keep
from peers.beside import Peer, in_turn, report, timed
from peers.same_api import pendulum
from tensordict.nn import TensorDictModule, TensorDictSequential

from torchrl.collectors import Collector
from torchrl.envs import GymEnv
from torchrl.modules import QValueModule

FRAMES, PENDULUM_FRAMES = 1_600, 200


def collect(env: GymEnv, frames: int) -> Callable[[], object]:
    """Return a call that collects a batch of ``frames`` with the greedy policy."""
    policy = TensorDictSequential(
        TensorDictModule(network(), in_keys=["observation"], out_keys=["action_value"]),
        QValueModule(spec=env.action_spec),
    )
    collector = Collector(env, policy, frames_per_batch=frames)
    return collector.rollout


def beside_by_hand() -> list[Row]:
    """Collect CartPole, one and eight in a native vector, with a library and without."""
    policy = network()
    rows = {
        "CartPole-v1, one": (collect(GymEnv("CartPole-v1"), FRAMES), lambda: collect_cartpole(policy, FRAMES)),
        "CartPole-v1, eight in a native vector": (
            collect(GymEnv("CartPole-v1", num_envs=8), FRAMES),
            lambda: cartpoles(policy, FRAMES),
        ),
    }
    found: list[Row] = []
    for name, (ours, floor) in rows.items():
        print(name)
        rounds = {"by hand": partial(timed, floor), "torchrl": partial(timed, ours)}
        found += [{"task": name, **row} for row in report(in_turn(rounds, repeat=9), FRAMES, "by hand")]
    return found


def beside_a_peer() -> list[Row]:
    """Collect with the same program in both: tanh-normal actor, log-probability, two transforms."""
    print("Pendulum-v1, tanh-normal actor with log-probabilities, two transforms")
    peer = Peer("PEER_TORCHRL", "same_api.py")
    if not peer.is_there:
        return []
    batches = iter(pendulum(PENDULUM_FRAMES))
    rounds = {"peer": lambda: peer.round(PENDULUM_FRAMES), "torchrl": lambda: timed(lambda: next(batches))}
    rows = report(in_turn(rounds, repeat=9), PENDULUM_FRAMES, "peer")
    peer.close()
    return [{"task": "Pendulum-v1, beside a peer", **row} for row in rows]


def main() -> None:
    torch.set_num_threads(1)
    keep("collect", beside_by_hand() + beside_a_peer())


if __name__ == "__main__":
    main()
