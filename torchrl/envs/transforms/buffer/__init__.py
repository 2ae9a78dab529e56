"""Transforms of what replay buffers store and sample."""

from torchrl.envs.transforms.buffer.compact import NextObservationDelta, NextStateReconstructor, PolicyAgeFilter
from torchrl.envs.transforms.buffer.trajectories import (
    BurnInTransform,
    MultiStepTransform,
    RandomCropTensorDict,
    Reward2GoTransform,
)

__all__ = [
    "BurnInTransform",
    "MultiStepTransform",
    "NextObservationDelta",
    "NextStateReconstructor",
    "PolicyAgeFilter",
    "RandomCropTensorDict",
    "Reward2GoTransform",
]
