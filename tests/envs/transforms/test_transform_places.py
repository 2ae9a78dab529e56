"""A transform around a batch of environments, or inside each of them: the same data."""

import pytest
import torch

from torchrl.envs import (
    CatFrames,
    Compose,
    EnvCreator,
    FrameSkipTransform,
    NoopResetEnv,
    ObservationNorm,
    ParallelEnv,
    RewardSum,
    SerialEnv,
    StepCounter,
    ToTensorImage,
    TransformedEnv,
)
from torchrl.testing.env import assert_same
from torchrl.testing.transform import World

CHAINS = {
    "flat": lambda: Compose(
        StepCounter(2), RewardSum(), ObservationNorm(1.0, 2.0, ["observation"]), ToTensorImage()
    ),
    "frames": lambda: CatFrames(3, -1, ["observation"]),
    "driven": lambda: Compose(StepCounter(), FrameSkipTransform(2)),
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


@pytest.mark.parametrize("name", ["flat", "frames", "driven"])
def test_around_is_inside(name):
    chain = CHAINS[name]
    around = played(lambda: TransformedEnv(SerialEnv(2, World), chain()))
    inside = played(lambda: SerialEnv(2, lambda: TransformedEnv(World(), chain())))
    assert_same(around, inside)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flat", "frames", "driven"])
def test_around_processes_is_inside_them(name):
    chain = CHAINS[name]
    around = played(lambda: TransformedEnv(ParallelEnv(2, World), chain()))
    make = EnvCreator(lambda: TransformedEnv(World(), chain()))
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
