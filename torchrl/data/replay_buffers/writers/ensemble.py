"""`WriterEnsemble`: the writers of an ensemble."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from torchrl.data.replay_buffers.writers.base import Writer


class WriterEnsemble:
    """The writers of several buffers; whoever writes says to which.

    Args:
        *writers: One for each buffer.

    >>> from torchrl.data import ListStorage, RoundRobinWriter
    >>> writers = WriterEnsemble(RoundRobinWriter(), RoundRobinWriter())
    >>> for writer in writers.writers:
    ...     writer.register_storage(ListStorage(4))
    >>> writers.extend(1, ["a", "b"]), writers.add(1, "c")
    (tensor([0, 1]), 2)
    """

    def __init__(self, *writers: Writer) -> None:
        self.writers = list(writers)

    def add(self, number: int, data: Any) -> int | None:
        """Write one row to storage ``number``; return its slot."""
        return self.writers[number].add(data)

    def extend(self, number: int, data: Any) -> Tensor:
        """Write rows ``[N]`` to storage ``number``; return their slots ``[N]``."""
        return self.writers[number].extend(data)
