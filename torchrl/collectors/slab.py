"""Batches in shared memory: laid out once, written again and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor

from torchrl._core.memory import Memory, aligned


@dataclass(frozen=True)
class Layout:
    """What a batch looks like.

    Args:
        entries: Key, shape and dtype of each tensor.
        batch_size: Of the batch.
        nested: Key and batch size of each nested record.
        device: That the batch names; ``None`` or the CPU.
    """

    entries: tuple[tuple[NestedKey, torch.Size, torch.dtype], ...]
    batch_size: torch.Size
    nested: tuple[tuple[NestedKey, torch.Size], ...]
    device: torch.device | None

    @staticmethod
    def of(batch: TensorDictBase) -> Layout | None:
        """Return the layout of a batch; ``None`` where memory cannot hold it."""
        if type(batch) is not TensorDict:
            return None
        if batch.device is not None and batch.device.type != "cpu":
            return None
        entries: list[Any] = []
        nested: list[Any] = []
        for key, value in batch.items(True):
            if type(value) is TensorDict:
                nested.append((key, value.batch_size))
            elif isinstance(value, Tensor) and value.device.type == "cpu" and not value.is_nested:
                entries.append((key, value.shape, value.dtype))
            else:
                return None
        return Layout(tuple(entries), batch.batch_size, tuple(nested), batch.device)

    def offsets(self) -> list[int]:
        """Return where each entry begins, in bytes, and where the last one ends."""
        out = [0]
        for _, shape, dtype in self.entries:
            out.append(out[-1] + aligned(shape.numel() * dtype.itemsize))
        return out


class Slab:
    """The memory of one batch.

    Args:
        layout: What the batch looks like.
        file: Descriptor of the memory that another process made; a new one if ``None``.

    >>> batch = TensorDict(a=torch.arange(3), batch_size=[3])
    >>> slab = Slab(Layout.of(batch))
    >>> slab.write(batch)
    >>> Slab(slab.layout, slab.memory.file).batch["a"]
    tensor([0, 1, 2])
    >>> slab.memory.close()
    """

    def __init__(self, layout: Layout, file: int | None = None) -> None:
        self.layout = layout
        *starts, size = layout.offsets()
        self.memory = Memory(size, "shared", file=file)
        self.batch = _view(layout, starts, self.memory)

    def write(self, batch: TensorDictBase) -> None:
        """Copy a batch of the same layout into the memory."""
        for key, _, _ in self.layout.entries:
            self.batch.get(key).copy_(batch.get(key))


def _view(layout: Layout, starts: Sequence[int], memory: Memory) -> TensorDict:
    out = TensorDict({}, layout.batch_size, device=layout.device)
    for key, size in layout.nested:
        out.set(key, TensorDict({}, size, device=layout.device))
    for (key, shape, dtype), start in zip(layout.entries, starts, strict=True):
        out.set(key, memory.view(start, shape, dtype))
    return out
