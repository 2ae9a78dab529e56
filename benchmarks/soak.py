"""Soak test: collectors, buffers, checkpoints and evaluators for a long time, while resources are counted.

    python benchmarks/soak.py --minutes 30 --out runs/soak

Collects with worker processes, writes to a prioritized buffer, samples and updates priorities, saves and loads a
rotation of checkpoints, and runs an evaluator in a process; each of them is built again every few rounds, and one
in four collectors is never shut down. Memory, descriptors, threads and processes are sampled once a second and
written to ``soak.csv``, with a plot in ``soak.png``. The verdict compares the second half of the run with its second
quarter, each by its median; the exit code is 1 if one of them grew. ``make soak`` runs it.
"""

from __future__ import annotations

import argparse
import csv
import gc
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from tensordict import TensorDict

from torchrl.checkpoint import Checkpoint, CheckpointRotation
from torchrl.collectors import Evaluator, MultiAsyncCollector, MultiCollector, MultiSyncCollector
from torchrl.data import LazyTensorStorage, TensorDictPrioritizedReplayBuffer
from torchrl.envs import CartPoleEnv, SerialEnv
from torchrl.modules import MLP, OneHotCategorical, ProbabilisticActor

COLUMNS = ("seconds", "memory", "descriptors", "threads", "processes")
#: How much more of a resource the second half may have: a share of it, and a number.
ALLOWED = {"memory": (0.03, 8.0), "descriptors": (0.0, 2), "threads": (0.0, 1), "processes": (0.0, 1)}


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, directly or not."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *children(int(child))]
    return found


def sample(start: float) -> tuple[float, ...]:
    """Return one line of the table; memory of this process, in MB, as its workers come and go."""
    here = Path("/proc/self")
    status = dict(line.split(":", 1) for line in (here / "status").read_text().splitlines() if ":" in line)
    memory = int(status["RssAnon"].split()[0]) / 1024
    try:
        processes = len(children(int(status["Pid"])))
    except OSError:  # one of them ended meanwhile
        return sample(start)
    return time.monotonic() - start, memory, len(list((here / "fd").iterdir())), int(status["Threads"]), processes


def make_policy() -> ProbabilisticActor:
    from tensordict.nn import TensorDictModule  # noqa: PLC0415

    net = TensorDictModule(MLP(in_features=4, out_features=2, num_cells=[32]), ["observation"], ["logits"])
    return ProbabilisticActor(net, in_keys=["logits"], out_keys=["action"], distribution_class=OneHotCategorical)


def make_buffer() -> TensorDictPrioritizedReplayBuffer:
    return TensorDictPrioritizedReplayBuffer(
        alpha=0.7, beta=0.5, storage=LazyTensorStorage(20_000), batch_size=128, prefetch=2, priority_key="td_error"
    )


def work(collector: MultiCollector, buffer: TensorDictPrioritizedReplayBuffer) -> int:
    """Collect a batch into the buffer and sample it; return the number of frames."""
    batch = next(iter(collector))
    rows = batch.reshape(-1)
    buffer.extend(rows.set("td_error", torch.rand(len(rows))))
    for _ in range(4):
        taken = buffer.sample()
        buffer.update_tensordict_priority(TensorDict({**taken.set("td_error", torch.rand(len(taken)))}, taken.shape))
    return len(rows)


def cycle(folder: Path, number: int, policy: ProbabilisticActor) -> int:
    """Build everything, use it, save and load it; return the number of frames."""
    kind = MultiAsyncCollector if number % 2 else MultiSyncCollector
    collector = kind([lambda: SerialEnv(2, CartPoleEnv)] * 2, policy, frames_per_batch=400, total_frames=-1)
    evaluator = Evaluator(CartPoleEnv, policy, num_trajectories=2, max_steps=50, backend="process")
    buffer, frames = make_buffer(), 0
    rotation = CheckpointRotation(folder, keep_last=2)
    for _ in range(5):
        frames += work(collector, buffer)
        checkpoint = Checkpoint(policy=policy, buffer=buffer, frames=frames)
        rotation.save(checkpoint, time.monotonic_ns())
    evaluator.evaluate()
    rotation.load_latest(checkpoint)
    evaluator.shutdown()
    if number % 4:
        collector.shutdown()
    return frames


def verdict(rows: list[tuple[float, ...]]) -> list[str]:
    """Return what has grown, by the medians of the second quarter and of the second half."""
    quarter, grown = len(rows) // 4, []
    for at, name in enumerate(COLUMNS[1:], 1):
        before = statistics.median(row[at] for row in rows[quarter : 2 * quarter])
        after = statistics.median(row[at] for row in rows[2 * quarter :])
        share, number = ALLOWED[name]
        print(f"{name:12s} {before:8.1f} -> {after:8.1f}")
        if after > before * (1 + share) + number:
            grown.append(name)
    return grown


def plot(rows: list[tuple[float, ...]], file: Path) -> None:
    import matplotlib  # noqa: PLC0415

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    figure, axes = pyplot.subplots(len(COLUMNS) - 1, sharex=True, figsize=(8, 9))
    for at, (name, axis) in enumerate(zip(COLUMNS[1:], axes, strict=True), 1):
        axis.plot([row[0] for row in rows], [row[at] for row in rows], linewidth=1)
        axis.set_ylabel("memory, MB" if name == "memory" else name)
        axis.set_ylim(0, 1.1 * max(row[at] for row in rows))
    axes[-1].set_xlabel("seconds")
    figure.tight_layout()
    figure.savefig(file, dpi=100)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    start, rows, stop = time.monotonic(), [], threading.Event()

    def watch() -> None:
        with (args.out / "soak.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            while not stop.wait(1.0):
                rows.append(sample(start))
                table.writerow([round(value, 2) for value in rows[-1]])
                file.flush()

    watcher = threading.Thread(target=watch)
    watcher.start()
    policy, number, frames = make_policy(), 0, 0
    try:
        with tempfile.TemporaryDirectory() as folder:
            while time.monotonic() - start < 60 * args.minutes:
                frames += cycle(Path(folder), number, policy)
                number += 1
                gc.collect()
    finally:
        stop.set()
        watcher.join()
    plot(rows, args.out / "soak.png")
    grown = verdict(rows)
    print(f"{number} cycles, {frames} frames in {time.monotonic() - start:.0f} s; {args.out / 'soak.png'}")
    print(f"FAILED: {', '.join(grown)} grew" if grown else "PASSED: no resource grew")
    return bool(grown)


if __name__ == "__main__":
    sys.exit(main())
