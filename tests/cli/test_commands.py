"""Every command, in this process: what it writes and prints, and how it reports bad input."""

import json
import os
import shutil

import pytest
import torch
import yaml

import torchrl
from torchrl.cli import main
from torchrl.cli.arguments import _first_message
from torchrl.cli.train import Result
from torchrl.trainers import Agent, RunFolder

SHORT = ["--total-frames", "256", "--final-episodes", "2", "--eval-episodes", "2", "--eval-interval", "128"]
QUIET = ["--no-video", "--no-progress-bar"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return a folder with a short run of PPO."""
    folder = tmp_path_factory.mktemp("runs")
    assert main(["train", "ppo", "CartPole-v1", *SHORT, *QUIET, "--log-dir", str(folder)]) == 0
    return folder


@pytest.fixture
def run(runs):
    return runs / "ppo_CartPole-v1_seed0"


def fails(capsys, *words):
    """Run a command that must fail; return its only line on stderr."""
    capsys.readouterr()
    assert main(list(words)) == 2
    out, err = capsys.readouterr()
    assert not out
    assert len(err.strip().splitlines()) == 1, err
    assert "Traceback" not in err
    return err


def test_train_prints_score_and_folder(tmp_path, capsys):
    words = ["train", "ppo", "CartPole-v1", *SHORT, *QUIET, "--log-dir", str(tmp_path), "--num_cells", "16"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "ppo on CartPole-v1, seed 0: return" in out
    assert f"folder: {tmp_path / 'ppo_CartPole-v1_seed0'}" in out
    settings = json.loads((tmp_path / "ppo_CartPole-v1_seed0/settings.json").read_text())
    assert settings["settings"]["num_cells"] == 16
    assert settings["settings"]["lmbda"] == 0.8, "the tuned default"


def test_train_gives_the_parameters_of_the_function(run, tmp_path):
    agent = torchrl.train("ppo", "CartPole-v1", total_frames=256, log_dir="", final_episodes=0, progress_bar=False)
    found = Agent.load(run / "last.agent")
    for name, value in agent.policy.state_dict().items():
        assert torch.equal(found.policy.state_dict()[name], value)


def test_flags_come_before_the_file_and_the_file_before_tuned_defaults(tmp_path):
    file = tmp_path / "settings.yaml"
    # PyYAML reads 1e-4 as text
    file.write_text("lr: 1e-4\nanneal-lr: false\nnum_epochs: 2\nvideo: false\nprogress_bar: no\ntarget_return: null\n")
    words = ["train", "ppo", "CartPole-v1", *SHORT, "--log-dir", str(tmp_path), "--config", str(file)]
    assert main([*words, "--num-epochs", "1"]) == 0
    found = json.loads((tmp_path / "ppo_CartPole-v1_seed0/settings.json").read_text())["settings"]
    assert (found["lr"], found["anneal_lr"], found["num_epochs"], found["lmbda"]) == (1e-4, False, 1, 0.8)
    # the settings of a run are a file of settings, too
    again = tmp_path / "ppo_CartPole-v1_seed0/settings.json"
    assert main(["train", "ppo", "CartPole-v1", f"--config={again}", "--seed", "3"]) == 0
    same = json.loads((tmp_path / "ppo_CartPole-v1_seed3/settings.json").read_text())["settings"]
    assert same == {**found, "seed": 3}


def test_help_shows_comments_and_tuned_defaults(capsys):
    assert main(["train", "ppo", "CartPole-v1", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "of the generalised advantage; paper (default: 0.8)" in text
    assert "episodes of an evaluation (default: 10)" in text
    assert main(["train", "ppo", "--help"]) == 0
    assert "paper (default: 0.95)" in " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert main(["train", "--help"]) == 0
    assert "torchrl train ppo CartPole-v1 --help" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", ["eval", "plot", "record", "resume", "doctor", "export", "list", "tune", "eject"])
def test_every_command_has_a_help(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"usage: torchrl {command}" in capsys.readouterr().out


def test_the_help_names_every_command(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in ("train", "eval", "tune", "eject", "list"))


def test_eval_of_a_run_and_of_an_agent(run, capsys):
    assert main(["eval", str(run), "--episodes", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["returns"]) == 3
    assert found["mean"] == pytest.approx(sum(found["returns"]) / 3)
    assert main(["eval", str(run / "last.agent"), "--episodes", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found
    assert main(["eval", str(run), "--episodes", "2", "--best"]) == 0
    assert capsys.readouterr().out.startswith("ppo on CartPole-v1, 2 episodes")


def test_plot(run, runs, tmp_path, capsys):
    assert main(["plot", str(run), "--out", str(tmp_path / "one.png")]) == 0
    assert main(["plot", str(runs), "--out", str(tmp_path / "all.svg"), "--metric", "eval/return"]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "one.png"), str(tmp_path / "all.svg")]
    assert (tmp_path / "one.png").stat().st_size > 1000


def test_record(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    assert main(["record", str(run), "--out", str(tmp_path / "film.gif"), "--max-steps", "3"]) == 0
    assert (tmp_path / "film.gif").read_bytes()[:3] == b"GIF"


def test_a_film_of_another_kind_is_refused_before_an_episode_is_played(run, capsys):
    assert "expected a file .mp4 or .gif, found film.xyz" in fails(capsys, "record", str(run), "--out", "film.xyz")


def test_doctor(run, capsys):
    assert main(["doctor", str(run)]) == 0
    assert "Checked:" in capsys.readouterr().out
    assert main(["doctor", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == [run.name]


def test_resume_goes_on_from_the_last_checkpoint(run, capsys):
    before = Agent.load(run / "last.agent").policy.state_dict()
    assert main(["resume", str(run), "--no-progress-bar"]) == 0
    assert str(run) in capsys.readouterr().out
    after = Agent.load(run / "last.agent").policy.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_resume_goes_on_beyond_the_frames_of_the_run(run, tmp_path, capsys):
    folder = tmp_path / run.name
    shutil.copytree(run, folder)
    frames = json.loads((folder / "settings.json").read_text())["settings"]["total_frames"]
    assert "already has" in fails(capsys, "resume", str(folder), "--total-frames", str(frames), "--no-progress-bar")
    assert main(["resume", str(folder), "--total-frames", str(2 * frames), "--no-progress-bar"]) == 0
    assert Agent.load(folder / "last.agent").config.total_frames == 2 * frames
    assert int((folder / "scalars/eval/final_return.csv").read_text().split(",")[0]) >= 2 * frames


def test_list(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("ppo ") for line in lines)
    assert any(line.startswith("classic ") and "CartPole" in line and "dqn" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["train"], "needs an algorithm and an environment"),
        (["train", "ppo"], "needs an algorithm and an environment"),
        (["train", "poo", "CartPole-v1"], "Did you mean 'ppo'?"),
        (["train", "ppo", "CartPol-v1"], "no such environment: 'CartPol-v1'. Did you mean 'CartPole-v1'?"),
        (["train", "sac", "CartPole-v1"], "does not fit; expected continuous actions, found discrete. These fit:"),
        (["train", "ppo", "nowhere:Thing-v0"], "nowhere"),
        (["train", "ppo", "CartPole-v1", "--leraning-starts", "3"], "See --help."),
        (["train", "ppo", "CartPole-v1", "--num-cell", "3"], "Did you mean 'num_cells'?"),
        (["train", "ppo", "CartPole-v1", "--lr", "high"], "--lr: could not convert string to float: 'high'"),
        (["train", "ppo", "CartPole-v1", "--lr"], "--lr"),
        (["train", "ppo", "CartPole-v1", "--penalty", "none"], "no such penalty"),
        (["train", "ppo", "CartPole-v1", "--gamma", "2"], "gamma is no discount; expected a number from 0 to 1"),
        (["train", "ppo", "CartPole-v1", "--device", "cuda:99"], "this machine has no such device"),
        (["train", "ppo", "CartPole-v1", "--eval-episodes", "0"], "eval_episodes is too small; expected at least 1"),
        (["train", "ppo", "CartPole-v1", "--save-interval=-1"], "save_interval is too small; expected at least 0"),
        (["train", "ppo", "CartPole-v1", "--seeds", "0"], "at least 1, found 0"),
        (["train", "ppo", "CartPole-v1", "--log-dir", ""], "the agent would be lost"),
        (["train", "ppo", "CartPole-v1", "--config", "absent.yaml"], "there is no such file"),
        (["train", "ppo", "CartPole-v1", "--seed", "-1"], "seed is out of range; expected 0 to 4294967295, found -1"),
        (["train", "ppo", "no-such-env"], "Some that exist: torchrl list"),
        (["eval", "absent"], "absent does not exist"),
        (["eval"], "Missing"),
        (["plot"], "needs a run"),
        (["plot", "absent"], "absent"),
        (["doctor", "absent"], "absent"),
        (["resume", "absent"], "absent does not exist"),
        (["export", "absent"], "absent does not exist"),
    ],
)
def test_bad_input_is_reported_in_a_line(words, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert expected in fails(capsys, *words)
    assert not list(tmp_path.iterdir()), "nothing is written"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lr: [", "cannot be read"),
        ("- lr", "holds no settings"),
        (b"\xff\xfe", "can't decode byte 0xff"),
        ("num_cell: 3", "Did you mean 'num_cells'?"),
        ("gamma: high", "could not convert string to float: 'high'"),
    ],
)
def test_a_broken_file_is_reported_in_a_line(text, expected, capsys, tmp_path):
    file = tmp_path / "broken.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    line = fails(capsys, "train", "ppo", "CartPole-v1", "--config", str(file))
    assert expected in line
    assert str(file) in line


def test_the_nearest_run_is_named(run, runs, capsys):
    assert run.name in fails(capsys, "eval", str(runs / "ppo_CartPole-v1_seed1"))
    assert run.name in fails(capsys, "eval", str(runs))


@pytest.mark.parametrize("command", ["eval", "record"])
def test_the_environment_to_play_in_is_checked_first(command, run, capsys):
    line = fails(capsys, command, str(run), "--env", "CartPol-v1")
    assert "no such environment: 'CartPol-v1'. Did you mean 'CartPole-v1'?" in line
    line = fails(capsys, command, str(run), "--env", "Pendulum-v1")
    assert "Pendulum-v1 does not fit the agent, which was trained in CartPole-v1: another observation" in line
    assert "expected [4], found [3]" in line


def test_resume_names_the_environment_that_no_longer_exists(run, tmp_path, capsys):
    folder = tmp_path / run.name
    shutil.copytree(run, folder)
    file = folder / "settings.json"
    file.write_text(file.read_text().replace('"CartPole-v1"', '"CartPol-v1"'))
    assert "no such environment: 'CartPol-v1'. Did you mean" in fails(capsys, "resume", str(folder))


@pytest.mark.parametrize("below", ["", "below"])
def test_a_log_dir_that_is_a_file_is_named(below, tmp_path, capsys):
    (tmp_path / "file").touch()
    log_dir = str(tmp_path / "file" / below)
    words = ["train", "ppo", "CartPole-v1", *SHORT, *QUIET, "--log-dir", log_dir]
    line = fails(capsys, *words)
    assert f"RunFolder: cannot make a folder in log_dir={log_dir!r}; expected a folder that can be written to" in line
    assert "found Not a directory. Pass another log_dir." in line


@pytest.mark.parametrize(
    ("command", "name"), [("plot", "a.png"), ("export", "a.pt2"), ("record", "a.gif"), ("tune", "runs")]
)
def test_a_file_where_output_needs_a_folder_is_named(command, name, run, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    file = tmp_path / "file"
    file.touch()
    words = {"export": ["--format", "torch"], "record": ["--max-steps", "2"]}.get(command, [])
    if command == "tune":
        words = ["tune", "ppo", "CartPole-v1", "--trials", "1", "--log-dir", str(file / name)]
    else:
        words = [command, str(run), *words, "--out", str(file / name)]
    line = fails(capsys, *words)
    assert line.startswith(f"torchrl: {command}: cannot use {file}")
    assert "Errno" not in line


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that root cannot write to")
def test_a_folder_that_cannot_be_written_to_is_named(run, capsys):
    line = fails(capsys, "train", "ppo", "CartPole-v1", *SHORT, *QUIET, "--log-dir", "/proc/runs")
    assert "RunFolder: cannot make a folder in log_dir='/proc/runs'" in line
    line = fails(capsys, "export", str(run), "--format", "torch", "--out", "/proc/agent.pt2")
    assert "export: cannot use /proc/agent.pt2" in line


def test_a_file_is_no_folder_of_runs(tmp_path, capsys):
    (tmp_path / "file").touch()
    for command in ("plot", "doctor"):
        line = fails(capsys, command, str(tmp_path / "file"))
        assert f"there is no run in '{tmp_path / 'file'}'. Pass the folder of a run." in line


@pytest.mark.parametrize("level", ["0", "1", "2", "nan"])
def test_plot_refuses_a_level_of_intervals_that_is_none(level, run, tmp_path, capsys):
    line = fails(capsys, "plot", str(run), "--level", level, "--out", str(tmp_path / "a.png"))
    assert "level is out of range; expected more than 0, less than 1" in line


def test_a_metric_without_values_is_not_offered(run, tmp_path, capsys):
    folder = tmp_path / run.name
    shutil.copytree(run, folder)
    (folder / "scalars/eval/return.csv").write_text("")
    line = fails(capsys, "plot", str(folder), "--metric", "eval/return", "--out", str(tmp_path / "a.png"))
    assert f"{folder} has no metric 'eval/return'" in line
    assert "Did you mean 'eval/return'?" not in line


@pytest.mark.parametrize("command", ["resume", "plot", "doctor"])
@pytest.mark.parametrize("row", [b"nonsense", b"192", b"192,abc", b"\xff\x00"])
def test_a_broken_row_of_numbers_is_named(row, command, run, tmp_path, capsys):
    folder = tmp_path / run.name
    shutil.copytree(run, folder)
    file = folder / "scalars/eval/return.csv"
    file.write_bytes(b"128,1.0\n" + row + b"\n256,2.0\n")
    line = fails(capsys, command, str(folder))
    assert f"line 2 of {file} is no number at a step; expected step,value" in line
    assert "Remove that line, or the file." in line


def test_resume_drops_a_row_that_was_not_written_to_its_end(run, tmp_path):
    folder = tmp_path / run.name
    shutil.copytree(run, folder)
    file = folder / "scalars/eval/return.csv"
    before = file.read_text()
    file.write_text(f"{before}25")
    assert main(["resume", str(folder), "--no-progress-bar"]) == 0
    assert file.read_text() == before


def test_a_score_is_read_without_its_deviation(run, tmp_path):
    folder = tmp_path / run.name
    shutil.copytree(run, folder)
    (folder / "scalars/eval/final_return_std.csv").unlink()
    score = float((folder / "scalars/eval/final_return.csv").read_text().split(",")[1])
    assert Result.of(RunFolder.open(folder)) == Result(folder, score, 0.0)


def test_a_checkpoint_without_its_manifest_is_named(run, tmp_path, capsys):
    folder = tmp_path / run.name
    shutil.copytree(run, folder)
    (folder / "checkpoint/manifest.json").unlink()
    line = fails(capsys, "resume", str(folder), "--no-progress-bar")
    assert f"there is no checkpoint at {folder / 'checkpoint'}" in line


@pytest.mark.parametrize("text", ["", "[]", '{"algorithm": "ppo"}', '{"algorithm": "nope", "env": "x"}'])
def test_damaged_settings_of_a_run_are_named(text, run, tmp_path, capsys):
    folder = tmp_path / run.name
    shutil.copytree(run, folder)
    (folder / "settings.json").write_text(text)
    commands = ["resume"] if text.startswith("{") else ["resume", "plot", "doctor"]
    assert all(f"{folder}/settings.json" in fails(capsys, command, str(folder)) for command in commands)


def test_the_message_of_a_report_without_lines_of_unicode():
    report = """
 Value error
 -------------------------------------
  Error parsing --lr: not a number: 'x'
  -------------------------------------
  Argument helptext: --lr FLOAT
"""
    assert _first_message(report, ["lr"]) == "Error parsing --lr: not a number: 'x'. See --help."


def test_a_missing_package_is_reported_with_its_extra(capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tyro", None)
    assert 'pip install "torchrl[cli]"' in fails(capsys, "train", "ppo", "CartPole-v1")


def test_traceback_shows_the_error():
    with pytest.raises(ValueError, match="no such algorithm"):
        main(["train", "poo", "CartPole-v1", "--traceback"])


def test_ctrl_c_ends_with_its_own_code(tmp_path, monkeypatch, capsys):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("torchrl.cli.train.train_one", stop)
    assert main(["train", "ppo", "CartPole-v1", "--log-dir", str(tmp_path)]) == 130


def test_best_settings_can_be_trained_with(tmp_path):
    """What yaml.safe_dump() writes for small numbers is read as numbers."""
    file = tmp_path / "best.yaml"
    file.write_text(yaml.safe_dump({"lr": 1e-5, "total_frames": 8, "frames_per_batch": 8, "activation": "relu"}))
    words = ["train", "ppo", "CartPole-v1", *QUIET, "--final-episodes", "1", "--eval-episodes", "1"]
    assert main([*words, "--log-dir", str(tmp_path), "--config", str(file)]) == 0
    assert json.loads((tmp_path / "ppo_CartPole-v1_seed0/settings.json").read_text())["settings"]["lr"] == 1e-5


def test_export(run, tmp_path, capsys):
    pytest.importorskip("onnx")
    assert main(["export", str(run), "--out", str(tmp_path / "agent.onnx")]) == 0
    assert main(["export", str(run), "--format", "torch", "--out", str(tmp_path / "agent.pt2")]) == 0
    assert [path for path in (tmp_path / "agent.onnx", tmp_path / "agent.pt2") if not path.stat().st_size] == []
