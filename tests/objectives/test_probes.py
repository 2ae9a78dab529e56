"""A probe whose values are known, solved by every loss that has a critic to bootstrap.

Of the probes, this file has the constant reward, the discount of two steps and the chain that is
only truncated; ``test_learning_continuous.py``, ``test_memory_probe.py`` and ``test_trap_probe.py``
the rewards that depend on observation and action, those that depend on memory, and the trap that a
mask closes. Not here are the losses that bootstrap from nothing: ``BCLoss``, ``DTLoss``,
``OnlineDTLoss`` and ``GAILLoss`` imitate, ``RNDLoss`` regresses on a random network, and Dreamer's
learn a task of their own in ``test_dreamer.py``.

Four states, discount 1/2: ``0`` rewards 1 and ends (a constant reward); ``1`` leads to ``2``, which
rewards 1 and ends (a reward two steps away); ``3`` leads to itself and rewards 1, in episodes that
are truncated after each step, so that its value is 2.
"""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import (
    NormalParamExtractor,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
)
from torch import nn
from torch.nn.functional import one_hot

from tests.objectives.learners import ALL, ON_POLICY, TEAMS, Tables, action_values, learn, put
from torchrl._core.exploration import set_exploration_type
from torchrl.objectives import CQLLoss, CrossQLoss, DDPGLoss, IQLLoss, REDQLoss, SACLoss, TD3BCLoss, TD3Loss, TQCLoss
from torchrl.testing.networks import independent_normal

STATES, VALUES = 4, torch.tensor([1.0, 0.5, 1.0, 2.0])
BOUNDS = (-1.0, 1.0)


class Table(nn.Module):
    """Values of states; the action makes no difference."""

    def __init__(self, outputs=1):
        super().__init__()
        self.net = nn.Linear(STATES, outputs, bias=False)

    def forward(self, observation, *action):
        return self.net(observation)


def q(outputs=1):
    return TensorDictModule(Table(outputs), ["observation", "action"], ["state_action_value"])


def v():
    return TensorDictModule(Table(), ["observation"], ["state_value"])


def pi():
    return TensorDictModule(nn.Linear(STATES, 1), ["observation"], ["action"])


def gaussian():
    net = nn.Sequential(nn.Linear(STATES, 2), NormalParamExtractor())
    return ProbabilisticTensorDictSequential(
        TensorDictModule(net, ["observation"], ["loc", "scale"]),
        ProbabilisticTensorDictModule(["loc", "scale"], ["action"], distribution_class=independent_normal),
    )


COLD = {"alpha_init": 1e-6, "fixed_alpha": True, "gamma": 0.5}
LOSSES = {
    "ddpg": lambda: DDPGLoss(pi(), q(), gamma=0.5),
    "td3": lambda: TD3Loss(pi(), q(), bounds=BOUNDS, gamma=0.5),
    "td3+bc": lambda: TD3BCLoss(pi(), q(), bounds=BOUNDS, gamma=0.5),
    "sac": lambda: SACLoss(gaussian(), q(), **COLD),
    "sac, first version": lambda: SACLoss(gaussian(), q(), v(), **COLD),
    "redq": lambda: REDQLoss(gaussian(), q(), num_qvalue_nets=3, min_alpha=None, **COLD),
    "crossq": lambda: CrossQLoss(gaussian(), q(), **COLD),
    "tqc": lambda: TQCLoss(gaussian(), q(5), num_qvalue_nets=2, top_quantiles_to_drop_per_net=1, **COLD),
    "cql": lambda: CQLLoss(gaussian(), q(), num_random=2, **COLD),
    "iql": lambda: IQLLoss(gaussian(), q(), v(), gamma=0.5),
}


def steps():
    now = torch.arange(STATES).repeat(8)
    ended = ((now == 0) | (now == 2)).unsqueeze(-1)
    after = TensorDict(
        observation=one_hot(torch.tensor([0, 2, 2, 3])[now], STATES).float(),
        reward=(now != 1).float().unsqueeze(-1),
        terminated=ended,
        done=ended | (now == 3).unsqueeze(-1),
        batch_size=now.shape,
    )
    td = TensorDict(observation=one_hot(now, STATES).float(), next=after, batch_size=now.shape)
    return td.set("action", torch.rand(*now.shape, 1) * 2 - 1)


@pytest.mark.parametrize("name", LOSSES)
def test_values_of_the_probe(name):
    loss = LOSSES[name]()
    learn(loss, (steps() for _ in range(90)), 0.08)
    critics = loss.value_network if name == "ddpg" else loss.network("qvalue_network")[0]
    values = critics.module(torch.eye(STATES)).mean(-1)  # of quantiles
    assert (values - VALUES).abs().max() < 0.1, values


@torch.no_grad()
def choices(loss, name):
    """The same steps with choices, by a policy or at random, as trajectories of one step each."""
    td, is_team = steps().unsqueeze(-1), name in TEAMS
    put(td["next"], is_team, observation=td["next", "observation"])
    action = one_hot(torch.randint(2, td.shape), 2)
    put(td, is_team, observation=td["observation"], action=action)
    if name in ON_POLICY:
        with set_exploration_type("random"):
            loss.actor_network(td)
    return td


@pytest.mark.parametrize("name", ALL)
def test_values_of_the_probe_with_choices(name):
    loss, is_team = ALL[name](Tables(STATES, 2, name in TEAMS)), name in TEAMS
    learn(loss, (choices(loss, name) for _ in range(90)), 0.08)
    td = put(TensorDict(batch_size=[STATES]), is_team, observation=torch.eye(STATES))
    if name in ON_POLICY:
        values = loss.critic_network(td)[("agents", "state_value") if is_team else "state_value"]
    else:
        values = action_values(name, loss, td)
    assert (values.reshape(STATES, -1) - VALUES.unsqueeze(-1)).abs().max() < 0.1, values
