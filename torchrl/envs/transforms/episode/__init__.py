"""Transforms of episodes: resets, ends, counts and sums."""

from torchrl.envs.transforms.episode.autoreset import AutoResetEnv, AutoResetTransform, VecGymEnvTransform
from torchrl.envs.transforms.episode.last_reward import LastRewardPrimer
from torchrl.envs.transforms.episode.resets import FireReset, NoopResetEnv, TensorDictPrimer, gSDENoise
from torchrl.envs.transforms.episode.termination import (
    EndOfLifeTransform,
    EpisodicLife,
    RandomTruncationTransform,
    TerminateTransform,
)
from torchrl.envs.transforms.episode.tracking import InitTracker, RewardSum, StepCounter, Timer, TrajCounter

__all__ = [
    "AutoResetEnv",
    "AutoResetTransform",
    "EndOfLifeTransform",
    "EpisodicLife",
    "FireReset",
    "InitTracker",
    "LastRewardPrimer",
    "NoopResetEnv",
    "RandomTruncationTransform",
    "RewardSum",
    "StepCounter",
    "TensorDictPrimer",
    "TerminateTransform",
    "Timer",
    "TrajCounter",
    "VecGymEnvTransform",
    "gSDENoise",
]
