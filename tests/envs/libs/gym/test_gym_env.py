"""GymEnv and GymWrapper: one environment of gymnasium."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from torchrl.data import Bounded, Categorical, Composite, OneHot, Unbounded
from torchrl.envs import (
    GymEnv,
    GymWrapper,
    ParallelEnv,
    SerialEnv,
    ToTensorImage,
    TransformedEnv,
    check_env_specs,
    default_info_dict_reader,
    gym_backend,
    set_gym_backend,
)
from torchrl.envs.base import next_seed
from torchrl.envs.libs.gym import GymEnv as SamePlace


@pytest.fixture(autouse=True)
def _no_window(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


# --- against the environment itself --------------------------------------------------------------


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "InvertedDoublePendulum-v5"])
def test_it_is_the_environment_step_by_step(name):
    ours, raw = GymEnv(name), gym.make(name)
    ours.set_seed(3)
    observation, _ = raw.reset(seed=3)
    root = ours.reset()
    for _ in range(60):
        assert np.array_equal(root["observation"].numpy(), observation)
        root = ours.rand_step(root)
        action = root["action"].numpy()
        action = int(action.argmax()) if name == "CartPole-v1" else action
        observation, reward, terminated, truncated, _ = raw.step(action)
        assert np.array_equal(root["next", "observation"].numpy(), observation)
        assert root["next", "reward"].item() == np.float32(reward)
        assert root["next", "terminated"].item() == terminated
        assert root["next", "truncated"].item() == truncated
        root = ours.step_mdp(root)
        if terminated or truncated:
            observation, _ = raw.reset()
            root = ours.reset()


def test_layout():
    env = GymEnv("CartPole-v1")
    batch = env.rollout(3)
    assert set(batch.keys()) == {
        "observation", "action", "done", "terminated", "truncated", "next",
    }  # fmt: skip
    assert set(batch["next"].keys()) == {
        "observation", "reward", "done", "terminated", "truncated",
    }  # fmt: skip
    assert batch["next", "reward"].dtype == torch.float32
    for name in ("done", "terminated", "truncated"):
        assert batch["next", name].shape == (3, 1)
        assert batch["next", name].dtype == torch.bool
    assert batch["action"].dtype == torch.int64
    assert SamePlace is GymEnv


def test_actions_are_one_hot_or_a_number():
    assert GymEnv("CartPole-v1").action_spec == OneHot(2, dtype=torch.int64, device="cpu")
    env = GymEnv("CartPole-v1", categorical_action_encoding=True)
    assert env.action_spec == Categorical(2, device="cpu")
    assert env.rollout(3)["action"].shape == (3,)


def test_devices():
    assert GymEnv("CartPole-v1").rollout(2).device is None
    assert GymEnv("CartPole-v1").action_spec.device == torch.device("cpu")
    assert GymEnv("CartPole-v1", device="cpu").rollout(2).device == torch.device("cpu")
    moved = GymEnv("CartPole-v1").to("cpu")
    assert moved.rollout(2).device == torch.device("cpu")
    away = GymEnv("CartPole-v1").to("meta")
    assert away.read_obs(np.zeros(4, np.float32))["observation"].device == torch.device("meta")
    assert away.read_flag(True).device == torch.device("meta")
    assert away.read_reward(1.0).device == torch.device("meta")


def test_gymnasium_wants_a_reset_first():
    with pytest.raises(gym.error.ResetNeeded):
        GymEnv("CartPole-v1").rand_step()


def test_seeds():
    env = GymEnv("CartPole-v1")
    assert env.set_seed(0) == 795726461
    first = env.reset()["observation"]
    assert not torch.equal(env.reset()["observation"], first)
    env.set_seed(0)
    assert torch.equal(env.reset()["observation"], first)
    assert env.set_seed(5, static_seed=True) == 5
    rows = GymEnv("CartPole-v1", num_envs=3)
    assert rows.set_seed(0) == next_seed(next_seed(next_seed(0)))
    assert torch.equal(rows.reset()["observation"][0], first)
    assert torch.equal(env.reset(seed=0)["observation"], first)
    assert torch.equal(rows.reset(seed=0)["observation"][0], first)


def test_keywords_of_make_and_of_reset():
    assert GymEnv("CartPole-v1", max_episode_steps=3)._env.spec.max_episode_steps == 3
    near = {"low": -0.001, "high": 0.001}
    assert GymEnv("CartPole-v1").reset(options=near)["observation"].abs().max() <= 0.001


def test_what_we_lack_is_looked_up_inside():
    env = GymEnv("CartPole-v1")
    assert env.metadata["render_fps"] == 50
    assert env.unwrapped.gravity == 9.8
    with pytest.raises(AttributeError, match="neither GymEnv nor what it wraps has 'nothing'"):
        assert env.nothing
    assert "CartPole-v1" in repr(env)
    assert "CartPole-v1" in GymEnv.available_envs
    assert env.lib is gym
    assert TransformedEnv(env).metadata["render_fps"] == 50


def test_a_dict_observation_is_an_entry_each():
    class Goal(gym.Env):
        observation_space = spaces.Dict(observation=spaces.Box(0, 1, (2,)), goal=spaces.Box(0, 1, (1,), np.float64))
        action_space = spaces.Box(-1, 1, (1,), np.float64)

        def reset(self, *, seed=None, options=None):
            return {"observation": np.zeros(2, np.float32), "goal": np.ones(1)}, {}

        def step(self, action):
            assert action.dtype == np.float64
            return self.reset()[0], 0.0, False, False, {}

    env = GymWrapper(Goal())
    check_env_specs(env)
    assert env.reset()["goal"].dtype == torch.float64
    assert set(env.observation_keys) == {"observation", "goal"}


def test_a_buffer_that_the_simulator_reuses_is_copied():
    class Reusing(gym.Env):
        observation_space = spaces.Box(0, 9, (1,))
        action_space = spaces.Discrete(2)
        buffer = np.zeros(1, np.float32)

        def reset(self, *, seed=None, options=None):
            self.buffer[:] = 0
            return self.buffer, {}

        def step(self, action):
            self.buffer += 1
            return self.buffer, 0.0, False, False, {}

    batch = GymWrapper(Reusing()).rollout(3)
    assert batch["observation"].flatten().tolist() == [0, 1, 2]
    assert batch["next", "observation"].flatten().tolist() == [1, 2, 3]


def test_tensors_can_be_handed_over():
    class Torch(gym.Env):
        observation_space = action_space = spaces.Box(-1, 1, (1,))

        def reset(self, *, seed=None, options=None):
            return np.zeros(1, np.float32), {}

        def step(self, action):
            assert isinstance(action, torch.Tensor)
            return np.zeros(1, np.float32), 0.0, False, False, {}

    class Renamed(Torch):
        action_space = spaces.Dict(push=spaces.Box(-1, 1, (1,)))

    GymWrapper(Torch(), convert_actions_to_numpy=False).rollout(2)
    assert GymWrapper(Renamed(), convert_actions_to_numpy=False).rollout(2)["push"].shape == (2, 1)


# --- frames --------------------------------------------------------------------------------------


def test_actions_are_repeated():
    ours, raw = GymEnv("CartPole-v1", frame_skip=4), gym.make("CartPole-v1")
    ours.set_seed(0)
    raw.reset(seed=0)
    batch = ours.rollout(50)
    for step in batch:
        total = 0.0
        for _ in range(4):
            observation, reward, terminated, truncated, _ = raw.step(int(step["action"].argmax()))
            total += reward
            if terminated or truncated:
                break
        assert np.array_equal(step["next", "observation"].numpy(), observation)
        assert step["next", "reward"] == total
    assert batch["next", "terminated"][-1]
    with pytest.raises(ValueError, match="must be at least 1, found 0"):
        GymEnv("CartPole-v1", frame_skip=0)


def test_pixels():
    env = GymEnv("CartPole-v1", from_pixels=True)
    assert set(env.observation_keys) == {"pixels"}
    spec = env.observation_spec["pixels"]
    assert spec.dtype == torch.uint8
    assert spec.high.unique() == 255
    check_env_specs(env)
    env.set_seed(0)
    push = torch.tensor([0, 1]).expand(8, 2)
    batch = env.rollout(8, actions=push)
    assert batch["pixels"].shape == (8, 400, 600, 3)
    assert not torch.equal(batch["pixels"][0], batch["next", "pixels"][-1])
    assert np.array_equal(batch["next", "pixels"][-1].numpy(), env._env.render())


def test_pixels_beside_the_observation():
    env = GymEnv("CartPole-v1", from_pixels=True, pixels_only=False)
    assert set(env.observation_keys) == {"observation", "pixels"}
    raw = gym.make("CartPole-v1", render_mode="rgb_array")
    env = GymWrapper(raw, from_pixels=True)
    assert set(env.reset().keys()) >= {"observation", "pixels"}
    assert set(GymWrapper(raw, from_pixels=True, pixels_only=True).observation_keys) == {"pixels"}
    with pytest.raises(ValueError, match=r"renders arrays, found render_mode=None; build it with"):
        GymWrapper(gym.make("CartPole-v1"), from_pixels=True)


def test_pixels_of_rows():
    env = GymEnv("CartPole-v1", num_envs=2, from_pixels=True)
    batch = env.rollout(2)
    assert batch["pixels"].shape == (2, 2, 400, 600, 3)


# --- infos ---------------------------------------------------------------------------------------


class Telling(gym.Env):
    observation_space = spaces.Box(0, 9, (1,))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.lives = 3
        start = self.np_random.random(1, np.float32)
        return start, {"lives": 3, "name": "x", "_secret": 1.0}

    def step(self, action):
        self.lives -= 1
        info = {"lives": self.lives, "velocity": np.ones(2), "_secret": 2.0, "name": "x"}
        return np.zeros(1, np.float32), 1.0, self.lives == 0, False, info


def test_every_number_of_the_infos():
    env = GymWrapper(Telling()).auto_register_info_dict()
    assert env.observation_spec["lives"] == Unbounded((), dtype=torch.int64)
    assert env.observation_spec["velocity"].dtype == torch.float64
    assert set(env.observation_keys) == {"observation", "lives", "velocity"}
    check_env_specs(env)
    batch = env.rollout(9)
    assert batch["lives"].tolist() == [3, 2, 1]
    assert batch["next", "lives"].tolist() == [2, 1, 0]
    assert batch["velocity"].tolist() == [[0, 0], [1, 1], [1, 1]]
    private = GymWrapper(Telling()).auto_register_info_dict(ignore_private=False)
    assert private.reset()["_secret"] == 1.0


@pytest.mark.parametrize(
    "reader",
    [
        default_info_dict_reader(["lives"]),
        default_info_dict_reader(["lives"], [Unbounded((), dtype=torch.int64)]),
        default_info_dict_reader(spec={"lives": Unbounded((), dtype=torch.int64)}),
        default_info_dict_reader(spec=Composite(lives=Unbounded((1,)))),
    ],
)
def test_chosen_entries_of_the_infos(reader):
    env = GymWrapper(Telling()).set_info_dict_reader(reader)
    assert set(env.observation_keys) == {"observation", "lives"}
    check_env_specs(env)
    assert env.rollout(9)["next", "lives"].flatten().tolist() == [2, 1, 0]


def test_a_reader_of_ones_own():
    class Reader:
        info_spec = {"half": Unbounded((1,))}

        def __call__(self, info, tensordict):
            return tensordict.set("half", torch.tensor([info["lives"] / 2]))

    env = GymWrapper(Telling()).set_info_dict_reader(Reader())
    check_env_specs(env)
    assert env.rollout(9)["next", "half"].flatten().tolist() == [1.0, 0.5, 0.0]


def test_learning_the_infos_leaves_seeds_alone():
    plain, told = GymWrapper(Telling()), GymWrapper(Telling())
    plain.set_seed(3)
    told.set_seed(3)
    torch.manual_seed(0)
    told.auto_register_info_dict()
    state = torch.get_rng_state()
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(told.reset()["observation"], plain.reset()["observation"])
    with pytest.raises(ValueError, match="give one key for each spec"):
        default_info_dict_reader(spec=[Unbounded()])


def test_infos_of_rows():
    env = GymEnv("CartPole-v1", num_envs=2).auto_register_info_dict()
    check_env_specs(env)
    rows = GymWrapper(gym.vector.SyncVectorEnv([Telling, Telling])).auto_register_info_dict()
    assert rows.rollout(5, break_when_any_done=False)["lives"].tolist() == [[3, 2, 1, 3, 2]] * 2


# --- refusals ------------------------------------------------------------------------------------


def test_what_is_no_environment_is_refused():
    with pytest.raises(TypeError, match=r"expected a gymnasium environment, found str.*GymEnv"):
        GymWrapper("CartPole-v1")
    with pytest.raises(TypeError, match=r"GymWrapper takes no arguments \['gravity'\].*GymEnv"):
        GymWrapper(gym.make("CartPole-v1"), gravity=1.0)


class Liar(gym.Env):
    """Promises a box of float32, (2,)."""

    observation_space = spaces.Box(0, 1, (2,))
    action_space = spaces.Discrete(2)

    def __init__(self, shown):
        self.shown = shown

    def reset(self, *, seed=None, options=None):
        return self.shown, {}

    def step(self, action):
        return self.shown, 0.0, False, False, {}


def test_an_observation_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"'observation' has another shape .*\(2,\), found \(3,\)"):
        GymWrapper(Liar(np.zeros(3, np.float32))).rollout(2)


def test_an_observation_of_another_dtype_is_cast_to_that_of_its_space():
    env = GymWrapper(Liar(np.zeros(2)))
    assert env.rollout(2)["observation"].dtype == torch.float32


def test_a_policy_of_another_width_is_refused():
    policy = torch.nn.Linear(4, 3)
    with pytest.raises(ValueError, match=r"'action' has another shape .*\(2,\), found \(3,\)"):
        GymEnv("CartPole-v1").rollout(2, policy)


# --- backends ------------------------------------------------------------------------------------


def test_backends():
    assert gym_backend() is gym
    assert gym_backend("wrappers") is gym.wrappers
    with set_gym_backend("gymnasium"), set_gym_backend(gym):
        assert GymEnv("CartPole-v1").lib is gym
    set_gym_backend("gymnasium").set()

    @set_gym_backend("gymnasium")
    def make():
        return GymEnv("CartPole-v1")

    assert isinstance(make(), GymEnv)
    with pytest.raises(ValueError, match=r"expected one of \['gymnasium', 'gym'\], found 'gymnast'"):
        set_gym_backend("gymnast")


def test_workers_of_an_environment_by_name():
    env = GymEnv("CartPole-v1", num_workers=2, num_envs=3, max_episode_steps=4)
    assert isinstance(env, ParallelEnv)
    batch = env.rollout(5, break_when_any_done=False)
    assert batch.batch_size == (2, 3, 5)
    assert batch["next", "truncated"][..., 3, 0].all()
    env.close()
    assert isinstance(GymEnv("CartPole-v1", num_workers=None), GymEnv)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gymnasium", None)
    with pytest.raises(ImportError, match="GymEnv needs gymnasium"):
        GymEnv("CartPole-v1")


def test_bounds_are_those_of_the_space():
    env = GymEnv("Pendulum-v1")
    assert env.action_spec == Bounded(-2, 2, (1,), device="cpu")
    assert env.observation_spec["observation"].high.tolist() == [1, 1, 8]


class Old(gym.Env):
    """Speaks as gym did before version 0.26: no info at a reset, one flag at a step."""

    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Discrete(2)
    tells = False

    def reset(self, *, seed=None, options=None):
        first = np.zeros(2, np.float32)
        return (first, {}) if self.tells else first

    def step(self, action):
        return np.zeros(2, np.float32), 1.0, False, {}


def test_environments_of_the_old_gym_are_told_apart():
    with pytest.raises(TypeError, match=r"from reset\(\).*\(observation, info\), found ndarray.*V21"):
        GymWrapper(Old()).reset()
    env = Old()
    env.tells = True
    with pytest.raises(TypeError, match=r"from step\(\).*truncated, info\), found 4 values.*V21"):
        GymWrapper(env).rollout(2)


# --- images, numbers, infos ----------------------------------------------------------------------


class Screen(gym.Env):
    """Shows an image, or what the space says."""

    action_space = gym.spaces.Discrete(3)

    def __init__(self, shape=(8, 10, 3), low=0, high=255, dtype=np.uint8):
        self.observation_space = gym.spaces.Box(low, high, shape, dtype)
        self.shape, self.dtype = shape, dtype

    def reset(self, *, seed=None, options=None):
        return np.zeros(self.shape, self.dtype), {}

    def step(self, action):
        return np.full(self.shape, 7, self.dtype), 1.0, False, False, {}


@pytest.mark.parametrize("shape", [(8, 10, 3), (5, 7, 3)])
@pytest.mark.parametrize("rows", [0, 2])
def test_an_image_is_called_pixels(shape, rows):
    raw = gym.vector.SyncVectorEnv([lambda: Screen(shape)] * rows) if rows else Screen(shape)
    env = GymWrapper(raw)
    lead = (rows,) if rows else ()
    assert env.observation_keys == ["pixels"]
    assert env.from_pixels
    assert env.pixels_only
    batch = TransformedEnv(env, ToTensorImage()).rollout(3)
    assert batch["pixels"].shape == (*lead, 3, 3, *shape[:2])
    assert torch.allclose(batch["next", "pixels"], torch.tensor(7 / 255))


@pytest.mark.parametrize(
    "raw", [Screen((8, 10, 1)), Screen((8, 3)), Screen(high=254), Screen(low=1), Screen((3, 8, 10))]
)
def test_other_arrays_are_observations(raw):
    env = GymWrapper(raw)
    assert env.observation_keys == ["observation"]
    assert not env.from_pixels


def test_images_of_rows_in_buffers():
    for kind in (SerialEnv, ParallelEnv):
        env = kind(2, lambda: GymWrapper(Screen()))
        batch = env.rollout(4)
        assert batch["pixels"].shape == (2, 4, 8, 10, 3)
        assert (batch["next", "pixels"] == 7).all()
        env.close()


class Number(gym.Env):
    """Returns a number where its space has a dimension of 1."""

    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Box(-1, 1, (2,))

    def reset(self, *, seed=None, options=None):
        return 0.0, {}

    def step(self, action):
        return np.float32(0.5), 1.0, False, False, {}


@pytest.mark.parametrize(
    "make",
    [
        lambda: GymWrapper(Number()),
        lambda: SerialEnv(2, lambda: GymWrapper(Number())),
        lambda: GymWrapper(gym.vector.SyncVectorEnv([Number] * 2)),
    ],
)
def test_a_number_gets_the_dimension_of_its_space(make):
    env = make()
    batch = env.rollout(3)
    assert batch["observation"].shape == (*env.batch_size, 3, 1)
    assert (batch["next", "observation"] == 0.5).all()


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_no_number_of_environments_is_one(name):
    env = GymEnv(name, num_envs=0)
    assert env.batch_size == ()
    assert env.rollout(2)["next", "reward"].shape == (2, 1)
    with pytest.raises(ValueError, match="counts environments, found -1"):
        GymEnv(name, num_envs=-1)
    assert env.from_pixels is False
    assert env.pixels_only is False


class Meter(gym.Env):
    """Tells the square of its count."""

    observation_space = gym.spaces.Box(-99, 99, (1,))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.n = 0
        return np.zeros(1, np.float32), {"square": np.zeros(1), "count": 0, "word": "none"}

    def step(self, action):
        self.n += 1
        info = {"square": np.full(1, float(self.n**2)), "count": self.n, "word": "some"}
        return np.full(1, self.n, np.float32), 1.0, self.n >= 3, False, info


@pytest.mark.parametrize("mode", list(gym.vector.AutoresetMode))
@pytest.mark.parametrize("kind", ["SyncVectorEnv", "AsyncVectorEnv"])
def test_infos_of_rows_are_written(kind, mode):
    env = GymWrapper(getattr(gym.vector, kind)([Meter, Meter], autoreset_mode=mode))
    assert set(env.observation_keys) == {"observation", "square", "count"}
    batch = env.rollout(4, break_when_any_done=False)
    assert batch["next", "square"][0].flatten().tolist() == [1.0, 4.0, 9.0, 1.0]
    assert batch["next", "count"][1].flatten().tolist() == [1, 2, 3, 1]
    assert batch["count"][1].flatten().tolist() == [0, 1, 2, 0]
    env.close()


def test_rows_without_infos_cost_nothing():
    env = GymEnv("CartPole-v1", num_envs=2)
    assert env.observation_keys == ["observation"]
    assert not env._info_readers


# --- the older package ---------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("num_envs", [None, 2])
def test_environments_of_gym(num_envs):
    old = pytest.importorskip("gym", minversion="0.26")
    for backend in ("gym", old):
        with set_gym_backend(backend):
            assert gym_backend() is old
            env = GymEnv("CartPole-v1", num_envs=num_envs)
            assert isinstance(env._env.unwrapped, old.Env)
            env.set_seed(0)
            batch = env.rollout(40, break_when_any_done=False)
            assert batch["next", "done"].any()
    assert gym_backend() is gym
    ours = GymEnv("CartPole-v1", num_envs=num_envs)
    assert env.observation_spec["observation"].shape == ours.observation_spec["observation"].shape
    assert env.action_spec == ours.action_spec
