"""Wrappers of other libraries' environments; no library is imported before it is used."""

from torchrl.envs.libs.brax import BraxEnv, BraxWrapper
from torchrl.envs.libs.dm_control import DMControlEnv, DMControlWrapper
from torchrl.envs.libs.envpool import MultiThreadedEnv, MultiThreadedEnvWrapper
from torchrl.envs.libs.gym import GymEnv, GymWrapper, gym_backend, register_gym_spec_conversion, set_gym_backend
from torchrl.envs.libs.jumanji import JumanjiEnv, JumanjiWrapper
from torchrl.envs.libs.openspiel import OpenSpielEnv, OpenSpielWrapper
from torchrl.envs.libs.pettingzoo import PettingZooEnv, PettingZooWrapper
from torchrl.envs.libs.vmas import VmasEnv, VmasWrapper

# Environments by the name of their library, for scripts that choose one by their settings.
LIBS = {
    "brax": BraxEnv,
    "dm_control": DMControlEnv,
    "envpool": MultiThreadedEnv,
    "gym": GymEnv,
    "gymnasium": GymEnv,
    "jumanji": JumanjiEnv,
    "open_spiel": OpenSpielEnv,
    "pettingzoo": PettingZooEnv,
    "vmas": VmasEnv,
}

__all__ = [
    "BraxEnv",
    "BraxWrapper",
    "DMControlEnv",
    "DMControlWrapper",
    "GymEnv",
    "GymWrapper",
    "JumanjiEnv",
    "JumanjiWrapper",
    "MultiThreadedEnv",
    "MultiThreadedEnvWrapper",
    "OpenSpielEnv",
    "OpenSpielWrapper",
    "PettingZooEnv",
    "PettingZooWrapper",
    "VmasEnv",
    "VmasWrapper",
    "gym_backend",
    "register_gym_spec_conversion",
    "set_gym_backend",
]
