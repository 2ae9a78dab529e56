"""Offline learning from a Minari dataset
======================================

Sometimes the data are all there is: logs of a plant, of a fleet of robots, of a hospital. Offline
reinforcement learning makes a policy of them that is better than the one that produced the data, without
a single step in the environment. `Minari <https://minari.farama.org>`_ is the usual format of such
datasets.

What you will learn:

- how to record any Gymnasium environment as a Minari dataset;
- how to load it as a replay buffer, and what its entries are;
- what behaviour cloning and IQL make of the same data, and when CQL is the choice;
- which of them to choose, and how to judge the result honestly.

Five minutes to read, about half a minute to run. It needs ``pip install "torchrl[offline]"``.
"""

import os
import tempfile

folder = tempfile.TemporaryDirectory()
os.environ["MINARI_DATASETS_PATH"] = folder.name  # so that this tutorial leaves nothing on your disk

import gymnasium
import matplotlib.pyplot as plt
import minari
import numpy as np
import torch
from minari.data_collector import EpisodeBuffer

import torchrl
from torchrl.data.datasets import load_dataset

torch.manual_seed(0)

# %%
# Record
# ------
#
# An operator swings up a pendulum by hand. She knows how: push with the motion until there is enough
# energy, then balance. But she is distracted, in some episodes hardly and in some most of the time,
# and pushes anywhere then. Which pushes were meant was not written down.


def good(obs):
    """Pump energy, then balance."""
    cos, sin, speed = obs
    angle = np.arctan2(sin, cos)  # 0 is upright
    if abs(angle) < 0.3:
        return -8 * angle - 2 * speed
    energy = 0.5 * speed**2 + 15 * cos
    return 2 * np.sign(speed * (15 - energy))


def play(attention, seed):
    """Return an episode in which a share of the actions was meant."""
    obs, _ = env.reset(seed=seed)
    episode = {"observations": [obs], "actions": [], "rewards": [], "terminations": [], "truncations": []}
    while not any(episode["truncations"]):  # the task never terminates
        torque = good(obs) if rng.random() < attention else rng.uniform(-2, 2)
        action = np.clip([torque + rng.normal(0, 0.5)], -2, 2).astype(np.float32)
        obs, reward, terminated, truncated, _ = env.step(action)
        new = (obs, action, reward, terminated, truncated)
        for values, value in zip(episode.values(), new, strict=True):
            values.append(value)
    return EpisodeBuffer(id=seed, **episode)


env = gymnasium.make("Pendulum-v1")
rng = np.random.default_rng(0)
episodes = [play(attention, seed) for seed, attention in enumerate(rng.uniform(0, 1, 60))]
minari.create_dataset_from_buffers(
    "pendulum/distracted-v0",
    episodes,
    env="Pendulum-v1",
    eval_env="Pendulum-v1",
    algorithm_name="distracted operator",
    author="you",
    author_email="you@example.org",
    code_permalink="https://example.org",
    description="Swing-up by hand, with random actions in between.",
)

# %%
# Any log can be turned into a dataset so: an episode is one more observation than actions, and the
# flags of each step. To record while an environment runs, wrap it in ``minari.DataCollector``.
#
# Load
# ----
#
# :func:`~torchrl.data.datasets.load_dataset` finds a Minari dataset by ``minari:`` and its id, one
# of the public collection (which it downloads) as well as yours. The result is a replay buffer that
# cannot be written to, and reads from the disk what it samples. A path works too, of a folder of
# Minari, of a D4RL file or of what :meth:`ReplayBuffer.export <torchrl.data.ReplayBuffer.export>`
# wrote.

dataset = load_dataset("minari:pendulum/distracted-v0", root=f"{folder.name}/torchrl", download=False)
steps = dataset[:]
print(
    len(dataset), sorted(steps.keys())
)  # 12000 ['action', 'done', 'episode', 'next', 'observation', 'terminated', 'truncated']

# %%
# The layout is that of every batch in this library: what was seen at the root, what came of it under
# ``"next"``; ``episode`` has the number of the episode. So the data can be looked at before anything
# is trained on them, which is always worth it:

rewards = steps["next", "reward"].squeeze(-1)
returns = torch.zeros(60, dtype=rewards.dtype).index_add_(0, steps["episode"], rewards)
print(steps["next", "truncated"].sum(), steps["next", "terminated"].any())  # tensor(60) tensor(False)
print(f"return of an episode: {returns.mean():.0f}, from {returns.min():.0f} to {returns.max():.0f}")

# %%
# Learn
# -----
#
# The environment is named so that its specs are known and the result can be evaluated; no step is
# taken in it during training. A "frame" of an offline algorithm is one gradient step. So few of them,
# on so small networks, are enough for a pendulum; start from the defaults for anything larger.
#
# Behaviour cloning imitates the data, by regression: where good and random pushes disagree, it learns
# their mean, which is too weak.

settings = {"num_cells": 64, "log_dir": "", "progress_bar": False, "final_episodes": 0, "eval_interval": 10_000}
clone = torchrl.train("bc", "Pendulum-v1", dataset=dataset, total_frames=600, **settings)

# %%
# IQL learns the value of the *better* actions in the data, by a regression to a high expectile, and
# then imitates actions the more, the better they were. It never asks for the value of an action that
# is not in the data.

iql = torchrl.train(
    "iql", "Pendulum-v1", dataset=dataset, total_frames=1_500, lr_actor=1e-3, lr_critic=1e-3, tau=0.01, **settings
)

# %%
# CQL is the same line with ``"cql"``. It asks for the values of all actions and keeps those that are
# not in the data low. That is slower: a step takes four times as long as one of IQL, and after 500
# steps of the size above it was still at -1135, so it is left out of this short run.
#
# Judge
# -----
#
# The loss of an offline algorithm says little about the policy, so play, if you can:

scores = {"data": returns.mean().item(), "bc": clone.evaluate(20).mean, "iql": iql.evaluate(20).mean}
for name, score in scores.items():
    print(f"{name:5} {score:6.0f}")
assert scores["bc"] < scores["data"] < scores["iql"]

figure, axes = plt.subplots(figsize=(7.5, 2.8), layout="constrained")
bars = axes.barh(list(scores), list(scores.values()), color=["tab:gray", "tab:orange", "tab:green"])
axes.bar_label(bars, fmt="%.0f", padding=3)
axes.set(xlabel="return of an episode (0 is the best)", xlim=(-1_150, 0))
axes.invert_yaxis()
axes.spines[["top", "right"]].set_visible(False)

# %%
# IQL is better than the data that it learned from. One seed of one small data set is no comparison of
# algorithms, though.

folder.cleanup()

# %%
# If you cannot play, as in most applications: choose by the algorithm's reputation on data like
# yours, keep the policy near the data, and do not tune on what you report. Numbers are usually given
# relative to a random policy (0) and an expert (100); Minari keeps both in ``ref_min_score`` and
# ``ref_max_score``.
#
# Which one?
# ----------
#
# =======================  ===========================================================================
# Your data                Start with
# =======================  ===========================================================================
# all good                 ``bc``: nothing to tune, hard to beat
# mixed, continuous        ``iql``; ``td3_bc`` is as simple. Both stay close to the data
# mixed, much of it        ``cql``: may become better than any single episode, and is harder to tune
# discrete actions         ``iql`` or ``cql``: both take them
# long, goal-like tasks    ``decision_transformer``: a sequence model that is told the return to reach
# online steps to come     ``offline_to_online``: a share of each batch from the data set
# =======================  ===========================================================================
#
# Read next:
#
# - :doc:`replay_buffers_in_depth`: mixing a data set with fresh experience;
# - :doc:`/guide/offline`: more formats, more algorithms.
