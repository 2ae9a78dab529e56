"""Common transforms: contract checks, counters, sums of rewards."""

import pytest
import torch
from tensordict import TensorDict

from torchrl._core.errors import SpecError
from torchrl.data import Bounded, Unbounded
from torchrl.envs import (
    Compose,
    DoubleToFloat,
    DTypeCastTransform,
    InitTracker,
    ObservationNorm,
    RewardScaling,
    RewardSum,
    StepCounter,
    TensorDictPrimer,
    TransformedEnv,
    check_env_specs,
)
from torchrl.testing.env import CHECKS, assert_same
from torchrl.testing.mocks import CountingEnv, FlatCountingEnv, MultiAgentEnv, StatelessEnv
from torchrl.testing.transform import World

TRANSFORMS = {
    "counter": lambda: StepCounter(),
    "limit": lambda: StepCounter(max_steps=4, step_count_key="n"),
    "limit, quiet": lambda: StepCounter(2, truncated_key="cut", update_done=False),
    "init": lambda: InitTracker(init_key="first"),
    "scaling": lambda: RewardScaling(1.0, 2.0),
    "scaling, elsewhere": lambda: RewardScaling(
        torch.ones(1), 2.0, in_keys=["reward"], out_keys=["scaled"], standard_normal=True
    ),
    "sum": lambda: RewardSum(),
    "sum among rewards": lambda: RewardSum(out_keys=["total"], reward_spec=True),
    "norm": lambda: ObservationNorm(1.0, 2.0, in_keys=["observation"]),
    "norm, elsewhere": lambda: ObservationNorm(
        torch.zeros(2), torch.ones(2), in_keys=["observation"], out_keys=["scaled"]
    ),
    "norm, way in": lambda: ObservationNorm(1.0, 2.0, in_keys=[], in_keys_inv=["action"], out_keys_inv=["wide"]),
    "cast": lambda: DTypeCastTransform(torch.float32, torch.float64),
    "cast one": lambda: DTypeCastTransform(torch.float32, torch.float64, in_keys=["reward"], out_keys=["exact"]),
    "cast, way in": lambda: DTypeCastTransform(torch.float32, torch.float64, in_keys=[], in_keys_inv=["action"]),
    "double": lambda: DoubleToFloat(),
    "primer": lambda: TensorDictPrimer(hidden=Unbounded((2,))),
    "primer, constant": lambda: TensorDictPrimer(
        {"h": Unbounded((2,)), ("deep", "c"): Unbounded((1,))}, default_value=2.0
    ),
    "primer, random": lambda: TensorDictPrimer(h=Bounded(0, 1, (2,)), random=True),
    "two": lambda: Compose(RewardSum(), RewardScaling(0.0, 0.5)),
    "function": lambda: Compose(lambda td: td.set("observation", td["observation"] + 1)),
}
BASES = {
    "single": lambda: FlatCountingEnv(),
    "rows": lambda: FlatCountingEnv(batch_size=[3], cut=5),
    "free": lambda: StatelessEnv(),
}
CLASSES = (
    StepCounter, InitTracker, RewardScaling, RewardSum, ObservationNorm,
    DTypeCastTransform, DoubleToFloat, TensorDictPrimer, Compose,
)  # fmt: skip


def test_the_list_is_complete():
    assert {type(make()) for make in TRANSFORMS.values()} == set(CLASSES)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("make", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("base", ["single", "rows"])
def test_the_transformed_environment_passes_the_contract_checks(base, make, check):
    check(lambda: TransformedEnv(BASES[base](), make()))


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("base", BASES)
def test_alone_is_as_in_a_compose(base, name):
    if base == "free" and ("norm" in name or name == "function"):
        return  # there is no observation

    def rollout(transform):
        env = TransformedEnv(BASES[base](), transform)
        env.set_seed(0)
        torch.manual_seed(0)
        start = TensorDict(batch_size=[2]) if base == "free" else None
        return env.rollout(8, tensordict=start, break_when_any_done=False)

    make = TRANSFORMS[name]
    alone = rollout(make())
    assert alone.shape[-1] == 8
    assert_same(rollout(Compose(make())), alone)
    assert_same(rollout(Compose(Compose(make()))), alone)
    assert_same(rollout(make().clone()), alone)


@pytest.mark.parametrize("make", TRANSFORMS.values(), ids=TRANSFORMS)
def test_its_state_comes_back(make):
    one, other = make(), make()
    for value in one.state_dict().values():
        value += 1
    other.load_state_dict(one.state_dict())
    assert other.state_dict().keys() == one.state_dict().keys()
    for key, value in one.state_dict().items():
        assert torch.equal(other.state_dict()[key], value)


def test_counts_start_at_zero_with_each_episode():
    env = TransformedEnv(CountingEnv(2, batch_size=[2]), StepCounter())
    batch = env.rollout(6, break_when_any_done=False)
    assert batch["step_count"].squeeze(-1).tolist() == [[0, 1, 0, 1, 0, 1], [0, 1, 2, 0, 1, 2]]
    assert torch.equal(batch["next", "step_count"], batch["step_count"] + 1)
    assert batch["step_count"].dtype == torch.int64
    assert "truncated" not in batch["next"]


def test_a_count_truncates_and_leaves_terminated_as_it_is():
    env = TransformedEnv(CountingEnv(3, cut=99, batch_size=[2]), StepCounter(max_steps=3))
    last = env.rollout(9, break_when_any_done=False)[:, 2]["next"]
    assert last["truncated"].all()
    assert last["terminated"].flatten().tolist() == [True, False]
    assert last["done"].all()
    assert env.full_observation_spec["step_count"].space.high.max() == 3


def test_an_earlier_truncation_stays():
    env = TransformedEnv(CountingEnv(9, cut=2), StepCounter(max_steps=5))
    assert env.rollout(9)["next", "truncated"].flatten().tolist() == [False, True]


def test_a_quiet_count_ends_no_episode():
    env = TransformedEnv(CountingEnv(4), StepCounter(2, truncated_key="cut", update_done=False))
    batch = env.rollout(9)
    assert batch["next", "cut"].flatten().tolist() == [False, True, True, True]
    assert batch["next", "done"].flatten().tolist() == [False, False, False, True]


class Named(World):
    """A world with one more observation."""

    def __init__(self, name, dtype=torch.float32):
        super().__init__([2])
        self.added = torch.full((2, 1), 7).to(dtype)
        spec = self.observation_spec.clone()
        spec[name] = Unbounded((2, 1), dtype=dtype)
        self.observation_spec, self.name = spec, name

    def _observed(self):
        return super()._observed() | {self.name: self.added.clone()}


@pytest.mark.parametrize("env", [Named("step_count"), Named("step_count", torch.bool), Named(("step_count", "x"))])
def test_what_counts_no_steps_is_not_overwritten(env):
    with pytest.raises(SpecError, match=r"'step_count' is another observation .*step_count_key="):
        TransformedEnv(env, StepCounter())
    batch = TransformedEnv(env, StepCounter(step_count_key="n")).rollout(3)
    assert torch.equal(batch[env.name], env.added.unsqueeze(1).expand(2, 3, 1))


def test_a_count_goes_on_where_there_is_one():
    env = TransformedEnv(CountingEnv(4), Compose(StepCounter(), StepCounter(3)))
    assert env.rollout(9)["step_count"].squeeze(-1).tolist() == [0, 1, 2]


def test_every_level_of_flags_is_counted():
    env = TransformedEnv(MultiAgentEnv(num_agents=2), StepCounter(max_steps=2))
    batch = env.rollout(9)
    assert batch.shape == (2,)
    assert batch["agents", "step_count"].shape == (2, 2, 1)
    assert batch["next", "agents", "truncated"][-1].all()
    assert batch["next", "truncated"][-1].all()


def test_a_count_has_steps():
    with pytest.raises(ValueError, match="max_steps must be at least 1, found 0"):
        StepCounter(max_steps=0)


@pytest.mark.parametrize("transform", [StepCounter(), InitTracker()])
def test_a_single_record_cannot_be_counted(transform):
    with pytest.raises(RuntimeError, match=r"cannot be applied to a single record. Append it"):
        transform(TensorDict(done=torch.zeros(1, dtype=torch.bool)))


def test_first_steps_are_marked():
    env = TransformedEnv(CountingEnv(2, batch_size=[2]), InitTracker())
    batch = env.rollout(6, break_when_any_done=False)
    assert batch["is_init"].squeeze(-1).long().tolist() == [[1, 0, 1, 0, 1, 0], [1, 0, 0, 1, 0, 0]]
    assert not batch["next", "is_init"].any()
    agents = TransformedEnv(MultiAgentEnv(root_done=False), InitTracker())
    assert agents.reset()["agents", "is_init"].shape == (3, 1)


def test_rewards_are_scaled():
    reward = torch.tensor([1.0, 2.0])
    td = TensorDict(reward=reward)
    assert RewardScaling(3.0, 2.0)(td.copy())["reward"].tolist() == [5.0, 7.0]
    assert RewardScaling(3.0, 2.0, standard_normal=True)(td.copy())["reward"].tolist() == [-1, -0.5]
    env = CountingEnv()
    env.reward_spec = Bounded(0, 3, (1,))
    seen = TransformedEnv(env, RewardScaling(1.0, -2.0))
    assert seen.reward_spec == Bounded(-5, 1, (1,), device=seen.reward_spec.device)


@pytest.mark.parametrize("reward_spec", [False, True])
def test_rewards_are_summed_over_episodes(reward_spec):
    env = TransformedEnv(CountingEnv(2, batch_size=[2]), RewardSum(reward_spec=reward_spec))
    batch = env.rollout(7, break_when_any_done=False)
    rewards, dones = batch["next", "reward"].squeeze(-1), batch["next", "done"].squeeze(-1)
    for b in range(2):
        total = 0.0
        for t in range(7):
            assert batch["episode_reward"][b, t].item() == pytest.approx(total)
            total += rewards[b, t].item()
            assert batch["next", "episode_reward"][b, t].item() == pytest.approx(total)
            total = 0.0 if dones[b, t] else total
    names = env.reward_keys if reward_spec else env.observation_keys
    assert "episode_reward" in names
    check_env_specs(env)
    # Data that was collected without it is summed alike.
    offline = RewardSum()(batch.exclude(("next", "episode_reward")))
    torch.testing.assert_close(offline["next", "episode_reward"], batch["next", "episode_reward"])


def test_rewards_of_agents_are_summed():
    env = TransformedEnv(MultiAgentEnv(batch_size=[2]), RewardSum())
    batch = env.rollout(7, break_when_any_done=False)
    expected = batch["next", "agents", "episode_reward"]
    offline = RewardSum([("agents", "reward")])(batch.clone())
    assert torch.equal(offline["next", "agents", "episode_reward"], expected)
    assert env.observation_keys.count(("agents", "episode_reward")) == 1
