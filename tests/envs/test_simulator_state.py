"""Simulators that are saved in the middle of an episode go on as they would have."""

import io
import random
from collections import deque
from enum import Enum

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tensordict import TensorDict

from torchrl._core.errors import CountError, SimulatorStateError, WorkerError
from torchrl._core.safe_load import load_file
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import (
    CartPoleEnv,
    Compose,
    DMControlEnv,
    EnvBase,
    FrameSkipTransform,
    GymEnv,
    GymWrapper,
    NoopResetEnv,
    ParallelEnv,
    PendulumEnv,
    RandomTruncationTransform,
    SerialEnv,
    StepCounter,
    Transform,
    TransformedEnv,
    VecNorm,
)
from torchrl.envs.simulator_state import load_attributes, save_attributes
from torchrl.testing.env import check_goes_on_from_a_saved_state


class Phase(Enum):
    FIRST = 1
    SECOND = 2


class Clock:
    def __init__(self):
        self.ticks = 0


class Attributes:
    """An object with attributes of all kinds that can be saved."""

    def __init__(self):
        self.number, self.text, self.flag, self.nothing = 1, "a", True, None
        self.float32, self.big = np.float32(0.1), 2**120
        self.array, self.letters = np.arange(3.0), np.array(["a", "bc"])
        self.time, self.raw = np.datetime64("2020-01-01"), b"\\x00\\xff"
        self.tensor, self.record = torch.arange(3), TensorDict(a=torch.zeros(2))
        self.items, self.pair, self.names, self.last = [1, [2]], (1, "b"), {"x"}, deque([1, 2], maxlen=2)
        self.by_name = {"a": {1: 2}, (0, 1): np.zeros(2)}
        self.phase, self.clock = Phase.FIRST, Clock()
        self.generators = [np.random.default_rng(0), np.random.RandomState(0), random.Random(0)]
        self.torch_generator = torch.Generator().manual_seed(0)
        self.space, self.network = gym.spaces.Dict(a=gym.spaces.Discrete(9)), torch.nn.Linear(1, 1)
        self.function, self.kind, self.owner = max, dict, self

    def change(self):
        self.number, self.text, self.flag, self.nothing = 2, "b", False, 1.5
        self.float32, self.big = np.float32(0.2), 3
        self.array += 1
        self.letters, self.time, self.raw = np.array(["x", "y"]), np.datetime64("2021-01-01"), b""
        self.tensor += 1
        self.record["a"] += 1
        self.items[1].append(3)
        self.pair, self.phase = (2, "c"), Phase.SECOND
        self.names.add("y")
        self.last.append(3)
        self.by_name["a"][1] = 5
        self.by_name[0, 1] += 1
        self.clock.ticks += 1
        with torch.no_grad():
            self.network.weight += 1

    def draws(self):
        numpy, old, python = self.generators
        return (
            [numpy.random(), old.rand(), python.random(), torch.rand(1, generator=self.torch_generator).item()],
            self.space.sample()["a"].item(),
        )

    def seen(self):
        names = set(vars(self)) - {"generators", "torch_generator", "space", "network", "owner", "clock", "record"}
        kept = {name: repr(getattr(self, name)) for name in names}
        return kept, self.clock.ticks, self.record["a"].tolist(), self.network.weight.item()


def through_a_file(state):
    """Return what a file of the state holds, read without running code."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return load_file(file)


def test_attributes_of_all_kinds():
    one = Attributes()
    one.space.sample()
    array, clock = one.array, one.clock
    state, seen = through_a_file(save_attributes(one)), one.seen()
    draws = [one.draws() for _ in range(3)]
    one.change()
    assert one.seen() != seen
    load_attributes(one, state)
    assert one.seen() == seen
    assert [one.draws() for _ in range(3)] == draws
    assert one.array is array  # in place, as others may hold them
    assert one.clock is clock


@pytest.mark.parametrize(
    ("value", "found"),
    [(iter([1]), "list_iterator"), (np.array([object()]), "ndarray"), ([Clock()], "Clock"), ({"a": Clock()}, "Clock")],
)
def test_what_is_not_known_is_named(value, found):
    one = Clock()
    one.inner = Clock()
    one.inner.strange = value
    with pytest.raises(SimulatorStateError, match=rf"Clock.inner.strange.* found {found}. Name it in"):
        save_attributes(one)


def test_a_table_of_data_is_not_saved_each_time():
    one = Clock()
    one.prices = np.zeros(2**23 + 1)
    with pytest.raises(SimulatorStateError, match=r"Clock.prices is too large .* up to 64 MiB.* `configuration`"):
        save_attributes(one)
    assert save_attributes(one, {"prices"}) == {"ticks": 0}


def test_an_environment_that_was_built_otherwise_is_refused():
    one = Clock()
    one.inner = Clock()
    state = save_attributes(one)
    one.inner = None
    with pytest.raises(SimulatorStateError, match=r"Clock.inner: is not what it was .* found NoneType. Build"):
        load_attributes(one, state)


class Walk(EnvBase):
    """Written by a user: a generator, a place and a list, in attributes."""

    def __init__(self):
        super().__init__()
        self.observation_spec = Composite(place=Unbounded((1,)))
        self.action_spec = Bounded(-1, 1, (1,))
        self.place, self.visited, self.rng = torch.zeros(1), [], np.random.default_rng(0)

    def _reset(self, tensordict):
        self.place = torch.as_tensor(self.rng.normal(size=1), dtype=torch.float32)
        self.visited.clear()
        return TensorDict(place=self.place)

    def _step(self, tensordict):
        self.place = self.place + tensordict["action"] + 0.1 * self.rng.normal()
        self.visited.append(float(self.place))
        far = torch.tensor([len(self.visited) > 6])
        return TensorDict(place=self.place, reward=torch.full((1,), sum(self.visited)), terminated=far)

    def _set_seed(self, seed):
        self.rng = np.random.default_rng(seed)


class Drawing(Walk):
    """Draws from torch's generator, which each worker process has."""

    def _reset(self, tensordict):
        super()._reset(tensordict)
        self.place = torch.randn(1)
        return TensorDict(place=self.place)


class Momentum(Transform):
    """Written by a user: its memory is an attribute."""

    def __init__(self):
        super().__init__(in_keys=["observation"], out_keys=["slow"])
        self.slow = torch.zeros(4)

    def _apply_transform(self, value):
        self.slow = 0.9 * self.slow + 0.1 * value
        return self.slow

    def transform_observation_spec(self, spec):
        spec["slow"] = spec["observation"].clone()
        return spec


def normalised():
    parts = Compose(FrameSkipTransform(2), VecNorm(in_keys=["observation"]), StepCounter(30))
    return TransformedEnv(GymEnv("CartPole-v1"), parts)


MAKERS = {
    "user's": Walk,
    "user's transform": lambda: TransformedEnv(GymEnv("CartPole-v1"), Momentum()),
    "user's, in workers": lambda: ParallelEnv(2, Walk),
    "torch's generator of workers": lambda: ParallelEnv(2, Drawing),
    "Acrobot": lambda: GymEnv("Acrobot-v1", max_episode_steps=9),
    "FrozenLake": lambda: GymEnv("FrozenLake-v1"),
    "HalfCheetah": lambda: GymEnv("HalfCheetah-v5", max_episode_steps=9),
    "Ant, frames skipped": lambda: GymEnv("Ant-v5", max_episode_steps=9, frame_skip=2),
    "vector": lambda: GymEnv("Pendulum-v1", num_envs=2, max_episode_steps=7),
    "normalised": normalised,
    "truncated at random": lambda: TransformedEnv(
        GymEnv("CartPole-v1"), Compose(StepCounter(), RandomTruncationTransform(2, 9))
    ),
    "no-ops": lambda: TransformedEnv(GymEnv("CartPole-v1"), NoopResetEnv(noops=5, random=True)),
    "four in two workers": lambda: ParallelEnv(2, [lambda: GymEnv("CartPole-v1")] * 4),
    "several kinds": lambda: SerialEnv(2, [PendulumEnv, PendulumEnv]),
    "in torch": lambda: CartPoleEnv([3], max_steps=7),
}


def goes_on(make):
    env = make()
    env.rollout(2)
    env.simulator_state()  # raises if it cannot be saved, which the check accepts
    env.close()
    check_goes_on_from_a_saved_state(make)


@pytest.mark.parametrize("name", MAKERS)
def test_goes_on_from_a_file(name):
    goes_on(MAKERS[name])


def test_atari():
    pytest.importorskip("ale_py")
    goes_on(lambda: GymEnv("ALE/Pong-v5", max_num_frames_per_episode=24))


def stand_still(td):
    return td.set("action", F.one_hot(torch.tensor(0), 6))


def test_atari_with_sticky_actions():
    """The action before the save is nearly always repeated; it is no part of the state of the game."""
    pytest.importorskip("ale_py")
    env, other = (GymEnv("ALE/Pong-v5", frameskip=1, repeat_action_probability=0.9) for _ in range(2))
    env.set_seed(0)
    td = env.step_mdp(env.rollout(200)[..., -1])
    for _ in range(10):
        td = env.step_mdp(env.rollout(15, auto_reset=False, tensordict=td)[..., -1])
        other.reset()
        other.load_simulator_state(env.simulator_state())
        steps = [each.rollout(20, stand_still, auto_reset=False, tensordict=td.clone()) for each in (env, other)]
        assert torch.equal(steps[0]["next", "pixels"], steps[1]["next", "pixels"])
        td = env.step_mdp(steps[0][..., -1])


@pytest.mark.parametrize(("domain", "task"), [("cartpole", "swingup"), ("quadruped", "walk")])
def test_dm_control(domain, task):
    pytest.importorskip("dm_control")
    goes_on(lambda: DMControlEnv(domain, task, time_limit=0.1))


class Outside(gym.Env):
    """Its state is where it cannot be seen."""

    observation_space, action_space = gym.spaces.Box(-1, 1, (1,)), gym.spaces.Discrete(2)

    def __init__(self):
        self.state = iter(range(10**9))

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.full(1, next(self.state) % 2, np.float32), 0.0, False, False, {}


@pytest.mark.parametrize(
    "make",
    [lambda env: env(), lambda env: TransformedEnv(env()), lambda env: ParallelEnv(2, env)],
    ids=["one", "transformed", "workers"],
)
def test_a_simulator_that_cannot_be_saved_says_so(make):
    env = make(lambda: GymWrapper(Outside()))
    env.reset()
    with pytest.raises(SimulatorStateError, match=r"it is not known what GymWrapper._env.state holds.*range_iterator"):
        env.simulator_state()
    env.close()


def test_another_number_of_environments_is_refused():
    env = SerialEnv(2, CartPoleEnv)
    with pytest.raises(CountError, match=r"SerialEnv: has another number of environments; expected 1, found 2"):
        env.load_simulator_state([{"simulator": {}}])


def test_methods_of_a_users_own():
    class Own(Walk):
        def simulator_state(self):
            return {"place": self.place.clone()}

        def load_simulator_state(self, state):
            self.place = state["place"]

    env = Own()
    env.rollout(3)
    state = env.simulator_state()
    place = env.place.clone()
    env.rollout(2)
    env.load_simulator_state(state)
    assert torch.equal(env.place, place)


def test_failures_in_workers_name_the_worker():
    env = ParallelEnv(2, lambda: GymEnv("CartPole-v1"))
    state = env.simulator_state()
    state[1]["simulator"]["_env"]["class"] = "Another"
    with pytest.raises(WorkerError, match="is not what it was when the environment was saved"):
        env.load_simulator_state(state)
    env.close()
