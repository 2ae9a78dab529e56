"""Tutorials run, and print what they say they print."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIALS = sorted((Path(__file__).parents[1] / "tutorials").glob("*.py"))


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_prints_what_it_says(path):
    expected = re.findall(r"^print\(.*\)  # (.*)$", path.read_text(), re.MULTILINE)
    run = subprocess.run(
        [sys.executable, "-W", "error", str(path)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert expected
    assert run.stdout.splitlines() == expected
