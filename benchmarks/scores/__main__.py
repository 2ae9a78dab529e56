"""Scores of the algorithms on tasks of the literature, beside what others reach in the same frames.

    python benchmarks/scores [--group small classic] [--only ppo] [--seeds 3] [--processes 2] [--peer] [--report]

Each run is a process with one thread; what is kept of it is ``results/<name of its row>_<seed>.json``, and a run whose
file exists is not repeated: remove it to train anew. One that was stopped goes on from its last checkpoint. ``--peer``
also trains with Stable-Baselines3, of the environment that ``PEER_SB3`` names; ``--report`` only prints. Returns 1 if a
return was not reached.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from manifest import ROWS, Row
from report import image_of, is_reached, plot, read, table

from torchrl.trainers.training import split_settings

HERE = Path(__file__).parent
RESULTS, RUNS = HERE / "results", HERE / "runs"


def do(row: Row, seed: int, peer: bool) -> str:
    """Do a run in a process of its own, unless there is a result; return what went wrong, nothing at best."""
    file = RESULTS / ("sb3" if peer else "") / f"{row.name}_{seed}.json"
    if file.exists():
        return ""
    file.parent.mkdir(parents=True, exist_ok=True)
    if peer:
        done = in_a_process("peer_sb3.py", settings_of(row, seed), python=f"{os.environ['PEER_SB3']}/bin/python")
    else:
        done = in_a_process("__main__.py", "--run", str(ROWS.index(row)), str(seed))
    if done.returncode:
        return f"{row.name}_{seed}: {(done.stderr.strip().splitlines() or ['no output'])[-1]}"
    file.write_text(done.stdout.splitlines()[-1] + "\n")
    print(file.relative_to(RESULTS), flush=True)
    return ""


def in_a_process(*args: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    """Run a script of this folder with its arguments, on one thread."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([python, HERE / args[0], *args[1:]], capture_output=True, text=True, env=env)


def settings_of(row: Row, seed: int) -> str:
    """Return the settings of a run as JSON, those of the table of the library included."""
    config, _ = split_settings(row.algorithm, row.task, {"total_frames": row.frames, "seed": seed, **row.settings})
    return json.dumps({"algorithm": row.algorithm, "task": row.task, **asdict(config)})


def main() -> int:
    """Do what the arguments say; return 1 if a run failed or a return was not reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--group", nargs="*", default=[], help=f"some of {sorted({row.group for row in ROWS})}")
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of rows")
    parser.add_argument("--seeds", type=int, default=100, help="at most")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--peer", action="store_true", help="Stable-Baselines3 too")
    parser.add_argument("--report", action="store_true", help="train nothing")
    parser.add_argument("--run", nargs=2, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run or args.data:
        import one_run  # noqa: PLC0415 - not in the process that starts the others

        if args.data:
            one_run.data_set(args.data, RUNS / f"data_{args.data}")
        else:
            row, seed = ROWS[args.run[0]], args.run[1]
            print(json.dumps(one_run.run(row, seed, RUNS / f"{row.name}_{seed}")))
        return 0
    rows = [
        row
        for row in ROWS
        if (not args.group or row.group in args.group)
        and (not args.only or any(part in row.name for part in args.only))
    ]
    errors: list[str] = []
    if not args.report:
        for task in {row.data for row in rows if row.data}:  # before runs that read it at the same time
            in_a_process("__main__.py", "--data", task).check_returncode()
        jobs = [(row, seed, False) for row in rows for seed in range(min(row.seeds, args.seeds))]
        if args.peer:
            jobs += [(row, seed, True) for row, seed, _ in jobs if row.peer]
        with ThreadPoolExecutor(args.processes) as pool:
            errors = [error for error in pool.map(lambda job: do(*job), jobs) if error]
    runs, theirs = read(RESULTS), read(RESULTS / "sb3")
    for group in dict.fromkeys(row.group for row in rows):
        plot([row for row in ROWS if row.group == group], runs, theirs, image_of(RESULTS, group))
    print(table(rows, runs, theirs), *errors, sep="\n")
    return int(bool(errors) or any(is_reached(row, runs, theirs) is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
