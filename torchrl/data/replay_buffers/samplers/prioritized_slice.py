"""Sub-trajectories that start at surprising steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchrl._core.errors import describe
from torchrl.data.replay_buffers.samplers.base import require_items
from torchrl.data.replay_buffers.samplers.prioritized import PrioritizedSampler
from torchrl.data.replay_buffers.samplers.slice import SliceSampler, no_long_episode
from torchrl.data.replay_buffers.storages.base import Storage

ROUNDS = 16  # draws of starts, before all starts are looked at


class PrioritizedSliceSampler(PrioritizedSampler):
    r"""Draws the starts of slices in proportion to their priority, among starts that leave room.

    Starts too close to the end of their episode are drawn again: the others keep their odds.

    Args:
        max_capacity: Number of items that the storage holds.
        alpha: How much priorities count; 0 is uniform.
        beta: How much the weights correct for that; 1 is fully.
        eps: Added to priorities.
        dtype: Of the weights.
        reduction: How the priorities of an item that has several become one.
        max_priority_within_buffer: Give new items the highest priority now in the buffer.
        **slices: As for :class:`SliceSampler`, without ``span``.

    Writes: ``priority_weight [B]``, that of the start for all steps of a slice; and as
    :class:`SliceSampler`.

    Raises:
        TypeError: if ``span`` is given.

    >>> from tensordict import TensorDict
    >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    >>> sampler = PrioritizedSliceSampler(9, 1.0, 1.0, slice_len=2, traj_key="episode")
    >>> buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(9), sampler=sampler, batch_size=4)
    >>> _ = buffer.extend(TensorDict(episode=torch.tensor([0, 0, 0, 1, 1]), batch_size=[5]))
    >>> buffer.update_priority(torch.arange(5), torch.tensor([0.0, 9.0, 9.0, 0.0, 9.0]))
    >>> buffer.sample()["index"]
    tensor([1, 2, 1, 2])
    """

    def __init__(
        self,
        max_capacity: int,
        alpha: float,
        beta: float,
        eps: float = 1e-8,
        dtype: torch.dtype = torch.float32,
        reduction: str = "max",
        max_priority_within_buffer: bool = False,
        **slices: Any,
    ) -> None:
        if "span" in slices:
            raise TypeError(describe(self, "starts where priorities say, so it takes no span"))
        super().__init__(
            max_capacity, alpha, beta, eps, dtype, reduction, max_priority_within_buffer
        )
        self._slices = SliceSampler(**slices)

    def sample(self, storage: Storage, batch_size: int) -> tuple[Tensor, dict[Any, Any]]:
        """Return positions ``[B]``, slice after slice, and their weights.

        Raises:
            RuntimeError: if no episode is long enough.
        """
        require_items(storage, self)
        self._catch_up(storage)
        count, length = self._slices.sizes(batch_size)
        self._slices.episodes.sync(storage)
        least = length if self._slices.strict_length else 1
        start = self._starts(storage, count, least)
        time, lane = self._slices.episodes.times(start, storage)
        _, stop = self._slices.episodes.locate(time, lane)
        last = np.minimum(time + length, stop)
        positions, info = self._slices.slices(storage, time, last, lane, length)
        steps = np.full(count, length) if self._slices.pad_output else last - time
        weight = self._weights(self._sum_tree.take(start))
        weight = weight.repeat_interleave(torch.from_numpy(steps))
        return positions, {"priority_weight": weight, **info}

    def can_sample(self, storage: Storage, batch_size: int) -> bool:
        """Return whether an episode is long enough."""
        return self._slices.can_sample(storage, batch_size)

    def _starts(self, storage: Storage, count: int, least: int) -> np.ndarray:
        """Draw the positions ``[S]`` of starts that ``least`` steps of their episode follow."""
        found = np.empty(0, dtype=np.int64)
        for _ in range(ROUNDS):
            drawn, _ = self._draw(2 * count)
            found = np.append(found, drawn[self._leaves_room(drawn, storage, least)])
            if len(found) >= count:
                return found[:count]
        every = np.flatnonzero(self._sum_tree.leaves > 0)
        every = every[self._leaves_room(every, storage, least)]
        if not len(every):
            raise no_long_episode(self, self._slices.episodes, storage, least)
        cumulated = self._sum_tree.take(every).cumsum()
        quantile = torch.rand(count, dtype=torch.float64, generator=self.generator)
        chosen = cumulated.searchsorted(quantile.numpy() * cumulated[-1], "right")
        return every[np.minimum(chosen, len(every) - 1)]

    def _leaves_room(self, positions: np.ndarray, storage: Storage, least: int) -> np.ndarray:
        time, lane = self._slices.episodes.times(positions, storage)
        return self._slices.episodes.locate(time, lane)[1] - time >= least
