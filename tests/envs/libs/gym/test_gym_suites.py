"""GymEnv over gymnasium's suites: Atari, Box2D, toy text, Minigrid."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from torchrl.envs import GymEnv, default_info_dict_reader

pytestmark = pytest.mark.filterwarnings(
    "ignore:builtin type .* has no __module__ attribute:DeprecationWarning"  # Box2D's
)


def agrees_with_gymnasium(name, steps, **kwargs):
    ours = GymEnv(name, categorical_action_encoding=True, **kwargs)
    ours.set_seed(3)
    batch = ours.rollout(steps)
    raw = gym.make(name, **kwargs)
    seen, _ = raw.reset(seed=3)
    for row in batch.unbind(0):
        if isinstance(seen, np.ndarray):
            assert np.array_equal(row["pixels" if ours.from_pixels else "observation"].numpy(), seen)
        else:
            assert row["observation"].item() == seen
        seen, reward, terminated, truncated, _ = raw.step(row["action"].item())
        assert row["next", "reward"].item() == np.float32(reward)
        assert row["next", "terminated"].item() == terminated
        assert row["next", "truncated"].item() == truncated
    return batch


def test_atari_comes_with_its_games():
    pytest.importorskip("ale_py", reason="ale_py is not installed")
    batch = agrees_with_gymnasium("ALE/Pong-v5", 6)
    assert batch["pixels"].dtype is torch.uint8
    assert batch["pixels"].shape == (6, 210, 160, 3)
    env = GymEnv("ALE/Breakout-v5", obs_type="ram")
    env.set_info_dict_reader(default_info_dict_reader(["lives"]))
    assert env.reset()["lives"] == 5


def test_box2d_moves_as_in_gymnasium():
    pytest.importorskip("Box2D", reason="Box2D is not installed")
    agrees_with_gymnasium("LunarLander-v3", 30)


@pytest.mark.parametrize("name", ["FrozenLake-v1", "Taxi-v4", "CliffWalking-v1"])
def test_toy_text_counts_its_states(name):
    agrees_with_gymnasium(name, 12)
    hot = GymEnv(name).rollout(3)["next", "observation"]
    assert (hot.sum(-1) == 1).all()


def test_a_mission_is_text():
    pytest.importorskip("minigrid", reason="minigrid is not installed")
    env = GymEnv("MiniGrid-Fetch-5x5-N2-v0")
    env.set_seed(0)
    root = env.reset()
    raw = gym.make("MiniGrid-Fetch-5x5-N2-v0")
    seen, _ = raw.reset(seed=0)
    assert root["mission"] == seen["mission"]
    assert np.array_equal(root["image"].numpy(), seen["image"])
    assert root["direction"].shape == (4,)
    batch = env.rollout(3)
    assert [row["mission"] for row in batch.unbind(0)] == [batch[0]["mission"]] * 3
