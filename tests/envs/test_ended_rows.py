"""Masks that allow nothing: an error where an episode goes on, of no matter where it has ended."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictSequential,
)
from torch import nn

from torchrl.collectors import Collector, split_trajectories
from torchrl.data import Binary, Categorical, Composite, OneHot, Unbounded
from torchrl.envs import EnvBase, SerialEnv, TransformedEnv, set_exploration_type
from torchrl.envs.transforms import ActionMask
from torchrl.modules import (
    DistributionalQValueActor,
    EGreedyModule,
    MaskedCategorical,
    MaskedOneHotCategorical,
    ProbabilisticActor,
    QValueActor,
    QValueModule,
    ValueOperator,
)
from torchrl.objectives import (
    DiscreteCQLLoss,
    DiscreteIQLLoss,
    DiscreteSACLoss,
    DistributionalDQNLoss,
    DQNLoss,
    QMixerLoss,
)
from torchrl.objectives.value import TD0Estimator
from torchrl.testing.networks import mixing_networks, team

CHOICES = 3


class Countdown(EnvBase):
    """Row ``i`` ends after ``i + 1`` steps; its mask then allows nothing.

    Args:
        rows: Number of rows, or ``None`` for an environment without batch dimensions.
        length: Steps of an episode of an environment without rows.
        stuck_at: The step at which a row that goes on has no legal action, if there is one.
    """

    def __init__(self, rows=3, length=2, one_hot=False, stuck_at=None):
        batch = () if rows is None else (rows,)
        super().__init__(batch_size=torch.Size(batch))
        kind = OneHot(CHOICES) if one_hot else Categorical(CHOICES)
        self.action_spec = kind.expand(*batch, *kind.shape)
        self.observation_spec = Composite(
            observation=Unbounded((*batch, 2)),
            action_mask=Binary(CHOICES, (*batch, CHOICES), dtype=torch.bool),
            shape=batch,
        )
        self.reward_spec = Unbounded((*batch, 1))
        self.length = torch.tensor([length]) if rows is None else torch.arange(rows)[:, None] + 1
        self.stuck_at, self.one_hot = stuck_at, one_hot
        self.count = torch.zeros_like(self.length)

    def _state(self):
        done = self.count >= self.length
        mask = torch.ones(*self.batch_size, CHOICES, dtype=torch.bool)
        mask[..., 0] = False
        if self.stuck_at is not None:
            mask = mask & (self.count != self.stuck_at)
        observation = self.count.expand(*self.batch_size, 2).float()
        return {"observation": observation, "action_mask": mask & ~done, "done": done}

    def _reset(self, tensordict):
        mask = None if tensordict is None else tensordict.get("_reset", None)
        mask = torch.ones_like(self.count, dtype=torch.bool) if mask is None else mask
        self.count = torch.where(mask, torch.zeros_like(self.count), self.count)
        return TensorDict(self._state(), self.batch_size)

    def _step(self, tensordict):
        going_on = self.count < self.length
        index = tensordict["action"]
        index = index.long().argmax(-1) if self.one_hot else index
        chosen = tensordict["action_mask"].gather(-1, index.unsqueeze(-1).long())
        assert bool((chosen | ~going_on).all()), "an illegal action in a row that goes on"
        self.count = self.count + going_on
        state = {**self._state(), "reward": torch.ones(*self.batch_size, 1)}
        return TensorDict({**state, "terminated": state["done"]}, self.batch_size)

    def _set_seed(self, seed):
        pass


def drawn(kind=ProbabilisticActor, dist=MaskedCategorical):
    net = TensorDictModule(nn.Linear(2, CHOICES), ["observation"], ["logits"])
    keys = {"logits": "logits", "mask": "action_mask"}
    if kind is ProbabilisticActor:
        return kind(net, in_keys=keys, distribution_class=dist, return_log_prob=True)
    draw = ProbabilisticTensorDictModule(keys, ["action"], distribution_class=dist, return_log_prob=True)
    return ProbabilisticTensorDictSequential(net, draw)


def greedy(space="categorical"):
    return QValueActor(nn.Linear(2, CHOICES), action_space=space, action_mask_key="action_mask")


def distributional(space="categorical"):
    net = nn.Sequential(nn.Linear(2, 4 * CHOICES), nn.Unflatten(-1, (4, CHOICES)))
    return DistributionalQValueActor(net, torch.linspace(0, 1, 4), action_space=space, action_mask_key="action_mask")


def exploring():
    explore = EGreedyModule(Categorical(CHOICES), 1.0, 1.0, action_mask_key="action_mask")
    return TensorDictSequential(greedy(), explore)


POLICIES = {
    "drawn": drawn,
    "drawn by tensordict": lambda: drawn(ProbabilisticTensorDictSequential),
    "greedy": greedy,
    "distributional": distributional,
    "exploring": exploring,
}
ENVS = {
    "rows": Countdown,
    "masked specs": lambda: TransformedEnv(Countdown(), ActionMask()),
    "batch": lambda: SerialEnv(2, [lambda: Countdown(None, 1), lambda: Countdown(None, 3)]),
}
every_policy = pytest.mark.parametrize("make", POLICIES.values(), ids=POLICIES)
every_env = pytest.mark.parametrize("env", ENVS.values(), ids=ENVS)
kinds = pytest.mark.parametrize("kind", ["random", "deterministic", "mode"])


def live(batch):
    """Return which steps of a rollout ``[*B, T]`` were taken by a row that went on."""
    return ~torch.cat([torch.zeros_like(batch["done"][:, :1]), batch["next", "done"]], 1)[:, :-1]


@every_env
@every_policy
@kinds
def test_rows_that_stand_still_may_have_no_legal_action(make, env, kind):
    """A rollout until all have ended calls the policy on rows that ended, whatever they hold."""
    torch.manual_seed(0)
    with set_exploration_type(kind):
        batch = env().rollout(10, make(), break_when_all_done=True)
    assert batch.shape[-1] == 3
    taken = live(batch).squeeze(-1)
    legal = batch["action_mask"].gather(-1, batch["action"].unsqueeze(-1)).squeeze(-1)
    assert legal[taken].all()
    assert not batch["action_mask"][~taken].any()


@every_env
def test_random_actions_of_rows_that_stand_still(env):
    """Without a policy the same holds, where the specs know the mask."""
    env = env()
    if env.action_masks:
        assert env.rollout(10, break_when_all_done=True).shape[-1] == 3


@every_policy
@pytest.mark.parametrize("all_done", [True, False])
def test_a_row_that_goes_on_must_have_a_legal_action(make, all_done):
    """Also beside a row that has ended; the error speaks of the mask and names the live rows."""
    env = Countdown(stuck_at=1)  # the first row has ended by then
    with pytest.raises(ValueError, match=r"mask allows no action.*rows \[\[1\], \[2\]\]"):
        env.rollout(10, make(), break_when_all_done=all_done, break_when_any_done=False)


@every_policy
@pytest.mark.parametrize("where", ["done", "goes on", "unknown"])
def test_a_policy_called_by_hand_reads_the_flag_beside_the_mask(make, where):
    """Terminal observations of a batch can be given to a policy; others cannot."""
    td = Countdown().reset()
    td["action_mask"][1] = False
    td["done"][1] = where == "done"
    if where == "unknown":
        td = td.exclude("done")
    policy = make()
    if where == "done" and not isinstance(policy[-1], ProbabilisticTensorDictModule):
        assert policy(td)["action"].shape == (3,)
    elif where != "done":
        with pytest.raises(ValueError, match="mask allows no action"):
            policy(td)


def test_agents_that_are_done_need_no_legal_action():
    """The flag of an agent stands beside its mask, in the group of agents."""
    team = TensorDict(
        action_value=torch.zeros(2, CHOICES),
        mask=torch.tensor([[True] * CHOICES, [False] * CHOICES]),
        done=torch.tensor([[False], [True]]),
        batch_size=[2],
    )
    module = QValueModule(
        "categorical",
        ("agents", "action_value"),
        ("agents", "mask"),
        [("agents", "action"), ("agents", "action_value"), ("agents", "chosen")],
    )
    td = TensorDict(agents=team, done=torch.zeros(1, dtype=torch.bool))
    assert module(td)["agents", "chosen"].isfinite().all()
    td["agents", "done"] = td["agents", "done"].flip(0)
    with pytest.raises(ValueError, match="mask allows no action"):
        module(td)


def sac(dist, space):
    value = TensorDictModule(nn.Linear(2, CHOICES), ["observation"], ["action_value"])
    return DiscreteSACLoss(drawn(dist=dist), value, action_space=space, num_actions=CHOICES)


def iql(dist, space):
    q = TensorDictModule(nn.Linear(2, CHOICES), ["observation"], ["state_action_value"])
    value = ValueOperator(nn.Linear(2, 1))
    return DiscreteIQLLoss(drawn(dist=dist), q, value, action_space=space)


LOSSES = {
    "DQN": lambda dist, space: DQNLoss(greedy(space), action_space=space),
    "double DQN": lambda dist, space: DQNLoss(greedy(space), action_space=space, double_dqn=True, delay_value=True),
    "distributional DQN": lambda dist, space: DistributionalDQNLoss(
        distributional(space), gamma=0.9, action_space=space
    ),
    "SAC": sac,
    "CQL": lambda dist, space: DiscreteCQLLoss(greedy(space), action_space=space),
    "IQL": iql,
}


@pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize(
    ("dist", "space"),
    [(MaskedCategorical, "categorical"), (MaskedOneHotCategorical, "one_hot")],
    ids=["index", "one-hot"],
)
def test_losses_of_terminal_observations_without_a_legal_action(make, dist, space):
    """What stands in terminal masks changes no loss: it equals that of masks that allow all."""
    env = Countdown(one_hot=space == "one_hot")
    torch.manual_seed(0)
    policy = drawn(dist=dist)
    batch = Collector(env, policy, frames_per_batch=12, total_frames=12).rollout()
    batch = batch.detach().flatten()
    ends = batch["next", "terminated"].squeeze(-1)
    assert ends.any()
    assert not batch["next", "action_mask"][ends].any()
    other = batch.clone()
    other["next", "action_mask"][ends] = True
    loss, losses = make(dist, space), []
    for td in (batch, other):
        torch.manual_seed(1)
        out = loss(td)
        total = sum(value for key, value in out.items() if key.startswith("loss"))
        total.backward()
        losses.append(total)
    assert losses[0].isfinite()
    torch.testing.assert_close(losses[0], losses[1])
    assert all(p.grad.isfinite().all() for p in loss.parameters() if p.grad is not None)


def test_teams_of_which_terminal_observations_allow_nothing():
    """A mixer's local network may choose by masks, also at terminal observations."""
    local = QValueActor(
        nn.Linear(3, 4),
        in_keys=[("agents", "observation")],
        action_space="one_hot",
        action_key=("agents", "action"),
        action_value_key=("agents", "action_value"),
        chosen_action_value_key=("agents", "chosen_action_value"),
        action_mask_key=("agents", "action_mask"),
    )
    loss = QMixerLoss(local, mixing_networks()[1], action_space="one_hot")
    td = team()
    mask = torch.ones(*td.shape, 2, 4, dtype=torch.bool)
    td["agents", "action_mask"] = mask
    td["next", "agents", "action_mask"] = mask & ~td["next", "terminated"].unsqueeze(-1)
    assert td["next", "terminated"].any()
    assert loss(td)["loss"].isfinite()


@pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES)
def test_losses_of_padded_trajectories(make):
    """Padding has masks that allow nothing and episodes that go on; it counts for nothing."""
    torch.manual_seed(0)
    env = Countdown()
    collector = Collector(env, drawn(), frames_per_batch=12, total_frames=12)
    batch = split_trajectories(collector.rollout().detach())
    assert not batch["collector", "mask"].all()
    loss = make(MaskedCategorical, "categorical")
    total = sum(value for key, value in loss(batch).items() if key.startswith("loss"))
    total.backward()
    assert total.isfinite()
    assert all(p.grad.isfinite().all() for p in loss.parameters() if p.grad is not None)


def test_an_estimator_whose_critic_chooses_evaluates_terminal_observations():
    """The value of the best action, as a critic, is finite and asks for no legal action there."""
    torch.manual_seed(0)
    batch = Countdown().rollout(10, drawn(), break_when_all_done=True).detach()
    critic = greedy()
    estimator = TD0Estimator(gamma=0.9, value_network=critic)
    estimator.set_keys(value="chosen_action_value")
    assert estimator(batch)["value_target"].isfinite().all()


def test_padding_can_be_scored():
    """Log-probabilities and entropies of padded rows are finite, and so are gradients."""
    for dist in (MaskedCategorical, MaskedOneHotCategorical):
        logits = torch.zeros(2, CHOICES, requires_grad=True)
        mask = torch.tensor([[True, False, True], [False] * CHOICES])
        d = dist(logits=logits, mask=mask)
        shape = (2,) if dist is MaskedCategorical else (2, CHOICES)
        score = d.log_prob(torch.zeros(shape, dtype=torch.int64))
        (score.sum() + d.entropy().sum()).backward()
        assert score.isfinite().all()
        assert logits.grad.isfinite().all()
