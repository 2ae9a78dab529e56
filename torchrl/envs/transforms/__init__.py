"""Transforms: changes to what environments emit and accept, and replay buffers hand out."""

from torchrl.envs.transforms.base import Transform
from torchrl.envs.transforms.compose import Compose
from torchrl.envs.transforms.dtype import DoubleToFloat, DTypeCastTransform
from torchrl.envs.transforms.env import TransformedEnv
from torchrl.envs.transforms.episode import InitTracker, StepCounter
from torchrl.envs.transforms.normalization import ObservationNorm
from torchrl.envs.transforms.primer import TensorDictPrimer
from torchrl.envs.transforms.reward import RewardScaling, RewardSum

__all__ = [
    "Compose",
    "DTypeCastTransform",
    "DoubleToFloat",
    "InitTracker",
    "ObservationNorm",
    "RewardScaling",
    "RewardSum",
    "StepCounter",
    "TensorDictPrimer",
    "Transform",
    "TransformedEnv",
]
