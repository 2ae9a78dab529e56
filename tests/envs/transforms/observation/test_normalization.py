"""Observations brought to a common scale."""

import pytest
import torch
from tensordict import TensorDict

from torchrl._core.errors import SpecError
from torchrl.data import Bounded, Composite
from torchrl.envs import (
    CartPoleEnv,
    Compose,
    GymEnv,
    ObservationNorm,
    StepCounter,
    TransformedEnv,
    VecNorm,
    VecNormV2,
    check_env_specs,
)
from torchrl.testing.env import make_seeded
from torchrl.testing.mocks import CountingEnv


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
    env = TransformedEnv(CountingEnv(), Compose(StepCounter(), ObservationNorm(1.0, 0.5, in_keys=["step_count"])))
    assert env.observation_spec["step_count"].dtype == torch.float32


class Still(CountingEnv):
    """Its second observation is constant, up to rounding, until ``moved`` is set."""

    value, moved = 1000.1, 0.0

    def _shown(self, td):
        observation = td["observation"].expand(*self.batch_size, 2).clone()
        observation[..., 1] = self.value + self.moved
        return td.set("observation", observation)

    def _reset(self, tensordict=None, **kwargs):
        return self._shown(super()._reset(tensordict, **kwargs))

    def _step(self, tensordict):
        return self._shown(super()._step(tensordict))


@pytest.mark.parametrize("standard_normal", [False, True])
@pytest.mark.parametrize("value", [0.0, 5.0, 1000.1, -1e6, 0.1])
@pytest.mark.parametrize("batch_size", [(), (3,)])
def test_a_feature_that_did_not_change_is_only_shifted(standard_normal, value, batch_size):
    env = Still(99, batch_size=batch_size)
    env.value = value
    norm = ObservationNorm(in_keys=["observation"], standard_normal=standard_normal)
    seen = TransformedEnv(env, norm)
    norm.init_stats(20, reduce_dim=tuple(range(len(batch_size) + 1)))
    rounding = max(1e-5, abs(value) * 1e-6)
    assert seen.reset()["observation"][..., 1].abs().max() <= rounding
    env.moved = 1.0
    moved = seen.rollout(3)["observation"][..., 1]
    torch.testing.assert_close(moved, torch.ones_like(moved), atol=rounding, rtol=0)


def test_one_step_shows_no_change():
    norm = ObservationNorm(in_keys=["observation"], standard_normal=True)
    TransformedEnv(CountingEnv(), norm).transform.init_stats(1)
    assert torch.equal(norm.scale, torch.ones_like(norm.scale))


def test_the_least_deviation_can_be_given():
    norm = ObservationNorm(in_keys=["observation"], standard_normal=True, eps=0.25)
    TransformedEnv(Still(), norm).transform.init_stats(20)
    assert norm.scale[1] == 0.25


STILL = {
    "frozen": lambda norm: norm.freeze(),
    "evaluated": lambda norm: norm.eval(),
    "copied": lambda norm: norm.frozen_copy(),
    "observation norm": lambda norm: norm.to_observation_norm(),
}


@pytest.mark.parametrize("stop", STILL.values(), ids=STILL)
@pytest.mark.parametrize("make", [VecNorm, VecNormV2])
@pytest.mark.parametrize("value", [0.0, 1000.1])
def test_statistics_that_stand_still_only_shift_what_never_changed(make, stop, value):
    base = Still(99, batch_size=(3,))
    base.value = value
    norm = make(["observation"])
    TransformedEnv(base, norm).rollout(30)
    stopped = stop(norm)
    if stopped is norm:
        norm.reset_parent()
    base.moved = 1.0
    moved = TransformedEnv(base, stopped).rollout(3)["observation"][..., 1]
    torch.testing.assert_close(moved, torch.ones_like(moved), atol=1e-3, rtol=0)


def test_statistics_of_nothing_change_nothing():
    norm = VecNorm(["observation"]).freeze()
    seen = make_seeded(lambda: TransformedEnv(CountingEnv(), norm)).rollout(3)
    assert torch.equal(seen["observation"], make_seeded(CountingEnv).rollout(3)["observation"])


@pytest.mark.parametrize("make", [VecNormV2, VecNorm, lambda **keys: ObservationNorm(0.0, 2.0, **keys)])
def test_the_state_of_an_environment_is_not_replaced(make):
    keys = {"in_keys": ["observation"], "out_keys": ["normalized"]}
    env = TransformedEnv(CartPoleEnv(), make(**keys))
    plain, found = CartPoleEnv(), env
    for each in (plain, found):
        each.set_seed(0)
    torch.manual_seed(0)
    expected = plain.rollout(10)["observation"]
    torch.manual_seed(0)
    assert torch.equal(found.rollout(10)["observation"], expected)
    with pytest.raises(SpecError, match=r"'observation'.*state that the environment reads.*out_keys"):
        _ = TransformedEnv(CartPoleEnv(), make(in_keys=["observation"])).observation_spec


def test_an_inverse_restores_the_state():
    norm = ObservationNorm(0.0, 2.0, in_keys=["observation"], in_keys_inv=["observation"])
    env, plain = TransformedEnv(CartPoleEnv(), norm), CartPoleEnv()
    for each in (plain, env):
        each.set_seed(0)
    torch.manual_seed(0)
    expected = plain.rollout(10)["observation"]
    torch.manual_seed(0)
    torch.testing.assert_close(env.rollout(10)["observation"], 2 * expected)
