"""Ray collectors: against worker processes of this machine, and how they scale with the number of environments.

    python benchmarks/distributed.py                          # all, some minutes
    python benchmarks/distributed.py --part cartpole
    python benchmarks/distributed.py --part scaling --plot docs/_static/distributed_scaling.png

``cartpole``: eight CartPoles, one a worker, batches of 1 000 of one worker each. ``slow``: the same with steps of 5 ms
and batches of 400. Both kinds run in turns, the ratio is that of the medians. ``scaling``: environments that sleep for
20 ms a step, eight in each actor, which sleep at the same time as simulators on eight cores would run; a learner that
takes 0.4 ms a frame.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import ray
import torch

from torchrl.collectors import MultiAsyncCollector
from torchrl.collectors.distributed import RayCollector
from torchrl.envs import GymEnv
from torchrl.testing.mocks import CountingEnv

WORKERS, LEARNER = 8, 0.4e-3  # seconds that the learner takes for a frame
LOGICAL, STEP = (8, 16, 32, 64), 0.02


def cartpole():
    return GymEnv("CartPole-v1")


class Slow(GymEnv):
    """A CartPole with steps of 5 ms."""

    def __init__(self):
        super().__init__("CartPole-v1")

    def _step(self, tensordict):
        time.sleep(0.005)
        return super()._step(tensordict)


class Sleeping(CountingEnv):
    """Eight environments that sleep at the same time."""

    def __init__(self):
        super().__init__(horizon=100, batch_size=[8])

    def _step(self, tensordict):
        time.sleep(STEP)
        return super()._step(tensordict)


def rate(collector, batches, learner=0.0):
    """Return the frames a second of so many batches of each worker, after the first of each."""
    for _ in range(collector.num_workers):
        collector.next()
    start, frames = time.perf_counter(), 0
    for _ in range(batches * collector.num_workers):
        batch = collector.next()
        frames += batch.numel()
        time.sleep(learner * batch.numel())
    return frames / (time.perf_counter() - start)


def against_processes(make, frames, batches, rounds):
    """Return the frames a second of both kinds, which run in turns."""
    kinds = {
        "MultiAsyncCollector": MultiAsyncCollector([make] * WORKERS, frames_per_batch=frames),
        "RayCollector": RayCollector(make, num_collectors=WORKERS, sync=False, frames_per_batch=frames),
    }
    found = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, collector in kinds.items():
            found[name].append(rate(collector, batches))
            while any(map(collector._pool.is_requested, range(WORKERS))):
                collector._pool.wait()  # the other kind runs alone
    for collector in kinds.values():
        collector.shutdown()
    medians = {name: statistics.median(values) for name, values in found.items()}
    return {**medians, "ratio": medians["RayCollector"] / medians["MultiAsyncCollector"], "runs": found}


def scaling():
    """Return the frames a second by the number of environments, without a learner and with one."""
    found = {}
    for count in LOGICAL:
        with RayCollector(
            Sleeping, num_collectors=count // 8, sync=False, frames_per_batch=160, max_pending_batches=count // 4
        ) as collector:
            found[count] = {"alone": rate(collector, 12), "with a learner": rate(collector, 12, LEARNER)}
        print(count, found[count], flush=True)
    return found


def plot(found, path):
    """Plot the scaling."""
    import matplotlib  # noqa: PLC0415

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(6, 4))
    counts = [int(count) for count in found]
    axes.plot(counts, [count / STEP for count in counts], "--", color="gray", label="1 / 20 ms for each")
    axes.axhline(1 / LEARNER, linestyle=":", color="gray", label="limit of the learner")
    for name in ("alone", "with a learner"):
        axes.plot(counts, [found[count][name] for count in found], "o-", label=f"RayCollector {name}")
    axes.set(xlabel="environments that sleep for 20 ms a step", ylabel="frames a second", xlim=0, ylim=0)
    axes.set_xticks(counts)
    axes.legend()
    figure.savefig(path, dpi=110, bbox_inches="tight")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("cartpole", "slow", "scaling"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file that the results are added to")
    parser.add_argument("--plot", type=Path, help="image of the scaling")
    args = parser.parse_args()
    torch.set_num_threads(1)
    ray.init("local", include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    found = {}
    if args.part in (None, "cartpole"):
        found["cartpole"] = against_processes(cartpole, 1000, 4, args.rounds)
    if args.part in (None, "slow"):
        found["slow"] = against_processes(Slow, 400, 3, args.rounds)
    if args.part in (None, "scaling"):
        found["scaling"] = scaling()
        if args.plot:
            plot(found["scaling"], args.plot)
    print(json.dumps(found, indent=1))
    if args.json:
        before = json.loads(args.json.read_text()) if args.json.exists() else {}
        args.json.write_text(json.dumps({**before, **found}, indent=1) + "\n")
    ray.shutdown()


if __name__ == "__main__":
    main()
