"""What is wrong in a rank is told in rank 0, within seconds, and leaves nothing behind."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn

from tests.collectors.failures import Broken, Slow, Stuck, are_gone, kill, open_files, unbuildable
from torchrl._core.errors import WorkerError
from torchrl.collectors.distributed import DistributedCollector, DistributedSyncCollector
from torchrl.testing.mocks import CountingEnv
from torchrl.weight_update import DistributedWeightSyncScheme

pytestmark = pytest.mark.distributed


@pytest.fixture(params=[True, False], ids=["sync", "async"])
def sync(request):
    return request.param


def pids(collector):
    return [info.pid for info in collector._pool.worker_info]


def link_threads():
    return [thread for thread in threading.enumerate() if "rank link" in thread.name]


def test_an_error_in_an_environment_arrives_with_its_traceback(sync):
    collector = DistributedCollector([CountingEnv, lambda: Broken(9)], frames_per_batch=20, sync=sync)
    ranks = pids(collector)
    with pytest.raises(WorkerError) as error:
        for _ in collector:
            pass
    text = str(error.value)
    assert f"rank 2 (host {os.uname().nodename}, pid {ranks[1]}, environment Broken(" in text
    assert "failed: ArithmeticError: the wheel came off" in text
    assert 'raise ArithmeticError("the wheel came off")' in text
    assert are_gone(ranks)
    with pytest.raises(RuntimeError, match="it was shut down; build a new one"):
        collector.next()
    collector.shutdown()


def test_an_environment_that_cannot_be_built():
    with pytest.raises(WorkerError, match=r"rank 2 \(host .*, pid \d+, environment unbuildable\) failed: FileNotFound"):
        DistributedSyncCollector([CountingEnv, unbuildable], frames_per_batch=4)
    assert not link_threads()


def test_killed_ranks_are_noticed(sync):
    for _ in range(3):
        collector = DistributedCollector([Slow] * 2, frames_per_batch=2000, sync=sync)
        ranks = pids(collector)
        timer = threading.Timer(0.3, kill, (ranks[1],))
        timer.start()
        start = time.monotonic()
        with pytest.raises(WorkerError, match=rf"rank 2 \(host .*, pid {ranks[1]}, .*\) was killed by SIGKILL"):
            collector.next()
        assert time.monotonic() - start < 5
        assert are_gone(ranks)
    assert not link_threads()


def test_a_rank_killed_while_none_waits():
    collector = DistributedSyncCollector([CountingEnv] * 2, frames_per_batch=20)
    kill(pids(collector)[0])
    time.sleep(0.1)
    with pytest.raises(WorkerError, match=r"rank 1 .*was killed by SIGKILL"):
        collector.set_seed(0)


def test_a_stopped_rank_does_not_stop_the_others():
    policy = TensorDictModule(nn.Linear(2, 1), in_keys=["observation"], out_keys=["action"])
    schemes = {"policy": DistributedWeightSyncScheme(sync=False)}
    with DistributedCollector(
        [Slow] * 2, policy, frames_per_batch=20, track_policy_version=True, weight_sync_schemes=schemes, max_silence=1
    ) as collector:
        batches = iter(collector)
        next(batches)
        first = pids(collector)[0]
        os.kill(first, signal.SIGSTOP)
        start = time.monotonic()
        while time.monotonic() - start < 2:  # longer than max_silence
            collector.update_policy_weights_(policy)
            batch = next(batches)
        assert batch["policy_version"].max() >= collector.policy_version - 1
        before = collector._frames
        os.kill(first, signal.SIGCONT)
        found = [next(batches) for _ in range(10)]
        assert {int(batch["collector", "traj_ids"][0]) % 2 for batch in found} == {0, 1}
        assert collector._frames == before + 200
        newest = {int(batch["collector", "traj_ids"][0]) % 2: int(batch["policy_version"].max()) for batch in found}
        assert set(newest.values()) == {collector.policy_version}


def test_a_stopped_rank_that_is_waited_for_counts_as_lost():
    collector = DistributedSyncCollector([Slow] * 2, frames_per_batch=20, max_silence=2)
    collector.next()
    ranks = pids(collector)
    os.kill(ranks[0], signal.SIGSTOP)
    start = time.monotonic()
    with pytest.raises(WorkerError, match=r"rank 1 .*gave no sign of life for 2 s"):
        collector.next()
    assert 1 < time.monotonic() - start < 6
    assert are_gone(ranks)


def test_a_rank_that_takes_too_long():
    collector = DistributedSyncCollector([CountingEnv, Stuck], frames_per_batch=20, timeout=1.0)
    ranks = pids(collector)
    with pytest.raises(WorkerError, match=r"rank 2 .*did not answer within 1.0 s\. Raise timeout"):
        collector.next()
    assert are_gone(ranks)


def test_nothing_is_left():
    for _ in range(2):
        with DistributedCollector([CountingEnv] * 2, frames_per_batch=20, total_frames=60) as collector:
            ranks = pids(collector)
            list(collector)
        assert collector._ranks._store is None  # or a later fork could hang
        del collector
        files = open_files()
        before = locals().get("before", files)
    assert files <= before
    assert are_gone(ranks)
    assert not link_threads()


def listening(pid):
    """Return the addresses that a process listens on, in the notation of /proc."""
    inodes, found = set(), set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    for table in ("tcp", "tcp6"):
        lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        rows = [line.split() for line in lines]
        found |= {row[1].split(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes}
    return found


def test_only_the_loopback_address_is_listened_on():
    with DistributedSyncCollector([CountingEnv], frames_per_batch=20) as collector:
        collector.next()
        found = listening(os.getpid()) | listening(pids(collector)[0])
    assert found <= {"0100007F", "0000000000000000FFFF00000100007F"}


ROOT = Path(__file__).parents[3]
SCRIPT = """
from tests.collectors.failures import Stuck
from torchrl.collectors.distributed import DistributedCollector
from torchrl.testing.mocks import CountingEnv
collector = DistributedCollector([CountingEnv, Stuck], frames_per_batch=20)
print(*[info.pid for info in collector._pool.worker_info], flush=True)
for batch in collector: pass
"""


def test_ranks_end_with_the_process_that_started_them():
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    ranks = [int(pid) for pid in process.stdout.readline().split()]
    assert len(ranks) == 2
    process.kill()
    process.wait()
    process.stdout.close()
    assert are_gone(ranks, 8.0)


def test_random_actions_have_seeds_of_their_own():
    torch.manual_seed(0)
    with DistributedSyncCollector([CountingEnv] * 2, frames_per_batch=20) as collector:
        batch = collector.next()
    assert not torch.equal(batch["action"][0], batch["action"][1])
