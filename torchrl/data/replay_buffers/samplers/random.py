"""Uniform samplers: with replacement, without, and of items that are sampled a few times."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchrl._core.errors import describe
from torchrl.data.replay_buffers.data_types import Info, State
from torchrl.data.replay_buffers.samplers.base import Sampler, require_items, whole_number
from torchrl.data.replay_buffers.storages.base import Storage


class RandomSampler(Sampler):
    """Sample uniformly, with replacement.

    >>> import torch
    >>> from torchrl.data import LazyTensorStorage, ReplayBuffer
    >>> buffer = ReplayBuffer(storage=LazyTensorStorage(5), sampler=RandomSampler(), batch_size=3)
    >>> _ = buffer.extend(torch.arange(5))
    >>> buffer.sample().shape
    torch.Size([3])
    """

    def sample(self, storage: Storage, batch_size: int) -> tuple[Tensor, Info]:
        """Return positions ``[B]``, drawn uniformly from all items."""
        items = require_items(storage, self)
        return torch.randint(items, (batch_size,), generator=self.generator), {}

    def pass_state(self) -> object:
        """Return ``None``, as draws are independent; of a subclass with a state dict, its state."""
        return None if type(self).state_dict is Sampler.state_dict else super().pass_state()

    def restore_pass(self, state: Any) -> None:
        """Load the state of :meth:`pass_state`, if there is one."""
        if state is not None:
            super().restore_pass(state)


class SamplerWithoutReplacement(Sampler):
    """Sample every item once in each pass; iterating over the buffer stops after one pass.

    The last batch of a pass holds the rest. A new pass starts when the number of items has changed,
    and when all items of the pass were overwritten.

    Args:
        drop_last: Omit the last batch of a pass if it is smaller than the others.
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

    def sample(self, storage: Storage, batch_size: int) -> tuple[Tensor, Info]:
        """Return the next positions ``[B]`` of the pass, or fewer at its end.

        Raises:
            ValueError: if ``drop_last`` leaves out everything.
        """
        items = require_items(storage, self)
        overwritten = storage.written - self._written >= storage.rows
        if self._next >= len(self._order) or len(self._order) != items or overwritten:
            self._start_pass(items, storage.written)
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

    def _start_pass(self, items: int, written: int) -> None:
        if self.shuffle:
            self._order = torch.randperm(items, generator=self.generator)
        else:
            self._order = torch.arange(items)
        self._next, self._written = 0, written

    def pass_state(self) -> object:
        """Return the order of the pass, which never changes in place, and the place in it."""
        return self._order, self._next, self._written, self.ran_out

    def restore_pass(self, state: Any) -> None:
        """Load the state of :meth:`pass_state`."""
        self._order, self._next, self._written, self.ran_out = state

    def state_dict(self) -> State:
        """Return the order of the pass and the place in it."""
        order = self._order.clone()
        return {"order": order, "next": self._next, "written": self._written, "ran_out": self.ran_out}

    def load_state_dict(self, state_dict: State) -> None:
        """Load the pass of a :meth:`state_dict`."""
        self._order = state_dict["order"].clone()
        self._next, self._written = state_dict["next"], state_dict["written"]
        self.ran_out = state_dict["ran_out"]


class ConsumingSampler(Sampler):
    """Sample each item a limited number of times, uniformly; a batch has no item twice.

    The last batch holds the rest.

    Args:
        max_sample_count: Number of times that an item is sampled.

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
        """Number of times that items are sampled that are written from now on."""
        return self._max_sample_count

    @max_sample_count.setter
    def max_sample_count(self, value: int) -> None:
        self._max_sample_count = whole_number(self, "max_sample_count", value, 1)

    def _empty(self) -> None:
        self._left = torch.empty(0, dtype=torch.long)  # samples left, by position
        self.ran_out = False

    def extend(self, index: Tensor) -> None:
        """Make items that were just written available again."""
        index = index[index >= 0]
        if len(index):
            missing = int(index.max()) + 1 - len(self._left)
            if missing > 0:
                self._left = torch.cat([self._left, self._left.new_zeros(missing)])
            self._left[index] = self.max_sample_count

    def sample(self, storage: Storage, batch_size: int) -> tuple[Tensor, Info]:
        """Return positions ``[B]`` of items that are left, or fewer at the end.

        Raises:
            RuntimeError: if none are left.
        """
        require_items(storage, self)
        available = self._left.nonzero().squeeze(-1)
        if not len(available):
            raise RuntimeError(describe(self, "every item was consumed", hint="Store new ones with extend()."))
        order = torch.randperm(len(available), generator=self.generator)
        positions = available[order[:batch_size]]
        self._left[positions] -= 1
        self.ran_out = not bool(self._left.any())
        return positions, {}

    def can_sample(self, storage: Storage, batch_size: int) -> bool:
        """Return whether items are left."""
        return bool(self._left.any())

    def state_dict(self) -> State:
        """Return how often each item may still be sampled."""
        return {"left": self._left.clone(), "ran_out": self.ran_out}

    def load_state_dict(self, state_dict: State) -> None:
        """Load the state of a :meth:`state_dict`."""
        self._left, self.ran_out = state_dict["left"].clone(), state_dict["ran_out"]
