"""Sending the weights of a policy from the learner to the policies that act."""

from torchrl.weight_update.distributed import (
    DistributedReceiver,
    DistributedSender,
    DistributedWeightSyncScheme,
    RPCWeightSyncScheme,
)
from torchrl.weight_update.ray import RayWeightReceiver, RayWeightSender
from torchrl.weight_update.scheme import WeightReceiver, Weights, WeightSender, layout_of, weights_of
from torchrl.weight_update.shared_memory import SharedMemReceiver, SharedMemSender
from torchrl.weight_update.sync_schemes import (
    MultiProcessWeightSyncScheme,
    NoWeightSyncScheme,
    RayWeightSyncScheme,
    SharedMemWeightSyncScheme,
    VanillaWeightUpdater,
    WeightSyncScheme,
    WeightUpdaterBase,
)

__all__ = [
    "DistributedReceiver",
    "DistributedSender",
    "DistributedWeightSyncScheme",
    "MultiProcessWeightSyncScheme",
    "NoWeightSyncScheme",
    "RPCWeightSyncScheme",
    "RayWeightReceiver",
    "RayWeightSender",
    "RayWeightSyncScheme",
    "SharedMemReceiver",
    "SharedMemSender",
    "SharedMemWeightSyncScheme",
    "VanillaWeightUpdater",
    "WeightReceiver",
    "WeightSender",
    "WeightSyncScheme",
    "WeightUpdaterBase",
    "Weights",
    "layout_of",
    "weights_of",
]
