"""Every test starts from the same seed and one torch thread."""

import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def fresh_python():
    """Run code in a fresh interpreter where warnings are errors; return what it printed."""

    def run(code: str) -> str:
        done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        assert not done.stderr, done.stderr.decode()
        return done.stdout.decode()

    return run


def _rank(rank, size, folder, function):
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    torch.save(function(rank), folder / f"rank{rank}")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture
def on_two_ranks(tmp_path):
    """Call a function with 0 and with 1 in two processes of one group; return both results."""

    def run(function):
        mp.start_processes(_rank, (2, tmp_path, function), nprocs=2, start_method="fork")
        return [torch.load(tmp_path / f"rank{rank}", weights_only=False) for rank in (0, 1)]

    return run
