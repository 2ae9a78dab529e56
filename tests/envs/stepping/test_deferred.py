"""Entries written after the steps are those that are written step by step, to the last bit."""

import inspect

import gymnasium
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

import torchrl.envs
from torchrl._core.records.capabilities import supports
from torchrl._core.records.flat_record import FlatRecord, stack_flat_records
from torchrl.collectors import Collector
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import (
    BinarizeReward,
    CatTensors,
    ClipTransform,
    Compose,
    DoubleToFloat,
    DTypeCastTransform,
    EnvBase,
    GymEnv,
    GymWrapper,
    InitTracker,
    ObservationNorm,
    RewardClipping,
    RewardScaling,
    RewardSum,
    SelectTransform,
    SerialEnv,
    SignTransform,
    StepCounter,
    SuccessReward,
    Transform,
    TransformedEnv,
    VecNormV2,
)
from torchrl.envs.stepping.deferred import ElementwiseDeferred
from torchrl.modules import QValueActor
from torchrl.testing.env import assert_same
from torchrl.testing.transform import World

OBS = ["observation"]


def one():
    return GymEnv("CartPole-v1")


def four():
    options = {"autoreset_mode": "Disabled"}
    return GymWrapper(gymnasium.make_vec("CartPole-v1", 4, vectorization_mode="sync", vector_kwargs=options))


def world():
    return World()


def worlds():
    return World([4])


def left_out(env, touched=()):
    try:
        return [one.key for one in env.defer({*env.action_keys, *touched})]
    finally:
        env.resume()


def runs(make_env, *, deferred, policy=None, **kwargs):
    """Return a rollout, and batches that go on, from an environment that is warm."""
    env = make_env()
    env.set_seed(0)
    torch.manual_seed(0)
    env.rollout(2)  # the first outcome is held to the specs: nothing is left out
    if not deferred:
        env.defer = lambda touched: []
    act = None if policy is None else policy(env)
    first, frames = env.rollout(30, act, **kwargs), 24 * env.batch_size.numel()
    options = {"init_random_frames": frames} if act is not None else {}
    collector = Collector(env, act, frames_per_batch=frames, total_frames=2 * frames, **options)
    return [first, *collector]


def check_deferring_changes_nothing(make_env, **kwargs):
    found = runs(make_env, deferred=True, **kwargs)
    for batch, other in zip(found, runs(make_env, deferred=False, **kwargs), strict=True):
        assert_same(batch, other)
        strides = {key: batch[key].stride() for key in batch.keys(True, True)}
        assert strides == {key: other[key].stride() for key in other.keys(True, True)}


def seen(make_base, *transforms):
    return lambda: TransformedEnv(make_base(), Compose(*(t.clone() for t in transforms)))


# --- every transform that may wait ----------------------------------------------------------------

ROWS = torch.arange(12.0).reshape(4, 3) + 1
MAY_WAIT = {
    "StepCounter": [StepCounter()],
    "RewardSum": [RewardSum(), RewardSum(["reward"], ["again"])],
    "ObservationNorm": [
        ObservationNorm(0.3, 1.7, OBS),
        ObservationNorm(torch.tensor([0.1, 0.2, 0.3]), 1.7, OBS, standard_normal=True),
        ObservationNorm(0.3, 1.7, [("agents", "state")], ["seen"]),
        ObservationNorm(0.3, torch.tensor(1.7, dtype=torch.float64), ["observation", "double"]),
    ],
    "DTypeCastTransform": [
        DTypeCastTransform(torch.uint8, torch.float32, ["pixels"]),
        DTypeCastTransform(torch.float32, torch.bfloat16, [*OBS, "double"], ["small", "same"]),
    ],
    "DoubleToFloat": [DoubleToFloat(), DoubleToFloat(["double"], ["single"])],
    "RewardScaling": [RewardScaling(0.1, 0.3), RewardScaling(0.1, 0.3, ["reward"], ["scaled"])],
    "RewardClipping": [RewardClipping(-0.1, 0.1), RewardClipping(clamp_max=0.2)],
    "BinarizeReward": [BinarizeReward()],
    "SignTransform": [SignTransform(), SignTransform(["double"], ["signs"])],
    "SuccessReward": [SuccessReward(scale=3.0)],
    "ClipTransform": [ClipTransform(["observation", "reward"], low=-0.2, high=0.2)],
}
CASES = [(name, i) for name, variants in MAY_WAIT.items() for i in range(len(variants))]


@pytest.mark.parametrize("make_base", [world, worlds])
@pytest.mark.parametrize(("name", "variant"), CASES)
def test_waiting_changes_nothing(make_base, name, variant):
    transform = MAY_WAIT[name][variant]
    make_env = seen(make_base, transform)
    env = make_env()
    env.rollout(2)
    assert {*left_out(env)} == {one.key for one in env.transform[0].deferred()} != set()
    check_deferring_changes_nothing(make_env, break_when_any_done=False)


def test_statistics_of_each_row_meet_their_rows():
    make_env = seen(worlds, ObservationNorm(ROWS, 2 * ROWS, OBS))
    check_deferring_changes_nothing(make_env, break_when_any_done=False)


def test_every_transform_that_may_wait_is_listed():
    classes = {c for c in vars(torchrl.envs).values() if inspect.isclass(c)}
    may_wait = {c.__name__ for c in classes if issubclass(c, Transform) and c.__dict__.get("deferrable")}
    assert may_wait == set(MAY_WAIT)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.sampled_from([(), (1,), (3,), (2, 2)]),
    feature=st.sampled_from([(1,), (5,), (17,), (3, 11)]),
    steps=st.integers(1, 20),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    variant=st.sampled_from(
        [
            ObservationNorm(0.3, 1.7, OBS),
            ObservationNorm(0.3, 1.7, OBS, standard_normal=True),
            RewardScaling(0.1, 0.3, OBS),
            ClipTransform(OBS, low=-0.4, high=0.3),
            SignTransform(OBS),
            BinarizeReward(OBS),
            DTypeCastTransform(torch.float64, torch.float16, OBS),
        ]
    ),
    seed=st.integers(0, 10_000),
)
def test_an_image_of_many_steps_is_that_of_each(batch, feature, steps, dtype, variant, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(steps + 1, *batch, *feature, generator=generator).to(dtype)
    images = [variant(TensorDict(observation=value))["observation"] for value in values]
    size = torch.Size(batch)
    roots, results = ([FlatRecord(observation=v) for v in part] for part in (values[:-1], values[1:]))
    record = stack_flat_records(roots, size, None).set("next", stack_flat_records(results, size, None))
    first, last = FlatRecord(observation=images[0]), FlatRecord(observation=values[-1])
    for image in variant.deferred():
        image.write(record, first, last, reset_at_end=True)
    dim = len(batch)
    assert torch.equal(record["observation"], torch.stack(images[:-1], dim))
    assert torch.equal(record["next", "observation"], torch.stack(images[1:], dim))
    assert torch.equal(last["observation"], images[-1])


def test_entries_share_no_memory():
    env = seen(one, DTypeCastTransform(torch.float64, torch.float32, OBS, ["same"]))()
    env.rollout(2)
    assert left_out(env) == ["same"]
    batch = env.rollout(30, break_when_any_done=False)
    before = batch["same"].clone()
    batch["observation"].zero_()
    assert torch.equal(batch["same"], before)


# --- chains ---------------------------------------------------------------------------------------

NORM = ObservationNorm(1.0, 2.0, OBS)
CHAINS = {
    "sums": ([StepCounter(), RewardSum()], {"step_count", "episode_reward"}),
    "all": ([RewardSum(), NORM, StepCounter(), DoubleToFloat()], {"step_count", "episode_reward", "observation"}),
    "cut": ([RewardSum(), StepCounter(7)], {"episode_reward"}),
    "measured": ([RewardSum(), VecNormV2(OBS), NORM, StepCounter()], {"step_count", "episode_reward"}),
    "measured later": ([RewardSum(), VecNormV2(["reward"]), NORM], {"observation"}),
    "joined": ([NORM, CatTensors(OBS, out_key="vector"), StepCounter()], {"step_count"}),
    "marked": ([InitTracker(), StepCounter()], {"step_count"}),
    "scaled before": ([RewardScaling(0.1, 0.3), RewardSum()], {"reward", "episode_reward"}),
    "scaled after": ([RewardSum(), RewardScaling(0.1, 0.3)], {"reward", "episode_reward"}),
    "the sum is scaled": ([RewardSum(), RewardScaling(0.1, 0.3, ["episode_reward"])], set()),
    "read by who waits": ([StepCounter(), ObservationNorm(1.0, 2.0, ["step_count"], ["time"])], {"step_count", "time"}),
    "in place, twice": (
        [NORM, ClipTransform(OBS, low=-1.0, high=2.0), SignTransform(OBS, ["sign"])],
        {"observation", "sign"},
    ),
    "read by who does not": ([NORM, torchrl.envs.UnaryTransform(OBS, ["two"], fn=torch.abs)], set()),
    "unknown": ([StepCounter(), SelectTransform("observation", "reward", "step_count")], set()),
    "as a reward": ([RewardSum(reward_spec=True)], set()),
    "on the way in": ([DTypeCastTransform(torch.float64, torch.float32, OBS, None, OBS)], set()),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("make_base", [one, four])
def test_chains(make_base, name):
    parts, expected = CHAINS[name]
    make_env = seen(make_base, *parts)
    env = make_env()
    assert left_out(env) == []  # the first outcome is held to the specs
    env.rollout(2)
    assert {*left_out(env)} == expected
    check_deferring_changes_nothing(make_env, break_when_any_done=name not in ("sums", "all"))


def test_inner_environments_leave_out_what_outer_ones_do_not_touch():
    def make_env():
        return TransformedEnv(seen(four, StepCounter(), NORM)(), RewardSum(), auto_unwrap=False)

    env = make_env()
    env.rollout(2)
    assert {*left_out(env)} == {"step_count", "observation", "episode_reward"}
    assert {*left_out(env, ["step_count"])} == {"observation", "episode_reward"}
    check_deferring_changes_nothing(make_env, break_when_any_done=False)
    env.append_transform(ObservationNorm(0.0, 2.0, ["step_count"], ["time"]))
    env.rollout(2)
    assert {*left_out(env)} == {"observation", "episode_reward"}


def test_over_several_environments():
    make_env = seen(lambda: SerialEnv(2, one), NORM, RewardSum())
    env = make_env()
    env.rollout(2)
    assert {*left_out(env)} == {"observation", "episode_reward"}
    check_deferring_changes_nothing(make_env, break_when_any_done=False)


# --- who looks ------------------------------------------------------------------------------------


class Lean(nn.Module):
    def forward(self, value):
        return torch.stack([value[..., -1], -value[..., -1]], -1)


def actor(*reads):
    def build(env):
        network = TensorDictModule(Lean(), [*reads][:1], ["action_value"])
        chooser = QValueActor(nn.Identity(), in_keys=["action_value"], spec=env.action_spec)
        return TensorDictSequential(network, chooser)

    return build


@pytest.mark.parametrize("reads", ["observation", "normed"])
def test_a_policy_gets_what_it_reads(reads):
    parts = [ObservationNorm(1.0, 2.0, OBS, ["normed"]), NORM, RewardScaling(0.1, 3.0), RewardSum()]
    make_env = seen(four, *parts)
    env = make_env()
    env.rollout(2)
    assert {*left_out(env, [reads])} == {"reward", "episode_reward"}
    check_deferring_changes_nothing(make_env, policy=actor(reads), break_when_any_done=False)


def test_a_policy_that_reads_a_sum_gets_it():
    env = TransformedEnv(one(), StepCounter())
    counts = []

    class Act(nn.Module):
        def forward(self, observation, count):
            counts.append(count.item())
            return torch.stack([observation[..., 2], -observation[..., 2]], -1)

    policy = TensorDictSequential(
        TensorDictModule(Act(), ["observation", "step_count"], ["action_value"]),
        QValueActor(nn.Identity(), in_keys=["action_value"], spec=env.action_spec),
    )
    env.rollout(2)
    found = env.rollout(30, policy)["step_count"].squeeze(-1).tolist()
    assert counts == found == list(range(len(found)))


class Walk(EnvBase):
    """Reads its observation, as an environment without a memory does."""

    supports_flat_records = True

    def __init__(self):
        super().__init__()
        self.observation_spec = Composite(position=Unbounded((1,)))
        self.action_spec = Bounded(-1, 1, (1,))

    def _record(self, td, **entries):
        return FlatRecord(entries) if isinstance(td, FlatRecord) else TensorDict(entries)

    def _reset(self, td):
        return self._record(td, position=torch.ones(1))

    def _step(self, td):
        position = td.get("position") + td.get("action")
        over = position.abs() > 9
        return self._record(td, position=position, reward=-position, done=over, terminated=over.clone())

    def _set_seed(self, seed):
        torch.manual_seed(seed)


@pytest.mark.parametrize("out", ["position", "seen"])
def test_an_environment_gets_what_it_reads(out):
    make_env = seen(Walk, ObservationNorm(0.5, 1.1, ["position"], [out]), RewardScaling(0.0, 2.0))
    env = make_env()
    env.rollout(2)
    assert left_out(env) == ["reward"]
    check_deferring_changes_nothing(make_env, break_when_any_done=False)


class Doubled(ObservationNorm):
    supports_flat_records = True

    def _apply_transform(self, value):
        return super()._apply_transform(value) * value.norm()


class CountsByTwo(StepCounter):
    supports_flat_records = True

    def _step(self, tensordict, next_tensordict):
        next_root = super()._step(tensordict, next_tensordict)
        return next_root.set("step_count", next_root.get("step_count") + 1)


@pytest.mark.parametrize("transform", [Doubled(0.5, 2.0, OBS), CountsByTwo()])
def test_a_subclass_with_hooks_of_its_own_acts_at_each_step(transform):
    assert not supports(transform, "deferrable")
    make_env = seen(one, transform)
    env = make_env()
    env.rollout(2)
    assert left_out(env) == []
    check_deferring_changes_nothing(make_env)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"callback": lambda env, td: None},
        {"auto_cast_to_device": True},
        {"break_when_all_done": True},
        {"auto_reset": True, "set_truncated": True},
    ],
)
def test_other_ways_to_roll_out_give_the_same(kwargs):
    check_deferring_changes_nothing(seen(worlds, NORM, StepCounter(), RewardSum()), **kwargs)


def test_a_root_that_lacks_an_entry_has_it_nowhere_left_out():
    env = seen(one, ObservationNorm(1.0, 2.0, OBS, ["normed"]))()
    root = env.rollout(2)[..., -1]["next"].exclude("normed", "reward")
    batch = env.rollout(30, auto_reset=False, tensordict=root)
    assert "normed" not in batch
    assert torch.equal(batch["next", "normed"], 2 * batch["next", "observation"] + 1)


def test_all_is_written_again_after_an_error():
    env = TransformedEnv(one(), Compose(StepCounter(), NORM.clone()))
    env.rollout(2)
    calls = []

    def fail(count):
        calls.append(count)
        if len(calls) == 3:
            raise RuntimeError("no action")
        return env.action_spec.rand()

    policy = TensorDictModule(fail, ["done"], ["action"])
    with pytest.raises(RuntimeError, match="no action"):
        env.rollout(30, policy)
    env.set_seed(0)
    step = env.step(env.rand_action(env.reset()))
    assert step["next", "step_count"] == 1
    assert (step["next", "observation"] > 0.5).any()  # 2 x + 1


@pytest.mark.parametrize("function", [torch.abs, lambda x: x.abs().contiguous()])
def test_an_image_lies_in_memory_as_a_stack_does(function):
    steps = TensorDict(a=torch.randn(2, 5, 3), batch_size=[2, 5])
    steps.set("next", steps.copy())
    ElementwiseDeferred("b", "a", function).write(steps, FlatRecord(), FlatRecord(), reset_at_end=True)
    assert torch.equal(steps["next", "b"], steps["a"].abs())
    assert steps["next", "b"].is_contiguous()


def test_gradients_pass_through_an_image():
    leaf = torch.randn(2, 5, 3, requires_grad=True)
    steps = TensorDict({"next": TensorDict(observation=leaf, batch_size=[2, 5])}, [2, 5])
    (image,) = ObservationNorm(1.0, 4.0, OBS).deferred()
    assert isinstance(image, ElementwiseDeferred)
    image.write(steps, FlatRecord(), FlatRecord(), reset_at_end=True)
    (grad,) = torch.autograd.grad(steps["next", "observation"].sum(), leaf)
    assert torch.equal(grad, torch.full_like(grad, 4.0))
