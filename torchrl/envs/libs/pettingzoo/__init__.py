"""PettingZoo environments."""

from torchrl.envs.libs.pettingzoo.env import PettingZooEnv, PettingZooWrapper

__all__ = ["PettingZooEnv", "PettingZooWrapper"]
