"""The loop: collect, store, sample, optimise, with hooks between."""

from torchrl._core.legacy import old_names
from torchrl.trainers._legacy import OLD
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
from torchrl.trainers.trainer import Trainer

__getattr__ = old_names(__name__, OLD)
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
    "Trainer",
    "TrainerHookBase",
    "UTDRHook",
    "UpdateWeights",
    "ValueEstimatorHook",
    "mask_batch",
]
