"""Probe environments whose values are known, solved by every loss that has a critic to bootstrap.

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

from torchrl.modules import QValueActor
from torchrl.objectives import (
    CrossQLoss,
    DDPGLoss,
    DiscreteIQLLoss,
    DiscreteSACLoss,
    DQNLoss,
    IQLLoss,
    REDQLoss,
    SACLoss,
    SoftUpdate,
    TD3BCLoss,
    TD3Loss,
    TQCLoss,
)
from torchrl.testing.networks import independent_normal, one_hot

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


def discrete_q():
    return TensorDictModule(Table(2), ["observation"], ["action_value"])


def pi():
    return TensorDictModule(nn.Linear(STATES, 1), ["observation"], ["action"])


def gaussian():
    net = nn.Sequential(nn.Linear(STATES, 2), NormalParamExtractor())
    return ProbabilisticTensorDictSequential(
        TensorDictModule(net, ["observation"], ["loc", "scale"]),
        ProbabilisticTensorDictModule(
            ["loc", "scale"], ["action"], distribution_class=independent_normal
        ),
    )


def choice():
    return ProbabilisticTensorDictSequential(
        TensorDictModule(nn.Linear(STATES, 2), ["observation"], ["logits"]),
        ProbabilisticTensorDictModule(["logits"], ["action"], distribution_class=one_hot),
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
    "tqc": lambda: TQCLoss(
        gaussian(), q(5), num_qvalue_nets=2, top_quantiles_to_drop_per_net=1, **COLD
    ),
    "iql": lambda: IQLLoss(gaussian(), q(), v(), gamma=0.5),
    "discrete iql": lambda: DiscreteIQLLoss(
        choice(), discrete_q(), v(), action_space="one_hot", gamma=0.5
    ),
    "discrete sac": lambda: DiscreteSACLoss(
        choice(), discrete_q(), action_space="one_hot", target_entropy=0.0, **COLD
    ),
}


def steps(discrete):
    now = torch.arange(STATES).repeat(8)
    ended = (now == 0) | (now == 2)
    size = now.shape
    one_hot_of = nn.functional.one_hot
    after = TensorDict(
        observation=one_hot_of(torch.tensor([0, 2, 2, 3])[now], STATES).float(),
        reward=(now != 1).float().unsqueeze(-1),
        terminated=ended.unsqueeze(-1),
        done=(ended | (now == 3)).unsqueeze(-1),
        batch_size=size,
    )
    action = torch.rand(*size, 1) * 2 - 1
    if discrete:
        action = one_hot_of(torch.randint(2, size), 2)
    return TensorDict(
        observation=one_hot_of(now, STATES).float(), action=action, next=after, batch_size=size
    )


@pytest.mark.parametrize("name", LOSSES)
def test_values_of_the_probes(name):
    loss, discrete = LOSSES[name](), name.startswith("discrete")
    optimizer = torch.optim.Adam(loss.parameters(), 0.08)
    updater = SoftUpdate(loss, tau=0.3) if loss.target_pairs() else None
    for _ in range(90):
        loss(steps(discrete)).backward()
        optimizer.step()
        optimizer.zero_grad()
        if updater is not None:
            updater.step()
    critics = loss.value_network if name == "ddpg" else loss.qvalue_network[0]
    values = critics.module(torch.eye(STATES)).mean(-1)  # of quantiles, or of both actions
    assert (values - VALUES).abs().max() < 0.1, values


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("minds", [True, False])
def test_a_trap_that_the_mask_closes(double, minds):
    """An action that is never possible seems the best; a loss that minds the mask is not lured."""
    net = TensorDictModule(nn.Linear(2, 2, bias=False), ["observation"], ["action_value"])
    nn.init.zeros_(net.module.weight)
    net.module.weight.data[1, 1] = 9.0  # the trap, in state 1
    mask_key = {"action_mask_key": "action_mask"} if minds else {}
    actor = QValueActor(net, action_space="one_hot", in_keys=["observation"], **mask_key)
    loss = DQNLoss(actor, gamma=0.5, double_dqn=double)
    optimizer, updater = torch.optim.Adam(loss.parameters(), 0.05), SoftUpdate(loss, tau=0.3)
    eye, possible = torch.eye(2), torch.tensor([[True, True], [True, False]])
    last = torch.tensor([[False], [True]])
    td = TensorDict(
        observation=eye,
        action=torch.tensor([[1, 0], [1, 0]]),
        action_mask=possible,
        next=TensorDict(
            observation=eye[[1, 1]],
            action_mask=possible[[1, 1]],
            reward=last.float(),
            done=last,
            terminated=last,
            batch_size=[2],
        ),
        batch_size=[2],
    )
    for _ in range(150):
        loss(td)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        updater.step()
    first = net.module(eye)[0, 0]
    assert (abs(first - 0.5) < 0.1) == minds, first
