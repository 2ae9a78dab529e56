"""Frames per second of serial and parallel environments, and how long workers take to start.

python benchmarks/batched_envs.py

Eight CartPoles with the greedy action of a small network. In one process the measure is the
hand-written loop over gymnasium's ``SyncVectorEnv``; over two workers it is the same loop over its
``AsyncVectorEnv``, which runs a process an environment. A single environment with random actions is
measured against gymnasium bare. Calls take turns and the best of each counts, on the clock. A
machine that others use too hands out its cores by the number of processes; what does not depend on
that is the processor time of all processes together, shown beside it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import gymnasium
import torch
from floors import cartpoles, network
from gymnasium.vector import AsyncVectorEnv
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

from torchrl.collectors import Collector
from torchrl.envs import EnvBase, GymEnv, ParallelEnv, SerialEnv
from torchrl.modules import QValueModule

FRAMES, NUM_ENVS = 4_000, 8


def cartpole() -> GymEnv:
    return GymEnv("CartPole-v1")


def random_steps() -> None:
    """Step one CartPole at random by hand; nothing is kept."""
    env = gymnasium.make("CartPole-v1")
    env.reset(seed=0)
    for _ in range(FRAMES):
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()


class AsyncLoop:
    """The hand-written loop over gymnasium's worker processes; nothing is kept."""

    def __init__(self, policy: nn.Module) -> None:
        make = partial(gymnasium.make, "CartPole-v1")
        self.env, self.policy = AsyncVectorEnv([make] * NUM_ENVS), policy
        self.observation, _ = self.env.reset(seed=0)

    @torch.no_grad()
    def __call__(self) -> None:
        for _ in range(FRAMES // NUM_ENVS):
            action = self.policy(torch.from_numpy(self.observation)).argmax(-1).numpy()
            self.observation, *_ = self.env.step(action)


def collect(env: EnvBase) -> Callable[[], object]:
    """Return a call that collects a batch with the greedy policy."""
    policy = TensorDictSequential(
        TensorDictModule(network(), in_keys=["observation"], out_keys=["action_value"]),
        QValueModule(spec=env.action_spec),
    )
    return Collector(env, policy, frames_per_batch=FRAMES).rollout


def processor_time() -> float:
    """Return the seconds that this process and its children have computed; Linux only."""
    ticks, own = os.sysconf("SC_CLK_TCK"), str(os.getpid())
    total = time.process_time()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[1] == own:
            total += (int(fields[11]) + int(fields[12])) / ticks
    return total


def measure(calls: dict[str, Callable[[], object]], repeat: int = 7) -> tuple[dict[str, float], dict[str, float]]:
    """Return the frames/s of each call in its best turn, and its processor microseconds a frame."""
    best, spent = dict.fromkeys(calls, float("inf")), dict.fromkeys(calls, 0.0)
    for function in calls.values():
        function()
    for _ in range(repeat):
        for name, function in calls.items():
            before, start = processor_time(), time.perf_counter()
            function()
            best[name] = min(best[name], time.perf_counter() - start)
            spent[name] += processor_time() - before
    return (
        {name: FRAMES / seconds for name, seconds in best.items()},
        {name: seconds / repeat / FRAMES * 1e6 for name, seconds in spent.items()},
    )


def start_up(method: str) -> float:
    """Return the seconds from nothing to the first step of eight workers."""
    env = ParallelEnv(NUM_ENVS, cartpole, mp_start_method=method)
    start = time.perf_counter()
    env.rollout(1)
    elapsed = time.perf_counter() - start
    env.close()
    return elapsed


def main() -> None:
    torch.set_num_threads(1)
    policy = network()
    envs = {
        "SerialEnv": SerialEnv(NUM_ENVS, cartpole),
        "ParallelEnv, 1 worker": ParallelEnv(1, [cartpole] * NUM_ENVS),
        "ParallelEnv, 2 workers": ParallelEnv(2, [cartpole] * NUM_ENVS),
        "ParallelEnv, 8 workers": ParallelEnv(NUM_ENVS, cartpole),
    }
    loop = AsyncLoop(policy)
    calls: dict[str, Callable[[], object]] = {name: collect(env) for name, env in envs.items()}
    single = cartpole()
    calls["GymEnv, random actions"] = lambda: single.rollout(FRAMES, break_when_any_done=False)
    calls["gymnasium, random actions"] = random_steps
    calls["SyncVectorEnv by hand"] = partial(cartpoles, policy, FRAMES)
    calls["AsyncVectorEnv by hand"] = loop
    found, spent = measure(calls)
    for env in envs.values():
        env.close()
    loop.env.close()
    floors = {
        "S": "SyncVectorEnv by hand",
        "P": "AsyncVectorEnv by hand",
        "A": "AsyncVectorEnv by hand",
        "G": "gymnasium, random actions",
        "g": "gymnasium, random actions",
    }
    for name, fast in found.items():
        floor = floors[name[0]]
        print(
            f"{name:26s} {fast:8,.0f} frames/s, {fast / found[floor]:5.2f} x {floor}; "
            f"{spent[name]:5.0f} us of processors a frame, {spent[floor] / spent[name]:5.2f} x"
        )
    for method in ("fork", "spawn"):
        print(f"start-up of {NUM_ENVS} workers, {method}: {start_up(method):.2f} s")


if __name__ == "__main__":
    main()
