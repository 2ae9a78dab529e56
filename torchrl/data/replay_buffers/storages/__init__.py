"""Storages: where a replay buffer keeps its items."""

from torchrl.data.replay_buffers.storages.base import Storage, StorageEnsemble
from torchrl.data.replay_buffers.storages.compact import CompactStorage
from torchrl.data.replay_buffers.storages.list import CompressedListStorage, LazyStackStorage, ListStorage
from torchrl.data.replay_buffers.storages.memmap import LazyMemmapStorage
from torchrl.data.replay_buffers.storages.tensor import LazyTensorStorage, TensorStorage

__all__ = [
    "CompactStorage",
    "CompressedListStorage",
    "LazyMemmapStorage",
    "LazyStackStorage",
    "LazyTensorStorage",
    "ListStorage",
    "Storage",
    "StorageEnsemble",
    "TensorStorage",
]
