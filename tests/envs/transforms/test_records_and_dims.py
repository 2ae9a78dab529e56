"""Transforms as modules on records and in buffers: dimensions, time, single records, keys."""

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from torchrl.collectors import Collector
from torchrl.data import Bounded, Composite, LazyTensorStorage, ReplayBuffer, TensorDictReplayBuffer, Unbounded
from torchrl.envs import (
    ActionDiscretizer,
    BurnInTransform,
    CatFrames,
    CatTensors,
    Compose,
    ConditionalPolicySwitch,
    ConditionalSkip,
    DoubleToFloat,
    DTypeCastTransform,
    EndOfLifeTransform,
    EnvBase,
    ExcludeTransform,
    FireReset,
    FlattenAction,
    FlattenObservation,
    FrameSkipTransform,
    InitTracker,
    MultiAction,
    MultiStepTransform,
    NextObservationDelta,
    NextStateReconstructor,
    NoopResetEnv,
    ParallelEnv,
    RandomCropTensorDict,
    RandomTruncationTransform,
    RenameTransform,
    Reward2GoTransform,
    RewardSum,
    SerialEnv,
    SqueezeTransform,
    Stack,
    StepCounter,
    TargetReturn,
    TensorDictPrimer,
    TimeMaxPool,
    TrajCounter,
    TransformedEnv,
    UnsqueezeTransform,
    check_env_specs,
    gSDENoise,
)
from torchrl.testing.env import assert_same, make_seeded
from torchrl.testing.mocks import CountingEnv, FlatCountingEnv

ON = {"break_when_any_done": False}

# --- positive dimensions -------------------------------------------------------------------------

DIMS = {
    "unsqueeze": (lambda **k: UnsqueezeTransform(1, allow_positive_dim=True, **k), (4, 6), (4, 1, 6)),
    "squeeze": (lambda **k: SqueezeTransform(1, allow_positive_dim=True, **k), (4, 1, 6), (4, 6)),
    "flatten": (lambda **k: FlattenObservation(1, 2, allow_positive_dim=True, **k), (4, 3, 2), (4, 6)),
}


@pytest.mark.parametrize("name", DIMS)
@pytest.mark.parametrize("batch", [[], [4]])
def test_without_an_environment_positive_dims_count_every_dimension(name, batch):
    make, shape, expected = DIMS[name]
    found = make(in_keys=["x"])(TensorDict(x=torch.zeros(shape), batch_size=batch))
    assert found["x"].shape == expected


class Shaped(EnvBase):
    """Shows an observation of any shape."""

    def __init__(self, shape, batch_size=()):
        super().__init__(batch_size=torch.Size(batch_size))
        b = self.batch_size
        self.observation_spec = Composite(x=Unbounded((*b, *shape)), shape=b)
        self.action_spec = Bounded(-1.0, 1.0, (*b, 2, 3))
        self.reward_spec = Unbounded((*b, 1))

    def _set_seed(self, seed):
        torch.manual_seed(seed or 0)

    def _reset(self, td, **kwargs):
        return self.full_observation_spec.zero()

    def _step(self, td):
        assert td["action"].shape == (*self.batch_size, 2, 3)
        reward = torch.zeros(*self.batch_size, 1)
        return self.full_observation_spec.zero().update({"reward": reward, "terminated": reward.bool()})


@pytest.mark.parametrize("name", DIMS)
@pytest.mark.parametrize("batch", [(), (5,), (5, 2)])
def test_in_an_environment_positive_dims_count_features(name, batch):
    make, shape, expected = DIMS[name]
    transform = make(in_keys=["x"])
    env = TransformedEnv(Shaped(shape, batch), transform)
    assert env.observation_spec["x"].shape == (*batch, *expected)
    check_env_specs(env)
    apart = transform.clone()(TensorDict(x=torch.zeros(shape)))
    assert apart["x"].shape == expected


@pytest.mark.parametrize("batch", [(), (5,)])
def test_flattened_actions_count_features(batch):
    flatten = FlattenAction(0, 1, allow_positive_dim=True)
    env = TransformedEnv(Shaped((3,), batch), flatten)
    assert env.action_spec.shape == (*batch, 6)
    check_env_specs(env)


def test_stacks_and_joins_along_positive_dims():
    both = TensorDict(a=torch.zeros(5, 3), b=torch.ones(5, 3), batch_size=[5])
    stacked = Stack(["a", "b"], "c", dim=1, allow_positive_dim=True)(both.clone())
    assert stacked["c"].shape == (5, 2, 3)
    assert CatTensors(["a", "b"], "c", dim=1)(both.clone())["c"].shape == (5, 6)
    env = TransformedEnv(
        CountingEnv(batch_size=[4]),
        Compose(
            RenameTransform(["observation"], ["other"], create_copy=True),
            Stack(["observation", "other"], "c", dim=0, allow_positive_dim=True),
        ),
    )
    assert env.observation_spec["c"].shape == (4, 2, 2)
    check_env_specs(env)


@pytest.mark.parametrize(("dim", "shape"), [(1, (4, 6)), (0, (3, 10)), (-1, (4, 6)), (-2, (3, 10))])
def test_crops_along_any_batch_dimension(dim, shape):
    data = TensorDict(x=torch.arange(40).view(4, 10), batch_size=[4, 10])
    length = shape[dim]
    out = RandomCropTensorDict(length, sample_dim=dim)(data)
    assert out.shape == shape
    assert (out["x"].diff(dim=dim) == (1 if shape[-1] == 6 else 10)).all()
    for error in (RuntimeError, ValueError):
        with pytest.raises(error, match="longer sequences"):
            RandomCropTensorDict(11, sample_dim=dim)(data)
    with pytest.raises(ValueError, match="no batch dimension 2"):
        RandomCropTensorDict(2, sample_dim=2)(data)


# --- time where the names say --------------------------------------------------------------------


def episodes(time_first=False):
    data = make_seeded(lambda: CountingEnv(batch_size=[3], cut=4)).rollout(12, **ON)  # [B, T]
    data["memory"] = data["observation"].clone()
    data["collector", "traj_ids"] = (
        data["next", "done"].squeeze(-1).cumsum(-1) - data["next", "done"].squeeze(-1).long()
    )
    return data.transpose(0, 1).contiguous() if time_first else data


class Sums(nn.Module):
    in_keys = ("memory",)
    out_keys = (("next", "memory"),)

    def forward(self, td):
        return td.set(("next", "memory"), td["memory"] + 1)


@pytest.mark.parametrize("run", [
    lambda: CatFrames(3, -1, ["observation"]),
    lambda: CatFrames(3, -1, ["observation"], padding="constant", mask_key="real"),
    lambda: TimeMaxPool(["observation"], T=3),
    lambda: RewardSum(),
    lambda: BurnInTransform(Sums(), 2),
    lambda: NextStateReconstructor(),
    lambda: MultiStepTransform(3, 0.5).inv,
    lambda: Reward2GoTransform(0.5).inv,
], ids=["frames", "mask", "pool", "sum", "burn-in", "next", "multi-step", "to go"])  # fmt: skip
def test_time_is_the_dimension_of_that_name(run):
    data = episodes(time_first=True)
    data.names = ["time", None]
    expected, found = run()(episodes()), run()(data).transpose(0, 1)
    found.names = expected.names
    assert_same(found.contiguous(), expected)


def test_rewards_under_next_are_summed():
    data = TensorDict({"next": TensorDict(reward=torch.full((5, 1), 2.0), batch_size=[5])}, [5], names=["time"])
    summed = RewardSum([("next", "reward")], [("next", "total")])(data)
    assert summed["next", "total"].flatten().tolist() == [2.0, 4.0, 6.0, 8.0, 10.0]
    both = episodes()
    expected = RewardSum()(both.clone())["next", "episode_reward"]
    found = RewardSum([("next", "reward")], [("next", "total")])(both)["next", "total"]
    assert torch.equal(found, expected)


# --- single records ------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [
    lambda: StepCounter(5),
    InitTracker,
    TrajCounter,
    EndOfLifeTransform,
    lambda: TargetReturn(3.0),
    lambda: TimeMaxPool(["x"], T=2),
    lambda: RandomTruncationTransform(1, 2),
    lambda: ConditionalSkip(lambda td: False),
    lambda: ConditionalPolicySwitch(lambda td: td, lambda td: False),
    lambda: FrameSkipTransform(2),
    lambda: MultiAction(),
    NoopResetEnv,
    FireReset,
])  # fmt: skip
@pytest.mark.parametrize("use", ["module", "chain", "buffer"])
def test_transforms_that_follow_steps_refuse_single_records(make, use):
    data = TensorDict(x=torch.zeros(4, 3), batch_size=[4])
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(4), transform=make(), batch_size=2)
    buffer.extend(data)
    run = {
        "module": lambda: nn.Sequential(make())(data),
        "chain": lambda: Compose(UnsqueezeTransform(-1, in_keys=["x"]), make())(data),
        "buffer": buffer.sample,
    }
    with pytest.raises(NotImplementedError) as caught:
        run[use]()
    assert isinstance(caught.value, RuntimeError)
    assert type(make()).__name__ in str(caught.value)


# --- keys and values -----------------------------------------------------------------------------


@pytest.mark.parametrize("make", [DoubleToFloat, lambda: DTypeCastTransform(torch.float64, torch.float32)])
def test_casts_without_keys_cast_all_back(make):
    td = TensorDict(a=torch.zeros(3), b=TensorDict(c=torch.zeros(2)), d=torch.zeros(2, dtype=torch.int64))
    back = make().inv(td)
    assert back["a"].dtype == back["b", "c"].dtype == torch.float64
    assert back["d"].dtype == torch.int64
    assert td["a"].dtype == torch.float32
    assert DoubleToFloat(["a"]).inv(td)["a"].dtype == torch.float32


def test_a_module_that_excludes_keeps_empty_groups():
    record = lambda: TensorDict(info=TensorDict(lives=torch.zeros(1)), x=torch.zeros(1))
    td = ExcludeTransform(("info", "lives"))(record())
    assert "info" in td
    assert ("info", "lives") not in td.keys(True)
    assert "info" not in ExcludeTransform("info")(record())


@pytest.mark.parametrize("none", [(), [], None])
def test_only_actions_may_be_renamed(none):
    keys = {"in_keys": none, "out_keys": none}
    chain = Compose(
        RenameTransform(**keys, in_keys_inv=("action",), out_keys_inv=("push",)),
        RenameTransform(**keys, in_keys_inv=["push"], out_keys_inv=["shove"]),
    )
    env = TransformedEnv(CountingEnv(), chain)
    assert list(env.full_action_spec.keys()) == ["shove"]
    check_env_specs(env)


@pytest.mark.parametrize("default", [0, 0.0, None])
def test_a_default_of_zero_does_not_contradict_random_values(default):
    primer = TensorDictPrimer(start=Bounded(1, 2, (3,)), random=True, default_value=default)
    assert (TransformedEnv(CountingEnv(), primer).reset()["start"] >= 1).all()
    with pytest.raises(ValueError, match="either random=True or a default_value"):
        TensorDictPrimer(start=Bounded(1, 2, (3,)), random=True, default_value=1.0)


def test_specs_of_primers_have_the_batch_of_the_environment():
    primer = TensorDictPrimer(hidden=Unbounded((5, 3)))
    assert primer.primers["hidden"].shape == (5, 3)
    clone = primer.clone()
    env = TransformedEnv(SerialEnv(2, CountingEnv), primer)
    assert env.reset()["hidden"].shape == (2, 5, 3)
    assert primer.primers["hidden"].shape == (2, 5, 3)
    other = primer.clone()
    assert TransformedEnv(CountingEnv(batch_size=[4]), other).reset()["hidden"].shape == (4, 5, 3)
    assert clone.primers["hidden"].shape == (5, 3)


@pytest.mark.parametrize("rows", [(), (4,), (2, 3)])
def test_noise_by_sizes_and_batch(rows):
    noise = gSDENoise(state_dim=5, action_dim=2, shape=rows)
    assert noise(TensorDict(batch_size=rows))["_eps_gSDE"].shape == (*rows, 2, 5)
    env = TransformedEnv(CountingEnv(batch_size=rows), gSDENoise(state_dim=5, action_dim=2, shape=rows))
    assert env.reset()["_eps_gSDE"].shape == (*rows, 2, 5)


@pytest.mark.parametrize("random", [True, False])
def test_no_operations_are_allowed(random):
    env = TransformedEnv(CountingEnv(), Compose(StepCounter(), NoopResetEnv(0, random=random)))
    assert env.reset()["step_count"] == 0


class Scalar(Shaped):
    """Takes an action without dimensions."""

    def __init__(self, batch_size=()):
        super().__init__((2,), batch_size)
        self.action_spec = Bounded(-1.0, 1.0, self.batch_size)

    def _step(self, td):
        assert td["action"].shape == self.batch_size
        self.last = td["action"]
        return super()._step({"action": torch.zeros(*self.batch_size, 2, 3)})


@pytest.mark.parametrize("categorical", [True, False])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_actions_without_dimensions_are_discretised(categorical, batch):
    env = TransformedEnv(Scalar(batch), ActionDiscretizer(4, categorical=categorical))
    assert env.action_spec.shape == (batch if categorical else (*batch, 4))
    check_env_specs(env)
    choice = torch.full(batch, 3) if categorical else nn.functional.one_hot(torch.full(batch, 3), 4)
    env.step(env.reset().set("action", choice))
    assert torch.equal(env.base_env.last, torch.full(batch, 0.75))


# --- whole agents --------------------------------------------------------------------------------


class Pair(CountingEnv):
    """Two agents, each a nested tensordict."""

    names_ = ("left", "right")

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        b = self.batch_size
        one = lambda: Composite(x=Unbounded((*b, 2)), deep=Composite(y=Unbounded((*b, 3)), shape=b), shape=b)
        self.observation_spec = Composite({name: one() for name in self.names_}, shape=b)

    def _record(self, entries, like):
        observation = entries.pop("observation")
        for i, name in enumerate(self.names_):
            entries[name, "x"] = observation + i
            entries[name, "deep", "y"] = observation[..., :1].repeat_interleave(3, -1) * i
        return super()._record(entries, like)


class FlatPair(Pair, FlatCountingEnv):
    supports_flat_records = True


@pytest.mark.parametrize("kind", [Pair, FlatPair])
@pytest.mark.parametrize("batch", [[], [3]])
@pytest.mark.parametrize(("dim", "place"), [(-1, 0), (0, 0)])
def test_nested_tensordicts_are_stacked_to_a_group(kind, batch, dim, place):
    stack = Stack(["left", "right"], "agents", dim=dim, allow_positive_dim=dim >= 0)
    env = make_seeded(lambda: TransformedEnv(kind(batch_size=batch), stack))
    assert env.observation_spec["agents", "x"].shape == (*batch, 2, 2)
    assert env.observation_spec["agents", "deep", "y"].shape == (*batch, 2, 3)
    assert env.observation_spec["agents"].shape == (*batch, 2)
    check_env_specs(env)
    plain = make_seeded(lambda: kind(batch_size=batch)).rollout(5, **ON)
    found = make_seeded(lambda: TransformedEnv(kind(batch_size=batch), stack.clone())).rollout(5, **ON)
    axis = len(batch) + 1
    assert torch.equal(found["agents", "x"].unbind(axis)[1], plain["right", "x"])
    assert torch.equal(found["agents", "deep", "y"].unbind(axis)[1], plain["right", "deep", "y"])
    assert "left" not in found


# --- differences of observations -----------------------------------------------------------------


@pytest.mark.parametrize("make", [
    CountingEnv,
    FlatCountingEnv,
    lambda: CountingEnv(batch_size=[2]),
    lambda: SerialEnv(2, CountingEnv),
], ids=["one", "flat", "rows", "serial"])  # fmt: skip
def test_batches_of_an_environment_have_differences(make):
    env = make_seeded(lambda: TransformedEnv(make(), NextObservationDelta()))
    assert env.reset()["delta", "observation"].dtype == torch.float16
    expected = make_seeded(make).rollout(7, **ON)
    env = make_seeded(lambda: TransformedEnv(make(), NextObservationDelta(delta_dtype=torch.float32)))
    data = env.rollout(7, **ON)
    assert ("next", "observation") not in data.keys(True)
    assert torch.equal(data["observation"], expected["observation"])
    gap = expected["next", "observation"] - expected["observation"]
    assert torch.equal(data["next", "delta", "observation"], gap)
    buffer = ReplayBuffer(storage=LazyTensorStorage(99), transform=NextObservationDelta(), batch_size=5)
    buffer.extend(data.reshape(-1))
    restored = NextObservationDelta()(data.clone())["next", "observation"]
    torch.testing.assert_close(restored, expected["next", "observation"])
    assert ("next", "delta") not in buffer.sample().keys(True)
    check_env_specs(env)


def test_single_steps_go_on_from_the_observation():
    env = TransformedEnv(CountingEnv(9), NextObservationDelta(["observation"]))
    root = env.reset()
    for count in range(3):
        assert root["observation"][0] == count
        root = env.step_mdp(env.rand_step(root))
    collector = Collector(TransformedEnv(CountingEnv(9), NextObservationDelta()), frames_per_batch=6, total_frames=12)
    for batch in collector:
        assert ("next", "observation") not in batch.keys(True)
        assert (batch["next", "delta", "observation"][..., 0] == 1).all()


def test_whole_numbers_have_no_difference():
    env = TransformedEnv(CountingEnv(), Compose(StepCounter(), NextObservationDelta()))
    data = env.rollout(3)
    assert ("next", "step_count") in data.keys(True)
    assert ("next", "delta", "step_count") not in data.keys(True)


# --- buffers of single frames --------------------------------------------------------------------


def test_a_sample_has_a_stack_for_each_step_and_the_next():
    frames = CatFrames(4, -1, ["observation"], ["stacked"])
    env = make_seeded(lambda: TransformedEnv(CountingEnv(9), frames))
    data = env.rollout(45, **ON)
    transform, sampler = frames.make_rb_transform_and_sampler(batch_size=20)
    buffer = ReplayBuffer(storage=LazyTensorStorage(45), sampler=sampler, transform=transform, batch_size=20)
    buffer.extend(data.exclude("stacked", ("next", "stacked")))
    for sample in (buffer.sample(), buffer.sample(7)):
        assert sample["stacked"].shape == (len(sample), 8)
        for place in (sample, sample["next"]):
            assert torch.equal(place["stacked"][:, -2:], place["observation"])
            counts = place["stacked"].reshape(-1, 4, 2)[..., 0]
            assert (counts.diff(dim=-1) == 1).all()
        ends = sample["next", "observation"][:, 0] == data["next", "observation"][:, 0].max()
        assert torch.equal(sample["next", "done"].squeeze(-1), ends)  # as stored, not at the end of each slice


def test_worker_processes_give_differences():
    env = ParallelEnv(2, lambda: TransformedEnv(CountingEnv(), NextObservationDelta()), mp_start_method="fork")
    try:
        data = env.rollout(2)
        assert (data["next", "delta", "observation"][..., 0] == 1).all()
    finally:
        env.close()
