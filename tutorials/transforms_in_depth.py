"""Transforms in depth
===================

A transform changes what an environment returns or what it accepts, and tells everything behind it
about the change. Frame stacks, normalisation, action discretisation, time limits and episode
returns are all transforms, so this is where most of the preprocessing of a project lives.

What you will learn:

- a transform rewrites data *and* specs, in both directions;
- the order of a chain decides what your numbers mean;
- what a transform remembers between steps, and what a reset does to it;
- the same object works in an environment, in a replay buffer and on a batch;
- how to write one of your own.

Five minutes to read, a few seconds to run.
"""

import matplotlib.pyplot as plt
import torch

from torchrl.envs import (
    ActionDiscretizer,
    CatFrames,
    Compose,
    GymEnv,
    RewardScaling,
    RewardSum,
    StepCounter,
    Transform,
    TransformedEnv,
    check_env_specs,
)

torch.manual_seed(0)

# %%
# Data and specs change together
# ------------------------------
#
# In Pendulum the policy chooses a torque between -2 and 2 and sees the cosine, the sine and the
# angular velocity. The chain below makes five choices of the torque, and gives the policy the last
# four observations.

env = TransformedEnv(
    GymEnv("Pendulum-v1"), Compose(ActionDiscretizer(5, out_action_key="choice"), CatFrames(4, -1, ["observation"]))
)
env.set_seed(0)
steps = env.rollout(100)
print(
    env.base_env.observation_spec["observation"].shape, env.observation_spec["observation"].shape
)  # torch.Size([3]) torch.Size([12])
print(env.action_key, env.action_spec.nvec, steps["choice"].dtype)  # choice tensor([5]) torch.int64

# %%
# The rest of the program need not be told: a policy, a buffer or a loss that is built from
# ``env.observation_spec`` and ``env.action_spec`` has the new shapes, dtypes and bounds.
#
# The two transforms work in opposite directions. :class:`~torchrl.envs.CatFrames` rewrites an
# *output*, from its ``in_keys`` to its ``out_keys``: this is the forward pass.
# :class:`~torchrl.envs.ActionDiscretizer` rewrites an *input* in the inverse pass: the policy wrote
# ``choice``, the simulator was given the torque in the middle of that fifth of the range.

torque = -2 + (steps["choice"] + 0.5) * 4 / 5
print(torch.allclose(steps["action"], torque))  # True

# %%
# Order
# -----
#
# Outputs pass through a chain from first to last, inputs from last to first: what comes later in
# the list is nearer to the policy. So the place of a transform decides what it sees. Two copies of
# :class:`~torchrl.envs.RewardSum`, on either side of a scaling, sum different rewards:

chain = Compose(
    RewardSum(out_keys=["true_return"]),
    RewardScaling(loc=0.0, scale=0.01),
    RewardSum(out_keys=["learning_return"]),
    StepCounter(max_steps=50),
)
env = TransformedEnv(GymEnv("Pendulum-v1"), chain)
env.set_seed(0)
steps = env.rollout(200)
true, scaled = steps["next", "true_return"][-1], steps["next", "learning_return"][-1]
print(torch.allclose(scaled, 0.01 * true), len(steps))  # True 50

# %%
# Report the first; learn from the second. The same holds for clipping, signs and normalisation of
# rewards: **sum before you rescale**. ``StepCounter(max_steps=50)`` has ended the episode early. It
# sets ``truncated``, not ``terminated``, so that a value is still bootstrapped there:

end = steps["next"][-1]
print(end["truncated"].item(), end["terminated"].item(), end["done"].item())  # True False True

# %%
# Memory and resets
# -----------------
#
# Some transforms depend on the steps before: stacks, counters, sums. With several copies of the
# task in one environment, episodes end at different times, and only the rows that ended start
# again. CartPole falls early with random actions:

rows = TransformedEnv(GymEnv("CartPole-v1", num_envs=3), StepCounter())
rows.set_seed(0)
steps = rows.rollout(60, break_when_any_done=False)
count, done = steps["next", "step_count"].squeeze(-1), steps["next", "done"].squeeze(-1)
after_end = count[:, 1:][done[:, :-1]]
print(done.sum(1), (after_end == 1).all())  # tensor([3, 4, 2]) tensor(True)

# %%
# Since a transform may remember, one object belongs to one environment. Using it twice is an error
# that tells the remedy; ``clone()`` makes a second one that *shares* statistics and parameters,
# ``copy.deepcopy`` one that shares nothing.

counter = StepCounter()
TransformedEnv(GymEnv("CartPole-v1"), counter)
try:
    TransformedEnv(GymEnv("CartPole-v1"), counter)
except ValueError as error:
    message = str(error)
print("add a clone() instead" in message)  # True

second = TransformedEnv(GymEnv("CartPole-v1"), counter.clone())

# %%
# The same object elsewhere
# -------------------------
#
# Called like a module, a transform takes a batch. In a replay buffer the inverse pass runs on what
# is written and the forward pass on what is sampled; the stored numbers stay raw, so the scale can
# still be changed after the data were collected.

from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

batch = GymEnv("Pendulum-v1").rollout(50)
raw = batch["next", "reward"].clone()
buffer = TensorDictReplayBuffer(
    storage=LazyTensorStorage(50), transform=RewardScaling(0.0, 0.01, in_keys=[("next", "reward")]), batch_size=50
)
buffer.extend(batch)
sample = buffer.sample()
print(torch.allclose(sample["next", "reward"], 0.01 * raw[sample["index"]]))  # True

# %%
# Mind the key: an environment's transform is given the step itself and reads ``reward``; a batch
# holds whole transitions, where it is ``("next", "reward")``. A transform that only makes sense
# between steps says so when it is called on a batch:

try:
    StepCounter()(batch)
except NotImplementedError as error:
    message = str(error)
print("Append it to the environment" in message)  # True

# %%
# One of your own
# ---------------
#
# For a function of one entry there is :class:`~torchrl.envs.UnaryTransform`; its specs are found by
# calling it. A class needs two hooks: the change of one tensor and the change of its spec. Never
# assume a batch size: leading dimensions may be anything.

from torchrl.data import Bounded


class Angle(Transform):
    """Writes the angle of the pendulum, in degrees; upright is 0."""

    def __init__(self):
        super().__init__(in_keys=["observation"], out_keys=["angle"])

    def _apply_transform(self, value):
        return torch.atan2(value[..., 1:2], value[..., 0:1]).rad2deg()

    def _transform_spec(self, spec):
        return Bounded(-180, 180, (*spec.shape[:-1], 1))


env = TransformedEnv(
    GymEnv("Pendulum-v1"), Compose(Angle(), ActionDiscretizer(5, out_action_key="choice"), RewardSum())
)
check_env_specs(env)  # steps it, and compares all entries with their specs
env.set_seed(2)
steps = env.rollout(200)
print(
    steps["angle"].shape, sorted(env.observation_spec.keys())
)  # torch.Size([200, 1]) ['angle', 'episode_reward', 'observation']

# %%
# ``torchrl.testing.check_transform`` tests much more: batches, partial resets, state dicts, buffers.

from torchrl.testing import check_transform

check_transform(Angle, lambda: GymEnv("Pendulum-v1"))

# %%
# What the three transforms wrote into the episode of random actions:

figure, axes = plt.subplots(3, 1, figsize=(8, 6), sharex=True, layout="constrained")
axes[0].step(range(200), steps["action"], color="tab:orange")
axes[0].set(ylabel="torque (N m)", yticks=steps["action"].unique().tolist(), title="ActionDiscretizer: five torques")
axes[1].plot(steps["angle"], ".", color="tab:blue", markersize=4)
axes[1].axhline(0, color="gray", linewidth=0.8, linestyle="--")
axes[1].set(ylabel="angle (°)", yticks=[-180, 0, 180], title="Angle: 0 is upright")
axes[2].plot(steps["next", "episode_reward"], color="tab:red")
axes[2].set(xlabel="step", ylabel="return so far", title="RewardSum")

# %%
# Which one?
# ----------
#
# ============================================  =====================================================
# You want                                      Transform
# ============================================  =====================================================
# a time limit; the return of each episode      ``StepCounter(max_steps)``; ``RewardSum``, before any
#                                               change of rewards
# actions in [-1, 1]; discrete; legal only      ``ActionScaling``; ``ActionDiscretizer``; ``ActionMask``
# observations of unit scale                    ``VecNormV2`` (running), ``ObservationNorm`` (fixed)
# one vector of several entries                 ``CatTensors``
# images ready for a network                    ``ToTensorImage``, ``GrayScale``, ``Resize``
# memory without a recurrent network            ``CatFrames``
# a recurrent policy                            ``InitTracker``, and the primer of the policy
# n-step returns (buffers only)                 ``MultiStepTransform``
# the standard of a benchmark                   ``AtariPreprocessing``, ``MujocoPreprocessing``
# a function of yours                           ``UnaryTransform``, ``ModuleTransform``
# ============================================  =====================================================
#
# Read next:
#
# - :doc:`observation_statistics`: the one transform that learns, and how not to deploy it wrongly;
# - :doc:`memory_efficient_pixels`: stacking frames when they are sampled, not when they are stored;
# - :doc:`/guide/transforms`: all of them, by what they change.
