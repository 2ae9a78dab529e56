"""Memory-efficient pixels
=======================

An agent that learns from images stores mostly images. Kept without thought, one transition of four
stacked 84 x 84 frames takes 226 kB: a replay buffer of a million, the size that DQN was published
with, would need 226 GB of memory. The same information fits into 7 GB.

What you will learn:

- where the bytes of a transition go;
- bytes instead of floats: four times less;
- :class:`~torchrl.data.CompactStorage`, which does not store the next observation: two times less;
- single frames that are stacked when they are sampled: four times less;
- how to check that the samples are still the same, bit for bit.

Five minutes to read, a few seconds to run.
"""

import matplotlib.pyplot as plt
import torch
from torch.nn.functional import one_hot

from torchrl.collectors import Collector
from torchrl.data import CompactStorage, LazyTensorStorage, Sequence, TensorDictReplayBuffer
from torchrl.envs import CatFrames, Compose, GrayScale, GymEnv, Resize, StepCounter, ToTensorImage, TransformedEnv
from torchrl.modules import make_q_actor

torch.manual_seed(0)

# %%
# Bytes instead of floats
# -----------------------
#
# Screens are bytes, 0 to 255. :class:`~torchrl.envs.ToTensorImage` moves the channels to the front
# and, by default, makes float32 numbers between 0 and 1 of them. Tell it not to: ``GrayScale`` and
# ``Resize`` work on bytes as well, and round. Four frames are stacked *for the policy*, under a name
# of their own; ``"pixels"`` remains the single frame.

frames = Compose(
    ToTensorImage(dtype=torch.uint8, from_int=False),
    GrayScale(),
    Resize(84, interpolation="area"),
    CatFrames(4, -3, ["pixels"], ["stack"]),
    StepCounter(max_steps=150),
)
env = TransformedEnv(GymEnv("CartPole-v1", from_pixels=True, pixels_only=False), frames)
env.set_seed(0)
spec = env.observation_spec["stack"]
print(spec.shape, spec.dtype)  # torch.Size([4, 84, 84]) torch.uint8

# %%
# Networks compute in floats. The conversion belongs into the network, where it costs nothing that is
# kept; :func:`~torchrl.modules.make_q_actor` and its kin divide bytes by 255 by themselves.

actor = make_q_actor(env, in_keys=["stack"])
print(actor(env.reset())["action_value"].dtype)  # torch.float32

# %%
# Some data: a rule that pushes the cart under the pole keeps it up until the time limit.


def balance(td):
    """Push the cart under the pole."""
    angle, speed = td["observation"][..., 2], td["observation"][..., 3]
    return td.set("action", one_hot((angle + speed > 0).long(), 2))


batch = next(iter(Collector(env, balance, frames_per_batch=400, total_frames=400)))
batch = batch.exclude("observation", ("next", "observation"))  # we learn from pixels
episodes = int(batch["next", "done"].sum()) + 1
print(batch["stack"].shape, episodes)  # torch.Size([400, 4, 84, 84]) 3

# %%
# Where the bytes go
# ------------------
#
# The state dict of a storage holds all that it keeps, so its size is the memory that the storage
# needs. First the usual way, with floats and with bytes. Both keep ``"stack"`` at the root of the
# step and again under ``"next"``.


def nbytes(state):
    """Return the bytes of all tensors in nested containers."""
    if isinstance(state, torch.Tensor):
        return state.nbytes
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else []
    return sum(nbytes(part) for part in parts)


def per_transition(buffer):
    """Return the bytes that a stored transition takes."""
    return nbytes(buffer.storage.state_dict()) / len(buffer)


stacks = batch.exclude("pixels", ("next", "pixels"))
floats = stacks.clone()
for key in ("stack", ("next", "stack")):
    floats[key] = floats[key] / 255

sizes = {}
for name, data in {"float32 stacks": floats, "uint8 stacks": stacks}.items():
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(400), batch_size=32)
    buffer.extend(data)
    sizes[name] = per_transition(buffer)

# %%
# Do not store what follows
# -------------------------
#
# Within an episode the next observation of a step *is* the observation of the next step, which lies
# in the next slot. :class:`~torchrl.data.CompactStorage` wraps a storage and leaves out every entry
# under ``"next"`` that equals that of the row behind it. What differs, at the end of an episode and
# at the newest row, goes to a small pool. Nothing else changes: samples have the same entries.

buffer = TensorDictReplayBuffer(storage=CompactStorage(LazyTensorStorage(400), keys=["stack"]), batch_size=32)
buffer.extend(stacks)
sizes["+ CompactStorage"] = per_transition(buffer)

sample = buffer.sample()
same = all((sample[key] == stacks[sample["index"]][key]).all() for key in ("stack", ("next", "stack")))
print(same, buffer.storage.pooled)  # True 3

# %%
# Stack when sampling
# -------------------
#
# A stack repeats three of its four frames in the next one. So store single frames, and let the
# buffer return a *window* for each step that it draws: :class:`~torchrl.data.Sequence` with three
# steps before it. ``"pad"`` repeats the first frame of an episode, as
# :class:`~torchrl.envs.CatFrames` does at a reset, and never looks into the episode before.

window = Sequence(1, burn_in=3, episode_boundary="pad")


def stack_frames(windows):
    """Make one step with a stack of frames of each window of four steps."""
    windows = windows.reshape(-1, 4)  # the sample is flat: [B * 4]
    step = windows[:, -1]  # the step that was drawn
    step["stack"] = windows["pixels"].squeeze(2)  # [B, 4, 1, 84, 84] -> [B, 4, 84, 84]
    step["next", "stack"] = torch.cat([step["stack"][:, 1:], step["next", "pixels"]], 1)
    return step.exclude("pixels", ("next", "pixels"))


lean = TensorDictReplayBuffer(
    storage=CompactStorage(LazyTensorStorage(400), keys=["pixels"]),
    sample_unit=window,
    transform=stack_frames,
    batch_size=32,
)
lean.extend(batch.exclude("stack", ("next", "stack")))
sizes["+ stack when sampling"] = per_transition(lean)

# %%
# The samples are those of the buffer of stacks. Here are enough of them to have met the first and the
# last steps of episodes:

sample = lean.sample(500)
same = all((sample[key] == stacks[sample["index"]][key]).all() for key in ("stack", ("next", "stack")))
print(same, sample["index"].min() < 3, sample["next", "done"].any())  # True tensor(True) tensor(True)

# %%
# Since the window is built around any step, this works with a prioritised sampler, too.
#
# The result
# ----------

for name, size in sizes.items():
    assert size < 1.02 * {"f": 225_792, "u": 56_448, "+ C": 28_224, "+ s": 7_056}[name[: 3 if name[0] == "+" else 1]]
print(round(sizes["float32 stacks"] / sizes["+ stack when sampling"]))  # 31

figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 5.5), height_ratios=[1, 1.1], layout="constrained")
top.imshow(torch.cat(list(batch["stack"][20]), -1).numpy(), cmap="gray")
top.set(xticks=[], yticks=[], title="one stack: four frames, three of them in the stack before, too")
bars = bottom.barh(list(sizes), [size / 1000 for size in sizes.values()], color="tab:blue")
bottom.bar_label(bars, [f" {size / 1000:.1f} kB, {size / 1000:.0f} GB a million" for size in sizes.values()])
bottom.set(xlim=(0, 340), xlabel="kB per transition")
bottom.invert_yaxis()
bottom.spines[["top", "right"]].set_visible(False)

# %%
# Which one?
# ----------
#
# ===========================  ==============  ======================================================
# Means                        Bytes           Price
# ===========================  ==============  ======================================================
# ``uint8``                    a quarter       none; the network divides by 255
# ``CompactStorage``           a half          writing compares neighbours; saves nothing with a
#                                              writer that picks its slots, out of the order of time
# ``Sequence`` as above        a quarter       a sample reads four rows instead of one
# ``LazyMemmapStorage``        the same, but   the speed of the disk once the file cache is full
#                              on disk
# ``CompressedListStorage``    depends on the  each row is unpacked in Python: a hundred times
#                              images          slower to sample
# ``GymEnv(num_envs=N)``       the same        with ``ndim=2`` storages, time runs along the first
#                                              dimension, and neighbours still follow each other
# ===========================  ==============  ======================================================
#
# The first three combine, as above. An observation that is no image gains from ``CompactStorage``
# alone.
#
# Read next:
#
# - :doc:`atari`: a game with its preprocessing, and what it takes in memory;
# - :doc:`replay_buffers_in_depth`: storages, samplers, writers;
# - :doc:`/guide/recurrence`: a memory that is learned, instead of a stack.
