"""Rollouts: every option, two loops that agree, and policies of every form."""

import pytest
import torch
from tensordict import LazyStackedTensorDict, NonTensorData, TensorDict, TensorDictBase
from tensordict.nn import NormalParamExtractor, TensorDictModule, TensorDictSequential, set_interaction_type
from torch import nn

from torchrl._core.errors import MissingKeyError, ShapeError
from torchrl.data import Composite, Unbounded
from torchrl.envs import (
    Compose,
    DoubleToFloat,
    GymEnv,
    InitTracker,
    ObservationNorm,
    ParallelEnv,
    RewardScaling,
    RewardSum,
    SerialEnv,
    StepCounter,
    TensorDictPrimer,
    TransformedEnv,
    step_mdp,
)
from torchrl.envs.stepping.rollout import PreparedPolicy, Stepper
from torchrl.modules import ProbabilisticActor
from torchrl.testing.env import assert_same, step_by_step
from torchrl.testing.mocks import CountingEnv, FlatCountingEnv, LyingEnv, MultiAgentEnv, NestedEnv, StatelessEnv


def counted(*, max_steps, rows=2):
    return TransformedEnv(CountingEnv(99, batch_size=[rows]), StepCounter(max_steps=max_steps))


# --- the two loops agree -------------------------------------------------------------------------


class Recurrent(nn.Module):
    """Reads a hidden state and writes its successor."""

    def __init__(self, width):
        super().__init__()
        self.inner, self.out = nn.Linear(width + 2, 2), nn.Linear(2, 1)

    def forward(self, observation, hidden):
        hidden = torch.tanh(self.inner(torch.cat([observation, hidden], -1)))
        return self.out(hidden).tanh(), hidden


def recurrent(width=2):
    keys = {"in_keys": ["observation", "hidden"], "out_keys": ["action", ("next", "hidden")]}
    return TensorDictModule(Recurrent(width), **keys)


def probabilistic():
    net = nn.Sequential(nn.Linear(2, 2), NormalParamExtractor())
    return ProbabilisticActor(
        TensorDictModule(net, in_keys=["observation"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=torch.distributions.Normal,
        return_log_prob=True,
    )


def layered():
    return TensorDictSequential(
        TensorDictModule(nn.Linear(2, 3), in_keys=["observation"], out_keys=["features"]),
        TensorDictModule(nn.Linear(3, 1), in_keys=["features"], out_keys=["action"]),
    )


POLICIES = {
    "random": lambda: None,
    "layered": layered,
    "recurrent": recurrent,
    "probabilistic": probabilistic,
    "function": lambda: lambda td: td.set("action", td["observation"][..., :1] * 0.1),
}
TRANSFORMS = {
    "none": lambda: Compose(),
    "counter": lambda: StepCounter(max_steps=4),
    "all": lambda: Compose(
        RewardScaling(1.0, 2.0),
        RewardSum(),
        StepCounter(max_steps=6),
        InitTracker(),
        ObservationNorm(0.5, 2.0, in_keys=["observation"]),
        DoubleToFloat(),
    ),
}
BASES = {
    "single": lambda: FlatCountingEnv(),
    "rows": lambda: FlatCountingEnv(batch_size=[3]),
    "grid": lambda: FlatCountingEnv(batch_size=[2, 2], cut=5),
}


def hidden():
    return TensorDictPrimer(hidden=Unbounded((2,)))


@pytest.mark.parametrize("go_on", [False, True])
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_flat_records_tensordicts_and_a_loop_by_hand_agree(base, transform, policy, go_on):
    torch.manual_seed(1)
    act = policy()

    def run(how):
        env = TransformedEnv(TransformedEnv(base(), transform()), hidden())
        env.set_seed(0)
        torch.manual_seed(0)
        with set_interaction_type("random"), torch.no_grad():
            if how == "by hand":
                return step_by_step(env, 15, go_on=go_on, policy=act)
            keep = {"storing_device": "cpu"} if how == "tensordicts" else {}
            return env.rollout(15, act, break_when_any_done=not go_on, **keep)

    flat = run("flat")
    assert_same(run("tensordicts"), flat.to("cpu"))
    assert_same(run("by hand"), flat)
    assert flat["next", "done"].any()


@pytest.mark.parametrize("make", [GymEnv, None])
@pytest.mark.parametrize("policy", ["random", "layered", "recurrent", "probabilistic"])
def test_flat_records_are_used_where_all_support_them(make, policy, monkeypatch):
    used = []
    run = Stepper._run_flat
    monkeypatch.setattr(Stepper, "_run_flat", lambda *args: used.append(1) or run(*args))
    base = FlatCountingEnv() if make is None else make("Pendulum-v1")
    env = TransformedEnv(base, Compose(TRANSFORMS["all"](), hidden()))
    act = POLICIES[policy]()
    if make is not None and policy != "random":
        act = None
    env.rollout(3, act)
    assert used


def test_a_subclass_that_overrides_a_hook_gets_tensordicts():
    class Peculiar(FlatCountingEnv):
        def _step(self, tensordict):
            assert isinstance(tensordict, TensorDictBase)
            return super()._step(tensordict)

    class Doubled(RewardScaling):
        def _call(self, tensordict):
            assert isinstance(tensordict, TensorDictBase)
            return super()._call(tensordict)

    Peculiar().rollout(3)
    TransformedEnv(FlatCountingEnv(), Doubled(0.0, 2.0)).rollout(3)


@pytest.mark.parametrize("keep", [None, "cpu"])
def test_a_loop_goes_on_where_it_stopped(keep):
    def steps(*lengths):
        env = TransformedEnv(FlatCountingEnv(batch_size=[2]), RewardSum())
        env.set_seed(0)
        torch.manual_seed(0)
        stepper = Stepper(env, storing_device=keep)
        stepper.reset()
        return torch.cat([stepper.run(PreparedPolicy(env, None), n) for n in lengths], -1)

    assert_same(steps(2, 1, 7, 5), steps(15))


def test_a_loop_may_change_its_kind_of_record_on_the_way():
    def steps(switch):
        env = TransformedEnv(FlatCountingEnv(batch_size=[2]), RewardSum())
        env.set_seed(0)
        torch.manual_seed(0)
        stepper = Stepper(env)
        stepper.reset()
        policy, parts = PreparedPolicy(env, None), []
        for n in range(4):
            callback = (lambda env, td: None) if switch and n % 2 else None
            parts.append(stepper.run(policy, 4, callback=callback))
            assert isinstance(stepper.root_tensordict(), TensorDictBase)
        return torch.cat(parts, -1)

    assert_same(steps(True), steps(False))


def test_a_batch_holds_nothing_that_later_steps_change():
    env = FlatCountingEnv()
    stepper = Stepper(env)
    stepper.reset()
    policy = PreparedPolicy(env, None)
    first = stepper.run(policy, 1)
    before = first.clone()
    stepper.run(policy, 5)
    assert_same(first, before)


# --- when to stop --------------------------------------------------------------------------------


def test_documented_examples_of_stopping():
    assert counted(max_steps=5).rollout(12).shape == (2, 5)
    batch = counted(max_steps=5).rollout(12, break_when_any_done=False)
    assert batch.shape == (2, 12)
    assert batch["next", "done"][0].flatten().nonzero().flatten().tolist() == [4, 9]
    assert counted(max_steps=5).rollout(12, break_when_all_done=True).shape == (2, 5)


def test_rows_that_have_ended_stand_still_until_all_have():
    batch = CountingEnv(2, batch_size=[3]).rollout(9, break_when_all_done=True)
    assert batch.shape == (3, 4)
    assert batch["next", "observation"][..., 0].tolist() == [[1, 2, 2, 2], [1, 2, 3, 3], [1, 2, 3, 4]]
    assert batch["done"][0].flatten().tolist() == [False, False, True, True]
    assert batch["next", "done"][0].flatten().tolist() == [False, True, True, True]
    assert "_step" not in batch


def test_stopping_rules_exclude_each_other():
    with pytest.raises(ValueError, match="exclude each other"):
        CountingEnv().rollout(2, break_when_any_done=True, break_when_all_done=True)
    with pytest.raises(ValueError, match="max_steps must be at least 1, found 0"):
        CountingEnv().rollout(0)


@pytest.mark.parametrize("count", [None, 1e3])
def test_a_rollout_needs_a_whole_number_of_steps(count):
    with pytest.raises(TypeError, match=r"'max_steps' .*expected an integer, found (None|1000\.0)"):
        CountingEnv().rollout(max_steps=count)
    assert CountingEnv(9).rollout(torch.tensor(4)).shape == (4,)


def test_steps_are_at_most_max_steps():
    assert CountingEnv(9).rollout(4).shape == (4,)
    assert CountingEnv(3).rollout(4).shape == (3,)
    assert CountingEnv(3).rollout(7, break_when_any_done=False).shape == (7,)
    assert CountingEnv(3, batch_size=[2, 3]).rollout(2).names == [None, None, "time"]


def test_the_last_step_can_be_marked_as_truncated():
    batch = CountingEnv(cut=9, batch_size=[2]).rollout(2, set_truncated=True)
    for name in ("truncated", "done"):
        assert batch["next", name].squeeze(-1).tolist() == [[False, True]] * 2
    assert not batch["next", "terminated"].any()
    with pytest.raises(KeyError, match=r"'truncated' cannot be marked.*add_truncated_keys"):
        CountingEnv().rollout(2, set_truncated=True)


# --- where to begin ------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [CountingEnv, FlatCountingEnv])
def test_a_rollout_can_go_on_from_another(make):
    env = make(9)
    env.set_seed(0)
    actions = torch.rand(6, 1)
    first = env.rollout(2, actions=actions[:2])
    second = env.rollout(4, actions=actions[2:], auto_reset=False,
                         tensordict=step_mdp(first[..., -1]))  # fmt: skip
    whole = make(9)
    whole.set_seed(0)
    assert_same(torch.cat([first, second]), whole.rollout(6, actions=actions))


def test_rows_that_have_ended_begin_anew_when_a_rollout_goes_on():
    env = CountingEnv(2, batch_size=[2])
    first = env.rollout(9)
    second = env.rollout(1, auto_reset=False, tensordict=step_mdp(first[..., -1]))
    assert second["observation"][:, 0, 0].tolist() == [0, 2]


def test_going_on_needs_a_root():
    with pytest.raises(ValueError, match="auto_reset=False needs a tensordict"):
        CountingEnv().rollout(2, auto_reset=False)


def test_a_rollout_leaves_what_it_was_given_alone():
    env = CountingEnv()
    given = TensorDict(mine=torch.ones(2))
    batch = env.rollout(2, tensordict=given)
    assert set(given.keys()) == {"mine"}
    assert batch["mine"].shape == (2, 2)
    root = env.reset()
    before = root.clone()
    env.rollout(5, auto_reset=False, tensordict=root, break_when_any_done=False)
    assert_same(root, before)


def test_free_batch_sizes():
    env = StatelessEnv()
    start = TensorDict(position=torch.zeros(10, 1), batch_size=[10])
    batch = env.rollout(3, tensordict=env.reset(start, set_state=True), auto_reset=False)
    assert batch.shape == (10, 3)
    assert not batch["position"][:, 0].any()
    batch = TransformedEnv(env, StepCounter(max_steps=2)).rollout(
        5, tensordict=TensorDict(batch_size=[4]), break_when_any_done=False
    )
    assert batch["step_count"].squeeze(-1).tolist() == [[0, 1, 0, 1, 0]] * 4


# --- policies ------------------------------------------------------------------------------------


def test_a_module_gets_the_observations_in_the_order_of_the_spec():
    class Two(CountingEnv):
        def __init__(self):
            super().__init__()
            self.observation_spec = Composite(b=Unbounded((2,)), a=Unbounded((2,)))

        def _record(self, entries, like):
            value = entries.pop("observation")
            return super()._record({**entries, "a": -value, "b": value}, like)

    seen = []

    class Policy(nn.Module):
        def forward(self, first, second):
            seen.append((first, second))
            return first[:1] * 0

    batch = Two().rollout(3, Policy())
    for (first, second), step in zip(seen, batch, strict=True):
        assert torch.equal(first, step["b"])
        assert torch.equal(second, step["a"])
    assert batch["action"].shape == (3, 1)


@pytest.mark.parametrize("form", ["td", "tensordict", "annotated", "mapping"])
def test_a_callable_gets_what_its_signature_says(form):
    def by_td(td):
        return td.set("action", torch.ones(1))

    def by_tensordict(tensordict):
        return tensordict.set("action", torch.ones(1))

    def annotated(x: TensorDictBase) -> TensorDictBase:
        return x.set("action", torch.ones(1))

    def mapping(observation):
        assert isinstance(observation, torch.Tensor)
        return torch.ones(1)

    policies = {"td": by_td, "tensordict": by_tensordict, "annotated": annotated}
    batch = CountingEnv(9).rollout(3, policies.get(form, mapping))
    assert batch["action"].flatten().tolist() == [1, 1, 1]


def test_a_trusted_policy_gets_the_record_whatever_its_signature():
    batch = CountingEnv(9).rollout(
        3, lambda x: x.set("action", torch.ones(1)), trust_policy=True
    )  # fmt: skip
    assert batch["action"].sum() == 3


def test_a_policy_that_returns_no_record_is_refused():
    with pytest.raises(TypeError, match=r"^policy: returned something that holds no entries; expected a tensordict"):
        CountingEnv().rollout(3, lambda td: torch.ones(1))


@pytest.mark.parametrize("make", [CountingEnv, FlatCountingEnv])
@pytest.mark.parametrize("module", [True, False])
def test_a_policy_that_writes_a_wrong_shape_is_refused(make, module):
    policy = TensorDictModule(nn.Linear(2, 3), in_keys=["observation"], out_keys=["action"])
    if not module:
        policy = lambda td: td.set("action", torch.zeros(3))
    with pytest.raises(
        ShapeError,
        match=r"CountingEnv: entry 'action' has another shape than action_spec promises; "
        r"expected \(1,\), found \(3,\). Fix the width of the policy's last layer",
    ):
        make().rollout(3, policy)


@pytest.mark.parametrize("make", [CountingEnv, FlatCountingEnv])
def test_a_policy_that_writes_no_action_is_refused(make):
    policy = TensorDictModule(nn.Linear(2, 1), in_keys=["observation"], out_keys=["actions"])
    with pytest.raises(MissingKeyError, match=r"'action' was not written.*Did you mean 'actions'"):
        make().rollout(3, policy)


def test_given_actions_are_played():
    actions = torch.linspace(-1, 1, 8).reshape(2, 4, 1)
    batch = CountingEnv(9, batch_size=[2]).rollout(9, actions=actions)
    assert torch.equal(batch["action"], actions)
    assert torch.equal(batch["next", "reward"], batch["observation"][:, :1, 1:] + actions.cumsum(1))
    agents = MultiAgentEnv()
    played = agents.rollout(2)
    again = MultiAgentEnv().rollout(2, actions=played)
    assert_same(again, played)
    with pytest.raises(ValueError, match="either a policy or actions, not both"):
        CountingEnv().rollout(3, lambda td: td, actions=actions)
    with pytest.raises(ShapeError, match=r"actions have another batch size.*\(3, 'T'\)"):
        CountingEnv(batch_size=[3]).rollout(3, actions=actions)


def test_given_actions_do_not_bring_other_entries_along():
    env = CountingEnv(9)
    played = CountingEnv(9).rollout(3)
    played["observation"] += 100
    assert env.rollout(3, actions=played)["observation"].max() < 100


def test_gradients_and_exploration_are_those_of_the_context():
    policy = probabilistic()
    batch = CountingEnv(9).rollout(3, policy)
    assert batch["action"].requires_grad
    assert torch.equal(batch["action"], batch["loc"])
    with set_interaction_type("random"):
        assert not torch.equal((batch := CountingEnv(9).rollout(3, policy))["action"], batch["loc"])
    with torch.no_grad():
        assert not CountingEnv(9).rollout(3, policy)["action"].requires_grad


def test_nested_entries_of_a_policy_are_those_of_their_step():
    def policy(td):
        count = td["observation"][:1]
        return td.set("action", torch.zeros(1)).set(("memory", "count"), count.clone())

    batch = CountingEnv(9).rollout(4, policy)
    assert batch["memory", "count"].flatten().tolist() == [0, 1, 2, 3]


# --- the other options ---------------------------------------------------------------------------


def test_a_callback_sees_the_roots_between():
    seen = []
    env = CountingEnv(9)
    env.rollout(4, callback=lambda env, td: seen.append((env, td["observation"][0].item())))
    assert seen == [(env, 1), (env, 2), (env, 3)]


def test_steps_can_be_kept_elsewhere():
    batch = CountingEnv(9, device="cpu").rollout(3, storing_device="meta")
    assert batch.device == torch.device("meta")
    assert batch["next", "reward"].device == torch.device("meta")


def test_a_result_can_be_written_into_another():
    env = CountingEnv(9)
    out = env.rollout(3).zero_()
    place = out["next", "observation"].data_ptr()
    assert env.rollout(3, out=out) is out
    assert out["next", "observation"][:, 0].tolist() == [1, 2, 3]
    assert out["next", "observation"].data_ptr() == place


class Growing(CountingEnv):
    """Its observation grows with the count."""

    def __init__(self):
        super().__init__(9)
        self.observation_spec = Composite(observation=Unbounded((-1,)))

    def _observation(self):
        return torch.ones(int(self.count) + 1)


def test_steps_of_different_shapes_are_stacked_lazily():
    batch = Growing().rollout(3)
    assert isinstance(batch, LazyStackedTensorDict)
    assert [len(step["observation"]) for step in batch.unbind(0)] == [1, 2, 3]
    with pytest.raises(RuntimeError):
        Growing().rollout(3, return_contiguous=True)
    assert not isinstance(CountingEnv(9).rollout(3), LazyStackedTensorDict)


def test_the_device_of_the_policy_is_visited_where_asked():
    policy = TensorDictModule(nn.Linear(2, 1), in_keys=["observation"], out_keys=["action"])
    env = CountingEnv(9, device="cpu")
    plain = env.rollout(3, policy, auto_cast_to_device=True)
    assert plain.device == torch.device("cpu")
    devices = []

    class Elsewhere(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros((), device="meta"))

        def forward(self, tensordict):
            devices.append(tensordict.device)
            return TensorDict(action=torch.zeros(1), batch_size=[], device="cpu")

    env.rollout(3, Elsewhere(), auto_cast_to_device=True)
    assert devices == [torch.device("meta")] * 3


def test_a_displaced_loop_knows_it():
    env = FlatCountingEnv()
    seen = TransformedEnv(env, StepCounter())
    stepper = Stepper(seen)
    policy = PreparedPolicy(seen, None)
    stepper.reset()
    assert not stepper.is_stale()
    stepper.run(policy, 2)
    assert not stepper.is_stale()
    for move in (
        env.reset,
        seen.reset,
        env.rand_step,
        lambda: env.rollout(1, auto_reset=False, tensordict=stepper.root_tensordict()),
        lambda: seen.rollout(1),
    ):
        stepper.reset()
        move()
        assert stepper.is_stale()
    stepper.reset()

    def fail(td):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        stepper.run(PreparedPolicy(seen, fail), 2)
    assert stepper.is_stale()


def test_every_step_is_checked_where_asked():
    env = TransformedEnv(LyingEnv("late", run_type_checks=True), StepCounter())
    with pytest.raises(TypeError, match="another dtype"):
        env.rollout(3)


def test_nested_names():
    batch = NestedEnv(2, batch_size=[2]).rollout(5, break_when_any_done=False)
    assert batch["body", "push"].shape == (2, 5, 1)
    assert batch["next", "body", "pose"][..., 0].tolist() == [[1, 2, 1, 2, 1], [1, 2, 3, 1, 2]]
    assert "reward" not in batch["body"]


def test_what_is_no_tensor_is_carried():
    start = TensorDict(name=NonTensorData("a"))
    batch = FlatCountingEnv(9).rollout(3, tensordict=start)
    assert batch["name"] in ("a", ["a", "a", "a"])


@pytest.mark.parametrize("batched", [SerialEnv, ParallelEnv])
def test_a_policy_may_read_a_group_of_entries_as_a_whole(batched):
    """A policy that reads "agents" acts on what each step holds there, sums included."""

    def act(agents):
        choice = (agents["observation"] + agents["total"]).long().squeeze(-1) % 3
        return torch.nn.functional.one_hot(choice, 3)

    by_group = TensorDictModule(act, ["agents"], [("agents", "action")])
    by_entry = TensorDictModule(
        lambda x, total: act(TensorDict(observation=x, total=total, batch_size=x.shape[:-1])),
        [("agents", "observation"), ("agents", "total")],
        [("agents", "action")],
    )
    sums = RewardSum([("agents", "reward")], [("agents", "total")])
    env = TransformedEnv(batched(2, lambda: MultiAgentEnv(root_done=False)), sums)
    try:
        td = env.rollout(9, by_group, break_when_any_done=False)
        assert_same(td, env.rollout(9, by_entry, break_when_any_done=False))
    finally:
        env.close()
