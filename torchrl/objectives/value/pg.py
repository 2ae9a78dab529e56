"""The value estimators, under a path of earlier releases."""

from torchrl.objectives.value.advantages import GAE, TD0Estimator, TD1Estimator, TDLambdaEstimator

__all__ = ["GAE", "TD0Estimator", "TD1Estimator", "TDLambdaEstimator"]
