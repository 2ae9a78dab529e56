"""What only memory can learn: the first observation names the right last action."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import (
    NormalParamExtractor,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictSequential,
)
from torch import nn

from tests.objectives.learners import AGENTS, ALL, OFF_POLICY, SEVERAL_EPOCHS, TEAMS, action_values, learn, networks_of
from torchrl._core.exploration import set_exploration_type
from torchrl.data import Bounded
from torchrl.modules import MLP, GRUModule, LSTMModule, TanhNormal, set_recurrent_mode
from torchrl.objectives import SACLoss, TD3Loss
from torchrl.testing.networks import one_hot

OBS, ACTIONS, STEPS, HIDDEN = 3, 2, 2, 16
EPISODES = 64


def remembering(cell, head, *names, beside=()):
    """A head on what a memory of its own holds, and on entries beside."""
    name = names[0]
    states = [f"memory_{i}_of_{name}" for i in range(2 if cell is LSTMModule else 1)]
    rnn = cell(
        OBS,
        HIDDEN,
        in_keys=["observation", *states],
        out_keys=[f"hidden_of_{name}", *(("next", state) for state in states)],
    )
    head = TensorDictModule(head, [f"hidden_of_{name}", *beside], list(names))
    return TensorDictSequential(rnn, head)


class OfEach(nn.Module):
    """Runs along the time of every agent, ``[N, T, n, F]``: recurrent modules know no agents."""

    def __init__(self, outputs):
        super().__init__()
        self.rnn, self.head = nn.GRU(OBS, HIDDEN, batch_first=True), nn.Linear(HIDDEN, outputs)

    def forward(self, x):
        agents = x.transpose(-3, -2)  # [N, n, T, F]
        hidden, _ = self.rnn(agents.flatten(0, -3))
        return self.head(hidden.unflatten(0, agents.shape[:-2])).transpose(-3, -2)


class Networks:
    """Networks with a memory of their own each, or without any."""

    choice = {}

    def __init__(self, cell, is_team):
        self.cell, self.is_team = cell, is_team

    def key(self, name):
        return ("agents", name) if self.is_team else name

    def network(self, name, outputs, shape=()):
        shaped = [nn.Unflatten(-1, shape)] if shape else []
        if self.is_team and self.cell:
            net = OfEach(outputs)
            return TensorDictModule(net, [self.key("observation")], [self.key(name)])
        if self.cell is None:
            net = nn.Sequential(nn.Linear(OBS, outputs), *shaped)
            return TensorDictModule(net, [self.key("observation")], [self.key(name)])
        head = nn.Sequential(nn.Linear(HIDDEN, outputs), *shaped)
        return remembering(self.cell, head, name)

    def policy(self):
        logits, action = self.key("logits"), self.key("action")
        choose = ProbabilisticTensorDictModule(
            {"logits": logits}, [action], distribution_class=one_hot, return_log_prob=True
        )
        return ProbabilisticTensorDictSequential(self.network("logits", ACTIONS), choose)

    def state_value(self):
        return self.network("state_value", 1)

    def action_value(self, count=1):
        shape = () if count == 1 else (count, ACTIONS)
        return self.network("action_value", count * ACTIONS, shape)


def episodes(is_team):
    """Observations, none of which depends on an action, and the right last actions."""
    group = (AGENTS,) if is_team else ()
    right = torch.randint(ACTIONS, (EPISODES, *group))
    obs = torch.zeros(EPISODES, STEPS, *group, OBS)
    obs[:, 0, ..., :2] = nn.functional.one_hot(right, 2).float()
    obs[..., 2] = torch.linspace(0, 1, STEPS).reshape(-1, *(1,) * len(group))
    last = torch.zeros(EPISODES, STEPS, 1, dtype=torch.bool)
    last[:, -1] = True
    td = TensorDict(is_init=last.flip(1), batch_size=[EPISODES, STEPS])
    never = torch.zeros_like(last)
    after = TensorDict(done=last, terminated=last, is_init=never, batch_size=td.batch_size)
    key = ("agents", "observation") if is_team else "observation"
    td[key], after[key] = obs, obs.roll(-1, 1)
    return td.set("next", after), right


def remember(loss, td):
    """Run all networks along the episodes, and write what each remembers before a step."""
    with set_exploration_type("random"):
        for network in networks_of(loss).values():
            network(td)
    for key in [key for key in td["next"].keys(True) if "memory" in key]:
        after = td["next", key]
        td[key] = torch.cat([torch.zeros_like(after[:, :1]), after[:, :-1]], 1)


@torch.no_grad()
def rollouts(loss, name, count):
    """Act by the policy that is learnt, or at random, and reward the last actions."""
    is_team = name in TEAMS
    action = ("agents", "action") if is_team else "action"
    for _ in range(count):
        td, right = episodes(is_team)
        remember(loss, td)
        if name in OFF_POLICY:
            choice = torch.randint(ACTIONS, (EPISODES, STEPS, *right.shape[1:]))
            td[action] = nn.functional.one_hot(choice, ACTIONS)
        hits = td[action][:, -1].argmax(-1) == right
        td["next", "reward"] = reward = torch.zeros(EPISODES, STEPS, 1)
        reward[:, -1, 0] = hits.float().reshape(EPISODES, -1).mean(-1)
        yield td


@torch.no_grad()
def share_of_right_choices(loss, name):
    td, right = episodes(name in TEAMS)
    if hasattr(loss, "actor_network"):
        scores = loss.actor_network(td)[("agents", "logits") if name in TEAMS else "logits"]
    else:
        scores = action_values(name, loss, td)
    return (scores[:, -1].argmax(-1) == right).float().mean().item()


def score(name, cell):
    loss = ALL[name](Networks(cell, name in TEAMS))
    batches, epochs = (40, 3) if name in SEVERAL_EPOCHS else (120, 1)
    with set_recurrent_mode():
        learn(loss, rollouts(loss, name, batches), 0.02, epochs)
        return share_of_right_choices(loss, name)


LSTMS = {"ppo", "kl ppo", "double dqn", "c51", "discrete cql", "discrete sac"}


@pytest.mark.parametrize("name", ALL)
def test_with_memory(name):
    assert score(name, LSTMModule if name in LSTMS else GRUModule) > 0.9


@pytest.mark.parametrize("name", ["a2c", "dqn", "qmix"])
def test_without_memory_it_is_a_guess(name):
    assert score(name, None) < 0.75


def mlp(inputs, outputs):
    return MLP(inputs, outputs, num_cells=[32], activation_class=nn.Tanh)


def hand():
    """A policy without chance."""
    return remembering(GRUModule, nn.Sequential(mlp(HIDDEN, 1), nn.Tanh()), "action")


def sampling_hand():
    head = nn.Sequential(mlp(HIDDEN, 2), NormalParamExtractor())
    draw = ProbabilisticTensorDictModule(
        ["loc", "scale"], ["action"], distribution_class=TanhNormal, return_log_prob=True
    )
    return ProbabilisticTensorDictSequential(remembering(GRUModule, head, "loc", "scale"), draw)


def judge():
    return remembering(GRUModule, mlp(HIDDEN + 1, 1), "state_action_value", beside=["action"])


RANGE = Bounded(-1, 1, (1,))
CONTINUOUS = {
    "td3": lambda: TD3Loss(hand(), judge(), action_spec=RANGE),
    "sac": lambda: SACLoss(sampling_hand(), judge(), action_spec=RANGE, alpha_init=0.1),
}


@torch.no_grad()
def throws(loss, count):
    """Act at random, and reward last actions that are near to 0.5, on the right side."""
    for _ in range(count):
        td, right = episodes(is_team=False)
        td["action"] = action = 2 * torch.rand(EPISODES, STEPS, 1) - 1
        remember(loss, td)
        td["action"] = action
        td["next", "reward"] = reward = torch.zeros(EPISODES, STEPS, 1)
        reward[:, -1, 0] = 1 - (action[:, -1, 0] + 0.5 - right).square()
        yield td


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous_actions_with_memory(name):
    loss = CONTINUOUS[name]()
    with set_recurrent_mode():
        learn(loss, throws(loss, 800), 0.004)
        td, right = episodes(is_team=False)
        with torch.no_grad(), set_exploration_type("deterministic"):
            action = loss.actor_network(td)["action"][:, -1, 0]
    assert (action + 0.5 - right).abs().mean() < 0.25  # without memory, half at best
