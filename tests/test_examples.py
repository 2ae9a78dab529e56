"""Examples run: a few hundred frames each, with all that they write."""

import csv
import importlib.util
import math
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = ["--total_frames", "400", "--eval_episodes", "2"]
TASKS = {
    "CartPole-v1": ["--frames_per_batch", "200"],
    "InvertedDoublePendulum-v5": ["--frames_per_batch", "200", "--num_epochs", "2"],
}


@pytest.fixture
def ppo(monkeypatch):
    spec = importlib.util.spec_from_file_location("ppo_example", ROOT / "examples/ppo.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "ppo_example", module)  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def column(path):
    """Return ``(step, value)`` of each line of a scalar's file."""
    return [(int(step), float(value)) for step, value in csv.reader(path.read_text().splitlines())]


@pytest.mark.slow
@pytest.mark.parametrize("env", TASKS)
def test_ppo(env, ppo, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "egl")
    args = ppo.parse(["--env", env, "--log_dir", str(tmp_path), *SMALL, *TASKS[env]])
    score = ppo.main(args)
    printed = capsys.readouterr().out

    (run,) = tmp_path.iterdir()
    logged = {path.relative_to(run / "scalars").as_posix() for path in run.rglob("*.csv")}
    assert logged >= {"train/reward.csv", "train/episode_return.csv", "eval/return.csv"}
    assert [step for step, _ in column(run / "scalars/train/reward.csv")] == [200, 400]
    ((step, value),) = column(run / "scalars/eval/return.csv")
    assert math.isfinite(score)
    assert (step, value) == (400, pytest.approx(score))
    assert f"evaluation: {score:.1f}" in printed
    assert (run / "learning_curve.png").read_bytes()[:4] == b"\x89PNG"
    assert (run / "model.pt").stat().st_size > 0
    films = list(run.rglob("*.gif"))
    assert all(path.read_bytes()[:3] == b"GIF" for path in films)
    assert films or (env != "CartPole-v1" and "no video" in printed)


def test_the_command_line_overrides_the_task_which_overrides_the_defaults(ppo):
    args = ppo.parse(["--env", "InvertedDoublePendulum-v5", "--lr", "0.5"])
    assert (args.lr, args.num_cells) == (0.5, 256)
    assert args.normalize_observations
    assert ppo.parse([]) == ppo.Args()
