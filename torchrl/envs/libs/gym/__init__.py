"""Gymnasium environments."""

from torchrl.envs.libs.gym.backend import gym_backend, set_gym_backend
from torchrl.envs.libs.gym.env import GymEnv, GymWrapper
from torchrl.envs.libs.gym.register import register_gym, space_from_spec
from torchrl.envs.libs.gym.spaces import register_gym_spec_conversion, spec_from_space

__all__ = [
    "GymEnv",
    "GymWrapper",
    "gym_backend",
    "register_gym",
    "register_gym_spec_conversion",
    "set_gym_backend",
    "space_from_spec",
    "spec_from_space",
]
