"""The specs of an environment: completed, unbatched, locked; and what it says of a step."""

import pytest
import torch

from torchrl._core.errors import ShapeError
from torchrl.data import Bounded, Categorical, Composite, OneHot, Unbounded
from torchrl.envs import EnvBase, TransformedEnv
from torchrl.testing.mocks import CountingEnv, MultiAgentEnv, NestedEnv, TextEnv, flag


class Bare(EnvBase):
    """An environment that names no specs but those given."""

    def __init__(self, batch_size=(), **specs):
        super().__init__(batch_size=batch_size)
        for name, spec in specs.items():
            setattr(self, name, spec)

    def _reset(self, tensordict, **kwargs):
        return self.full_observation_spec.zero()

    def _step(self, tensordict):
        out = self.full_observation_spec.zero()
        return out.update(self.full_reward_spec.zero()).update(self.full_done_spec.zero())

    def _set_seed(self, seed):
        pass


def test_a_reward_and_a_done_flag_need_no_specs():
    assert not Bare(batch_size=[2]).reward_keys  # it names nothing
    env = Bare(batch_size=[2], state_spec=Composite(shape=[2]))
    assert env.reward_spec == Unbounded((2, 1), device="cpu")
    assert env.done_spec["done"] == Categorical(2, (2, 1), dtype=torch.bool, device="cpu")
    assert env.done_keys == ["done", "terminated"]
    assert len(env.observation_keys) == len(env.action_keys) == len(env.state_keys) == 0


def test_a_lone_leaf_is_the_spec_and_several_are_a_composite():
    leaf = Bounded(-1, 1, (3,))
    env = Bare(action_spec=leaf, observation_spec=Composite(a=Unbounded((1,))))
    assert env.action_spec == leaf
    assert env.full_action_spec == Composite(action=leaf)
    assert isinstance(env.observation_spec, Composite)
    assert isinstance(env.state_spec, Composite)
    assert env.action_key == "action"
    env = Bare(action_spec=Composite(a=leaf, b=leaf.clone()))
    assert isinstance(env.action_spec, Composite)
    assert env.action_keys == ["a", "b"]
    with pytest.raises(KeyError, match=r"has 2 actions; found \['a', 'b'\]. Use the plural"):
        assert env.action_key


def test_rewards_and_flags_end_in_a_dimension_of_one():
    env = Bare(reward_spec=Unbounded(()), done_spec=flag(()))
    assert env.reward_spec.shape == env.full_done_spec["done"].shape == (1,)
    assert env.done_keys == ["done", "terminated"]


def test_every_done_has_a_terminated_beside_it():
    env = MultiAgentEnv()
    assert set(env.done_keys) == {"done", "terminated", ("agents", "done"), ("agents", "terminated")}
    assert env.done_keys_groups[0] == ["done", "terminated"]
    assert env.reset_keys == ["_reset", ("agents", "_reset")]
    assert env.reward_key == ("agents", "reward")
    assert env.action_key == ("agents", "action")


def test_a_spec_without_the_batch_size_is_refused():
    with pytest.raises(ShapeError, match=r"'action' has a spec without .*starts with \(2,\), found \(3,\).*expand"):
        Bare(batch_size=[2], action_spec=Unbounded((3,)))


def test_sides_hold_the_groups():
    env = CountingEnv(batch_size=[2])
    assert set(env.input_spec.keys()) == {"full_action_spec", "full_state_spec"}
    assert set(env.output_spec.keys()) == {"full_observation_spec", "full_reward_spec", "full_done_spec"}
    assert set(env.specs.keys()) == {"input_spec", "output_spec"}
    assert env.specs["input_spec", "full_action_spec", "action"] == env.action_spec


def test_unbatched_specs():
    env = CountingEnv(batch_size=[2, 3])
    assert env.action_spec_unbatched.shape == (1,)
    assert env.observation_spec_unbatched["observation"].shape == (2,)
    assert env.full_done_spec_unbatched["done"].shape == (1,)
    env.action_spec_unbatched = Bounded(-2, 2, (4,))
    assert env.action_spec == Bounded(-2, 2, (4,)).expand(2, 3, 4)
    assert CountingEnv().reward_spec_unbatched == CountingEnv().reward_spec


def test_specs_are_locked_against_edits_in_place_but_can_be_assigned():
    env = CountingEnv()
    with pytest.raises(RuntimeError, match="lock"):
        env.observation_spec["new"] = Unbounded((1,))
    with pytest.raises(RuntimeError, match="lock"):
        env.output_spec["full_reward_spec"] = Composite()
    env.reward_spec = Unbounded((1,), dtype=torch.float64)
    assert env.reward_spec.dtype == torch.float64
    env.set_spec_lock_(False)
    env.observation_spec["new"] = Unbounded((1,))
    env.empty_cache()
    assert set(env.observation_keys) == {"observation", "new"}
    env.set_spec_lock_()
    with pytest.raises(RuntimeError, match="lock"):
        env.observation_spec["newer"] = Unbounded((1,))
    assert not CountingEnv(spec_locked=False).observation_spec.is_locked


def test_an_assigned_spec_is_ours_and_not_the_users():
    spec = Composite(observation=Unbounded((2,)))
    env = Bare(observation_spec=spec)
    spec["more"] = Unbounded((1,))
    assert env.observation_keys == ["observation"]


def test_truncated_keys_can_be_added():
    env = MultiAgentEnv(batch_size=[2]).add_truncated_keys()
    assert env.full_done_spec["truncated"].shape == (2, 1)
    assert env.full_done_spec["agents", "truncated"].shape == (2, 3, 1)
    batch = env.rollout(2, set_truncated=True)
    assert batch["next", "truncated"][:, -1].all()
    assert batch["next", "agents", "truncated"][:, -1].all()
    assert not batch["next", "truncated"][:, 0].any()
    env = TransformedEnv(CountingEnv()).add_truncated_keys()
    assert "truncated" in env.reset()


def test_a_fake_step_has_the_entries_of_a_real_one():
    for env in (CountingEnv(batch_size=[2]), NestedEnv(), MultiAgentEnv(), TextEnv()):
        assert_keys = set(env.fake_tensordict().keys(True)) ^ set(env.rollout(1)[..., 0].keys(True))
        assert not assert_keys
        assert (env.fake_tensordict().exclude("text", ("next", "text")) == 0).all()


def test_an_action_spec_of_choices():
    env = Bare(action_spec=OneHot(3))
    assert env.rand_action()["action"].sum() == 1
    assert env.rand_step()["next", "reward"] == 0
