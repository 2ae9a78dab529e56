"""What is wrong in a worker is told here, at once, and leaves nothing behind."""

import gc
import os
import threading
import time

import pytest
import torch

from tests.collectors.failures import Broken, Slow, Stuck, are_gone, children_of, kill, open_files, unbuildable
from torchrl._core.errors import WorkerError
from torchrl.collectors import MultiAsyncCollector, MultiSyncCollector
from torchrl.envs import ParallelEnv
from torchrl.testing.mocks import CountingEnv

KINDS = {"sync": MultiSyncCollector, "async": MultiAsyncCollector}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def kind(request):
    return request.param


def pids(collector):
    return [worker.pid for worker in collector._pool.workers]


def test_an_error_in_an_environment_arrives_with_its_traceback(kind):
    collector = kind([CountingEnv, lambda: Broken(9)], frames_per_batch=20)
    workers = pids(collector)
    with pytest.raises(WorkerError) as error:
        for _ in collector:
            pass
    text = str(error.value)
    assert f"{kind.__name__}: worker 1 failed: ArithmeticError: the wheel came off" in text
    assert 'raise ArithmeticError("the wheel came off")' in text
    assert are_gone(workers)
    with pytest.raises(RuntimeError, match="it was shut down; build a new one"):
        collector.next()
    collector.shutdown()


def test_an_error_in_a_policy_arrives(kind):
    def policy(td):
        raise LookupError("no idea")

    with kind([CountingEnv] * 2, policy, frames_per_batch=4) as collector:  # noqa: SIM117
        with pytest.raises(WorkerError, match=r"worker \d failed: LookupError: no idea"):
            collector.next()


def test_an_error_at_the_start_arrives(kind):
    before = open_files()
    with pytest.raises(WorkerError, match="worker 1 failed: FileNotFoundError: no such simulator"):
        kind([CountingEnv, unbuildable], frames_per_batch=4)
    assert open_files() <= before


def test_what_is_no_environment_is_named(kind):
    with pytest.raises(WorkerError, match=r"to be or to build an EnvBase, found dict"):
        kind([dict], frames_per_batch=4)


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.1])
def test_a_killed_worker_is_told_at_once(kind, delay):
    collector = kind([Slow] * 2, frames_per_batch=100)
    workers = pids(collector)
    timer = threading.Timer(delay, kill, (workers[1],))
    timer.start()
    start = time.monotonic()
    with pytest.raises(WorkerError, match="worker 1 was killed by SIGKILL"):
        for _ in collector:
            pass
    assert time.monotonic() - start < 5
    timer.join()
    assert are_gone(workers)


def test_a_worker_that_is_killed_between_batches(kind):
    collector = kind([CountingEnv] * 2, frames_per_batch=4)
    collector.next()
    kill(pids(collector)[0])
    time.sleep(0.05)
    with pytest.raises(WorkerError, match="worker 0 was killed by SIGKILL"):
        for _ in collector:
            pass


@pytest.mark.slow
def test_killing_again_and_again_leaves_nothing(kind):
    def once(delay):
        collector = kind([Slow] * 2, frames_per_batch=20)
        workers = pids(collector)
        timer = threading.Timer(delay, kill, (workers[0],))
        timer.start()
        with pytest.raises(WorkerError):
            for _ in collector:
                pass
        timer.join()
        return workers

    once(0.0)
    before, segments = open_files(), set(os.listdir("/dev/shm"))
    workers = [pid for _ in range(5) for pid in once(torch.rand(()).item() / 20)]
    assert are_gone(workers)
    assert open_files() <= before
    assert set(os.listdir("/dev/shm")) <= segments


@pytest.mark.slow
def test_environments_in_processes_of_their_own_go_with_a_killed_worker():
    collector = MultiSyncCollector([lambda: ParallelEnv(2, Slow)] * 2, frames_per_batch=40)
    collector.next()
    workers = pids(collector)
    inner = [child for pid in workers for child in children_of(pid)]
    assert len(inner) == 2 * (2 + 1)  # each worker has two of its own, and their supervisor
    kill(workers[0])
    with pytest.raises(WorkerError, match="worker 0 was killed"):
        collector.next()
    assert are_gone([*workers, *inner], 5)


@pytest.mark.slow
def test_a_worker_that_hangs_is_told_with_where_it_is(kind):
    collector = kind([CountingEnv, Stuck], frames_per_batch=8, timeout=1.0)
    workers = pids(collector)
    with pytest.raises(WorkerError) as error:
        for _ in collector:
            pass
    assert "worker 1 did not answer within 1.0 s and was killed" in str(error.value)
    assert "in _step" in str(error.value)
    assert are_gone(workers)


def test_shutdown_interrupts_a_long_batch_and_leaves_nothing():
    before, segments = open_files(), set(os.listdir("/dev/shm"))
    collector = MultiAsyncCollector([Slow] * 2, frames_per_batch=100_000)
    workers = pids(collector)
    for worker in range(2):
        collector._request(worker)
    time.sleep(0.05)
    start = time.monotonic()
    collector.shutdown()
    collector.shutdown()
    assert time.monotonic() - start < 5
    assert are_gone(workers)
    del collector
    assert open_files() <= before
    assert set(os.listdir("/dev/shm")) <= segments


def test_forgetting_a_collector_ends_its_workers(kind):
    collector = kind([CountingEnv] * 2, frames_per_batch=4)
    collector.next()
    workers = pids(collector)
    del collector
    gc.collect()
    assert are_gone(workers)
