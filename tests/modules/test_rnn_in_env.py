"""Recurrent policies in environments: what was acted is what a sequence computes."""

import pytest
import torch
from tensordict.nn import TensorDictSequential
from torch import nn

from torchrl.data import OneHot
from torchrl.envs import GymEnv, ParallelEnv, SerialEnv, TransformedEnv
from torchrl.modules import EGreedyModule, GRUModule, LSTMModule, QValueActor, set_recurrent_mode
from torchrl.modules.utils import get_env_transforms_from_module


def cartpole():
    return GymEnv("CartPole-v1")


ENVS = {"one": cartpole, "serial": lambda: SerialEnv(2, cartpole), "parallel": lambda: ParallelEnv(2, cartpole)}


@pytest.mark.parametrize("module", [LSTMModule, GRUModule])
@pytest.mark.parametrize("make", ENVS.values(), ids=ENVS)
def test_a_sequence_equals_what_was_acted(make, module):
    rnn = module(4, 8, 2, in_key="observation", out_key="hidden")
    spec = OneHot(2, dtype=torch.int64)
    policy = TensorDictSequential(
        rnn, QValueActor(nn.Linear(8, 2), in_keys=["hidden"], spec=spec), EGreedyModule(spec, eps_init=0.5)
    )
    env = TransformedEnv(make(), get_env_transforms_from_module(policy))
    env.set_seed(0)
    with torch.no_grad():
        data = env.rollout(60, policy, break_when_any_done=False)
        states = rnn.in_keys[1:-1]
        inputs = data.select("observation", "is_init", *states)
        rows = inputs if data.ndim == 2 else inputs.unsqueeze(0)
        with set_recurrent_mode():
            found = rnn(rows)
    env.close()
    assert data["is_init"].sum() > max(2, len(data) if data.ndim == 2 else 1)
    hidden = found["hidden"].reshape(data["hidden"].shape)
    torch.testing.assert_close(hidden, data["hidden"], rtol=1e-5, atol=1e-5)
    for key in states:
        after = found["next", key].reshape(data["next", key].shape)
        torch.testing.assert_close(after, data["next", key], rtol=1e-5, atol=1e-5)
        assert (data[key][data["is_init"].squeeze(-1)] == 0).all()
