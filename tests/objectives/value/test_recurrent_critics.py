"""Critics that remember: the value of a next observation follows from all that came before it."""

import copy
import math

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

from torchrl.modules import GRUModule, LSTMModule, set_recurrent_mode
from torchrl.objectives import DistributionalDQNLoss, DQNLoss, QRDQNLoss
from torchrl.objectives.value import GAE, TD0Estimator, TDLambdaEstimator

OBS, HIDDEN = 3, 5
MAKE = {
    "gae": lambda critic, **kw: GAE(gamma=0.9, lmbda=0.8, value_network=critic, **kw),
    "td_lambda": lambda critic, **kw: TDLambdaEstimator(gamma=0.9, lmbda=0.8, value_network=critic, **kw),
    "td0": lambda critic, **kw: TD0Estimator(gamma=0.9, value_network=critic, **kw),
}


def recurrent_critic(kind):
    module = {"lstm": LSTMModule, "gru": GRUModule}[kind]
    memory = module(OBS, HIDDEN, in_key="observation", out_key="hidden")
    head = TensorDictModule(nn.Linear(HIDDEN, 1), ["hidden"], ["state_value"])
    return TensorDictSequential(memory, head)


def trajectories(critic):
    """Return trajectories ``[2, 3, 8]`` in pieces, each step with its state before and after."""
    lead, steps = (2, 3), 8
    done = torch.rand(*lead, steps, 1) < 0.3
    obs, after = torch.randn(*lead, steps, OBS), torch.randn(*lead, steps, OBS)
    obs[..., 1:, :] = torch.where(done[..., :-1, :], obs[..., 1:, :], after[..., :-1, :])
    is_init = torch.cat([torch.rand(*lead, 1, 1) < 0.5, done[..., :-1, :]], -2)
    names = critic.module[0].in_keys[1:-1]
    state = {name: torch.randn(*lead, 1, HIDDEN) for name in names}
    rows = []
    for t in range(steps):
        row = TensorDict(observation=obs[..., t, :], is_init=is_init[..., t, :], **state)
        row = TensorDict(row, batch_size=lead)
        row["next"] = critic.module[0](row.copy())["next"]
        row["next", "observation"] = after[..., t, :]
        row["next", "is_init"] = torch.zeros(*lead, 1, dtype=torch.bool)
        row["next", "reward"] = torch.randn(*lead, 1)
        row["next", "done"] = done[..., t, :]
        row["next", "terminated"] = done[..., t, :] & (torch.rand(*lead, 1) < 0.5)
        state = {name: row["next", name] for name in names}
        rows.append(row)
    return torch.stack(rows, -1).detach()


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("name", MAKE)
def test_sequences_give_what_single_steps_with_their_states_give(name, kind, shifted):
    critic = recurrent_critic(kind)
    td = trajectories(critic)
    expected = MAKE[name](critic)(td.copy())  # each step by itself, from the state it began with
    for state in critic.module[0].in_keys[1:-1]:  # not read: sequences make their own
        td["next", state] = torch.full_like(td["next", state], torch.nan)
        td[state][..., 1:, :, :] = torch.nan
    with set_recurrent_mode():
        out = MAKE[name](critic, shifted=shifted)(td.copy())
    for key in ("state_value", ("next", "state_value"), "value_target", "advantage"):
        torch.testing.assert_close(out[key], expected[key])


def test_next_values_of_a_target_critic_remember_too():
    critic = recurrent_critic("lstm")
    td = trajectories(critic)
    estimator = MAKE["td_lambda"](critic)
    other = copy.deepcopy(critic)
    with torch.no_grad():
        for parameter in other.module[1].parameters():
            parameter.mul_(2)
    own, target = (TensorDict.from_module(net) for net in (critic, other))
    expected = estimator(td.copy(), params=own, target_params=target)
    with set_recurrent_mode():
        out = estimator(td.copy(), params=own, target_params=target)
    for key in ("state_value", ("next", "state_value"), "value_target"):
        torch.testing.assert_close(out[key], expected[key])


def test_steps_of_several_transitions_have_no_sequence_in_common():
    critic = recurrent_critic("gru")
    td = trajectories(critic)
    td["steps_to_next_obs"] = torch.full((2, 3, 8), 2)
    with set_recurrent_mode():
        out = MAKE["td0"](critic)(td.copy())
        next_root = critic(td["next"].copy())["state_value"]
    torch.testing.assert_close(out["next", "state_value"], next_root.detach())


Q_LEARNING = {
    "dqn": lambda net, **kw: DQNLoss(net, action_space="categorical", **kw),
    "c51": lambda net, **kw: DistributionalDQNLoss(net, gamma=0.9, action_space="categorical", **kw),
    "quantiles": lambda net, **kw: QRDQNLoss(net, action_space="categorical", **kw),
}


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("name", Q_LEARNING)
def test_q_learning_on_sequences_is_that_on_single_steps_with_their_states(name, kind, double):
    atoms = {"dqn": (2,), "c51": (4, 2), "quantiles": (4, 2)}[name]
    memory = recurrent_critic(kind).module[0]
    head = nn.Sequential(nn.Linear(HIDDEN, math.prod(atoms)), nn.Unflatten(-1, atoms))
    if name == "c51":
        head.append(nn.LogSoftmax(-2))
    network = TensorDictSequential(memory, TensorDictModule(head, ["hidden"], ["action_value"]))
    network.support = torch.linspace(-1, 1, 4)
    loss = Q_LEARNING[name](network, double_dqn=double)
    with torch.no_grad():
        for parameter in loss.value_network.module[1].parameters():
            parameter.mul_(-2)  # the target network's choices are others
    td = trajectories(network)
    td["action"] = torch.randint(2, td.shape)
    step = td.copy()
    expected = loss(step)["loss"]
    for state in memory.in_keys[1:-1]:  # not read: sequences make their own
        td["next", state] = torch.full_like(td["next", state], torch.nan)
        td[state][..., 1:, :, :] = torch.nan
    with set_recurrent_mode():
        torch.testing.assert_close(loss(td)["loss"], expected)
    torch.testing.assert_close(td["td_error"], step["td_error"])
