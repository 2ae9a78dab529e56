"""Checkpoints: weights, optimizers, buffers, settings and random generators of an experiment."""

from torchrl._core.generators import GlobalRNGState
from torchrl.checkpoint.adapters import (
    CheckpointAdapter,
    CheckpointBest,
    CheckpointFormat,
    CheckpointMetricMode,
    CheckpointOptions,
    CheckpointStrictness,
    DumpLoadCheckpointAdapter,
    JSONCheckpointAdapter,
    StateDictCheckpointAdapter,
    StateDictFormat,
)
from torchrl.checkpoint.checkpoint import Checkpoint, CheckpointError, CheckpointLoadResult
from torchrl.checkpoint.rotation import CheckpointRotation

__all__ = [
    "Checkpoint",
    "CheckpointAdapter",
    "CheckpointBest",
    "CheckpointError",
    "CheckpointFormat",
    "CheckpointLoadResult",
    "CheckpointMetricMode",
    "CheckpointOptions",
    "CheckpointRotation",
    "CheckpointStrictness",
    "DumpLoadCheckpointAdapter",
    "GlobalRNGState",
    "JSONCheckpointAdapter",
    "StateDictCheckpointAdapter",
    "StateDictFormat",
]
