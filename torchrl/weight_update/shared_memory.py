"""Weights in shared memory, for all processes of one machine."""

from __future__ import annotations

import torch
from torch import Tensor

from torchrl._core.workers.shared_memory import SharedTensors
from torchrl.weight_update.scheme import Layout, WeightReceiver, WeightSender

_HEADER = ""  # name of the two counters before the weights; no weight has it
_EDITS, _VERSION = 0, 1


def _memory(layout: Layout, kind: str = "own", file: int | None = None) -> SharedTensors[str]:
    header = {_HEADER: (torch.Size([2]), torch.int64)}
    return SharedTensors({**header, **layout}, kind, file=file)


class SharedMemSender(WeightSender):
    """Writes weights into shared memory, for every process that has ``file``.

    The number of edits is odd while it writes, so that no receiver reads half of the weights.

    Args:
        layout: Shapes and dtypes of the weights.

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
        self._memory = _memory(layout, "shared")
        self._header = self._memory[_HEADER].numpy()

    @property
    def file(self) -> int:
        """Descriptor of the memory, for other processes."""
        assert self._memory.file is not None
        return self._memory.file

    def _publish(self, weights: dict[str, Tensor], version: int) -> None:
        self._header[_EDITS] += 1
        for name in self.layout:
            self._memory[name].copy_(weights[name])
        self._header[_VERSION] = version
        self._header[_EDITS] += 1

    def close(self) -> None:
        """Close the descriptor; calling it again is fine."""
        self._memory.close()


class SharedMemReceiver(WeightReceiver):
    """Reads the weights that a :class:`SharedMemSender` wrote.

    Args:
        policy: The policy that acts.
        layout: Shapes and dtypes of the weights.
        file: Descriptor of the memory.

    >>> from torch import nn
    >>> from torchrl.weight_update import layout_of
    >>> learner, actor = nn.Linear(1, 1), nn.Linear(1, 1)
    >>> sender = SharedMemSender(layout_of(learner))
    >>> receiver = SharedMemReceiver(actor, sender.layout, sender.file)
    >>> _ = sender.send(learner)
    >>> receiver.poll(), receiver.version, torch.equal(actor.weight, learner.weight)
    (True, 1, True)
    >>> sender.close()
    """

    def __init__(self, policy: object, layout: Layout, file: int) -> None:
        super().__init__(policy)
        self._memory, self._copy = _memory(layout, file=file), _memory(layout)
        self._header = self._memory[_HEADER].numpy()
        self._weights = {name: self._copy[name] for name in layout}
        self._taken = 0  # number of edits of the weights that were read last

    def _is_new(self) -> bool:
        return bool(self._header[_EDITS] != self._taken)

    def _fetch(self) -> tuple[dict[str, Tensor], int] | None:
        edits, version = int(self._header[_EDITS]), int(self._header[_VERSION])
        if edits % 2:
            return None  # being written; read before the next action
        self._copy.bytes.copy_(self._memory.bytes)
        if self._header[_EDITS] != edits:
            return None
        self._taken = edits
        return self._weights, version
