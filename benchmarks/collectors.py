"""Frames per second of collectors in worker processes, beside gymnasium's asynchronous vector.

python benchmarks/collectors.py
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import gymnasium
import torch
from floors import network
from gymnasium.vector import AsyncVectorEnv
from keep import keep
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

from torchrl.collectors import BaseCollector, MultiAsyncCollector, MultiSyncCollector
from torchrl.envs import GymEnv
from torchrl.modules import QValueModule

WORKERS, ENVS, FRAMES, BATCHES = 2, 4, 2_048, 10


@torch.no_grad()
def gymnasium_loop(policy: nn.Module) -> Iterator[None]:
    """Step as many CartPoles in processes of their own; nothing is kept. One batch at a time."""
    env = AsyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * (WORKERS * ENVS))
    observation, _ = env.reset(seed=0)
    while True:
        for _ in range(FRAMES // (WORKERS * ENVS)):
            action = policy(torch.from_numpy(observation)).argmax(-1).numpy()
            observation, *_ = env.step(action)
        yield


def collector(kind: type[BaseCollector]) -> BaseCollector:
    policy = TensorDictSequential(
        TensorDictModule(network(), in_keys=["observation"], out_keys=["action_value"]),
        QValueModule(spec=GymEnv("CartPole-v1").action_spec),
    )
    make_env = lambda: GymEnv("CartPole-v1", num_envs=ENVS)  # noqa: E731
    return kind([make_env] * WORKERS, policy, frames_per_batch=FRAMES)


def rates(loops: dict[str, Callable[[], object]], repeat: int = 3) -> dict[str, float]:
    """Return frames/s of each: the best of several runs of ten batches.

    One batch says nothing of collectors that go on beside us: it may lie ready.
    """
    best = dict.fromkeys(loops, float("inf"))
    for name, batch in loops.items():
        batch()
        for _ in range(repeat):
            start = time.perf_counter()
            for _ in range(BATCHES):
                batch()
            best[name] = min(best[name], time.perf_counter() - start)
    return {name: BATCHES * FRAMES / seconds for name, seconds in best.items()}


def update_seconds(collectors: BaseCollector, repeat: int = 50) -> float:
    """Return the seconds that one update of the weights takes."""
    start = time.perf_counter()
    for _ in range(repeat):
        collectors.update_policy_weights_()
    return (time.perf_counter() - start) / repeat


def main() -> None:
    torch.set_num_threads(1)
    sync = collector(MultiSyncCollector)
    reference = gymnasium_loop(network())
    found = rates({"gymnasium, asynchronous": lambda: next(reference), "sync": sync.next})
    seconds = update_seconds(sync)
    sync.shutdown()
    reference.close()
    beside = collector(MultiAsyncCollector)
    found |= rates({"async": beside.next})
    beside.shutdown()
    floor = found["gymnasium, asynchronous"]
    print(f"CartPole-v1, {WORKERS} workers with {ENVS} each")
    for name, rate in found.items():
        print(f"{name:40s} {rate:8,.0f} frames/s, ratio {rate / floor:.2f}")
    print(f"{'one update of the weights':40s} {1e6 * seconds:8,.0f} us")
    keep(
        "collectors_in_workers",
        [
            {"CartPole-v1, 2 workers with 4 each": name, "frames/s": round(rate), "ratio": rate / floor}
            for name, rate in found.items()
        ],
    )


if __name__ == "__main__":
    main()
