"""Spec methods of transforms: one entry, one group, one side, and methods that users override."""

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import (
    ActionDiscretizer,
    ActionScaling,
    CatFrames,
    CatTensors,
    CenterCrop,
    ClipTransform,
    Compose,
    DoubleToFloat,
    DTypeCastTransform,
    FlattenAction,
    FlattenObservation,
    GrayScale,
    LineariseRewards,
    ObservationNorm,
    PermuteTransform,
    RenameTransform,
    Resize,
    RewardClipping,
    RewardScaling,
    RewardSum,
    SignTransform,
    SqueezeTransform,
    StepCounter,
    SuccessReward,
    TargetReturn,
    TimeMaxPool,
    ToTensorImage,
    Transform,
    TransformedEnv,
    UnaryTransform,
    UnsqueezeTransform,
    check_env_specs,
)
from torchrl.envs.transforms.transforms import _apply_to_composite, _apply_to_composite_inv, _set_missing_tolerance
from torchrl.testing.mocks import CountingEnv, FlatCountingEnv

IMAGE = Bounded(0, 255, (8, 6, 3), dtype=torch.uint8)
PIXELS = Bounded(0.0, 1.0, (3, 8, 6))
ROW = Bounded(-1.0, 1.0, (4,))

OBSERVATIONS = {
    "unsqueeze": (UnsqueezeTransform(-1, in_keys=["x"]), ROW, (4, 1)),
    "squeeze": (SqueezeTransform(-1, in_keys=["x"]), Unbounded((4, 1)), (4,)),
    "permute": (PermuteTransform((-1, -2), in_keys=["x"]), Unbounded((4, 2)), (2, 4)),
    "flatten": (FlattenObservation(-2, -1, in_keys=["x"]), Unbounded((4, 2)), (8,)),
    "norm": (ObservationNorm(1.0, 2.0, ["x"]), ROW, (4,)),
    "image": (ToTensorImage(in_keys=["x"]), IMAGE, (3, 8, 6)),
    "gray": (GrayScale(["x"]), PIXELS, (1, 8, 6)),
    "resize": (Resize(4, 5, in_keys=["x"]), PIXELS, (3, 5, 4)),
    "crop": (CenterCrop(4, 5, in_keys=["x"]), PIXELS, (3, 5, 4)),
    "frames": (CatFrames(3, -1, ["x"]), ROW, (12,)),
    "pool": (TimeMaxPool(["x"], T=2), ROW, (4,)),
    "clip": (ClipTransform(["x"], low=-0.5), ROW, (4,)),
    "sign": (SignTransform(["x"]), ROW, (4,)),
    "cast": (DTypeCastTransform(torch.float32, torch.float16, ["x"]), ROW, (4,)),
    "unary": (UnaryTransform(["x"], ["y"], fn=lambda x: x[..., :2]), ROW, (2,)),
    "rename": (RenameTransform(["x"], ["y"]), ROW, (4,)),
    "join": (CatTensors(["x"], "y"), ROW, (4,)),
}


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_the_spec_of_one_observation_is_that_in_a_composite(name):
    transform, spec, shape = OBSERVATIONS[name]
    found = transform.transform_observation_spec(spec.clone())
    assert found.shape == shape
    group = transform.transform_observation_spec(Composite(x=spec.clone(), other=ROW.clone()))
    assert group[transform.out_keys[0]] == found
    assert group["other"] == ROW


@pytest.mark.parametrize(
    "transform",
    [RewardScaling(0.0, 3.0), RewardClipping(-1.0, 1.0), SignTransform(), LineariseRewards(["reward"])],
    ids=lambda t: type(t).__name__,
)
def test_the_spec_of_one_reward(transform):
    assert transform.transform_reward_spec(Unbounded((1,))).shape == (1,)


def test_the_spec_of_one_action():
    scaled = ActionScaling().transform_action_spec(Bounded(-3.0, 5.0, (2,)))
    assert scaled.low.tolist() == [-1.0, -1.0]
    assert FlattenAction().transform_action_spec(Unbounded((2, 3))).shape == (6,)
    cast = DoubleToFloat(in_keys_inv=["action"])
    assert cast.transform_action_spec(Unbounded((2,), dtype=torch.float64)).dtype == torch.float32


def test_specs_of_other_entries_and_groups_are_those_of_the_environment():
    counter = StepCounter(4)
    env = TransformedEnv(CountingEnv(), Compose(RewardSum(), counter))
    found = counter.transform_observation_spec(env.base_env.full_observation_spec.clone())
    assert found["step_count"].high.item() == 4
    total = env.transform[0].transform_observation_spec(env.base_env.full_observation_spec.clone())
    assert total["episode_reward"].shape == (1,)
    check_env_specs(env)


class Repeated(Transform):
    """Writes the observation twice; names the spec in ``transform_output_spec`` alone."""

    def _call(self, td):
        return td.set("observation", td["observation"].repeat_interleave(2, -1))

    def transform_output_spec(self, output_spec):
        output_spec = super().transform_output_spec(output_spec)
        shape = output_spec["full_observation_spec", "observation"].shape
        output_spec["full_observation_spec", "observation"] = Unbounded((*shape[:-1], 2 * shape[-1]))
        return output_spec


class Doubled(Transform):
    """Takes half the action; names its spec in ``transform_input_spec`` alone."""

    def _inv_call(self, td):
        return td.set("action", td["action"] / 2)

    def transform_input_spec(self, input_spec):
        input_spec = super().transform_input_spec(input_spec)
        shape = input_spec["full_action_spec", "action"].shape
        input_spec["full_action_spec", "action"] = Bounded(-2.0, 2.0, shape)
        return input_spec


@pytest.mark.parametrize("base", [CountingEnv, FlatCountingEnv, lambda: CountingEnv(batch_size=[3])])
@pytest.mark.parametrize("nested", [False, True])
def test_overridden_methods_of_a_side_are_called(base, nested):
    both = Compose(Compose(Repeated()), Doubled()) if nested else Compose(Repeated(), Doubled())
    env = TransformedEnv(base(), both)
    assert env.observation_spec["observation"].shape[-1] == 4
    assert (env.action_spec.high == 2).all()
    assert env.rollout(3)["observation"].shape[-1] == 4
    check_env_specs(env)


def test_sides_are_also_those_of_the_transforms_before():
    env = TransformedEnv(CountingEnv(), Compose(StepCounter(3), Repeated(), UnsqueezeTransform(-1)))
    assert env.observation_spec["observation"].shape == (4, 1)
    assert "step_count" in env.observation_keys
    assert "truncated" in env.done_keys


def test_both_sides_of_every_transform_can_be_called():
    env = CountingEnv()
    chain = Compose(UnsqueezeTransform(-1, in_keys=["observation"]), StepCounter(3))
    outer = chain.transform_output_spec(env.output_spec.clone())
    assert outer["full_observation_spec", "observation"].shape == (2, 1)
    assert outer["full_done_spec", "truncated"].shape == (1,)
    inner = ActionScaling().transform_input_spec(CountingEnv().input_spec.clone())
    assert inner["full_action_spec", "action"].high == 1


class Wide(Transform):
    """Names its specs by the decorators for one entry."""

    def _apply_transform(self, value):
        return torch.cat([value, value], -1)

    def _reset(self, td, td_reset):
        return self._call(td_reset)

    @_apply_to_composite
    def transform_observation_spec(self, spec):
        return Unbounded((*spec.shape[:-1], 2 * spec.shape[-1]))

    def _inv_apply_transform(self, value):
        return value.clamp(-0.5, 0.5)

    @_apply_to_composite_inv
    def transform_action_spec(self, spec):
        return Bounded(-3.0, 3.0, spec.shape)


def test_methods_for_one_entry_serve_every_key():
    env = TransformedEnv(CountingEnv(), Wide(["observation"], ["twice"], ["action"], ["action"]))
    assert env.observation_spec["twice"].shape == (4,)
    assert env.observation_spec["observation"].shape == (2,)
    assert env.action_spec.high == 3
    check_env_specs(env)
    assert Wide(["a"]).transform_observation_spec(Unbounded((3,))).shape == (6,)


class Narrow(CatFrames):
    """Overrides a method of one group of a transform that derives all groups at once."""

    def transform_observation_spec(self, observation_spec):
        spec = super().transform_observation_spec(observation_spec)
        spec["extra"] = Unbounded((len(list(spec.keys())),))
        return spec


def test_a_method_that_calls_its_base_is_called_once():
    narrow = Narrow(2, -1, ["x"])
    found = narrow.transform_observation_spec(Composite(x=Unbounded((3,))))
    assert found["x"].shape == (6,)
    assert found["extra"].shape == (1,)


def test_entries_under_next_are_transformed_by_name():
    spec = Composite({("next", "x"): IMAGE.clone(), "y": IMAGE.clone()})
    out = Compose(ToTensorImage(in_keys=[("next", "x"), "y"]), GrayScale(["y"])).transform_observation_spec(spec)
    assert out["next", "x"].shape == (3, 8, 6)
    assert out["y"].shape == (1, 8, 6)


def test_rewards_are_summed_with_their_bounds():
    spec = Bounded(torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 4.0]), (2,))
    for weights, low, high in ((None, -1.0, 5.0), ([2.0, -1.0], -6.0, 2.0)):
        found = LineariseRewards(["reward"], weights=weights).transform_reward_spec(spec.clone())
        assert (found.low.item(), found.high.item()) == (low, high)
    with pytest.raises(NotImplementedError, match="continuous"):
        LineariseRewards(["reward"]).transform_reward_spec(Categorical(3))
    with pytest.raises(ValueError, match="one weight for each"):
        LineariseRewards(["reward"], weights=torch.ones(1, 2))


def test_a_clamped_state_that_the_environment_returns_keeps_its_spec():
    class Kept(CountingEnv):
        def __init__(self):
            super().__init__()
            self.state_spec = Composite(observation=Unbounded((2,)))

    env = TransformedEnv(Kept(), ClipTransform(in_keys_inv=["observation"], low=-0.1, high=0.1))
    assert env.full_state_spec["observation"].is_in(torch.full((2,), 5.0))
    check_env_specs(env)


def test_groups_that_are_not_given_are_left_out():
    chain = Compose(ToTensorImage(in_keys=["x"]), ActionScaling(), RewardScaling(0.0, 2.0), SuccessReward())
    assert chain.transform_observation_spec(Composite(x=IMAGE.clone()))["x"].shape == (3, 8, 6)
    assert ActionDiscretizer(3).transform_observation_spec(Composite(x=ROW.clone()))["x"] == ROW
    assert not chain[0].missing_tolerance
    with pytest.raises(KeyError, match="'reward'"):
        TargetReturn(1.0).transform_observation_spec(Composite(x=ROW.clone()))


def test_absent_entries_are_skipped_in_a_block():
    scale = RewardScaling(0.0, 2.0)
    with _set_missing_tolerance(scale, True):
        assert scale(TensorDict(x=torch.zeros(1))).sorted_keys == ["x"]
    with pytest.raises(KeyError, match="'reward'"):
        scale(TensorDict(x=torch.zeros(1)))


def test_a_module_is_called_by_its_forward():
    td = nn.Sequential(UnsqueezeTransform(-1, in_keys=["x"]))(TensorDict(x=torch.zeros(3)))
    assert td["x"].shape == (3, 1)
