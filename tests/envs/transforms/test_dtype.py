"""Casts, out and in."""

import torch
from tensordict import TensorDict

from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import DoubleToFloat, TransformedEnv, check_env_specs
from torchrl.testing.mocks import CountingEnv


class Double(CountingEnv):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.observation_spec = Composite(observation=Unbounded((2,), dtype=torch.float64), plain=Unbounded((1,)))
        self.action_spec = Bounded(-1, 1, (1,), dtype=torch.float64)

    def _step(self, tensordict):
        assert tensordict["action"].dtype == torch.float64
        return super()._step(tensordict.copy().set("action", tensordict["action"].float()))

    def _record(self, entries, like):
        entries["observation"] = entries["observation"].double()
        return super()._record({**entries, "plain": torch.zeros(1)}, like)


def test_doubles_become_floats_and_floats_stay():
    env = TransformedEnv(Double(), DoubleToFloat())
    batch = env.rollout(3)
    assert batch["observation"].dtype == batch["next", "observation"].dtype == torch.float32
    assert batch["action"].dtype == env.action_spec.dtype == torch.float32
    check_env_specs(env)
    named = TransformedEnv(Double(), DoubleToFloat(in_keys=["observation", "plain"]))
    assert named.reset()["observation"].dtype == named.reset()["plain"].dtype == torch.float32
    assert named.action_spec.dtype == torch.float64
    already = TransformedEnv(CountingEnv(), DoubleToFloat(in_keys=["observation"]))
    assert already.reset()["observation"].dtype == torch.float32


def test_a_lone_record_is_cast_where_its_dtype_is():
    td = TensorDict(a=torch.zeros(2, dtype=torch.float64), b=torch.zeros(2, dtype=torch.int64))
    out = DoubleToFloat()(td)
    assert out["a"].dtype == torch.float32
    assert out["b"].dtype == torch.int64
