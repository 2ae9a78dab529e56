"""Multi-task: one policy for several tasks
=========================================

Tasks that have much in common can share a policy, so that each learns from the data of all. This
needs three things: environments of different tasks stepped as one, a policy that is told which task
it is in, and an eye on each task's own curve, because a mean over tasks hides the one that fails.

What you will learn:

- how environments of different tasks become the rows of one batch;
- why, and how, the task is part of the observation;
- what happens where tasks differ in the shape of their observations or actions;
- how to give each task its share of a replay buffer.

Five minutes to read, half a minute to run on one core.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ReplayBufferEnsemble, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.envs import CartPoleEnv, Compose, GymEnv, RewardSum, SerialEnv, Transform, TransformedEnv, UnaryTransform
from torchrl.modules import make_actor, make_critic
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

# %%
# Two tasks
# ---------
#
# One is CartPole; in the other the two actions are swapped. That makes the point as sharply as
# possible: the tasks look alike, and what is right in one is wrong in the other. Robots with other
# masses, games with other maps and goals in other places are milder cases of the same.
#
# A transform with a step on the way in swaps the actions. Another writes the number of the task as a
# one-hot vector.


class SwapActions(Transform):
    def __init__(self):
        super().__init__(in_keys_inv=["action"], out_keys_inv=["action"])

    def _inv_apply_transform(self, action):
        return action.flip(-1)


names, copies = ("plain", "swapped"), 16


def make_task(name):
    code = torch.nn.functional.one_hot(torch.tensor(names.index(name)), len(names)).float()
    task = UnaryTransform(["observation"], ["task"], fn=lambda obs: code.expand(*obs.shape[:-1], len(names)))
    env = TransformedEnv(CartPoleEnv([copies]), Compose(task, RewardSum()))
    return env.append_transform(SwapActions()) if name == "swapped" else env


# %%
# Tasks as rows
# -------------
#
# :class:`~torchrl.envs.SerialEnv` (and :class:`~torchrl.envs.ParallelEnv`, in processes) takes a list
# with a function for each task. The first dimension of every batch is then the task.

torch.manual_seed(0)
env = SerialEnv(len(names), [lambda name=name: make_task(name) for name in names])
env.set_seed(0)
steps = env.rollout(5, break_when_any_done=False)
print(steps.batch_size, steps["observation"].shape)  # torch.Size([2, 16, 5]) torch.Size([2, 16, 5, 4])
print(steps["task"][:, 0, 0].tolist())  # [[1.0, 0.0], [0.0, 1.0]]

# %%
# Training
# --------
#
# Nothing in the loop knows about tasks. We train twice: with a policy that reads the task, and with
# one that does not.


def train(in_keys):
    torch.manual_seed(0)
    env = SerialEnv(len(names), [lambda name=name: make_task(name) for name in names])
    env.set_seed(0)
    actor, critic = make_actor(env, in_keys=in_keys), make_critic(env, in_keys=in_keys)
    frames_per_batch = len(names) * copies * 32
    collector = Collector(env, actor, frames_per_batch=frames_per_batch, total_frames=40 * frames_per_batch)
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(frames_per_batch), sampler=SamplerWithoutReplacement(), batch_size=128
    )
    advantage = GAE(gamma=0.98, lmbda=0.9, value_network=critic)
    loss_module = ClipPPOLoss(actor, critic, entropy_coeff=0.0, critic_coeff=0.5, loss_critic_type="l2")
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=2e-3, eps=1e-5)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(collector))
    ended, returns = [[] for _ in names], []
    for batch in collector:  # [tasks, copies, steps]
        buffer.extend(advantage(batch).reshape(-1))
        for _ in range(4):
            for minibatch in buffer:
                losses = loss_module(minibatch)
                optimizer.zero_grad()
                losses.backward()
                nn.utils.clip_grad_norm_(loss_module.parameters(), 0.5)
                optimizer.step()
        scheduler.step()
        for task, rows in enumerate(batch):  # a curve for each task
            ended[task] += rows["next", "episode_reward"][rows["next", "done"]].tolist()
        returns.append([sum(task[-30:]) / len(task[-30:]) for task in ended])
    collector.shutdown()
    return torch.tensor(returns)  # [batches, tasks]


curves = {"policy that reads the task": train(["observation", "task"]), "policy that does not": train(["observation"])}

# %%
# Told the task, the policy learns both. Without it, what is right in one task is wrong in the other: at
# best it learns one of them, and the mean of the two curves would not show that the other failed.

_, axes = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True)
for axis, (title, curve) in zip(axes, curves.items(), strict=True):
    for task, name in enumerate(names):
        axis.plot(curve[:, task], label=f"task: {name}")
    axis.set(title=title, xlabel="batch of 1024 steps")
    axis.legend()
axes[0].set_ylabel("return of the last 30 episodes")

told, blind = (curve[-5:].mean(0) for curve in curves.values())  # [tasks]
assert told.min() > 80
assert blind.min() < 40

# %%
# Tasks of different shapes
# -------------------------
#
# CartPole has four observations and two actions, Acrobot six and three. They can be stepped together,
# too. Their batch is a *lazy* stack: each row keeps its own shapes, and what has no common shape
# cannot be read for all rows at once.

mixed = SerialEnv(2, [lambda: GymEnv("CartPole-v1"), lambda: GymEnv("Acrobot-v1")])
steps = mixed.rollout(5, break_when_any_done=False)
print(steps[0]["observation"].shape, steps[1]["observation"].shape)  # torch.Size([5, 4]) torch.Size([5, 6])
padded = steps.get("observation", as_padded_tensor=True)
print(padded.shape, steps["next", "reward"].shape)  # torch.Size([2, 5, 6]) torch.Size([2, 5, 1])

# %%
# A share for each task
# ---------------------
#
# Off-policy, give each task a buffer of its own. One task's flood of data then does not push out the
# others', and :class:`~torchrl.data.ReplayBufferEnsemble` draws from them in the proportions that
# you choose: by default the same for all. Tasks of different shapes fit, as well.

steps = env.rollout(50, break_when_any_done=False)
buffers = [TensorDictReplayBuffer(storage=LazyTensorStorage(10_000), batch_size=64) for _ in names]
for buffer, rows in zip(buffers, steps, strict=True):
    buffer.extend(rows.reshape(-1))
balanced = ReplayBufferEnsemble(*buffers, sample_from_all=True, batch_size=128)
print(balanced.sample()["task"].mean(1).tolist())  # [[1.0, 0.0], [0.0, 1.0]]

# %%
# How to share
# ------------
#
# .. list-table::
#    :header-rows: 1
#
#    * - tasks
#      - do
#    * - same shapes
#      - one network that reads the task, as above: the first thing to try
#    * - other goals
#      - put the goal itself into the observation; it then also works for goals not seen before
#        (and see :doc:`hindsight_replay`)
#    * - other shapes
#      - pad to the largest, or an encoder and a head for each task around a common body
#    * - rewards of very different size
#      - normalise each task's (:class:`~torchrl.envs.RewardScaling`, or
#        :class:`~torchrl.envs.ReturnNorm` in each task's own environment), else the largest one wins
#    * - nothing in common
#      - separate policies: sharing costs more than it gives
#
# Read next:
#
# - :doc:`hindsight_replay`: many goals from one stream of data;
# - :doc:`functional_vmap_meta`: adapt to a new task in a few gradient steps;
# - :doc:`transforms_in_depth`: transforms such as ``SwapActions``.
