"""Transforms of rewards."""

from torchrl.envs.transforms.episode.tracking import RewardSum
from torchrl.envs.transforms.reward.scaling import (
    BinarizeReward,
    PopArt,
    ReturnNorm,
    RewardClipping,
    RewardScaling,
    SignTransform,
)
from torchrl.envs.transforms.reward.shaping import LineariseRewards, RNDTransform, SuccessReward, TargetReturn

__all__ = [
    "BinarizeReward",
    "LineariseRewards",
    "PopArt",
    "RNDTransform",
    "ReturnNorm",
    "RewardClipping",
    "RewardScaling",
    "RewardSum",
    "SignTransform",
    "SuccessReward",
    "TargetReturn",
]
