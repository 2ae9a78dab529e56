"""One run of the tables of scores: train, evaluate, return numbers; a run that was stopped goes on."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from statistics import mean
from typing import Any

import gymnasium
import many_agents
import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.wrappers import TransformObservation
from manifest import Row

import torchrl
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import GymEnv
from torchrl.trainers import Agent, RunFolder

EPISODES = 100  # of the evaluations after training
EVALUATIONS = 20  # during training, of 10 episodes
POINTS = 100  # of a curve
# What makes the data of offline algorithms: an algorithm, frames of a weak and of a good agent, frames of data of each.
DATA = {
    "CartPole-v1": ("ppo", (8_000, 60_000), 20_000),
    "Pendulum-v1": ("sac", (2_500, 8_000), 20_000),
    "HalfCheetah-v5": ("sac", (20_000, 100_000), 50_000),
}


def cart_pole_positions(**kwargs: Any) -> gymnasium.Env:
    """Return a CartPole whose observation lacks the velocities."""
    env = CartPoleEnv(**kwargs)
    low, high = env.observation_space.low[::2], env.observation_space.high[::2]
    return TransformObservation(env, lambda observation: observation[::2], gymnasium.spaces.Box(low, high))


gymnasium.register("CartPolePositions-v1", cart_pole_positions, max_episode_steps=500)


class RepeatAfter(gymnasium.Env):
    """A sequence of symbols: the action that is rewarded is the symbol of ``delay`` steps ago.

    The return of an episode is the share of right actions, 1 at best. Of "RepeatPrevious" of Morad et al., 2023,
    https://arxiv.org/abs/2303.01859, without its deck of cards.
    """

    def __init__(self, symbols: int = 4, delay: int = 4, length: int = 48) -> None:
        self.symbols, self.delay, self.length = symbols, delay, length
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (symbols,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(symbols)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode with a random symbol."""
        super().reset(seed=seed)
        self.seen: list[int] = []
        return self.observe(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Reward the action, show the next symbol."""
        right = len(self.seen) > self.delay and action == self.seen[-1 - self.delay]
        observation = self.observe()
        return observation, right / self.length, len(self.seen) > self.delay + self.length, False, {}

    def observe(self) -> np.ndarray:
        """Return the next symbol, one-hot."""
        self.seen.append(int(self.np_random.integers(self.symbols)))
        return np.eye(self.symbols, dtype=np.float32)[self.seen[-1]]


gymnasium.register("RepeatAfter-v1", RepeatAfter)


class Clock:
    """Seconds of a run, those before it was stopped included, kept in a file."""

    def __init__(self, file: Path) -> None:
        self.file, self.last = file, time.monotonic()
        self.seconds = float(file.read_text()) if file.exists() else 0.0

    def __call__(self, trainer: object = None) -> None:
        now = time.monotonic()
        if trainer is None or now - self.last > 5:
            self.seconds, self.last = self.seconds + now - self.last, now
            self.file.write_text(str(self.seconds))


def data_set(task: str, folder: Path) -> TensorDictReplayBuffer:
    """Return transitions of a weak and of a good agent, which are made if there are none in the folder."""
    algorithm, lengths, frames = DATA[task]
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(len(lengths) * frames))
    if folder.exists():
        buffer.loads(folder)
        return buffer
    for length in lengths:
        agent = torchrl.train(
            algorithm, task, total_frames=length, seed=0, log_dir="", eval_interval=10**9, progress_bar=False
        )
        env = agent.make_env(GymEnv(task, num_envs=10), seed=0)
        batch = next(iter(Collector(env, agent.policy, frames_per_batch=frames, set_truncated=True)))
        buffer.extend(batch.exclude("collector", ("next", "collector")).reshape(-1))
    buffer.dumps(folder)
    return buffer


def train(row: Row, seed: int, home: Path) -> tuple[Agent, Path, float]:
    """Train from the last checkpoint, or from the start; return the agent, the folder of the run, and seconds."""
    home.mkdir(parents=True, exist_ok=True)
    clock = Clock(home / "seconds")
    options: dict[str, Any] = {"callbacks": clock}
    if row.data:
        options["dataset"] = data_set(row.data, home.parent / f"data_{row.data}")
    saved = [path.parent for path in home.glob("*/checkpoint")]
    if saved:
        agent = torchrl.resume(saved[0], **options)
    else:
        for folder in home.glob("*_seed*"):  # stopped before the first save
            shutil.rmtree(folder)
        agent = torchrl.train(
            row.algorithm,
            row.task,
            seed=seed,
            total_frames=row.frames,
            log_dir=str(home),
            eval_interval=max(1, row.frames // EVALUATIONS),
            final_episodes=0,
            progress_bar=False,
            video=False,
            **options,
            **row.settings,
        )
    clock()
    (folder,) = (path.parent for path in home.glob("*/last.agent"))
    return agent, folder, clock.seconds


def run(row: Row, seed: int, home: Path) -> dict[str, Any]:
    """Train and evaluate; return what is kept of a run.

    Args:
        row: What to train.
        seed: Its seed.
        home: A folder for the files of the run, which are removed at its end.
    """
    if row.algorithm in many_agents.ALGORITHMS:
        settings = many_agents.Settings(**row.settings)
        found = many_agents.run(row.algorithm, row.task, row.frames, seed, EVALUATIONS, settings)
        return {**found, "training": curve(found["training"], row.frames), "commit": commit()}
    agent, folder, seconds = train(row, seed, home)
    logs = RunFolder.open(folder)
    found = {"last": agent, "best": Agent.load(folder / "best.agent")}
    result = {
        "algorithm": row.algorithm,
        "task": row.task,
        "frames": row.frames,
        "seed": seed,
        "settings": dict(row.settings),
        "seconds": round(seconds, 1),
        **{name: scored(each.evaluate(EPISODES)) for name, each in found.items()},
        "training": curve(logs.curve("train/episode_return"), row.frames),
        "evaluations": [(frames, round(value, 2)) for frames, value in logs.curve("eval/return")],
        "commit": commit(),
    }
    shutil.rmtree(home)
    return result


def commit() -> str:
    """Return the short name of the commit of this folder."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def scored(evaluation: Any) -> dict[str, float]:
    """Return mean and standard deviation of the returns."""
    return {"mean": round(evaluation.mean, 2), "std": round(evaluation.std, 2)}


def curve(points: list[tuple[int, float]], frames: int) -> list[float | None]:
    """Return the mean of the returns in each hundredth of the frames; ``None`` where no episode ended.

    >>> curve([(1, 2.0), (2, 4.0), (400, 7.0)], 400)[:2]
    [3.0, None]
    """
    parts: list[list[float]] = [[] for _ in range(POINTS)]
    for frame, value in points:
        parts[min(POINTS - 1, max(0, frame - 1) * POINTS // frames)].append(value)
    return [round(mean(part), 2) if part else None for part in parts]
