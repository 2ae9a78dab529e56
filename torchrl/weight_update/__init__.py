"""Carrying the weights of a policy from the learner to those who act."""

from torchrl.weight_update.scheme import (
    WeightReceiver,
    Weights,
    WeightSender,
    layout_of,
    weights_of,
)
from torchrl.weight_update.shared_memory import SharedMemReceiver, SharedMemSender

__all__ = [
    "SharedMemReceiver",
    "SharedMemSender",
    "WeightReceiver",
    "WeightSender",
    "Weights",
    "layout_of",
    "weights_of",
]
