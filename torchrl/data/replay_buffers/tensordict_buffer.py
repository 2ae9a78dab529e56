"""`TensorDictReplayBuffer`, `PrioritizedReplayBuffer`, and both in one."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase, is_tensor_collection
from torch import Tensor

from torchrl._core.errors import describe
from torchrl._core.keys import require
from torchrl.data.replay_buffers.buffer import ReplayBuffer
from torchrl.data.replay_buffers.data_types import Data
from torchrl.data.replay_buffers.sample_units import Sequence, priorities_of_anchors
from torchrl.data.replay_buffers.samplers.base import Sampler
from torchrl.data.replay_buffers.samplers.prioritized import PrioritizedSampler
from torchrl.data.replay_buffers.storages.base import Storage
from torchrl.data.replay_buffers.writers import TensorDictRoundRobinWriter, Writer


class TensorDictReplayBuffer(ReplayBuffer):
    """A replay buffer of tensordicts, whose samples contain the index of their items.

    Args:
        priority_key: Entry that holds priorities.
        **kwargs: As for :class:`ReplayBuffer`.

    Writes: ``index [B]`` (``[B, ndim]`` where a storage has several dimensions), and
    ``priority_weight [B]`` if the sampler has importance weights.

    >>> from tensordict import TensorDict
    >>> from torchrl.data import LazyTensorStorage
    >>> buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(10), batch_size=4)
    >>> _ = buffer.extend(TensorDict(observation=torch.zeros(3, 2), batch_size=[3]))
    >>> sorted(buffer.sample().keys())
    ['index', 'observation']
    """

    _annotates = True

    def __init__(self, *, priority_key: NestedKey = "td_error", **kwargs: Any) -> None:
        self.priority_key = priority_key
        super().__init__(**kwargs)

    def _default_writer(self) -> Writer:
        return TensorDictRoundRobinWriter()

    def add(self, data: Data) -> int | Tensor | None:
        """Store one item, with its priority if it has one; return its slot, or index."""
        if self._graph is not None and torch.compiler.is_compiling():
            return super().add(data)
        index = super().add(data)
        if index is not None and isinstance(self._sampler, PrioritizedSampler):
            slot = index if isinstance(index, int) else int(index[0, self._storage.time_dim])
            self._rate(torch.tensor([slot]), data.unsqueeze(0))
        return index

    def extend(self, tensordicts: Data, *, update_priority: bool | None = None) -> Tensor:
        """Store items ``[N]``, with their priorities if they have some; return their slots.

        Args:
            tensordicts: A tensordict ``[N]``, or a list of tensordicts.
            update_priority: Whether to use the priorities in ``data``; if ``None``, use them if
                there are any.

        Raises:
            MissingKeyError: if ``update_priority`` is true and there are no priorities.
        """
        data = tensordicts
        if self._graph is not None and torch.compiler.is_compiling() and update_priority is None:
            return super().extend(data)
        rated = update_priority is not False and isinstance(self._sampler, PrioritizedSampler)
        rows: Data = data if is_tensor_collection(data) or not rated else torch.stack(list(data))
        if update_priority:
            require(rows, [self.priority_key], self, "Or leave update_priority alone.")
        slots = self._extend(self._transform.inward(data) if self._transform.steps else data)
        if rated:
            if self.dim_extend > 0:
                rows = rows.transpose(0, self.dim_extend)
            self._rate(slots, rows)
        return slots if self._storage.ndim == 1 else self._storage.index_of(slots)

    def _rate(self, slots: Tensor, rows: TensorDictBase) -> None:
        """Set the priorities ``[N, *W]`` of rows that were just written to ``slots [N]``."""
        priority = rows.get(self.priority_key, None)
        if priority is None:
            return
        kept = slots >= 0
        with self._rating():
            positions = self._storage.items_of(slots[kept])
            rated = priority[kept].reshape(len(positions), -1)
            self._sampler.update_priority(positions, rated)

    def update_tensordict_priority(self, data: TensorDictBase) -> None:
        """Set the priorities of the items in ``data`` to its entry ``priority_key``.

        Those of a window of steps, :class:`Sequence`, are reduced to one, that of its anchor.

        Reads: ``index``, as samples have it, and ``priority_key [B, *]``, reduced to ``[B]``.

        Raises:
            MissingKeyError: if ``data`` lacks one of them.
        """
        require(data, ["index", self.priority_key], self, "Update with a sample of this buffer.")
        index, priority = data.get("index"), data.get(self.priority_key)
        if self._graph is not None and torch.compiler.is_compiling():
            self.update_priority(index, priority)
            return
        if isinstance(self._unit, Sequence):
            self._update_anchors(data, priority)
            return
        with self._rating():
            positions = self._storage.positions(index)  # [*batch]
            batch = positions.shape
            if positions.ndim > 1 and (positions == positions[:, :1]).all():
                batch = batch[:1]  # items that are batches: one index, several priorities
                positions = positions.reshape(batch[0], -1)[:, 0]
            rated = priority.reshape(positions.numel(), -1)
            self._sampler.update_priority(positions.reshape(-1), rated)

    def _update_anchors(self, data: TensorDictBase, priority: Tensor) -> None:
        """Give the steps that were drawn the priorities ``[B, *]`` of their windows."""
        require(data, ["anchor_index", "learning_mask"], self, "Update with a whole sample.")
        reduction = getattr(self._sampler, "reduction", "max")
        with self._rating():
            anchors = self._storage.positions(data.get("anchor_index"))
            rated = priorities_of_anchors(anchors, priority, data.get("learning_mask"), reduction)
            self._sampler.update_priority(*rated)


class PrioritizedReplayBuffer(ReplayBuffer):
    """A replay buffer of any items that samples items of high priority more often.

    Args:
        alpha: Exponent of the priorities; 0 is uniform.
        beta: Exponent of the importance weights; 1 is the full correction.
        eps: Added to priorities.
        dtype: dtype of the weights.
        **kwargs: As for :class:`ReplayBuffer`.

    Source: Schaul et al., 2016, https://arxiv.org/abs/1511.05952. See :class:`PrioritizedSampler`.

    >>> buffer = PrioritizedReplayBuffer(alpha=0.7, beta=1.1)
    >>> _ = buffer.extend(["a", "b"])
    >>> buffer.update_priority(1, 0.5)
    >>> _, info = buffer.sample(4, return_info=True)
    >>> info["priority_weight"].shape
    torch.Size([4])
    """

    def __init__(
        self, *, alpha: float, beta: float, eps: float = 1e-8, dtype: torch.dtype = torch.float32, **kwargs: Any
    ) -> None:
        _refuse_sampler(self, kwargs)
        self._make_sampler = partial(PrioritizedSampler, alpha=alpha, beta=beta, eps=eps, dtype=dtype)
        super().__init__(**kwargs)

    def _default_sampler(self) -> Sampler:
        return self._make_sampler(_item_capacity(self._storage))


class TensorDictPrioritizedReplayBuffer(TensorDictReplayBuffer):
    """A replay buffer of tensordicts that samples items of high priority more often.

    Args:
        alpha: Exponent of the priorities; 0 is uniform.
        beta: Exponent of the importance weights; 1 is the full correction.
        priority_key: Entry that holds priorities.
        eps: Added to priorities.
        reduction: Reduces the priorities of an item that has several.
        **kwargs: As for :class:`ReplayBuffer`.

    Writes: ``index``, ``priority_weight [B]``.

    Source: Schaul et al., 2016, https://arxiv.org/abs/1511.05952. See :class:`PrioritizedSampler`.

    >>> from tensordict import TensorDict
    >>> buffer = TensorDictPrioritizedReplayBuffer(alpha=0.7, beta=0.5, batch_size=4)
    >>> _ = buffer.extend(TensorDict(a=torch.randn(2, 3), batch_size=[2]))
    >>> sample = buffer.sample().set("td_error", torch.rand(4))
    >>> buffer.update_tensordict_priority(sample)
    """

    def __init__(
        self,
        *,
        alpha: float,
        beta: float,
        priority_key: NestedKey = "td_error",
        eps: float = 1e-8,
        reduction: str = "max",
        **kwargs: Any,
    ) -> None:
        _refuse_sampler(self, kwargs)
        self._make_sampler = partial(PrioritizedSampler, alpha=alpha, beta=beta, eps=eps, reduction=reduction)
        super().__init__(priority_key=priority_key, **kwargs)

    def _default_sampler(self) -> Sampler:
        return self._make_sampler(_item_capacity(self._storage))


def _refuse_sampler(buffer: ReplayBuffer, kwargs: dict[str, object]) -> None:
    if "sampler" in kwargs or "consume_after_n_samples" in kwargs:
        raise TypeError(
            describe(
                buffer, "makes its own sampler", hint="Pass another one to ReplayBuffer or TensorDictReplayBuffer."
            )
        )


def _item_capacity(storage: Storage) -> int:
    """Return the number of items that a storage holds."""
    if isinstance(storage.max_size, float):
        raise ValueError(describe("PrioritizedSampler", "the storage is unbounded", hint="Give it a max_size."))
    return int(storage.max_size)
