"""Networks that share a trunk: every loss trains it, or only those of the actor do."""

import pytest
import torch
from tensordict.nn import (
    NormalParamExtractor,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictSequential,
)
from torch import nn

from torchrl.objectives import (
    A2CLoss,
    ClipPPOLoss,
    CQLLoss,
    CrossQLoss,
    DDPGLoss,
    DiscreteIQLLoss,
    DiscreteSACLoss,
    IQLLoss,
    REDQLoss,
    ReinforceLoss,
    SACLoss,
    TD3BCLoss,
    TD3Loss,
    TQCLoss,
)
from torchrl.testing.networks import OBS, Concat, advantage_batch, independent_normal, one_hot, transitions

FEATURES, ACTIONS = 4, 2
OF_THE_ACTOR = {"loss_actor", "loss_actor_bc", "loss_objective"}
OF_CRITICS = {"loss_value", "loss_qvalue", "loss_cql", "loss_critic"}


class Networks:
    """An actor and critics on one trunk."""

    def __init__(self):
        self.trunk = TensorDictModule(nn.Linear(OBS, FEATURES), ["observation"], ["features"])

    def on_trunk(self, net, reads, writes):
        return TensorDictSequential(self.trunk, TensorDictModule(net, ["features", *reads], writes))

    def plain(self):
        return self.on_trunk(nn.Linear(FEATURES, ACTIONS), [], ["action"])

    def policy(self, outputs, names, kind):
        layers = [NormalParamExtractor()] if kind is independent_normal else []
        net = nn.Sequential(nn.Linear(FEATURES, outputs), *layers)
        return ProbabilisticTensorDictSequential(
            self.trunk,
            TensorDictModule(net, ["features"], names),
            ProbabilisticTensorDictModule(names, ["action"], distribution_class=kind),
        )

    def gaussian(self):
        return self.policy(2 * ACTIONS, ["loc", "scale"], independent_normal)

    def choice(self):
        return self.policy(ACTIONS, ["logits"], one_hot)

    def v(self):
        return self.on_trunk(nn.Linear(FEATURES, 1), [], ["state_value"])

    def q(self, out=1):
        return self.on_trunk(Concat(FEATURES + ACTIONS, out), ["action"], ["state_action_value"])

    def qs(self, out=1):
        return [self.q(out), self.q(out)]

    def discrete_qs(self):
        return [self.on_trunk(nn.Linear(FEATURES, ACTIONS), [], ["action_value"]) for _ in range(2)]


BOUNDS, SPACE = {"bounds": (-1, 1)}, {"action_space": "one_hot", "num_qvalue_nets": 2}
LOSSES = {
    "ddpg": lambda n, **kw: DDPGLoss(n.plain(), n.q(), **kw),
    "td3": lambda n, **kw: TD3Loss(n.plain(), n.qs(), **BOUNDS, **kw),
    "td3+bc": lambda n, **kw: TD3BCLoss(n.plain(), n.qs(), **BOUNDS, **kw),
    "sac": lambda n, **kw: SACLoss(n.gaussian(), n.qs(), **kw),
    "sac, first version": lambda n, **kw: SACLoss(n.gaussian(), n.qs(), n.v(), **kw),
    "redq": lambda n, **kw: REDQLoss(n.gaussian(), n.qs(), num_qvalue_nets=2, **kw),
    "crossq": lambda n, **kw: CrossQLoss(n.gaussian(), n.qs(), **kw),
    "tqc": lambda n, **kw: TQCLoss(n.gaussian(), n.qs(5), num_qvalue_nets=2, **kw),
    "cql": lambda n, **kw: CQLLoss(n.gaussian(), n.qs(), num_random=2, **kw),
    "iql": lambda n, **kw: IQLLoss(n.gaussian(), n.qs(), n.v(), **kw),
    "discrete sac": lambda n, **kw: DiscreteSACLoss(n.choice(), n.discrete_qs(), num_actions=ACTIONS, **SPACE, **kw),
    "discrete iql": lambda n, **kw: DiscreteIQLLoss(n.choice(), n.discrete_qs(), n.v(), **SPACE, **kw),
    "a2c": lambda n, **kw: A2CLoss(n.gaussian(), n.v(), **kw),
    "clip ppo": lambda n, **kw: ClipPPOLoss(n.gaussian(), n.v(), **kw),
    "reinforce": lambda n, **kw: ReinforceLoss(n.gaussian(), n.v(), **kw),
}


@pytest.mark.parametrize("name", LOSSES)
def test_who_trains_the_trunk(name):
    make = advantage_batch if name in ("a2c", "clip ppo", "reinforce") else transitions
    td = make(ACTIONS, discrete="discrete" in name)
    for separate in (False, True):
        networks = Networks()
        loss = LOSSES[name](networks, separate_losses=separate)
        weight = networks.trunk.module.weight
        out = loss(td.clone())
        trained = {*OF_THE_ACTOR} if separate else {*OF_THE_ACTOR, *OF_CRITICS}
        for key in out.keys() & (OF_THE_ACTOR | OF_CRITICS):
            (grad,) = torch.autograd.grad(out[key], weight, retain_graph=True, allow_unused=True)
            assert (grad is not None) == (key in trained), key
        assert sum(p is weight for p in loss.parameters()) == 1
        out.backward()
        assert all(p.grad is not None for p in loss.parameters())
