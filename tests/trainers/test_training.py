"""One line trains an agent; it can be stopped and resumed; it is the same as its parts by hand."""

import json
import os
import signal
import threading

import gymnasium
import numpy as np
import pytest
import torch

import torchrl
from torchrl._core.errors import SpecError, UnexpectedKeyError
from torchrl.envs import CartPoleEnv, EnvBase, GymEnv
from torchrl.trainers import Agent
from torchrl.trainers.algorithms import ALGORITHMS
from torchrl.trainers.training import split_settings

QUIET = {"progress_bar": False, "num_threads": 0, "video": False}
SMALL = {
    "ppo": {"total_frames": 512, "frames_per_batch": 128, "num_envs": 2, "minibatch_size": 64, "num_epochs": 2},
    "dqn": {"total_frames": 512, "frames_per_batch": 64, "learning_starts": 128, "eps_frames": 200},
}


def weights_of(policy):
    return {name: value.clone() for name, value in policy.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("algorithm", SMALL)
def test_evaluations_and_folders_change_nothing(algorithm, tmp_path):
    settings = SMALL[algorithm]
    agent = torchrl.train(
        algorithm,
        "CartPole-v1",
        log_dir=tmp_path,
        eval_interval=100,
        eval_episodes=2,
        final_episodes=2,
        **QUIET,
        **settings,
    )
    trainer = ALGORITHMS[algorithm].from_env("CartPole-v1", progress_bar=False, **settings)
    trainer.train()
    assert same(weights_of(agent.policy), weights_of(trainer.policy))
    other = torchrl.train(algorithm, "CartPole-v1", log_dir="", seed=1, final_episodes=0, **QUIET, **settings)
    assert not same(weights_of(agent.policy), weights_of(other.policy))


def test_frames_that_are_no_whole_batches_are_rounded_up_without_a_warning():
    seen = []
    options = {"log_dir": "", "final_episodes": 0, **QUIET, **SMALL["ppo"], "total_frames": 200}
    torchrl.train("ppo", "CartPole-v1", callbacks=[lambda trainer: seen.append(trainer.collected_frames)], **options)
    assert seen == [128, 256]


def test_the_folder_of_a_run(tmp_path):
    torchrl.train("ppo", "CartPole-v1", log_dir=tmp_path, eval_interval=128, eval_episodes=2, **QUIET, **SMALL["ppo"])
    folder = tmp_path / "ppo_CartPole-v1_seed0"
    found = json.loads((folder / "settings.json").read_text())
    assert (found["algorithm"], found["env"], found["settings"]["frames_per_batch"]) == ("ppo", "CartPole-v1", 128)
    assert json.loads((folder / "versions.json").read_text())["torchrl"] == torchrl.__version__
    rows = [line.split(",") for line in (folder / "scalars/eval/return.csv").read_text().splitlines()]
    assert [int(row[0]) for row in rows] == [128, 256, 384, 512]
    assert (folder / "scalars/train/loss_objective.csv").exists()
    assert (folder / "learning_curve.png").stat().st_size > 1000
    for name in ("best.agent", "last.agent"):
        assert Agent.load(folder / name).task == "CartPole-v1"
    best = max(float(row[1]) for row in rows)
    assert Agent.load(folder / "best.agent").evaluate(2).mean == pytest.approx(best)
    again = torchrl.train("ppo", "CartPole-v1", log_dir=tmp_path, final_episodes=0, **QUIET, **SMALL["ppo"])
    assert again is not None
    assert (tmp_path / "ppo_CartPole-v1_seed0_2").is_dir()


def test_callbacks_and_a_target_end_training(tmp_path):
    seen = []

    def callback(trainer):
        seen.append(trainer.collected_frames)
        return len(seen) < 2

    torchrl.train("ppo", "CartPole-v1", log_dir="", callbacks=[callback], final_episodes=0, **QUIET, **SMALL["ppo"])
    assert seen == [128, 256]
    seen.clear()
    torchrl.train("ppo", "CartPole-v1", log_dir="", callbacks=callback, final_episodes=0, **QUIET, **SMALL["ppo"])
    assert seen == [128, 256], "one that is no list"
    seen.clear()
    torchrl.train(
        "ppo",
        "CartPole-v1",
        log_dir="",
        callbacks=[lambda trainer: seen.append(0)],
        target_return=1.0,
        eval_interval=128,
        eval_episodes=1,
        final_episodes=0,
        **QUIET,
        **SMALL["ppo"],
    )
    assert len(seen) == 1


@pytest.mark.parametrize("false", [np.False_, torch.tensor(False)], ids=["numpy", "torch"])
def test_a_comparison_of_metrics_ends_training(false):
    seen = []

    def callback(trainer):
        seen.append(trainer.collected_frames)
        return false

    torchrl.train("ppo", "CartPole-v1", log_dir="", callbacks=[callback], final_episodes=0, **QUIET, **SMALL["ppo"])
    assert seen == [128]


def test_a_callback_that_returns_a_number_does_not_end_training():
    seen = []

    def callback(trainer):
        seen.append(trainer.collected_frames)
        return torch.tensor(0.0)

    settings = {**QUIET, **SMALL["ppo"], "total_frames": 256}
    torchrl.train("ppo", "CartPole-v1", log_dir="", callbacks=[callback], final_episodes=0, **settings)
    assert seen == [128, 256]


@pytest.mark.parametrize("algorithm", SMALL)
@pytest.mark.parametrize("how", ["callback", "Ctrl-C"])
def test_a_stopped_run_goes_on(how, algorithm, tmp_path):
    """It ends with all frames, and no step stands twice in its logs."""
    options = {"log_dir": tmp_path, "eval_interval": 128, "eval_episodes": 1, "final_episodes": 0, **QUIET}

    def stop(trainer):
        if trainer.collected_frames >= 256:
            if how == "callback":
                return False
            signal.raise_signal(signal.SIGINT)
        return True

    settings = {**SMALL[algorithm], "save_interval": 10_000}
    if how == "callback":
        torchrl.train(algorithm, "CartPole-v1", callbacks=[stop], **options, **settings)
    else:
        with pytest.raises(KeyboardInterrupt, match="saved after 256 frames"):
            torchrl.train(algorithm, "CartPole-v1", callbacks=[stop], **options, **settings)
    folder = tmp_path / f"{algorithm}_CartPole-v1_seed0"
    with (folder / "scalars/train/reward.csv").open("a") as file:
        file.write("300,1.0\n")  # logged after the checkpoint by a run that was killed
    torchrl.resume(folder, progress_bar=False)
    for name in ("train/reward", "eval/return"):
        steps = [int(line.split(",")[0]) for line in (folder / f"scalars/{name}.csv").read_text().splitlines()]
        assert steps == sorted(set(steps))
        assert 300 not in steps
        assert steps[-1] == 512


def steps_of(file):
    return [int(line.split(",")[0]) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("algorithm", SMALL)
def test_a_run_that_has_ended_goes_on_beyond_its_frames(algorithm, tmp_path):
    """Its settings, schedules and exploration from there on are those of a run with as many frames from the start."""
    settings = {**SMALL[algorithm], "anneal_lr": True, "total_frames": 256}
    options = {"log_dir": tmp_path, "eval_interval": 128, "eval_episodes": 1, "final_episodes": 2, **QUIET}
    torchrl.train(algorithm, "CartPole-v1", **options, **settings)
    folder = tmp_path / f"{algorithm}_CartPole-v1_seed0"
    assert steps_of(folder / "scalars/eval/final_return.csv") == [256]
    agent = torchrl.resume(folder, total_frames=512)
    assert agent.config.total_frames == 512
    assert json.loads((folder / "settings.json").read_text())["settings"]["total_frames"] == 512
    files = sorted((folder / "scalars").rglob("*.csv"))
    assert len(files) > 10
    for file in files:
        steps = steps_of(file)
        assert steps == sorted(set(steps)), file
        assert steps[-1] == 512
    assert steps_of(folder / "scalars/eval/final_return.csv") == [512]

    whole = torchrl.train(algorithm, "CartPole-v1", **options, **{**settings, "total_frames": 512, "seed": 1})
    assert whole.config.total_frames == 512
    folders = folder, tmp_path / f"{algorithm}_CartPole-v1_seed1"
    rates = [(path / "scalars/train/lr.csv").read_text().splitlines() for path in folders]
    extended, expected = ([row for row in rows if int(row.split(",")[0]) > 256] for rows in rates)
    assert extended == expected
    assert len(expected) >= 2
    assert float(expected[0].split(",")[1]) > 0

    torchrl.resume(folder, progress_bar=False)  # nothing is left to do
    assert all(steps_of(file) == sorted(set(steps_of(file))) for file in files)
    before = {file: file.read_text() for file in (*files, folder / "settings.json")}
    with pytest.raises(ValueError, match=r"already has 512 frames; found total_frames=384.* Pass more"):
        torchrl.resume(folder, total_frames=384)
    assert all(file.read_text() == text for file, text in before.items())


def test_exploration_goes_on_where_it_was(tmp_path):
    """What had been annealed before a save is not annealed again."""

    def train(file=None):
        trainer = ALGORITHMS["dqn"].from_env("CartPole-v1", progress_bar=False, **{**SMALL["dqn"], "eps_frames": 600})
        if file is not None:
            trainer.load_from_file(file)
        seen = {}
        trainer.register_op("post_steps", lambda: seen.update({trainer.collected_frames: float(eps(trainer))}))
        trainer.register_op("post_steps", lambda: trainer.collected_frames == 128 and save(trainer))
        trainer.train()
        return seen

    def eps(trainer):
        return trainer.collector.policy[-1].eps

    def save(trainer):
        torch.save(trainer.state_dict(), tmp_path / "state.pt")

    whole, rest = train(), train(tmp_path / "state.pt")
    assert list(rest) == [192, 256, 320, 384, 448, 512]
    assert rest == {frames: value for frames, value in whole.items() if frames > 128}
    assert 0.6 < rest[192] < 0.8


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    def stop(trainer):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        torchrl.train(
            "ppo", "CartPole-v1", callbacks=[stop], log_dir=tmp_path, final_episodes=0, **QUIET, **SMALL["ppo"]
        )
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_is_left_alone_in_other_threads(tmp_path):
    done = []

    def work():
        options = {"log_dir": tmp_path, "final_episodes": 0, "eval_interval": 10**6, **QUIET, **SMALL["ppo"]}
        done.append(torchrl.train("ppo", "CartPole-v1", **options))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(done) == 1


@pytest.mark.parametrize(
    "task", [CartPoleEnv, lambda: GymEnv("CartPole-v1"), CartPoleEnv()], ids=["class", "function", "env"]
)
def test_environments_of_any_form(task, tmp_path):
    settings = {**SMALL["ppo"], "num_envs": 1, "final_episodes": 2}
    agent = torchrl.train("ppo", task, log_dir=tmp_path, **QUIET, **settings)
    assert len(list(tmp_path.iterdir())) == 1
    assert len(agent.evaluate(2, CartPoleEnv).returns) == 2
    if isinstance(task, EnvBase):  # which is closed after training
        with pytest.raises(ValueError, match="has no environment to play in"):
            agent.evaluate(2)
    else:
        assert len(agent.evaluate(2).returns) == 2


def test_a_run_that_cannot_be_built_leaves_no_folder(tmp_path):
    with pytest.raises(SpecError):
        torchrl.train("sac", "CartPole-v1", log_dir=tmp_path, **QUIET)
    assert not list(tmp_path.iterdir())


def test_settings_of_other_types_are_converted_or_refused(tmp_path):
    given = {"lr": np.float32(0.5), "total_frames": 1e3, "seed": np.int64(2), "device": torch.device("cpu")}
    config, options = split_settings("ppo", "CartPole-v1", {**given, "log_dir": tmp_path, "eval_episodes": np.int32(3)})
    found = (config.lr, config.total_frames, config.seed, config.device, options.eval_episodes)
    assert json.loads(json.dumps(found)) == [0.5, 1000, 2, "cpu", 3]
    wrong = {"lr": "1e-4", "total_frames": 1.5, "num_envs": None, "anneal_lr": "no", "video": 1, "seed": True}
    for name, value in wrong.items():
        with pytest.raises(TypeError, match=rf"entry '{name}' has another type; expected .*, found {value!r}"):
            torchrl.train("ppo", "CartPole-v1", **{"log_dir": tmp_path, name: value})
    assert not list(tmp_path.iterdir())


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"expected.*'ppo'.*found ppoo.*Did you mean 'ppo'"):
        torchrl.train("ppoo", "CartPole-v1")
    with pytest.raises(UnexpectedKeyError, match=r"gama.*Did you mean 'gamma'"):
        torchrl.train("ppo", "CartPole-v1", gama=0.9)
    with pytest.raises(ValueError, match="frames_per_batch is too small"):
        torchrl.train("ppo", "CartPole-v1", frames_per_batch=0)
    with pytest.raises(TypeError, match=r"got no task; .* found TimeLimit. As in GymWrapper"):
        torchrl.train("ppo", gymnasium.make("CartPole-v1"), log_dir="")
    with pytest.raises(FileNotFoundError, match="is not the folder of a run"):
        torchrl.resume(tmp_path)
    assert not os.path.exists("runs")


def test_settings_of_the_table_hold_for_tasks_of_that_name():
    config, options = split_settings("ppo", "CartPole-v1", {"lr": 1.0, "video": False})
    assert (config.num_envs, config.lr, config.gamma, options.video) == (8, 1.0, 0.98, False)
    assert split_settings("ppo", CartPoleEnv, {})[0].num_envs == 1
    assert split_settings("ppo", "HalfCheetah-v5", {})[0].normalize_observations


@pytest.mark.parametrize(
    ("algorithm", "settings", "expected"),
    [
        ("ppo", {"lr": -1.0}, "lr is too small; expected at least 0"),
        ("ppo", {"lr": float("nan")}, "lr is not finite"),
        ("ppo", {"lr": float("inf")}, "lr is not finite"),
        ("ppo", {"max_grad_norm": float("nan")}, "max_grad_norm is not finite"),
        ("ppo", {"lmbda": 1.5}, "lmbda is out of range; expected 0 to 1"),
        ("ppo", {"adam_eps": 0.0}, "adam_eps is too small; expected more than 0"),
        ("ppo", {"clip_epsilon": -0.1}, "clip_epsilon is too small"),
        ("ppo", {"kl_target": 0.0}, "kl_target is too small"),
        ("ppo", {"critic_coeff": -1.0}, "critic_coeff is too small"),
        ("ppo", {"hidden_size": 0, "recurrent": "gru"}, "hidden_size is too small"),
        ("ppo", {"seed": -1}, "seed is out of range"),
        ("reinforce", {"lmbda": -1.0}, "lmbda is out of range"),
        ("a2c", {"rms_eps": 0.0}, "rms_eps is too small"),
        ("impala", {"hidden_size": 0}, "hidden_size is too small"),
        ("dqn", {"eps_end": 2.0}, "eps_end is out of range"),
        ("dqn", {"hidden_size": 0}, "hidden_size is too small"),
        ("qr_dqn", {"eps_end": -1.0}, "eps_end is out of range"),
        ("qr_dqn", {"adam_eps": -1.0}, "adam_eps is too small"),
        ("sac", {"learning_starts": -1}, "learning_starts is too small"),
        ("sac", {"tau": 1.5}, "tau is out of range"),
        ("sac", {"alpha_init": 0.0}, "alpha_init is too small; expected more than 0"),
        ("redq", {"alpha_init": 0.0}, "alpha_init is too small"),
        ("tqc", {"alpha_init": 0.0}, "alpha_init is too small"),
        ("tqc", {"dropped_quantiles": 25}, "dropped_quantiles is too large; expected less than num_quantiles=25"),
        ("crossq", {"alpha_init": 0.0}, "alpha_init is too small"),
        ("discrete_sac", {"alpha_init": 0.0}, "alpha_init is too small"),
        ("offline_to_online", {"alpha_init": -1.0}, "alpha_init is too small"),
        ("offline_to_online", {"offline_fraction": 1.5}, "offline_fraction is out of range"),
        ("td3", {"tau": 2.0}, "tau is out of range"),
        ("td3_bc", {"alpha": float("nan")}, "alpha is not finite"),
    ],
)
def test_impossible_settings_are_named_before_anything_is_written(algorithm, settings, expected, tmp_path):
    task = "CartPole-v1" if algorithm in ("ppo", "reinforce", "a2c", "impala", "dqn", "qr_dqn") else "Pendulum-v1"
    with pytest.raises(ValueError, match=expected):
        torchrl.train(algorithm, task, log_dir=tmp_path / "runs", **QUIET, **settings)
    assert not (tmp_path / "runs").exists()


def test_a_run_that_ends_before_it_learns_says_so(caplog):
    settings = {**SMALL["dqn"], "learning_starts": 513}
    torchrl.train("dqn", "CartPole-v1", log_dir="", final_episodes=0, **QUIET, **settings)
    assert "nothing will be learned: learning_starts=513 is beyond total_frames=512" in caplog.text


def test_settings_at_their_limits_train(caplog):
    """A last batch that is rounded up reaches learning_starts; infinite limits are none."""
    steps = []
    settings = {**SMALL["dqn"], "total_frames": 65, "max_grad_norm": float("inf"), "batch_size": 200, "buffer_size": 64}
    torchrl.train(
        "dqn",
        "CartPole-v1",
        log_dir="",
        final_episodes=0,
        callbacks=lambda trainer: steps.append(trainer.num_optim_steps),
        **QUIET,
        **settings,
    )
    assert steps[-1] > 0
    assert "nothing will be learned" not in caplog.text


def test_seeds_of_evaluations_are_checked():
    agent = torchrl.train("ppo", "CartPole-v1", log_dir="", final_episodes=0, **QUIET, **SMALL["ppo"])
    with pytest.raises(ValueError, match="no such seed; expected 0 to 4294967295, found -1"):
        agent.evaluate(1, seed=-1)
