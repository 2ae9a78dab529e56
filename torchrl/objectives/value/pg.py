"""The value estimators, under a path of early releases."""

from torchrl.objectives.value.gae import GAE
from torchrl.objectives.value.td import TD0Estimator, TD1Estimator, TDLambdaEstimator

__all__ = ["GAE", "TD0Estimator", "TD1Estimator", "TDLambdaEstimator"]
