"""Runs that are killed again and again, and go on: do they end with the same numbers to the bit?

    python benchmarks/resume.py [--only PPO SAC] [--kills 20]

Each case is trained once without interruption, then again, killed by SIGKILL at random moments and resumed from the
last checkpoint, five times a run, until it has ended. Compared are parameters, states of optimisers, generators and
environments, the replay buffer, and the metrics of the run. Exits with 1 if anything differs. Linux only.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase

import torchrl
from torchrl._core.safe_load import load_file
from torchrl.checkpoint.serialization import read_tree
from torchrl.envs import GymEnv, ParallelEnv

KILLS_A_RUN = 5
TIMES = ("seconds", "fps", "time", "frames_per_second")  # parts of the names of metrics that a clock measures
SMALL = {"progress_bar": False, "video": False, "final_episodes": 1, "eval_episodes": 2, "num_threads": 1}


def four_in_two() -> ParallelEnv:
    """Return four environments in two workers."""
    return ParallelEnv(2, [lambda: GymEnv("CartPole-v1")] * 4)


# Name: algorithm, environment, settings.
CASES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "PPO, CartPole": ("ppo", "CartPole-v1", {"total_frames": 20_480}),
    "PPO, Pendulum, observations normalised": (
        "ppo",
        "Pendulum-v1",
        {"total_frames": 12_288, "normalize_observations": True},
    ),
    "recurrent PPO, CartPole": ("ppo", "CartPole-v1", {"total_frames": 12_288, "recurrent": "lstm"}),
    "PPO, four CartPoles in two workers": ("ppo", four_in_two, {"total_frames": 12_288}),
    "PPO, HalfCheetah": ("ppo", "HalfCheetah-v5", {"total_frames": 12_288}),
    "PPO, LunarLander": ("ppo", "LunarLander-v3", {"total_frames": 16_384}),
    "PPO, Pong": ("ppo", "ALE/Pong-v5", {"total_frames": 4_096}),
    "DQN, priorities, CartPole": ("dqn", "CartPole-v1", {"total_frames": 12_000, "prioritized": True}),
    "DQN, LunarLander": ("dqn", "LunarLander-v3", {"total_frames": 8_000}),
    "SAC, Pendulum": ("sac", "Pendulum-v1", {"total_frames": 1_200}),
    "SAC, HalfCheetah": ("sac", "HalfCheetah-v5", {"total_frames": 1_000, "init_random_frames": 300}),
}


def run(case: str, folder: Path) -> None:
    """Train a case from its last checkpoint, or from the start."""
    algorithm, env, settings = CASES[case]
    torch.set_num_threads(1)
    runs = sorted(folder.glob("*/checkpoint"))
    if runs:
        torchrl.resume(runs[0].parent, None if isinstance(env, str) else env)
        return
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed before its first save
    frames = settings["total_frames"]
    torchrl.train(
        algorithm,
        env,
        seed=1,
        log_dir=str(folder),
        save_interval=frames // 12,
        eval_interval=frames // 4,
        **SMALL,
        **settings,
    )


def in_a_process(work: Callable[[], None], kill_after: float | None = None) -> bool:
    """Run a function in a process of its own, perhaps kill it; return whether it ended by itself."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.setpgid(0, 0)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    end = None if kill_after is None else time.monotonic() + kill_after
    while True:
        done, status = os.waitpid(pid, os.WNOHANG if end else 0)
        if done:
            break
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            end = None
        time.sleep(0.01)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(f"it ended with {code}")
    return code == 0


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Return the tensors and values of a nested state by their paths."""
    if isinstance(value, TensorDictBase):
        value = value.to_dict()
    if isinstance(value, dict):
        return {k: v for name, part in value.items() for k, v in leaves(part, f"{path}/{name}").items()}
    if isinstance(value, list | tuple):
        return {k: v for i, part in enumerate(value) for k, v in leaves(part, f"{path}/{i}").items()}
    return {path: value}


def found(folder: Path) -> dict[str, Any]:
    """Return all that is compared of a run that has ended."""
    (home,) = (path.parent for path in folder.glob("*/checkpoint"))
    state: dict[str, Any] = {}
    for file in sorted((home / "checkpoint").rglob("*")):
        name = str(file.relative_to(home))
        if file.name == "state.json":
            state |= leaves(read_tree(file.parent), name)
        elif file.suffix == ".pt" and not (file.parent / "state.json").exists():
            state |= leaves(load_file(file), name)
        elif file.is_file() and file.suffix != ".pt" and file.name not in ("manifest.json", "CHECKSUMS"):
            state[name] = file.read_bytes()
    for file in sorted(home.glob("*.csv")):
        for i, row in enumerate(csv.DictReader(file.open())):
            for name, value in row.items():
                if not any(part in name for part in TIMES):
                    state[f"{file.name}/{i}/{name}"] = value
    return state


def same(one: Any, other: Any) -> bool:
    """Return whether two values are equal to the bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        one, other = one.numpy(), other.numpy()
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    return one == other or one != one  # NaN


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the paths at which two runs differ."""
    # Spaces draw seeds that nobody set; which of the parts that cannot be saved is named first depends on addresses.
    paths = [path for path in sorted({*one, *other}) if "_space/" not in path and not path.endswith("episodes/reason")]
    return [path for path in paths if not same(one.get(path), other.get(path))]


def check(case: str, kills: int, home: Path) -> tuple[int, list[str]]:
    """Return how often a case was killed, and where runs that went on differ from the one that did not."""
    start = time.monotonic()
    in_a_process(lambda: run(case, home / "straight"))
    seconds = time.monotonic() - start
    expected = found(home / "straight")
    killed, wrong = 0, []
    while killed < kills and not wrong:
        shutil.rmtree(home / "killed", ignore_errors=True)
        for _ in range(min(KILLS_A_RUN, kills - killed)):
            if in_a_process(lambda: run(case, home / "killed"), random.uniform(0.1, 0.7) * seconds):
                break
            killed += 1
        in_a_process(lambda: run(case, home / "killed"))
        wrong = differences(expected, found(home / "killed"))
    return killed, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of cases")
    parser.add_argument("--kills", type=int, default=20, help="of each case")
    args = parser.parse_args()
    bad = 0
    print(f"{'case':<42}{'kills':>6}  equal")
    for case in CASES:
        if args.only and not any(part in case for part in args.only):
            continue
        home = Path(tempfile.mkdtemp())
        try:
            kills, wrong = check(case, args.kills, home)
            print(
                f"{case:<42}{kills:>6}  {'yes' if not wrong else f'NO: {len(wrong)} entries, such as {wrong[:4]}'}",
                flush=True,
            )
        except Exception as error:
            wrong = [str(error)]
            print(f"{case:<42}        {error}", flush=True)
        bad += bool(wrong)
        shutil.rmtree(home, ignore_errors=True)
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
