"""check_env_specs finds what differs, and names it."""

import logging

import pytest
import torch

from torchrl._core.errors import SpecError
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import GymEnv, check_env_specs
from torchrl.envs.utils import check_env_specs as old_path
from torchrl.testing.mocks import CountingEnv, LyingEnv, MultiAgentEnv, StatelessEnv, TextEnv


@pytest.mark.parametrize(
    "env", [CountingEnv(), CountingEnv(batch_size=[2]), MultiAgentEnv(), TextEnv(batch_size=[2])]
)
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
        (LyingEnv("late"), r"\('next', 'observation'\) .*torch.float32, found torch.float64"),
        (Wrong({"extra": torch.zeros(1)}), r"\('next', 'extra'\): in the data, but not"),
        (Wrong({"_extra": torch.zeros(1), "more": torch.zeros(1)}), r"- entry 'more': in the data"),
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
    for name in ("entry 'observation' (obs", "('next', 'observation')", "('next', 'reward')"):
        assert name in str(info.value)


def test_dtypes_can_be_passed_over():
    env = LyingEnv("late")
    check_env_specs(env, check_dtype=False)


def test_a_seed_makes_it_repeatable():
    env = GymEnv("CartPole-v1")
    seen = []
    env.set_seed = lambda seed, **kwargs: seen.append(seed)
    check_env_specs(env, seed=4)
    assert seen == [4]
