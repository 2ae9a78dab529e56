"""Ray on this machine, once for all tests of a file."""

import os
import signal
import time

import pytest

STORE = 80 * 2**20  # bytes, the least that Ray accepts


@pytest.fixture(scope="module")
def local_ray():
    ray = pytest.importorskip("ray")
    os.environ["RAY_AUTH_MODE"] = "disabled"  # nothing is written into the home directory
    ray.init(num_cpus=2, object_store_memory=STORE, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


class Processes:
    """The processes of a Ray collector's actors."""

    def of(self, collector):
        return [actor.place.pid for actor in collector._pool.actors]

    def runs(self, pid):
        try:
            with open(f"/proc/{pid}/stat") as file:
                return file.read().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    def are_gone(self, pids, wait=10.0):
        deadline = time.monotonic() + wait
        while any(map(self.runs, pids)):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def kill(self, pid):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def processes():
    return Processes()
