"""Several processes at a time, Ctrl-C, and studies that were killed."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest
import yaml

from torchrl._core.errors import WorkerError
from torchrl.cli import main
from torchrl.cli.processes import run_parallel

optuna = pytest.importorskip("optuna")
TUNE = ["tune", "ppo", "CartPole-v1", "--total-frames", "256", "--eval-interval", "128", "--eval-episodes", "1"]
TUNE += ["--final-episodes", "1", "--num-envs", "1", "--num-epochs", "1", "--minibatch-size", "64"]


def square(x):
    return x * x


def fail(x):
    raise ValueError("this one")


def kill_oneself(x):
    os.kill(os.getpid(), signal.SIGKILL)


def start(words, folder):
    command = [sys.executable, "-m", "torchrl.cli", *words]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def study_of(folder):
    return optuna.load_study(study_name="settings", storage=f"sqlite:///{folder}/study.db")


def states(folder):
    """Read the file as it is: Optuna would make the tables that are missing, at the same time as the command."""
    try:
        with closing(sqlite3.connect(f"file:{folder}/study.db?mode=ro", uri=True)) as file:
            return [state for (state,) in file.execute("SELECT state FROM trials")]
    except sqlite3.OperationalError:  # the file is being made
        return []


@pytest.mark.slow
def test_results_and_errors_of_processes():
    assert dict(run_parallel(square, [(2,), (3,)], 2)) == {0: 4, 1: 9}
    with pytest.raises(WorkerError, match="this one"):
        list(run_parallel(fail, [(2,)], 1))
    with pytest.raises(WorkerError, match="process 1 of 1 was ended by signal 9, perhaps for want of memory"):
        list(run_parallel(kill_oneself, [(2,)], 1))


@pytest.mark.slow
def test_seeds_are_runs_of_their_own(tmp_path, capsys):
    words = ["train", "ppo", "CartPole-v1", "--total-frames", "256", "--final-episodes", "2", "--eval-episodes", "1"]
    words += ["--no-video", "--no-progress-bar", "--log-dir", str(tmp_path)]
    assert main([*words, "--seeds", "2", "--seed", "5"]) == 0
    out = capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ppo_CartPole-v1_seed5", "ppo_CartPole-v1_seed6"]
    assert "95 % bootstrap interval" in out
    assert f"torchrl plot {tmp_path}" in out


@pytest.mark.slow
def test_ctrl_c_saves_and_names_the_command_that_resumes(tmp_path):
    words = ["train", "ppo", "CartPole-v1", "--total-frames", "1000000", "--no-video", "--eval-interval", "900000"]
    process = start([*words, "--no-progress-bar"], tmp_path)
    folder = tmp_path / "runs/ppo_CartPole-v1_seed0"
    until(lambda: list(folder.glob("scalars/train/*.csv")), process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "torchrl resume runs/ppo_CartPole-v1_seed0" in err
    assert "Traceback" not in err
    assert (folder / "checkpoint").exists()


def until(condition, process, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_a_study_that_was_killed_goes_on(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "runs/tune_ppo_CartPole-v1"
    process = start([*TUNE, "--trials", "6"], tmp_path)
    until(lambda: "COMPLETE" in (found := states(folder)) and "RUNNING" in found, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = study_of(folder).trials
    done = [trial.params for trial in before if trial.state.is_finished()]
    running = [trial.params for trial in before if trial.state.name == "RUNNING"]
    assert done

    monkeypatch.chdir(tmp_path)
    assert main([*TUNE, "--trials", "6"]) == 0
    assert f"{len(done)} of 6 trials are done" in capsys.readouterr().out
    after = study_of(folder).trials
    assert [trial.params for trial in after if "interrupted" not in trial.user_attrs][: len(done)] == done
    repeated = [trial.params for trial in after[len(before) :]]
    assert all(params.items() <= repeated[i].items() for i, params in enumerate(running)), "what was lost comes first"
    counted = [trial for trial in after if "interrupted" not in trial.user_attrs]
    assert len(counted) == 6
    assert all(trial.state.is_finished() for trial in after)
    different = {tuple(trial.params.values()) for trial in counted}
    assert len(different) == 6, "a study that goes on draws other settings"

    best = yaml.safe_load((folder / "best.yaml").read_text())
    assert (best["total_frames"], best["num_epochs"]) == (256, 1)
    assert "lr" in best
    assert all((folder / name).stat().st_size > 1000 for name in ("history.png", "importance.png"))
    capsys.readouterr()
    assert main([*TUNE, "--trials", "6", "--gamma", "0.9"]) == 2
    assert "the study has trials with another gamma" in capsys.readouterr().err


@pytest.mark.slow
def test_a_study_with_jobs_goes_on_after_each_kind_of_kill(tmp_path, monkeypatch, capsys):
    """Neither counted as finished, nor lost, nor repeated twice: a trial of a killed command, one of a killed job."""
    words, folder = [*TUNE, "--trials", "5", "--jobs", "2"], tmp_path / "runs/tune_ppo_CartPole-v1"
    slow = [word if word != "256" else "1000000" for word in words]
    process = start(slow, tmp_path)
    until(lambda: states(folder).count("RUNNING") == 2, process, seconds=240)
    process.kill()  # the command alone: its jobs end by themselves
    process.communicate()
    with closing(sqlite3.connect(folder / "study.db")) as file, file:
        file.execute("DELETE FROM study_user_attributes")  # the settings, so that the trials may be shorter from here
    before = study_of(folder).trials
    assert len(before) == 2

    process = start(words, tmp_path)
    until(lambda: states(folder)[len(before) :].count("RUNNING") == 2, process, seconds=240)
    os.kill(children_of(process.pid)[-1], signal.SIGKILL)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 2, out + err
    assert "by signal 9" in err
    assert "The same command repeats what was lost" in err
    assert "Traceback" not in err

    monkeypatch.chdir(tmp_path)
    assert main(words) == 0
    trials = study_of(folder).trials
    counted = [trial for trial in trials if "interrupted" not in trial.user_attrs]
    assert len(counted) == 5
    assert all(trial.state.is_finished() for trial in trials)
    for trial in trials:
        again = [other for other in trials if other.user_attrs.get("repeats") == trial.number]
        assert len(again) == ("interrupted" in trial.user_attrs), "each lost trial is repeated once"
        last = trial
        while "interrupted" in last.user_attrs:
            (last,) = (other for other in trials if other.user_attrs.get("repeats") == last.number)
        assert trial.params.items() <= last.params.items()
    assert len({tuple(trial.params.values()) for trial in counted}) == 5
    assert f"trial {counted[-1].number}: " in capsys.readouterr().out


def children_of(pid):
    """Return the processes that work for a command, in the order in which they were started."""
    found = subprocess.run(["ps", "-wwo", "pid=,args=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [int(line.split()[0]) for line in found.splitlines() if "spawn_main" in line]
