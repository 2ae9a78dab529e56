"""The lowest ranked row first."""

from __future__ import annotations

import heapq
from typing import Any

import torch
from tensordict import NestedKey
from torch import Tensor

from torchrl._core.errors import describe
from torchrl._core.keys import require
from torchrl.data.replay_buffers.storages.base import Storage
from torchrl.data.replay_buffers.storages.schema import stack_rows
from torchrl.data.replay_buffers.writers.base import Writer, require_tensordict, stamp

REDUCTIONS = ("sum", "max", "min", "mean", "median")


class TensorDictMaxValueWriter(Writer):
    """Keeps the rows that rank highest; of equals, the first.

    Args:
        rank_key: Entry that rows are ranked by; ``("next", "reward")`` if ``None``.
        reduction: What makes one number of an entry that holds several: ``"sum"``, ``"max"``,
            ``"min"``, ``"mean"`` or ``"median"``.

    Reads: ``rank_key [N, *]``.
    Writes: ``index [N]``, the slot of each row.

    Raises:
        ValueError: if ``reduction`` is unknown, or a rank is not a number.
        MissingKeyError: if rows have no ``rank_key``; nothing is written then.

    >>> from tensordict import TensorDict
    >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    >>> writer = TensorDictMaxValueWriter("score")
    >>> buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(2), writer=writer)
    >>> buffer.extend(TensorDict(score=torch.tensor([3.0, 1.0, 2.0, 0.0]), batch_size=[4])).tolist()
    [0, -1, 1, -1]
    >>> buffer[:]["score"]
    tensor([3., 2.])
    """

    def __init__(self, rank_key: NestedKey | None = None, reduction: str = "sum") -> None:
        if reduction not in REDUCTIONS:
            raise ValueError(
                describe(self, "unknown reduction", expected=REDUCTIONS, found=reduction)
            )
        self.rank_key = ("next", "reward") if rank_key is None else rank_key
        self.reduction = reduction
        self._empty()

    def _empty(self) -> None:
        self._heap: list[tuple[float, int, int]] = []  # rank, minus the count of rows, slot
        self._count = 0

    def extend(self, data: Any) -> Tensor:
        """Write the rows ``[N]`` that rank high enough; return slots ``[N]``, ``-1`` for others."""
        if isinstance(data, list):
            data = stack_rows(data)
        require_tensordict(data, self)
        storage, ranks = self.storage, self._ranks(data)
        storage.learn_row_shape(data, True)
        self._check(data, storage)
        heap, count, slot_of = list(self._heap), self._count, dict[int, int]()
        for row, rank in enumerate(ranks):
            entry = (rank, -count, len(heap))
            if len(heap) < storage.capacity:
                heapq.heappush(heap, entry)
            elif rank > heap[0][0]:
                entry = (rank, -count, heap[0][2])
                heapq.heapreplace(heap, entry)
            else:
                continue
            slot_of[entry[2]] = row
            count += 1
        slots = torch.full((len(ranks),), -1)
        if slot_of:
            kept = torch.tensor([slot_of[slot] for slot in sorted(slot_of)])
            slots[kept] = torch.tensor(sorted(slot_of))
            storage.set(slots[kept], stamp(data[kept], slots[kept], storage))
        self._heap, self._count = heap, count
        return slots

    def add(self, data: Any) -> int | None:
        """Write a row if it ranks high enough; return its slot, or ``None``."""
        require_tensordict(data, self)
        slot = int(self.extend(data.unsqueeze(0)))
        return None if slot < 0 else slot

    def stamped(self, data: Any, slots: Tensor) -> Any:
        """Return rows with their slots in them."""
        require_tensordict(data, self)
        return stamp(data, slots, self.storage)

    def stamped_items(self, data: Any, positions: Tensor) -> Any:
        """Return items with their index in them."""
        require_tensordict(data, self)
        return data.copy().set("index", self.storage.coordinates(positions))

    def _ranks(self, data: Any) -> list[float]:
        require(data, [self.rank_key], self, "Name yours by rank_key.")
        ranks = data.get(self.rank_key)
        ranks = ranks.double().reshape(data.shape[0], -1)  # [N, *]
        ranks = getattr(ranks, self.reduction)(1)
        ranks = ranks if isinstance(ranks, Tensor) else ranks.values
        if ranks.isnan().any():
            raise ValueError(
                describe(self, "is not a number", key=self.rank_key, hint="Nothing was written.")
            )
        return ranks.tolist()

    def _check(self, data: Any, storage: Storage) -> None:
        """Refuse bad rows, those too that would not be kept."""
        slots = torch.zeros(data.shape[0], dtype=torch.long)
        storage.prepare(stamp(data, slots, storage), True)

    def state_dict(self) -> dict[str, Any]:
        """Return the ranks of the stored rows."""
        return {"heap": list(self._heap), "count": self._count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the ranks of a :meth:`state_dict`."""
        self._heap = [tuple(entry) for entry in state_dict["heap"]]
        self._count = state_dict["count"]


class ImmutableDatasetWriter(Writer):
    """Refuses to write: for data that stay as they are.

    Raises:
        RuntimeError: whenever something would be written.

    >>> from torchrl.data import ReplayBuffer
    >>> ReplayBuffer(writer=ImmutableDatasetWriter()).add(1)
    Traceback (most recent call last):
    RuntimeError: ImmutableDatasetWriter: this buffer is read-only. ...
    """

    writes = False

    def extend(self, data: Any) -> Tensor:
        """Refuse."""
        raise self._refusal()

    def add(self, data: Any) -> int | None:
        """Refuse."""
        raise self._refusal()

    def allow_edits(self) -> None:
        """Refuse."""
        raise self._refusal()

    def _refusal(self) -> RuntimeError:
        return RuntimeError(
            describe(self, "this buffer is read-only", hint="Copy what you need to another one.")
        )
