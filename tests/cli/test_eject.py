"""The script that `torchrl eject` prints gives the numbers of the command, the function and the trainer."""

import ast
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import torchrl
from torchrl.cli import main
from torchrl.cli.script import make_script, public_import
from torchrl.trainers import Agent, RunConfig
from torchrl.trainers.algorithms import ALGORITHMS, tuned_settings, with_settings

ROOT = Path(__file__).parents[2]
# Algorithm, environment, settings: a few updates each.
RUNS = {
    "ppo": ("CartPole-v1", {"total_frames": 512}),
    "dqn": ("CartPole-v1", {"total_frames": 300, "frames_per_batch": 50, "learning_starts": 100}),
    "sac": ("Pendulum-v1", {"total_frames": 140, "num_cells": 32}),
}
VARIANTS = {
    "rainbow": ("dqn", "CartPole-v1", {**RUNS["dqn"][1], "rainbow": True, "num_cells": 32}),
    "normalised": (
        "ppo",
        "Pendulum-v1",
        {"total_frames": 512, "num_envs": 2, "frames_per_batch": 256}
        | {"normalize_observations": True, "normalize_rewards": True},
    ),
}
VARIANTS["recurrent"] = (
    "ppo",
    "CartPole-v1",
    {"total_frames": 256, "num_envs": 2, "frames_per_batch": 128, "recurrent": "lstm", "hidden_size": 8},
)
CASES = {name: (name, *case) for name, case in RUNS.items()} | VARIANTS


def config_of(algorithm, env, settings):
    return with_settings(ALGORITHMS[algorithm].config_class(), {**tuned_settings(algorithm, env), **settings})


def script_of(algorithm, env, settings):
    return make_script(algorithm, env, config_of(algorithm, env, settings), RunConfig(final_episodes=2))


def as_flags(settings):
    return [f"--{'' if v else 'no-'}{k}" if isinstance(v, bool) else f"--{k}={v}" for k, v in settings.items()]


def parameters(policy):
    return {name: value.clone() for name, value in policy.state_dict().items()}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def run_script(text, folder, monkeypatch):
    """Run a script as a program of its own would be, with its defaults; return the state dict that it saves."""
    file = folder / "script.py"
    file.write_text(text)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [str(file)])
    threads = torch.get_num_threads()
    try:
        runpy.run_path(str(file), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
    (saved,) = folder.glob("runs/*/policy.pt")
    return torch.load(saved)


@pytest.mark.parametrize("name", CASES)
def test_the_script_gives_the_parameters_of_the_function(name, tmp_path, monkeypatch, capsys):
    algorithm, env, settings = CASES[name]
    options = {"log_dir": "", "final_episodes": 0, "progress_bar": False, "eval_interval": 10_000}
    expected = parameters(torchrl.train(algorithm, env, **settings, **options).policy)
    assert_equal(run_script(script_of(algorithm, env, settings), tmp_path, monkeypatch), expected)
    assert "return" in capsys.readouterr().out


@pytest.mark.parametrize("algorithm", RUNS)
def test_command_and_trainer_give_the_same_parameters_too(algorithm, tmp_path):
    env, settings = RUNS[algorithm]
    words = ["train", algorithm, env, *as_flags(settings), "--log-dir", str(tmp_path), "--final-episodes", "0"]
    assert main([*words, "--no-video", "--no-progress-bar", "--eval-interval", "10000"]) == 0
    found = Agent.load(tmp_path / f"{algorithm}_{env}_seed0" / "last.agent")
    trainer = ALGORITHMS[algorithm].from_env(env, **settings, progress_bar=False)
    trainer.train()
    assert_equal(parameters(found.policy), parameters(trainer.policy))


@pytest.mark.parametrize("name", CASES)
def test_the_script_is_formatted_and_uses_public_names(name, tmp_path):
    text = script_of(*CASES[name])
    file = tmp_path / "script.py"
    file.write_text(text)
    ruff = shutil.which("ruff") or str(Path(sys.executable).parent / "ruff")
    config = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    for command in (["check", "--ignore", "T201"], ["format", "--diff"]):
        done = subprocess.run([ruff, *command, *config, str(file)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
            assert not [each for each in names if each.startswith("_") and each != "__future__"]


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_every_algorithm_can_be_ejected(algorithm):
    env = "CartPole-v1" if "discrete" in ALGORITHMS[algorithm].action_kinds else "Pendulum-v1"
    text = script_of(algorithm, env, {})
    names = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    assert {"make_trainer", "make_env", "parse_args"} <= names
    compile(text, "script.py", "exec")


def test_settings_have_comments_and_tuned_values():
    text = script_of("ppo", "CartPole-v1", {})
    assert "    lmbda: float = 0.8  # of the generalised advantage; paper: 0.95\n" in text
    assert "    num_envs: int = 8  # copies of the environment that step together; default: 1\n" in text
    assert '    env: str = "CartPole-v1"  # a task of gymnasium\n' in text


def test_the_command_prints_the_script(capsys):
    assert main(["eject", "ppo", "CartPole-v1", "--lr", "0.5"]) == 0
    out = capsys.readouterr().out
    assert out.startswith('"""Proximal policy optimisation')
    assert "    lr: float = 0.5  # learning rate; paper: 3e-4\n" in out
    assert "Made by `torchrl eject ppo CartPole-v1 --lr 0.5`" in out


def test_private_names_are_refused():
    with pytest.raises(ValueError, match="is private"):
        public_import("torchrl._core.errors", "describe")
