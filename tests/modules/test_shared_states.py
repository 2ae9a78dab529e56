"""Policies of which two recurrent modules keep their state in one entry."""

import pytest
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

from torchrl._core.records.policies import check_states
from torchrl.collectors import Collector
from torchrl.envs import GymEnv, InitTracker, TransformedEnv
from torchrl.modules import GRUModule, LSTMModule, MultiStepActorWrapper, SafeSequential, ValueOperator
from torchrl.modules.utils import get_primers_from_module
from torchrl.objectives import DDPGLoss


def nested(low, high):
    return TensorDictSequential(TensorDictSequential(low), SafeSequential(high))


SHARED = {
    "lstm": lambda seq: seq(
        LSTMModule(4, 2, in_key="observation", out_key="hidden"), LSTMModule(2, 2, in_key="hidden", out_key="action")
    ),
    "gru": lambda seq: seq(
        GRUModule(4, 2, in_key="observation", out_key="hidden"), GRUModule(2, 2, in_key="hidden", out_key="action")
    ),
    "one key of two": lambda seq: seq(
        GRUModule(4, 2, in_keys=["observation", "h"], out_keys=["hidden", ("next", "h")]),
        LSTMModule(2, 2, in_keys=["hidden", "h", "c"], out_keys=["action", ("next", "h"), ("next", "c")]),
    ),
    "a group": lambda seq: seq(
        GRUModule(4, 2, in_keys=["observation", ("m", "h")], out_keys=["x", ("next", "m", "h")]),
        GRUModule(2, 2, in_keys=["x", ("m", "h")], out_keys=["action", ("next", "m", "h")]),
    ),
}


@pytest.mark.parametrize("sequence", [TensorDictSequential, SafeSequential, nested])
@pytest.mark.parametrize("name", SHARED)
def test_two_modules_with_one_state_are_refused_wherever_they_are_used(name, sequence):
    """Rollouts, collectors, primers and losses say which key is shared."""
    policy = SHARED[name](sequence)
    env = TransformedEnv(GymEnv("CartPole-v1"), InitTracker())
    critic = ValueOperator(nn.Linear(6, 1), in_keys=["observation", "action"])
    uses = {
        "rollout": lambda: env.rollout(3, policy),
        "collector": lambda: Collector(env, policy, frames_per_batch=4, total_frames=4),
        "primer": lambda: get_primers_from_module(policy),
        "loss": lambda: DDPGLoss(policy, critic),
    }
    for use in uses.values():
        with pytest.raises(ValueError, match="keep their state in one entry"):
            use()


def test_states_of_their_own_wrappers_and_overwritten_entries_are_fine():
    """What is refused is a state of two modules, not an entry that several parts write."""
    low = GRUModule(4, 2, in_keys=["observation", "a"], out_keys=["hidden", ("next", "a")])
    high = GRUModule(2, 2, in_keys=["hidden", "b"], out_keys=["hidden", ("next", "b")])
    again = TensorDictModule(nn.Identity(), ["hidden"], ["hidden"])
    check_states(TensorDictSequential(low, high, again))
    check_states(MultiStepActorWrapper(TensorDictSequential(low, again), action_keys="hidden"))
    check_states(lambda td: td)
