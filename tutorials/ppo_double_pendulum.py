"""Proximal policy optimisation: a double pendulum
===============================================

What you will learn: how a continuous task is prepared, why observations are normalised, what
proximal means, and how a batch is used many times. Fifteen minutes to read, two or three to run, or
less with fewer frames::

    FRAMES=4000 python tutorials/ppo_double_pendulum.py

The task: two poles, one on top of the other, on a cart that can be pushed to and fro. Each step
that the tip stays up gives a reward of about nine. It needs ``pip install
"torchrl[gym_continuous]"``.
"""

import os

import torch
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torch import nn

total_frames = int(os.environ.get("FRAMES", "50_000"))
frames_per_batch, minibatch_size, num_epochs = min(1_000, total_frames // 2), 64, 10
torch.manual_seed(0)
torch.set_num_threads(1)  # small networks are faster so

# %%
# The environment
# ---------------
#
# Simulators compute in double precision, networks in single: ``DoubleToFloat`` converts.
# ``ObservationNorm`` brings positions, angles and velocities to one scale. Its mean and deviation
# come from a thousand random steps and stay fixed, so that what the network learns does not shift
# under it.

from torchrl.envs import (
    Compose,
    DoubleToFloat,
    GymEnv,
    ObservationNorm,
    RewardSum,
    StepCounter,
    TransformedEnv,
    check_env_specs,
)

normalise = ObservationNorm(in_keys=["observation"])
env = TransformedEnv(
    GymEnv("InvertedDoublePendulum-v5"), Compose(DoubleToFloat(), normalise, StepCounter(), RewardSum())
)
env.set_seed(0)
normalise.init_stats(num_iter=1_000, reduce_dim=0, cat_dim=0)
check_env_specs(env)
print(env.observation_spec["observation"].shape, env.action_spec.shape)  # torch.Size([9]) torch.Size([1])

# %%
# Policy and critic
# -----------------
#
# The policy writes mean and scale of a normal distribution, squashed into the range of the actions.
# The log-probability of each action is kept: the loss will ask how much it has changed.

from torchrl.modules import MLP, ProbabilisticActor, TanhNormal, ValueOperator

net = {"num_cells": [256, 256, 256], "activation_class": nn.Tanh}
parameters = nn.Sequential(MLP(9, 2, **net), NormalParamExtractor())
actor = ProbabilisticActor(
    TensorDictModule(parameters, in_keys=["observation"], out_keys=["loc", "scale"]),
    in_keys=["loc", "scale"],
    spec=env.action_spec,
    distribution_class=TanhNormal,
    return_log_prob=True,
)
critic = ValueOperator(MLP(9, 1, **net), in_keys=["observation"])

# %%
# Data
# ----
#
# Each batch is split into minibatches, again in every epoch, and then dropped: its actions were
# drawn by a policy that is no more.

from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer

collector = Collector(env, actor, frames_per_batch=frames_per_batch, total_frames=total_frames)
buffer = TensorDictReplayBuffer(
    storage=LazyTensorStorage(frames_per_batch), sampler=SamplerWithoutReplacement(), batch_size=minibatch_size
)
print(len(collector) * frames_per_batch == total_frames)  # True

# %%
# The loss
# --------
#
# A batch says how to change the policy only as long as the policy is near to the one that collected
# it. So the objective stops to reward an action's probability for changing once it is a fifth away
# from where it was: the clipped ratio. A little entropy keeps the policy from converging too early.

from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

advantage = GAE(gamma=0.99, lmbda=0.95, value_network=critic)
loss_module = ClipPPOLoss(actor, critic, clip_epsilon=0.2, entropy_coeff=1e-4, normalize_advantage=True)
optimizer = torch.optim.Adam(loss_module.parameters(), lr=3e-4)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(collector))

# %%
# Training
# --------
#
# Three numbers a batch: the mean reward of a step, how many steps the longest episode has lasted,
# and how far the policy has gone from the one that collected the batch (a few hundredths of a nat;
# much more undoes what was learned). Now and then, what it reaches without chance.

from torchrl.envs import set_exploration_type

history = {"reward": [], "steps": [], "kl": [], "evaluation": []}
for i, batch in enumerate(collector):
    advantage(batch)
    buffer.extend(batch)
    for _ in range(num_epochs):
        for minibatch in buffer:
            losses = loss_module(minibatch)
            loss = losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(loss_module.parameters(), 1.0)
            optimizer.step()
    scheduler.step()
    history["reward"].append(batch["next", "reward"].mean().item())
    history["steps"].append(batch["next", "step_count"].max().item())
    history["kl"].append(losses["kl_approx"].item())
    if i % 10 == 9 or i == len(collector) - 1:
        with torch.no_grad(), set_exploration_type("deterministic"):
            test = env.rollout(1_000, actor)
        history["evaluation"].append((i, test["next", "step_count"].max().item()))

print(len(history["steps"]) == len(collector))  # True

# %%
# What was learned
# ----------------

from matplotlib import pyplot as plt

figure, (rewards, steps, kl) = plt.subplots(1, 3, figsize=(12, 3.5), layout="constrained")
rewards.plot(history["reward"])
rewards.set(title="mean reward of a step", xlabel="batch")
steps.plot(history["steps"], label="longest of the batch")
steps.plot(*zip(*history["evaluation"], strict=True), "o", label="without chance")
steps.set(title="steps of an episode", xlabel="batch")
steps.legend()
kl.plot(history["kl"])
kl.set(title="divergence of a batch (nats)", xlabel="batch")
figure.savefig("ppo_double_pendulum.png")

# %%
# Random pushes keep the tip up for six steps. With all 50 000 frames, the mean reward of a step
# climbs from 7.6 to 9.3, steeply at first. The longest episode of a batch climbs from 14 steps to
# 40 after ten batches, to 140 after half of them, to some 300 in the end, once to 785; a thousand
# is the most there is. It would climb on: what stops it is the end of the data, and the learning
# rate that has gone to zero with it. A single episode without chance says little: the last two of
# them lasted 184 and 111 steps.
#
# Read next: ``examples/ppo_continuous.py`` is this script as a program, with settings, a log and a
# video.
