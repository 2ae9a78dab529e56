"""`BufferDataset`: the samples of a replay buffer, for a ``DataLoader``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch.utils.data import IterableDataset, get_worker_info

from torchrl.data.replay_buffers.data_types import Data

if TYPE_CHECKING:
    from torchrl.data.replay_buffers.buffer import ReplayBuffer


class BufferDataset(IterableDataset[Data]):
    """The samples of a replay buffer: ``DataLoader(buffer.as_dataset(), batch_size=None)``.

    Each worker of a loader samples from its own copy of the buffer, with random numbers of its own.

    Args:
        buffer: Returns the samples.
        batch_size: Number of items of a sample; that of the buffer if ``None``.
        num_batches: Number of samples of an iteration; until the sampler ends a pass if ``None``,
            without an end if it has none.
    """

    def __init__(self, buffer: ReplayBuffer, batch_size: int | None = None, num_batches: int | None = None) -> None:
        super().__init__()
        self.buffer, self.batch_size, self.num_batches = buffer, batch_size, num_batches

    def __iter__(self) -> Iterator[Data]:
        worker = get_worker_info()
        if worker is not None and self.buffer.sampler.generator is not None:
            self.buffer.set_rng(torch.Generator().manual_seed(worker.seed))
        count = 0
        while self.num_batches is None or count < self.num_batches:
            yield self.buffer.sample(self.batch_size)
            count += 1
            if self.num_batches is None and self.buffer.ran_out:
                return
