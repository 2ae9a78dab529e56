"""A world model as an environment: it steps as the model says."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

from torchrl._core.errors import MissingKeyError
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import ModelBasedEnvBase, check_env_specs


class Move(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("shift", torch.zeros(2))

    def forward(self, observation, action):
        return self.linear(torch.cat([observation, action], -1)) + self.shift


def world_model(ends=False):
    parts = [
        TensorDictModule(Move(), ["observation", "action"], ["observation"]),
        TensorDictModule(lambda obs: obs.sum(-1, True), ["observation"], ["reward"]),
    ]
    if ends:
        parts.append(TensorDictModule(lambda obs: obs[..., :1] > 0, ["observation"], ["terminated"]))
    return TensorDictSequential(*parts)


class Dream(ModelBasedEnvBase):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        batch = self.batch_size
        self.observation_spec = Composite(observation=Unbounded((*batch, 2)), shape=batch)
        self.action_spec = Bounded(-1, 1, (*batch, 1))

    def _reset(self, td):
        shape = self.batch_size if td is None else td.batch_size
        return TensorDict(observation=torch.randn(*shape, 2), batch_size=shape)


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("batch_size", [(), (3,)])
def test_specs_hold(ends, batch_size):
    check_env_specs(Dream(world_model(ends), batch_size=batch_size), break_when_any_done="both")


def test_it_steps_as_the_model_says():
    model = world_model(ends=True)
    env = Dream(model)
    td = env.reset(TensorDict(batch_size=[5]))
    td = env.rand_action(td)
    before = td["observation"].clone()
    after = env.step(td)["next"]
    linear = model.module[0].module.linear
    expected = torch.cat([before, td["action"]], -1) @ linear.weight.T + linear.bias
    torch.testing.assert_close(after["observation"], expected)
    torch.testing.assert_close(after["reward"], expected.sum(-1, True))
    assert torch.equal(after["terminated"], expected[:, :1] > 0)
    assert torch.equal(after["done"], after["terminated"])
    assert torch.equal(td["observation"], before)


def test_without_flags_episodes_do_not_end():
    batch = Dream(world_model()).rollout(7, break_when_any_done=False)
    assert not batch["next", "done"].any()


def test_gradients_reach_the_first_action():
    env = Dream(world_model())
    td = env.reset()
    action = torch.zeros(1, requires_grad=True)
    for _ in range(3):
        td = env.step_mdp(env.step(td.set("action", action)))
    td["observation"].sum().backward()
    assert action.grad.abs() > 0


def test_parameters_and_buffers_of_others():
    model = world_model()
    weights = TensorDict.from_module(model).data.clone()
    zeros = weights.clone().zero_()
    shift = zeros.select(("module", "0", "module", "shift")).apply(lambda t: t + 2.0)
    td = Dream(model).reset().set("action", torch.ones(1))

    own = Dream(model).step(td.copy())["next", "observation"]
    still = Dream(model, params=zeros).step(td.copy())["next", "observation"]
    moved = Dream(model, params=zeros, buffers=shift).step(td.copy())["next", "observation"]
    assert (own != 0).all()
    assert (still == 0).all()
    assert (moved == 2).all()
    assert torch.equal(Dream(model).step(td.copy())["next", "observation"], own)


def test_a_model_without_reward():
    model = TensorDictModule(Move(), ["observation", "action"], ["observation"])
    dream = Dream(model)
    assert "reward" not in dream.rollout(2)["next"]
    assert not dream.reward_keys
    dream.reward_spec = Unbounded((1,))
    with pytest.raises(MissingKeyError, match="'reward' is not in what _step"):
        dream.rollout(1)


def test_seed():
    env = Dream(world_model())
    env.set_seed(4)
    first = env.reset()["observation"]
    env.set_seed(4)
    assert torch.equal(env.reset()["observation"], first)
