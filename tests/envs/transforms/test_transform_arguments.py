"""Arguments of transforms that one would seldom give."""

import hashlib

import pytest
import torch
from tensordict import NonTensorStack, TensorDict, is_non_tensor
from tensordict.nn import TensorDictModule

from torchrl._core.errors import MissingKeyError, ShapeError
from torchrl.data import Bounded, Composite, LazyTensorStorage, NonTensor, ReplayBuffer, Unbounded
from torchrl.envs import (
    ActionDiscretizer,
    BatchSizeTransform,
    CatFrames,
    Compose,
    DTypeCastTransform,
    EnvCreator,
    Hash,
    ModuleTransform,
    MultiAction,
    ParallelEnv,
    Reward2GoTransform,
    RewardScaling,
    RewardSum,
    RNDTransform,
    SqueezeTransform,
    StepCounter,
    TargetReturn,
    TrajCounter,
    Transform,
    TransformedEnv,
    UnaryTransform,
    UnsqueezeTransform,
)
from torchrl.envs.transforms.functional import rgb_to_grayscale
from torchrl.testing.env import assert_same, make_seeded
from torchrl.testing.mocks import FlatCountingEnv, MultiAgentEnv, StatelessEnv
from torchrl.testing.transform import World

ON = {"break_when_any_done": False}


# --- rewards -------------------------------------------------------------------------------------


@pytest.mark.parametrize("root_done", [True, False])
def test_sums_of_agents_begin_anew_with_their_level(root_done):
    env = TransformedEnv(MultiAgentEnv(root_done=root_done, batch_size=[2]), RewardSum())
    batch = env.rollout(9, **ON)
    reward = batch["next", "agents", "reward"]
    level = () if root_done else ("agents",)
    done = batch[("next", *level, "done")].reshape(2, 9, -1, 1).expand(reward.shape)
    total = torch.zeros_like(reward[:, 0])
    for t in range(9):
        torch.testing.assert_close(batch["agents", "episode_reward"][:, t], total)
        total = total + reward[:, t]
        torch.testing.assert_close(batch["next", "agents", "episode_reward"][:, t], total)
        total = total.masked_fill(done[:, t], 0)


@pytest.mark.parametrize("make", [RewardSum, lambda **kw: TargetReturn(9.0, **kw)])
def test_rows_that_are_told_begin_anew(make):
    keys = {"reset_keys": ["make_seeded"]} if make is RewardSum else {"reset_key": "make_seeded"}
    transform = make(**keys)
    env = TransformedEnv(FlatCountingEnv(9, batch_size=[3]), transform)
    name = transform.out_keys[0]
    root = env.step_mdp(env.rollout(3)[:, -1])
    before = root[name].clone()
    root["make_seeded"] = torch.tensor([[True], [False], [True]])
    after = env.reset(root)[name]
    fresh = 0.0 if make is RewardSum else 9.0
    assert (after[[0, 2]] == fresh).all()
    assert torch.equal(after[1], before[1])


def test_as_many_masks_as_sums():
    with pytest.raises(ValueError, match=r"as many reset_keys as rewards, found \['a', 'b'\]"):
        TransformedEnv(World(), RewardSum(reset_keys=["a", "b"]))


def test_what_cannot_be_summed_is_named():
    data = World((2,)).rollout(3)
    with pytest.raises(MissingKeyError, match="'rewart' is read but absent"):
        RewardSum(["rewart"])(data)
    with pytest.raises(MissingKeyError, match="'done' is read but absent"):
        RewardSum()(data.exclude(("next", "done")).reshape(-1))


def test_returns_wanted_in_an_environment_of_any_batch_size():
    env = TransformedEnv(StatelessEnv(), TargetReturn(3.0))
    batch = env.rollout(3, tensordict=TensorDict(batch_size=[5]))
    assert batch["target_return"].shape == (5, 3, 1)


# --- numbers of trajectories ---------------------------------------------------------------------


def test_processes_number_their_episodes_together():
    numbers = TrajCounter()
    make = EnvCreator(lambda: TransformedEnv(World(), numbers.clone()))
    env = ParallelEnv(2, make)
    try:
        batch = env.rollout(20, **ON)
    finally:
        env.close()
    found = batch["traj_count"].squeeze(-1)  # [B, T]
    assert torch.equal(found.unique(), torch.arange(len(found.unique())))
    first, second = (set(row.tolist()) for row in found)
    assert not first & second
    assert torch.equal(batch["next", "traj_count"].squeeze(-1), found)


def test_several_episodes_share_a_number():
    env = TransformedEnv(FlatCountingEnv(2), TrajCounter(repeats=3))
    found = env.rollout(14, **ON)["traj_count"].squeeze(-1)
    assert found.tolist() == [0] * 6 + [1] * 6 + [2] * 2
    with pytest.raises(ValueError, match="repeats must be at least 1, found 0"):
        TrajCounter(repeats=0)


# --- batches -------------------------------------------------------------------------------------


def test_a_function_makes_the_first_root_of_a_batch():
    seen = []

    def begin_at(given, root, env=None):
        seen.append((given, root.batch_size, env))
        return root.expand(3).clone()

    for env_kwarg in (False, True):
        transform = BatchSizeTransform(batch_size=[3], reset_func=begin_at, env_kwarg=env_kwarg)
        env = TransformedEnv(StatelessEnv(), transform)
        assert env.batch_size == (3,)
        assert env.rollout(4)["position"].shape == (3, 4, 1)
        _given, shape, inner = seen.pop()
        assert shape == ()
        assert (inner is not None) == env_kwarg
        seen.clear()
    with pytest.raises(ValueError, match="env_kwarg goes with reset_func"):
        BatchSizeTransform(batch_size=[3], env_kwarg=True)


# --- actions -------------------------------------------------------------------------------------


def test_a_chunk_has_a_name_of_its_own():
    def rollout(**names):
        key = names.get("chunk_key", "action")
        env = make_seeded(lambda: TransformedEnv(World((2,)), MultiAction(num_actions=2, **names)))
        assert env.action_keys == [key]
        root = env.reset()
        torch.manual_seed(1)
        return env.step(root.set(key, torch.rand(2, 2, 2)))["next"]

    assert_same(rollout(chunk_key="chunk"), rollout())
    env = TransformedEnv(World(), MultiAction(num_actions=2, chunk_key="chunk"))
    with pytest.raises((MissingKeyError, ShapeError), match="chunk"):
        env.step(env.reset().set("action", torch.zeros(2, 2)))


def test_the_way_in_can_act_on_what_reset_is_given():
    given = []

    class Base(World):
        def _reset(self, tensordict, **kwargs):
            given.append(None if tensordict is None else tensordict.get("hint", None))
            return super()._reset(tensordict, **kwargs)

    class Hinted(Transform):
        enable_inv_on_reset = True

        def _inv_apply_transform(self, value):
            return value / 2

        def _check_keys(self, specs):
            pass

    hint = Hinted(in_keys_inv=["hint"])
    assert hint.invertible
    env = TransformedEnv(Base(), Compose(StepCounter(), hint.set_missing_tolerance(True)))
    env.reset(TensorDict(hint=torch.ones(1)))
    assert given[-1] == 0.5
    env.reset()
    assert given[-1] is None
    assert env.rollout(3)["step_count"].flatten().tolist() == [0, 1, 2]
    assert not StepCounter().invertible
    assert not StepCounter().drives


# --- shapes, functions ---------------------------------------------------------------------------


def test_keys_of_squeeze_can_be_given_in_order():
    td = SqueezeTransform(-1, ["a"], ["b"])(TensorDict(a=torch.zeros(3, 1)))
    assert td["b"].shape == (3,)
    twice = Compose(UnsqueezeTransform(-1, in_keys=["x"]), SqueezeTransform(-1, ["x"]))
    assert twice(TensorDict(x=torch.zeros(4)))["x"].shape == (4,)


def test_functions_of_text():
    record = TensorDict(text=NonTensorStack("ab", "cde"), batch_size=[2])
    size = lambda texts: torch.tensor([len(text) for text in texts])
    assert UnaryTransform(["text"], ["n"], fn=size)(record)["n"].tolist() == [2, 3]
    kinds = []
    raw = UnaryTransform(
        ["text"], ["n"], fn=lambda x: kinds.append(is_non_tensor(x)) or size(x.tolist()), use_raw_nontensor=True
    )
    assert raw(record)["n"].tolist() == [2, 3]
    assert kinds == [True]


def test_a_hash_of_entries_as_they_stand():
    def digest(entry):
        assert is_non_tensor(entry)
        sums = [hashlib.sha256(text.encode()).digest()[0] for text in entry.tolist()]
        return torch.tensor(sums)

    record = TensorDict(text=NonTensorStack("ab", "cde"), batch_size=[2])
    whole = Hash(["text"], ["hash"], hash_fn=digest, use_raw_nontensor=True)(record)["hash"]
    each = Hash(["text"], ["hash"])(record)["hash"]
    assert whole.tolist() == each[:, 0].tolist()


def test_the_spec_of_a_hash_is_that_of_numbers_or_text():
    total = lambda rows: torch.tensor([sum(rows)])
    env = TransformedEnv(World((2,)), Hash(["observation"], ["sum"], hash_fn=total))
    assert env.observation_spec["sum"].shape == (2, 1)
    root = env.reset()
    torch.testing.assert_close(root["sum"], root["observation"].sum(-1, keepdim=True))

    whole = Hash(
        ["text"],
        ["size"],
        hash_fn=lambda entry: torch.tensor([len(text) for text in entry.tolist()]),
        use_raw_nontensor=True,
    )
    specs = whole.transform_specs({"observation": Composite(text=NonTensor((3,)), shape=(3,))})
    assert specs["observation"]["size"].shape == (3,)


# --- buffers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["same", "constant"])
def test_a_buffer_of_single_frames_hands_out_stacks(padding):
    frames, batch = 3, 16
    stack = lambda: CatFrames(frames, -1, ["observation"], ["stack"], padding=padding)
    env = World((2,))
    env.set_seed(0)
    data = env.rollout(24, **ON)
    data["episode"] = data["next", "done"].long().cumsum(1) - data["next", "done"].long()
    data["episode"] += 100 * torch.arange(2).reshape(2, 1, 1)
    expected = stack()(data.clone())
    transform, sampler = stack().make_rb_transform_and_sampler(batch, traj_key="episode")
    buffer = ReplayBuffer(storage=LazyTensorStorage(100), sampler=sampler, transform=transform, batch_size=batch)
    buffer.extend(data.reshape(-1))
    sample = buffer.sample()
    assert sample.shape == (batch,)
    assert sample["stack"].shape == (batch, 9)
    flat = expected.reshape(-1)
    for row in range(batch):  # each is one of the stacks of which every frame is real
        same = (flat["observation"] == sample["observation"][row]).all(-1)
        assert same.sum() == 1
        assert torch.equal(flat["stack"][same][0], sample["stack"][row])


def test_casts_are_told_apart_by_direction():
    cast = DTypeCastTransform(torch.float64, torch.float32, ["x"], ["y"], ["a"], ["b"])
    out = cast(TensorDict(x=torch.zeros(1, dtype=torch.float64)))
    assert out["x"].dtype == torch.float64
    assert out["y"].dtype == torch.float32
    back = cast.inv(TensorDict(b=torch.zeros(1)))
    assert back["a"].dtype == torch.float64


def test_rewards_of_a_tolerated_name_may_come_later():
    scaling = RewardScaling(0.0, 2.0, in_keys=["bonus"]).set_missing_tolerance(True)
    assert scaling.missing_tolerance
    assert "bonus" not in TransformedEnv(World(), scaling).reset()
    assert Unbounded((1,)).shape == (1,)


# --- what was once wrong -------------------------------------------------------------------------


def test_a_module_runs_without_gradients_where_its_caller_wants_none():
    module = TensorDictModule(torch.nn.Linear(3, 2), ["observation"], ["embedding"])
    env = TransformedEnv(World(), ModuleTransform(module=module))
    with torch.no_grad():
        assert not env.reset()["embedding"].requires_grad
    assert env.reset()["embedding"].requires_grad


def test_bytes_are_rounded_to_gray():
    frame = torch.tensor([[[0]], [[1]], [[0]]], dtype=torch.uint8)
    assert rgb_to_grayscale(frame).item() == 1  # 0.587


def test_returns_to_go_of_agents():
    data = TensorDict(
        next=TensorDict(
            agents=TensorDict(reward=torch.ones(2, 4, 3, 1), batch_size=[2, 4, 3]),
            done=torch.tensor([False, True, False, True]).reshape(1, 4, 1).expand(2, 4, 1),
            batch_size=[2, 4],
        ),
        batch_size=[2, 4],
    )
    sums = Reward2GoTransform(0.5, [("next", "agents", "reward")]).inv(data)
    expected = torch.tensor([1.5, 1.0, 1.5, 1.0]).reshape(1, 4, 1, 1).expand(2, 4, 3, 1)
    torch.testing.assert_close(sums["next", "agents", "reward"], expected)


def test_frames_of_agents_tell_which_are_real():
    stack = CatFrames(2, -1, [("agents", "observation")], mask_key="real")
    env = TransformedEnv(MultiAgentEnv(root_done=False, batch_size=[2]), stack)
    batch = env.rollout(4, **ON)
    assert batch["real"].shape == (2, 4, 2)
    assert batch["real"][:, 0].tolist() == [[False, True]] * 2


def test_the_end_of_an_interval_is_within_the_bounds():
    env = World((64,))
    env.action_spec = Bounded(-0.1, 0.7, shape=(64, 2))
    high = TransformedEnv(env, ActionDiscretizer(7, sampling="high"))
    choice = torch.full((64, 2), 6)
    played = high.transform.inv(TensorDict(action=choice, batch_size=[64]))["action"]
    assert env.action_spec.is_in(played)


def test_novelty_is_measured_on_rows_that_move():
    networks = torch.nn.Linear(3, 4), torch.nn.Linear(3, 4)
    rnd = RNDTransform(*networks)
    env = TransformedEnv(World((4,)), rnd)
    batch = env.rollout(3)
    count = rnd.observation_statistics.count.item()
    assert count == pytest.approx(4 * 4, abs=1e-3)  # a reset and three steps
    rows = torch.tensor([[True], [False], [False], [False]])
    root = env.reset(env.step_mdp(batch[:, -1]).set("_reset", rows))
    assert rnd.observation_statistics.count.item() == pytest.approx(count + 1)
    env.step(env.rand_action(root).set("_step", ~rows))
    assert rnd.observation_statistics.count.item() == pytest.approx(count + 4)
