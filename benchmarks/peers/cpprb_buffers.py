"""Run by ``replay_buffers.py`` in an environment that has cpprb; imports nothing of ours.

Reads the number of a piece of work a line, and answers with its seconds a call.
"""

import sys
import time

import cpprb
import numpy as np

CAPACITY, OBS, ACT, BATCH, CALLS = map(int, sys.argv[1:])
VECTORS = {"obs": OBS, "act": ACT, "next_obs": OBS}
ENTRIES = {
    **{name: {"shape": size} for name, size in VECTORS.items()},
    "rew": {},
    "done": {"dtype": np.bool_},
    "terminated": {"dtype": np.bool_},
}


def rows(count: int) -> dict[str, np.ndarray]:
    data = {name: np.random.randn(count, size) for name, size in VECTORS.items()}
    data["rew"] = np.random.randn(count)
    flags = {name: np.zeros(count, bool) for name in ("done", "terminated")}
    return {**{name: value.astype(np.float32) for name, value in data.items()}, **flags}


def main() -> None:
    plain = cpprb.ReplayBuffer(CAPACITY, ENTRIES)
    rated = cpprb.PrioritizedReplayBuffer(CAPACITY, ENTRIES, alpha=0.6)
    for _ in range(0, CAPACITY, 100_000):
        chunk = rows(min(CAPACITY, 100_000))
        plain.add(**chunk)
        rated.add(**chunk)
    rated.update_priorities(np.arange(CAPACITY), np.random.rand(CAPACITY) + 0.1)
    many, one = rows(1000), {name: value[0] for name, value in rows(1).items()}

    def prioritized() -> None:
        sample = rated.sample(BATCH, beta=0.4)
        rated.update_priorities(sample["indexes"], np.random.rand(BATCH))

    work = [lambda: plain.sample(BATCH), lambda: plain.add(**many), lambda: plain.add(**one), prioritized]
    for line in sys.stdin:
        call, start = work[int(line)], time.process_time()
        for _ in range(CALLS):
            call()
        print((time.process_time() - start) / CALLS, flush=True)


if __name__ == "__main__":
    main()
