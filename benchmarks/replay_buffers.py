"""Replay buffers against hand-written indexing and cpprb, as ratios from one run on one thread.

python benchmarks/replay_buffers.py [--capacity 1000000] [--long 10000000] [--budget 3]

``CPPRB_ENV`` names a virtual environment that has cpprb; without it cpprb is left out. Everything
that is compared takes turns, a few calls at a time, and the best turn of each counts, in processor
time: so the ratios hold on a machine that is busy with other things.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from keep import Row, keep
from peers.beside import Peer
from tensordict import TensorDict

from torchrl.data import (
    CompactStorage,
    LazyMemmapStorage,
    LazyTensorStorage,
    PrioritizedReplayBuffer,
    ReplayBuffer,
    SliceSampler,
    Storage,
)

OBS, ACT, BATCH, CALLS = 17, 6, 256, 20
SAMPLE, EXTEND, ADD, PRIORITIZED = range(4)  # the work of the peer
Call = Callable[[], object]


def turn_of(call: Call) -> float:
    start = time.process_time()
    for _ in range(CALLS):
        call()
    return (time.process_time() - start) / CALLS


class Race:
    """Times what is compared, in turns.

    Args:
        budget: Seconds that a comparison takes.
        peer: Times cpprb.
    """

    def __init__(self, budget: float, peer: Peer) -> None:
        self.budget, self.peer = budget, peer
        self.rows: list[Row] = []

    def __call__(self, title: str, ours: Call, work: int | None = None, **others: Call) -> None:
        """Print the seconds of a call, and its ratio to the others."""
        turns: dict[str, Callable[[], float]] = {
            name: (lambda call=call: turn_of(call)) for name, call in {"": ours, **others}.items()
        }
        if work is not None and self.peer.is_there:
            turns["cpprb"] = lambda: self.peer.round(work)
        best, end = {name: turn() for name, turn in turns.items()}, time.perf_counter()
        while time.perf_counter() < end + self.budget:
            for name, turn in turns.items():
                best[name] = min(best[name], turn())
        mine = best.pop("")
        self.rows += [
            {
                "call": title,
                "us": mine * 1e6,
                "beside": name.replace("_", " "),
                "its us": other * 1e6,
                "ratio": mine / other,
            }
            for name, other in best.items()
            if other == other  # a peer that is not there
        ]
        ratios = "".join(
            f"   {name.replace('_', ' ')} {seconds * 1e6:8.1f} us, ratio {mine / seconds:5.2f}"
            for name, seconds in best.items()
            if seconds == seconds  # a peer that is not there
        )
        print(f"{title:34s} {mine * 1e6:8.1f} us{ratios}", flush=True)


def transitions(rows: int) -> TensorDict:
    """Steps that follow one another, in episodes of a hundred on average."""
    states, done = torch.randn(rows + 1, OBS), torch.rand(rows, 1) < 0.01
    following = TensorDict(
        observation=torch.where(done, torch.randn(rows, OBS), states[1:]),
        reward=torch.randn(rows, 1),
        done=done,
        terminated=torch.zeros(rows, 1, dtype=torch.bool),
        batch_size=[rows],
    )
    return TensorDict(observation=states[:-1], action=torch.randn(rows, ACT), next=following, batch_size=[rows])


def filled(storage: Storage, kind: Callable[..., ReplayBuffer] = ReplayBuffer, **kwargs: object) -> ReplayBuffer:
    buffer = kind(storage=storage, batch_size=BATCH, **kwargs)
    capacity = int(storage.max_size)
    chunk = transitions(min(capacity, 100_000))
    for _ in range(0, capacity, 100_000):
        buffer.extend(chunk)
    return buffer


def uniform(capacity: int, race: Race) -> None:
    """Sample, extend and add, against columns indexed and written by hand."""
    columns = transitions(capacity)
    by_key = {key: columns[key] for key in columns.keys(True, True)}
    ram, disk = filled(LazyTensorStorage(capacity)), filled(LazyMemmapStorage(capacity))
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

    race(f"sample({BATCH})", ram.sample, SAMPLE, by_hand=sample_by_hand)
    race(f"sample({BATCH}), memmap", disk.sample, in_RAM=ram.sample)
    race("extend(1000)", lambda: ram.extend(rows), EXTEND, by_hand=extend_by_hand)
    race("add", lambda: ram.add(row), ADD, by_hand=add_by_hand)
    compact = filled(CompactStorage(LazyTensorStorage(capacity // 10)))
    race(f"sample({BATCH}), next stored once", compact.sample, in_RAM=ram.sample)


def prioritized(capacity: int, race: Race) -> None:
    """Sample and update, against a cumulated sum and a binary search by hand."""
    buffer = filled(LazyTensorStorage(capacity), PrioritizedReplayBuffer, alpha=0.6, beta=0.4)
    buffer.update_priority(torch.arange(capacity), torch.rand(capacity) + 0.1)
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
        index, value = tree.find(torch.rand(BATCH, dtype=torch.float64).numpy())
        tree.set(index, value)

    race("prioritized sample + update", ours, PRIORITIZED, cumsum=by_hand, bare_tree=bare_tree)


def slices(capacities: tuple[int, ...], race: Race) -> None:
    """16 slices of 16 steps, whatever the capacity, against uniform samples of as many steps."""
    samples: dict[str, Call] = {}
    for capacity in capacities:
        buffer = filled(LazyTensorStorage(capacity), sampler=SliceSampler(num_slices=16))
        samples[f"of_{capacity}"] = buffer.sample
    first, *others = samples
    race(f"16 slices of 16 {first.replace('_', ' ')}", samples[first], **{n: samples[n] for n in others})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--capacity", type=int, default=1_000_000)
    parser.add_argument("--long", type=int, default=10_000_000, help="of slices, a third capacity")
    parser.add_argument("--budget", type=float, default=3.0, help="seconds of a comparison")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = [str(size) for size in (args.capacity, OBS, ACT, BATCH, CALLS)]
    peer = Peer("CPPRB_ENV", "cpprb_buffers.py", *sizes)
    race = Race(args.budget, peer)
    uniform(args.capacity, race)
    prioritized(args.capacity, race)
    peer.close()
    slices((args.capacity // 10, args.capacity, args.long), race)
    keep("replay_buffers", race.rows)


if __name__ == "__main__":
    main()
