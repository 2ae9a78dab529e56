"""An old path: the buffers live in ``buffer``, ``variants``, ``her`` and ``ensemble``."""

from torchrl.data.replay_buffers.buffer import ReplayBuffer
from torchrl.data.replay_buffers.ensemble import ReplayBufferEnsemble
from torchrl.data.replay_buffers.her import HERReplayBuffer, HindsightStrategy
from torchrl.data.replay_buffers.offline_to_online import OfflineToOnlineReplayBuffer
from torchrl.data.replay_buffers.variants import (
    PrioritizedReplayBuffer,
    TensorDictPrioritizedReplayBuffer,
    TensorDictReplayBuffer,
)

__all__ = [
    "HERReplayBuffer",
    "HindsightStrategy",
    "OfflineToOnlineReplayBuffer",
    "PrioritizedReplayBuffer",
    "ReplayBuffer",
    "ReplayBufferEnsemble",
    "TensorDictPrioritizedReplayBuffer",
    "TensorDictReplayBuffer",
]
