"""What may happen in a training loop: one hook a kind of thing."""

from torchrl.trainers.hooks.base import TrainerHookBase
from torchrl.trainers.hooks.batch import SelectKeys, mask_batch
from torchrl.trainers.hooks.logging import CountFramesLog, LogScalar, LogTiming, UTDRHook
from torchrl.trainers.hooks.memory import ClearCudaCache
from torchrl.trainers.hooks.optimization import (
    DefaultOptimizationStepper,
    LRSchedulerHook,
    OptimizationStepper,
    OptimizerHook,
)
from torchrl.trainers.hooks.replay import ReplayBufferTrainer
from torchrl.trainers.hooks.reward import RewardNormalizer
from torchrl.trainers.hooks.stopping import EarlyStopping
from torchrl.trainers.hooks.subsample import BatchSubSampler
from torchrl.trainers.hooks.validation import LogValidationReward
from torchrl.trainers.hooks.values import ValueEstimatorHook
from torchrl.trainers.hooks.weights import TargetNetUpdaterHook, UpdateWeights

__all__ = [
    "BatchSubSampler",
    "ClearCudaCache",
    "CountFramesLog",
    "DefaultOptimizationStepper",
    "EarlyStopping",
    "LRSchedulerHook",
    "LogScalar",
    "LogTiming",
    "LogValidationReward",
    "OptimizationStepper",
    "OptimizerHook",
    "ReplayBufferTrainer",
    "RewardNormalizer",
    "SelectKeys",
    "TargetNetUpdaterHook",
    "TrainerHookBase",
    "UTDRHook",
    "UpdateWeights",
    "ValueEstimatorHook",
    "mask_batch",
]
