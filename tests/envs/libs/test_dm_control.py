"""DMControlEnv and DMControlWrapper, against dm_control itself and a scripted task."""

import functools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from torchrl._core.errors import ResetError
from torchrl.data import Bounded, Categorical, OneHot, Unbounded
from torchrl.envs import DMControlEnv, DMControlWrapper

dm_env = pytest.importorskip("dm_env", reason="dm_control is not installed")
suite = pytest.importorskip("dm_control.suite", reason="dm_control is not installed")
specs = dm_env.specs


@functools.cache
def cartpole():
    return suite.load("cartpole", "swingup", task_kwargs={"random": 0, "time_limit": 0.05})


class Script(dm_env.Environment):
    """Ends after three steps with a given discount."""

    def __init__(self, discount, random_state=None):
        self.discount, self.count, self.actions = discount, 0, []
        if random_state is not None:
            self.random_state = random_state

    def observation_spec(self):
        return {"arm": {"angle": specs.Array((), np.float64)}, "pose": specs.DiscreteArray(4)}

    def action_spec(self):
        return specs.DiscreteArray(3)

    def _seen(self):
        return {"arm": {"angle": float(self.count)}, "pose": self.count}

    def reset(self):
        self.count = 0
        return dm_env.restart(self._seen())

    def step(self, action):
        self.count += 1
        self.actions.append(action)
        if self.count == 3:
            return dm_env.TimeStep(dm_env.StepType.LAST, 2.0, self.discount, self._seen())
        return dm_env.transition(1.0, self._seen(), 0.5)


def test_it_is_the_environment_step_by_step():
    ours = DMControlWrapper(cartpole())
    ours.set_seed(3)
    batch = ours.rollout(9)
    raw = suite.load("cartpole", "swingup", task_kwargs={"random": 3, "time_limit": 0.05})
    step = raw.reset()
    for row in batch.unbind(0):
        for name, value in step.observation.items():
            assert np.array_equal(row[name].numpy(), value)
        step = raw.step(row["action"].numpy())
        assert row["next", "reward"].item() == np.float32(step.reward)
        assert np.array_equal(row["next", "position"], step.observation["position"])
    assert step.last()
    assert len(batch) == 5
    assert batch["next", "truncated"].flatten().tolist() == [False] * 4 + [True]
    assert not batch["next", "terminated"].any()
    assert batch["position"].dtype is torch.float64


@pytest.mark.parametrize(("discount", "name"), [(1.0, "truncated"), (0.0, "terminated")])
def test_the_discount_tells_the_end_of_the_task_from_that_of_the_time(discount, name):
    batch = DMControlWrapper(Script(discount)).rollout(9)
    assert len(batch) == 3
    other = {"truncated": "terminated", "terminated": "truncated"}[name]
    assert batch["next", name].flatten().tolist() == [False, False, True]
    assert not batch["next", other].any()
    assert torch.equal(batch["next", "done"], batch["next", name])


def test_a_discount_between_is_an_end_of_the_task():
    assert DMControlWrapper(Script(0.3)).rollout(9)["next", "terminated"][-1]


def test_frame_skip_adds_rewards_and_stops_at_the_end():
    batch = DMControlWrapper(Script(1.0), frame_skip=2).rollout(9)
    assert batch["next", "reward"].flatten().tolist() == [2.0, 2.0]
    assert batch["next", "pose"].flatten().tolist() == [2, 3]


def test_specs_of_numbers_and_choices():
    env = DMControlWrapper(Script(1.0))
    angle = env.observation_spec["arm", "angle"]
    assert isinstance(angle, Unbounded)
    assert (angle.shape, angle.dtype) == ((1,), torch.float64)
    assert env.observation_spec["pose"].shape == (1,)
    assert isinstance(env.action_spec, OneHot)
    integers = DMControlWrapper(Script(1.0), categorical_action_encoding=True)
    assert isinstance(integers.action_spec, Categorical)
    root = integers.reset().set("action", torch.tensor(2))
    integers.step(root)
    assert integers._env.actions == [2]
    bounds = DMControlWrapper(cartpole()).action_spec
    assert isinstance(bounds, Bounded)
    assert (bounds.space.low.item(), bounds.space.high.item()) == (-1.0, 1.0)


def test_a_seed_reaches_the_source_of_chance():
    state = np.random.RandomState(0)
    DMControlWrapper(Script(1.0, state)).set_seed(5)
    assert state.rand() == np.random.RandomState(5).rand()
    with pytest.raises(ResetError, match="has no random generator"):
        DMControlWrapper(Script(1.0)).set_seed(0)


def test_what_is_no_environment_is_refused():
    with pytest.raises(TypeError, match=r"expected a dm_env\.Environment, found str"):
        DMControlWrapper("cartpole")
    with pytest.raises(TypeError, match="only where there is physics to render"):
        DMControlWrapper(Script(1.0), from_pixels=True)
    with pytest.raises(ValueError, match="knows no task 'fly' in the domain 'cartpole'"):
        DMControlEnv("cartpole", "fly")
    with pytest.raises(ValueError, match="a domain among"):
        DMControlEnv("rocket", "fly")


class Camera:
    """Renders its number."""

    def render(self, height=240, width=320, camera_id=0):
        return np.full((height, width, 3), camera_id, np.uint8)


def test_pixels_come_from_the_camera_that_was_asked_for():
    env = Script(1.0)
    env.physics = Camera()
    only = DMControlWrapper(env, from_pixels=True, camera_id=7, render_kwargs={"height": 4, "width": 6})
    assert set(only.full_observation_spec.keys(True, True)) == {"pixels"}
    frame = only.reset()["pixels"]
    assert frame.shape == only.observation_spec["pixels"].shape == (4, 6, 3)
    assert bool((frame == 7).all())
    both = DMControlWrapper(env, from_pixels=True, pixels_only=False)
    assert set(both.rollout(2)["next"].keys()) >= {"pixels", "arm", "pose"}


RENDER = """
from torchrl.envs import DMControlEnv
size = {"height": 16, "width": 24}
env = DMControlEnv("cartpole", "balance", from_pixels=True, render_kwargs=size)
pixels = env.rollout(3)["next", "pixels"]
print(tuple(pixels.shape), bool(pixels.float().std() > 1))
"""


@pytest.mark.slow
def test_pixels_of_real_physics():
    """In a process of its own: the way to OpenGL is chosen when dm_control is imported."""
    done = subprocess.run(
        [sys.executable, "-c", RENDER],
        capture_output=True,
        text=True,
        env={**os.environ, "MUJOCO_GL": "egl"},
        check=False,
    )
    if done.returncode and "GL" in done.stderr:
        pytest.skip(f"no OpenGL without a screen here: {done.stderr.splitlines()[-1]}")
    assert done.stdout.strip() == "(3, 16, 24, 3) True", done.stderr


def test_the_suite_is_listed():
    assert "swingup" in dict(DMControlEnv.available_envs)["cartpole"]
