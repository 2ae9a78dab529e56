"""Replay buffers against hand-written indexing, as ratios from one run on one thread.

python benchmarks/replay_buffers.py [--capacity 1000000]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from tensordict import TensorDict

from torchrl.data import (
    LazyMemmapStorage,
    LazyTensorStorage,
    PrioritizedReplayBuffer,
    ReplayBuffer,
    SliceSampler,
)

OBS, ACT, BATCH = 17, 6, 256


def seconds(function: Callable[[], object], budget: float = 0.2, repeat: int = 5) -> float:
    """Return seconds a call, the best of ``repeat`` runs."""
    function()
    best = float("inf")
    for _ in range(repeat):
        calls, start = 0, time.perf_counter()
        while (passed := time.perf_counter() - start) < budget / repeat * 2:
            function()
            calls += 1
        best = min(best, passed / max(calls, 1))
    return best


def transitions(rows: int) -> TensorDict:
    following = TensorDict(
        observation=torch.randn(rows, OBS),
        reward=torch.randn(rows, 1),
        done=torch.rand(rows, 1) < 0.01,
        terminated=torch.zeros(rows, 1, dtype=torch.bool),
        batch_size=[rows],
    )
    return TensorDict(
        observation=torch.randn(rows, OBS),
        action=torch.randn(rows, ACT),
        next=following,
        batch_size=[rows],
    )


def show(name: str, ours: float, floor: float, floor_name: str = "by hand") -> None:
    print(
        f"{name:34s} {ours * 1e6:9.1f} us   {floor_name} {floor * 1e6:9.1f} us"
        f"   ratio {ours / floor:5.2f}"
    )


def fill(buffer: ReplayBuffer, capacity: int) -> None:
    for _ in range(0, capacity, 100_000):
        buffer.extend(transitions(min(capacity, 100_000)))


def uniform(capacity: int) -> None:
    """Sample, extend and add, against columns indexed and written by hand."""
    columns = transitions(capacity)
    leaves = list(columns.keys(True, True))
    by_key = {key: columns[key] for key in leaves}
    ram = ReplayBuffer(storage=LazyTensorStorage(capacity), batch_size=BATCH)
    disk = ReplayBuffer(storage=LazyMemmapStorage(capacity), batch_size=BATCH)
    fill(ram, capacity)
    fill(disk, capacity)
    rows, row = transitions(1000), transitions(1)[0]
    cursor = [0]

    def sample_by_hand() -> TensorDict:
        index = torch.randint(capacity, (BATCH,))
        return TensorDict({key: column[index] for key, column in by_key.items()}, [BATCH])

    def extend_by_hand() -> None:
        at = cursor[0] = (cursor[0] + 1000) % (capacity - 1000)
        for key, column in by_key.items():
            column[at : at + 1000] = rows[key]

    def add_by_hand() -> None:
        at = cursor[0] = (cursor[0] + 1) % capacity
        for key, column in by_key.items():
            column[at] = row[key]

    floor = seconds(sample_by_hand)
    in_ram = seconds(ram.sample)
    show(f"sample({BATCH})", in_ram, floor)
    show(f"sample({BATCH}), memmap", seconds(disk.sample), in_ram, "in RAM")
    extend = seconds(lambda: ram.extend(rows))
    show("extend(1000)", extend, seconds(extend_by_hand))
    print(f"{'':34s} {1000 / extend / 1e6:9.1f} M items/s")
    show("add", seconds(lambda: ram.add(row)), seconds(add_by_hand))


def prioritized(capacity: int) -> None:
    """Sample and update, against a cumulated sum and a binary search by hand."""
    buffer = PrioritizedReplayBuffer(
        alpha=0.6, beta=0.4, storage=LazyTensorStorage(capacity), batch_size=BATCH
    )
    fill(buffer, capacity)
    every = torch.arange(capacity)
    buffer.update_priority(every, torch.rand(capacity) + 0.1)
    mass = (torch.rand(capacity, dtype=torch.float64) + 0.1) ** 0.6
    tree = buffer.sampler._sum_tree  # type: ignore[attr-defined]

    def ours() -> None:
        _, info = buffer.sample(return_info=True)
        buffer.update_priority(info["index"], torch.rand(BATCH))

    def by_hand() -> None:
        total = mass.cumsum(0)
        index = torch.searchsorted(total, torch.rand(BATCH, dtype=torch.float64) * total[-1])
        mass[index] = torch.rand(BATCH, dtype=torch.float64) ** 0.6

    def bare_tree() -> None:
        index = tree.find(torch.rand(BATCH, dtype=torch.float64).numpy())
        tree.set(index, torch.rand(BATCH, dtype=torch.float64).numpy())

    floor = seconds(by_hand)
    show("prioritized sample + update", seconds(ours), floor, "cumsum")
    show("the bare tree, find + set", seconds(bare_tree), floor, "cumsum")


def slices(capacities: tuple[int, ...]) -> None:
    """16 slices of 16 steps, against as many drawn by hand from starts known beforehand."""
    for capacity in capacities:
        buffer = ReplayBuffer(
            storage=LazyTensorStorage(capacity),
            sampler=SliceSampler(num_slices=16),
            batch_size=BATCH,
        )
        fill(buffer, capacity)
        columns = transitions(capacity)
        by_key = {key: columns[key] for key in columns.keys(True, True)}
        starts, offsets = torch.randint(capacity - 16, (1000,)), torch.arange(16)

        def by_hand(
            by_key: dict = by_key, starts: torch.Tensor = starts, offsets: torch.Tensor = offsets
        ) -> TensorDict:
            first = starts[torch.randint(1000, (16,))]
            index = (first.unsqueeze(-1) + offsets).flatten()
            return TensorDict({key: column[index] for key, column in by_key.items()}, [BATCH])

        show(f"16 slices of 16 of {capacity:,}", seconds(buffer.sample), seconds(by_hand))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--capacity", type=int, default=1_000_000)
    capacity = parser.parse_args().capacity
    torch.set_num_threads(1)
    torch.manual_seed(0)
    uniform(capacity)
    prioritized(capacity)
    slices(
        (capacity // 10, capacity, capacity * 10) if capacity <= 300_000 else (100_000, capacity)
    )


if __name__ == "__main__":
    main()
