"""A policy may return what it computed in a new record: what it did not return stays."""

import pytest
import torch
from tensordict import LazyStackedTensorDict, TensorDict, tensorclass
from tensordict.nn import TensorDictModule
from torch import nn

from torchrl.collectors import Collector, MultiAsyncCollector, MultiSyncCollector
from torchrl.data import Unbounded
from torchrl.envs import (
    Compose,
    ConditionalPolicySwitch,
    ParallelEnv,
    RewardSum,
    SerialEnv,
    StepCounter,
    TensorDictPrimer,
    TransformedEnv,
)
from torchrl.testing.env import assert_same
from torchrl.testing.mocks import CountingEnv, FlatCountingEnv, MultiAgentEnv


def chosen(td):
    """Return the action that the observation ``[*B, 2]`` calls for."""
    return torch.tanh(td["observation"][..., :1])


def in_place(td):
    return td.set("action", chosen(td)).set("value", 2 * chosen(td))


class Answer(nn.Module):
    def forward(self, observation):
        action = torch.tanh(observation[..., :1])
        return action, 2 * action


@tensorclass
class Choice:
    action: torch.Tensor
    value: torch.Tensor


def module(**kwargs):
    return TensorDictModule(Answer(), ["observation"], ["action", "value"], **kwargs)


FORMS = {
    "tensordict": lambda td: TensorDict(action=chosen(td), value=2 * chosen(td), batch_size=td.batch_size),
    "no batch size": lambda td: TensorDict(action=chosen(td), value=2 * chosen(td)),
    "longer batch size": lambda td: TensorDict(action=chosen(td), value=2 * chosen(td), batch_size=(*td.batch_size, 1)),
    "dictionary": lambda td: {"action": chosen(td), "value": 2 * chosen(td)},
    "tensorclass": lambda td: Choice(chosen(td), 2 * chosen(td), batch_size=td.batch_size),
    "selection": lambda td: in_place(td.copy()).select("action", "value"),
    "copy": lambda td: in_place(td.copy()),
    "empty module": module(inplace="empty"),
    "copying module": module(inplace=False),
}
BASES = {
    "single": FlatCountingEnv,
    "rows": lambda: CountingEnv(batch_size=[3], cut=4),
    "serial": lambda: SerialEnv(2, CountingEnv),
}
WAYS = {
    "rollout": {},
    "goes on": {"break_when_any_done": False},
    "all done": {"break_when_all_done": True},
    "callback": {"callback": lambda env, td: None},
    "stored": {"storing_device": "cpu"},
    "cast": {"auto_cast_to_device": True},
    "trusted": {"trust_policy": True},
}


def counted(base):
    return TransformedEnv(base, Compose(StepCounter(max_steps=7), RewardSum()))


def run(base, policy, **kwargs):
    env = counted(base())
    env.set_seed(0)
    try:
        return env.rollout(12, policy, **kwargs)
    finally:
        env.close()


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_what_a_policy_did_not_return_stays(base, form, way):
    assert_same(run(base, form, **way), run(base, in_place, **way))


def test_what_a_policy_returned_wins():
    def policy(td):
        return {"action": chosen(td), "observation": td["observation"] + 100}

    batch = CountingEnv(9).rollout(3, policy)
    assert torch.equal(batch["observation"][1:], batch["next", "observation"][:-1] + 100)


@pytest.mark.parametrize("bound", [True, False])
def test_a_rollout_goes_on_from_a_root_that_is_left_alone(bound):
    root = CountingEnv(9).reset()
    before = root.clone()
    env = CountingEnv(9)
    env.reset()
    env.rollout(3, FORMS["dictionary"], auto_reset=False, tensordict=root)
    assert_same(root, before)


@pytest.mark.parametrize("form", ["nested", "nested dictionary", "no batch size"])
@pytest.mark.parametrize("batch_size", [[], [3]])
def test_nested_actions_join_the_entries_of_their_agents(form, batch_size):
    def action(td):
        agents = td["agents", "observation"].shape[:-1]
        return nn.functional.one_hot(torch.zeros(agents, dtype=torch.int64), 3)

    forms = {
        "nested": lambda td: TensorDict(
            agents=TensorDict(action=action(td), batch_size=td["agents"].batch_size), batch_size=td.batch_size
        ),
        "nested dictionary": lambda td: {"agents": {"action": action(td)}},
        "no batch size": lambda td: TensorDict({("agents", "action"): action(td)}),
    }
    expected = MultiAgentEnv(batch_size=batch_size).rollout(4, lambda td: td.set(("agents", "action"), action(td)))
    found = MultiAgentEnv(batch_size=batch_size).rollout(4, forms[form])
    assert found["agents"].batch_size == expected["agents"].batch_size
    assert_same(found, expected)


def test_rows_that_differ_in_shape_keep_their_entries():
    class Wide(CountingEnv):
        def __init__(self):
            super().__init__(9)
            spec = self.observation_spec.clone()
            spec["wide"] = Unbounded((4,))
            self.observation_spec = spec

        def _reset(self, td=None, **kwargs):
            return super()._reset(td, **kwargs).set("wide", torch.zeros(4))

        def _step(self, td):
            return super()._step(td).set("wide", torch.ones(4))

    def run(policy):
        env = SerialEnv(2, [lambda: CountingEnv(9), Wide])
        env.set_seed(0)
        return env.rollout(3, policy)

    batch = run(FORMS["tensordict"])
    assert isinstance(batch, LazyStackedTensorDict)
    assert_same(batch, run(in_place))


@pytest.mark.parametrize("form", ["tensordict", "dictionary", "empty module"])
@pytest.mark.parametrize("kwargs", [{}, {"policy_device": "cpu"}, {"init_random_frames": 8}])
def test_collectors_keep_what_a_policy_did_not_return(form, kwargs):
    def batches(policy):
        env = counted(CountingEnv())
        env.set_seed(0)
        torch.manual_seed(0)
        with Collector(env, policy, frames_per_batch=8, total_frames=24, **kwargs) as collector:
            return list(collector)

    for found, expected in zip(batches(FORMS[form]), batches(in_place), strict=True):
        assert_same(found, expected)


@pytest.mark.parametrize("kind", [MultiSyncCollector, MultiAsyncCollector])
def test_workers_keep_what_a_policy_did_not_return(kind):
    makers = [lambda: counted(CountingEnv())] * 2
    with kind(makers, FORMS["no batch size"], frames_per_batch=16, total_frames=32) as collector:
        for batch in collector:
            assert torch.equal(batch["action"], chosen(batch))
            assert {"step_count", "episode_reward", "done", "value"} <= set(batch.keys())
            assert batch["step_count"].max() > 1


@pytest.mark.parametrize("kind", [SerialEnv, ParallelEnv])
def test_a_memory_under_next_is_read_at_the_next_step(kind):
    def policy(td):
        out = TensorDict(action=chosen(td), batch_size=td.batch_size)
        return out.set(("next", "memory"), td["memory"] + 1)

    env = TransformedEnv(kind(2, lambda: CountingEnv(99)), TensorDictPrimer(memory=Unbounded((1,)), expand_specs=True))
    batch = env.rollout(4, policy)
    env.close()
    assert batch["memory"].squeeze(-1).tolist() == [[0, 1, 2, 3]] * 2


def test_a_policy_inside_of_a_transform_may_return_its_action_alone():
    def odd(td):
        return td["step_count"] % 2 == 1

    def rewards(policy):
        env = TransformedEnv(CountingEnv(99), StepCounter())
        env = env.append_transform(ConditionalPolicySwitch(policy, odd))
        return env.rollout(3, in_place)["next", "reward"]

    assert torch.equal(rewards(FORMS["dictionary"]), rewards(in_place))


def test_specs_are_found_with_a_policy_that_returns_its_action_alone():
    env = CountingEnv(9)
    env.auto_specs_(lambda td: {"action": torch.ones(1)})
    assert env.action_keys == ["action"]


@pytest.mark.parametrize("output", [None, torch.zeros(1), [1]])
@pytest.mark.parametrize("kwargs", [{}, {"callback": lambda env, td: None}])
def test_a_policy_that_returns_no_entries_is_refused_by_its_name(output, kwargs):
    def forgetful(td):
        td.set("action", chosen(td))
        return output

    with pytest.raises(TypeError, match=r"^forgetful: returned something .* 'return tensordict'"):
        CountingEnv().rollout(3, forgetful, **kwargs)
    with (
        Collector(CountingEnv(), forgetful, frames_per_batch=4) as collector,
        pytest.raises(TypeError, match=r"^forgetful: "),
    ):
        next(iter(collector))
