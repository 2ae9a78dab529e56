"""What holds for every algorithm of the one-line trainers."""

import math

import numpy as np
import pytest
import torch

from tests.trainers.algorithms.tasks import build, natural_task, several_choices, torch_task, without_gradient
from torchrl._core.errors import SpecError, UnexpectedKeyError
from torchrl.envs import CartPoleEnv, SerialEnv
from torchrl.trainers import Agent
from torchrl.trainers.algorithms import ALGORITHMS, AlgorithmTrainer, tuned_settings, with_settings
from torchrl.trainers.algorithms.defaults import TUNED

NAMES = sorted(ALGORITHMS)
BOTH = {"discrete", "continuous"}


def parameters(trainer):
    return {name: value.clone() for name, value in trainer.loss_module.state_dict().items()}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different


@pytest.mark.parametrize("name", NAMES)
def test_trains_and_logs_and_every_parameter_learns(name):
    trainer = build(name, natural_task(name))
    assert trainer.algorithm == name
    before = parameters(trainer)
    trainer.train()
    assert trainer.collected_frames == trainer.total_frames
    assert trainer.num_optim_steps > 0
    assert without_gradient(trainer) == []
    assert any(not torch.equal(before[name], value) for name, value in parameters(trainer).items())
    numbers = {name: float(value) for name, value in trainer.metrics.items()}
    assert any(name.startswith("loss") for name in numbers)
    assert all(math.isfinite(value) for value in numbers.values())


@pytest.mark.parametrize("name", NAMES)
def test_goes_on_from_a_save(name, tmp_path):
    first = build(name, torch_task(name), normalize_observations=False, save_trainer_file=tmp_path / "state.pt")
    half = first.total_frames // 2
    first.register_op("post_steps", lambda: first.request_stop() if first.collected_frames >= half else None)
    first.train()
    assert first.collected_frames == half
    found = []
    for _ in range(2):
        trainer = build(name, torch_task(name), normalize_observations=False)
        trainer.load_from_file(tmp_path / "state.pt")
        assert_equal(parameters(trainer), parameters(first))
        trainer.train()
        found.append(parameters(trainer))
    assert_equal(*found)
    assert trainer.collected_frames == trainer.total_frames
    assert trainer.num_optim_steps > first.num_optim_steps


@pytest.mark.parametrize("name", NAMES)
def test_equal_seeds_give_equal_parameters_and_others_do_not(name):
    found = []
    for seed in (3, 3, 4):
        trainer = build(name, natural_task(name), seed=seed)
        trainer.train()
        found.append(parameters(trainer))
    first, second, other = found
    assert_equal(first, second)
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


@pytest.mark.parametrize("name", NAMES)
def test_agents_predict_and_are_saved(name, tmp_path):
    trainer = build(name, natural_task(name))
    trainer.train()
    agent = Agent.from_trainer(trainer, trainer.config)
    shape = trainer.env.base_env.observation_spec_unbatched["observation"].shape
    observations = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    actions, _ = agent.predict(observations)
    assert len(actions) == 3
    for observation, action in zip(observations, actions, strict=True):
        np.testing.assert_allclose(agent.predict(observation)[0], action, rtol=1e-4, atol=1e-5)
    random, _ = agent.predict(observations[0], deterministic=False)
    assert np.shape(random) == np.shape(actions[0])
    loaded = Agent.load(agent.save(tmp_path / "x.agent"))
    np.testing.assert_array_equal(loaded.predict(observations)[0], actions)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_setting_names_the_nearest(name):
    with pytest.raises(UnexpectedKeyError, match="total_frames"):
        ALGORITHMS[name].from_env(natural_task(name), total_framse=10)


@pytest.mark.parametrize("name", [name for name in NAMES if not {*ALGORITHMS[name].action_kinds} >= BOTH])
def test_another_action_space_names_algorithms_that_fit(name):
    continuous = "continuous" in ALGORITHMS[name].action_kinds
    task, fit = ("CartPole-v1", "dqn") if continuous else ("Pendulum-v1", "sac")
    with pytest.raises(SpecError, match=rf"{name}.*fit.*{fit}") as error:
        build(name, task)
    assert "ppo" in str(error.value)


def test_the_names_of_the_action_kinds():
    with pytest.raises(SpecError, match="multi-discrete") as error:
        build("qr_dqn", several_choices)
    assert "dqn, " in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_tuned_settings_are_settings(name):
    for task in TUNED.get(name, {}):
        config = with_settings(ALGORITHMS[name].config_class(), TUNED[name][task])
        assert config.total_frames > 0
    assert isinstance(tuned_settings(name, natural_task(name)), dict)


def test_every_trainer_with_settings_is_listed():
    def below(kind):
        for each in kind.__subclasses__():
            yield each
            yield from below(each)

    listed = {each for each in below(AlgorithmTrainer) if "config_class" in vars(each)}
    assert {each for each in listed if each.__module__.startswith("torchrl")} == set(ALGORITHMS.values())


def test_an_environment_is_taken_as_it_is():
    trainer = build("ppo", SerialEnv(4, CartPoleEnv), num_envs=1)
    assert trainer.config.num_envs == 4
    trainer.shutdown()
