"""An environment of your own
==========================

A task that no library has is one class with a few methods. This tutorial writes a pendulum twice:
first with its state in attributes, as simulators have it, then with its state in the data, so that a
thousand pendulums are one environment, and gradients flow through time.

What you will learn:

- which four things an environment must have: specs, ``_reset``, ``_step``, ``_set_seed``;
- how ``check_env_specs`` and :func:`torchrl.testing.check_env` find mistakes before training does;
- where the state can live, and what follows from that;
- how to learn by gradients *through* an environment that is written in torch.

Eight minutes to read, a quarter of a minute to run.

The task: a pole hangs from a motor that is too weak to lift it in one go. It has to be swung up, and
then to be balanced.
"""

import math

import torch
from tensordict import TensorDict

from torchrl.data import Bounded, Composite
from torchrl.envs import EnvBase

torch.manual_seed(0)


def advance(angle, speed, torque, length=1.0):
    """Return angle, speed and reward a twentieth of a second later; an angle of zero is upright."""
    reward = -(angle**2 + 0.1 * speed**2 + 0.001 * torque**2)
    speed = speed + 0.05 * (15 / length * angle.sin() + 3 / length**2 * torque)
    speed = speed.clamp(-8, 8)
    angle = (angle + 0.05 * speed + math.pi) % (2 * math.pi) - math.pi
    return angle, speed, reward


# %%
# The state in attributes
# -----------------------
#
# Specs come first: they say what is observed and which actions are legal, with shapes, bounds and
# dtypes. Everything else is made of them: random actions, buffers, the sizes of networks.
#
# ``_reset`` returns the first observation, ``_step`` what comes after an action: observation,
# reward, and whether the episode has ended. Both return a *new* tensordict. ``_step`` gets what was
# observed together with the action; what it returns will be found under ``"next"``, which is added
# for you. This task never ends by itself, so it writes no end flag.
#
# Random numbers come from a generator of the environment's own, which ``_set_seed`` seeds.


class Pendulum(EnvBase):
    """One pendulum; angle and speed are attributes."""

    def __init__(self, device=None):
        super().__init__(device=device)
        high = torch.tensor([1.0, 1.0, 8.0])
        self.observation_spec = Composite(observation=Bounded(-high, high))
        self.action_spec = Bounded(-2, 2, (1,))
        self.generator = torch.Generator()

    def _observation(self):
        return torch.stack([self.angle.cos(), self.angle.sin(), self.speed])  # [3]

    def _reset(self, td):
        chance = 2 * torch.rand(2, generator=self.generator) - 1
        self.angle, self.speed = math.pi * chance[0], chance[1]
        return TensorDict(observation=self._observation())

    def _step(self, td):
        self.angle, self.speed, reward = advance(self.angle, self.speed, td["action"].squeeze(-1))
        return TensorDict(observation=self._observation(), reward=reward.unsqueeze(-1))

    def _set_seed(self, seed):
        self.generator.manual_seed(seed)


# %%
# ``check_env_specs`` plays a few steps and compares all that comes back with the specs.
# :func:`~torchrl.testing.check_env` does far more: same seed, same numbers; no step changes the
# results of an earlier one; an environment that is pickled in the middle of an episode goes on like
# the original. They are the checks that the environments of the library pass. Put this line into
# your tests.

from torchrl.envs import check_env_specs
from torchrl.testing import check_env

check_env_specs(Pendulum())
check_env(Pendulum)

# %%
# What a mistake looks like
# -------------------------
#
# NumPy computes in double precision, so observations in ``float64`` are the most frequent mistake.
# The first step names the entry, what was expected and what was found.


class Careless(Pendulum):
    """Observes in double precision, and says nothing of it in its specs."""

    def _observation(self):
        return super()._observation().double()


try:
    check_env_specs(Careless())
except Exception as error:
    message = str(error)
print(message.count("expected torch.float32, found torch.float64"))  # 1
assert "append DoubleToFloat()" in message

# %%
# It is an environment
# --------------------
#
# A time limit, returns, lengths of episodes, workers: these are transforms and containers, and
# none of them has to be written again.

from torchrl.envs import Compose, ParallelEnv, RewardSum, StepCounter, TransformedEnv


def make_env():
    """Return a pendulum with a time limit of ten seconds, and its returns."""
    return TransformedEnv(Pendulum(), Compose(StepCounter(max_steps=200), RewardSum()))


env = ParallelEnv(2, make_env)  # two processes
env.set_seed(0)
episodes = env.rollout(200)
env.close()
print(episodes.batch_size, episodes["next", "truncated"][:, -1].all())  # torch.Size([2, 200]) tensor(True)

# %%
# The state in the data
# ---------------------
#
# The state of an existing simulator often cannot be reached. Your own need not. If all that a
# step needs is in the record that it gets, then
#
# - any number of pendulums is one environment, stepped by the same few operations;
# - every step can start anywhere: planning and world models need that;
# - nothing is lost between steps, so gradients flow from a reward back to every earlier action.
#
# Two lines say so. ``batch_locked = False`` allows records of any batch size; ``state_spec`` names
# what a step reads besides the action. Here each pendulum also has a length of its own, which is
# observed and stays as it is.


class Pendulums(EnvBase):
    """Any number of pendulums of different lengths; their state is in the record."""

    batch_locked = False

    def __init__(self, device=None):
        super().__init__(device=device)
        self.observation_spec = Composite(
            angle=Bounded(-math.pi, math.pi, ()), speed=Bounded(-8, 8, ()), length=Bounded(0.5, 1.5, ())
        )
        self.state_spec = self.observation_spec.clone()
        self.action_spec = Bounded(-2, 2, (1,))
        self.generator = torch.Generator()

    def _reset(self, td):
        shape = self.batch_size if td is None else td.batch_size
        chance = torch.rand(3, *shape, generator=self.generator)
        first = {"angle": math.pi * (2 * chance[0] - 1), "speed": 2 * chance[1] - 1, "length": 0.5 + chance[2]}
        return TensorDict(first, shape)

    def _step(self, td):
        angle, speed, reward = advance(td["angle"], td["speed"], td["action"].squeeze(-1), td["length"])
        after = {"angle": angle, "speed": speed, "length": td["length"], "reward": reward.unsqueeze(-1)}
        return TensorDict(after, td.batch_size)

    def _set_seed(self, seed):
        self.generator.manual_seed(seed)


check_env(Pendulums)

# %%
# The batch size comes with the record that an episode starts from. An empty one is enough for a
# thousand random pendulums; with ``auto_reset=False`` it holds the first states themselves.

env = Pendulums()
env.set_seed(0)
print(env.rollout(100, tensordict=TensorDict(batch_size=[1_000])).batch_size)  # torch.Size([1000, 100])

upright = TensorDict(angle=torch.zeros(3), speed=torch.zeros(3), length=torch.tensor([0.5, 1.0, 1.5]), batch_size=[3])
start = upright.set("angle", torch.full((3,), 0.1))
falls = env.rollout(10, lambda td: td.set("action", torch.zeros(3, 1)), auto_reset=False, tensordict=start)
print(falls["next", "angle"][:, -1].argmax())  # tensor(0)

# %%
# Without torque the shortest pole has fallen furthest: the physics is as it should be. A check of
# this kind, of something that you know about the task, is worth more than any check of shapes.
#
# Learning through the environment
# --------------------------------
#
# Most algorithms treat the environment as a black box and try actions to see what happens. Here the
# derivative of the reward with respect to the weights of the policy can be computed: play twenty
# steps, call ``backward``. One policy shall balance poles of all lengths.

from tensordict.nn import TensorDictModule
from torch import nn

from torchrl.modules import MLP


class Controller(nn.Module):
    """From angle, speed and length to a torque."""

    def __init__(self):
        super().__init__()
        self.net = MLP(4, 1, num_cells=[64, 64], activation_class=nn.Tanh)

    def forward(self, angle, speed, length):
        features = torch.stack([angle.cos(), angle.sin(), speed / 8, length], -1)  # [*B, 4]
        return 2 * self.net(features).tanh()  # [*B, 1]


policy = TensorDictModule(Controller(), ["angle", "speed", "length"], ["action"])


def near_upright(count):
    """Return first states, at most 18 degrees to either side."""
    start = env.reset(TensorDict(batch_size=[count]))
    return start.set("angle", 0.1 * start["angle"])


@torch.no_grad()
def balance():
    """Return ten seconds of play, and the share of the poles that are upright in the last of them."""
    steps = env.rollout(200, policy, auto_reset=False, tensordict=near_upright(200))
    return steps, (steps["next", "angle"][:, -20:].abs() < 0.2).all(-1).float().mean().item()


_, before = balance()
optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
costs = []
for _ in range(100):
    steps = env.rollout(20, policy, auto_reset=False, tensordict=near_upright(64))
    cost = -steps["next", "reward"].mean()
    cost.backward()
    nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    scheduler.step()
    costs.append(cost.item())
steps, after = balance()
print(before < 0.1, after > 0.8)  # True True

# %%
# It learned from one second at a time, and balances most poles for ten. On the right, each line is a
# pole: most go to the centre, upright and at rest. The circles at both sides are poles that started
# too fast for so weak a motor; they fell, and swing below it.

from matplotlib import pyplot as plt

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
left.plot(costs)
left.set(xlabel="gradient step", ylabel="cost per step", yscale="log", title="Learning")
for pole in steps[:60]:
    colour = plt.cm.viridis((pole["length"][0] - 0.5).item())
    right.plot(pole["next", "angle"], pole["next", "speed"], ".", markersize=2, color=colour)
right.set(xlabel="angle", ylabel="speed", title="Ten seconds of 60 poles, the longest in yellow")

# %%
# Which of the two?
# -----------------
#
# ============================================  ===================================================
# The state in attributes                       The state in the data
# ============================================  ===================================================
# a simulator of someone else, a game, a robot  mathematics that you can write in torch
# many copies: ``ParallelEnv``                  many copies: a batch size
# one device for the policy, one for the task   everything on the GPU, no copies
# learning from trial and error                 that, and gradients, planning, search
# ============================================  ===================================================
#
# :class:`~torchrl.envs.PendulumEnv` is the second kind, with all physical constants in the record.
# An environment of gymnasium needs no class at all: ``GymEnv("Name-v0")``, or ``GymWrapper(env)``.
#
# Read next
# ---------
#
# - :doc:`custom_loss`: an algorithm of your own;
# - :doc:`transforms_in_depth`: what can be changed without touching the environment;
# - :doc:`collectors`: many copies, many processes.
