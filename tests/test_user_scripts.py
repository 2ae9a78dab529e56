"""Scripts in the manner of users of this API run unchanged, and learn where learning takes seconds."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "user_scripts"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py"))
WITH_WORKERS = {"impala"}  # start processes, which import the script


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs_and_what_it_asserts_holds(name):
    path = FOLDER / f"{name}.py"
    if name in WITH_WORKERS:
        ended = subprocess.run([sys.executable, str(path)], capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr[-2000:]
    else:
        runpy.run_path(str(path), run_name="__main__")


def test_there_are_at_least_ten():
    assert len(SCRIPTS) >= 10
