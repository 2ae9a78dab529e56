"""An old path: the buffers live in ``buffer`` and ``variants``."""

from torchrl.data.replay_buffers.buffer import ReplayBuffer
from torchrl.data.replay_buffers.variants import TensorDictReplayBuffer

__all__ = ["ReplayBuffer", "TensorDictReplayBuffer"]
