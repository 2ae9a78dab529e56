"""A batch of tensors in one memory, which another process maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor

from torchrl._core.workers.shared_memory import SharedTensors


@dataclass(frozen=True)
class BatchLayout:
    """Keys, shapes and dtypes of a batch.

    Args:
        entries: Key, shape and dtype of each tensor.
        batch_size: Batch size of the batch.
        nested: Key and batch size of each nested tensordict.
        device: Device of the batch; ``None`` or the CPU.
    """

    entries: tuple[tuple[NestedKey, torch.Size, torch.dtype], ...]
    batch_size: torch.Size
    nested: tuple[tuple[NestedKey, torch.Size], ...]
    device: torch.device | None

    @staticmethod
    def of(batch: TensorDictBase) -> BatchLayout | None:
        """Return the layout of a batch; ``None`` unless it has dense tensors on the CPU only."""
        if type(batch) is not TensorDict:
            return None
        if batch.device is not None and batch.device.type != "cpu":
            return None
        entries: list[tuple[NestedKey, torch.Size, torch.dtype]] = []
        nested: list[tuple[NestedKey, torch.Size]] = []
        for key, value in batch.items(True):
            if type(value) is TensorDict:
                nested.append((key, value.batch_size))
            elif isinstance(value, Tensor) and value.device.type == "cpu" and not value.is_nested:
                entries.append((key, value.shape, value.dtype))
            else:
                return None
        return BatchLayout(tuple(entries), batch.batch_size, tuple(nested), batch.device)


class SharedBatch:
    """A batch in one memory, which each batch of the same layout is written into.

    Args:
        layout: Layout of the batch.
        file: Descriptor of the memory that another process made; new memory if ``None``.
        kind: Kind of the memory.
        buffer: Bytes that are there already, instead of new memory.

    >>> batch = TensorDict(a=torch.arange(3), batch_size=[3])
    >>> ours = SharedBatch(BatchLayout.of(batch))
    >>> ours.write(batch)
    >>> SharedBatch(ours.layout, ours.memory.file).batch["a"]
    tensor([0, 1, 2])
    >>> ours.memory.close()
    """

    def __init__(
        self, layout: BatchLayout, file: int | None = None, *, kind: str = "shared", buffer: Any = None
    ) -> None:
        self.layout = layout
        shapes = {key: (shape, dtype) for key, shape, dtype in layout.entries}
        self.memory: SharedTensors[NestedKey] = SharedTensors(shapes, kind, file=file, buffer=buffer)
        self.batch = TensorDict({}, layout.batch_size, device=layout.device)
        for key, size in layout.nested:
            self.batch.set(key, TensorDict({}, size, device=layout.device))
        for key, tensor in self.memory.tensors.items():
            self.batch.set(key, tensor)

    def write(self, batch: TensorDictBase) -> None:
        """Copy a batch of the same layout into the memory."""
        for key, _, _ in self.layout.entries:
            self.batch.get(key).copy_(batch.get(key))
