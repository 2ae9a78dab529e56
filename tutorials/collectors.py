"""Collectors: in this process, in workers, in the background
===========================================================

A collector runs a policy in an environment and hands over batches. Which collector to take decides
which side waits: the learner for the environments, the environments for the learner, or neither.

What you will learn:

- what a batch holds, and what the collector keeps from one batch to the next;
- how worker processes collect at the same time, in a script as in a notebook;
- what "asynchronous" buys, and what it costs: data from policies that are out of date;
- when new weights reach the policies that act, and how to see it;
- how to fill a replay buffer in the background.

Five minutes to read, ten seconds to run.
"""

import time

import matplotlib.pyplot as plt
import torch

from torchrl.collectors import Collector, MultiAsyncCollector, MultiSyncCollector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import GymEnv, StepCounter, TransformedEnv, UnaryTransform
from torchrl.modules import QValueActor, make_actor

torch.manual_seed(0)

# %%
# One process
# -----------
#
# The plainest collector steps the environment where you are. It draws actions (exploration is on),
# records no gradients, and resets what has ended. ``total_frames=-1`` never ends; ``next()`` gives
# one batch at a time, a ``for`` loop all of them.

env = TransformedEnv(GymEnv("CartPole-v1", num_envs=2), StepCounter())
actor = make_actor(env)
collector = Collector(env, actor, frames_per_batch=40, total_frames=-1)
first, second = collector.next(), collector.next()
print(first.batch_size, first.names)  # torch.Size([2, 20]) [None, 'time']

# %%
# Two things live on between batches: the episodes, which go on where the last batch stopped, and the
# number of each trajectory. A batch boundary is no boundary of the task; nothing is reset there.

assert (first["next", "observation"][:, -1] == second["observation"][:, 0])[~first["next", "done"][:, -1, 0]].all()
assert (first["collector", "traj_ids"][:, -1] == second["collector", "traj_ids"][:, 0])[
    ~first["next", "done"][:, -1, 0]
].all()

# %%
# The policy that acts is ``actor`` itself, so a gradient step shows in the next batch and there is
# nothing to send. That changes as soon as another process acts.
#
# Workers that wait for each other
# --------------------------------
#
# :class:`~torchrl.collectors.MultiSyncCollector` starts a process for each function of its list,
# builds the environment there, and asks all workers for their share of each batch. A batch is ready
# when the slowest is. Environments are built *in* the workers: hand over functions, which may be
# lambdas or defined in a notebook cell, for they are sent by value.
#
# To see who waits, worker 1 gets a slow environment: it sleeps 30 milliseconds a step. Each step
# also carries the number of its worker.


def make_env(worker, pause):
    def seen(observation):
        time.sleep(pause)
        return torch.full((1,), worker)

    return TransformedEnv(GymEnv("CartPole-v1"), UnaryTransform(["observation"], ["worker"], fn=seen))


workers = [lambda: make_env(0, 0.0), lambda: make_env(1, 0.03)]
actor = make_actor(make_env(0, 0.0), in_keys=["observation"])
options = {"frames_per_batch": 10, "total_frames": 200, "track_policy_version": True}


def watch(collector):
    """Return, for each batch: when it came, the workers it is from, and how old its policy was."""
    log, start = [], time.perf_counter()
    for batch in collector:
        age = collector.policy_version - batch["policy_version"]
        log.append((time.perf_counter() - start, batch["worker"].unique().tolist(), age.float().mean().item()))
        time.sleep(0.05)  # in place of the gradient steps that would change the actor
        collector.update_policy_weights_()
    return log


with MultiSyncCollector(workers, actor, **options) as collector:
    sync = watch(collector)
print(len(sync), sync[0][1], {age for _, _, age in sync})  # 20 [0, 1] {0.0}

# %%
# Each batch has both workers, 5 steps from each, and each step was taken by the newest weights.
# That is what on-policy algorithms (PPO, A2C) assume.
#
# Workers that do not wait
# -------------------------
#
# :class:`~torchrl.collectors.MultiAsyncCollector` yields the batch of *one* worker, whichever is
# done, and that worker goes on at once while you learn. The fast worker is never held up by the
# slow one. The price: a batch was begun before the last updates, so part of it comes from older
# weights. Replay-based algorithms (DQN, SAC) do not mind, and :class:`~torchrl.objectives.value.VTrace`
# corrects for it, as in IMPALA.

with MultiAsyncCollector(workers, actor, **options) as collector:
    asynchronous = watch(collector)
counts = [sum(who == [worker] for _, who, _ in asynchronous) for worker in (0, 1)]
print(len(asynchronous), counts[0] > counts[1])  # 20 True

# %%
# The same number of steps, as they arrived. Synchronous batches come at the pace of the slow worker;
# asynchronous ones come as fast as they can, most of them from the fast worker, and the slow
# worker's are old when they come. ``track_policy_version`` is how you find out in your own runs.

_, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharex=True, sharey=True)
for axis, log, title in zip(axes, (sync, asynchronous), ("MultiSyncCollector", "MultiAsyncCollector"), strict=True):
    for name, who in {"both workers": [0, 1], "fast worker": [0], "slow worker": [1]}.items():
        points = [(when, age) for when, of, age in log if of == who]
        if points:
            axis.scatter(*zip(*points, strict=True), label=name, s=40, alpha=0.7)
    axis.set(title=title, xlabel="seconds until the batch arrived")
    axis.legend(loc="upper right")
axes[0].set(ylabel="age of its policy, in updates", ylim=(-0.5, 1.6 * max(age for _, _, age in asynchronous)))

assert max(age for _, _, age in asynchronous) > 0

# %%
# When weights arrive
# -------------------
#
# Workers have copies of the policy. ``update_policy_weights_()`` writes the weights into shared
# memory, from where each worker takes them before its next action. Until you call it, workers act
# with what they had. To forget it is the classic mistake of training with workers, because nothing
# fails: the curve just stays flat. ``update_at_each_batch=True`` calls it for you.
#
# Here is a policy that always pushes left, and then is changed to push right.

net = torch.nn.Linear(4, 2)
net.weight.data.zero_()
net.bias.data = torch.tensor([1.0, 0.0])  # the value of left, the value of right
policy = QValueActor(net, spec=env.action_spec_unbatched)

with MultiSyncCollector(workers[:1] * 2, policy, frames_per_batch=20, total_frames=-1) as collector:
    share_of_right = [collector.next()["action"][..., 1].float().mean().item()]
    net.bias.data = torch.tensor([0.0, 1.0])
    share_of_right.append(collector.next()["action"][..., 1].float().mean().item())  # not sent yet
    collector.update_policy_weights_()
    share_of_right.append(collector.next()["action"][..., 1].float().mean().item())
print(share_of_right)  # [0.0, 0.0, 1.0]

# %%
# If a worker raises an error or dies, the next call here raises a ``WorkerError`` with the worker's
# traceback, and all workers are ended. ``with`` ends them at its close; otherwise call ``shutdown()``.
#
# Into a replay buffer, in the background
# ---------------------------------------
#
# With a ``replay_buffer`` a collector writes there instead of yielding batches. ``start()`` does so
# in the background, and the learner samples at its own pace. Neither side waits.

buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(10_000), batch_size=64)
collector = Collector(env, actor, frames_per_batch=40, total_frames=-1, replay_buffer=buffer)
collector.start()
while len(buffer) < 400:
    time.sleep(0.01)
sample = buffer.sample()
collector.async_shutdown()
print(sample.batch_size)  # torch.Size([64])

# %%
# Which one?
# ----------
#
# .. list-table::
#    :header-rows: 1
#
#    * - collector
#      - take it when
#    * - :class:`~torchrl.collectors.Collector`
#      - always at first. Several environments in one (``num_envs=``) make its policy cheap; most tasks
#        of Gymnasium are too fast for processes to pay
#    * - ``Collector`` with a :class:`~torchrl.envs.ParallelEnv`
#      - steps are slow (physics, pixels) and the policy is large: one policy call for all processes
#    * - :class:`~torchrl.collectors.MultiSyncCollector`
#      - steps are slow, the policy is small, the algorithm is on-policy
#    * - :class:`~torchrl.collectors.MultiAsyncCollector`
#      - as before, for algorithms that learn from old data; or where episodes or machines differ
#        much in speed
#    * - ``start()`` with a replay buffer
#      - the learner should never wait: SAC and its relatives beside a slow simulator
#
# ``with collector.profile() as profile:`` measures where the time of your own collector goes, before
# you choose.
#
# Read next:
#
# - :doc:`replay_buffers_in_depth`: where the batches go;
# - :doc:`debugging`: ``torchrl.doctor`` and ``torchrl.explain``, for when a run does not learn;
# - :doc:`/guide/speed`: what to measure, and what to change, to collect faster.
