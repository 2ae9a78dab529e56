"""Environments of the algorithms: Atari games, masks, normalisation."""

import pytest
import torch

from torchrl.modules import make_q_actor
from torchrl.testing.mocks import MaskedEnv
from torchrl.trainers.algorithms import DQNConfig, make_env
from torchrl.trainers.algorithms.environments import make_base_env


def test_lives_and_signs_of_rewards_are_of_training_only():
    pytest.importorskip("ale_py")
    training, evaluation = make_env("ALE/Breakout-v5", DQNConfig()), make_base_env("ALE/Breakout-v5")
    assert {"lives", "end-of-life"} <= {*training.observation_spec.keys()}
    assert {*evaluation.observation_spec.keys()} == {"pixels"}
    assert "SignTransform" in repr(training)
    for env in (training, evaluation):
        pixels = env.reset()["pixels"]
        assert (pixels.shape, pixels.dtype) == ((1, 4, 84, 84), torch.uint8)
    assert make_q_actor(training).in_keys == ["pixels"]
    training.close()
    evaluation.close()


def test_random_actions_are_legal():
    env = make_env(MaskedEnv, DQNConfig(num_envs=2, frames_per_batch=2))
    steps = env.rollout(20, break_when_any_done=False)
    assert (steps["next", "reward"] == 1).all()
