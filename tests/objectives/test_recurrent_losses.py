"""Losses of networks with a memory: sequences give what single steps with their states give."""

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
from torch import distributions as d
from torch import nn

from torchrl._core.exploration import set_exploration_type
from torchrl.modules import GRUModule, LSTMModule, set_recurrent_mode
from torchrl.objectives import (
    CQLLoss,
    CrossQLoss,
    DDPGLoss,
    DiscreteCQLLoss,
    DiscreteIQLLoss,
    DiscreteSACLoss,
    IQLLoss,
    QMixerLoss,
    REDQLoss,
    SACLoss,
    TD3BCLoss,
    TD3Loss,
    TQCLoss,
)
from torchrl.testing.networks import one_hot

OBS, ACTION, CHOICES, AGENTS, HIDDEN = 3, 2, 3, 2, 4
LEAD, STEPS = (2, 3), 8
BOUNDS = {"bounds": (-1.0, 1.0)}


class WithoutChance(d.Normal):
    """Draws the same number of deviations at each call."""

    def rsample(self, shape=()):
        return (self.loc + 0.3 * self.scale).expand(self._extended_shape(shape))


def normal(loc, scale):
    return d.Independent(WithoutChance(loc, scale), 1)


class Joined(nn.Module):
    def forward(self, *parts):
        return torch.cat(parts, -1)


class JoinedTeam(nn.Module):
    def forward(self, obs, values):
        return torch.cat([obs, values.flatten(-2)], -1)


class Networks:
    """Networks with memories of what they read; those of critics hold the actions, too."""

    def __init__(self, cell):
        self.cell = cell

    def remembering(self, name, reads, outputs, head, size=OBS, join=None):
        """A memory under its own name of all that is read, then a head."""
        states = [f"{name}_memory_{i}" for i in range(2 if self.cell is LSTMModule else 1)]
        afterwards = [("next", state) for state in states]
        memory = self.cell(size, HIDDEN, in_keys=[f"{name}_input", *states], out_keys=[f"{name}_hidden", *afterwards])
        net = nn.Sequential(nn.Linear(HIDDEN, head[0]), *head[1:])
        return TensorDictSequential(
            TensorDictModule(join or Joined(), reads, [f"{name}_input"]),
            memory,
            TensorDictModule(net, [f"{name}_hidden"], outputs),
        )

    def actor(self):
        head = (2 * ACTION, NormalParamExtractor())
        net = self.remembering("actor", ["observation"], ["loc", "scale"], head)
        return ProbabilisticTensorDictSequential(
            net, ProbabilisticTensorDictModule(["loc", "scale"], ["action"], distribution_class=normal)
        )

    def hand(self):
        return self.remembering("actor", ["observation"], ["action"], (ACTION, nn.Tanh()))

    def critic(self, count=1):
        reads, size = ["observation", "action"], OBS + ACTION
        return self.remembering("critic", reads, ["state_action_value"], (count,), size)

    def value(self):
        return self.remembering("value", ["observation"], ["state_value"], (1,))

    def choosing(self):
        logits = self.remembering("actor", ["observation"], ["logits"], (CHOICES,))
        choice = ProbabilisticTensorDictModule(["logits"], ["action"], distribution_class=one_hot)
        return ProbabilisticTensorDictSequential(logits, choice)

    def action_values(self):
        return self.remembering("critic", ["observation"], ["action_value"], (CHOICES,))

    def mixer(self):
        reads = ["observation", ("agents", "chosen_action_value")]
        writes, size = ["chosen_action_value"], OBS + AGENTS
        return self.remembering("mixer", reads, writes, (1,), size, JoinedTeam())


def agents():
    net = nn.Linear(OBS, CHOICES)
    return TensorDictModule(net, [("agents", "observation")], [("agents", "action_value")])


LOSSES = {
    "sac": lambda n: SACLoss(n.actor(), n.critic()),
    "sac, skipping": lambda n: SACLoss(n.actor(), n.critic(), skip_done_states=True),
    "sac, delayed": lambda n: SACLoss(n.actor(), n.critic(), delay_actor=True),
    "sac, first version": lambda n: SACLoss(n.actor(), n.critic(), n.value()),
    "discrete sac": lambda n: DiscreteSACLoss(
        n.choosing(), n.action_values(), action_space="one_hot", num_actions=CHOICES
    ),
    "td3": lambda n: TD3Loss(n.hand(), n.critic(), policy_noise=0.0, **BOUNDS),
    "td3 + bc": lambda n: TD3BCLoss(n.hand(), n.critic(), policy_noise=0.0, **BOUNDS),
    "ddpg": lambda n: DDPGLoss(n.hand(), n.critic(), delay_actor=True),
    "redq": lambda n: REDQLoss(n.actor(), n.critic(), num_qvalue_nets=3, sub_sample_len=3),
    "crossq": lambda n: CrossQLoss(n.actor(), n.critic()),
    "tqc": lambda n: TQCLoss(n.actor(), n.critic(5)),
    "iql": lambda n: IQLLoss(n.actor(), n.critic(), n.value()),
    "discrete iql": lambda n: DiscreteIQLLoss(n.choosing(), n.action_values(), n.value(), action_space="one_hot"),
    "cql": lambda n: CQLLoss(n.actor(), n.critic(), num_random=2),
    "cql, best": lambda n: CQLLoss(n.actor(), n.critic(), num_random=2, max_q_backup=True),
    "discrete cql": lambda n: DiscreteCQLLoss(n.action_values(), action_space="one_hot"),
    "qmix": lambda n: QMixerLoss(agents(), n.mixer(), action_space="categorical"),
}
DISCRETE = {"discrete sac", "discrete iql", "discrete cql"}


def share_memories(loss):
    """Give networks of one name one memory, so that a batch can hold its state; heads differ."""
    first = {}
    for module in loss.modules():
        if isinstance(module, GRUModule | LSTMModule):
            twin = first.setdefault(module.in_keys[0], module).state_dict()
            for name, value in module.state_dict().items():
                value.copy_(twin[name] if twin[name].ndim <= value.ndim else twin[name][0])  # stacked or not
    with torch.no_grad():
        for name, module in loss.named_modules():
            is_target = name.startswith("target_") and "local" not in name
            if is_target and isinstance(module, nn.Linear):
                module.weight.mul_(1.5)


def trajectories(loss, name):
    """Return trajectories ``[2, 3, 8]`` with several episodes, and the states of each step."""
    size = (*LEAD, STEPS)
    ends = torch.rand(*size, 1) < 0.4
    obs, after = torch.randn(*size, OBS), torch.randn(*size, OBS)
    obs[..., 1:, :] = torch.where(ends[..., :-1, :], obs[..., 1:, :], after[..., :-1, :])
    td = TensorDict(observation=obs, batch_size=size)
    td["action"] = torch.rand(*size, ACTION) * 2 - 1
    if name in DISCRETE:
        td["action"] = nn.functional.one_hot(torch.randint(CHOICES, size), CHOICES)
    if name == "qmix":
        td["agents", "observation"] = torch.randn(*size, AGENTS, OBS)
        td["agents", "action"] = torch.randint(CHOICES, (*size, AGENTS))
    td["is_init"] = torch.cat([torch.rand(*LEAD, 1, 1) < 0.5, ends[..., :-1, :]], -2)
    td["next", "observation"] = after
    td["next", "is_init"] = torch.zeros_like(ends)
    td["next", "reward"] = torch.randn(*size, 1)
    td["next", "done"] = ends
    td["next", "terminated"] = ends & (torch.rand(*size, 1) < 0.5)
    if name == "qmix":
        td["next", "agents", "observation"] = torch.randn(*size, AGENTS, OBS)
        values = loss.target("local_value_network")(td.copy())["agents", "action_value"]
        chosen = values.gather(-1, td["agents", "action"].unsqueeze(-1))
    memories, states = [], []
    for network in loss.named_networks().values():
        network = network[0] if isinstance(network, nn.ModuleList) else network
        if any(isinstance(part, GRUModule | LSTMModule) for part in network.modules()):
            memories.append(network)
    for network in memories:
        module = next(m for m in network.modules() if isinstance(m, GRUModule | LSTMModule))
        state = {key: torch.randn(*LEAD, 1, HIDDEN) for key in module.in_keys[1:-1]}
        if set(state) & set(states):
            continue  # of a target copy, which remembers the same
        states += state
        rows = td.copy()
        if name == "qmix":
            rows["agents", "chosen_action_value"] = chosen
        before, later = [], []
        for t in range(STEPS):
            row = rows[..., t].copy().update(state)
            before.append(dict(state))
            with set_exploration_type("random"):
                out = network(row)
            state = {key: out["next", key].detach() for key in state}
            later.append(state)
        for key in state:
            td[key] = torch.stack([row[key] for row in before], len(LEAD))
            td["next", key] = torch.stack([row[key] for row in later], len(LEAD))
    return td.detach(), states


def run(loss, td):
    torch.manual_seed(1)
    return loss(td)


@pytest.mark.parametrize("cell", [LSTMModule, GRUModule])
@pytest.mark.parametrize("name", LOSSES)
def test_sequences_give_what_single_steps_with_their_states_give(name, cell):
    loss = LOSSES[name](Networks(cell))
    share_memories(loss)
    td, states = trajectories(loss, name)
    steps = td.copy()
    expected = run(loss, steps)
    for state in states:  # not read: sequences make their own
        td["next", state] = torch.full_like(td["next", state], torch.nan)
        td[state][..., 1:, :, :] = torch.nan
    with set_recurrent_mode():
        out = run(loss, td)
    assert states
    for key, value in expected.items():
        torch.testing.assert_close(out[key], value, msg=lambda text, key=key: f"{key}: {text}")
    torch.testing.assert_close(td["td_error"], steps["td_error"])
