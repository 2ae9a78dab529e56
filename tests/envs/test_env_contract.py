"""Every environment obeys every law of torchrl.testing.env."""

import cloudpickle
import gymnasium as gym
import pytest
import torch

import torchrl.envs
from torchrl.data import Unbounded
from torchrl.envs import (
    AsyncEnvPool,
    DoubleToFloat,
    EnvBase,
    GymEnv,
    GymLikeEnv,
    GymWrapper,
    InitTracker,
    ModelBasedEnvBase,
    ObservationNorm,
    ParallelEnv,
    RewardScaling,
    RewardSum,
    SerialEnv,
    StepCounter,
    TensorDictPrimer,
    TransformedEnv,
)
from torchrl.testing import mocks
from torchrl.testing.env import LAWS, assert_same, begin
from torchrl.testing.mocks import (
    CountingEnv,
    EntrywiseCountingEnv,
    MultiAgentEnv,
    NestedEnv,
    StatelessEnv,
    TextEnv,
)


def everything(env):
    env = TransformedEnv(env, StepCounter(max_steps=7))
    scaling = RewardScaling(1.0, 2.0, in_keys=env.reward_keys)
    for transform in (InitTracker(), RewardSum(), scaling):
        env.append_transform(transform)
    return env.append_transform(
        TensorDictPrimer(hidden=Unbounded((2,)), default_value=3.0, expand_specs=True)
    )


def normalised(env):
    norm = ObservationNorm(0.5, 2.0, in_keys=["observation"])
    return TransformedEnv(env, torchrl.envs.Compose(DoubleToFloat(), norm, InitTracker()))


ENVS = {
    "counting": lambda: CountingEnv(),
    "counting, truncated": lambda: CountingEnv(horizon=9, cut=4),
    "counting, rows": lambda: CountingEnv(batch_size=[3]),
    "counting, rows, truncated": lambda: CountingEnv(cut=4, batch_size=[3]),
    "counting, grid": lambda: CountingEnv(batch_size=[2, 3]),
    "counting, device": lambda: CountingEnv(batch_size=[2], device="cpu"),
    "entrywise": lambda: EntrywiseCountingEnv(),
    "entrywise, rows": lambda: EntrywiseCountingEnv(batch_size=[3], cut=4),
    "entrywise, grid": lambda: EntrywiseCountingEnv(batch_size=[2, 2]),
    "entrywise, one row": lambda: EntrywiseCountingEnv(batch_size=[1]),
    "entrywise, transformed": lambda: everything(EntrywiseCountingEnv(horizon=9)),
    "entrywise, rows, transformed": lambda: everything(EntrywiseCountingEnv(batch_size=[3])),
    "entrywise, twice transformed": lambda: TransformedEnv(
        everything(EntrywiseCountingEnv(batch_size=[3])), StepCounter(step_count_key="steps")
    ),
    "nested": lambda: NestedEnv(),
    "nested, rows": lambda: NestedEnv(batch_size=[3]),
    "nested, transformed": lambda: everything(NestedEnv(batch_size=[3])),
    "agents": lambda: MultiAgentEnv(),
    "agents, rows": lambda: MultiAgentEnv(batch_size=[3]),
    "agents on their own": lambda: MultiAgentEnv(root_done=False),
    "agents on their own, rows": lambda: MultiAgentEnv(root_done=False, batch_size=[3]),
    "agents, transformed": lambda: everything(MultiAgentEnv(batch_size=[2])),
    "agents on their own, transformed": lambda: everything(
        MultiAgentEnv(root_done=False, batch_size=[2])
    ),
    "stateless": lambda: StatelessEnv(),
    "text": lambda: TextEnv(),
    "text, rows": lambda: TextEnv(batch_size=[3]),
    "text, transformed": lambda: everything(TextEnv(batch_size=[3])),
    "gym": lambda: GymEnv("CartPole-v1"),
    "gym, continuous": lambda: GymEnv("Pendulum-v1", max_episode_steps=5),
    "gym, categorical": lambda: GymEnv("CartPole-v1", categorical_action_encoding=True),
    "gym, frame skip": lambda: GymEnv("CartPole-v1", frame_skip=3),
    "gym, device": lambda: GymEnv("CartPole-v1", device="cpu"),
    "gym, double": lambda: normalised(GymEnv("InvertedPendulum-v5")),
    "gym, rows": lambda: GymEnv("CartPole-v1", num_envs=3),
    "gym, rows, transformed": lambda: everything(GymEnv("CartPole-v1", num_envs=3)),
    "gym, rows, frame skip": lambda: GymEnv("CartPole-v1", num_envs=3, frame_skip=4),
    "gym, rows end together": lambda: GymEnv("Pendulum-v1", num_envs=2, max_episode_steps=5),
    "gym wrapper": lambda: GymWrapper(gym.make("MountainCar-v0", max_episode_steps=5)),
    "gym, transformed": lambda: everything(GymEnv("CartPole-v1")),
    "serial": lambda: SerialEnv(2, lambda: GymEnv("CartPole-v1")),
    "serial, of rows, transformed": lambda: everything(
        SerialEnv(2, lambda: CountingEnv(batch_size=[2]))
    ),
    "serial, one of three": lambda: SerialEnv(3, lambda: GymEnv("CartPole-v1"))[1],
    "parallel": lambda: ParallelEnv(2, [lambda: GymEnv("CartPole-v1")] * 3),
    "parallel, transformed inside": lambda: ParallelEnv(2, lambda: everything(CountingEnv())),
    "pool": lambda: AsyncEnvPool([CountingEnv] * 2),
}


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("make", ENVS.values(), ids=ENVS)
def test_law(make, law):
    law(make)


@pytest.mark.parametrize("make", ENVS.values(), ids=ENVS)
def test_copies_are_alike(make):
    """A copy that was pickled in the middle of an episode needs no more than a seed."""
    env = begin(make)
    env.rollout(2)
    if hasattr(env, "numbers"):  # a view shares its environments, and is not copied
        return
    batches = []
    for each in (env, cloudpickle.loads(cloudpickle.dumps(env))):
        each.set_seed(3)
        torch.manual_seed(3)
        batches.append(each.rollout(5, break_when_any_done=False))
    assert_same(*batches)


@pytest.mark.parametrize("make", ENVS.values(), ids=ENVS)
def test_what_is_moved_returns_records_from_there(make):
    env = begin(make).to("cpu")
    assert env.device == env.full_observation_spec.device == torch.device("cpu")
    for record in (env.reset(), env.rollout(2)):
        assert {leaf.device.type for leaf in record.values(True, True)} == {"cpu"}


@pytest.mark.parametrize("make", ENVS.values(), ids=ENVS)
def test_episodes_end_on_the_way(make):
    """Otherwise the laws say little."""
    batch = begin(make).rollout(40, break_when_any_done=False)
    assert any(bool(batch["next"].get(key).any()) for key in make().done_keys)


def test_every_public_environment_is_listed():
    bases = {EnvBase, GymLikeEnv, ModelBasedEnvBase, TransformedEnv}
    classes = [*vars(torchrl.envs).values(), *vars(mocks).values()]
    public = {c for c in classes if isinstance(c, type) and issubclass(c, EnvBase)} - bases
    public -= {mocks.LyingEnv, mocks.FlagsEnv}
    elsewhere = ("custom",)  # those have a list of their own
    public = {c for c in public if not any(name in c.__module__ for name in elsewhere)}
    public -= {torchrl.envs.ProcessorAsyncEnvPool, torchrl.envs.ThreadingAsyncEnvPool}
    made = {type(getattr(make(), "base_env", make())) for make in ENVS.values()}
    assert public <= made, public - made
