"""Helpers of losses, under the path that many scripts import them from."""

from torchrl.objectives.common import distance_loss
from torchrl.objectives.networks import HardUpdate, SoftUpdate, TargetNetUpdater, hold_out_net, hold_out_params
from torchrl.objectives.off_policy import next_state_value
from torchrl.objectives.optimizers import group_optimizers
from torchrl.objectives.value.registry import (
    ValueEstimators,
    build_value_estimator,
    default_value_kwargs,
    dispatch_value_estimator,
    get_value_estimator_entry,
    register_value_estimator,
)

__all__ = [
    "HardUpdate",
    "SoftUpdate",
    "TargetNetUpdater",
    "ValueEstimators",
    "build_value_estimator",
    "default_value_kwargs",
    "dispatch_value_estimator",
    "distance_loss",
    "get_value_estimator_entry",
    "group_optimizers",
    "hold_out_net",
    "hold_out_params",
    "next_state_value",
    "register_value_estimator",
]
