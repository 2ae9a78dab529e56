"""A loss of your own
==================

A new algorithm is, most of the time, a new loss. This tutorial writes one that the library does not
have: Munchausen Q-learning, a change of two terms to DQN that made a plain network one of the best
on Atari games (`Vieillard et al., 2020 <https://arxiv.org/abs/2007.14430>`_).

What you will learn:

- what you write, two declarations and one method, and what :class:`~torchrl.objectives.LossModule`
  does with them;
- how a target network is held and moved;
- how :func:`torchrl.testing.check_loss` finds what is forgotten;
- how to test the mathematics itself: on a problem whose solution is known.

Six minutes to read, half a minute to run.

DQN moves the value of an action to the reward plus the discounted value of the best next action.
Munchausen Q-learning reads the values as a policy, :math:`\\pi = \\mathrm{softmax}(q / \\tau)`, and changes
the target twice. The next value is that of the policy rather than of the best action, and the reward
has a bonus for actions that the policy already prefers:

.. math:: r + \\alpha \\tau \\ln \\pi(a|s) + \\gamma\\, \\tau \\ln \\sum_{a'} e^{q(s', a') / \\tau}
"""

from dataclasses import dataclass

import torch
from tensordict import NestedKey, TensorDict

from torchrl.objectives import LossModule, read, read_next, write

torch.manual_seed(0)
torch.set_num_threads(1)  # small networks are faster so

# %%
# What is declared, and what is computed
# --------------------------------------
#
# ``_AcceptedKeys`` names the entries that the loss reads and writes: ``read`` at the root of a step,
# ``read_next`` under ``"next"``, ``write`` for what is added to the batch. From these declarations
# follow ``in_keys``, ``set_keys`` for batches with other names, and the error for an entry that is
# not there. ``network_inputs`` says where the network looks: at this observation and at the next.
#
# ``losses`` returns one number for each item of the batch. It is not averaged: reduction, padded
# rows and the call with plain tensors are the same for all losses and are done for you.
#
# ``terminated``, not ``done``, ends the sum of rewards: an episode that was cut by a time limit would
# have gone on.


class MunchausenLoss(LossModule):
    """Munchausen Q-learning on one-hot actions."""

    @dataclass
    class _AcceptedKeys:
        action: NestedKey = read("action")
        reward: NestedKey = read_next("reward")
        terminated: NestedKey = read_next("terminated")
        priority: NestedKey = write("td_error")

    network_inputs = {"value_network": "root next"}
    out_keys = ["loss"]

    def __init__(self, value_network, *, gamma=0.99, temperature=0.03, bonus=0.9):
        super().__init__()
        self.convert_to_functional(value_network, "value_network", create_target_params=True)
        self.gamma, self.temperature, self.bonus = gamma, temperature, bonus

    def _values(self, network, td):
        return network(td.select(*network.in_keys)).get("action_value")  # [*B, N]

    def losses(self, td):
        keys, target, tau = self.tensor_keys, self.target("value_network"), self.temperature
        action, after = td.get(keys.action), td.get("next")
        taken = (self._values(self.value_network, td) * action).sum(-1)  # [*B]
        with torch.no_grad():
            log_policy = (self._values(target, td) / tau).log_softmax(-1)  # [*B, N]
            bonus = self.bonus * (tau * (log_policy * action).sum(-1)).clamp(-1, 0)  # [*B]
            ahead = tau * (self._values(target, after) / tau).logsumexp(-1)  # [*B]
            goes_on = ~after.get(keys.terminated).squeeze(-1)
            wanted = after.get(keys.reward).squeeze(-1) + bonus + self.gamma * goes_on * ahead  # [*B]
        error = taken - wanted
        td.set(keys.priority, error.detach().square().unsqueeze(-1))  # for a prioritised buffer
        return {"loss": error.square()}


# %%
# Does it keep the contract?
# --------------------------
#
# ``check_loss`` builds the loss and runs it on a batch in many ways: every parameter gets a gradient,
# the target network gets none, nothing but the priority is added to the batch, rows of padding do
# not count even if they are NaN, the loss compiles, and so on. It is what the losses of the library
# have to pass; put the call into your tests.

from torchrl.modules import MLP, QValueActor
from torchrl.testing import ContractError, check_loss


def make_loss():
    """Return the loss of a small network."""
    return MunchausenLoss(QValueActor(MLP(3, 2, num_cells=[16]), action_space="one_hot"))


def make_batch(size=6):
    """Return transitions, every second of which ends an episode."""
    torch.manual_seed(0)
    after = TensorDict(observation=torch.randn(size, 3), reward=torch.rand(size, 1), batch_size=[size])
    after["terminated"] = torch.tensor([False, True] * (size // 2)).unsqueeze(-1)
    action = torch.eye(2)[torch.randint(2, (size,))]
    return TensorDict(observation=torch.randn(size, 3), action=action, next=after, batch_size=[size])


check_loss(make_loss, make_batch)
print(make_loss().in_keys[:3])  # ['action', ('next', 'reward'), ('next', 'terminated')]

# %%
# The most natural mistake is to hand the batch itself to the network, which writes its outputs into
# it: among them an action, over the one that was played. Nothing fails, and the next loss that reads
# the batch learns from actions that were not taken.


class Careless(MunchausenLoss):
    """Forgets to select what the network reads."""

    def _values(self, network, td):
        return network(td).get("action_value")


try:
    check_loss(lambda: Careless(QValueActor(MLP(3, 2), action_space="one_hot")), make_batch)
except ContractError as error:
    message = str(error)
print("gains_only_the_priority" in message, "('next', 'action')" in message)  # True True

# %%
# Is the mathematics right?
# -------------------------
#
# No check of a contract can tell. A small problem with a known solution can: a row of five states,
# a reward for leaving it on the right. Its values follow from the equation above, applied again and
# again, in plain Python.

import math


def solve(bonus, gamma=0.9, tau=0.03):
    """Return the values of going left and right in each state."""
    values = [[0.0, 0.0] for _ in range(5)]
    for _ in range(300):
        soft = [tau * math.log(sum(math.exp(v / tau) for v in row)) for row in values]
        told = [[bonus * max(v - s, -1.0) for v in row] for row, s in zip(values, soft, strict=True)]
        ahead = [[gamma * soft[max(i - 1, 0)], gamma * soft[i + 1] if i < 4 else 1.0] for i in range(5)]
        values = [[b + a for b, a in zip(*rows, strict=True)] for rows in zip(told, ahead, strict=True)]
    return torch.tensor(values)  # [5, 2]


# %%
# The loss gets all ten transitions as one batch. The network is a table, and a learning rate of five
# sets each of its ten entries to its target: the gradient of the mean of ten squares is a fifth of
# the error.

from tensordict.nn import TensorDictModule

from torchrl.objectives import HardUpdate, SoftUpdate

state, move = torch.arange(5).repeat_interleave(2), torch.arange(2).repeat(5)
leaves = ((state == 4) & (move == 1)).unsqueeze(-1)  # [10, 1]
reached = (state + 2 * move - 1).clamp(0, 4)
row = TensorDict(observation=torch.eye(5)[state], action=torch.eye(2)[move], batch_size=[10])
row["next"] = TensorDict(observation=torch.eye(5)[reached], reward=leaves.float(), terminated=leaves, batch_size=[10])

table = torch.nn.Linear(5, 2, bias=False)
torch.nn.init.zeros_(table.weight)
tabular = MunchausenLoss(TensorDictModule(table, ["observation"], ["action_value"]), gamma=0.9)
updater = HardUpdate(tabular, value_network_update_interval=1)
optimizer = torch.optim.SGD(tabular.parameters(), lr=5.0)
for _ in range(300):
    optimizer.zero_grad()
    tabular(row).backward()
    optimizer.step()
    updater.step()
print(torch.allclose(table.weight.T, solve(bonus=0.9), atol=1e-4))  # True

# %%
# It learns
# ---------
#
# The loss takes the place of ``DQNLoss`` in a training loop; nothing else changes. The task: keep a
# pole upright on a cart for up to 500 steps.

from tensordict.nn import TensorDictSequential

from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import GymEnv, RewardSum, TransformedEnv
from torchrl.modules import EGreedyModule

env = TransformedEnv(GymEnv("CartPole-v1"), RewardSum())
env.set_seed(0)
q_network = QValueActor(MLP(4, 2, num_cells=[128, 128]), spec=env.action_spec)
explore = EGreedyModule(env.action_spec, eps_init=0.2, eps_end=0.02, annealing_num_steps=3_000)
loss_module = MunchausenLoss(q_network)
optimizer = torch.optim.Adam(loss_module.parameters(), lr=1e-3)
updater = SoftUpdate(loss_module, tau=0.01)
buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(10_000), batch_size=64)

returns = []
for batch in Collector(env, TensorDictSequential(q_network, explore), frames_per_batch=50, total_frames=7_500):
    explore.step(50)
    buffer.extend(batch)
    for _ in range(10):
        loss_module(buffer.sample()).backward()
        optimizer.step()
        optimizer.zero_grad()
        updater.step()
    returns += batch["next", "episode_reward"][batch["next", "done"]].tolist()
early, late = (sum(part) / len(part) for part in (returns[:20], returns[-20:]))
print(late > 3 * early)  # True

# %%
# What the bonus does is on the left: it widens the gap between the better action and the other, so
# that errors of the network change the choice less often.

from matplotlib import pyplot as plt

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for number, bonus in enumerate((0.0, 0.9)):
    left.bar(torch.arange(5) + 0.4 * number - 0.2, solve(bonus).diff().squeeze(-1), 0.4, label=f"bonus {bonus}")
left.set(xlabel="state", ylabel="value of right minus left", title="The gap between actions")
left.legend()
right.plot(returns)
right.set(xlabel="episode", ylabel="return", title="CartPole-v1")

# %%
# Where to go from here: a critic's target that needs more than one step is a value estimator, chosen
# with ``make_value_estimator``; a loss for a :class:`~torchrl.trainers.Trainer` needs nothing more
# than this one.
#
# Read next
# ---------
#
# - :doc:`custom_sampler`: which transitions the loss gets to see;
# - :doc:`losses`: the losses of the library;
# - :doc:`functional_vmap_meta`: many sets of parameters at once.
