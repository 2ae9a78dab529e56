"""Transforms that reset, step or end episodes themselves; actions; buffers; messages."""

import copy

import gymnasium
import numpy as np
import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn

from torchrl._core.errors import MissingKeyError, ResetError, ShapeError, SpecError
from torchrl.data import Categorical, Composite, LazyTensorStorage, OneHot, ReplayBuffer, Unbounded
from torchrl.envs import (
    ActionDiscretizer,
    ActionMask,
    ActionScaling,
    AsyncEnvPool,
    AtariPreprocessing,
    BatchSizeTransform,
    BurnInTransform,
    CatFrames,
    CatTensors,
    Compose,
    ConditionalPolicySwitch,
    ConditionalSkip,
    Crop,
    DiscreteActionProjection,
    EndOfLifeTransform,
    EnvBase,
    EpisodicLife,
    ExcludeTransform,
    FiniteTensorDictCheck,
    FireReset,
    FlattenAction,
    FlattenTensorDict,
    FrameSkipTransform,
    GymWrapper,
    Hash,
    InitTracker,
    ModuleTransform,
    MultiAction,
    MultiStepTransform,
    NoopResetEnv,
    ObservationNorm,
    ParallelEnv,
    PermuteTransform,
    RandomCropTensorDict,
    RandomTruncationTransform,
    RenameTransform,
    RewardSum,
    SelectTransform,
    SerialEnv,
    Stack,
    StepCounter,
    TerminateTransform,
    Timer,
    ToTensorImage,
    TrajCounter,
    TransformedEnv,
    UnsqueezeTransform,
    check_env_specs,
)
from torchrl.testing.env import assert_same
from torchrl.testing.transform import World

# --- resets --------------------------------------------------------------------------------------


def test_no_ops_differ_from_row_to_row_and_stay_below_their_bound():
    env = TransformedEnv(World((64,)), Compose(StepCounter(), NoopResetEnv(3)))
    counts = env.reset()["step_count"].unique()
    assert counts.tolist() == [0, 1, 2]


def test_no_ops_of_a_partial_reset_leave_the_other_rows_where_they_are():
    env = TransformedEnv(World((4,)), Compose(StepCounter(), NoopResetEnv(2, random=False)))
    root = env.step_mdp(env.rollout(1)[..., -1])
    before = root.clone()
    rows = torch.tensor([[True], [False], [True], [False]])
    after = env.reset(root.set("_reset", rows))
    assert after["step_count"].squeeze(-1).tolist() == [2, 3, 2, 3]
    for row in (1, 3):
        assert_same(after[row], before[row])


def test_no_ops_that_end_an_episode_begin_another(monkeypatch):
    monkeypatch.setattr("torchrl.envs.transforms.episode.resets._TRIALS", 7)
    env = TransformedEnv(World((2,)), Compose(StepCounter(), NoopResetEnv(2)))
    env.append_transform(TerminateTransform(lambda td: td["step_count"] >= 2))
    assert not env.reset()["done"].any()
    short = TransformedEnv(World(), NoopResetEnv(4, random=False))
    with pytest.raises(ResetError, match="stepped to the end of an episode in each of 7 resets"):
        short.reset()


def test_no_ops_in_a_gymnasium_vector_environment():
    vector = gymnasium.make_vec(
        "CartPole-v1", 3, vectorization_mode="sync", vector_kwargs={"autoreset_mode": "Disabled"}
    )
    env = TransformedEnv(GymWrapper(vector), StepCounter())
    env.append_transform(NoopResetEnv(5))
    batch = env.rollout(60, break_when_any_done=False)
    moved = batch["next", "step_count"] - batch["step_count"]
    assert (moved == 1).all()
    begun = batch["step_count"][:, 1:][batch["next", "done"][:, :-1]]
    assert begun.max() > 0
    assert begun.max() < 5
    check_env_specs(env, break_when_any_done=False)


def test_the_button_is_pressed_after_each_reset():
    pressed = []

    class Spy(World):
        def _step(self, tensordict):
            pressed.append(tensordict.get("action").long().argmax(-1))
            return super()._step(tensordict)

    env = TransformedEnv(Spy((), discrete=True), FireReset((1, 2)))
    env.reset()
    assert [int(p) for p in pressed] == [1, 2]


# --- steps ---------------------------------------------------------------------------------------


def test_several_actions_are_played_up_to_the_end():
    env = TransformedEnv(World((2,)), Compose(StepCounter(), MultiAction(num_actions=5)))
    root = env.reset()
    out = env.step(root.set("action", torch.full((2, 5, 2), 0.5)))
    assert out["next", "reward"].shape == (2, 5, 1)
    assert out["next", "step_count"].squeeze(-1).tolist() == [3, 4]
    played = (out["next", "reward"] != 0).squeeze(-1)
    assert played.tolist() == [[True] * 3 + [False] * 2, [True] * 4 + [False]]
    with pytest.raises(ShapeError, match="has another number of actions than num_actions"):
        env.step(env.reset().set("action", torch.zeros(2, 3, 2)))


def test_several_actions_equal_single_steps():
    plain, chunked = World(), TransformedEnv(World(), MultiAction(num_actions=2))
    batch = plain.rollout(2)
    out = chunked.step(chunked.reset().set("action", batch["action"]))
    assert_same(out["next"].exclude("reward"), batch[..., -1]["next"].exclude("reward"))
    assert torch.equal(out["next", "reward"], batch["next", "reward"])


def test_rows_that_skip_stand_still():
    env = TransformedEnv(World((4,)), StepCounter())
    env.append_transform(ConditionalSkip(lambda td: torch.tensor([[True], [False], [True], [False]])))
    batch = env.rollout(3)
    assert batch["next", "step_count"][:, -1].squeeze(-1).tolist() == [0, 3, 0, 3]
    assert (batch["next", "reward"][[0, 2]] == 0).all()


def test_episodes_are_truncated_within_their_horizon():
    class Endless(World):
        def _step(self, tensordict):
            out = super()._step(tensordict)
            for name in ("done", "terminated", "truncated"):
                out.set(name, torch.zeros_like(out.get(name)))
            return out

    env = TransformedEnv(Endless((50,)), StepCounter())
    env.append_transform(RandomTruncationTransform(2, 6))
    batch = env.rollout(20, break_when_any_done=False)
    counts = batch["next", "step_count"][batch["next", "truncated"]]
    assert len(counts) == 50  # the first episode of each row, no other
    assert counts.unique().tolist() == [2, 3, 4, 5, 6]
    assert not batch["next", "terminated"].any()


def test_episodes_are_numbered_without_gaps_and_twins():
    env = TransformedEnv(World((4,)), TrajCounter())
    batch = env.rollout(30, break_when_any_done=False)
    numbers = batch["traj_count"].unique()
    assert torch.equal(numbers, torch.arange(len(numbers)))
    for number in numbers:
        rows = (batch["traj_count"] == number).squeeze(-1).any(1)
        assert rows.sum() == 1


def test_time_passes():
    batch = TransformedEnv(World(), Timer()).rollout(3)
    assert (batch["next", "time_step"] > 0).all()
    assert batch["time_reset"][0] > 0
    assert (batch["next", "time_policy"][1:] > 0).all()


# --- Atari ---------------------------------------------------------------------------------------


class Game(gymnasium.Env):
    """A game of three lives that loses one every 20 frames; even frames are black."""

    observation_space = gymnasium.spaces.Box(0, 255, (210, 160, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(4)

    def __init__(self):
        self.frame, self.games, self.actions = 0, 0, []

    @property
    def ale(self):
        return self

    def lives(self):
        return 3 - self.frame // 20

    def screen(self):
        return np.full((210, 160, 3), 200 * (self.frame % 2), np.uint8)

    def reset(self, *, seed=None, options=None):
        self.frame, self.games = 0, self.games + 1
        return self.screen(), {}

    def step(self, action):
        self.frame += 1
        self.actions.append(int(action))
        return self.screen(), 5.0, self.lives() == 0, False, {}


def game(*parts):
    env = TransformedEnv(GymWrapper(Game()), EndOfLifeTransform())
    for part in parts:
        env.append_transform(part)
    return env


def test_lives_are_told():
    batch = game().rollout(70)
    assert len(batch) == 60
    assert batch["next", "lives"][19].item() == 2
    lost = batch["next", "end-of-life"].squeeze(-1).nonzero().squeeze(-1)
    assert lost.tolist() == [19, 39, 59]
    assert batch["next", "done"].sum() == 1


def test_a_life_is_an_episode_and_a_game_is_reset_when_it_is_over():
    env = game(EpisodicLife(), RewardSum())
    batch = env.rollout(120, break_when_any_done=False)
    base = env.base_env._env.unwrapped
    assert base.games == 3
    ends = batch["next", "done"].squeeze(-1).nonzero().squeeze(-1)
    # A reset between lives is a step of its own, so the second and third take 19 of ours.
    assert (ends.diff() <= 20).all()
    assert ends[:3].tolist() == [19, 38, 57]
    assert torch.equal(batch["next", "done"], batch["next", "terminated"])
    assert (batch["lives"][1:][ends[:-1]].squeeze(-1)[:3] == torch.tensor([2, 1, 3])).all()
    assert batch["next", "episode_reward"][ends[0]].item() == 100


def test_atari_preprocessing():
    env = TransformedEnv(GymWrapper(Game()), AtariPreprocessing(noop_max=3))
    check_env_specs(env, break_when_any_done="both")
    batch = env.rollout(40, break_when_any_done=False)
    key = "pixels"
    assert batch[key].shape == (40, 4, 84, 84)
    assert batch[key].dtype == torch.float32
    # The last two of four frames are black and bright: their maximum is bright.
    torch.testing.assert_close(batch["next", key][5:, -1].mean(), torch.tensor(200 / 255), atol=1e-2, rtol=0)
    assert batch["next", "reward"].unique().tolist() == [1.0]


# --- actions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["low", "median", "high", "random"])
def test_an_interval_stands_for_one_of_its_numbers(sampling):
    transform = ActionDiscretizer(torch.tensor([3, 6]), "action", "choice", sampling)
    env = TransformedEnv(World((4,)), transform)
    batch = env.rollout(8, break_when_any_done=False)
    width = torch.tensor([1.0, 0.5])
    low = -2.0 + batch["choice"] * width
    place = (batch["action"] - low) / width
    if sampling == "random":
        assert ((place > -1e-5) & (place < 1 + 1e-5)).all()
    else:
        expected = {"low": 0.0, "median": 0.5, "high": 1.0}[sampling]
        torch.testing.assert_close(place, torch.full_like(place, expected))


def test_one_hot_intervals_stand_for_the_same_numbers():
    numbers = {}
    for categorical in (True, False):
        transform = ActionDiscretizer(torch.tensor([3, 6]), categorical=categorical)
        env = TransformedEnv(World(), transform)
        spec = env.action_spec
        choice = torch.tensor([2, 4])
        value = choice if categorical else torch.eye(9)[[2, 7]].sum(0).to(spec.dtype)
        assert spec.is_in(value)
        numbers[categorical] = transform.inv(TensorDict(action=value))["action"]
    torch.testing.assert_close(numbers[True], torch.tensor([0.5, 0.25]))
    assert torch.equal(numbers[True], numbers[False])


def test_random_actions_are_legal():
    for batch_size in ((), (4,)):
        env = TransformedEnv(World(batch_size, discrete=True), ActionMask())
        batch = env.rollout(30, break_when_any_done=False)
        legal = (batch["action"].bool() & batch["action_mask"]).any(-1)
        assert legal.all()
        assert env.base_env.action_spec.mask is None


def test_actions_are_scaled_to_the_bounds():
    for standard_normal, low in ((True, -1.0), (False, 0.0)):
        scaling = ActionScaling(standard_normal=standard_normal)
        env = TransformedEnv(World(), scaling)
        spec = env.action_spec
        torch.testing.assert_close(spec.low, torch.full((2,), low))
        torch.testing.assert_close(spec.high, torch.ones(2))
        inner = scaling.inv(TensorDict(action=torch.stack([spec.low, spec.high])))["action"]
        torch.testing.assert_close(inner, torch.tensor([[-2.0, -2.0], [1.0, 1.0]]))


def test_actions_that_do_not_exist_are_replaced():
    project = DiscreteActionProjection(2, 4)
    actions = torch.eye(4, dtype=torch.int64).repeat(50, 1)
    inner = project.inv(TensorDict(action=actions, batch_size=[200]))["action"]
    assert inner.shape == (200, 2)
    assert (inner.sum(-1) == 1).all()
    assert torch.equal(inner[0::4], actions[0::4, :2])
    replaced = inner[2::4].argmax(-1)
    assert replaced.unique().tolist() == [0, 1]


INVERTIBLE = {
    "scaling": ActionScaling(["a"], loc=1.0, scale=3.0),
    "flat": FlattenAction(-2, -1, ["a"], None, ["a"], action_shape=(2, 3)),
    "unsqueezed": UnsqueezeTransform(-1, in_keys=["a"], in_keys_inv=["a"]),
    "permuted": PermuteTransform((-1, -2), ["a"], None, ["a"]),
    "normalised": ObservationNorm(1.0, 2.0, ["a"], None, ["a"], standard_normal=True),
    "renamed": RenameTransform(["a"], ["b"], ["a"], ["b"]),
    "stacked": Stack(["a", "b"], "c", "c", ["a", "b"], dim=-1),
}


@pytest.mark.parametrize("name", INVERTIBLE)
def test_there_and_back(name):
    transform = INVERTIBLE[name]
    data = TensorDict(a=torch.randn(4, 2, 3), batch_size=[4])
    if name == "stacked":
        data["b"] = torch.randn(4, 2, 3)
    back = transform.inv(transform(data.copy()))
    assert set(back.keys()) == set(data.keys())
    for key, value in data.items():
        torch.testing.assert_close(back[key], value)


# --- buffers -------------------------------------------------------------------------------------


def test_a_buffer_hands_out_what_the_transform_makes():
    batch = World((4,)).rollout(3).exclude("agents", ("next", "agents")).reshape(-1)
    keys = ["pixels", ("next", "pixels")]
    transform = Compose(ToTensorImage(in_keys=keys), CatTensors(["observation", "success"], "x"))
    direct = transform(batch.copy())
    buffer = ReplayBuffer(storage=LazyTensorStorage(20), transform=transform.clone(), batch_size=12)
    buffer.extend(batch)
    assert buffer[:]["x"].shape == (12, 4)
    assert torch.equal(buffer[:]["next", "pixels"], direct["next", "pixels"])
    assert buffer.sample()["pixels"].shape == (12, 3, 6, 8)


def test_a_buffer_stores_several_steps_as_one():
    batch = World((4,)).rollout(20, break_when_any_done=False)
    store = MultiStepTransform(3, 0.9)
    buffer = ReplayBuffer(storage=LazyTensorStorage(100, ndim=2), transform=store)
    buffer.extend(batch)
    assert len(buffer) == 4 * 18
    assert "steps_to_next_obs" in set(buffer[:].keys())


def test_trajectories_are_stored_as_steps():
    buffer = ReplayBuffer(storage=LazyTensorStorage(100), transform=FlattenTensorDict())
    buffer.extend(World((4,)).rollout(3))
    assert len(buffer) == 12


def test_the_burn_in_refreshes_the_state():
    class Accumulate(nn.Module):
        in_keys, out_keys = ["x", "hidden"], [("next", "hidden")]

        def forward(self, td):
            total = td["hidden"][:, :1] + td["x"].cumsum(1)
            return td.set(("next", "hidden"), total)

    x = torch.arange(1.0, 7).expand(2, 6).unsqueeze(-1)
    done = torch.zeros(2, 6, 1, dtype=torch.bool)
    done[1, 3] = True
    data = TensorDict(x=x, hidden=torch.full((2, 6, 1), -7.0), batch_size=[2, 6])
    data["next", "done"] = done
    out = BurnInTransform(Accumulate(), burn_in=4)(data)
    assert out.shape == (2, 2)
    assert out["hidden"][0].squeeze(-1).tolist() == [-7 + 1 + 2 + 3 + 4, -7]
    assert out["hidden"][1].squeeze(-1).tolist() == [-7, -7]  # an episode begins there
    assert (data["hidden"] == -7).all()
    with pytest.raises(ValueError, match="sequences of more than 6 steps"):
        BurnInTransform(Accumulate(), burn_in=6)(data)


def test_stretches_are_contiguous_and_real():
    data = TensorDict(x=torch.arange(40).view(4, 10), batch_size=[4, 10])
    data["mask"] = torch.arange(10) < torch.tensor([[10], [5], [4], [7]])
    starts = set()
    for _ in range(40):
        out = RandomCropTensorDict(4, mask_key="mask")(data)
        assert out.shape == (4, 4)
        assert (out["x"].diff(dim=-1) == 1).all()
        assert out["mask"].all()
        starts.add(out["x"][0, 0].item())
    assert starts == set(range(7))
    with pytest.raises(ValueError, match="at least 5 steps, found 4"):
        RandomCropTensorDict(5, mask_key="mask")(data)


# --- batch sizes, functions, messages ------------------------------------------------------------


def test_a_reshaped_batch_holds_the_same_steps():
    plain = World((4,)).rollout(10, break_when_any_done=False)
    shape = BatchSizeTransform(reshape_fn=lambda td: td.reshape(2, 2))
    env = TransformedEnv(World((4,)), shape)
    check_env_specs(env)
    env.set_seed(0)
    again = TransformedEnv(World((4,)), shape.clone())
    again.set_seed(0)
    actions = plain["action"].reshape(2, 2, 10, 2)
    batch = again.rollout(10, actions=actions, break_when_any_done=False)
    assert batch.shape == (2, 2, 10)
    assert_same(batch.reshape(4, 10), plain)


def test_a_hash_tells_entries_apart_and_back():
    hashing = Hash(["x"], ["hash"], ["x"], ["hash"])
    seen = {}
    for value in ([1.0, 2.0], [1.0, 3.0]):
        seen[tuple(value)] = hashing(TensorDict(x=torch.tensor(value)))["hash"]
    first, second = seen.values()
    assert not torch.equal(first, second)
    assert hashing.inv(TensorDict(hash=first))["x"].tolist() == [1.0, 2.0]
    with pytest.raises(KeyError, match="not in the repertoire of 2"):
        hashing.inv(TensorDict(hash=torch.zeros(32, dtype=torch.uint8)))


MISTAKES = {
    "image": (lambda: ToTensorImage(in_keys=["pixel"]), MissingKeyError, "'pixels'"),
    "select": (lambda: SelectTransform("obs"), MissingKeyError, "'obs' is read but absent"),
    "exclude": (lambda: ExcludeTransform("obs"), MissingKeyError, "'obs' is read but absent"),
    "rename": (lambda: RenameTransform(["obs"], ["o"]), MissingKeyError, "'obs'"),
    "frames": (lambda: CatFrames(2, -1, ["obs"]), MissingKeyError, "'obs'"),
    "mask": (lambda: ActionMask(mask_key="mask"), MissingKeyError, "'mask'"),
    "not maskable": (ActionMask, SpecError, "cannot be masked"),
    "intervals": (lambda: ActionDiscretizer(3, "act"), MissingKeyError, "'action'"),
    "truncation": (lambda: RandomTruncationTransform(1, 2), MissingKeyError, "'step_count'"),
    "multi-step": (lambda: MultiStepTransform(3, 0.9), ValueError, "append it to a replay buffer"),
    "crop": (lambda: Crop(50, in_keys=["pixels"]), ShapeError, "cannot be cropped to 50 x 50"),
    "cat": (lambda: CatTensors(["observation", "agents"]), MissingKeyError, "'agents' is read but absent"),
    "future": (lambda: CatFrames(2, -1, ["observation"], future=True), ValueError, "for replay"),
    "life": (EpisodicLife, MissingKeyError, "'end-of-life'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_when_the_transform_is_appended(name):
    make, error, words = MISTAKES[name]
    with pytest.raises(error, match=words):
        TransformedEnv(World(), make())


WRONG_ARGUMENTS = {
    "frame skip": (lambda: FrameSkipTransform(0), "at least 1, found 0"),
    "frames": (lambda: CatFrames(2, 0), "negative dim"),
    "padding": (lambda: CatFrames(2, -1, padding="zeros"), "'same' or 'constant'"),
    "no-ops": (lambda: NoopResetEnv(-1), "must not be negative, found -1"),
    "multi-step": (lambda: MultiStepTransform(0, 0.9), "at least 1, found 0"),
    "horizon": (lambda: RandomTruncationTransform(3, 2), "min_horizon <= max_horizon"),
    "unsqueeze": (lambda: UnsqueezeTransform(1), "expected a negative dimension"),
    "permute": (lambda: PermuteTransform((-1, -3)), "must be a permutation"),
    "batch": (BatchSizeTransform, "either batch_size or reshape_fn"),
    "observations": (lambda: MultiAction(stack_observations=True), "needs num_actions"),
}


@pytest.mark.parametrize("name", WRONG_ARGUMENTS)
def test_a_wrong_argument_is_told(name):
    make, words = WRONG_ARGUMENTS[name]
    with pytest.raises(ValueError, match=words):
        make()


def test_what_follows_an_environment_refuses_a_lone_record():
    record = TensorDict(reward=torch.ones(1), done=torch.zeros(1, dtype=torch.bool))
    for transform in (TrajCounter(), RandomTruncationTransform(1, 2), EndOfLifeTransform()):
        with pytest.raises(RuntimeError, match=r"cannot be applied to a single record. Append"):
            transform(record)


def test_a_number_that_is_not_finite_is_named():
    env = TransformedEnv(World(), FiniteTensorDictCheck())
    env.reset()
    env.base_env._place[1] = torch.inf
    with pytest.raises(ValueError, match="'observation' is not finite"):
        env.rollout(1, auto_reset=False, tensordict=env.fake_tensordict().exclude("next"))


def test_a_chain_that_drives_its_environment_can_be_edited():
    env = TransformedEnv(World(), Compose(StepCounter(), FrameSkipTransform(2)))
    env.insert_transform(1, FrameSkipTransform(1))
    assert env.rollout(1)["next", "step_count"].item() == 2
    env.transform.pop(2)
    assert env.rollout(1)["next", "step_count"].item() == 1
    twin = copy.deepcopy(env)
    twin.rollout(2)
    assert env.transform[0].parent.base_env is env.base_env


def test_the_module_path_of_old_still_leads_here():
    import torchrl.envs.transforms as package
    import torchrl.envs.transforms.transforms as facade

    assert all(getattr(facade, name) is getattr(package, name) for name in package.__all__)


def test_one_hot_actions_of_a_driver_are_legal():
    spec = OneHot(3)
    seen = []

    class Spy(World):
        def _step(self, tensordict):
            seen.append(tensordict.get("action"))
            return super()._step(tensordict)

    env = TransformedEnv(Spy(discrete=True), NoopResetEnv(2, noop_action=2, random=False))
    env.reset()
    assert all(spec.is_in(action) for action in seen)
    assert [int(action.long().argmax()) for action in seen] == [2, 2]


def test_a_module_runs_inside_the_environment():
    linear = TensorDictModule(nn.Linear(3, 2), ["observation"], ["embedding"])
    env = TransformedEnv(World((4,)), ModuleTransform(module=linear, no_grad=True))
    batch = env.rollout(5)
    torch.testing.assert_close(batch["embedding"], linear.module(batch["observation"]).detach())
    assert not batch["embedding"].requires_grad


# --- lives of several games, and what happens in skipped frames ----------------------------------


class Lives(EnvBase):
    """A game of five lives; one is lost at each frame in ``lost``, the game ends with the last.

    Its success holds for one frame, it can truncate without done, its frames are numbered.
    """

    def __init__(self, lost=(9, 19, 30, 41, 53), batch_size=()):
        super().__init__(batch_size=batch_size)
        self.frame, self.lost, batch = 0, lost, self.batch_size
        flag = Categorical(2, shape=(*batch, 1), dtype=torch.bool)
        self.observation_spec = Composite(frame=Unbounded((*batch, 1)), success=flag.clone(), shape=batch)
        self.action_spec = OneHot(2, (*batch, 2))
        self.done_spec = Composite(done=flag.clone(), terminated=flag.clone(), truncated=flag.clone(), shape=batch)

    def lives(self):
        return 5 - sum(self.frame >= frame for frame in self.lost)

    def _set_seed(self, seed):
        pass

    def _entries(self, **more):
        full = lambda value, dtype: torch.full((*self.batch_size, 1), value, dtype=dtype)
        entries = {"frame": full(self.frame, torch.float32)}
        entries["success"] = full(self.frame % 5 == 2, torch.bool)
        entries |= {key: full(value, torch.bool) for key, value in more.items()}
        return entries

    def _reset(self, tensordict=None, **kwargs):
        self.frame = 0
        return TensorDict(self._entries(), self.batch_size)

    def _step(self, tensordict):
        self.frame += 1
        over = self.lives() == 0
        entries = self._entries(done=over, terminated=over, truncated=False)
        entries["reward"] = torch.ones(*self.batch_size, 1)
        return TensorDict(entries, self.batch_size)


LOST = [(9, 19, 30, 41, 53), (11, 12, 27, 38, 49)]
BATCHES = {
    "serial": lambda makers: SerialEnv(2, makers),
    "parallel": lambda makers: ParallelEnv(len(makers), makers, mp_start_method="fork"),
    "one worker": lambda makers: ParallelEnv(1, makers, mp_start_method="fork"),
    "threads": AsyncEnvPool,
    "processes": lambda makers: AsyncEnvPool(makers, backend="multiprocessing"),
    "batches of batches": lambda makers: SerialEnv(1, lambda: SerialEnv(2, makers)),
}


def end_of_life():
    return EndOfLifeTransform(eol_attribute="lives")


def steps_by_hand(lost, skip, steps):
    """Return lives before and after each step, with a new game after the end of one."""
    frame, before, after = 0, [], []
    left = lambda: 5 - sum(frame >= each for each in lost)
    for _ in range(steps):
        before.append(left())
        for _ in range(skip):
            frame += 1
            if left() == 0:
                break
        after.append(left())
        frame = 0 if left() == 0 else frame
    return torch.tensor(before), torch.tensor(after)


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("skip", [1, 4])
def test_each_game_of_a_batch_has_lives_of_its_own(kind, skip):
    env = BATCHES[kind]([lambda: Lives(LOST[0]), lambda: Lives(LOST[1])])
    env = TransformedEnv(env, end_of_life())
    if skip > 1:
        env.append_transform(FrameSkipTransform(skip))
    batch = env.rollout(60, break_when_any_done=False).reshape(2, 60)
    env.close()
    for row, lost in zip(batch, LOST, strict=True):
        before, after = steps_by_hand(lost, skip, 60)
        assert row["lives"].flatten().tolist() == before.tolist()
        assert row["next", "lives"].flatten().tolist() == after.tolist()
        assert row["next", "end-of-life"].flatten().tolist() == (after < before).tolist()
        assert row["next", "done"].flatten().tolist() == (after == 0).tolist()


class GymLives(gymnasium.Env):
    """The game of lives in gymnasium, asked or in its infos."""

    observation_space = gymnasium.spaces.Box(0, 99, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, lost):
        self.lost, self.frame = lost, 0

    @property
    def ale(self):
        return self

    def lives(self):
        return 5 - sum(self.frame >= frame for frame in self.lost)

    def _seen(self):
        return np.full(1, self.frame, np.float32)

    def reset(self, *, seed=None, options=None):
        self.frame = 0
        return self._seen(), {"lives": self.lives()}

    def step(self, action):
        self.frame += 1
        return self._seen(), 1.0, self.lives() == 0, False, {"lives": self.lives()}


@pytest.mark.parametrize("skip", [1, 4])
@pytest.mark.parametrize("mode", ["Disabled", "SameStep", "NextStep"])
@pytest.mark.parametrize("kind", ["SyncVectorEnv", "AsyncVectorEnv"])
def test_each_game_of_a_vector_environment_has_lives_of_its_own(kind, mode, skip):
    makers = [lambda: GymLives(LOST[0]), lambda: GymLives(LOST[1])]
    mode = gymnasium.vector.AutoresetMode(mode)
    base = GymWrapper(getattr(gymnasium.vector, kind)(makers, autoreset_mode=mode), frame_skip=skip)
    env = TransformedEnv(base, EndOfLifeTransform())
    batch = env.rollout(60, break_when_any_done=False)
    env.close()
    for row, lost in zip(batch, LOST, strict=True):
        before, after = steps_by_hand(lost, skip, 60)
        assert row["lives"].flatten().tolist() == before.tolist()
        assert row["next", "end-of-life"].flatten().tolist() == (after < before).tolist()
        if mode.value != "SameStep" or skip == 1:
            assert row["next", "lives"].flatten().tolist() == after.tolist()


def test_one_number_of_lives_for_several_games_is_refused():
    env = TransformedEnv(Lives(batch_size=(3,)), end_of_life())
    with pytest.raises(ShapeError, match="needs the lives of each game"):
        env.reset()


ORDERS = {
    "life, skip, end": lambda n: (end_of_life(), FrameSkipTransform(n), EpisodicLife()),
    "skip, life, end": lambda n: (FrameSkipTransform(n), end_of_life(), EpisodicLife()),
    "life, end, skip": lambda n: (end_of_life(), EpisodicLife(), FrameSkipTransform(n)),
    "life, switch, end": lambda n: (
        end_of_life(),
        *[ConditionalPolicySwitch(zeros, lambda td: True)] * (n > 1),
        EpisodicLife(),
    ),
    "life, no-ops, skip, end": lambda n: (
        end_of_life(),
        NoopResetEnv(2, random=False, noop_action=0),
        FrameSkipTransform(n),
        EpisodicLife(),
        FireReset(),
    ),
}


def zeros(td):
    return td.set("action", torch.tensor([1, 0]).expand(*td.batch_size, 2))


@pytest.mark.parametrize("batched", [False, True], ids=["one", "batch"])
@pytest.mark.parametrize("skip", [2, 3, 4])
@pytest.mark.parametrize("order", ORDERS)
def test_a_life_lost_in_any_frame_ends_the_episode_in_any_order(order, skip, batched):
    base = SerialEnv(2, [lambda: Lives(LOST[0]), lambda: Lives(LOST[1])]) if batched else Lives()
    env = TransformedEnv(base, Compose(InitTracker(), *ORDERS[order](skip), RewardSum()))
    batch = env.rollout(80, break_when_any_done=False)
    lost = batch["next", "lives"] < batch["lives"]
    assert lost.sum() >= 4
    assert torch.equal(batch["next", "done"], lost)
    assert torch.equal(batch["next", "terminated"], lost)
    assert not batch["done"].any()
    assert not batch["end-of-life"].any()
    # An episode begins after each end, for a policy that remembers, too.
    begins = torch.cat([torch.ones_like(lost[..., :1, :]), lost[..., :-1, :]], -2)
    assert torch.equal(batch["is_init"], begins)
    assert not batch["next", "is_init"].any()


@pytest.mark.parametrize("make", [
    lambda: FrameSkipTransform(4, event_keys=["success"]),
    lambda: FrameSkipTransform(4),
])  # fmt: skip
def test_flags_of_single_frames_are_kept_where_they_are_named(make):
    skip = make()
    batch = TransformedEnv(Lives(), skip).rollout(4)
    frames = batch["next", "frame"].flatten().tolist()
    assert frames == [4, 8, 12, 16]
    named = [True, True, True, False]  # in frames 2, 7, 12 and 17
    last = [frame % 5 == 2 for frame in frames]
    expected = named if skip.event_keys else last
    assert batch["next", "success"].flatten().tolist() == expected
    with pytest.raises(MissingKeyError, match="sucess"):
        TransformedEnv(Lives(), FrameSkipTransform(4, event_keys=["sucess"]))


def test_an_end_flag_without_done_is_kept_in_skipped_frames():
    class Warns(Lives):
        def _step(self, tensordict):
            out = super()._step(tensordict)
            return out.set("truncated", torch.tensor([self.frame == 2]))

    batch = TransformedEnv(Warns(), FrameSkipTransform(4)).rollout(2, break_when_any_done=False)
    assert batch["next", "truncated"].flatten().tolist() == [True, True]  # a new episode each
    assert batch["next", "done"].all()


class Repeats(Lives):
    @property
    def repeats_per_step(self):
        return 4


@pytest.mark.parametrize("make", [
    Repeats,
    lambda: SerialEnv(2, [Lives, Repeats]),
    lambda: ParallelEnv(2, Repeats, mp_start_method="fork"),
    lambda: TransformedEnv(Repeats(), StepCounter()),
    lambda: TransformedEnv(TransformedEnv(Lives(), FrameSkipTransform(2)), RewardSum()),
    lambda: GymWrapper(GymLives(LOST[0]), frame_skip=2),
])  # fmt: skip
def test_frames_skipped_twice_are_warned_of_once(make):
    env = TransformedEnv(make(), Compose(StepCounter(), FrameSkipTransform(4)))
    with pytest.warns(UserWarning, match="skips frames of an environment that skips frames"):
        env.reset()
    env.reset()
    env.close()


def test_transforms_before_a_reset_that_steps_still_mark_its_beginning():
    parts = InitTracker(), NoopResetEnv(2, random=False), FireReset()
    env = TransformedEnv(Lives(), Compose(*parts))
    batch = env.rollout(40, break_when_any_done=False)
    over = batch["next", "done"][:-1]
    assert torch.equal(batch["is_init"][1:], over)
    assert batch["is_init"][0]
