"""A first training
================

What you will learn: how a whole run is written, from the seed to the evaluation, and what to watch
while it goes on. Ten minutes to read; half a minute to run, or less with fewer frames::

    FRAMES=5000 python tutorials/first_training.py

The task: push a cart so that the pole on it stays up. Each step gives a reward of one; 500 is the
most there is. The algorithm: advantage actor-critic, which moves along the gradient of the
logarithm of each action's probability, the more the better the action turned out.
"""

import os

import torch
from tensordict.nn import TensorDictModule
from torch import nn

from torchrl.collectors import Collector
from torchrl.envs import Compose, GymEnv, RewardSum, TransformedEnv, set_exploration_type
from torchrl.modules import MLP, OneHotCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import A2CLoss
from torchrl.objectives.value import GAE

total_frames = int(os.environ.get("FRAMES", "60_000"))
num_envs, steps_per_batch = 8, 10

# %%
# The seeds come first. With them, a run on one machine repeats itself number by number.

torch.manual_seed(0)
torch.set_num_threads(1)  # small networks are faster so

# %%
# Eight copies of the task, stepped as one: the rows of a batch then come from different moments of
# different episodes, which steadies the gradient. ``RewardSum`` keeps the return of each episode
# for us to watch.

env = TransformedEnv(GymEnv("CartPole-v1", num_envs=num_envs), Compose(RewardSum()))
env.set_seed(0)

# %%
# The policy writes the logits of two actions and draws one of them; the critic predicts the return.
# Neither learns to explore: the policy is random by itself as long as it is unsure.

net = {"num_cells": [64, 64], "activation_class": nn.Tanh}
actor = ProbabilisticActor(
    TensorDictModule(MLP(4, 2, **net), in_keys=["observation"], out_keys=["logits"]),
    in_keys=["logits"],
    spec=env.action_spec_unbatched,
    distribution_class=OneHotCategorical,
)
critic = ValueOperator(MLP(4, 1, **net), in_keys=["observation"])

# %%
# The data: short stretches of eight episodes at a time, each used once.

collector = Collector(env, actor, frames_per_batch=num_envs * steps_per_batch, total_frames=total_frames)

# %%
# Advantages, loss, optimizer. The learning rate falls to zero, so that the last steps refine what
# the first ones found.

advantage = GAE(gamma=0.99, lmbda=0.95, value_network=critic)
loss_module = A2CLoss(actor, critic, entropy_coeff=0.0, critic_coeff=0.5)
optimizer = torch.optim.Adam(loss_module.parameters(), lr=2e-3)
scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(collector))

# %%
# The loop. What to watch: the returns of the episodes that ended in each batch.

returns = []
for batch in collector:
    losses = loss_module(advantage(batch))
    optimizer.zero_grad()
    losses.backward()  # that of the sum of its terms
    nn.utils.clip_grad_norm_(loss_module.parameters(), 0.5)
    optimizer.step()
    scheduler.step()
    returns += batch["next", "episode_reward"][batch["next", "done"]].tolist()
collector.shutdown()

early, late = (sum(part) / len(part) for part in (returns[:50], returns[-20:]))
print(late > early)  # True

# %%
# Training draws actions; to judge a policy, take the likeliest. Other seeds than those of training
# keep us honest.

test_env = TransformedEnv(GymEnv("CartPole-v1", num_envs=10), RewardSum())
test_env.set_seed(1_000)
with torch.no_grad(), set_exploration_type("deterministic"):
    episodes = test_env.rollout(500, actor, break_when_all_done=True)
score = episodes["next", "episode_reward"][:, -1].mean()
print(score > early)  # tensor(True)

# %%
# With all its frames this run keeps the pole up for most of the 500 steps. What could be better,
# and where it is done:
#
# - use each batch more than once: ``ppo_double_pendulum.py``;
# - keep what was seen and learn from it again: ``examples/dqn.py``, ``examples/sac.py``;
# - keep numbers, curves and videos of the run: ``loggers.py``, ``torchrl.record.Experiment``.
