"""Value estimators: modules that write advantages and value targets into trajectories."""

from torchrl._core.legacy import old_names
from torchrl.objectives.value import functional
from torchrl.objectives.value._legacy import OLD
from torchrl.objectives.value.estimators import (
    GAE,
    MultiAgentGAE,
    TD0Estimator,
    TD1Estimator,
    TDLambdaEstimator,
    ValueEstimatorBase,
)
from torchrl.objectives.value.registry import ValueEstimators, default_value_kwargs
from torchrl.objectives.value.vtrace import VTrace

__all__ = [
    "GAE",
    "MultiAgentGAE",
    "TD0Estimator",
    "TD1Estimator",
    "TDLambdaEstimator",
    "VTrace",
    "ValueEstimatorBase",
    "ValueEstimators",
    "default_value_kwargs",
    "functional",
]

__getattr__ = old_names(__name__, OLD)
