"""Every test starts from the same seed and one torch thread."""

import subprocess
import sys

import pytest
import torch

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
