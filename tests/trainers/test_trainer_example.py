"""The worked example runs, saves, and goes on from where it was broken off."""

import importlib
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = {
    "total_frames": 240,
    "num_envs": 2,
    "frames_per_batch": 80,
    "num_epochs": 2,
    "minibatch_size": 32,
    "num_cells": 8,
    "eval_episodes": 2,
    "progress_bar": False,
}


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("trainer")


def test_runs_and_logs(example, tmp_path, capsys):
    score = example.main(example.Args(**SMALL, log_dir=str(tmp_path)))
    assert 8 <= score <= 500
    assert f"evaluation: {score:.1f}" in capsys.readouterr().out
    run = tmp_path / "trainer_CartPole-v1_seed0"
    logged = {path.relative_to(run / "scalars").as_posix() for path in run.rglob("*.csv")}
    assert logged >= {"train/reward.csv", "total_eval.csv", "lr.csv", "loss_objective.csv"}
    rewards = (run / "scalars/train/reward.csv").read_text().split()
    assert rewards == ["80,1.0", "160,1.0", "240,1.0"]


def test_goes_on_where_it_was_broken_off(example, tmp_path):
    args = example.Args(**SMALL, log_dir=str(tmp_path), resume=True)
    trainer = example.make_trainer(args)
    trainer.save_trainer_interval = 80
    trainer.register_op("post_steps", lambda: trainer.collected_frames == 160 and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    example.main(args)
    saved = torch.load(trainer.save_trainer_file, weights_only=False)
    # 80 frames are learned from in minibatches of 32, 32 and 16 rows, twice
    assert saved["state"] == {"collected_frames": 240, "num_optim_steps": 3 * 2 * 3}
