"""Every environment obeys every check of torchrl.testing.env."""

import functools

import gymnasium as gym
import pytest

import torchrl.envs
from torchrl.data import Unbounded
from torchrl.envs import (
    AsyncEnvPool,
    BraxEnv,
    CartPoleEnv,
    DMControlEnv,
    DoubleToFloat,
    EnvBase,
    GymEnv,
    GymLikeEnv,
    GymWrapper,
    InitTracker,
    JumanjiEnv,
    MarlGroupMapType,
    ModelBasedEnvBase,
    MultiThreadedEnv,
    ObservationNorm,
    OpenSpielEnv,
    ParallelEnv,
    PendulumEnv,
    PettingZooEnv,
    RewardScaling,
    RewardSum,
    SerialEnv,
    StepCounter,
    TensorDictPrimer,
    TicTacToeEnv,
    TransformedEnv,
    VmasEnv,
)
from torchrl.envs.wrapper import is_installed
from torchrl.testing import mocks
from torchrl.testing.env import CHECKS, make_seeded
from torchrl.testing.mocks import (
    CountingEnv,
    FlatCountingEnv,
    MaskedEnv,
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
    return env.append_transform(TensorDictPrimer(hidden=Unbounded((2,)), default_value=3.0, expand_specs=True))


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
    "masked": lambda: MaskedEnv(),
    "supports_flat_records": lambda: FlatCountingEnv(),
    "supports_flat_records, rows": lambda: FlatCountingEnv(batch_size=[3], cut=4),
    "supports_flat_records, grid": lambda: FlatCountingEnv(batch_size=[2, 2]),
    "supports_flat_records, one row": lambda: FlatCountingEnv(batch_size=[1]),
    "supports_flat_records, transformed": lambda: everything(FlatCountingEnv(horizon=9)),
    "supports_flat_records, rows, transformed": lambda: everything(FlatCountingEnv(batch_size=[3])),
    "supports_flat_records, twice transformed": lambda: TransformedEnv(
        everything(FlatCountingEnv(batch_size=[3])), StepCounter(step_count_key="steps")
    ),
    "nested": lambda: NestedEnv(),
    "nested, rows": lambda: NestedEnv(batch_size=[3]),
    "nested, transformed": lambda: everything(NestedEnv(batch_size=[3])),
    "agents": lambda: MultiAgentEnv(),
    "agents, rows": lambda: MultiAgentEnv(batch_size=[3]),
    "agents on their own": lambda: MultiAgentEnv(root_done=False),
    "agents on their own, rows": lambda: MultiAgentEnv(root_done=False, batch_size=[3]),
    "agents, transformed": lambda: everything(MultiAgentEnv(batch_size=[2])),
    "agents on their own, transformed": lambda: everything(MultiAgentEnv(root_done=False, batch_size=[2])),
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
    "serial, of rows, transformed": lambda: everything(SerialEnv(2, lambda: CountingEnv(batch_size=[2]))),
    "serial, one of three": lambda: SerialEnv(3, lambda: GymEnv("CartPole-v1"))[1],
    "parallel": lambda: ParallelEnv(2, [lambda: GymEnv("CartPole-v1")] * 4),
    "parallel, transformed inside": lambda: ParallelEnv(2, lambda: everything(CountingEnv())),
    "pool": lambda: AsyncEnvPool([CountingEnv] * 2),
    "cartpole": lambda: CartPoleEnv([2]),
    "pendulum": lambda: everything(PendulumEnv()),
    "tictactoe": lambda: TicTacToeEnv(),
    "serial, agents": lambda: SerialEnv(2, MultiAgentEnv),
}
# What starts processes or simulates physics costs more, and is built once: a check resets and seeds.
COSTLY = {
    "atari": ("ale_py", lambda: GymEnv("ALE/Pong-v5", max_num_frames_per_episode=24)),
    "box2d": ("Box2D", lambda: GymEnv("LunarLander-v3", max_episode_steps=5)),
    "toy text": ("", lambda: GymEnv("FrozenLake-v1", max_episode_steps=5)),
    "minigrid": ("minigrid", lambda: GymEnv("MiniGrid-Empty-5x5-v0", max_episode_steps=5)),
    "dm_control": ("dm_control", lambda: DMControlEnv("cartpole", "swingup", time_limit=0.05)),
    "pettingzoo, at once": ("pettingzoo", lambda: PettingZooEnv("rps_v2", parallel=True, max_cycles=4)),
    "pettingzoo, in turns": ("pettingzoo", lambda: PettingZooEnv("tictactoe_v3", parallel=False, use_mask=True)),
    "vmas": ("vmas", lambda: VmasEnv("simple", num_envs=2, max_steps=4)),
    "vmas, agents that differ": (
        "vmas",
        lambda: VmasEnv("simple_adversary", num_envs=2, max_steps=4, group_map=MarlGroupMapType.ALL_IN_ONE_GROUP),
    ),
    "envpool": ("envpool", lambda: MultiThreadedEnv(2, "CartPole-v1", create_env_kwargs=SHORT)),
    "open_spiel": ("pyspiel", lambda: OpenSpielEnv("kuhn_poker")),
    "brax": ("brax", lambda: BraxEnv("fast", batch_size=[2], episode_length=4)),
    "jumanji": ("jumanji", lambda: JumanjiEnv("Snake-v1", batch_size=[2], time_limit=4)),
}
SHORT = {"max_episode_steps": 4}
JAX_SAYS = "ignore:JAXopt is no longer maintained:DeprecationWarning"
SWIG_SAYS = "ignore:builtin type .* has no __module__ attribute:DeprecationWarning"


def costly(name):
    """Return a case that is skipped where its library is absent; its environment is made once."""
    module, make = COSTLY[name]
    absent = module and not is_installed(module)
    skip = pytest.mark.skipif(bool(absent), reason=f"{module} is not installed")
    return pytest.param(functools.cache(make), id=name, marks=skip)


CASES = [pytest.param(make, id=name) for name, make in ENVS.items()]
CASES += [costly(name) for name in COSTLY]


@pytest.mark.filterwarnings(JAX_SAYS, SWIG_SAYS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("make", CASES)
def test_contract(make, check):
    check(make)


@pytest.mark.filterwarnings(JAX_SAYS, SWIG_SAYS)
@pytest.mark.parametrize("make", CASES)
def test_episodes_end_on_the_way(make):
    """Otherwise the checks test little."""
    batch = make_seeded(make).rollout(40, break_when_any_done=False)
    assert any(bool(batch["next"].get(key).any()) for key in make().done_keys)


def test_every_public_environment_is_listed():
    """A wrapper of what is already built is a base of the class that builds."""
    bases = {EnvBase, GymLikeEnv, ModelBasedEnvBase, TransformedEnv, torchrl.envs.AutoResetEnv, torchrl.envs.DreamerEnv}
    classes = [*vars(torchrl.envs).values(), *vars(mocks).values()]
    public = {c for c in classes if isinstance(c, type) and issubclass(c, EnvBase)} - bases
    public -= {mocks.LyingEnv, mocks.FlagsEnv}
    public -= {torchrl.envs.ProcessorAsyncEnvPool, torchrl.envs.ThreadingAsyncEnvPool}
    makes = [*ENVS.values(), *(make for _, make in COSTLY.values())]
    named = [globals().get(name) for make in makes for name in make.__code__.co_names]
    listed = {base for kind in named if isinstance(kind, type) for base in kind.__mro__}
    assert public <= listed, public - listed
