"""Environments of ours through gymnasium's registry."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from torchrl._core.errors import SpecError
from torchrl.data import (
    Binary,
    Bounded,
    Categorical,
    Composite,
    MultiCategorical,
    MultiOneHot,
    NonTensor,
    OneHot,
    Unbounded,
)
from torchrl.envs import EnvBase, GymEnv, GymWrapper, StepCounter, check_env_specs
from torchrl.envs.libs.gym import space_from_spec
from torchrl.envs.libs.gym.register import _to_numpy, _to_tensor
from torchrl.testing.mocks import CountingEnv, MultiAgentEnv, NestedEnv, StatelessEnv, TextEnv


@pytest.fixture
def register():
    """Register environments for the length of a test."""
    before = set(gym.envs.registry)
    yield lambda cls, id="Ours-v0", **kwargs: cls.register_gym(id, **{"to_numpy": True, **kwargs})
    for id in set(gym.envs.registry) - before:
        del gym.envs.registry[id]


SPECS = [
    (Bounded(-1, 2, (3,)), spaces.Box(-1, 2, (3,))),
    (Bounded(0, 255, (2, 2), dtype=torch.uint8), spaces.Box(0, 255, (2, 2), np.uint8)),
    (Unbounded((2,)), spaces.Box(-np.inf, np.inf, (2,))),
    (Unbounded((2,), dtype=torch.float64), spaces.Box(-np.inf, np.inf, (2,), np.float64)),
    (Unbounded((), dtype=torch.int16), spaces.Box(-(2**15), 2**15 - 1, (), np.int16)),
    (OneHot(3), spaces.Discrete(3)),
    (OneHot(3, dtype=torch.int64), spaces.Discrete(3)),
    (OneHot(3, (2, 3)), spaces.MultiDiscrete([3, 3])),
    (Categorical(3), spaces.Discrete(3)),
    (Categorical(3, (2, 1)), spaces.MultiDiscrete([[3], [3]])),
    (Categorical(2, (2,), dtype=torch.bool), spaces.Box(0, 1, (2,), bool)),
    (MultiOneHot([2, 3]), spaces.MultiDiscrete([2, 3])),
    (MultiCategorical([2, 3]), spaces.MultiDiscrete([2, 3])),
    (Binary(4), spaces.MultiBinary((4,))),
    (Composite(a=OneHot(3), b=Unbounded((1,))), spaces.Dict(
        a=spaces.Discrete(3), b=spaces.Box(-np.inf, np.inf, (1,))
    )),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "space"), SPECS)
def test_spaces(spec, space):
    assert space_from_spec(spec) == space
    for _ in range(5):
        value = spec.rand()
        array = _to_numpy(value, spec, space)
        assert space.contains(array), array
        back = _to_tensor(array, spec)
        assert spec.is_in(back)
        same = back == value
        assert same.all()
        assert spec.is_in(_to_tensor(space.sample(), spec))


def test_objects_other_than_text_have_no_space():
    assert isinstance(space_from_spec(NonTensor(example_data="a", shape=())), spaces.Text)
    with pytest.raises(SpecError, match=r"no space of any objects.*info_keys"):
        space_from_spec(NonTensor(example_data=object(), shape=()))


@pytest.mark.filterwarnings("ignore:.*infinity")
@pytest.mark.parametrize("cls", [CountingEnv, NestedEnv, StatelessEnv, TextEnv])
def test_gymnasium_finds_no_fault(cls, register):
    register(cls)
    env = gym.make("Ours-v0")
    check_env(env.unwrapped, skip_render_check=True)
    env.close()
    assert env.unwrapped.env.is_closed


def test_it_is_the_same_environment(register):
    register(CountingEnv, horizon=9, cut=4)
    view, ours = gym.make("Ours-v0"), CountingEnv(horizon=9, cut=4)
    ours.set_seed(3)
    root = ours.reset()
    observation, info = view.reset(seed=3)
    assert info == {}
    assert np.array_equal(observation, root["observation"].numpy())
    for t in range(4):
        action = np.array([t / 8 - 0.1], np.float32)
        root = ours.step(root.set("action", torch.tensor(action)))
        observation, reward, terminated, truncated, info = view.step(action)
        assert np.array_equal(observation, root["next", "observation"].numpy())
        assert reward == root["next", "reward"].item()
        assert (terminated, truncated) == (False, t == 3)
        root = ours.step_mdp(root)
    view = gym.make("Ours-v0", horizon=2)
    view.reset()
    view.step(action)
    assert view.step(action)[2:4] == (True, False)


def test_there_and_back_again(register):
    register(CountingEnv, horizon=5)
    env = GymWrapper(gym.make("Ours-v0"))
    check_env_specs(env)
    env.set_seed(0)
    batch = env.rollout(20)
    ours = CountingEnv(horizon=5)
    ours.set_seed(0)
    again = ours.rollout(20, actions=batch["action"])
    for key in again.keys(True, True):
        assert torch.equal(batch.get(key), again.get(key)), key


def test_a_discrete_environment_keeps_its_space(register):
    register(GymEnv, env_name="CartPole-v1")
    env = gym.make("Ours-v0")
    raw = gym.make("CartPole-v1")
    assert env.action_space == raw.action_space
    assert env.observation_space.shape == raw.observation_space.shape
    first, _ = env.reset(seed=4)
    assert np.array_equal(first, raw.reset(seed=4)[0])
    assert np.array_equal(env.step(1)[0], raw.step(1)[0])


def test_transform_and_infos(register):
    transform = StepCounter(max_steps=3)
    register(CountingEnv, horizon=9, transform=transform, info_keys=["step_count"])
    assert transform.container is None
    env = gym.make("Ours-v0")
    assert env.observation_space.shape == (2,)
    _, info = env.reset()
    assert info["step_count"] == 0
    for t in range(3):
        *_, terminated, truncated, info = env.step(env.action_space.sample())
        assert info["step_count"] == t + 1
    assert (terminated, truncated) == (False, True)
    gym.make("Ours-v0").reset()  # with a copy of the transform


def test_what_the_specs_do_not_name_is_in_the_info(register):
    class Chatty(CountingEnv):
        def _step(self, tensordict):
            return super()._step(tensordict).set(("debug", "twice"), 2 * self.count).set("_x", 1)

    register(Chatty, max_episode_steps=2)
    env = gym.make("Ours-v0")
    env.reset()
    *_, info = env.step(env.action_space.sample())
    assert info == {"debug.twice": np.array([2.0])}
    assert env.step(env.action_space.sample())[3]  # gymnasium's own limit


def test_entry_point(register):
    register(CountingEnv, entry_point=lambda: CountingEnv(horizon=1))
    env = gym.make("Ours-v0")
    env.reset()
    assert env.step(np.zeros(1, np.float32))[2]


def test_rows(register):
    register(CountingEnv)
    env = gym.make_vec("Ours-v0", num_envs=2)
    assert env.reset()[0].shape == (2, 2)


@pytest.mark.parametrize(
    ("cls", "kwargs", "words"),
    [
        (CountingEnv, {"batch_size": [2]}, r"batch size do not fit; expected no batch .*\(2,\)"),
        (MultiAgentEnv, {}, "end flags do not fit; expected one done flag"),
    ],
)
def test_what_gymnasium_has_no_form_for_is_refused(cls, kwargs, words, register):
    register(cls, **kwargs)
    with pytest.raises(SpecError, match=words):
        gym.make("Ours-v0")


class Plain(CountingEnv):
    """A :class:`CountingEnv` with a nested observation."""

    def __init__(self, start=0, **kwargs):
        super().__init__(**kwargs)
        self.start = start
        self.observation_spec["far"] = Composite(left=Unbounded((2,)))

    def _record(self, entries, like):
        return super()._record(entries, like).set(("far", "left"), torch.full((2,), float(self.start)))


@pytest.mark.parametrize("backend", [None, "gymnasium", gym])
@pytest.mark.parametrize("to_numpy", [None, True, False])
def test_observations_are_arrays_or_tensors(to_numpy, backend, register):
    options = {} if to_numpy is None else {"to_numpy": to_numpy}
    name = f"ToNumpy{to_numpy}{str(backend)[:3]}-v0".replace("<", "")
    Plain.register_gym(name, transform=StepCounter(), start=3, backend=backend, **options)
    env = gym.make(name)
    kind = np.ndarray if to_numpy else torch.Tensor
    seen, _ = env.reset()
    for observation in (seen, env.step(env.action_space.sample())[0]):
        for value in (observation["observation"], observation["far"]["left"], observation["step_count"]):
            assert isinstance(value, kind)
        assert float(observation["far"]["left"][0]) == 3.0
    gym.registry.pop(name)


@pytest.mark.filterwarnings("ignore")
def test_registration_in_gym():
    old = pytest.importorskip("gym", minversion="0.26")
    EnvBase.register_gym("Older-v0", entry_point=Plain, backend="gym", start=2)
    env = old.make("Older-v0", disable_env_checker=True)
    assert isinstance(env.unwrapped, old.Env)
    assert isinstance(env.observation_space, old.spaces.Dict)
    assert env.reset()[0]["far"]["left"][0] == 2.0
    assert "Older-v0" not in gym.registry
    with pytest.raises(ValueError, match="expected one of"):
        Plain.register_gym("Never-v0", backend="gymnast")
