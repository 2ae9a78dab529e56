"""Every algorithm for discrete actions, built from the networks that a probe hands it.

What a probe hands over makes networks by name: ``policy()``, ``state_value()``, and
``action_value(count)``, with one value of each action, or ``count`` quantiles or atoms of it; its
``choice`` are arguments of what picks an action, such as the name of a mask.
"""

import torch
from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential, TensorDictModule
from torch import nn

from torchrl.modules import DistributionalQValueActor, MaskedOneHotCategorical, OneHotCategorical, QValueActor
from torchrl.objectives import (
    A2CLoss,
    ClipPPOLoss,
    DiscreteCQLLoss,
    DiscreteIQLLoss,
    DiscreteSACLoss,
    DistributionalDQNLoss,
    DQNLoss,
    IPPOLoss,
    KLPENPPOLoss,
    MAPPOLoss,
    PPOLoss,
    QMixerLoss,
    QRDQNLoss,
    ReinforceLoss,
    SoftUpdate,
)

GAMMA, ATOMS, AGENTS, LURE = 0.5, 21, 2, 30.0
SUPPORT = torch.linspace(-1.0, 3.0, ATOMS)
ONE_HOT = {"action_space": "one_hot"}
COLD = {"alpha_init": 1e-3, "fixed_alpha": True, "target_entropy": 0.0}
LONE = {"num_qvalue_nets": 1}  # of two critics, one may be free of what deceives the other


def on_policy(kind, **options):
    """Much entropy, since a policy that settles early settles on a guess."""
    curious = {"entropy_bonus": True, "entropy_coeff": 0.2, "gamma": GAMMA, "lmbda": 0.9}
    return lambda networks: kind(networks.policy(), networks.state_value(), **curious, **options)


def impala(networks):
    return on_policy(A2CLoss)(networks).make_value_estimator("vtrace")


ON_POLICY = {
    "a2c": on_policy(A2CLoss),
    "a2c on v-trace": impala,
    "reinforce": on_policy(ReinforceLoss),
    "ppo": on_policy(PPOLoss),
    "clip ppo": on_policy(ClipPPOLoss, normalize_advantage=True),
    "kl ppo": on_policy(KLPENPPOLoss, dtarg=0.1),
    "mappo": on_policy(MAPPOLoss),
    "ippo": on_policy(IPPOLoss),
}
SEVERAL_EPOCHS = {"ppo", "clip ppo", "kl ppo", "mappo", "ippo"}
CRITICS = ("qvalue_network", "value_network", "local_value_network")
TEAMS = {"mappo", "ippo", "qmix"}


def on_values(kind, count=1, **options):
    return lambda networks: kind(
        QValueActor(networks.action_value(count), **ONE_HOT, **networks.choice), gamma=GAMMA, **options
    )


def c51(networks):
    net = DistributionalQValueActor(networks.action_value(ATOMS), SUPPORT, **ONE_HOT, **networks.choice)
    return DistributionalDQNLoss(net, gamma=GAMMA)


def discrete_sac(networks):
    actor, critic = networks.policy(), networks.action_value()
    return DiscreteSACLoss(actor, critic, gamma=GAMMA, **COLD, **LONE, **ONE_HOT)


def discrete_iql(networks):
    actor, critic, value = networks.policy(), networks.action_value(), networks.state_value()
    return DiscreteIQLLoss(actor, critic, value, gamma=GAMMA, temperature=5.0, **LONE, **ONE_HOT)


class Mean(nn.Module):
    """The value of a team is the mean of its agents' values."""

    def forward(self, values):
        return values.mean(-2)


def qmix(networks):
    names = ("action", "action_value", "chosen_action_value")
    keys = {f"{name}_key": ("agents", name) for name in names}
    local = QValueActor(networks.action_value(), **keys, **ONE_HOT, **networks.choice)
    mixer = TensorDictModule(Mean(), [keys["chosen_action_value_key"]], ["chosen_action_value"])
    return QMixerLoss(local, mixer, gamma=GAMMA)


OFF_POLICY = {
    "dqn": on_values(DQNLoss),
    "double dqn": on_values(DQNLoss, double_dqn=True),
    "c51": c51,
    "qr-dqn": on_values(QRDQNLoss, count=5),
    "discrete cql": on_values(DiscreteCQLLoss),
    "discrete sac": discrete_sac,
    "discrete iql": discrete_iql,
    "qmix": qmix,
}
ALL = {**ON_POLICY, **OFF_POLICY}


def learn(loss, batches, lr, epochs=1):
    """Descend the sum of the losses on each batch; targets follow."""
    optimizer = torch.optim.Adam(loss.parameters(), lr)
    updater = SoftUpdate(loss, tau=0.3) if loss.target_pairs() else None
    for td in batches:
        for _ in range(epochs):
            loss(td).backward()
            optimizer.step()
            optimizer.zero_grad()
            if updater is not None:
                updater.step()


def networks_of(loss):
    """The networks that are trained, one of each ensemble."""
    return {n: m[0] if isinstance(m, nn.ModuleList) else m for n, m in loss.named_networks().items()}


@torch.no_grad()
def action_values(name, loss, td):
    """The expected values of actions that an algorithm believes in."""
    networks = networks_of(loss)
    critic = next(networks[n] for n in CRITICS if n in networks)
    if isinstance(critic, QValueActor):
        critic = critic[0]  # what chooses knows no quantiles
    values = critic(td.copy())[("agents", "action_value") if name in TEAMS else "action_value"]
    if name == "c51":
        return (values.exp() * SUPPORT.unsqueeze(-1)).sum(-2)
    return values.mean(-2) if name == "qr-dqn" else values


class Tables:
    """Linear networks, at first 0 but for a ``trap``: (action, state) that seems best by far."""

    def __init__(self, states, actions, is_team, trap=(), minds=False):
        self.states, self.actions, self.trap = states, actions, trap
        self.is_team, self.minds = is_team, minds
        self.choice = {"action_mask_key": self.key("mask")} if minds else {}

    def key(self, name):
        return ("agents", name) if self.is_team else name

    def network(self, name, outputs, trap=(), shape=()):
        table = nn.Linear(self.states, outputs, bias=False)
        nn.init.zeros_(table.weight)
        for output, state in trap:
            table.weight.data[output, state] = LURE
        net = nn.Sequential(table, nn.Unflatten(-1, shape)) if shape else table
        return TensorDictModule(net, [self.key("observation")], [self.key(name)])

    def policy(self):
        reads = ["logits", "mask"] if self.minds else ["logits"]
        choose = ProbabilisticTensorDictModule(
            {name: self.key(name) for name in reads},
            [self.key("action")],
            distribution_class=MaskedOneHotCategorical if self.minds else OneHotCategorical,
            return_log_prob=True,
        )
        return ProbabilisticTensorDictSequential(self.network("logits", self.actions, self.trap), choose)

    def state_value(self):
        return self.network("state_value", 1)

    def action_value(self, count=1):
        if count == 1:
            return self.network("action_value", self.actions, self.trap)
        rows = [count - 1] if count == ATOMS else range(count)  # the highest atom, or all
        trap = [(row * self.actions + action, state) for row in rows for action, state in self.trap]
        return self.network("action_value", count * self.actions, trap, (count, self.actions))


def put(td, is_team, **entries):
    """Write entries ``[*B, F]``, for every agent of a team the same."""
    for name, value in entries.items():
        if is_team:
            td["agents", name] = value.unsqueeze(-2).expand(*td.shape, AGENTS, value.shape[-1])
        else:
            td[name] = value
    return td
