"""Examples run: a few hundred frames each, with all that they write."""

import csv
import importlib
import json
import math
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from torchrl.record import parse_args

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL = ["--total_frames", "240", "--eval_episodes", "2", "--video", "false"]
OFF_POLICY = [
    *("--total_frames", "400", "--init_random_frames", "350", "--updates_per_frame", "0.1"),
    *("--batch_size", "16", "--num_cells", "16", "--eval_episodes", "2", "--video", "false"),
]
DQN = [*SMALL, "--frames_per_batch", "80", "--learning_starts", "160", "--batch_size", "16"]
RUNS = {
    "a2c": ["--total_frames", "240", "--eval_episodes", "2"],
    "ddpg": OFF_POLICY,
    "dqn": DQN,
    "dqn, all on": [*DQN, "--rainbow", "true", "--num_cells", "16"],
    "dreamer": [
        *("--total_frames", "100", "--num_envs", "2", "--episode_len", "50", "--eval_episodes", "2"),
        *("--learning_starts", "50", "--updates_per_batch", "1", "--slices_per_batch", "2"),
        *("--imagination_horizon", "3"),
    ],
    "ppo": [*SMALL, "--frames_per_batch", "120", "--num_epochs", "2"],
    "ppo_continuous": [
        *(*SMALL, "--frames_per_batch", "120", "--num_epochs", "2"),
        *("--num_cells", "16", "--norm_steps", "50"),
    ],
    "redq": [*OFF_POLICY, "--num_critics", "3"],
    "sac": OFF_POLICY,
    "td3": OFF_POLICY,
}
TERMS = {  # some of what each loss returns
    "a2c": ["loss_objective", "loss_critic", "loss_entropy", "entropy"],
    "ddpg": ["loss_actor", "loss_value"],
    "dreamer": ["loss_model_kl", "loss_actor", "loss_value"],
    "ppo": ["loss_objective", "loss_critic", "entropy", "kl_approx", "clip_fraction", "ESS"],
    "redq": ["loss_actor", "loss_qvalue", "loss_alpha", "alpha", "entropy"],
    "sac": ["loss_actor", "loss_qvalue", "loss_alpha", "alpha", "entropy"],
    "td3": ["loss_actor", "loss_qvalue"],
}
ELSEWHERE = {"trainer"}  # has a test of its own
HELPERS = {"compare"}


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def column(path):
    """Return ``(step, value)`` of each line of a scalar's file."""
    return [(int(step), float(value)) for step, value in csv.reader(path.read_text().splitlines())]


@pytest.mark.parametrize("name", RUNS)
def test_runs(name, tmp_path, capsys):
    example = importlib.import_module(name.partition(",")[0])
    args = parse_args(example.Args, argv=[*RUNS[name], "--log_dir", str(tmp_path)])
    score = example.main(args)

    (run,) = tmp_path.iterdir()
    scalars = run / "scalars"
    assert json.loads((run / "hparams.json").read_text())["total_frames"] == args.total_frames
    assert column(scalars / "train/reward.csv")[-1][0] == args.total_frames
    assert column(scalars / "train/episode_return.csv")
    terms = {path.stem for path in scalars.glob("train/*.csv")}
    assert terms >= {"loss", *TERMS.get(name, [])}
    ((step, value),) = column(scalars / "eval/return.csv")
    assert math.isfinite(score)
    assert (step, value) == (args.total_frames, pytest.approx(score))
    assert f"evaluation: {score:.1f}" in capsys.readouterr().out
    assert (run / "learning_curve.png").read_bytes()[:4] == b"\x89PNG"
    assert torch.load(run / "policy.pt")
    films = [path.read_bytes()[:3] for path in run.rglob("*.gif")]
    assert films == [b"GIF"] * args.video


def test_every_example_is_run():
    assert {path.stem for path in EXAMPLES.glob("*.py")} - HELPERS - ELSEWHERE == {
        name.partition(",")[0] for name in RUNS
    }


@pytest.mark.parametrize("name", sorted({name.partition(",")[0] for name in RUNS} | ELSEWHERE))
def test_every_setting_has_a_comment(name, capsys):
    example = importlib.import_module(name)
    with pytest.raises(SystemExit):
        parse_args(example.Args, example.__doc__, ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert example.__doc__.splitlines()[0] in text
    for setting in fields(example.Args):
        start = f"--{setting.name} {type(setting.default).__name__} "
        assert len(text.partition(start)[2].partition(" (default: ")[0]) > 5, setting.name


def test_rainbow_turns_every_switch_on():
    dqn = importlib.import_module("dqn")
    on = dqn.Args(rainbow=True)
    assert on.double
    assert on.dueling
    assert on.prioritized
    assert on.noisy
    assert on.distributional
    assert on.n_steps == 3
    assert dqn.Args(rainbow=True, n_steps=5).n_steps == 5


def test_curves_of_several_runs_are_drawn(tmp_path):
    compare = importlib.import_module("compare")
    for seed in (0, 1):
        scalars = tmp_path / f"sac_Task-v1_seed{seed}/scalars"
        for name, text in (("train/episode_return", "1,2.0\n3,4.5\n"), ("eval/return", "3,7.0\n")):
            (scalars / f"{name}.csv").parent.mkdir(parents=True)
            (scalars / f"{name}.csv").write_text(text)
        (scalars.parent / "hparams.json").write_text(json.dumps({"seed": seed}))
    runs = sorted(tmp_path.iterdir())
    assert compare.read(runs[1]) == ("seed 1: 7.0", [(1, 2.0), (3, 4.5)])
    compare.main([str(tmp_path / "all.png"), *map(str, runs)])
    assert (tmp_path / "all.png").read_bytes()[:4] == b"\x89PNG"
