"""In a notebook: worker processes
================================

In a notebook, Python's own ``multiprocessing`` is a nuisance: workers that are started afresh cannot
import what you defined in a cell. Here they need not: functions, classes and lambdas travel to the
workers by value. No ``if __name__ == "__main__":``, no file beside the notebook.

What you will learn:

- environments in worker processes, made by functions and classes that are defined in a cell;
- what ``fork`` and ``spawn`` mean, and when it matters;
- how to end workers, and how to see that none is left.

Three minutes to read, a quarter of a minute to run.
"""

import multiprocessing

import torch

from torchrl.collectors import MultiSyncCollector
from torchrl.envs import GymEnv, ParallelEnv, StepCounter, TransformedEnv, UnaryTransform
from torchrl.modules import make_actor

torch.manual_seed(0)

# %%
# A function and a class of a cell
# --------------------------------


def scaled(observation):
    return observation / 10


def make_env():
    env = TransformedEnv(GymEnv("CartPole-v1"), UnaryTransform(["observation"], ["scaled"], fn=scaled))
    return env.append_transform(StepCounter())


# %%
# ``ParallelEnv`` runs each environment in a process of its own, and steps them together. It is used
# like one environment of several rows; ``close()`` ends its workers.

env = ParallelEnv(2, make_env)
steps = env.rollout(10, break_when_any_done=False)
env.close()
print(steps.batch_size, torch.allclose(steps["scaled"] * 10, steps["observation"]))  # torch.Size([2, 10]) True

# %%
# Fork and spawn
# --------------
#
# A forked worker is a copy of the kernel: it starts in milliseconds and has everything that was
# defined. A spawned one is a fresh Python, which imports torch first: seconds. Left alone, the
# library forks where that is safe, which is on Linux as long as the kernel has not used CUDA. Ask for
# ``spawn`` if a simulator does not survive a fork. Both give the same numbers from the same seed.

results = {}
for method in ("fork", "spawn"):
    env = ParallelEnv(2, make_env, mp_start_method=method)
    env.set_seed(0)
    torch.manual_seed(0)
    results[method] = env.rollout(10, break_when_any_done=False)["observation"]
    env.close()
print(results["fork"].equal(results["spawn"]))  # True

# %%
# A collector in workers
# ----------------------
#
# The same holds for collectors, and for policies whose class is defined in a cell. A worker has the
# function as it was when the worker was started: after you edit the cell, start new workers.

actor = make_actor(make_env())
collector = MultiSyncCollector([make_env, lambda: make_env()], actor, frames_per_batch=100, total_frames=300)
print([batch.numel() for batch in collector])  # [100, 100, 100]
collector.shutdown()

# %%
# Nothing is left
# ---------------
#
# A notebook lives for days, so close what you start: ``close()`` for environments, ``shutdown()`` for
# collectors. If you forget, workers end with the kernel, also when it is restarted or killed.

print(multiprocessing.active_children())  # []

# %%
# Read next:
#
# - :doc:`collectors`: which collector to choose, and when new weights reach the workers;
# - :doc:`jupyter`: progress bars, curves and films below a cell.
