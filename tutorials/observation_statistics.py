"""Observation statistics
======================

Networks learn best from numbers around zero with a deviation around one. Sensors report
millimetres, degrees and revolutions per minute. So training normalises observations by the mean
and the deviation of what it has seen so far, and from then on **those statistics are a part of the
policy**: an evaluation, a checkpoint or a robot that does not have them runs another policy.

What you will learn:

- how :class:`~torchrl.envs.VecNormV2` keeps running statistics during training;
- why several copies of an environment should share them;
- how an evaluation environment gets them, frozen;
- how they are saved with the weights, and what it costs to forget them.

Five minutes to read, half a minute to run.
"""

import tempfile

import matplotlib.pyplot as plt
import torch

import torchrl
from torchrl.envs import Compose, GymEnv, RewardSum, TransformedEnv, UnaryTransform, VecNormV2, set_exploration_type

torch.manual_seed(0)

# %%
# A task in awkward units
# -----------------------
#
# CartPole, with sensors as a technician might have built them: the position in millimetres from the
# left end of the track, angles in degrees.


def to_sensor_units(observation):
    """Return observations in millimetres, from the left end, and degrees."""
    position, speed, angle, angular_speed = observation.unbind(-1)
    return torch.stack([1000 * position + 2400, 1000 * speed, angle.rad2deg(), angular_speed.rad2deg()], -1)


def make_cart(num_envs=0):
    """Return CartPole with these sensors."""
    return TransformedEnv(
        GymEnv("CartPole-v1", num_envs=num_envs), UnaryTransform(["observation"], ["observation"], fn=to_sensor_units)
    )


# %%
# Running statistics
# ------------------
#
# Appended to the training environment, :class:`~torchrl.envs.VecNormV2` updates mean and variance
# with the observation of each step and each reset, and normalises by what it has so far.
# ``decay=1.0`` weighs all steps equally; less forgets the early ones.
#
# With several copies of the task, pass ``reduce_batch_dims=True``. The default keeps one mean and
# one deviation *for each copy*: each learns from a fraction of the data, the same state looks
# different in two copies, and the statistics fit no environment with another number of copies.

env = TransformedEnv(make_cart(8), Compose(VecNormV2(["observation"], decay=1.0, reduce_batch_dims=True)))
env.set_seed(0)
steps = env.rollout(250, break_when_any_done=False)
norm = env.transform[-1]
print(norm.loc["observation"].shape, norm.state_dict()["observation_count"].item() > 8 * 250)  # torch.Size([4]) True

separate = TransformedEnv(make_cart(8), Compose(VecNormV2(["observation"], decay=1.0)))
separate.rollout(10)
print(separate.transform[-1].loc["observation"].shape)  # torch.Size([8, 4])

# %%
# ``denorm`` undoes the normalisation, so the raw numbers of a batch can still be looked at. The
# first steps of a run are normalised by statistics of few samples; that is the price of not knowing
# them in advance, and it is gone after some hundred steps.

recent = steps[:, -100:].select("observation")
raw = norm.denorm(recent.clone())["observation"]

figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
names = ["position", "speed", "angle", "angular\nspeed"]
for ax, values, title in ((axes[0], raw, "what the sensors report"), (axes[1], recent["observation"], "normalised")):
    ax.violinplot(list(values.flatten(0, 1).T.numpy()), showextrema=False)
    ax.set(title=title, xticks=range(1, 5), xticklabels=names)

# %%
# Training
# --------
#
# :func:`torchrl.train` does all of the above if ``normalize_observations=True``, and clips at 10
# deviations. The agent it returns holds a *frozen copy* of the statistics beside its policy.

agent = torchrl.train(
    "ppo",
    make_cart,
    normalize_observations=True,
    num_envs=8,
    frames_per_batch=512,
    minibatch_size=128,
    num_epochs=5,
    lr=3e-3,
    total_frames=16_384,
    eval_interval=16_384,
    final_episodes=0,
    log_dir="",
    progress_bar=False,
)
right = agent.evaluate(20).mean

# %%
# What happens without them
# -------------------------
#
# The same policy on twenty carts that have the agent's statistics; on twenty carts each of which
# starts from nothing and follows what it sees, as a robot with a new ``VecNormV2`` would; and on
# twenty that do not normalise at all. 500 is the most there is.


def evaluate(*transforms):
    """Return the mean return of the policy on twenty carts."""
    test = TransformedEnv(make_cart(20), Compose(*transforms, RewardSum()))
    test.set_seed(1_000)
    with torch.no_grad(), set_exploration_type("deterministic"):
        episodes = test.rollout(500, agent.policy, break_when_all_done=True)
    return episodes["next", "episode_reward"][:, -1].mean().item()


frozen = next(part for part in agent.transforms if isinstance(part, VecNormV2))
scores = {
    "the agent's, frozen": evaluate(frozen.clone()),
    "new, in each copy": evaluate(VecNormV2(["observation"], decay=1.0)),
    "none": evaluate(),
}
for name, score in scores.items():
    print(f"{name:20} {score:6.1f}")
assert min(right, scores["the agent's, frozen"]) > 10 * scores["none"]

# %%
# Without normalisation, the agent that solves the task drops the pole at once. Nothing failed and
# nothing warned: the policy got numbers of the right shape and acted on them. Statistics that start
# from nothing catch up soon on this task, but the first steps of each cart cost some episodes, and
# what is evaluated is a policy that changes from step to step and that nothing can repeat. If an agent
# that was good in training is bad in evaluation, look at the statistics first.
#
# In your own loop
# ----------------
#
# Give the evaluation environment the statistics of training by one of these:
#
# - ``norm.frozen_copy()`` has statistics of its own that do not change any more. The agent above has
#   one; it is what you want for a final evaluation, and for anything that is kept;
# - ``norm.clone()`` *shares* the statistics with training. Call ``eval()`` on the evaluation
#   environment, or its observations are counted, too: it then always normalises as training does at
#   that moment, which is what you want for evaluations along the way.

following = TransformedEnv(make_cart(), Compose(norm.clone()))
following.eval()
kept = norm.frozen_copy()
count = norm.state_dict()["observation_count"].item()
following.rollout(20)
print(norm.state_dict()["observation_count"].item() == count)  # True

env.rollout(50, break_when_any_done=False)  # training goes on
same = following.transform[-1].loc["observation"] == norm.loc["observation"]
print(same.all(), (kept.loc["observation"] == norm.loc["observation"]).any())  # tensor(True) tensor(False)

# %%
# Saved with the agent
# --------------------
#
# ``agent.save`` writes weights, statistics, specs and settings to one file, ``agent.export`` puts the
# normalisation into the exported program. An agent that was loaded takes raw observations:

with tempfile.TemporaryDirectory() as folder:
    agent.save(f"{folder}/cart.agent")
    loaded = torchrl.Agent.load(f"{folder}/cart.agent")
observation = to_sensor_units(torch.tensor([0.1, 0.0, 0.02, 0.0]))
print(loaded.predict(observation)[0] == agent.predict(observation)[0])  # True

# %%
# In a loop of your own the statistics are two more lines: save ``norm.state_dict()`` beside
# ``policy.state_dict()``, and load it into a new ``VecNormV2`` with the same arguments.

new = VecNormV2(["observation"], decay=1.0, reduce_batch_dims=True)
new.load_state_dict(norm.state_dict())
new.freeze()
print((new.loc["observation"] == norm.loc["observation"]).all())  # tensor(True)

# %%
# Which one?
# ----------
#
# ==========================================  ========================================================
# You have                                    Use
# ==========================================  ========================================================
# no idea of the scales                       ``VecNormV2``, with ``reduce_batch_dims=True``
# a fixed data set, or known scales           ``ObservationNorm(loc, scale, standard_normal=True)``
# an environment, and random steps cover it   ``ObservationNorm`` and ``init_stats(1_000)``
# several worker processes                    ``VecNormV2(shared_data=VecNormV2.build_shared_data(env,
#                                             ["observation"]), lock=mp.Lock())`` in each of them
# images                                      none of these: bytes, divided by 255
# a deployed policy                           ``frozen_copy()`` or ``to_observation_norm()``
# ==========================================  ========================================================
#
# Read next:
#
# - :doc:`transforms_in_depth`: chains of transforms, and what a reset does to them;
# - :doc:`/guide/observation_statistics`: the same as a recipe, with several processes;
# - :doc:`trainers_command_line`: more of :func:`torchrl.train`.
