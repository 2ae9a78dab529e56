"""From one machine to a Ray cluster
=================================

When the processors of one machine are all busy, collection goes on elsewhere: the workers become actors of
`Ray <https://docs.ray.io>`_, on any node of a cluster. The loop that learns stays as it is.

What you will learn:

- what to change in a program that collects with processes, and that the data stay the same;
- how several actors fill one prioritized replay buffer, while this process learns from it;
- what happens when an actor is killed, and how to go on without it;
- what a cluster of several machines needs.

Five minutes to read, a minute to run. ``pip install "torchrl[distributed]"``
"""

import os
import signal

import matplotlib.pyplot as plt
import ray
import torch

from torchrl.collectors import MultiSyncCollector
from torchrl.collectors.distributed import RayCollector
from torchrl.data import LazyTensorStorage, PrioritizedSampler, RayReplayBuffer, TensorDictReplayBuffer
from torchrl.envs import GymEnv
from torchrl.modules import MLP, QValueActor
from torchrl.objectives import DQNLoss, SoftUpdate

# %%
# Processes first
# ---------------
#
# A function that builds the environment, a policy, and a collector that runs both in two processes.


def make_env():
    return GymEnv("CartPole-v1")


torch.manual_seed(0)
net = MLP(4, 2, num_cells=[64])
policy = QValueActor(net, spec=make_env().action_spec)
options = {"frames_per_batch": 200, "total_frames": 400}


def collect(collector):
    with collector:
        collector.set_seed(0)
        return list(collector)


on_processes = collect(MultiSyncCollector([make_env] * 2, policy, **options))
print(len(on_processes), on_processes[0].shape)  # 2 torch.Size([2, 100])

# %%
# Actors instead
# --------------
#
# Another class, and nothing else. ``ray.init`` is called for you unless Ray runs; here we call it, so that it is
# started once for all that follows. With the same seed a :class:`~torchrl.collectors.distributed.RayCollector` yields
# the same batches, bit for bit: what you debugged with processes is what the cluster does.

os.environ["RAY_AUTH_MODE"] = "disabled"  # of this cluster on this machine; nothing is written into the home directory
ray.init(num_cpus=2, object_store_memory=100 * 2**20, include_dashboard=False, log_to_driver=False)

on_actors = collect(RayCollector(make_env, policy, num_collectors=2, **options))
print(all((one == other).all() for one, other in zip(on_processes, on_actors, strict=True)))  # True

# %%
# ``sync=False`` takes each batch from whichever actor is done, as
# :class:`~torchrl.collectors.MultiAsyncCollector` does.
#
# One replay buffer for all
# -------------------------
#
# :class:`~torchrl.data.RayReplayBuffer` is a replay buffer in an actor of its own. The collectors write into it, and
# their frames never pass through this process; the learner samples, and sends priorities back. This is the layout of
# Ape-X (`Horgan et al., 2018 <https://arxiv.org/abs/1803.00933>`_). An iteration yields ``None``: the frames are in the
# buffer.

buffer = RayReplayBuffer(
    replay_buffer_cls=TensorDictReplayBuffer,
    storage=LazyTensorStorage(10_000),
    sampler=PrioritizedSampler(10_000, alpha=0.6, beta=0.4),
    batch_size=64,
)
loss_module = DQNLoss(policy, delay_value=True)
updater = SoftUpdate(loss_module, tau=0.05)
optimizer = torch.optim.Adam(loss_module.parameters(), lr=1e-3)
collector = RayCollector(
    make_env,
    policy,
    num_collectors=2,
    sync=False,
    replay_buffer=buffer,
    frames_per_batch=100,
    total_frames=2_000,
    update_after_each_batch=True,  # the actors get the weights before each of their batches
)
losses = []
for _ in collector:
    for _ in range(10):
        sample = buffer.sample()
        loss = loss_module(sample)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        updater.step()
        buffer.update_tensordict_priority(sample)
        losses.append(loss.item())
collector.shutdown()
print(len(buffer), len(losses))  # 2000 200

# %%
# The error of a DQN is no curve of learning, but it shows that the loop runs.

plt.plot(losses)
plt.xlabel("gradient step")
plt.ylabel("temporal-difference loss")

# %%
# When an actor is lost
# ---------------------
#
# Machines are preempted and processes run out of memory. By default the next use of the collector raises a
# ``WorkerError`` within seconds, with node, actor and environment, and all actors end. With ``on_failure="restart"``
# the others collect the batches of the lost one, until another has started in its place. Batches stay whole, and
# frames are counted once.
#
# Here is a policy that ends its own process, once: in the actor that finds a certain file, which it removes.

flag = os.path.abspath("the_actor_that_finds_this_ends")
open(flag, "w").close()


class EndsOnce(QValueActor):
    """A policy whose process is killed at one step, as by a machine that disappears."""

    def forward(self, tensordict):
        try:
            os.remove(flag)
        except FileNotFoundError:  # the other actor was faster, or it has happened
            return super().forward(tensordict)
        os.kill(os.getpid(), signal.SIGKILL)


doomed = EndsOnce(net, spec=make_env().action_spec)
collector = RayCollector(
    make_env, doomed, num_collectors=2, sync=False, on_failure="restart", frames_per_batch=100, total_frames=1_000
)
frames = sum(batch.numel() for batch in collector)
collector.shutdown()
print(frames, os.path.exists(flag))  # 1000 False

# %%
# An actor was lost in the middle of a batch, of which Ray tells on standard error, and the program got exactly the
# frames it asked for.

buffer.close()
ray.shutdown()

# %%
# Several machines
# ----------------
#
# On one machine, ``ray start --head --port 6379``; on each of the others, ``ray start --address HEAD:6379``. All need
# the same versions of torchrl, torch and tensordict; an actor with others is refused, with both named. Then the program
# is started on one of them, and the only change is where Ray is found:
#
# .. code-block:: python
#
#    RayCollector(make_env, policy, num_collectors=64, ray_init_config={"address": "auto"}, ...)
#
# Ports of a Ray cluster let anyone who reaches them run code: keep them inside a private network. Recipes for
# ``ray up``, docker compose and SLURM are in the guide, as is torch.distributed, for jobs of a fixed size.
#
# Read next:
#
# - :doc:`/guide/distributed`: which engine, faults, costs;
# - :doc:`collectors`: the same with processes, and when weights arrive;
# - ``examples/distributed/impala_ray.py`` and ``apex_dqn.py``: whole algorithms.
