"""Writers: which slots the next rows fill."""

from torchrl.data.replay_buffers.writers.base import Writer
from torchrl.data.replay_buffers.writers.ensemble import WriterEnsemble
from torchrl.data.replay_buffers.writers.max_value import (
    ImmutableDatasetWriter,
    TensorDictMaxValueWriter,
)
from torchrl.data.replay_buffers.writers.round_robin import (
    RoundRobinWriter,
    TensorDictRoundRobinWriter,
)

__all__ = [
    "ImmutableDatasetWriter",
    "RoundRobinWriter",
    "TensorDictMaxValueWriter",
    "TensorDictRoundRobinWriter",
    "Writer",
    "WriterEnsemble",
]
