"""Uniform sampling, with and without replacement."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchrl._core.errors import describe
from torchrl.data.replay_buffers.samplers.base import Sampler, require_items, whole_number
from torchrl.data.replay_buffers.storages.base import Storage


class RandomSampler(Sampler):
    """Uniform, with replacement."""

    def sample(self, storage: Storage, batch_size: int) -> tuple[Tensor, dict[Any, Any]]:
        """Return positions ``[B]``, each drawn from all items alike."""
        items = require_items(storage, self)
        return torch.randint(items, (batch_size,), generator=self.generator), {}

    def pass_state(self) -> Any:
        """Return nothing: each draw stands for itself."""

    def restore_pass(self, state: Any) -> None:
        """Do nothing."""


class SamplerWithoutReplacement(Sampler):
    """Every item once, in passes over the storage; iterating over the buffer stops after one.

    The last batch of a pass holds what is left. A pass starts anew when the number of items has
    changed, and when all items of the pass have been overwritten.

    Args:
        drop_last: Leave out the last batch of a pass if it is smaller than the others.
        shuffle: Take the items in random order; in the order of their slots otherwise.

    >>> from torchrl.data import ReplayBuffer
    >>> buffer = ReplayBuffer(sampler=SamplerWithoutReplacement(shuffle=False), batch_size=2)
    >>> _ = buffer.extend(torch.arange(5))
    >>> list(buffer)
    [tensor([0, 1]), tensor([2, 3]), tensor([4])]
    """

    def __init__(self, drop_last: bool = False, shuffle: bool = True) -> None:
        self.drop_last, self.shuffle = drop_last, shuffle
        self._empty()

    def _empty(self) -> None:
        self._order, self._next, self._written = torch.empty(0, dtype=torch.long), 0, 0

    def sample(self, storage: Storage, batch_size: int) -> tuple[Tensor, dict[Any, Any]]:
        """Return the next positions ``[B]`` of the pass, or fewer at its end.

        Raises:
            ValueError: if ``drop_last`` leaves out everything.
        """
        items = require_items(storage, self)
        overwritten = storage.written - self._written >= storage.rows
        if self._next >= len(self._order) or len(self._order) != items or overwritten:
            self._begin(items, storage.written)
        if self.drop_last and batch_size > items:
            raise ValueError(
                describe(
                    self,
                    "drop_last leaves out the only batch",
                    expected=f"a batch size of at most {items}",
                    found=batch_size,
                )
            )
        positions = self._order[self._next : self._next + batch_size]
        self._next += len(positions)
        left = len(self._order) - self._next
        self.ran_out = left == 0 or (self.drop_last and left < batch_size)
        if self.ran_out:
            self._next = len(self._order)
        return positions, {}

    def _begin(self, items: int, written: int) -> None:
        if self.shuffle:
            self._order = torch.randperm(items, generator=self.generator)
        else:
            self._order = torch.arange(items)
        self._next, self._written = 0, written

    def pass_state(self) -> Any:
        """Return the order of the pass, which never changes in place, and where it stands."""
        return self._order, self._next, self._written, self.ran_out

    def restore_pass(self, state: Any) -> None:
        """Go back to where :meth:`pass_state` was taken."""
        self._order, self._next, self._written, self.ran_out = state

    def state_dict(self) -> dict[str, Any]:
        """Return the order of the pass and where it stands."""
        order = self._order.clone()
        return {
            "order": order,
            "next": self._next,
            "written": self._written,
            "ran_out": self.ran_out,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the pass of a :meth:`state_dict`."""
        self._order = state_dict["order"].clone()
        self._next, self._written = state_dict["next"], state_dict["written"]
        self.ran_out = state_dict["ran_out"]


class ConsumingSampler(Sampler):
    """Uniform, of items that were not sampled often enough yet; a batch holds none twice.

    The last batch holds what is left.

    Args:
        max_sample_count: How often an item is sampled until it is gone.

    Raises:
        ValueError: if ``max_sample_count`` is less than one.

    >>> from torchrl.data import ReplayBuffer
    >>> buffer = ReplayBuffer(sampler=ConsumingSampler(), batch_size=2)
    >>> _ = buffer.extend(torch.arange(4))
    >>> sorted(torch.cat(list(buffer)).tolist())
    [0, 1, 2, 3]
    >>> buffer.sample()
    Traceback (most recent call last):
    RuntimeError: ConsumingSampler: every item was consumed. ...
    """

    def __init__(self, max_sample_count: int = 1) -> None:
        self.max_sample_count = max_sample_count
        self._empty()

    @property
    def max_sample_count(self) -> int:
        """How often items that are written from now on are sampled."""
        return self._max_sample_count

    @max_sample_count.setter
    def max_sample_count(self, value: int) -> None:
        self._max_sample_count = whole_number(self, "max_sample_count", value, 1)

    def _empty(self) -> None:
        self._left = torch.empty(0, dtype=torch.long)  # samples left, by position
        self.ran_out = False

    def extend(self, positions: Tensor) -> None:
        """Make items that were just written available again."""
        positions = positions[positions >= 0]
        if len(positions):
            missing = int(positions.max()) + 1 - len(self._left)
            if missing > 0:
                self._left = torch.cat([self._left, self._left.new_zeros(missing)])
            self._left[positions] = self.max_sample_count

    def sample(self, storage: Storage, batch_size: int) -> tuple[Tensor, dict[Any, Any]]:
        """Return positions ``[B]`` of items that are left, or fewer at the end.

        Raises:
            RuntimeError: if none are left.
        """
        require_items(storage, self)
        available = self._left.nonzero().squeeze(-1)
        if not len(available):
            raise RuntimeError(
                describe(self, "every item was consumed", hint="Store new ones with extend().")
            )
        order = torch.randperm(len(available), generator=self.generator)
        positions = available[order[:batch_size]]
        self._left[positions] -= 1
        self.ran_out = not bool(self._left.any())
        return positions, {}

    def can_sample(self, storage: Storage, batch_size: int) -> bool:
        """Return whether items are left."""
        return bool(self._left.any())

    def state_dict(self) -> dict[str, Any]:
        """Return how often each item may still be sampled."""
        return {"left": self._left.clone(), "ran_out": self.ran_out}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the sampler stood whose :meth:`state_dict` this is."""
        self._left, self.ran_out = state_dict["left"].clone(), state_dict["ran_out"]
