"""Debugging: a run that is broken on purpose
==========================================

What you will learn:

- to find wiring mistakes before the first step, with ``explain``;
- to find mistakes of training in its numbers, with ``doctor``;
- which numbers to log, and what they look like when something is wrong;
- what to check when neither tool has anything to say.

Five minutes to read, a quarter of a minute to run.

Reinforcement learning fails silently: a wrong program still runs, and its curve is merely low. So we
break PPO in two common ways, and fix it with what the library can tell.
"""

import tempfile
from pathlib import Path

import torch
from tensordict.nn import TensorDictModule

import torchrl
from torchrl.envs import GymEnv, RewardSum, TransformedEnv
from torchrl.modules import MLP, OneHotCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

torch.manual_seed(0)

# %%
# Broken before the first step
# ----------------------------
#
# Environment, policy and loss are connected by the names of entries. Two things are wrong here. Do you
# see both?

env = TransformedEnv(GymEnv("CartPole-v1"), RewardSum())
actor = ProbabilisticActor(
    TensorDictModule(MLP(4, 2, num_cells=[64]), in_keys=["observation"], out_keys=["logits"]),
    in_keys=["logits"],
    spec=env.action_spec,
    distribution_class=OneHotCategorical,
)
critic = ValueOperator(MLP(4, 1, num_cells=[64]), in_keys=["observations"])
loss = ClipPPOLoss(actor, critic)

# %%
# :func:`torchrl.explain` follows every entry from the reset to the loss. ``problems`` is what does not
# fit: which entry, who reads it, and what to do.

problems = torchrl.explain(env, actor, loss, value_estimator=GAE(gamma=0.99, lmbda=0.95, value_network=critic)).problems
for problem in problems:
    print("-", problem)
assert len(problems) == 2

# %%
# The critic reads an entry that does not exist; the nearest name shows the typo. And PPO compares the
# policy with the one that collected the data, so the collector must keep the log-probability of each
# action. Without the check, both would have come up one after the other, each after a batch.

actor = ProbabilisticActor(
    TensorDictModule(MLP(4, 2, num_cells=[64]), in_keys=["observation"], out_keys=["logits"]),
    in_keys=["logits"],
    spec=env.action_spec,
    distribution_class=OneHotCategorical,
    return_log_prob=True,
)
critic = ValueOperator(MLP(4, 1, num_cells=[64]), in_keys=["observation"])
loss = ClipPPOLoss(actor, critic)
explanation = torchrl.explain(env, actor, loss, value_estimator=GAE(gamma=0.99, lmbda=0.95, value_network=critic))
print(explanation.problems)  # ()

# %%
# In a notebook an explanation is a table: each component in the order of the data flow, with what it
# reads and writes, shapes included. It is also the quickest way to learn how a program of others works.

explanation

# %%
# Broken while it runs
# --------------------
#
# The second mistake is in no name. A learning rate that falls to zero over the run is usual for PPO. The
# run has 24 batches, so the schedule gets 24 steps; here it takes one after every *gradient* step.

from torchrl.record import CSVLogger
from torchrl.trainers import LRSchedulerHook
from torchrl.trainers.algorithms import PPOTrainer

scratch = tempfile.TemporaryDirectory()
runs = Path(scratch.name)
total_frames = 6_144


def train(name, interval):
    """Train PPO with a learning rate that falls to zero, one step of the schedule after each ``interval``."""
    trainer = PPOTrainer.from_env(
        "CartPole-v1",
        total_frames=total_frames,
        num_epochs=8,
        anneal_lr=False,  # we have a schedule of our own
        seed=0,
        logger=CSVLogger("ppo_CartPole-v1_seed0", runs / name),
        log_interval=256,
        progress_bar=False,
    )
    schedule = torch.optim.lr_scheduler.LinearLR(trainer.optimizer, 1.0, 0.0, len(trainer.collector))
    LRSchedulerHook(schedule, interval).register(trainer)
    trainer.train()


train("broken", interval="optim")

# %%
# No error, no warning, finite losses. The trainer logs what the loss reports: the KL divergence of each
# update, the share of clipped samples, the entropy, the variance that the critic explains. ``doctor``
# compares these with what the literature knows about them.

from torchrl.trainers import doctor

report = doctor(runs / "broken")
for finding in report.findings:
    print(finding.text(), end="\n\n")
assert report.findings[0].severity == "warning"
assert {"learning_rate_is_zero", "kl_zero"} <= {finding.rule for finding in report.findings}

# %%
# Read it as a detective does: a KL divergence of exactly zero says that the policy stopped moving; the
# learning rate says why; the share of the run says that the schedule counts something other than
# batches. The advice names it. So, one word:

train("fixed", interval="batch")
report = doctor(runs / "fixed")
found = {finding.rule for finding in report.findings}
assert not {"learning_rate_is_zero", "kl_zero"} & found

# %%
# Look at both. ``read_run`` returns the numbers of a folder as arrays of steps and values; these four are
# the first to plot for any actor-critic.

import matplotlib.pyplot as plt

from torchrl.trainers import read_run

names = {"episode_return": "return", "lr": "learning rate", "kl_approx": "KL divergence", "entropy": "entropy"}
colors = {"broken": "tab:red", "fixed": "tab:blue"}
figure, axes = plt.subplots(2, 2, figsize=(8, 5), sharex=True, layout="constrained")
final = {}
for name, color in colors.items():
    run = read_run(runs / name / "ppo_CartPole-v1_seed0")
    for (metric, title), panel in zip(names.items(), axes.flat, strict=True):
        steps, values = run.series(metric).T
        panel.plot(steps, values, color=color, label=name)
        panel.set_title(title)
        panel.grid(alpha=0.3)
    final[name] = run.values("episode_return")[-5:].mean()
axes[0, 0].legend(frameon=False)
for panel in axes[1]:
    panel.set_xlabel("frames")
plt.show()

print(final["fixed"] > 2 * final["broken"])  # True

# %%
# What a report does not say
# --------------------------
#
# ``doctor`` judges what was logged, and says what it could not look at. Losses report most numbers by
# themselves; ``log_timings=True`` and :class:`~torchrl.trainers.LogDeadUnits` add two more.

print(sorted(report.unchecked)[:3])

# %%
# When it finds nothing and the curve is still low, change one thing at a time, in this order:
#
# 1. ``check_env_specs(env)``, and :func:`~torchrl.testing.check_env` for your own environment: do rewards, ends and
#    dtypes keep their promises?
# 2. The same program on a task that is known to be easy. CartPole takes a minute.
# 3. The scale of observations and rewards: a network likes numbers around one.
# 4. Three more seeds. Many a bug is one unlucky seed, and many a trick one lucky seed.
# 5. The settings of the paper, before your own.

scratch.cleanup()

# %%
# Read next:
#
# - the page :doc:`/debugging`: all rules with their limits, and rules of your own;
# - ``custom_environment.py``, for what ``check_env`` finds;
# - ``trainers_command_line.py``: ``torchrl doctor`` for runs of the shell;
# - ``evaluation.py``: whether the difference is one.
