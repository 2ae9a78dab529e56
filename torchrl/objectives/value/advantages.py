"""The value estimators, under the path that many scripts import them from."""

from torchrl.objectives.value.base import ValueEstimatorBase
from torchrl.objectives.value.gae import GAE, MultiAgentGAE
from torchrl.objectives.value.td import TD0Estimator, TD1Estimator, TDLambdaEstimator
from torchrl.objectives.value.vtrace import VTrace

__all__ = [
    "GAE",
    "MultiAgentGAE",
    "TD0Estimator",
    "TD1Estimator",
    "TDLambdaEstimator",
    "VTrace",
    "ValueEstimatorBase",
]
