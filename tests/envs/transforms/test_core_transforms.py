"""Base, Compose, TransformedEnv, and the transforms that nearly every environment wears."""

import copy

import pytest
import torch
from tensordict import TensorDict

from torchrl._core.errors import MissingKeyError
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import (
    Compose,
    DoubleToFloat,
    DTypeCastTransform,
    GymEnv,
    InitTracker,
    ObservationNorm,
    RewardScaling,
    RewardSum,
    StepCounter,
    TensorDictPrimer,
    Transform,
    TransformedEnv,
    check_env_specs,
)
from torchrl.testing.env import LAWS, assert_same
from torchrl.testing.mocks import (
    CountingEnv,
    EntrywiseCountingEnv,
    MultiAgentEnv,
    NestedEnv,
    StatelessEnv,
)

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
    "norm, way in": lambda: ObservationNorm(
        1.0, 2.0, in_keys=[], in_keys_inv=["action"], out_keys_inv=["wide"]
    ),
    "cast": lambda: DTypeCastTransform(torch.float32, torch.float64),
    "cast one": lambda: DTypeCastTransform(
        torch.float32, torch.float64, in_keys=["reward"], out_keys=["exact"]
    ),
    "cast, way in": lambda: DTypeCastTransform(
        torch.float32, torch.float64, in_keys=[], in_keys_inv=["action"]
    ),
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
    "single": lambda: EntrywiseCountingEnv(),
    "rows": lambda: EntrywiseCountingEnv(batch_size=[3], cut=5),
    "free": lambda: StatelessEnv(),
}
CLASSES = (
    StepCounter, InitTracker, RewardScaling, RewardSum, ObservationNorm,
    DTypeCastTransform, DoubleToFloat, TensorDictPrimer, Compose,
)  # fmt: skip


def test_the_list_is_complete():
    assert {type(make()) for make in TRANSFORMS.values()} == set(CLASSES)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("make", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("base", ["single", "rows"])
def test_environments_seen_through_it_obey_the_laws(base, make, law):
    law(lambda: TransformedEnv(BASES[base](), make()))


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


# --- StepCounter ---------------------------------------------------------------------------------


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
def test_a_lone_record_cannot_be_counted(transform):
    with pytest.raises(RuntimeError, match=r"cannot be applied to a lone record; append it"):
        transform(TensorDict(done=torch.zeros(1, dtype=torch.bool)))


# --- InitTracker ---------------------------------------------------------------------------------


def test_first_steps_are_marked():
    env = TransformedEnv(CountingEnv(2, batch_size=[2]), InitTracker())
    batch = env.rollout(6, break_when_any_done=False)
    assert batch["is_init"].squeeze(-1).long().tolist() == [[1, 0, 1, 0, 1, 0], [1, 0, 0, 1, 0, 0]]
    assert not batch["next", "is_init"].any()
    agents = TransformedEnv(MultiAgentEnv(root_done=False), InitTracker())
    assert agents.reset()["agents", "is_init"].shape == (3, 1)


# --- rewards -------------------------------------------------------------------------------------


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


# --- ObservationNorm -----------------------------------------------------------------------------


def test_observations_are_shifted_and_scaled():
    td = TensorDict(observation=torch.tensor([1.0, 2.0]))
    norm = ObservationNorm(loc=3.0, scale=2.0, in_keys=["observation"])
    assert norm(td.copy())["observation"].tolist() == [5.0, 7.0]
    norm = ObservationNorm(3.0, 2.0, in_keys=["observation"], standard_normal=True)
    assert norm(td.copy())["observation"].tolist() == [-1.0, -0.5]
    assert td["observation"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("standard_normal", [False, True])
def test_the_way_in_undoes_the_way_out(standard_normal):
    norm = ObservationNorm(3.0, 2.0, ["x"], ["y"], ["x"], ["y"], standard_normal=standard_normal)
    td = TensorDict(x=torch.randn(3))
    out = norm(td.copy())
    back = norm.inv(out.exclude("x"))
    torch.testing.assert_close(back["x"], td["x"])


def test_without_keys_it_takes_what_there_is():
    env = TransformedEnv(CountingEnv(), ObservationNorm(loc=0.5, scale=1.0))
    assert env.reset()["observation"][0] == 0.5


def test_bounds_are_mapped():
    env = CountingEnv()
    env.observation_spec = Composite(observation=Bounded(-1, 2, (2,)))
    seen = TransformedEnv(env, ObservationNorm(1.0, -2.0, in_keys=["observation"]))
    spec = seen.observation_spec["observation"]
    assert spec.low.tolist() == [-3, -3]
    assert spec.high.tolist() == [3, 3]


@pytest.mark.parametrize("standard_normal", [False, True])
def test_statistics_are_measured(standard_normal):
    env = TransformedEnv(GymEnv("Pendulum-v1"), ObservationNorm(
        in_keys=["observation"], standard_normal=standard_normal
    ))  # fmt: skip
    norm = env.transform
    assert not norm.initialized
    with pytest.raises(RuntimeError, match=r"before its loc and scale are known.*init_stats"):
        env.reset()
    env.set_seed(0)
    norm.init_stats(300)
    assert norm.initialized
    assert norm.loc.shape == norm.scale.shape == (3,)
    base = GymEnv("Pendulum-v1")
    base.set_seed(0)
    torch.manual_seed(0)
    env.set_seed(0)
    data = env.rollout(300, break_when_any_done=False)["next", "observation"]
    assert data.mean(0).abs().max() < 0.7
    assert (data.std(0) - 1).abs().max() < 0.7
    with pytest.raises(RuntimeError, match="loc and scale are known already"):
        norm.init_stats(3)
    check_env_specs(env)


def test_statistics_are_those_of_what_was_seen():
    torch.manual_seed(0)
    env = CountingEnv(99)
    env.set_seed(1)
    data = env.rollout(20)["next", "observation"]
    for options, dims in (({}, [0]), ({"reduce_dim": [0, 1]}, [0, 1])):
        env = CountingEnv(99)
        env.set_seed(1)
        torch.manual_seed(0)
        norm = ObservationNorm(in_keys=["observation"], standard_normal=True)
        TransformedEnv(env, norm).transform.init_stats(20, **options)
        torch.testing.assert_close(norm.loc, data.mean(dims))
        torch.testing.assert_close(norm.scale, data.std(dims))


def test_rows_and_time_can_be_averaged_over():
    norm = ObservationNorm(in_keys=["observation"])
    env = TransformedEnv(CountingEnv(9, batch_size=[2]), norm)
    norm.init_stats(6, reduce_dim=(0, 1), cat_dim=1, keep_dims=(1,))
    assert norm.loc.shape == (1, 2)
    assert env.reset()["observation"].shape == (2, 2)


def test_statistics_in_the_wrong_order_or_place():
    first, second = (ObservationNorm(in_keys=["observation"]) for _ in range(2))
    with pytest.raises(RuntimeError, match=r"init_stats\(\) needs the environment"):
        first.init_stats(3)
    TransformedEnv(CountingEnv(), Compose(first, second))
    with pytest.raises(RuntimeError, match=r"an earlier ObservationNorm .* is not initialised"):
        second.init_stats(3)
    first.init_stats(3)
    second.init_stats(3)
    several = ObservationNorm(in_keys=["observation", "step_count"])
    TransformedEnv(CountingEnv(), Compose(StepCounter(), several))
    with pytest.raises(ValueError, match=r"needs a key, one of \['observation', 'step_count'\]"):
        several.init_stats(3)


def test_measured_statistics_load_where_none_were_measured():
    norm = ObservationNorm(in_keys=["observation"])
    TransformedEnv(CountingEnv(), norm)
    norm.init_stats(5)
    other = ObservationNorm(in_keys=["observation"])
    env = TransformedEnv(CountingEnv(), other)
    env.load_state_dict(norm_env_state(norm))
    assert other.initialized
    assert torch.equal(other.loc, norm.loc)
    env.reset()


def norm_env_state(norm):
    return {f"transform.{name}": value for name, value in norm.state_dict().items()}


def test_whole_numbers_are_normalised_too():
    env = TransformedEnv(
        CountingEnv(), Compose(StepCounter(), ObservationNorm(1.0, 0.5, in_keys=["step_count"]))
    )
    assert env.observation_spec["step_count"].dtype == torch.float32


# --- dtypes --------------------------------------------------------------------------------------


class Double(CountingEnv):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.observation_spec = Composite(
            observation=Unbounded((2,), dtype=torch.float64), plain=Unbounded((1,))
        )
        self.action_spec = Bounded(-1, 1, (1,), dtype=torch.float64)

    def _step(self, tensordict):
        assert tensordict["action"].dtype == torch.float64
        return super()._step(tensordict.copy().set("action", tensordict["action"].float()))

    def _record(self, entries, like):
        entries["observation"] = entries["observation"].double()
        return super()._record({**entries, "plain": torch.zeros(1)}, like)


def test_doubles_become_floats_and_floats_stay():
    env = TransformedEnv(Double(), DoubleToFloat())
    batch = env.rollout(3)
    assert batch["observation"].dtype == batch["next", "observation"].dtype == torch.float32
    assert batch["action"].dtype == env.action_spec.dtype == torch.float32
    check_env_specs(env)
    named = TransformedEnv(Double(), DoubleToFloat(in_keys=["observation", "plain"]))
    assert named.reset()["observation"].dtype == named.reset()["plain"].dtype == torch.float32
    assert named.action_spec.dtype == torch.float64
    already = TransformedEnv(CountingEnv(), DoubleToFloat(in_keys=["observation"]))
    assert already.reset()["observation"].dtype == torch.float32


def test_a_lone_record_is_cast_where_its_dtype_is():
    td = TensorDict(a=torch.zeros(2, dtype=torch.float64), b=torch.zeros(2, dtype=torch.int64))
    out = DoubleToFloat()(td)
    assert out["a"].dtype == torch.float32
    assert out["b"].dtype == torch.int64


# --- primers -------------------------------------------------------------------------------------


def test_entries_are_written_at_resets_alone():
    env = TransformedEnv(CountingEnv(2, batch_size=[2]), TensorDictPrimer(h=Unbounded((3,))))

    def policy(td):
        td["next", "h"] = td["h"] + 1
        return td.set("action", torch.zeros(2, 1))

    batch = env.rollout(6, policy, break_when_any_done=False)
    assert batch["h"][..., 0].tolist() == [[0, 1, 0, 1, 0, 1], [0, 1, 2, 0, 1, 2]]
    assert batch["next", "h"][..., 0].tolist() == [[1, 2, 1, 2, 1, 2], [1, 2, 3, 1, 2, 3]]
    assert env.observation_spec["h"].shape == (2, 3)


def test_what_is_not_updated_is_carried():
    env = TransformedEnv(CountingEnv(9), TensorDictPrimer(h=Unbounded((2,)), random=True))
    batch = env.rollout(4)
    assert (batch["h"] == batch["h"][0]).all()
    assert (batch["next", "h"] == batch["h"][0]).all()
    assert batch["h"].any()


@pytest.mark.parametrize(
    ("default", "single", "expected"),
    [
        (None, False, (0.0, 0.0)),
        (2.0, False, (2.0, 2.0)),
        ({"a": 1.0}, False, (1.0, 0.0)),
        ({"a": lambda: torch.full((2,), 3.0), ("n", "b"): 4.0}, False, (3.0, 4.0)),
        (lambda: torch.full((), 5.0), False, (5.0, 5.0)),
        (lambda: {"a": torch.ones(2), ("n", "b"): torch.zeros(2)}, True, (1.0, 0.0)),
    ],
)
def test_default_values(default, single, expected):
    specs = {"a": Unbounded((2,)), ("n", "b"): Unbounded((2,))}
    primer = TensorDictPrimer(specs, default_value=default, single_default_value=single)
    for batch in ([], [3]):
        root = TransformedEnv(CountingEnv(batch_size=batch), primer.clone()).reset()
        assert root["a"].shape == (*batch, 2)
        assert (root["a"] == expected[0]).all()
        assert (root["n", "b"] == expected[1]).all()


def test_primers_and_batch_sizes():
    env = lambda: CountingEnv(batch_size=[3])
    whole = TensorDictPrimer(h=Unbounded((3, 2)))
    assert TransformedEnv(env(), whole).reset()["h"].shape == (3, 2)
    with pytest.raises(ValueError, match=r"'h' must begin with the batch .*\(3,\), found \(2,\)"):
        TransformedEnv(env(), TensorDictPrimer(h=Unbounded((2,)), expand_specs=False))
    same = TensorDictPrimer(h=Unbounded((3,)), expand_specs=True)
    assert TransformedEnv(env(), same).reset()["h"].shape == (3, 3)
    with pytest.raises(ValueError, match="either random=True or a default_value"):
        TensorDictPrimer(h=Unbounded((2,)), random=True, default_value=1.0)


def test_a_primer_fills_what_a_record_lacks():
    primer = TensorDictPrimer(h=Unbounded((2,)), default_value=1.0)
    td = primer(TensorDict(batch_size=[5]))
    assert td["h"].shape == (5, 2)
    assert (primer(td.set("h", torch.zeros(5, 2)))["h"] == 0).all()


# --- the base, compositions, environments --------------------------------------------------------


class Shout(Transform):
    """Written as users write transforms: hooks for records and groups of specs."""

    def _call(self, tensordict):
        return tensordict.set("loud", tensordict["observation"] * 10)

    def _reset(self, tensordict, tensordict_reset):
        return self._call(tensordict_reset)

    def _inv_call(self, tensordict):
        return tensordict.set("action", tensordict["action"] / 2)

    def transform_observation_spec(self, observation_spec):
        observation_spec["loud"] = observation_spec["observation"].clone()
        return observation_spec


def test_a_transform_of_records():
    env = TransformedEnv(CountingEnv(9), Shout())
    check_env_specs(env)
    batch = env.rollout(3, actions=torch.ones(3, 1))
    assert torch.equal(batch["loud"], batch["observation"] * 10)
    assert torch.equal(batch["action"], torch.ones(3, 1))
    assert batch["next", "observation"][:, 1].diff().tolist() == pytest.approx([0.5, 0.5])


def test_a_mistyped_key_is_named():
    norm = ObservationNorm(0.0, 1.0, in_keys=["obervation"])
    with pytest.raises(MissingKeyError, match=r"'obervation' is read but absent.*'observation'\?"):
        TransformedEnv(CountingEnv(), norm)
    env = TransformedEnv(CountingEnv())
    with pytest.raises(MissingKeyError, match="rewart"):
        env.append_transform(RewardScaling(0.0, 1.0, in_keys=["rewart"]))
    assert len(env.transform) == 0
    env.append_transform(StepCounter()).append_transform(InitTracker())
    for index in (0, 1, -1, -2):
        with pytest.raises(MissingKeyError, match="rewart"):
            env.insert_transform(index, RewardScaling(0.0, 1.0, in_keys=["rewart"]))
        assert [type(t) for t in env.transform] == [StepCounter, InitTracker]
    env.rollout(2)


def test_an_absent_entry_can_be_tolerated():
    scaling = RewardScaling(0.0, 1.0, in_keys=["bonus"])
    with pytest.raises(MissingKeyError, match="'bonus' is read but absent"):
        scaling(TensorDict())
    scaling.set_missing_tolerance(True)
    scaling(TensorDict())
    TransformedEnv(CountingEnv(), scaling).rollout(2)


def test_as_many_keys_out_as_in():
    with pytest.raises(ValueError, match=r"as many out_keys as keys read, found \['a', 'b'\]"):
        RewardScaling(0.0, 1.0, in_keys=["reward"], out_keys=["a", "b"])


def test_order():
    env = TransformedEnv(CountingEnv(9), Compose(RewardScaling(0.0, 2.0), RewardScaling(1.0, 1.0)))
    plain = CountingEnv(9)
    actions = torch.zeros(2, 1)
    env.set_seed(0), plain.set_seed(0)
    expected = plain.rollout(2, actions=actions)["next", "reward"] * 2 + 1
    assert torch.equal(env.rollout(2, actions=actions)["next", "reward"], expected)
    env.insert_transform(0, RewardScaling(3.0, 1.0))
    env.set_seed(0)
    assert torch.equal(env.rollout(2, actions=actions)["next", "reward"], expected + 6)


def test_compositions_can_be_edited():
    first, second = StepCounter(), InitTracker()
    chain = Compose(first)
    assert chain.append(second) is chain
    assert [*chain] == [first, second]
    assert chain[0] is first
    assert len(chain) == 2
    part = chain[:1]
    assert isinstance(part, Compose)
    assert part[0] is not first
    assert chain.pop() is second
    assert second.container is None
    with pytest.raises(IndexError, match="expected an index between -1 and 1, found 7"):
        chain.insert(7, second)
    with pytest.raises(TypeError, match="expected transforms or functions"):
        chain.append(3)
    env = TransformedEnv(CountingEnv(), chain)
    assert "is_init" not in env.observation_keys
    chain.append(second)
    assert "is_init" in env.observation_keys


def test_a_transform_has_one_place():
    counter = StepCounter()
    env = TransformedEnv(CountingEnv(), counter)
    with pytest.raises(ValueError, match=r"belongs to another environment .*clone\(\)"):
        TransformedEnv(CountingEnv(), counter)
    TransformedEnv(CountingEnv(), counter.clone())
    assert counter.container is env
    assert copy.deepcopy(env).transform is not counter


def test_the_parent_is_what_stands_before():
    env = TransformedEnv(CountingEnv(), Compose(StepCounter(), InitTracker(), RewardSum()))
    parent = env.transform[1].parent
    assert isinstance(parent, TransformedEnv)
    assert [type(t) for t in parent.transform] == [StepCounter]
    assert set(parent.reset().keys()) == {"observation", "step_count", "done", "terminated"}
    assert env.transform[0].parent.reset().keys() == CountingEnv().reset().keys()
    assert StepCounter().parent is None
    env.rollout(2)  # the parent took nothing away


def test_transformed_environments_show_what_is_inside():
    env = TransformedEnv(CountingEnv(4, batch_size=[2], device="cpu"), StepCounter())
    assert env.horizons.tolist() == [[4], [5]]
    assert env.batch_size == (2,)
    assert env.device == torch.device("cpu")
    with pytest.raises(AttributeError, match="neither TransformedEnv nor CountingEnv has 'foo'"):
        assert env.foo
    with pytest.raises(AttributeError, match="assign them to base_env"):
        env.action_spec = Unbounded((2, 1))
    with pytest.raises(TypeError, match=r"expected an EnvBase, found int.*GymWrapper"):
        TransformedEnv(3)
    assert TransformedEnv(env=CountingEnv()).base_env.is_closed is False
    env.close()
    assert env.base_env.is_closed
    assert TransformedEnv(CountingEnv(), device="cpu").base_env.device == torch.device("cpu")


def test_transforms_follow_train_and_eval():
    env = TransformedEnv(CountingEnv(), StepCounter())
    assert not env.eval().transform.training
    assert env.train().transform.training


def test_nested_names():
    env = TransformedEnv(
        NestedEnv(batch_size=[2]), ObservationNorm(1.0, 2.0, in_keys=[("body", "pose")])
    )
    check_env_specs(env)
    assert (env.reset()["body", "pose"][:, 0] == 1).all()


def test_a_state_can_be_set_through_transforms():
    env = TransformedEnv(StatelessEnv(), StepCounter())
    root = env.reset(TensorDict(position=torch.full((1,), 0.25)), set_state=True)
    assert root["position"] == 0.25
    assert root["step_count"] == 0
