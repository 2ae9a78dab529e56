"""Replay buffers of tensordicts, with priorities, with both: the same with other defaults."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase, is_tensor_collection
from torch import Tensor

from torchrl._core.errors import describe
from torchrl._core.keys import require
from torchrl.data.replay_buffers.buffer import ReplayBuffer
from torchrl.data.replay_buffers.sample_units import Sequence, priorities_of_anchors
from torchrl.data.replay_buffers.samplers.base import Sampler
from torchrl.data.replay_buffers.samplers.prioritized import PrioritizedSampler
from torchrl.data.replay_buffers.storages.base import Storage
from torchrl.data.replay_buffers.writers.base import Writer
from torchrl.data.replay_buffers.writers.round_robin import TensorDictRoundRobinWriter


class TensorDictReplayBuffer(ReplayBuffer):
    """A replay buffer of tensordicts, whose samples know where they come from.

    Args:
        priority_key: Entry that holds priorities.
        **kwargs: As for :class:`ReplayBuffer`.

    Writes: ``index [B]`` (``[B, ndim]`` where a storage has several dimensions), and
    ``priority_weight [B]`` if the sampler weighs samples.

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

    def add(self, data: Any) -> int | None:
        """Store one item, with its priority if it has one; return its slot."""
        if self._in_graph() is not None:
            return super().add(data)
        slot = super().add(data)
        if slot is not None and isinstance(self._sampler, PrioritizedSampler):
            self._rate(torch.tensor([slot]), data.unsqueeze(0))
        return slot

    def extend(self, data: Any, *, update_priority: bool | None = None) -> Tensor:
        """Store items ``[N]``, with their priorities if they have some; return their slots.

        Args:
            data: A tensordict ``[N]``, or a list of tensordicts.
            update_priority: Whether the priorities in ``data`` count; if there are some, when
                ``None``.

        Raises:
            MissingKeyError: if ``update_priority`` is true and ``data`` has no priorities.
        """
        if self._in_graph() is not None and update_priority is None:
            return super().extend(data)
        rated = update_priority is not False and isinstance(self._sampler, PrioritizedSampler)
        rows: Any = data if is_tensor_collection(data) or not rated else torch.stack(list(data))
        if update_priority:
            require(rows, [self.priority_key], self, "Or leave update_priority alone.")
        slots = super().extend(data)
        if rated:
            if self.dim_extend > 0:
                rows = rows.transpose(0, self.dim_extend)
            self._rate(slots, rows)
        return slots

    def _rate(self, slots: Tensor, rows: TensorDictBase) -> None:
        """Pass on the priorities ``[N, *W]`` of rows that were just written to ``slots [N]``."""
        priority = rows.get(self.priority_key, None)
        if priority is None:
            return
        kept = slots >= 0
        with self._rating():
            positions = self._storage.items_of(slots[kept])
            rated = priority[kept].reshape(len(positions), -1)
            self._sampler.update_priority(positions, rated)

    def update_tensordict_priority(self, data: TensorDictBase) -> None:
        """Take the priorities of the items in ``data`` from its ``priority_key``.

        Those of a window of steps, :class:`Sequence`, become one, that of its anchor.

        Reads: ``index``, as samples have it, and ``priority_key [B, *]``, reduced to ``[B]``.

        Raises:
            MissingKeyError: if ``data`` lacks one of them.
        """
        require(data, ["index", self.priority_key], self, "Update with a sample of this buffer.")
        index, priority = data.get("index"), data.get(self.priority_key)
        if self._in_graph() is not None:
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
    """A replay buffer of any items that draws surprising ones more often.

    Args:
        alpha: How much priorities count; 0 is uniform.
        beta: How much the weights correct for that; 1 is fully.
        eps: Added to priorities.
        dtype: Of the weights.
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
        self,
        *,
        alpha: float,
        beta: float,
        eps: float = 1e-8,
        dtype: torch.dtype = torch.float32,
        **kwargs: Any,
    ) -> None:
        _refuse_sampler(self, kwargs)
        self._make_sampler = partial(
            PrioritizedSampler, alpha=alpha, beta=beta, eps=eps, dtype=dtype
        )
        super().__init__(**kwargs)

    def _default_sampler(self) -> Sampler:
        return self._make_sampler(_item_capacity(self._storage))


class TensorDictPrioritizedReplayBuffer(TensorDictReplayBuffer):
    """A replay buffer of tensordicts that draws surprising ones more often.

    Args:
        alpha: How much priorities count; 0 is uniform.
        beta: How much the weights correct for that; 1 is fully.
        priority_key: Entry that holds priorities.
        eps: Added to priorities.
        reduction: How the priorities of an item that has several become one.
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
        self._make_sampler = partial(
            PrioritizedSampler, alpha=alpha, beta=beta, eps=eps, reduction=reduction
        )
        super().__init__(priority_key=priority_key, **kwargs)

    def _default_sampler(self) -> Sampler:
        return self._make_sampler(_item_capacity(self._storage))


def _refuse_sampler(buffer: ReplayBuffer, kwargs: dict[str, Any]) -> None:
    if "sampler" in kwargs or "consume_after_n_samples" in kwargs:
        raise TypeError(
            describe(
                buffer,
                "makes its own sampler",
                hint="Hand another one to ReplayBuffer or TensorDictReplayBuffer.",
            )
        )


def _item_capacity(storage: Storage) -> int:
    """Return the number of items that a storage holds."""
    if isinstance(storage.max_size, float):
        raise ValueError(
            describe(
                "PrioritizedSampler",
                "the storage is unbounded",
                hint="Give it a max_size.",
            )
        )
    return int(storage.max_size)
