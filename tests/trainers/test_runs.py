"""Folders of runs are read as they were written."""

import json

import numpy as np
import pytest

from torchrl.record import CSVLogger
from torchrl.trainers.runs import grouped, read_run, read_runs


def write(folder, name, rows, text_after=""):
    path = folder / "scalars" / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{step},{value}\n" for step, value in rows) + text_after)
    return folder


def test_reads_what_a_logger_wrote(tmp_path):
    logger = CSVLogger("run", tmp_path)
    logger.log_hparams({"algorithm": "sac", "env": "Pendulum-v1", "seed": 4, "gamma": 0.9})
    for step in (10, 20):
        logger.log_scalar("train/loss_actor", step / 10, step)
        logger.log_scalar("kl", float("nan"), step)
    run = read_run(logger.experiment)
    assert (run.algorithm, run.env, run.seed, run.setting("gamma")) == ("sac", "Pendulum-v1", 4, 0.9)
    np.testing.assert_array_equal(run.metrics["train/loss_actor"], [[10, 1], [20, 2]])
    assert np.isnan(run.series("kl")[:, 1]).all()
    assert run.values("kl") is None
    assert run.last_step == 20


def test_settings_come_before_hparams_and_the_name_of_the_folder(tmp_path):
    folder = write(tmp_path / "ppo_CartPole-v1_seed7_2", "train/loss", [(1, 1.0)])
    run = read_run(folder)
    assert (run.algorithm, run.env, run.seed) == ("ppo", "CartPole-v1", 7)
    (folder / "hparams.json").write_text(json.dumps({"env": "A", "seed": 1}))
    assert (read_run(folder).env, read_run(folder).algorithm) == ("A", "ppo")
    (folder / "settings.json").write_text(json.dumps({"env": "B", "algorithm": "a2c", "seed": 2}))
    run = read_run(folder)
    assert (run.algorithm, run.env, run.seed) == ("a2c", "B", 2)


def test_of_several_values_of_a_step_the_last_counts(tmp_path):
    folder = write(tmp_path / "r", "loss", [(1, 1.0), (2, 2.0), (3, 3.0), (2, 20.0)])
    np.testing.assert_array_equal(read_run(folder).metrics["loss"], [[1, 1], [2, 20], [3, 3]])


def test_an_incomplete_last_line_is_skipped_and_another_is_an_error(tmp_path):
    folder = write(tmp_path / "r", "loss", [(1, 1.0)], "2,")
    assert len(read_run(folder).metrics["loss"]) == 1
    write(folder, "loss", [(1, 1.0), (2, "no")], "3,4\n")
    with pytest.raises(ValueError, match=r"line 2 of .*loss.csv is no number at a step; expected step,value"):
        read_run(folder)


def test_a_metric_is_found_with_and_without_its_group(tmp_path):
    folder = write(tmp_path / "r", "train/loss", [(1, 1.0)])
    write(folder, "eval/return", [(1, 5.0)])
    run = read_run(folder)
    assert run.values("loss")[0] == run.values("train/loss")[0] == 1
    assert run.values("return")[0] == 5
    assert run.series("absent") is None
    assert run.has("lo*")
    assert not run.has("grad_norm*")


def test_a_folder_without_a_run_says_what_it_holds(tmp_path):
    write(tmp_path / "one", "loss", [(1, 1.0)])
    with pytest.raises(FileNotFoundError, match=r"holds the runs \['one'\]"):
        read_run(tmp_path)
    with pytest.raises(FileNotFoundError, match="no run"):
        read_runs([tmp_path / "absent"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no run"):
        read_runs(tmp_path / "empty")


def test_seeds_are_grouped(tmp_path):
    for name in ("ppo_A_seed0", "ppo_A_seed1", "dqn_A_seed0"):
        write(tmp_path / name, "loss", [(1, 1.0)])
    groups = grouped(read_runs(tmp_path))
    assert {key: len(runs) for key, runs in groups.items()} == {("ppo", "A"): 2, ("dqn", "A"): 1}
