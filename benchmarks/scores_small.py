"""Scores of the algorithms on small tasks, against those that they should reach.

    python benchmarks/scores_small.py [--only ppo,sac] [--seeds 3] [--processes 2] [--long]

Each run is a process with one thread; its score, the mean return of 100 deterministic episodes after training,
is kept in ``benchmarks/results/scores_small/<algorithm>_<task>_<seed>.json``. Runs whose file exists are not
repeated: remove it to train anew. Offline algorithms learn from transitions of an agent that was trained for little
and of one that was trained for long, half each; they are made once and kept beside the results, in ``data``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "scores_small"

# Algorithm, task, score to reach, and frames (gradient steps, if offline) where they are fewer than by default.
# Scores of CartPole and LunarLander are where gymnasium counts them as solved; those of Acrobot and Pendulum are what
# rl-baselines3-zoo and CleanRL report, less their spread; that of Breakout is twelve times
# what random actions get, 0.4.
RUNS = [
    ("ppo", "CartPole-v1", 475, None),
    ("ppo", "Acrobot-v1", -90, None),
    ("ppo", "Pendulum-v1", -180, None),
    ("ppo", "LunarLander-v3", 200, None),
    ("a2c", "CartPole-v1", 475, None),
    ("reinforce", "CartPole-v1", 475, None),
    ("impala", "CartPole-v1", 475, None),
    ("dqn", "CartPole-v1", 475, None),
    ("dqn", "MinAtar/Breakout-v1", 5, None),
    ("qr_dqn", "CartPole-v1", 475, None),
    ("discrete_sac", "CartPole-v1", 475, None),
    ("ddpg", "Pendulum-v1", -160, None),
    ("td3", "Pendulum-v1", -160, None),
    ("sac", "Pendulum-v1", -160, 10_000),
    ("redq", "Pendulum-v1", -160, 6_000),
    ("crossq", "Pendulum-v1", -160, 10_000),
    ("tqc", "Pendulum-v1", -160, 10_000),
    # of the data: the mean return for behaviour cloning, nine tenths of the best episodes for the others
    ("bc", "CartPole-v1", 100, None),
    ("iql", "CartPole-v1", 450, None),
    ("cql", "CartPole-v1", 450, None),
    ("decision_transformer", "CartPole-v1", 450, None),
    ("td3_bc", "Pendulum-v1", -180, None),
    ("offline_to_online", "Pendulum-v1", -160, None),
]
LONG = {("ppo", "LunarLander-v3"), ("dqn", "MinAtar/Breakout-v1")}  # up to forty minutes each
OFFLINE = {"bc", "iql", "cql", "decision_transformer", "td3_bc", "offline_to_online"}
# What makes their data: an algorithm, frames of the weaker and of the better agent.
DATA = {"CartPole-v1": ("ppo", 8_000, 60_000), "Pendulum-v1": ("sac", 2_500, 8_000)}
DATA_FRAMES = 20_000  # of each agent


def dataset(task: str):
    """Return a replay buffer with the transitions of two agents; they are made if there are none yet."""
    import torchrl  # noqa: PLC0415
    from torchrl.collectors import Collector  # noqa: PLC0415
    from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer  # noqa: PLC0415
    from torchrl.envs import GymEnv  # noqa: PLC0415

    folder = RESULTS / "data" / task
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(2 * DATA_FRAMES))
    if folder.exists():
        buffer.loads(folder)
        return buffer
    algorithm, *lengths = DATA[task]
    for frames in lengths:
        agent = torchrl.train(
            algorithm, task, total_frames=frames, seed=0, log_dir="", eval_interval=10**9, progress_bar=False
        )
        env = agent.make_env(GymEnv(task, num_envs=10), seed=0)
        batch = next(iter(Collector(env, agent.policy, frames_per_batch=DATA_FRAMES, set_truncated=True)))
        buffer.extend(batch.exclude("collector", ("next", "collector")).reshape(-1))
    buffer.dumps(folder)
    return buffer


def run(algorithm: str, task: str, seed: int) -> dict:
    """Train and evaluate; return score, spread and seconds."""
    import torchrl  # noqa: PLC0415 - not in the process that starts the others

    start = time.perf_counter()
    options = {"dataset": dataset(task)} if algorithm in OFFLINE else {}
    frames = next(each[3] for each in RUNS if each[:2] == (algorithm, task))
    if frames:
        options["total_frames"] = frames
    agent = torchrl.train(algorithm, task, seed=seed, log_dir="", eval_interval=10**9, progress_bar=False, **options)
    seconds = time.perf_counter() - start
    result = agent.evaluate(100)
    return {
        "algorithm": algorithm,
        "task": task,
        "seed": seed,
        "score": result.mean,
        "std": result.std,
        "frames": agent.config.total_frames,
        "seconds": round(seconds, 1),
    }


def result_of(algorithm: str, task: str, seed: int) -> dict:
    """Return the result of a run, from its file if there is one."""
    file = RESULTS / f"{algorithm}_{task.replace('/', '-')}_{seed}.json"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        done = in_a_process("--run", algorithm, task, str(seed))
        if done.returncode:
            return {"error": done.stderr.strip().splitlines()[-1]}
        file.write_text(done.stdout.splitlines()[-1] + "\n")
    return json.loads(file.read_text())


def in_a_process(*args: str) -> subprocess.CompletedProcess:
    """Run this script with ``args``, on one thread."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, __file__, *args], capture_output=True, text=True, env=env)


def main() -> int:
    """Run what is missing; print a table; return 1 if a mean score is below its reference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="algorithms, with commas between them; all of them by default")
    parser.add_argument("--long", action="store_true", help="also LunarLander and MinAtar, forty minutes a run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        algorithm, task, seed = args.run
        print(json.dumps(run(algorithm, task, int(seed))))
        return 0
    if args.data:
        dataset(args.data)
        return 0
    chosen = [
        each
        for each in RUNS
        if (args.long or each[:2] not in LONG) and (not args.only or each[0] in args.only.split(","))
    ]
    missed = 0
    with ThreadPoolExecutor(args.processes) as pool:
        for done in pool.map(
            lambda task: in_a_process("--data", task), {each[1] for each in chosen if each[0] in OFFLINE}
        ):
            done.check_returncode()
        jobs = {
            (algorithm, task): [pool.submit(result_of, algorithm, task, seed) for seed in range(args.seeds)]
            for algorithm, task, *_ in chosen
        }
        print(f"{'algorithm':20} {'task':14} {'reference':>9} {'mean':>8}  scores; seconds")
        for algorithm, task, reference, _ in chosen:
            found = [job.result() for job in jobs[algorithm, task]]
            for each in found:
                if "error" in each:
                    print(f"{algorithm:20} {task:14} failed: {each['error']}")
            scores = [each["score"] for each in found if "score" in each]
            mean = sum(scores) / max(1, len(scores))
            missed += len(scores) < len(found) or mean < reference
            listed = " ".join(f"{score:.1f}" for score in scores)
            seconds = " ".join(f"{each['seconds']:.0f}" for each in found if "score" in each)
            print(f"{algorithm:20} {task:14} {reference:9} {mean:8.1f}  {listed}; {seconds}", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
