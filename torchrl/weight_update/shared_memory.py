"""Weights in memory that all processes of one machine see."""

from __future__ import annotations

import torch
from torch import Tensor

from torchrl._core.memory import Memory, aligned
from torchrl.weight_update.scheme import Layout, WeightReceiver, WeightSender

_EDITS, _VERSION = 0, 1
_HEADER = aligned(16)


def _offsets(layout: Layout) -> tuple[dict[str, int], int]:
    """Return where each weight begins, in bytes, and where the last one ends."""
    offsets, end = {}, _HEADER
    for name, (shape, dtype) in layout.items():
        offsets[name] = end
        end += aligned(shape.numel() * dtype.itemsize)
    return offsets, end


def _views(layout: Layout, memory: Memory) -> dict[str, Tensor]:
    offsets, _ = _offsets(layout)
    return {name: memory.view(offsets[name], *layout[name]) for name in layout}


class SharedMemSender(WeightSender):
    """Writes weights where every process that was handed ``file`` finds them.

    The number of edits is odd while it writes, so that nobody takes half of the weights.

    Args:
        layout: What the weights look like.

    >>> from torch import nn
    >>> from torchrl.weight_update import layout_of
    >>> learner, actor = nn.Linear(1, 1), nn.Linear(1, 1)
    >>> sender = SharedMemSender(layout_of(learner))
    >>> receiver = SharedMemReceiver(actor, sender.layout, sender.file)
    >>> sender.send(learner), receiver.poll(), receiver.poll()
    (1, True, False)
    >>> bool(learner.weight == actor.weight)
    True
    >>> sender.close()
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        self._memory = Memory(_offsets(layout)[1], "shared")
        self._marks = self._memory.view(0, [2], torch.int64).numpy()
        self._blocks = _views(layout, self._memory)

    @property
    def file(self) -> int:
        """Descriptor of the memory, for other processes."""
        assert self._memory.file is not None
        return self._memory.file

    def _publish(self, weights: dict[str, Tensor], version: int) -> None:
        self._marks[_EDITS] += 1
        for name, block in self._blocks.items():
            block.copy_(weights[name])
        self._marks[_VERSION] = version
        self._marks[_EDITS] += 1

    def close(self) -> None:
        """Give the descriptor back; calling it again is fine."""
        self._memory.close()


class SharedMemReceiver(WeightReceiver):
    """Finds in memory what a :class:`SharedMemSender` wrote.

    Args:
        policy: The policy that acts.
        layout: What the weights look like.
        file: Descriptor of the memory.
    """

    def __init__(self, policy: object, layout: Layout, file: int) -> None:
        super().__init__(policy)
        size = _offsets(layout)[1]
        self._memory = Memory(size, file=file)
        self._marks = self._memory.view(0, [2], torch.int64).numpy()
        self._copy = Memory(size)
        self._weights = _views(layout, self._copy)
        self._taken = 0

    def _is_new(self) -> bool:
        return bool(self._marks[_EDITS] != self._taken)

    def _fetch(self) -> tuple[dict[str, Tensor], int] | None:
        edits, version = int(self._marks[_EDITS]), int(self._marks[_VERSION])
        if edits % 2:
            return None  # being written: the next action will find them
        self._copy.bytes.copy_(self._memory.bytes)
        if self._marks[_EDITS] != edits:
            return None
        self._taken = edits
        return self._weights, version
