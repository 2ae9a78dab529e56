"""`ValueEstimatorHook`: advantages, anew for each epoch."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase

from torchrl.objectives.value import ValueEstimatorBase
from torchrl.trainers.hooks.base import TrainerHookBase


class ValueEstimatorHook(TrainerHookBase):
    """Runs a value estimator over the batch before each epoch: the critic has changed since.

    Args:
        value_estimator: Writes the advantages and value targets.

    Reads, writes: as the estimator does.

    >>> from torchrl.objectives.value import GAE
    >>> from torchrl.testing.networks import critic
    >>> ValueEstimatorHook(GAE(gamma=0.99, lmbda=0.95, value_network=critic())).stage
    'pre_epoch'
    """

    stage, name = "pre_epoch", "value_estimator"

    def __init__(self, value_estimator: ValueEstimatorBase) -> None:
        self.value_estimator = value_estimator

    @torch.no_grad()
    def __call__(self, batch: TensorDictBase) -> TensorDictBase:
        return self.value_estimator(batch)
