"""MultiThreadedEnv and MultiThreadedEnvWrapper: pools of EnvPool."""

import numpy as np
import pytest
import torch

from torchrl.envs import MultiThreadedEnv, MultiThreadedEnvWrapper, default_info_dict_reader

envpool = pytest.importorskip("envpool", reason="envpool is not installed")
SHORT = {"max_episode_steps": 4}


def pool(**kwargs):
    return envpool.make_gymnasium("CartPole-v1", **kwargs)


@pytest.fixture(scope="module")
def env():
    return MultiThreadedEnv(3, "CartPole-v1", create_env_kwargs=SHORT)


def test_the_last_observation_is_that_of_the_episode(env):
    """A cart goes on where it stood: position is the one before plus velocity."""
    env.set_seed(0)
    batch = env.rollout(13, break_when_any_done=False)
    before, after = batch["observation"], batch["next", "observation"]
    expected = before[..., 0] + 0.02 * before[..., 1]
    torch.testing.assert_close(after[..., 0], expected)
    over = batch["next", "done"].squeeze(-1)
    assert torch.equal(over, torch.arange(1, 14).expand(3, 13) % 4 == 0)
    assert torch.equal(batch["next", "truncated"].squeeze(-1), over)
    assert (batch["next", "reward"] == 1).all()
    fresh = batch["observation"][:, 4::4]
    assert (fresh.abs() <= 0.05).all()


def test_a_partial_reset_leaves_the_others_where_they_are(env):
    env.set_seed(1)
    root = env.step_mdp(env.rollout(2)[..., -1])
    before = root["observation"].clone()
    root["_reset"] = torch.tensor([[False], [True], [False]])
    after = env.reset(root)["observation"]
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert not torch.equal(after[1], before[1])
    next_root = env.rand_step(root)["next", "observation"]
    torch.testing.assert_close(next_root[:, 0], after[:, 0] + 0.02 * after[:, 1])
    # Two steps were taken before, so the others end two steps earlier.
    ends = env.rollout(9, auto_reset=False, tensordict=env.step_mdp(root))["next", "done"]
    assert ends.shape[1] == 1
    assert ends[:, 0, 0].tolist() == [True, False, True]


def test_rows_can_be_held(env):
    env.set_seed(2)
    root = env.reset()
    root = env.rand_action(root)
    root["_step"] = torch.tensor([True, False, True]).unsqueeze(-1)
    kept = root["observation"][1].clone()
    after = env.step(root)["next"]
    assert torch.equal(after["observation"][1], kept)
    assert after["reward"].flatten().tolist() == [1.0, 0.0, 1.0]
    root = env.rand_step(env.step_mdp(root))
    torch.testing.assert_close(root["next", "observation"][1, 0], kept[0] + 0.02 * kept[1])


def test_frame_skip_stops_at_the_end():
    env = MultiThreadedEnv(2, "CartPole-v1", create_env_kwargs=SHORT, frame_skip=3)
    rewards = env.rollout(9)["next", "reward"].squeeze(-1)
    assert rewards.tolist() == [[3.0, 1.0], [3.0, 1.0]]


def test_each_row_has_a_seed_of_its_own(env):
    env.set_seed(0)
    first = env.reset()["observation"]
    env.set_seed(0)
    assert torch.equal(env.reset()["observation"], first)
    assert len({tuple(row) for row in first.tolist()}) == 3
    env.set_seed(1)
    assert not torch.equal(env.reset()["observation"], first)


def test_a_pool_of_ones_own_and_its_infos():
    env = MultiThreadedEnvWrapper(pool(num_envs=2), categorical_action_encoding=True)
    env.set_info_dict_reader(default_info_dict_reader(["elapsed_step"]))
    assert env.action_spec.shape == (2,)
    steps = env.rollout(3, break_when_any_done=False)["next", "elapsed_step"]
    assert steps.tolist() == [[1, 2, 3], [1, 2, 3]]


def test_what_is_no_pool_in_lockstep_is_refused():
    with pytest.raises(TypeError, match="cannot present that"):
        MultiThreadedEnvWrapper(np.zeros(3))
    with pytest.raises(TypeError, match=r"steps all rows of a pool at once.*batch_size=1"):
        MultiThreadedEnvWrapper(pool(num_envs=2, batch_size=1))


def test_tasks_are_listed():
    assert "CartPole-v1" in MultiThreadedEnv.available_envs


def test_a_task_that_there_is_not():
    with pytest.raises(ValueError, match=r"knows no task 'CartPol-v1'.*'CartPole-v"):
        MultiThreadedEnv(2, "CartPol-v1")
