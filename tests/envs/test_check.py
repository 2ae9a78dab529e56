"""check_env_specs finds what differs, and names it."""

import logging

import pytest
import torch
from tensordict import TensorDict

from torchrl._core.errors import SpecError
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import ActionDiscretizer, EnvBase, GymEnv, Transform, TransformedEnv, check_env_specs
from torchrl.envs.utils import check_env_specs as old_path
from torchrl.testing.mocks import CountingEnv, LyingEnv, MultiAgentEnv, StatelessEnv, TextEnv


@pytest.mark.parametrize("env", [CountingEnv(), CountingEnv(batch_size=[2]), MultiAgentEnv(), TextEnv(batch_size=[2])])
def test_no_fault(env, caplog):
    with caplog.at_level(logging.INFO, "torchrl"):
        assert check_env_specs(env) is None
    assert "check_env_specs succeeded!" in caplog.text
    check_env_specs(env, break_when_any_done="both", return_contiguous=True, seed=3)
    assert old_path is check_env_specs


def test_free_batch_sizes():
    env = StatelessEnv()
    for batch in ([], [4], [2, 3]):
        check_env_specs(env, tensordict=env.reset().expand(batch).clone())


class Wrong(CountingEnv):
    """Adds entries to each outcome."""

    def __init__(self, entries, **specs):
        super().__init__(**specs)
        self.entries = entries

    def _step(self, tensordict):
        return super()._step(tensordict).update(self.entries)


@pytest.mark.parametrize(
    ("env", "words"),
    [
        (LyingEnv("float64"), r"'observation' has another dtype .*float32, found torch.float64"),
        (LyingEnv("shape"), r"'observation' has another shape .*\(2,\), found \(1,\)"),
        (LyingEnv("reward"), r"'reward' is not in what _step\(\) returned"),
        (
            LyingEnv("late"),
            r"entry \('next', 'observation'\) \(observation_spec\): has another dtype; expected "
            r"torch.float32, found torch.float64. Call to\(torch.float32\).*DoubleToFloat",
        ),
        (
            Wrong({"extra": torch.zeros(1)}),
            r"\('next', 'extra'\): is in the data, but not in the specs; expected no such entry",
        ),
        (Wrong({"_extra": torch.zeros(1), "more": torch.zeros(1)}), r"- entry 'more': is in the data"),
    ],
)
def test_faults(env, words):
    with pytest.raises(AssertionError, match=rf"does not keep to its specs:(.|\n)*{words}") as info:
        check_env_specs(env)
    assert isinstance(info.value, SpecError)
    if isinstance(env, Wrong):
        assert "_extra" not in str(info.value)


def test_every_fault_is_told():
    env = CountingEnv()
    env.observation_spec = Composite(observation=Bounded(5, 6, (2,)), absent=Unbounded((1,)))
    env.reward_spec = Bounded(100, 101, (1,))
    env.run_type_checks = False
    with pytest.raises(AssertionError, match="'absent' is promised by observation_spec but absent"):
        check_env_specs(env)
    env.observation_spec = Composite(observation=Bounded(5, 6, (2,)))
    with pytest.raises(AssertionError, match="outside") as info:
        check_env_specs(env)
    assert str(info.value).count("('next', 'reward')") == 1
    assert "expected values from 100.0 to 101.0, found [" in str(info.value)
    assert "Widen reward_spec" in str(info.value)
    for name in ("entry 'observation' (obs", "('next', 'observation')", "('next', 'reward')"):
        assert name in str(info.value)


class Late(CountingEnv):
    """Goes wrong in its second step."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def _step(self, tensordict):
        out = super()._step(tensordict)
        return out if self.count < 2 else self.change(out)


def test_the_mend_is_to_the_point():
    turned = Late(lambda td: td.set("observation", td["observation"].unsqueeze(0)))
    with pytest.raises(AssertionError, match=r"expected \(2,\), found \(1, 2\). Call reshape\(2,\)"):
        check_env_specs(turned)
    renamed = Late(lambda td: td.rename_key_("observation", "observations"))
    with pytest.raises(
        AssertionError,
        match=r"'observation'\): is in the specs, but not in the data.*Did you mean "
        r"\('next', 'observations'\)\? Return it from _step\(\)",
    ):
        check_env_specs(renamed)


def test_dtypes_can_be_passed_over():
    env = LyingEnv("late")
    check_env_specs(env, check_dtype=False)


def test_a_seed_makes_it_repeatable():
    env = GymEnv("CartPole-v1")
    seen = []
    env.set_seed = lambda seed, **kwargs: seen.append(seed)
    check_env_specs(env, seed=4)
    assert seen == [4]


@pytest.mark.parametrize("nested", [False, True])
def test_a_state_that_is_no_observation_may_stand_under_next(nested):
    key = ("inner", "wind") if nested else "wind"

    class Drift(EnvBase):
        def __init__(self):
            super().__init__()
            self.observation_spec = Composite(place=Unbounded((1,)))
            self.state_spec = Composite({key: Unbounded((1,))})
            self.action_spec = Unbounded((1,))

        def _set_seed(self, seed):
            pass

        def _reset(self, td=None, **kwargs):
            return TensorDict({"place": torch.zeros(1), key: torch.ones(1)})

        def _step(self, td):
            wind = td[key] + 1
            done = torch.zeros(1, dtype=torch.bool)
            return TensorDict({"place": td["action"], key: wind, "reward": wind, "done": done})

    check_env_specs(Drift())


class _Mine(Transform):
    """Its steps are tensordicts: it does not declare that it takes flat records."""


class _WritesIntoTheRoot(_Mine):
    def _step(self, tensordict, next_tensordict):
        tensordict.set("seen", tensordict["observation"] + 0)
        return next_tensordict


def test_a_transform_may_write_state_into_the_root_and_nothing_else():
    recorded = ActionDiscretizer(5, out_action_key="choice")
    check_env_specs(TransformedEnv(GymEnv("Pendulum-v1"), recorded).append_transform(_Mine()))
    with pytest.raises(SpecError, match="returned earlier"):
        check_env_specs(TransformedEnv(GymEnv("Pendulum-v1"), _WritesIntoTheRoot()))
