"""Every space of gymnasium, as observation and as action, alone and in rows."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

from torchrl._core.errors import DTypeError
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
from torchrl.envs import GymWrapper, check_env_specs, register_gym_spec_conversion
from torchrl.envs.libs.gym.spaces import _registered, spec_from_space

SPACES = {
    "box": lambda: spaces.Box(-1, 2, (3,)),
    "box, no dims": lambda: spaces.Box(-1, 2, ()),
    "box, image": lambda: spaces.Box(0, 255, (4, 3, 1), np.uint8),
    "box, double": lambda: spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
    "box, half": lambda: spaces.Box(-1, 1, (2,), np.float16),
    "box, half bounded": lambda: spaces.Box(np.array([0, -np.inf], np.float32), np.array([np.inf, 1], np.float32)),
    "box, int8": lambda: spaces.Box(-3, 3, (2,), np.int8),
    "box, int16": lambda: spaces.Box(-3, 3, (2,), np.int16),
    "box, int32": lambda: spaces.Box(-3, 3, (2,), np.int32),
    "box, int64": lambda: spaces.Box(-(2**40), 2**40, (2,), np.int64),
    "box, uint16": lambda: spaces.Box(0, 2**16 - 1, (2,), np.uint16),
    "box, uint64": lambda: spaces.Box(0, 2**40, (2,), np.uint64),
    "box, bool": lambda: spaces.Box(0, 1, (2,), bool),
    "discrete": lambda: spaces.Discrete(3),
    "discrete, start": lambda: spaces.Discrete(3, start=-1),
    "multi-discrete": lambda: spaces.MultiDiscrete([2, 3]),
    "multi-discrete, start": lambda: spaces.MultiDiscrete([2, 3], start=[1, -2]),
    "multi-discrete, matrix": lambda: spaces.MultiDiscrete([[2, 3], [4, 5]]),
    "multi-discrete, matrix, start": lambda: spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 2], [3, 4]]),
    "multi-discrete, one": lambda: spaces.MultiDiscrete([4]),
    "multi-binary": lambda: spaces.MultiBinary(4),
    "multi-binary, matrix": lambda: spaces.MultiBinary((2, 3)),
    "dict": lambda: spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Discrete(3, start=2)),
    "nested dict": lambda: spaces.Dict(
        a=spaces.Dict(b=spaces.Discrete(2), c=spaces.MultiBinary(2)), d=spaces.Box(0, 1, (1,))
    ),
    "tuple": lambda: spaces.Tuple([spaces.Discrete(2), spaces.Box(-1, 1, (2,))]),
    "tuple in dict": lambda: spaces.Dict(a=spaces.Tuple([spaces.Discrete(2), spaces.Dict(x=spaces.Box(0, 1, (1,)))])),
    "text": lambda: spaces.Text(5),
    "sequence": lambda: spaces.Sequence(spaces.Discrete(3)),
    "sequence of arrays": lambda: spaces.Sequence(spaces.Box(0, 1, (2,))),
    "graph": lambda: spaces.Graph(spaces.Box(0, 1, (2,)), spaces.Discrete(3)),
    "one of": lambda: spaces.OneOf([spaces.Discrete(2), spaces.Box(0, 1, (2,))]),
    "text in dict": lambda: spaces.Dict(a=spaces.Text(3), b=spaces.Discrete(2)),
}


class Zoo(gym.Env):
    """Shows samples of its observation space and keeps a log; refuses actions that are not in its
    action space. Episodes last 3 steps."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space
        self.source = copy.deepcopy(observation_space)
        self.source.seed(0)
        self.seen, self.done = [], []

    def show(self):
        self.seen.append(copy.deepcopy(observation := self.source.sample()))
        return observation

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.source.seed(seed)
        self.time = 0
        return self.show(), {}

    def step(self, action):
        assert self.action_space.contains(action), (action, type(action))
        self.done.append(copy.deepcopy(action))
        self.time += 1
        return self.show(), 1.0, self.time == 3, False, {}


def decode(space, record, key):
    """The value of a space that a record holds, by hand."""
    if isinstance(space, spaces.Dict):
        return {name: decode(s, record, (*key, name)) for name, s in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(decode(s, record, (*key, str(i))) for i, s in enumerate(space.spaces))
    value = record.get(key)
    if isinstance(space, spaces.Text | spaces.Sequence | spaces.Graph | spaces.OneOf):
        return value.data
    value = value.numpy()
    if isinstance(space, spaces.Discrete):
        return (value.argmax() if value.ndim else value) + space.start
    if isinstance(space, spaces.MultiDiscrete):
        if value.shape[-1] == space.nvec.sum():
            bounds = np.cumsum(space.nvec.flatten())[:-1]
            value = np.array([part.argmax() for part in np.split(value, bounds)])
        return value.reshape(space.shape) + space.start
    return value


def path(space, name):
    return () if isinstance(space, spaces.Dict) else (name,)


@pytest.mark.parametrize("categorical", [False, True])
@pytest.mark.parametrize("make", SPACES.values(), ids=SPACES)
def test_observations_are_what_the_environment_showed(make, categorical):
    raw = Zoo(make(), spaces.Discrete(2))
    env = GymWrapper(raw, categorical_action_encoding=categorical)
    check_env_specs(env)
    raw.seen.clear()
    batch = env.rollout(5, break_when_any_done=False)
    if categorical and isinstance(make(), spaces.MultiDiscrete):
        assert batch["observation"].shape[-1] == make().nvec.size
    shown = [batch[0], *(batch["next"][:3]), batch[3], *(batch["next"][3:])]
    assert len(raw.seen) == len(shown)
    for record, seen in zip(shown, raw.seen, strict=True):
        found = decode(make(), record, path(make(), "observation"))
        assert equal(found, seen), (found, seen)


@pytest.mark.parametrize("categorical", [False, True])
@pytest.mark.parametrize("make", SPACES.values(), ids=SPACES)
def test_actions_are_what_the_policy_wrote(make, categorical):
    raw = Zoo(spaces.Box(0, 1, (1,)), make())
    env = GymWrapper(raw, categorical_action_encoding=categorical)
    check_env_specs(env)
    raw.done.clear()
    batch = env.rollout(5, break_when_any_done=False)
    for record, done in zip(batch, raw.done, strict=True):
        found = decode(make(), record, path(make(), "action"))
        assert equal(found, done), (found, done)


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return np.array_equal(a, b) and np.shape(a) == np.shape(b)


@pytest.mark.parametrize("make", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("side", ["observation", "action"])
def test_rows_are_what_single_environments_are(make, side):
    def row():
        box = spaces.Box(0, 1, (1,))
        return Zoo(make(), box) if side == "observation" else Zoo(box, make())

    check_env_specs(GymWrapper(SyncVectorEnv([row, row])))
    env = GymWrapper(SyncVectorEnv([row, row]))
    env.set_seed(0)
    rows = env.rollout(5, break_when_any_done=False)
    seeds = [0, 795726461]
    for b, seed in enumerate(seeds):
        single = GymWrapper(row())
        single.set_seed(seed)
        names = list(single.action_keys)
        alone = single.rollout(5, actions=rows[b].select(*names), break_when_any_done=False)
        for key in alone.keys(True, True):
            assert torch.equal(rows[b].get(key), alone.get(key)), key
        for key in ("text", "sequence"):
            if side == "observation" and make() == SPACES[key]():
                assert rows[b]["observation"] == alone["observation"]


SPECS = [
    (spaces.Box(-1, 2, (3,)), Bounded(-1, 2, (3,), device="cpu")),
    (spaces.Box(-np.inf, np.inf, (3,)), Unbounded((3,), device="cpu")),
    (spaces.Box(0, 9, (3,), np.int32), Bounded(0, 9, (3,), dtype=torch.int32, device="cpu")),
    (spaces.Box(0, 1, (3,), bool), Categorical(2, (3,), dtype=torch.bool, device="cpu")),
    (spaces.Discrete(3), OneHot(3, dtype=torch.int64, device="cpu")),
    (spaces.MultiDiscrete([2, 3]), MultiOneHot([2, 3], dtype=torch.int64, device="cpu")),
    (spaces.MultiBinary(4), Binary(4, dtype=torch.int8, device="cpu")),
]


@pytest.mark.parametrize(("space", "spec"), SPECS)
def test_specs(space, spec):
    assert spec_from_space(space) == spec


def test_numbers_that_torch_has_no_place_for_are_refused():
    raw = Zoo(spaces.Box(0, 2**64 - 1, (1,), np.uint64), spaces.Discrete(2))
    raw.source.sample = lambda: np.array([2**64 - 1], np.uint64)
    env = GymWrapper(raw)
    assert env.observation_spec["observation"].dtype == torch.int64
    with pytest.raises(DTypeError, match="observation"):
        env.reset()


def test_categorical_specs():
    assert spec_from_space(spaces.Discrete(3), categorical=True) == Categorical(3, device="cpu")
    several = spec_from_space(spaces.MultiDiscrete([2, 3]), categorical=True)
    assert several == MultiCategorical([2, 3], device="cpu")
    nested = spec_from_space(SPACES["nested dict"](), categorical=True)
    assert isinstance(nested, Composite)
    assert nested["a", "b"] == Categorical(2, device="cpu")
    assert isinstance(spec_from_space(spaces.Text(3)), NonTensor)


def test_a_subclass_of_a_space_is_that_space():
    class Turn(spaces.Discrete):
        pass

    raw = Zoo(Turn(3, start=4), Turn(2, start=7))
    check_env_specs(GymWrapper(raw))
    assert set(raw.done) <= {7, 8}


def test_an_unknown_space_is_refused():
    class Strange(gym.Space):
        pass

    with pytest.raises(TypeError, match=r"no spec for the space.*register_gym_spec_conversion"):
        spec_from_space(Strange())


def test_a_space_of_ones_own():
    class Angle(gym.Space):
        def __init__(self):
            super().__init__((1,), np.float32)

        def sample(self, mask=None, probability=None):
            return np.array([self.np_random.random()], np.float32)

        def contains(self, x):
            return x.shape == (1,)

    @register_gym_spec_conversion(Angle)
    def convert(space, *, categorical, device):
        return Bounded(0, 7, shape=(1,), device=device)

    try:
        raw = Zoo(Angle(), Angle())
        env = GymWrapper(raw)
        assert env.action_spec == Bounded(0, 7, shape=(1,), device="cpu")
        check_env_specs(env)
        raw.seen.clear()
        assert env.reset()["observation"].numpy() == raw.seen[0]
    finally:
        del _registered[Angle]


def test_actions_and_observations_of_one_name_are_refused():
    both = spaces.Dict(speed=spaces.Box(0, 1, (1,)))
    with pytest.raises(ValueError, match=r"one name, \['speed'\].*Rename one"):
        GymWrapper(Zoo(both, both))
