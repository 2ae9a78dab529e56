"""Custom operators for replay buffers inside of functions that `torch.compile` compiles.

Each call of a buffer is one operator of the graph: a function that stores and samples is compiled
to one graph, and the operators run the same code as without a compiler.

Legend: ``N`` rows, ``B`` items of a sample.
"""

from __future__ import annotations

import itertools
import math
import weakref
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from torchrl._core.errors import describe
from torchrl.data.replay_buffers.data_types import Info
from torchrl.data.replay_buffers.samplers.prioritized import PrioritizedSampler
from torchrl.data.replay_buffers.samplers.random import RandomSampler
from torchrl.data.replay_buffers.storages.tensor import TensorStorage

_ENTRIES, _PARTS = "\x1e", "\x1f"  # separators of names, and of the parts of a nested name
_buffers: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_numbers = itertools.count()


class CompiledCalls:
    """The calls of a replay buffer as operators; a counter that each increments keeps their order.

    Args:
        buffer: The buffer; its storage keeps tensors, its sampler draws as many items as it is
            asked for.

    Raises:
        TypeError: if it is another one.
    """

    def __init__(self, buffer: Any) -> None:
        fits = isinstance(buffer.storage, TensorStorage) and not hasattr(buffer, "reward_fn")
        fits = fits and buffer._prefetcher is None and buffer._unit is None
        if not fits or not isinstance(buffer.sampler, RandomSampler | PrioritizedSampler):
            raise TypeError(
                describe(
                    buffer,
                    "compilable buffers draw samples of one size from tensors",
                    expected="LazyTensorStorage, LazyMemmapStorage or TensorStorage, with "
                    "RandomSampler or PrioritizedSampler; no prefetch, sample_unit or hindsight",
                    found=buffer,
                )
            )
        self._number, self._clock = str(next(_numbers)), torch.zeros((), dtype=torch.int64)
        _buffers[self._number] = buffer

    def extend(self, data: TensorDictBase) -> Tensor:
        """Store rows; return their slots ``[N]``."""
        entries = list(data.items(True, True))
        parts = [key if isinstance(key, str) else _PARTS.join(key) for key, _ in entries]
        names, leaves = _ENTRIES.join(parts), [value for _, value in entries]
        return _extend(self._clock, self._number, names, leaves, list(data.batch_size))

    def sample(self, buffer: Any, batch_size: int) -> tuple[TensorDictBase, Info]:
        """Return items ``[B]`` as they are stored, and the info about them."""
        schema = buffer.storage._known("sample")
        index, weight, packed = _sample(self._clock, self._number, batch_size)
        data = TensorDict(batch_size=[batch_size], device=buffer.storage.device)
        parts = packed.split([leaf.shape.numel() * leaf.dtype.itemsize for leaf in schema.leaves], 1)
        for leaf, part in zip(schema.leaves, parts, strict=True):
            data.set(leaf.name, part.clone().view(leaf.dtype).view(batch_size, *leaf.shape))
        weighed = isinstance(buffer.sampler, PrioritizedSampler)
        return data, {"index": index, **({"priority_weight": weight} if weighed else {})}

    def update_priority(self, index: Tensor, priority: Tensor) -> None:
        """Set the priorities of items ``[N]``."""
        _update_priority(self._clock, self._number, index, priority)


@torch.library.custom_op("torchrl::replay_extend", mutates_args={"clock"})
def _extend(clock: Tensor, number: str, names: str, leaves: list[Tensor], batch_size: list[int]) -> Tensor:
    clock += 1
    keys = [tuple(name.split(_PARTS)) for name in names.split(_ENTRIES)]
    return _buffers[number].extend(TensorDict(dict(zip(keys, leaves, strict=True)), batch_size))


@_extend.register_fake
def _(clock: Tensor, number: str, names: str, leaves: list[Tensor], batch_size: list[int]) -> Tensor:
    ndim = _buffers[number].storage.ndim
    items = math.prod(batch_size[:ndim])
    return torch.empty(items if ndim == 1 else (items, ndim), dtype=torch.int64)


@torch.library.custom_op("torchrl::replay_sample", mutates_args={"clock"})
def _sample(clock: Tensor, number: str, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
    clock += 1
    buffer = _buffers[number]
    with buffer._lock:
        positions, info, _ = buffer._draw(batch_size)
        leaves = buffer.storage._gather(positions)
    index = buffer.storage.coordinates(positions)
    weight = info.get("priority_weight", torch.empty(0))
    rows = [leaf.contiguous().view(batch_size, -1).view(torch.uint8) for leaf in leaves]
    return index.clone(), weight, torch.cat(rows, 1)


@_sample.register_fake
def _(clock: Tensor, number: str, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
    buffer = _buffers[number]
    storage, sampler = buffer.storage, buffer.sampler
    shape = (batch_size,) if storage.ndim == 1 else (batch_size, storage.ndim)
    weighed = isinstance(sampler, PrioritizedSampler)
    weight = torch.empty(batch_size, dtype=sampler.dtype) if weighed else torch.empty(0)
    leaves = storage._known("sample").leaves
    width = sum(leaf.shape.numel() * leaf.dtype.itemsize for leaf in leaves)
    packed = torch.empty(batch_size, width, dtype=torch.uint8, device=storage.device)
    return torch.empty(shape, dtype=torch.int64), weight, packed


@torch.library.custom_op("torchrl::replay_update_priority", mutates_args={"clock"})
def _update_priority(clock: Tensor, number: str, index: Tensor, priority: Tensor) -> None:
    clock += 1
    _buffers[number].update_priority(index, priority)


@_update_priority.register_fake
def _(clock: Tensor, number: str, index: Tensor, priority: Tensor) -> None:
    pass
