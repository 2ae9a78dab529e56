"""A training run leaves its numbers, score, curve, video and weights in a folder."""

import csv
import json
import logging
import random
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn

from torchrl.envs import DoubleToFloat, GymEnv, RewardSum, TransformedEnv
from torchrl.modules import MLP, QValueActor
from torchrl.record import Experiment, evaluate_policy, parse_args, plot_curves
from torchrl.testing.mocks import CountingEnv


@dataclass
class Args:
    """Settings of a run."""

    env: str = "CartPole-v1"  # 100 % of a task
    seed: int = 0
    total_frames: int = 50
    eval_episodes: int = 3
    video: bool = False  # write one
    log_dir: str = "runs"
    lr: float = 1e-3


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def column(path):
    return [(int(step), float(value)) for step, value in csv.reader(path.read_text().splitlines())]


def cartpole():
    env = TransformedEnv(GymEnv("CartPole-v1"), RewardSum())
    return env, QValueActor(MLP(4, 2, num_cells=[8]), spec=env.action_spec)


# --- the command line


def test_arguments_are_read_by_the_type_of_their_default():
    given = ["--seed", "3", "--lr", "1e-2", "--video", "yes", "--env", "Pendulum-v1"]
    assert parse_args(Args, argv=given) == Args(seed=3, lr=0.01, video=True, env="Pendulum-v1")
    assert parse_args(Args, argv=[]) == Args()


@pytest.mark.parametrize("given", [["--video", "perhaps"], ["--sed", "1"], ["--seed", "one"]])
def test_other_arguments_are_errors(given, capsys):
    with pytest.raises(SystemExit):
        parse_args(Args, argv=given)
    assert given[0] in capsys.readouterr().err


def test_help_shows_comments_and_defaults(capsys):
    with pytest.raises(SystemExit):
        parse_args(Args, "First line.\nSecond line.", ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "First line." in text
    assert "Second line." not in text
    assert "--env str 100 % of a task (default: CartPole-v1)" in text
    assert "--video bool write one (default: False)" in text
    assert "--seed int (default: 0)" in text


# --- the run


def test_seeds_python_numpy_and_torch(tmp_path):
    drawn = []
    for _ in range(2):
        Experiment("dqn", Args(log_dir=str(tmp_path), seed=7))
        drawn.append((random.random(), np.random.random(), torch.rand(()).item()))
    torch.manual_seed(7)
    assert drawn[0] == drawn[1]
    assert drawn[0][2] == torch.rand(()).item()


def test_a_second_run_has_a_folder_of_its_own(tmp_path):
    args = Args(log_dir=str(tmp_path))
    folders = [Experiment("dqn", args).folder.name for _ in range(3)]
    first = "dqn_CartPole-v1_seed0"
    assert folders == [first, f"{first}_2", f"{first}_3"]
    assert json.loads((tmp_path / first / "hparams.json").read_text())["lr"] == 1e-3


def test_less_than_a_frame_a_second_is_shown_as_frames_per_second(tmp_path):
    bar = Experiment("dqn", Args(log_dir=str(tmp_path)))._bar
    shown = bar.format_meter(**{**bar.format_dict, "n": 4, "elapsed": 10.0, "rate": None, "ncols": 80})
    assert "0.40 frames/s]" in shown


def test_threads_of_torch(tmp_path):
    torch.set_num_threads(2)
    Experiment("dqn", Args(log_dir=str(tmp_path)), num_threads=None)
    assert torch.get_num_threads() == 2
    Experiment("dqn", Args(log_dir=str(tmp_path)))
    assert torch.get_num_threads() == 1


def test_logs_rewards_returns_and_terms(tmp_path):
    run = Experiment("dqn", Args(log_dir=str(tmp_path)))
    batch = TensorDict(
        next=TensorDict(
            reward=torch.tensor([[1.0], [3.0]]),
            done=torch.tensor([[False], [True]]),
            episode_reward=torch.tensor([[1.0], [4.0]]),
            batch_size=[2],
        ),
        batch_size=[2],
    )
    run.log(batch)
    batch["next", "done"] = torch.zeros(2, 1, dtype=torch.bool)
    losses = TensorDict(loss_actor=torch.tensor(1.0, requires_grad=True), loss_value=2.0, alpha=0.5)
    run.log(batch, values=torch.tensor([1, 2]), **losses)
    train = run.folder / "scalars/train"
    assert (run.frames, run.curve) == (4, [(2, 4.0)])
    assert column(train / "reward.csv") == [(2, 2.0), (4, 2.0)]
    assert column(train / "episode_return.csv") == [(2, 4.0)]
    assert column(train / "loss.csv") == [(4, 3.0)]
    assert column(train / "loss_actor.csv") == [(4, 1.0)]
    assert column(train / "alpha.csv") == [(4, 0.5)]
    assert column(train / "values.csv") == [(4, 1.5)]
    assert len(column(train / "frames_per_second.csv")) == 2


def test_a_loss_of_one_term_is_logged_as_it_is(tmp_path):
    run, (env, policy) = Experiment("dqn", Args(log_dir=str(tmp_path))), cartpole()
    run.log(env.rollout(10, policy), loss=0.5, loss_extra=1.0)
    ((_, value),) = column(run.folder / "scalars/train/loss.csv")
    assert value == 0.5


@pytest.mark.parametrize("video", [False, True])
def test_finishes_with_score_curve_weights_and_video(video, tmp_path, capsys):
    run, (env, policy) = Experiment("dqn", Args(log_dir=str(tmp_path), video=video)), cartpole()
    run.log(env.rollout(50, policy, break_when_any_done=False))
    score = run.finish(env, policy)
    assert column(run.folder / "scalars/eval/return.csv") == [(50, score)]
    assert f"evaluation: {score:.1f}" in capsys.readouterr().out
    assert (run.folder / "learning_curve.png").read_bytes()[:4] == b"\x89PNG"
    assert torch.load(run.folder / "policy.pt").keys() == policy.state_dict().keys()
    assert len(list(run.folder.rglob("videos/policy_50.gif"))) == video


def test_evaluates_with_the_transforms_of_training(tmp_path):
    env = TransformedEnv(GymEnv("Pendulum-v1"), RewardSum())
    env.append_transform(DoubleToFloat())
    seen = set()

    class Policy(nn.Module):
        in_keys, out_keys = ["observation"], ["action"]

        def forward(self, td):
            seen.add((td.batch_size, td["observation"].dtype))
            return td.set("action", torch.zeros(*td.batch_size, 1))

    run = Experiment("zero", Args(env="Pendulum-v1", log_dir=str(tmp_path)))
    first, second = (run.finish(env, Policy()) for _ in range(2))
    assert first == second < 0
    assert seen == {(torch.Size([3]), torch.float32)}


def test_another_environment_for_the_evaluation(tmp_path):
    def make():
        return TransformedEnv(CountingEnv(batch_size=[4]), RewardSum())

    policy = TensorDictModule(nn.Linear(2, 1), ["observation"], ["action"])
    run = Experiment("linear", Args(env="Counting", log_dir=str(tmp_path)))
    score = run.finish(make(), policy, make)
    env = make()
    env.set_seed(1_000_000)
    assert score == evaluate_policy(env, policy).mean()


def test_what_cannot_be_drawn_is_logged(tmp_path, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "imageio.v3", None)
    run, (env, policy) = Experiment("dqn", Args(log_dir=str(tmp_path), video=True)), cartpole()
    with caplog.at_level(logging.WARNING, "torchrl"):
        assert run.finish(env, policy) > 0
    assert "no learning curve: plot_curves needs matplotlib" in caplog.text
    assert "no video: " in caplog.text


def test_returns_of_an_environment_with_and_without_rows():
    env, policy = cartpole()
    assert evaluate_policy(env, policy).shape == (1,)
    assert evaluate_policy(env, policy, max_steps=3).item() == 3


def test_an_evaluation_needs_the_sums_of_rewards():
    with pytest.raises(KeyError, match=r"evaluate_policy: .*episode_reward.*RewardSum"):
        evaluate_policy(GymEnv("CartPole-v1"), None)


def test_plots_several_curves(tmp_path):
    curves = {"seed 0": [(10, 1.0), (20, 2.0)], "seed 1": []}
    plot_curves(curves, tmp_path / "curves.png", "Two runs")
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_a_curve_of_one_point_is_seen(tmp_path):
    iio = pytest.importorskip("imageio.v3")
    plot_curves({"seed 0": [(10, 1.0)]}, tmp_path / "one.png", "One evaluation")
    middle = iio.imread(tmp_path / "one.png")[150:250, 200:500, :3].astype(int)  # without axes, legend and title
    assert (middle.max(-1) - middle.min(-1) > 50).any()
