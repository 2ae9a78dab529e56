"""Ranks that torchrun starts, and ranks that are jobs."""

import gc
import subprocess
import sys

import pytest
import torch

from torchrl._core.errors import WorkerError
from torchrl.collectors import MultiSyncCollector
from torchrl.collectors.distributed import DistributedSyncCollector
from torchrl.envs import GymEnv

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

SCRIPT = """
import os, sys, torch
from torchrl.collectors.distributed import DistributedSyncCollector
from torchrl.envs import GymEnv
torch.manual_seed(int(os.environ["RANK"]))  # that of rank 0 counts
collector = DistributedSyncCollector(
    lambda: GymEnv("CartPole-v1"), launcher="torchrun", frames_per_batch=40, total_frames=80
)
assert os.environ["RANK"] == "0"
collector.set_seed(3)
if "fail" in sys.argv:
    collector.call_wrongly()
torch.save(torch.cat(list(collector)), sys.argv[1])
if "forget" not in sys.argv:
    collector.shutdown()
print("done")
"""


def torchrun(tmp_path, *args):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3", str(script)]
    return subprocess.run([*command, str(tmp_path / "batch"), *args], capture_output=True, text=True, timeout=110)


@pytest.mark.parametrize("end", ["shutdown", "forget"])
def test_torchrun(tmp_path, end):
    done = torchrun(tmp_path, end)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done") == 1
    torch.manual_seed(0)
    with MultiSyncCollector(
        lambda: GymEnv("CartPole-v1"), num_workers=2, frames_per_batch=40, total_frames=80
    ) as collector:
        collector.set_seed(3)
        expected = torch.cat(list(collector))
    assert (torch.load(tmp_path / "batch", weights_only=False) == expected).all()


def test_an_error_of_rank_0_ends_all_ranks(tmp_path):
    done = torchrun(tmp_path, "fail")
    assert done.returncode == 1
    assert "call_wrongly" in done.stderr
    assert "done" not in done.stdout


@pytest.fixture
def submitit():
    """It does not wait for the processes that watch local jobs: Python warns of those when jobs are collected."""
    yield pytest.importorskip("submitit")
    gc.collect()


@pytest.mark.usefixtures("submitit")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_submitit(tmp_path):
    options = {"frames_per_batch": 40, "total_frames": 80}
    batches = []
    for kind, more in (
        (MultiSyncCollector, {}),
        (
            DistributedSyncCollector,
            {"launcher": "submitit", "slurm_kwargs": {"folder": tmp_path, "cluster": "local", "timeout_min": 5}},
        ),
    ):
        torch.manual_seed(0)
        with kind([lambda: GymEnv("CartPole-v1")] * 2, **options, **more) as collector:
            collector.set_seed(3)
            batches.append(torch.cat(list(collector)))
            if more:
                jobs = collector._ranks._jobs
    assert (batches[0] == batches[1]).all()
    assert all(job.done() for job in jobs)
    assert collector._ranks._store is None  # or a later fork could hang


@pytest.mark.usefixtures("submitit")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_job_that_cannot_build_its_environment(tmp_path):
    def missing():
        raise FileNotFoundError("no level")

    with pytest.raises(WorkerError, match=r"rank 1 \(job .*missing\) failed: FileNotFoundError: no level"):
        DistributedSyncCollector(
            [missing], frames_per_batch=10, launcher="submitit", slurm_kwargs={"folder": tmp_path, "cluster": "local"}
        )
