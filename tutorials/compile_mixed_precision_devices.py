"""Compile, mixed precision and devices
====================================

What you will learn:

- which four places of a training program have a device, and which device to give them;
- to compile a loss, and what makes it compile again and again;
- to compute a loss in bfloat16, and what stays in float32;
- to measure whether any of it helped.

Five minutes to read, half a minute to run, most of it the compiler. Everything runs on a machine without
an accelerator, and uses one if it is there.
"""

import shutil
import time

import torch

import torchrl
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import GymEnv
from torchrl.modules import MLP, QValueActor
from torchrl.objectives import DQNLoss, SoftUpdate

torch.manual_seed(0)
torch.set_num_threads(1)  # fastest for networks of this size

# %%
# Where tensors live
# ------------------
#
# :func:`torchrl.get_available_device` is the accelerator, or the CPU where there is none. Data goes around a
# circle, and each station has a device of its own:
#
# =========================  =================================  ===============================================
# what                       where it is said                   which one
# =========================  =================================  ===============================================
# simulator                  ``Collector(env_device=)``         ``"cpu"`` for most; the accelerator for those
#                                                               that run there, as Brax does
# policy that collects       ``Collector(policy_device=)``      the accelerator for images and large networks,
#                                                               ``"cpu"`` for a small MLP
# batch                      ``Collector(storing_device=)``     where the next station is
# storage of the buffer      ``LazyTensorStorage(device=)``     the accelerator while it fits, else ``"cpu"``,
#                                                               or the disk, with ``LazyMemmapStorage``
# loss                       ``loss_module.to(device)``         the accelerator
# =========================  =================================  ===============================================
#
# ``Collector(device=)`` is the default of its three. What crosses a border is moved there, and only there.

device = torchrl.get_available_device()
env = GymEnv("CartPole-v1", num_envs=8)
env.set_seed(0)
q_network = QValueActor(MLP(4, 2, num_cells=[128, 128]), spec=env.action_spec_unbatched)
collector = Collector(env, q_network, frames_per_batch=2_048, total_frames=2_048, device="cpu")
buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(2_048, device=device), batch_size=256)
buffer.extend(collector.next().reshape(-1))
collector.shutdown()
print(buffer.sample().device == device)  # True

# %%
# A loss moves with everything that it holds, target networks included. ``to`` replaces the parameters of a
# module in place, so the optimizer comes after it; the policy of a collector on another device is a copy, and
# gets new weights from ``collector.update_policy_weights_()``.

loss_module = DQNLoss(q_network, delay_value=True).to(device)
optimizer = torch.optim.Adam(loss_module.parameters(), lr=1e-3)
target_update = SoftUpdate(loss_module, tau=0.01)
devices = {parameter.device for parameter in [*loss_module.parameters(), *loss_module.buffers()]}
print(devices == {device})  # True

# %%
# Compile
# -------
#
# Small networks spend most of their time in Python, between the kernels. ``torch.compile`` removes much of it. Losses
# and value estimators of this library compile as one graph; ``fullgraph=True`` makes a break in it an error
# rather than a slow program. Without a C++ compiler we only trace.

backend = "inductor" if shutil.which("g++") or device.type != "cpu" else "eager"
compiled = torch.compile(loss_module, fullgraph=True, backend=backend)
batch = buffer.sample()
expected = loss_module(batch.copy())["loss"]
torch.testing.assert_close(compiled(batch.copy())["loss"], expected)

# %%
# The compiled loss shares the parameters of the other one: train with it, and update targets as before.
#
# The first call compiled. Later ones do not, as long as keys, shapes, strides and dtypes are the same. So keep them
# the same: samples of one size (``drop_last=True`` for a sampler without replacement), all of them as the buffer
# returns them or all of them cloned, no entry that is there only sometimes, no Python number that changes.

from torch._dynamo.utils import counters

graphs = counters["stats"]["unique_graphs"]
for _ in range(3):
    compiled(buffer.sample())
print(counters["stats"]["unique_graphs"] == graphs)  # True

# %%
# What is made in the first call, such as the shapes of lazy layers and the names that a loss looks up once, is
# another program for the compiler, and costs a second compilation. Above, the first call was that of ``expected``.
# :func:`torchrl.compile_with_warmup` runs the first calls as they are, and compiles then::
#
#     @torchrl.compile_with_warmup(warmup=2)
#     def update(batch): ...
#
# Mixed precision
# ---------------
#
# Under ``autocast``, matrix products are computed in bfloat16: half the memory, and on hardware made for it
# a multiple of the speed. Parameters, their gradients and the optimizer stay in float32. The range of bfloat16
# is that of float32, so there is no scaling of gradients.


def gradient(**options):
    """Return the gradient of the loss on the batch, under ``autocast``."""
    optimizer.zero_grad()
    with torch.autocast(device.type, dtype=torch.bfloat16, **options):
        losses = loss_module(batch.copy())
    losses["loss"].backward()
    return torch.cat([parameter.grad.flatten() for parameter in loss_module.parameters()])


full, mixed = gradient(enabled=False), gradient()
print(mixed.dtype, torch.cosine_similarity(full, mixed, dim=0) > 0.99)  # torch.float32 tensor(True)

# %%
# The direction of the gradient is the same but for a fraction of a percent. What does *not* belong under
# ``autocast``: collecting, since simulators and specs want the dtypes that they declared; and sums over long
# episodes, such as returns and advantages, for which eight bits of precision are too few:

rewards = torch.ones(1_001)
print(rewards.bfloat16().cumsum(0)[-1].item())  # 1000.0

# %%
# Did it help?
# ------------
#
# Measure whole updates, after a few of them, and take the best of many: the rest is the noise of the machine.


def seconds(loss, amp):
    """Return the time of the fastest of some updates."""
    best = float("inf")
    for i in range(40):
        data = buffer.sample()
        start = time.perf_counter()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp):
            losses = loss(data)
        losses["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        target_update.step()
        if device.type == "cuda":
            torch.cuda.synchronize()  # kernels run in the background
        best = min(best, time.perf_counter() - start) if i > 5 else best
    return best


measured = {
    "eager": seconds(loss_module, amp=False),
    "compiled": seconds(compiled, amp=False),
    "eager, bfloat16": seconds(loss_module, amp=True),
}

import matplotlib.pyplot as plt

plt.figure(figsize=(6, 2.2), layout="constrained")
bars = plt.barh(list(measured), [1e3 * value for value in measured.values()], color=["C0", "C2", "C1"])
plt.bar_label(bars, fmt="%.2f ms", padding=3)
plt.gca().invert_yaxis()
plt.xlim(right=1.2e3 * max(measured.values()))
plt.xlabel("time of an update")
plt.show()

# %%
# Look at the bars before you keep either. The loss of DQN is two calls of a network: what the compiler saves, it
# spends on checking in each call that keys and shapes are still the same. SAC has a policy, two critics and their
# targets, hundreds of small operations: with networks of 64 units its loss and gradient took 13.1 ms as they are and
# 7.4 ms compiled, on one core. And a processor without instructions for bfloat16 emulates them, which is slower by a
# multiple; the gain is for large products on an accelerator. In which order to try:
#
# ==================================  =========================================================
# most of the time is in              try
# ==================================  =========================================================
# the simulator                       more environments, workers; no device helps
# Python, many small operations       ``torch.compile``; larger samples, fewer of them
# matrix products, convolutions       an accelerator, then ``autocast``
# copies between devices              storage on the device of the loss
# ==================================  =========================================================
#
# ``log_timings=True`` of a trainer and ``torchrl.timeit`` tell which one it is.
#
# Read next:
#
# - ``collectors.py``: workers, and weights for them;
# - ``functional_vmap_meta.py``: ten critics in one call;
# - ``memory_efficient_pixels.py``: what fits where;
# - the page :doc:`/guide/compile_and_devices`.
