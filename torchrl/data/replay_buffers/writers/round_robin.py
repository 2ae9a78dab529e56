"""The oldest row first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchrl.data.replay_buffers.storages.base import Storage
from torchrl.data.replay_buffers.storages.schema import lead_shape, stack_rows
from torchrl.data.replay_buffers.writers.base import Writer, require_tensordict, stamp


class RoundRobinWriter(Writer):
    """Fills the slots in order, then overwrites the oldest.

    The cursor is the storage's count of written rows, so that processes that share a storage share
    the cursor too.

    Args:
        track_generations: Let samples tell, as ``generation [B]``, how often the slot of an item
            has been filled anew, so that
            :meth:`~torchrl.data.ReplayBuffer.update_if_present` finds it again.
    """

    def __init__(self, *, track_generations: bool = False) -> None:
        self.track_generations = track_generations

    @property
    def cursor(self) -> int:
        """The slot that the next row fills."""
        storage = self.storage
        return storage.written % storage.capacity

    def extend(self, data: Any) -> Tensor:
        """Write rows ``[N]``; return their slots ``[N]``."""
        storage = self.storage
        rows, count = storage.prepare(data, True)
        start = storage.written % storage.capacity
        storage.write_run(start, rows, count)
        return _slots(start, count, storage)

    def add(self, data: Any) -> int:
        """Write one row; return its slot."""
        storage = self.storage
        rows, _ = storage.prepare(data, False)
        start = storage.written % storage.capacity
        storage.write_row(start, rows)
        return start


class TensorDictRoundRobinWriter(RoundRobinWriter):
    """Fills the slots in order; each row also stores its own slot.

    Args:
        track_generations: As for :class:`RoundRobinWriter`.

    Writes: ``index [N]``, or ``[N, *W, ndim]`` in a multi-dimensional storage.
    """

    def extend(self, data: Any) -> Tensor:
        """Write rows ``[N]``; return their slots ``[N]``."""
        storage = self.storage
        if isinstance(data, list):
            data = stack_rows(data)
        require_tensordict(data, self)
        storage.learn_row_shape(data, True)
        slots = _slots(self.cursor, lead_shape(data, 1, storage)[0], storage)
        return super().extend(stamp(data, slots, storage))

    def add(self, data: Any) -> int:
        """Write one row; return its slot."""
        storage = self.storage
        require_tensordict(data, self)
        storage.learn_row_shape(data, False)
        return super().add(stamp(data, torch.tensor(self.cursor), storage))

    def stamped(self, data: Any, slots: Tensor) -> Any:
        """Return rows with their slots in them."""
        require_tensordict(data, self)
        return stamp(data, slots, self.storage)

    def stamped_items(self, data: Any, positions: Tensor) -> Any:
        """Return items with their index in them."""
        require_tensordict(data, self)
        return data.copy().set("index", self.storage.coordinates(positions))


def _slots(start: int, count: int, storage: Storage) -> Tensor:
    """Return ``count`` slots from ``start`` on, around the end if need be."""
    slots = torch.arange(start, start + count)
    return slots if start + count <= storage.capacity else slots % storage.capacity
