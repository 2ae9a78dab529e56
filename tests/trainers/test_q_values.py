"""What critics predict is logged as computed by hand, without a trace; overestimation is found by the doctor."""

import copy

import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torch import nn

import torchrl
from tests.trainers.algorithms.tasks import BOX, Space, build, natural_task
from torchrl._core.exploration import set_exploration_type
from torchrl._core.recurrence import set_recurrent_mode
from torchrl.envs import GymWrapper
from torchrl.modules import QValueActor
from torchrl.objectives import BCLoss, DQNLoss
from torchrl.trainers import Evaluation, LogQValue, Trainer, doctor, q_values
from torchrl.trainers.agent import discounted_returns
from torchrl.trainers.algorithms import ALGORITHMS
from torchrl.trainers.thresholds import Thresholds

# The number that an algorithm uses of what its critics, or quantiles, predict of a pair.
LOWEST, MEAN = ("sac", "discrete_sac", "td3", "td3_bc", "crossq", "iql", "cql"), ("redq", "tqc", "offline_to_online")
SINGLE = ("ddpg", "dqn", "qr_dqn")
RUNS = {name: (name, natural_task(name), {}) for name in (*LOWEST, *MEAN, *SINGLE)}
RUNS |= {
    "iql, continuous": ("iql", "Pendulum-v1", {}),
    "cql, continuous": ("cql", "Pendulum-v1", {}),
    "rainbow": ("dqn", "CartPole-v1", {"rainbow": True, "num_atoms": 11}),
    "recurrent": ("dqn", "CartPole-v1", {"recurrent": "gru", "num_envs": 1}),
}


def by_hand(name, trainer, batch):
    """Return the mean that is expected, from copies of the networks."""
    loss_module = trainer.loss_module
    name = name.partition(",")[0]
    with torch.no_grad(), set_exploration_type("deterministic"), set_recurrent_mode(True):
        if hasattr(loss_module, "qvalue_network"):
            critics = [copy.deepcopy(each).eval() for each in loss_module.network("qvalue_network")]
        else:
            critics = [copy.deepcopy(loss_module.value_network).eval()]
        found = []
        for critic in critics:
            out = critic(batch.copy())
            if "state_action_value" in critic.out_keys:
                found.append(out["state_action_value"].mean(-1))
                continue
            values = out["action_value"]  # of one-hot actions
            if name == "rainbow":
                values = (values.exp() * torch.linspace(-10, 10, 11).unsqueeze(-1)).sum(-2)
            elif name == "qr_dqn":
                values = values.mean(-2)
            found.append((values * batch["action"]).sum(-1))
        values = torch.stack(found)
    assert (len(found) == 1) == (
        name in (*SINGLE, "rainbow", "recurrent") or "DiscreteCQL" in type(loss_module).__name__
    )
    return (values.mean(0) if name in MEAN else values.amin(0)).mean().item()


def test_every_algorithm_with_values_of_actions_is_tested():
    others = {"ppo", "a2c", "reinforce", "impala", "bc", "decision_transformer"}
    assert {name for name, _, _ in RUNS.values()} == ALGORITHMS.keys() - others
    for name in others:
        trainer = build(name, natural_task(name))
        trainer.train()
        assert "q_value" not in trainer.metrics


@pytest.mark.parametrize("name", RUNS)
def test_the_logged_number_is_the_one_by_hand(name):
    algorithm, task, settings = RUNS[name]
    trainer = build(algorithm, task, **settings)
    pairs = []

    def compare(batch):
        value = trainer.metrics["q_value"]
        if not pairs or value != pairs[-1][0]:
            pairs.append((value, by_hand(name, trainer, batch)))

    trainer.register_op("post_optim_log", compare)
    trainer.train()
    assert len(pairs) >= 3
    for value, expected in pairs:
        assert value == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", RUNS)
def test_nothing_changes(name):
    """Neither weights, statistics and modes of modules, nor the batch, nor random generators."""
    algorithm, task, settings = RUNS[name]
    trainer = build(algorithm, task, **settings)
    loss_module = trainer.loss_module
    samples = []
    trainer.register_op("post_optim_log", samples.append)
    trainer.train()
    for part in loss_module.modules():
        part.training = torch.rand(()) < 0.5
    batch = samples[-1]
    before = batch.clone()
    state = {key: value.clone() for key, value in loss_module.state_dict().items()}
    modes = [part.training for part in loss_module.modules()]
    generator = torch.get_rng_state()
    assert q_values(loss_module, batch).shape == batch.batch_size
    assert torch.equal(torch.get_rng_state(), generator)
    assert modes == [part.training for part in loss_module.modules()]
    assert all(torch.equal(state[key], value) for key, value in loss_module.state_dict().items())
    assert set(before.keys(True, True)) == set(batch.keys(True, True))
    assert (before == batch).all()


@pytest.mark.parametrize("name", ["crossq", "rainbow", "sac"])
def test_training_is_the_same_without_it(name):
    algorithm, task, settings = RUNS[name]
    found = []
    for enable_logging in (True, False):
        trainer = build(algorithm, task, enable_logging=enable_logging, **settings)
        trainer.train()
        assert ("q_value" in trainer.metrics) == enable_logging
        found.append(trainer.loss_module.state_dict())
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())


def test_it_is_computed_only_when_it_is_logged(monkeypatch):
    calls = []
    monkeypatch.setitem(q_values.__globals__, "q_values", lambda *args: calls.append(args) or q_values(*args))
    trainer = build("dqn", "CartPole-v1", log_interval=128)
    trainer.train()
    assert trainer.num_optim_steps > 4
    assert len(calls) == 2  # at 64 and 192 of 256 frames
    silent = build("dqn", "CartPole-v1", enable_logging=False)
    silent.train()
    assert "q_value" not in silent.metrics
    assert len(calls) == 2


def test_padded_rows_do_not_count():
    layer = nn.Linear(1, 2, bias=False)
    layer.weight.data[:] = torch.tensor([[1.0], [10.0]])
    loss_module = DQNLoss(QValueActor(layer, action_space="categorical"))

    class Loop:  # as much of a trainer as the hook needs
        def is_due(self, name):
            return name == "value"

    loop = Loop()
    loop.loss_module = loss_module
    batch = TensorDict(observation=torch.tensor([[1.0], [1.0], [9.0]]), action=torch.tensor([0, 1, 1]), batch_size=[3])
    assert LogQValue(loop, "value")(batch) == {"value": pytest.approx((1 + 10 + 90) / 3)}
    batch["collector", "mask"] = torch.tensor([True, True, False])
    assert LogQValue(loop, "value")(batch) == {"value": pytest.approx(5.5)}
    assert LogQValue(loop)(batch) is None


def test_a_loss_without_critic_of_actions():
    trainer = build("bc", "Pendulum-v1")
    assert isinstance(trainer.loss_module, BCLoss)
    with pytest.raises(TypeError, match="no critic of actions; found BCLoss"):
        LogQValue(trainer)
    with pytest.raises(TypeError, match="no critic of actions; found BCLoss"):
        q_values(trainer.loss_module, TensorDict(batch_size=[1]))
    assert isinstance(trainer, Trainer)
    trainer.shutdown()


@pytest.mark.parametrize("terminated", [True, False])
def test_discounted_returns(terminated):
    """Against sums by hand; rows that have ended count no further steps."""
    torch.manual_seed(0)
    gamma, lengths, steps = 0.9, [3, 7], 7
    reward, flags = torch.zeros(2, steps, 1), torch.zeros(2, steps, 1, dtype=torch.bool)
    count = torch.zeros(2, steps, 1, dtype=torch.int64)
    for row, length in enumerate(lengths):
        reward[row, :length, 0] = torch.randn(length)
        count[row, :, 0] = (torch.arange(steps) + 1).clamp_max(length)
        flags[row, length - 1 :] = True
    after = {"reward": reward, "done": flags, "terminated": flags & terminated, "step_count": count}
    found = discounted_returns(TensorDict(next=TensorDict(after, [2, steps]), batch_size=[2, steps]), gamma)
    for row, length in enumerate(lengths):
        for step in range(steps):
            left = range(step, length)
            expected = sum(gamma ** (at - step) * reward[row, at, 0].item() for at in left)
            if not terminated and step < length:
                expected /= 1 - gamma ** len(left)
            assert found[row, step, 0].item() == pytest.approx(expected, abs=1e-5)


def test_the_mean_is_over_steps():
    result = Evaluation(torch.tensor([1.0, 1.0]), torch.tensor([1, 3]), torch.tensor([8.0, 4.0]))
    assert result.discounted_mean == 5.0
    assert Evaluation(torch.zeros(1), torch.ones(1)).discounted_mean is None


SETTINGS = {
    "total_frames": 1_600,
    "learning_starts": 160,
    "num_cells": 32,
    "updates_per_frame": 0.25,
    "target_interval": 5,
    "lr": 3e-3,
    "gamma": 0.5,
    "eps_frames": 800,
    "frames_per_batch": 16,
    "eval_interval": 320,
    "eval_episodes": 2,
    "final_episodes": 0,
    "video": False,
    "progress_bar": False,
    "num_threads": 0,
}


def short_task():
    """Return a task of five steps, each of which pays the number of the action, 0 to 2."""
    return GymWrapper(Space(BOX, spaces.Discrete(3)))


def add_to_values(trainer):
    """Overestimate: a constant in the output of the network, which the targets inherit."""
    last = [part for part in trainer.loss_module.value_network.modules() if isinstance(part, nn.Linear)][-1]
    last.bias.data.add_(5.0)


@pytest.mark.parametrize("is_planted", [False, True])
def test_the_doctor_finds_overestimation(is_planted, tmp_path):
    callbacks = [add_to_values] if is_planted else []
    torchrl.train("dqn", short_task, log_dir=tmp_path, callbacks=callbacks, **SETTINGS)
    report = doctor(tmp_path)
    assert "q_overestimates" in report.checked
    found = {finding.rule: finding for finding in report.findings}
    assert ("q_overestimates" in found) == is_planted, report.text()
    if is_planted:
        assert "the discounted returns" in found["q_overestimates"].fact
        assert found["q_overestimates"].metric == "q_value"
        assert found["q_overestimates"].value > Thresholds().q_excess


@pytest.mark.parametrize("normalize_rewards", [False, True])
def test_returns_are_those_that_the_critic_learns(normalize_rewards, tmp_path):
    """Rewards that are rescaled in training are not compared with those of the task."""
    settings = {**SETTINGS, "total_frames": 320, "normalize_rewards": normalize_rewards}
    torchrl.train("dqn", short_task, log_dir=tmp_path, **settings)
    folder = next(tmp_path.iterdir())
    assert (folder / "scalars/eval/return.csv").exists()
    assert (folder / "scalars/eval/discounted_return.csv").exists() != normalize_rewards
