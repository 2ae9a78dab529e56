"""Frames per second of a collector, as a ratio to the hand-written loop with the same network.

python benchmarks/collect.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from floors import cartpoles, collect_cartpole, network
from tensordict.nn import TensorDictModule, TensorDictSequential

from torchrl.collectors import Collector
from torchrl.envs import GymEnv
from torchrl.modules import QValueModule

FRAMES = 8_000


def collect(env: GymEnv, frames: int) -> Callable[[], object]:
    """Return a call that collects a batch of ``frames`` with the greedy policy."""
    policy = TensorDictSequential(
        TensorDictModule(network(), in_keys=["observation"], out_keys=["action_value"]),
        QValueModule(spec=env.action_spec),
    )
    collector = Collector(env, policy, frames_per_batch=frames)
    return collector.rollout


def ratio(ours: Callable[[], object], floor: Callable[[], object], repeat: int = 7) -> tuple:
    """Return frames/s of both, each the best of several calls that take turns, and their ratio."""
    best = {ours: float("inf"), floor: float("inf")}
    for _ in range(repeat):
        for function in best:
            start = time.process_time()
            function()
            best[function] = min(best[function], time.process_time() - start)
    fast, reference = FRAMES / best[ours], FRAMES / best[floor]
    return fast, reference, fast / reference


def main() -> None:
    torch.set_num_threads(1)
    policy = network()
    rows = {
        "CartPole-v1, one": (
            collect(GymEnv("CartPole-v1"), FRAMES),
            lambda: collect_cartpole(policy, FRAMES),
        ),
        "CartPole-v1, eight in a native vector": (
            collect(GymEnv("CartPole-v1", num_envs=8), FRAMES),
            lambda: cartpoles(policy, FRAMES),
        ),
    }
    for name, (ours, floor) in rows.items():
        fast, reference, share = ratio(ours, floor)
        print(f"{name:40s} {fast:8,.0f} frames/s, by hand {reference:8,.0f}, ratio {share:.2f}")


if __name__ == "__main__":
    main()
