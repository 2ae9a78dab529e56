"""Data: collectors and replay buffers
====================================

What you will learn: how batches are laid out, how experience is collected in one process or
several, and how a buffer is put together from a storage and a sampler. Five minutes to read, a few
seconds to run.
"""

import torch

from torchrl.collectors import Collector
from torchrl.envs import GymEnv, StepCounter, TransformedEnv

torch.manual_seed(0)

# %%
# Collecting
# ----------
#
# A collector yields batches of ``frames_per_batch`` steps until it has given ``total_frames``.
# Without a policy it acts at random.

env = TransformedEnv(GymEnv("CartPole-v1"), StepCounter())
env.set_seed(0)
collector = Collector(env, frames_per_batch=50, total_frames=200)
batches = list(collector)
print(len(batches), batches[0].batch_size, batches[0].names)  # 4 torch.Size([50]) ['time']

# %%
# Episodes continue across batches. Each step has the number of its trajectory.

print(batches[0]["collector", "traj_ids"][-1] == batches[1]["collector", "traj_ids"][0])  # tensor(True)

# %%
# An environment of several rows gives batches ``[rows, time]``: time comes last, always.

rows = GymEnv("CartPole-v1", num_envs=4)
print(Collector(rows, frames_per_batch=40, total_frames=40).next().batch_size)  # torch.Size([4, 10])

# %%
# ``split_trajectories`` gives each piece of an episode a row of its own, padded with zeros; a mask
# separates steps from padding.

from torchrl.data.trajectories import split_trajectories

pieces = split_trajectories(batches[0], prefix="collector")
mask = pieces["collector", "mask"]
print(pieces.ndim, mask.sum() == batches[0].numel())  # 2 tensor(True)

# %%
# More than one process
# ---------------------
#
# ``MultiSyncCollector`` waits for all workers and hands their batches over together;
# ``MultiAsyncCollector`` returns whichever is ready. Workers get their environments as functions
# that build them, and new weights by ``update_policy_weights_()``::
#
#     collector = MultiSyncCollector(
#         [make_env, make_env], policy, frames_per_batch=200, total_frames=10_000
#     )

# %%
# Storing
# -------
#
# A buffer is a storage, a sampler and, seldom seen, a writer. The storage takes its shapes and
# dtypes from the first batch, and refuses what does not fit before anything is written.

from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(1_000), batch_size=32)
for batch in batches:
    buffer.extend(batch)
print(len(buffer), buffer.sample().batch_size)  # 200 torch.Size([32])

# %%
# ``LazyMemmapStorage`` keeps the same on disk, for what is larger than memory; ``ListStorage``
# keeps any objects at all.
#
# Sampling
# --------
#
# ``SamplerWithoutReplacement`` visits each row once per epoch; iterating over the buffer is one
# epoch.

from torchrl.data import SamplerWithoutReplacement

epoch = TensorDictReplayBuffer(storage=LazyTensorStorage(200), sampler=SamplerWithoutReplacement(), batch_size=50)
epoch.extend(torch.cat(batches))
seen = torch.cat([sample["index"] for sample in epoch])
print(seen.sort().values.equal(torch.arange(200)))  # True

# %%
# ``PrioritizedSampler`` draws steps of high priority more often, and returns by how much a sample
# must count less for that. A loss writes ``td_error``; the buffer reads it back.

from torchrl.data import PrioritizedSampler

prioritized = TensorDictReplayBuffer(
    storage=LazyTensorStorage(200), sampler=PrioritizedSampler(200, alpha=1.0, beta=1.0), batch_size=400
)
prioritized.extend(torch.cat(batches))
everything = prioritized[:].set("index", torch.arange(200))
surprise = torch.ones(200).index_fill_(0, torch.tensor([7]), 199.0)  # half of all priority
prioritized.update_tensordict_priority(everything.set("td_error", surprise))
sample = prioritized.sample()
share = (sample["index"] == 7).float().mean().item()
print(0.4 < share < 0.6, sample["priority_weight"][sample["index"] == 7].max() < 0.01)  # True tensor(True)

# %%
# ``SliceSampler`` draws stretches of trajectories, for recurrent networks and world models. None of
# them crosses the end of an episode.

from torchrl.data import SliceSampler

slices = TensorDictReplayBuffer(
    storage=LazyTensorStorage(200), sampler=SliceSampler(slice_len=5, traj_key=("collector", "traj_ids")), batch_size=40
)
slices.extend(torch.cat(batches))
stretches = slices.sample().reshape(-1, 5)
ids = stretches["collector", "traj_ids"]
print(stretches.batch_size, (ids == ids[:, :1]).all())  # torch.Size([8, 5]) tensor(True)

# %%
# On the way in and out
# ---------------------
#
# A buffer can carry a transform. This one stores transitions over three steps rather than one: the
# rewards between are summed, discounted.

from torchrl.envs import MultiStepTransform

multi = TensorDictReplayBuffer(
    storage=LazyTensorStorage(200), transform=MultiStepTransform(n_steps=3, gamma=0.9), batch_size=32
)
multi.extend(batches[0])
print(multi[:]["next", "reward"].max())  # tensor(2.7100)

# %%
# A buffer is saved and restored with the state of its sampler.

import tempfile

with tempfile.TemporaryDirectory() as folder:
    buffer.dumps(folder)
    restored = TensorDictReplayBuffer(storage=LazyTensorStorage(1_000), batch_size=32)
    restored.loads(folder)
print((restored[:]["observation"] == buffer[:]["observation"]).all())  # tensor(True)

# %%
# Read next: ``losses.py``, for what reads these samples.
