"""Ray on this machine, once for all tests of a file."""

import os

import pytest

STORE = 80 * 2**20  # bytes, the least that Ray accepts
# Nothing is written into the home directory; actors, which must answer in time, wait for no other processes.
os.environ.update(RAY_AUTH_MODE="disabled", RAY_worker_niceness="0")


@pytest.fixture(scope="module")
def local_ray():
    ray = pytest.importorskip("ray")
    ray.init(address="local", num_cpus=2, object_store_memory=STORE, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()
