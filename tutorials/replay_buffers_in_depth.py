"""Replay buffers in depth
=======================

A replay buffer is four small parts: a **storage** that keeps rows, a **writer** that decides which
row is overwritten, a **sampler** that decides which rows are drawn, and transforms on the way in and
out. They combine freely, so a prioritised buffer on disk or a buffer of the best episodes is a
choice of parts and no new class.

What you will learn:

- how to choose a storage, and what it costs;
- how samplers differ in what they draw: the picture below shows it;
- how to keep rows of several environments in the order of time;
- how to keep the best rows rather than the latest;
- how a buffer is saved, restored, and mixed with another.

Five minutes to read, a few seconds to run. :doc:`data` has the basics.
"""

import tempfile

import matplotlib.pyplot as plt
import torch

from torchrl.collectors import Collector
from torchrl.data import (
    LazyMemmapStorage,
    LazyTensorStorage,
    PrioritizedSampler,
    RandomSampler,
    ReplayBufferEnsemble,
    SamplerWithoutReplacement,
    SliceSampler,
    TensorDictMaxValueWriter,
    TensorDictReplayBuffer,
)
from torchrl.envs import GymEnv, RewardSum, StepCounter, TransformedEnv

torch.manual_seed(0)

env = TransformedEnv(GymEnv("CartPole-v1"), StepCounter())
env.set_seed(0)
batch = next(iter(Collector(env, frames_per_batch=300, total_frames=300)))

# %%
# Storages
# --------
#
# A storage learns from the first rows which entries there are, with which shapes and dtypes, and
# allocates all of its memory then. What does not fit is refused before anything is written, and the
# error names the entry.

buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(1_000), batch_size=32)
buffer.extend(batch)
try:
    buffer.extend(batch.exclude(("next", "reward")))
except KeyError as error:
    message = str(error)
print("reward" in message, len(buffer))  # True 300

# %%
# ============================  ====================  ================================================
# Storage                       Rows are              Choose it for
# ============================  ====================  ================================================
# ``LazyTensorStorage``         tensors, in memory    almost everything; ``device="cuda"`` if it fits
# ``LazyMemmapStorage``         tensors, in files     more than the memory, several processes, crashes
# ``CompactStorage``            the former, without   pixels, see :doc:`memory_efficient_pixels`
#                               next observations
# ``LazyStackStorage``          tensordicts           shapes that differ from row to row
# ``ListStorage``               any objects           graphs, texts, prototypes; slow
# ============================  ====================  ================================================
#
# Reading by index gives what was stored, and ``"index"`` in a sample says which rows it has:

sample = buffer.sample()
print((buffer[sample["index"]]["observation"] == sample["observation"]).all())  # tensor(True)

# %%
# Samplers
# --------
#
# Four samplers draw 3000 times from the same 300 steps of random episodes.

priority = torch.ones(300)
priority[100:110] = 30.0  # steps that the network is most wrong about


def visits(sampler):
    """Return how often each row is drawn."""
    torch.manual_seed(0)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(300), sampler=sampler, batch_size=100)
    buffer.extend(batch)
    if isinstance(sampler, PrioritizedSampler):
        buffer.update_priority(torch.arange(300), priority)
    drawn = torch.cat([buffer.sample()["index"].flatten() for _ in range(30)])
    return drawn.bincount(minlength=300)


counts = {
    "RandomSampler": visits(RandomSampler()),
    "SamplerWithoutReplacement": visits(SamplerWithoutReplacement()),
    "PrioritizedSampler": visits(PrioritizedSampler(300, alpha=0.7, beta=0.5)),
    "SliceSampler": visits(SliceSampler(slice_len=10, end_key=("next", "done"))),
}

figure, axes = plt.subplots(4, 1, figsize=(8, 7), sharex=True, layout="constrained")
ends = batch["next", "done"].squeeze(-1).nonzero().flatten().tolist()
for ax, (name, count) in zip(axes, counts.items(), strict=True):
    ax.bar(range(300), count.tolist(), width=1.0, color="tab:blue")
    for end in ends:
        ax.axvline(end + 0.5, color="tab:red", linewidth=0.6)
    ax.set(title=name, ylabel="times drawn")
axes[-1].set(xlabel="row of the buffer; red: ends of episodes")

# %%
# Three things to see. Without replacement, every row is drawn exactly as often as any other: that is
# what PPO wants for its epochs. Priorities draw ten rows far more often, so the loss must weigh them
# less; the weights are in ``"priority_weight"``, and losses of this library use them. Slices never
# cross a red line: rows at the edges of an episode are drawn less often, rows of an episode shorter
# than a slice never, and since every episode is as likely as any other, rows of short ones more often.

print(counts["SamplerWithoutReplacement"].unique())  # tensor([10])
long_enough = torch.zeros(300, dtype=torch.bool)
start = 0
for end in [*ends, 299]:
    long_enough[start : end + 1] = end + 1 - start >= 10
    start = end + 1
print((counts["SliceSampler"][~long_enough] == 0).all())  # tensor(True)

# %%
# ``alpha`` is how much priorities matter, from 0, not at all, to 1. ``beta`` is how much of the bias
# the weights undo; raise it to 1 towards the end of training. A :class:`~torchrl.data.Sampler` of
# yours needs one method, see :doc:`custom_sampler`.
#
# Several environments
# --------------------
#
# A batch of four copies is ``[4, T]``. With ``ndim=2`` the storage keeps that: rows of one copy
# follow each other in time, although the copies were written together. Samplers of slices,
# hindsight and n-step returns need that order; flattening the batch first would lose it.

rows = TransformedEnv(GymEnv("CartPole-v1", num_envs=4), StepCounter())
rows.set_seed(0)
two_dims = TensorDictReplayBuffer(
    storage=LazyTensorStorage(1_000, ndim=2), sampler=SliceSampler(slice_len=8, end_key=("next", "done")), batch_size=32
)
for part in Collector(rows, frames_per_batch=40, total_frames=400):
    two_dims.extend(part)
slices = two_dims.sample().reshape(4, 8)
print(two_dims[:].shape, slices["step_count"].diff(dim=1).unique())  # torch.Size([4, 100]) tensor([1])

# %%
# Each slice has consecutive steps, though they came in batches of ten.
#
# Writers
# -------
#
# By default the oldest row is overwritten. :class:`~torchrl.data.TensorDictMaxValueWriter` keeps the
# rows with the highest value of an entry instead: the best episodes, for self-imitation or for a
# first data set to clone.

best = TensorDictReplayBuffer(
    storage=LazyTensorStorage(5), writer=TensorDictMaxValueWriter(rank_key=("next", "episode_reward")), batch_size=5
)
scored = TransformedEnv(GymEnv("CartPole-v1"), RewardSum())
scored.set_seed(0)
finals = torch.stack([scored.rollout(500)[-1] for _ in range(30)])
best.extend(finals)
kept = best[:]["next", "episode_reward"].flatten().sort().values
print((kept == finals["next", "episode_reward"].flatten().sort().values[-5:]).all())  # tensor(True)

# %%
# Save, restore, mix
# ------------------
#
# ``dumps`` writes rows and the state of the sampler, as tensors and text; loading runs no code from
# the file. A :class:`~torchrl.data.LazyMemmapStorage` is in files anyway.

with tempfile.TemporaryDirectory() as folder:
    buffer.dumps(f"{folder}/saved")
    restored = TensorDictReplayBuffer(
        storage=LazyMemmapStorage(1_000, scratch_dir=f"{folder}/rows"), sampler=RandomSampler(), batch_size=32
    )
    restored.loads(f"{folder}/saved")
    equal = (restored[:]["observation"] == buffer[:]["observation"]).all()
    del restored
print(equal)  # tensor(True)

# %%
# An ensemble draws each batch from several buffers, as much from each here, or with odds ``p``:
# demonstrations beside fresh experience, say.

demonstrations = TensorDictReplayBuffer(storage=LazyTensorStorage(300), batch_size=32)
demonstrations.extend(batch.clone().zero_())
mixed = ReplayBufferEnsemble(demonstrations, buffer, sample_from_all=True, batch_size=64)
sample = mixed.sample()
print(sample.shape, (sample["observation"] == 0).all(-1).sum(-1))  # torch.Size([2, 32]) tensor([32,  0])

# %%
# Which sampler?
# --------------
#
# ==============================  ====================================================================
# Algorithm                       Sampler
# ==============================  ====================================================================
# PPO, A2C                        ``SamplerWithoutReplacement``, a pass for each epoch
# DQN, DDPG, TD3, SAC             ``RandomSampler``, the default
# Rainbow, other value-based      ``PrioritizedSampler``
# recurrent policies, Dreamer     ``SliceSampler``, or ``Sequence`` as ``sample_unit`` with burn-in
# goals and sparse rewards        ``HERReplayBuffer``, see :doc:`hindsight_replay`
# asynchronous collection         ``ConsumingSampler``, ``StalenessAwareSampler``
# ==============================  ====================================================================
#
# Read next:
#
# - :doc:`memory_efficient_pixels`: a thirtieth of the memory for images;
# - :doc:`hindsight_replay`: samples that are changed when they are drawn;
# - :doc:`custom_sampler`: your own rule in one method.
