"""Small tasks, and settings that make an algorithm take a few steps on them."""

from dataclasses import fields

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import CartPoleEnv, GymWrapper, PendulumEnv
from torchrl.testing.mocks import MaskedEnv
from torchrl.trainers.algorithms import ALGORITHMS, AlgorithmConfig, make_env
from torchrl.trainers.algorithms.environments import isolated_seeds

SMALL = {
    "total_frames": 256,
    "learning_starts": 64,
    "frames_per_batch": 64,
    "batch_size": 16,
    "buffer_size": 500,
    "num_envs": 2,
    "minibatch_size": 32,
    "num_epochs": 2,
    "num_cells": 16,
    "critic_cells": 16,
    "critic_depth": 1,
    "num_critics": 3,
    "updates_per_frame": 0.05,
    "eps_frames": 100,
    "policy_delay": 2,
    "target_interval": 3,
    "hidden_size": 8,
}


class Space(gymnasium.Env):
    """A task of five steps with any spaces; the reward is the first number of the action."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space
        self.observation_space.seed(0)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self._observe(self.observation_space), {}

    def _observe(self, space):
        if isinstance(space, spaces.Dict):
            return {name: self._observe(part) for name, part in space.items()}
        high = 255 if space.dtype == np.uint8 else 1.0
        return (self.np_random.random(space.shape) * high).astype(space.dtype)

    def step(self, action):
        self.count += 1
        return self._observe(self.observation_space), float(np.ravel(action)[0]), self.count == 5, False, {}


BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)
PICTURE = spaces.Box(0, 255, (40, 40, 3), np.uint8)


def picture():
    return GymWrapper(Space(spaces.Dict(screen=PICTURE), spaces.Discrete(3)))


def small_picture():
    return GymWrapper(Space(spaces.Dict(screen=spaces.Box(0, 1, (10, 10, 4), np.bool_)), spaces.Discrete(3)))


def several_observations():
    return GymWrapper(Space(spaces.Dict(screen=PICTURE, arm=spaces.Dict(angle=BOX)), spaces.Discrete(3)))


def several_observations_continuous():
    return GymWrapper(Space(spaces.Dict(screen=PICTURE, arm=spaces.Dict(angle=BOX)), BOX))


def several_choices():
    return GymWrapper(Space(BOX, spaces.MultiDiscrete([3, 2])))


def switches():
    return GymWrapper(Space(BOX, spaces.MultiBinary(3)))


def masked():
    return MaskedEnv()


def build(name, env, **settings):
    """Return a trainer that takes a few small steps."""
    kind = ALGORITHMS[name]
    known = {field.name for field in fields(kind.config_class)}
    small = {setting: value for setting, value in SMALL.items() if setting in known}
    if "dataset" in known:
        small |= {"dataset": recorded(env), "num_envs": 1}
        small |= {} if "learning_starts" in known else {"total_frames": 8}  # gradient steps
    return kind.from_env(env, kind.config_class(), progress_bar=False, **{"log_interval": 1, **small, **settings})


def recorded(env):
    """Return a buffer with random steps of a task."""
    with isolated_seeds(0):
        task = make_env(env, AlgorithmConfig())
        buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(200))
        buffer.extend(task.rollout(200, break_when_any_done=False))
        task.close()
    return buffer


def natural_task(name):
    """Return the name of a task that an algorithm fits."""
    return "CartPole-v1" if "discrete" in ALGORITHMS[name].action_kinds else "Pendulum-v1"


def without_gradient(trainer):
    """Return the names of parameters of the loss that no gradient has reached."""
    named = trainer.loss_module.named_parameters()
    return [name for name, p in named if p.requires_grad and (p.grad is None or not torch.isfinite(p.grad).all())]


def torch_task(name):
    """Return a task that an algorithm fits, whose states are drawn by the generator of torch, which is saved."""
    return CartPoleEnv if "discrete" in ALGORITHMS[name].action_kinds else PendulumEnv
