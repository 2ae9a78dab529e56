"""The value estimators, under a path of early releases."""

from torchrl.objectives.returns import functional
from torchrl.objectives.value.pg import GAE, TD0Estimator, TD1Estimator, TDLambdaEstimator

__all__ = ["GAE", "TD0Estimator", "TD1Estimator", "TDLambdaEstimator", "functional"]
