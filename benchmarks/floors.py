"""Hand-written loops that the library is measured against: what the same work costs without it.

python benchmarks/floors.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import gymnasium
import numpy as np
import torch
from gymnasium.vector import SyncVectorEnv
from torch import Tensor, nn

SHAPES = [(64, 1000), (256, 2048), (8, 128), (1, 2048)]


def best_of(function: Callable[[], object], repeat: int = 5) -> float:
    """Return the seconds of the fastest of several calls, the first one not counted."""
    function()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def network() -> nn.Sequential:
    """Return the two-layer policy of the README's example: four observations, two logits."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))


@torch.no_grad()
def cartpole(policy: nn.Module, frames: int) -> None:
    """Step one CartPole-v1 with the greedy action; nothing is kept."""
    env = gymnasium.make("CartPole-v1")
    observation, _ = env.reset(seed=0)
    for _ in range(frames):
        action = policy(torch.from_numpy(observation)).argmax(-1).item()
        observation, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            observation, _ = env.reset()
    env.close()


@torch.no_grad()
def cartpoles(policy: nn.Module, frames: int, num_envs: int = 8) -> None:
    """Step native vector CartPoles with the greedy actions; they reset themselves."""
    env = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1") for _ in range(num_envs)])
    observation, _ = env.reset(seed=0)
    for _ in range(frames // num_envs):
        action = policy(torch.from_numpy(observation)).argmax(-1).numpy()
        observation, _, _, _, _ = env.step(action)
    env.close()


@torch.no_grad()
def collect_cartpole(policy: nn.Module, frames: int) -> dict[str, Tensor]:
    """Do as :func:`cartpole`, and keep the transitions in arrays made beforehand."""
    env = gymnasium.make("CartPole-v1")
    kept = {
        "observation": np.empty((frames, 4), np.float32),
        "action": np.empty(frames, np.int64),
        "reward": np.empty(frames, np.float32),
        "next_observation": np.empty((frames, 4), np.float32),
        "terminated": np.empty(frames, bool),
        "truncated": np.empty(frames, bool),
    }
    observation, _ = env.reset(seed=0)
    for t in range(frames):
        action = policy(torch.from_numpy(observation)).argmax(-1).item()
        after, reward, terminated, truncated, _ = env.step(action)
        step = (observation, action, reward, after, terminated, truncated)
        for column, value in zip(kept.values(), step, strict=True):
            column[t] = value
        observation = env.reset()[0] if terminated or truncated else after
    env.close()
    return {name: torch.from_numpy(column) for name, column in kept.items()}


def gae(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    done: Tensor,
    terminated: Tensor,
    gamma: float = 0.99,
    lmbda: float = 0.95,
) -> Tensor:
    """Return generalised advantages ``[N, T]`` by a loop over time, of numpy rows ``[N]``.

    Args:
        reward: ``[N, T]``.
        value: Value of the state before each step ``[N, T]``.
        next_value: Value of the state after it ``[N, T]``.
        done: Where the recursion is cut ``[N, T]``.
        terminated: Where nothing follows ``[N, T]``.
        gamma: Discount factor.
        lmbda: Weight of longer estimates.

    Source: Schulman et al., 2016, https://arxiv.org/abs/1506.02438, eq. 16.
    """
    discount = gamma * ~terminated
    delta = np.ascontiguousarray((reward + discount * next_value - value).numpy().T)  # [T, N]
    decay = np.ascontiguousarray((gamma * lmbda * ~done).numpy().T)  # [T, N]
    advantage = np.empty_like(delta)
    last = np.zeros(delta.shape[1], delta.dtype)  # [N]
    for t in range(len(delta) - 1, -1, -1):
        last = delta[t] + decay[t] * last
        advantage[t] = last
    return torch.from_numpy(advantage).T


def gae_inputs(rows: int, steps: int) -> dict[str, Tensor]:
    """Return random inputs of :func:`gae`, with an end about every hundred steps."""
    torch.manual_seed(0)
    terminated = torch.rand(rows, steps) < 0.005
    return {
        "reward": torch.randn(rows, steps),
        "value": torch.randn(rows, steps),
        "next_value": torch.randn(rows, steps),
        "done": terminated | (torch.rand(rows, steps) < 0.005),
        "terminated": terminated,
    }


def main() -> None:
    torch.set_num_threads(1)
    policy, frames = network(), 8_000
    for name, loop in {
        "CartPole-v1, one": cartpole,
        "CartPole-v1, one, transitions kept": collect_cartpole,
        "CartPole-v1, eight in a native vector": cartpoles,
    }.items():
        rate = frames / best_of(partial(loop, policy, frames))
        print(f"{name:40s} {rate:10,.0f} frames/s")
    for rows, steps in SHAPES:
        seconds = best_of(partial(gae, **gae_inputs(rows, steps)), 20)
        print(f"{f'GAE, time-major loop, {rows} x {steps}':40s} {1000 * seconds:10.2f} ms")


if __name__ == "__main__":
    main()
