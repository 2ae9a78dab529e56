"""Collectors beyond one machine: in the actors of a Ray cluster, in ranks of torch.distributed."""

from torchrl.collectors.distributed.ranks import DistributedCollector, DistributedSyncCollector, RPCCollector
from torchrl.collectors.distributed.ray import RayCollector

__all__ = ["DistributedCollector", "DistributedSyncCollector", "RPCCollector", "RayCollector"]
