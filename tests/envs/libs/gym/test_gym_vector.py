"""Vector environments of gymnasium: whatever their mode, rows are what single environments are."""

import functools

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from torchrl._core.errors import ResetError
from torchrl.envs import GymEnv, GymWrapper, InitTracker, StepCounter, TransformedEnv
from torchrl.envs.base import next_seed
from torchrl.envs.libs.gym.vector import stack_infos


class OtherSyncVectorEnv(SyncVectorEnv):
    """One that is stepped by its own step, like those of other packages."""


KINDS = {"rows": SyncVectorEnv, "whole": OtherSyncVectorEnv, "async": AsyncVectorEnv}
MODES = {mode.value: mode for mode in AutoresetMode}


class Deep(gym.Env):
    """Observes a mapping of a tuple and an array; episodes of random length."""

    observation_space = spaces.Dict(
        pair=spaces.Tuple([spaces.Discrete(9), spaces.Box(0, 1, (2,))]), x=spaces.Box(0, 9, (1,))
    )
    action_space = spaces.Discrete(2)

    def show(self):
        number = self.np_random.random(2).astype(np.float32)
        return {"pair": (self.time, number), "x": np.array([self.time], np.float32)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.show(), {}

    def step(self, action):
        self.time += 1
        return self.show(), float(action), bool(self.np_random.random() < 0.3), self.time == 8, {}


ROWS = {
    "cartpole": lambda: gym.make("CartPole-v1"),
    "ending together": lambda: gym.make("Pendulum-v1", max_episode_steps=4),
    "deep": Deep,
}


def chain(seed, n):
    seeds = [seed]
    while len(seeds) < n:
        seeds.append(next_seed(seeds[-1]))
    return seeds


def by_hand(make, seed, actions):
    """Steps of a single environment as (observation, next observation, reward, flags)."""
    env = make()
    observation, _ = env.reset(seed=seed)
    steps = []
    for action in actions:
        next_root, reward, terminated, truncated, _ = env.step(action)
        steps.append((observation, next_root, reward, terminated, truncated))
        observation = env.reset()[0] if terminated or truncated else next_root
    return steps


def same(record, observation):
    if isinstance(observation, dict):
        return all(same(record[key], value) for key, value in observation.items())
    if isinstance(observation, tuple):
        return all(same(record[str(i)], value) for i, value in enumerate(observation))
    if isinstance(observation, int):
        return record.argmax() == observation
    return np.array_equal(record.numpy(), observation)


def assert_rows_are_single(batch, make, seed, decode):
    for b, row_seed in enumerate(chain(seed, batch.shape[0])):
        steps = by_hand(make, row_seed, [decode(a) for a in batch["action"][b]])
        for record, (before, after, reward, terminated, truncated) in zip(batch[b], steps, strict=True):
            lone = not isinstance(before, dict)
            assert same(record["observation"] if lone else record, before)
            assert same(record["next", "observation"] if lone else record["next"], after)
            assert record["next", "reward"] == np.float32(reward)
            assert record["next", "terminated"] == terminated
            assert record["next", "truncated"] == truncated
            assert record["next", "done"] == (terminated or truncated)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("make", ROWS.values(), ids=ROWS)
def test_every_mode_gives_the_rows_of_single_environments(make, kind, mode):
    env = GymWrapper(kind([make] * 3, autoreset_mode=mode))
    assert env.set_seed(5) == chain(5, 4)[-1]
    batch = env.rollout(30, break_when_any_done=False)
    assert batch["next", "done"].any(1).all()
    box = make().action_space.__class__ is spaces.Box
    assert_rows_are_single(batch, make, 5, lambda a: a.numpy() if box else int(a.argmax()))
    env.close()


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_partial_reset_leaves_the_other_rows_where_they_are(kind, mode):
    env = GymWrapper(kind([ROWS["cartpole"]] * 3, autoreset_mode=mode))
    env.set_seed(0)
    root = env.step_mdp(env.rollout(2)[..., -1])
    before = root.clone()
    root["_reset"] = torch.tensor([[False], [True], [False]])
    env.reset(root)
    assert "_reset" not in root
    rows = [0, 2]
    assert torch.equal(root["observation"][rows], before["observation"][rows])
    assert (root["observation"][1] != before["observation"][1]).all()
    action = torch.tensor([[1, 0]] * 3)
    step = env.step(root.set("action", action))
    raw = gym.make("CartPole-v1").unwrapped
    raw.reset()
    for b in rows:
        raw.state = before["observation"][b].double().numpy()
        raw.steps_beyond_terminated = None
        assert np.allclose(step["next", "observation"][b], raw.step(0)[0], atol=1e-6)
    env.close()


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("kind", ["rows", "whole"])
def test_rows_that_are_over_stand_still_until_all_are(kind, mode):
    env = GymWrapper(KINDS[kind]([ROWS["cartpole"]] * 3, autoreset_mode=mode))
    env.set_seed(5)
    batch = env.rollout(200, break_when_all_done=True)
    done = batch["next", "done"].squeeze(-1)
    assert done[:, -1].all()
    assert not done[:, -2].all()
    for b, seed in enumerate(chain(5, 3)):
        end = int(done[b].long().argmax())
        actions = [int(a.argmax()) for a in batch["action"][b, : end + 1]]
        last = by_hand(ROWS["cartpole"], seed, actions)[-1]
        assert same(batch["next", "observation"][b, end], last[1])
        for t in range(end + 1, batch.shape[1]):
            assert same(batch["observation"][b, t], last[1])
            assert same(batch["next", "observation"][b, t], last[1])
            assert batch["done"][b, t]
    # And they begin anew afterwards.
    assert not env.reset()["done"].any()
    assert env.rollout(3).shape[1] == 3


def test_a_row_can_wait_in_the_middle_of_its_episode():
    env = GymWrapper(SyncVectorEnv([ROWS["cartpole"]] * 2))
    env.set_seed(0)
    root = env.rand_action(env.reset())
    before = root.clone()
    root["_step"] = torch.tensor([[True], [False]])
    env.step(root)
    assert torch.equal(root["next", "observation"][1], before["observation"][1])
    assert root["next", "reward"].tolist() == [[1.0], [0.0]]
    root = env.step(env.rand_action(env.step_mdp(root)))
    steps = by_hand(ROWS["cartpole"], next_seed(0), [int(root["action"][1].argmax())])
    assert same(root["next", "observation"][1], steps[0][1])


def test_an_environment_that_steps_as_a_whole_refuses_to_hold_a_row():
    env = GymWrapper(OtherSyncVectorEnv([ROWS["cartpole"]] * 2))
    root = env.rand_action(env.reset()).set("_step", torch.tensor([[True], [False]]))
    with pytest.raises(ResetError, match=r"cannot leave out rows \[1\], whose episodes continue"):
        env.step(root)


@pytest.mark.parametrize("kind", ["rows", "whole"])
def test_frame_skip_is_cut_short_row_by_row(kind):
    env = GymWrapper(KINDS[kind]([ROWS["cartpole"]] * 3), frame_skip=4)
    env.set_seed(5)
    batch = env.rollout(30, break_when_any_done=False)
    for b, seed in enumerate(chain(5, 3)):
        single = GymEnv("CartPole-v1", frame_skip=4)
        single.set_seed(seed)
        until = 30 if kind == "rows" else int(batch["next", "done"][b].long().argmax()) + 1
        alone = single.rollout(30, actions=batch["action"][b, :until], break_when_any_done=False)
        for key in ("observation", ("next", "observation"), ("next", "reward"), ("next", "done")):
            assert torch.equal(batch.get(key)[b, :until], alone.get(key)), key
        ends = alone["next", "done"].squeeze(-1)
        assert ends.any()
        assert set(alone["next", "reward"][~ends].flatten().tolist()) == {4.0}
        assert set(alone["next", "reward"][ends].flatten().tolist()) <= {1.0, 2.0, 3.0, 4.0}


class Infos(gym.Env):
    observation_space = spaces.Box(0, 9, (1,))
    action_space = spaces.Discrete(2)

    def __init__(self, horizon):
        self.horizon = horizon

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return np.zeros(1, np.float32), {"time": 0}

    def step(self, action):
        self.time += 1
        done = self.time == self.horizon
        return np.full(1, self.time, np.float32), 1.0, done, False, {"time": self.time}


@pytest.mark.parametrize("kind", ["rows", "whole"])
def test_infos_follow_their_rows_through_partial_resets(kind):
    env = KINDS[kind]([functools.partial(Infos, 2), functools.partial(Infos, 3)])
    env = GymWrapper(env).auto_register_info_dict()
    batch = env.rollout(6, break_when_any_done=False)
    assert batch["time"].tolist() == [[0, 1, 0, 1, 0, 1], [0, 1, 2, 0, 1, 2]]
    assert batch["next", "time"].tolist() == [[1, 2, 1, 2, 1, 2], [1, 2, 3, 1, 2, 3]]


def test_infos_of_rows_are_stacked_whatever_they_hold():
    rows = [{"n": 1, "x": None, "list": [1, 2], "odd": np.zeros(1)}, {"list": [3, 4]}]
    rows[1]["odd"] = np.zeros(2)
    stacked = stack_infos(rows)
    assert stacked["n"].tolist() == [1, 0]
    assert stacked["x"].tolist() == [None, None]
    assert stacked["list"].tolist() == [[1, 2], [3, 4]]
    assert [len(row) for row in stacked["odd"]] == [1, 2]


def test_transforms_follow_their_rows():
    env = TransformedEnv(GymEnv("CartPole-v1", num_envs=3), StepCounter())
    env.append_transform(InitTracker())
    env.set_seed(0)
    batch = env.rollout(50, break_when_any_done=False)
    count = torch.zeros(3, 1, dtype=torch.int64)
    for step in batch.unbind(1):
        assert torch.equal(step["step_count"], count)
        assert torch.equal(step["is_init"], count == 0)
        count = torch.where(step["next", "done"], 0, count + 1)


def test_asynchronous_and_synchronous_rows_are_alike():
    batches = []
    for mode in ("sync", "async"):
        env = GymEnv("CartPole-v1", num_envs=2, vectorization_mode=mode)
        env.set_seed(3)
        torch.manual_seed(0)
        batches.append(env.rollout(40, break_when_any_done=False))
        env.close()
    assert (batches[0] == batches[1]).all()


class Own(VectorEnv):
    """A vector environment of another package, that resets its rows on its own."""

    single_observation_space = spaces.Box(0, 9, (1,))
    single_action_space = spaces.Discrete(2)
    action_space = spaces.MultiDiscrete([2, 2])
    num_envs = 2

    def __init__(self, mode):
        self.metadata = {"autoreset_mode": mode}
        self.time = np.zeros(2, int)

    def reset(self, *, seed=None, options=None):
        assert options is None
        self.time = np.zeros(2, int)
        return self.show(), {}

    def show(self):
        return self.time[:, None].astype(np.float32)

    def step(self, action):
        self.time = self.time + 1
        done, final = self.time >= [2, 3], self.show()
        self.time = np.where(done, 0, self.time)
        return self.show(), np.ones(2), done, np.zeros(2, bool), {"final_obs": final}


def test_rows_that_reset_themselves_at_their_end():
    env = GymWrapper(Own(AutoresetMode.SAME_STEP))
    batch = env.rollout(6, break_when_any_done=False)
    assert batch["next", "observation"][..., 0].tolist() == [[1, 2, 1, 2, 1, 2], [1, 2, 3, 1, 2, 3]]
    assert batch["observation"][..., 0].tolist() == [[0, 1, 0, 1, 0, 1], [0, 1, 2, 0, 1, 2]]
    root = env.step_mdp(env.rollout(1)[..., -1]).set("_reset", torch.tensor([[True], [False]]))
    with pytest.raises(ResetError, match="cannot reset a row in the middle of an episode"):
        env.reset(root)


@pytest.mark.parametrize("fill", [float("nan"), -7.0])
def test_last_observations_that_are_not_shown_are_filled(fill, caplog):
    class Silent(Own):
        def step(self, action):
            return *super().step(action)[:4], {}

    env = GymWrapper(Silent(AutoresetMode.SAME_STEP), missing_obs_value=fill)
    batch = env.rollout(6, break_when_any_done=False)
    last = batch["next", "observation"][batch["next", "done"]]
    assert len(last) == 5
    assert last.isnan().all() if np.isnan(fill) else (last == fill).all()
    assert batch["observation"][..., 0].tolist() == [[0, 1, 0, 1, 0, 1], [0, 1, 2, 0, 1, 2]]
    assert caplog.text.count("Silent does not return the last observations of episodes") == 1


def test_rows_that_reset_themselves_a_step_late_are_refused():
    with pytest.raises(TypeError, match=r"Own resets its rows at the step after.*Disabled"):
        GymWrapper(Own(AutoresetMode.NEXT_STEP))


def test_frames_of_the_last_step_cannot_be_had_from_rows_that_have_reset():
    class Rendering(Own):
        render_mode = "rgb_array"

    with pytest.raises(ValueError, match=r"frame of the last step.*DISABLED"):
        GymWrapper(Rendering(AutoresetMode.SAME_STEP), from_pixels=True)
