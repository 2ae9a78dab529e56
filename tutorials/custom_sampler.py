"""A sampler of your own
=====================

Which transitions a loss gets to see decides how fast, and what, it learns. A replay buffer leaves
the choice to its sampler: one method that returns positions.

What you will learn:

- how items are numbered, so that a sampler works with every storage;
- how to draw recent items more often, and how to read the stored data to choose by it;
- how to correct for what is drawn more often, with importance weights;
- how a sampler with a state is saved, prefetched and checked.

Five minutes to read, ten seconds to run.
"""

import torch
from tensordict import TensorDict

from torchrl.data import LazyTensorStorage, RandomSampler, Sampler, TensorDictReplayBuffer
from torchrl.testing import ContractError, check_sampler

torch.manual_seed(0)

# %%
# Recent items first
# ------------------
#
# Wang and Ross (`2019 <https://arxiv.org/abs/1906.04009>`_) found that soft actor-critic learns faster
# if recent experience is drawn more often. Here an item that is older by a tenth of the buffer has
# half the chance.
#
# A storage is a ring of ``capacity`` slots. Each slot holds a row, and a row holds ``width`` items:
# one, unless the storage has several dimensions, such as environments by time. The newest row is in
# slot ``(written - 1) % capacity``; an item is known by ``slot * width + column``. Draw random
# numbers from ``self.generator``, which the buffer sets: then its seed decides the samples.


class RecentSampler(Sampler):
    """Halves the chance of an item with each tenth of the buffer that it is older."""

    def sample(self, storage, batch_size):
        chance = 0.5 ** (torch.arange(storage.rows) * 10 / storage.rows)  # of each age, the newest first
        age = torch.multinomial(chance, batch_size, True, generator=self.generator)  # [B]
        column = torch.randint(storage.width, (batch_size,), generator=self.generator)
        slot = (storage.written - 1 - age) % storage.capacity
        return slot * storage.width + column, {"age": age}


# %%
# The dictionary that comes second is added to the sample. Fill a buffer half over again and look:

ages = {}
for sampler in (RandomSampler(), RecentSampler()):
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(1_000), sampler=sampler, batch_size=10_000)
    buffer.extend(TensorDict(step=torch.arange(1_500), batch_size=[1_500]))
    ages[type(sampler).__name__] = 1_499 - buffer.sample()["step"]
mean = {name: age.float().mean().item() for name, age in ages.items()}
print(mean["RandomSampler"] > 450, mean["RecentSampler"] < 200)  # True True

# %%
# ``check_sampler`` compares a sampler with what every sampler must do: storages of one and of two
# dimensions, partly filled and full, saved and loaded, emptied, and prefetched by a thread. The most
# frequent mistake is one that goes unnoticed until results cannot be repeated:

check_sampler(RecentSampler)


class Unseeded(RecentSampler):
    """Draws from the global generator."""

    def sample(self, storage, batch_size):
        return torch.randint(len(storage), (batch_size,)), {}


try:
    check_sampler(Unseeded)
except ContractError as error:
    message = str(error)
print("uses_its_generator" in message, "draw random numbers with generator=self.generator" in message)  # True True

# %%
# Choosing by what is stored
# --------------------------
#
# In a task with few rewards, most batches have none. ``storage.take_entry`` reads one entry of stored
# items, so a sampler can draw half of each batch from the steps that were rewarded.
#
# Drawing an item more often than others makes it count more: the values that are learned are then
# those of a luckier world. Importance weights undo it. An item drawn with probability :math:`p` out
# of :math:`N` gets the weight :math:`1 / (N p)`. Under the name ``priority_weight`` the losses of the
# library find it by themselves and multiply their errors by it.


class RewardedSampler(Sampler):
    """Draws half of each batch from rewarded steps, and says how much each item shall count."""

    def sample(self, storage, batch_size):
        count = len(storage)
        reward = storage.take_entry(("next", "reward"), torch.arange(count)).flatten()  # [N]
        rewarded = reward > 0
        share = rewarded.float().mean()
        chance = torch.full((count,), 1.0 / count)
        if 0 < share < 1:
            chance = torch.where(rewarded, chance / (2 * share), chance / (2 * (1 - share)))
        positions = torch.multinomial(chance, batch_size, True, generator=self.generator)
        return positions, {"priority_weight": 1 / (count * chance[positions])}


check_sampler(RewardedSampler)

# %%
# FrozenLake rewards nothing but the last step to the goal, which a random walk seldom finds.

from torchrl.collectors import Collector
from torchrl.envs import GymEnv

env = GymEnv("FrozenLake-v1")
env.set_seed(0)
steps = Collector(env, frames_per_batch=5_000, total_frames=5_000).next()

rewarded = {}
for sampler in (RandomSampler(), RewardedSampler()):
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(5_000), sampler=sampler, batch_size=5_000)
    buffer.extend(steps)
    sample = buffer.sample()
    rewarded[type(sampler).__name__] = sample["next", "reward"].mean().item()
print(rewarded["RandomSampler"] < 0.01, 0.45 < rewarded["RewardedSampler"] < 0.55)  # True True

# %%
# With the weights the mean reward is what it is in the data; without them it would be a half.

weighted = (sample["priority_weight"] * sample["next", "reward"].squeeze(-1)).mean()
print((weighted - steps["next", "reward"].mean()).abs() < 1e-3)  # tensor(True)

# %%
# A sampler that remembers
# ------------------------
#
# Late in training recent items are no longer special, so the preference may fade. Now the sampler
# has a state: how often it was asked. ``state_dict`` and ``load_state_dict`` belong to a state, or a
# run that is resumed starts to prefer recent items again. Buffers that prefetch use them too: to take
# back draws that were not used.


class FadingSampler(RecentSampler):
    """Prefers recent items less and less, until it is uniform after a number of draws."""

    def __init__(self, draws=1_000):
        self.draws, self.count = draws, 0

    def sample(self, storage, batch_size):
        strength = max(0.0, 1 - self.count / self.draws)
        self.count += 1
        chance = 0.5 ** (torch.arange(storage.rows) * 10 * strength / storage.rows)
        age = torch.multinomial(chance, batch_size, True, generator=self.generator)
        column = torch.randint(storage.width, (batch_size,), generator=self.generator)
        return (storage.written - 1 - age) % storage.capacity * storage.width + column, {}

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state_dict):
        self.count = state_dict["count"]


check_sampler(lambda: FadingSampler(draws=10))

# %%
# What was drawn, in pictures: on the left how old, on the right how many rewards.

from matplotlib import pyplot as plt

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for name, values in ages.items():
    left.hist(values, bins=50, range=(0, 1_000), alpha=0.6, label=name)
left.set(xlabel="age in steps", ylabel="items drawn", title="10,000 draws from 1,000 items")
left.legend()
right.bar(list(rewarded), list(rewarded.values()))
right.set(ylabel="share of rewarded steps", title="FrozenLake-v1")

# %%
# Which sampler do I choose?
# --------------------------
#
# ===========================================================  =====================================
# Situation                                                    Sampler
# ===========================================================  =====================================
# off-policy learning: DQN, SAC, TD3                           ``RandomSampler``, the default
# each batch several times: PPO                                ``SamplerWithoutReplacement``
# values from rare, surprising steps: Rainbow                  ``PrioritizedSampler``
# recurrent networks, world models                             ``SliceSampler``
# workers that act with older weights                          ``StalenessAwareSampler``
# a preference that you can say in a few lines                 your own
# ===========================================================  =====================================
#
# Read next
# ---------
#
# - :doc:`replay_buffers_in_depth`: storages, writers and the samplers of the library;
# - :doc:`custom_loss`: what learns from the samples;
# - :doc:`hindsight_replay`: another answer to rare rewards.
