"""A transform around a batch of environments, or inside each of them: the same data."""

import pytest
import torch

from torchrl.data import Unbounded
from torchrl.envs import (
    ActionScaling,
    CatFrames,
    CatTensors,
    Compose,
    DoubleToFloat,
    EnvCreator,
    ExcludeTransform,
    FiniteTensorDictCheck,
    FlattenObservation,
    FrameSkipTransform,
    GrayScale,
    InitTracker,
    NoopResetEnv,
    ObservationNorm,
    ParallelEnv,
    RenameTransform,
    Resize,
    RewardClipping,
    RewardScaling,
    RewardSum,
    SerialEnv,
    StepCounter,
    TargetReturn,
    TensorDictPrimer,
    TimeMaxPool,
    ToTensorImage,
    TransformedEnv,
    VecNormV2,
)
from torchrl.testing.env import assert_same
from torchrl.testing.transform import World

CHAINS = {
    "flat": lambda: Compose(StepCounter(2), RewardSum(), ObservationNorm(1.0, 2.0, ["observation"]), ToTensorImage()),
    "frames": lambda: CatFrames(3, -1, ["observation"]),
    "driven": lambda: Compose(StepCounter(), FrameSkipTransform(2)),
    "many": lambda: Compose(
        StepCounter(3),
        InitTracker(),
        RewardSum(),
        TargetReturn(5.0),
        DoubleToFloat(),
        ToTensorImage(),
        GrayScale(),
        Resize(4, 5, "area"),
        CatFrames(2, -3),
        CatTensors(["observation", "double"], out_key="all", del_keys=False),
        TimeMaxPool(["all"], T=2),
        FlattenObservation(-2, -1, [("agents", "state")]),
        ObservationNorm(1.0, 2.0, ["observation"]),
        VecNormV2(["double"], decay=1.0),
        TensorDictPrimer(hidden=Unbounded((2,)), default_value=3.0, expand_specs=True),
        RewardScaling(0.0, 0.5),
        RewardClipping(-0.1, 0.1),
        ActionScaling(),
        RenameTransform(["success"], ["won"]),
        ExcludeTransform("action_mask"),
        FiniteTensorDictCheck(),
    ),
    "no-ops": lambda: Compose(StepCounter(), NoopResetEnv(1, random=False)),
}


def played(make_env):
    env = make_env()
    env.set_seed(0)
    torch.manual_seed(0)
    actions = torch.rand(2, 12, 2) - 0.5
    batch = env.rollout(12, actions=actions, break_when_any_done=False)
    env.close()
    return batch


@pytest.mark.parametrize("name", ["flat", "frames", "driven", "many"])
def test_around_is_inside(name):
    chain = CHAINS[name]
    around = played(lambda: TransformedEnv(SerialEnv(2, World), chain()))
    inside = played(lambda: SerialEnv(2, lambda: TransformedEnv(World(), chain())))
    assert_same(around, inside)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flat", "frames", "driven", "many"])
def test_around_processes_is_inside_them(name):
    chain = CHAINS[name]
    around = played(lambda: TransformedEnv(ParallelEnv(2, World), chain()))
    make = EnvCreator(lambda: TransformedEnv(World(), chain()), share_memory=False)
    inside = played(lambda: ParallelEnv(2, make))
    assert_same(around, inside)


def test_rows_of_a_batch_stand_still_while_one_takes_its_no_ops():
    env = TransformedEnv(SerialEnv(2, World), CHAINS["no-ops"]())
    root = env.step_mdp(env.rollout(1)[..., -1])
    before = root[1].clone()
    after = env.reset(root.set("_reset", torch.tensor([[True], [False]])))
    assert after["step_count"].squeeze(-1).tolist() == [1, 2]
    assert_same(after[1], before)
    moved = env.rand_step(after)
    assert moved["next", "step_count"].squeeze(-1).tolist() == [2, 3]
    env.close()
