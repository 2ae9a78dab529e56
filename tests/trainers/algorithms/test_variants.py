"""PPO, A2C, IMPALA, DQN and SAC in all their variants: they run, and each parameter gets a gradient."""

import pytest
import torch

from tests.trainers.algorithms.tasks import (
    build,
    masked,
    picture,
    several_choices,
    several_observations,
    several_observations_continuous,
    small_picture,
    switches,
    without_gradient,
)

ON_POLICY = {
    "clip": ("CartPole-v1", {}),
    "kl": ("Pendulum-v1", {"penalty": "kl"}),
    "kl, discrete": ("CartPole-v1", {"penalty": "kl"}),
    "kl, recurrent": ("CartPole-v1", {"penalty": "kl", "recurrent": "gru"}),
    "normalised": ("Pendulum-v1", {"normalize_observations": True, "normalize_rewards": True}),
    "lstm": ("CartPole-v1", {"recurrent": "lstm"}),
    "gru": ("Pendulum-v1", {"recurrent": "gru"}),
    "masked": (masked, {}),
    "masked, recurrent": (masked, {"recurrent": "lstm"}),
    "several choices": (several_choices, {}),
    "several choices, kl": (several_choices, {"penalty": "kl"}),
    "binary": (switches, {}),
    "pixels": (picture, {"num_cells": 0}),
    "pixels, recurrent": (picture, {"num_cells": 0, "recurrent": "gru"}),
    "MinAtar's pixels": (small_picture, {"num_cells": 0}),
    "dict": (several_observations, {"num_cells": 0}),
    "dict, recurrent, continuous": (several_observations_continuous, {"recurrent": "lstm"}),
}
DQN = {
    "plain": ("CartPole-v1", {"double": False}),
    "rainbow": ("CartPole-v1", {"rainbow": True}),
    "rainbow, pixels": (small_picture, {"rainbow": True, "num_cells": 0}),
    "n steps": ("CartPole-v1", {"n_steps": 3, "num_envs": 1}),
    "lstm": ("CartPole-v1", {"recurrent": "lstm"}),
    "gru, dueling": ("CartPole-v1", {"recurrent": "gru", "dueling": True}),
    "masked": (masked, {}),
    "masked, recurrent": (masked, {"recurrent": "gru"}),
    "masked, distributional": (masked, {"distributional": True}),
    "several choices": (several_choices, {}),
    "pixels": (picture, {"num_cells": 0}),
    "dict": (several_observations, {}),
}


LIMITED = ("a2c", "dqn", "impala", "ppo", "qr_dqn", "reinforce")


@pytest.mark.parametrize("name", LIMITED)
def test_a_limit_of_zero_leaves_gradients_as_they_are(name):
    assert build(name, "CartPole-v1", max_grad_norm=0.0).clip_norm is None
    assert build(name, "CartPole-v1", max_grad_norm=2.0).clip_norm == 2.0
    with pytest.raises(ValueError, match="max_grad_norm is too small"):
        build(name, "CartPole-v1", max_grad_norm=-1.0)


def run(name, env, **settings):
    trainer = build(name, env, **settings)
    trainer.train()
    assert trainer.num_optim_steps
    assert without_gradient(trainer) == []
    assert all(torch.isfinite(torch.as_tensor(value)).all() for value in trainer.metrics.values())
    return trainer


@pytest.mark.parametrize("variant", ON_POLICY)
def test_ppo(variant):
    env, settings = ON_POLICY[variant]
    run("ppo", env, **settings)


@pytest.mark.parametrize("name", ["a2c", "impala"])
@pytest.mark.parametrize("variant", ["lstm", "masked", "several choices", "dict, recurrent, continuous"])
def test_actor_critics(name, variant):
    env, settings = ON_POLICY[variant]
    run(name, env, **settings)


@pytest.mark.parametrize("variant", DQN)
def test_dqn(variant):
    env, settings = DQN[variant]
    run("dqn", env, **settings)


@pytest.mark.parametrize("name", ["qr_dqn", "discrete_sac"])
@pytest.mark.parametrize("env", [masked, several_observations])
def test_discrete_actions(name, env):
    run(name, env)


@pytest.mark.parametrize("name", ["sac", "td3", "crossq", "tqc"])
def test_continuous_actions_with_several_observations(name):
    run(name, several_observations_continuous)


OFFLINE = [("bc", "CartPole-v1"), ("iql", "CartPole-v1"), ("cql", "CartPole-v1"), ("cql", "Pendulum-v1")]
OFFLINE += [("td3_bc", "Pendulum-v1"), ("decision_transformer", "CartPole-v1")]


@pytest.mark.parametrize(("name", "env"), OFFLINE)
def test_learning_rates_of_offline_algorithms_fall_to_zero(name, env):
    rates = []
    trainer = build(name, env, anneal_lr=True)
    groups = trainer.lr_scheduler.optimizer.param_groups
    trainer.register_op("post_steps", lambda: rates.append([group["lr"] for group in groups]))
    trainer.train()
    assert [group["lr"] for group in groups] == [0.0] * len(groups)
    assert all(last < middle for middle, last in zip(rates[len(rates) // 2], rates[-1], strict=True))
    still = build(name, env, anneal_lr=False).lr_scheduler
    assert still is None or name in ("iql", "decision_transformer")


def test_cql_weighs_its_penalty_of_discrete_actions_too():
    loss_module = build("cql", "CartPole-v1", min_q_weight=3.0, temperature=2.0).loss_module
    assert (loss_module.min_q_weight, loss_module.temperature) == (3.0, 2.0)


@pytest.mark.parametrize("name", ["dqn", "qr_dqn", "discrete_sac", "ppo"])
def test_only_legal_actions_are_taken(name):
    trainer = build(name, masked)
    seen = []
    trainer.register_op("pre_steps_log", lambda batch: seen.append(batch["next", "reward"]))
    trainer.train()
    assert (torch.cat(seen) == 1.0).all()  # the reward of a legal action
