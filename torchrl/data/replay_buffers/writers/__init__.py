"""Writers: which slots the next rows fill."""

from torchrl.data.replay_buffers.writers.base import Writer
from torchrl.data.replay_buffers.writers.round_robin import (
    RoundRobinWriter,
    TensorDictRoundRobinWriter,
)

__all__ = ["RoundRobinWriter", "TensorDictRoundRobinWriter", "Writer"]
