"""The base of transforms, compositions, and environments seen through them."""

import copy

import pytest
import torch
from tensordict import TensorDict

from torchrl._core.errors import MissingKeyError
from torchrl.data import ReplayBuffer, Unbounded
from torchrl.envs import (
    Compose,
    InitTracker,
    ObservationNorm,
    RewardScaling,
    RewardSum,
    StepCounter,
    Transform,
    TransformedEnv,
    check_env_specs,
)
from torchrl.testing.mocks import CountingEnv, NestedEnv, StatelessEnv


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
    with pytest.raises(TypeError, match=r"expected transforms .* found <class .*InitTracker'>"):
        chain.append(InitTracker)
    env = TransformedEnv(CountingEnv(), chain)
    assert "is_init" not in env.observation_keys
    chain.append(second)
    assert "is_init" in env.observation_keys


def test_a_transform_has_one_place():
    counter = StepCounter()
    env = TransformedEnv(CountingEnv(), counter)
    with pytest.raises(ValueError, match=r"belongs to an environment .*clone\(\)"):
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
    env = TransformedEnv(NestedEnv(batch_size=[2]), ObservationNorm(1.0, 2.0, in_keys=[("body", "pose")]))
    check_env_specs(env)
    assert (env.reset()["body", "pose"][:, 0] == 1).all()


def test_a_state_can_be_set_through_transforms():
    env = TransformedEnv(StatelessEnv(), StepCounter())
    root = env.reset(TensorDict(position=torch.full((1,), 0.25)), set_state=True)
    assert root["position"] == 0.25
    assert root["step_count"] == 0


TWICE = {
    "appended": lambda t: TransformedEnv(CountingEnv(), t).append_transform(t),
    "inserted": lambda t: TransformedEnv(CountingEnv(), t).insert_transform(0, t),
    "composed": lambda t: Compose(t, t),
    "composed within each other": lambda t: Compose(Compose(StepCounter(), t), t),
    "appended to a composition": lambda t: Compose(t).append(t),
    "inserted into a composition": lambda t: Compose(InitTracker(), t).insert(0, t),
    "in environments within each other": lambda t: TransformedEnv(TransformedEnv(CountingEnv(), t), t),
    "assigned": lambda t: setattr(TransformedEnv(CountingEnv(), t), "transform", Compose(t)),
    "appended to a buffer": lambda t: ReplayBuffer(transform=t).append_transform(t),
    "composed in a buffer": lambda t: ReplayBuffer(transform=Compose(t, t)),
}


@pytest.mark.parametrize("build", TWICE.values(), ids=TWICE)
@pytest.mark.parametrize("make", [lambda: RewardScaling(0.0, 2.0), lambda: Compose(RewardSum())])
def test_a_transform_has_one_place_in_one_environment(build, make):
    with pytest.raises(ValueError, match=r"already.*clone\(\)"):
        build(make())


def test_a_clone_may_stand_beside_the_original():
    scale = RewardScaling(0.0, 2.0)
    env = TransformedEnv(CountingEnv(), Compose(scale, scale.clone()))
    env.append_transform(scale.clone())
    actions = torch.rand(3, 1)
    reward = CountingEnv().rollout(3, actions=actions)["next", "reward"]
    assert torch.equal(env.rollout(3, actions=actions)["next", "reward"], 8 * reward)
    assert len(ReplayBuffer(transform=scale).append_transform(scale.clone()).transform) == 2


def test_what_was_refused_can_be_used_elsewhere():
    scale, counter = RewardScaling(0.0, 2.0), StepCounter()
    with pytest.raises(ValueError, match="already"):
        Compose(scale, counter, counter)
    mistyped = ObservationNorm(1.0, 2.0, in_keys=["observatoin"])
    with pytest.raises(MissingKeyError, match="observatoin"):
        TransformedEnv(CountingEnv(), mistyped)
    assert mistyped.container is None
    TransformedEnv(CountingEnv(), Compose(counter, scale)).rollout(2)


def test_a_transform_can_be_replaced():
    env = TransformedEnv(CountingEnv(), StepCounter())
    before = env.transform
    env.transform = RewardScaling(0.0, 2.0)
    assert before.container is None
    assert "step_count" not in env.observation_keys
    actions = torch.rand(3, 1)
    reward = CountingEnv().rollout(3, actions=actions)["next", "reward"]
    assert torch.equal(env.rollout(3, actions=actions)["next", "reward"], 2 * reward)
    scale = env.transform
    with pytest.raises(MissingKeyError, match="observatoin"):
        env.transform = ObservationNorm(1.0, 2.0, in_keys=["observatoin"])
    assert env.transform is scale
    assert "step_count" not in set(env.rollout(3).keys())
    env.transform = lambda td: td.set("seen", td["observation"] * 2)
    assert "seen" in set(env.rollout(3)["next"].keys())
