"""Entries that every episode begins with."""

import pytest
import torch
from tensordict import TensorDict

from torchrl._core.errors import ShapeError, SpecError
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import TensorDictPrimer, TransformedEnv, check_env_specs, gSDENoise
from torchrl.testing.mocks import CountingEnv


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
    whole = TensorDictPrimer(h=Unbounded((3, 2)), expand_specs=False)
    assert TransformedEnv(env(), whole).reset()["h"].shape == (3, 2)
    shaped = TensorDictPrimer(Composite(h=Unbounded((3, 2)), shape=[3]))
    assert TransformedEnv(env(), shaped).reset()["h"].shape == (3, 2)
    with pytest.raises(SpecError, match=r"'h' has a spec that must start with the batch .*\[2\]"):
        TransformedEnv(env(), TensorDictPrimer(h=Unbounded((2,)), expand_specs=False))
    same = TensorDictPrimer(h=Unbounded((3,)), expand_specs=True)
    assert TransformedEnv(env(), same).reset()["h"].shape == (3, 3)
    with pytest.raises(ValueError, match="either random=True or a default_value"):
        TensorDictPrimer(h=Unbounded((2,)), random=True, default_value=1.0)


def test_three_layers_are_not_taken_for_three_environments():
    for shape in ((3, 5), (3,)):
        with pytest.raises(SpecError, match=r"that of one row or of all.*expand_specs=True"):
            TransformedEnv(CountingEnv(batch_size=[3]), TensorDictPrimer(h=Unbounded(shape)))
    assert TransformedEnv(CountingEnv(), TensorDictPrimer(h=Unbounded((3, 5)))).reset()["h"].shape == (3, 5)


@pytest.mark.parametrize("batch_size", [[], [2]])
def test_entries_written_before_the_environment_is_reset_can_be_read_there(batch_size):
    class Primed(CountingEnv):
        def _reset(self, tensordict, **kwargs):
            self.goal = tensordict["goal"].clone()
            return super()._reset(tensordict, **kwargs)

    primer = TensorDictPrimer(goal=Bounded(0, 1, (2,)), random=True, call_before_env_reset=True, expand_specs=True)
    env = TransformedEnv(Primed(batch_size=batch_size), primer)
    assert torch.equal(env.reset()["goal"], env.base_env.goal)
    batch = env.rollout(4, break_when_any_done=False)
    assert batch["goal"].shape == (*batch_size, 4, 2)
    check_env_specs(env)


@pytest.mark.parametrize("batch_size", [[], [2]])
def test_a_primer_with_a_place_fills_records_of_any_batch(batch_size):
    primer = TensorDictPrimer(h=Unbounded((5,)), default_value=2.0, expand_specs=True)
    TransformedEnv(CountingEnv(batch_size=batch_size), primer)
    for lead in ([], [7], [2, 3]):
        assert primer(TensorDict(batch_size=lead))["h"].shape == (*lead, 5)


def test_noise_is_drawn_at_resets():
    torch.manual_seed(0)
    primer = gSDENoise(state_dim=3, action_dim=2)
    env = TransformedEnv(CountingEnv(3, batch_size=[50]), primer)
    batch = env.rollout(2)
    noise = batch["_eps_gSDE"]
    assert noise.shape == (50, 2, 2, 3)
    assert torch.equal(noise[:, 0], noise[:, 1])
    assert abs(noise[:, 0].std() - 1) < 0.1
    assert gSDENoise(state_dim=3, action_dim=2, shape=(4,)).primers["_eps_gSDE"].shape == (4, 2, 3)


@pytest.mark.parametrize("shape", [None, (), (4,)])
def test_noise_without_sizes_is_a_placeholder(shape):
    primer = gSDENoise(shape=shape)
    assert primer.primers["_eps_gSDE"].shape == (*(shape or ()), 1)
    env = TransformedEnv(CountingEnv(3, batch_size=shape or ()), primer)
    assert torch.equal(env.reset()["_eps_gSDE"], torch.zeros(*(shape or ()), 1))


def test_noise_that_a_policy_draws_needs_sizes():
    def policy(td):
        noise = torch.zeros(*td.batch_size, 2, 3) if td["_eps_gSDE"].shape[-1] == 1 else td["_eps_gSDE"]
        return td.set("_eps_gSDE", noise).set("action", env.action_spec.rand())

    for shape in ((), (4,)):
        env = TransformedEnv(CountingEnv(3, batch_size=shape), gSDENoise())
        with pytest.raises(ShapeError, match=r"Pass gSDENoise\(state_dim=3, action_dim=2\)"):
            env.rollout(3, policy)


def test_a_primer_fills_what_a_record_lacks():
    primer = TensorDictPrimer(h=Unbounded((2,)), default_value=1.0)
    td = primer(TensorDict(batch_size=[5]))
    assert td["h"].shape == (5, 2)
    assert (primer(td.set("h", torch.zeros(5, 2)))["h"] == 0).all()
