"""The training loop, `Trainer`, and the hooks that extend it."""

from torchrl._core.legacy import old_names
from torchrl.trainers._legacy import OLD
from torchrl.trainers.agent import Agent, Evaluation
from torchrl.trainers.dead_units import LogDeadUnits, dead_units
from torchrl.trainers.doctor import doctor
from torchrl.trainers.explain import explain
from torchrl.trainers.hooks.base import TrainerHookBase
from torchrl.trainers.hooks.data import (
    BatchSubSampler,
    ReplayBufferTrainer,
    RewardNormalizer,
    SelectKeys,
    ValueEstimatorHook,
    mask_batch,
)
from torchrl.trainers.hooks.logging import (
    CountFramesLog,
    EarlyStopping,
    LogEpisodes,
    LogScalar,
    LogTiming,
    LogValidationReward,
    UTDRHook,
)
from torchrl.trainers.hooks.optimization import (
    ClearCudaCache,
    DefaultOptimizationStepper,
    LRSchedulerHook,
    MixedPrecisionOptimizationStepper,
    OptimizationStepper,
    OptimizerHook,
    TargetNetUpdaterHook,
    UpdateWeights,
)
from torchrl.trainers.plots import bootstrap_interval, iqm, iqm_interval, plot_runs
from torchrl.trainers.q_values import LogQValue, q_values
from torchrl.trainers.run_folder import RunConfig, RunFolder
from torchrl.trainers.runs import read_run
from torchrl.trainers.trainer import Trainer
from torchrl.trainers.training import resume, train

__getattr__ = old_names(__name__, OLD)
__all__ = [
    "Agent",
    "BatchSubSampler",
    "ClearCudaCache",
    "CountFramesLog",
    "DefaultOptimizationStepper",
    "EarlyStopping",
    "Evaluation",
    "LRSchedulerHook",
    "LogDeadUnits",
    "LogEpisodes",
    "LogQValue",
    "LogScalar",
    "LogTiming",
    "LogValidationReward",
    "MixedPrecisionOptimizationStepper",
    "OptimizationStepper",
    "OptimizerHook",
    "ReplayBufferTrainer",
    "RewardNormalizer",
    "RunFolder",
    "RunConfig",
    "SelectKeys",
    "TargetNetUpdaterHook",
    "Trainer",
    "TrainerHookBase",
    "UTDRHook",
    "UpdateWeights",
    "ValueEstimatorHook",
    "bootstrap_interval",
    "dead_units",
    "doctor",
    "explain",
    "iqm",
    "iqm_interval",
    "mask_batch",
    "plot_runs",
    "q_values",
    "read_run",
    "resume",
    "train",
]
