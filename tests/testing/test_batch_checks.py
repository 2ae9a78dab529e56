"""The checks of batches hold for ours, and find planted faults."""

import pytest
from tensordict import TensorDict

from torchrl.envs import AsyncEnvPool, EnvBase, ParallelEnv, SerialEnv, StepCounter, TransformedEnv
from torchrl.testing.batch import CHECKS, check_batch

BATCHES = {
    "serial": lambda makers: SerialEnv(len(makers), makers),
    "records": lambda makers: SerialEnv(len(makers), makers, use_buffers=False),
    "parallel": lambda makers: ParallelEnv(len(makers), makers, mp_start_method="fork"),
    "one worker": lambda makers: ParallelEnv(1, makers, mp_start_method="fork"),
    "pool": lambda makers: AsyncEnvPool(makers),
    "transformed": lambda makers: TransformedEnv(SerialEnv(len(makers), makers), StepCounter(step_count_key="n")),
    "view": lambda makers: SerialEnv(3, [*makers, makers[0]])[:2],
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("wrap", BATCHES.values(), ids=BATCHES)
def test_batches(wrap, check):
    check(wrap)


class Changed(SerialEnv):
    """Does what its parent does, through the methods that the faults below change."""

    def _step(self, tensordict):
        return super()._step(tensordict)


class LosesWhatPoliciesWrite(Changed):
    def _step(self, tensordict):
        return super()._step(tensordict.exclude("next"))


class ReadsTheActionOnly(Changed):
    def step(self, tensordict):
        next_root = super().step(tensordict.exclude("next")).get("next")
        return tensordict.set("next", next_root)


class FlattensGroups(Changed):
    def step(self, tensordict):
        next_root = super().step(tensordict).get("next")
        return tensordict.set("next", TensorDict(next_root.to_dict(), self.batch_size))


class DrawsAnything(Changed):
    def rand_action(self, tensordict=None):
        return EnvBase.rand_action(self, tensordict)


class ResetsAll(Changed):
    def _reset(self, tensordict, **kwargs):
        return super()._reset(None, **kwargs)

    def reset(self, tensordict=None, **kwargs):
        root = super().reset(None, **kwargs)
        return root if tensordict is None else tensordict.exclude("_reset").update(root)


@pytest.mark.parametrize(
    "kind",
    [LosesWhatPoliciesWrite, ReadsTheActionOnly, FlattensGroups, DrawsAnything, ResetsAll],
    ids=lambda kind: kind.__name__,
)
def test_planted_faults_are_found(kind):
    with pytest.raises((AssertionError, KeyError, RuntimeError)):
        check_batch(lambda makers: kind(len(makers), makers))


def test_what_is_overridden_without_a_fault_passes():
    check_batch(lambda makers: Changed(len(makers), makers))
