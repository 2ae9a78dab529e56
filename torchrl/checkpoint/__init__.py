"""Experiments, saved and loaded: weights, optimizers, buffers, settings and chance."""

from torchrl.checkpoint.checkpoint import Checkpoint, CheckpointError, CheckpointLoadResult
from torchrl.checkpoint.randomness import GlobalRNGState
from torchrl.checkpoint.rotation import CheckpointRotation

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "CheckpointLoadResult",
    "CheckpointRotation",
    "GlobalRNGState",
]
