"""Environments that are slow or fail, and the processes of workers, for tests of workers that fail."""

import gc
import os
import signal
import time
from pathlib import Path

from torchrl.testing.mocks import CountingEnv

# Of actors, by the tests of Ray together, and half as many of nodes: make test-distributed KILLS=20
KILLS = int(os.environ.get("KILLS", "8"))


class Slow(CountingEnv):
    """Takes ``delay`` seconds a step."""

    def __init__(self, *args, delay=0.002, **kwargs):
        super().__init__(*args, **kwargs)
        self.delay = delay

    def _step(self, tensordict):
        time.sleep(self.delay)
        return super()._step(tensordict)


class Broken(CountingEnv):
    """Fails at its fourth step."""

    def _step(self, tensordict):
        if self.count == 3:
            raise ArithmeticError("the wheel came off")
        return super()._step(tensordict)


class Stuck(CountingEnv):
    """Does not return from its third step."""

    def _step(self, tensordict):
        if self.count == 2:
            time.sleep(1000)
        return super()._step(tensordict)


def unbuildable():
    raise FileNotFoundError("no such simulator")


def runs(pid):
    """Whether a process runs; one that has ended may wait for its parent, which need not be this process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def exists(pid):
    """Whether there is a process, or what its parent has not waited for."""
    return os.path.exists(f"/proc/{pid}")


def are_gone(pids, wait=5.0, still=exists):
    """Whether the processes end within ``wait`` seconds."""
    deadline = time.monotonic() + wait
    while any(map(still, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def actor_pids(collector):
    """Return the processes of the actors of a Ray collector."""
    return [actor.place.pid for actor in collector._pool.actors]


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def descendants_of(pid):
    children = children_of(pid)
    return children + [pid for child in children for pid in descendants_of(child)]


def open_files():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))
