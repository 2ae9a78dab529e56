"""A tour in twenty lines
======================

What you will learn: which parts there are, what each one reads and writes, and how a training loop
is made of them. Five minutes to read, a few seconds to run.

All parts exchange one thing, a tensordict: tensors by key, with the batch dimensions that they
share. A part declares the keys that it reads and writes. That is all that two parts need to know
of each other.
"""

import torch
from tensordict import TensorDict

data = TensorDict(observation=torch.zeros(3, 4), reward=torch.ones(3, 1), batch_size=[3])
print(data[0]["observation"].shape, data.reshape(3, 1).batch_size)  # torch.Size([4]) torch.Size([3, 1])

# %%
# An environment
# --------------
#
# It writes observations, rewards and the flags that end an episode. What came of an action stands
# under ``"next"``, so that one record holds a whole transition.

from torchrl.envs import GymEnv, RewardSum, StepCounter, TransformedEnv

torch.manual_seed(0)
env = TransformedEnv(GymEnv("CartPole-v1"))
env.append_transform(StepCounter())  # writes "step_count"
env.append_transform(RewardSum())  # writes "episode_reward"
env.set_seed(0)
steps = env.rollout(5)
print(steps["observation"].shape, steps["next", "reward"].shape)  # torch.Size([5, 4]) torch.Size([5, 1])

# %%
# A policy and its exploration
# ----------------------------
#
# ``QValueActor`` reads ``observation``, writes ``action_value`` and picks the best ``action``;
# ``EGreedyModule`` reads that action and now and then replaces it by a random one.

from tensordict.nn import TensorDictSequential

from torchrl.modules import MLP, EGreedyModule, QValueActor

actor = QValueActor(MLP(4, 2, num_cells=[64, 64]), spec=env.action_spec)
noise = EGreedyModule(env.action_spec, eps_init=1.0, eps_end=0.05, annealing_num_steps=2_000)
policy = TensorDictSequential(actor, noise)
print(actor.in_keys, actor.out_keys)  # ['observation'] ['action', 'action_value', 'chosen_action_value']

# %%
# A collector
# -----------
#
# It runs the policy in the environment and yields batches of a fixed number of frames. Episodes go
# on from one batch to the next.

from torchrl.collectors import Collector

collector = Collector(env, policy, frames_per_batch=100, total_frames=3_000)

# %%
# A replay buffer
# ---------------
#
# A storage keeps transitions, a sampler draws some of them.

from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(10_000), batch_size=64)

# %%
# A loss
# ------
#
# It reads a batch and writes its terms, each ready for ``backward``. A network that lags behind
# gives the targets; an updater moves it.

from torchrl.objectives import DQNLoss, SoftUpdate

loss_module = DQNLoss(actor, double_dqn=True, gamma=0.99)
target_update = SoftUpdate(loss_module, tau=0.05)
optimizer = torch.optim.Adam(loss_module.parameters(), lr=5e-3)
print(loss_module.in_keys[:2], len(loss_module.in_keys))  # ['action', ('next', 'reward')] 6

# %%
# The loop
# --------
#
# Nothing is hidden in it: collect, store, draw, differentiate, move.

for batch in collector:
    buffer.extend(batch)
    noise.step(batch.numel())
    for _ in range(15):
        loss = loss_module(buffer.sample())["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        target_update.step()

# %%
# Has it learned? The same environment, without exploration, against what random actions reach:

from torchrl.envs import set_exploration_type

with torch.no_grad(), set_exploration_type("deterministic"):
    trained = [env.rollout(500, actor)["next", "episode_reward"].max() for _ in range(5)]
at_random = [env.rollout(500)["next", "episode_reward"].max() for _ in range(5)]
print(sum(trained) > 2 * sum(at_random))  # tensor(True)

# %%
# Read next: ``environments.py``, ``modules.py``, ``data.py`` and ``losses.py`` take the parts one
# by one, ``first_training.py`` puts them together with all that a real run needs, and
# ``examples/dqn.py`` is this loop with everything that makes it strong.
