"""BraxEnv and JumanjiEnv: rows, ends, masks, against the libraries themselves."""

import functools

import numpy as np
import pytest
import torch

from torchrl.data import Categorical, MultiCategorical, OneHot
from torchrl.envs import BraxEnv, BraxWrapper, JumanjiEnv, JumanjiWrapper

jax = pytest.importorskip("jax", reason="jax is not installed")
pytestmark = pytest.mark.filterwarnings(
    "ignore:JAXopt is no longer maintained:DeprecationWarning",
    "ignore:Brax System, piplines and environments:UserWarning",
)


@functools.cache
def snake():
    pytest.importorskip("jumanji", reason="jumanji is not installed")
    return JumanjiEnv("Snake-v1", batch_size=[2], time_limit=6, categorical_action_encoding=True)


@functools.cache
def fast():
    pytest.importorskip("brax", reason="brax is not installed")
    return BraxEnv("fast", batch_size=[3], episode_length=4)


def test_jumanji_is_the_environment_row_by_row():
    env = snake()
    env.set_seed(0)
    batch = env.rollout(3)
    _, key = jax.random.split(jax.random.PRNGKey(0))
    for i, row_key in enumerate(jax.random.split(key, 2)):
        state, step = env._env.reset(row_key)
        for row in batch[i].unbind(0):
            assert np.array_equal(row["grid"].numpy(), np.asarray(step.observation.grid))
            state, step = env._env.step(state, row["action"].numpy())
            assert row["next", "reward"].item() == float(step.reward)
            assert row["next", "done"].item() == bool(step.step_type == 2)


def test_random_moves_are_legal_and_ends_are_told_apart():
    env = snake()
    batch = env.rollout(24, break_when_any_done=False)
    legal = batch["action_mask"].gather(-1, batch["action"].unsqueeze(-1))
    assert legal.all()
    ends = batch["next", "done"]
    assert ends.sum() >= 6  # at the latest after six steps
    # Snake says of its time limit that the game is lost: its discount is 0.
    assert torch.equal(batch["next", "terminated"], ends)
    assert not batch["next", "truncated"].any()


def test_a_snake_that_leaves_the_board_is_dead():
    env = snake()
    root = env.reset()
    for _ in range(6):
        root["action"] = torch.zeros(2, dtype=torch.int64)  # always up
        root = env.step_mdp(env.step(root))
        if root["done"].any():
            break
    over = root["done"]
    assert over.any()
    assert torch.equal(root["terminated"] | root["truncated"], over)


@pytest.mark.parametrize("env", [snake, fast])
def test_partial_resets_and_held_rows_touch_no_other(env):
    env = env()
    key = env.observation_keys[0]
    root = env.step_mdp(env.rollout(2)[..., -1])
    before = root[key].clone()
    state = env._state
    mask = torch.zeros(*env.batch_size, 1, dtype=torch.bool)
    mask[0] = True
    after = env.reset(root.set("_reset", mask))[key]
    assert torch.equal(after[1:], before[1:])
    for new, old in zip(*map(jax.tree_util.tree_leaves, (env._state, state)), strict=True):
        assert np.array_equal(np.asarray(new)[1:], np.asarray(old)[1:])
    held = env._state
    root = env.rand_action(root).set("_step", mask)
    env.step(root)
    for new, old in zip(*map(jax.tree_util.tree_leaves, (env._state, held)), strict=True):
        assert np.array_equal(np.asarray(new)[1:], np.asarray(old)[1:])


def test_brax_ends_at_its_time_limit():
    batch = fast().rollout(9, break_when_any_done=False)
    flags = [(t + 1) % 4 == 0 for t in range(9)]
    for row in range(3):
        assert batch["next", "truncated"][row].flatten().tolist() == flags
    assert not batch["next", "terminated"].any()
    env = BraxEnv("fast")
    assert env.rollout(6).batch_size == (6,)


def test_actions_of_several_choices():
    pytest.importorskip("jumanji", reason="jumanji is not installed")
    env = JumanjiEnv("RobotWarehouse-v0", categorical_action_encoding=True, jit=False)
    assert isinstance(env.action_spec, MultiCategorical)
    assert isinstance(snake().action_spec, Categorical)
    assert isinstance(JumanjiEnv("Snake-v1").action_spec, OneHot)


def test_mistakes_are_told():
    pytest.importorskip("brax", reason="brax is not installed")
    pytest.importorskip("jumanji", reason="jumanji is not installed")
    import brax.envs

    with pytest.raises(ValueError, match=r"resets on its own.*auto_reset=False"):
        BraxWrapper(brax.envs.create("fast", auto_reset=True))
    with pytest.raises(TypeError, match=r"expected an environment of brax\.envs, found int"):
        BraxWrapper(3)
    with pytest.raises(ValueError, match=r"knows no environment 'fastt'.*'fast'"):
        BraxEnv("fastt")
    with pytest.raises(ValueError, match=r"action_repeat needs an episode_length"):
        BraxEnv("fast", action_repeat=2)
    with pytest.raises(TypeError, match=r"expected a plain jumanji\.Environment, found int"):
        JumanjiWrapper(3)
    with pytest.raises(ValueError, match=r"knows no environment 'Snake-v9'.*'Snake-v1'"):
        JumanjiEnv("Snake-v9")
