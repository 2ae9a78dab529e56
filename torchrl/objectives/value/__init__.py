"""Value estimators: modules that write advantages and value targets into trajectories."""

from torchrl._core.legacy import old_names
from torchrl.objectives.value import functional
from torchrl.objectives.value._legacy import OLD
from torchrl.objectives.value.advantages import (
    GAE,
    MultiAgentGAE,
    TD0Estimator,
    TD1Estimator,
    TDLambdaEstimator,
    ValueEstimatorBase,
    VTrace,
)
from torchrl.objectives.value.estimators import ValueEstimators, default_value_kwargs

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
