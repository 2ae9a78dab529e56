"""A fixed and a growing buffer mixed at a ratio."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from tensordict import TensorDictBase, is_tensor_collection
from torch import Tensor

from torchrl._core.errors import describe
from torchrl.data.datasets.registry import load_dataset
from torchrl.data.replay_buffers.buffer import ReplayBuffer
from torchrl.data.replay_buffers.data_types import Convert, State
from torchrl.data.replay_buffers.storages.base import Storage
from torchrl.data.replay_buffers.storages.tensor import LazyTensorStorage
from torchrl.data.replay_buffers.tensordict_buffer import TensorDictReplayBuffer


class OfflineToOnlineReplayBuffer:
    """Samples a share of each batch from data collected before, and the rest from new data.

    As long as nothing new is stored, all of the batch comes from the old data.

    Args:
        offline_dataset: The old data: a buffer, a tensordict ``[N]``, or a name, as
            :func:`~torchrl.data.datasets.load_dataset` takes it.
        online_storage: Keeps the new data.
        online_capacity: Number of new items, in place of ``online_storage``.
        offline_fraction: Share of the old data in a batch, rounded to whole items.
        batch_size: Items of a sample.
        transform: Applied to each batch; any callable ``td -> td``.
        **dataset_kwargs: For the dataset, where it is given by its name.

    Raises:
        TypeError: unless exactly one of ``online_storage`` and ``online_capacity`` is given; if
            there are ``dataset_kwargs``, and the dataset is not given by its name.
        ValueError: if ``offline_fraction`` is not a share.

    Source: Ball et al., 2023, https://arxiv.org/abs/2302.02948, section 4.1 (half and half).

    >>> from tensordict import TensorDict
    >>> old = TensorDict(item=torch.zeros(50), batch_size=[50])
    >>> buffer = OfflineToOnlineReplayBuffer(old, online_capacity=10, batch_size=4)
    >>> _ = buffer.extend(TensorDict(item=torch.ones(3), batch_size=[3]))
    >>> buffer.sample()["item"]
    tensor([0., 0., 1., 1.])
    """

    def __init__(
        self,
        offline_dataset: ReplayBuffer | TensorDictBase | str,
        *,
        online_storage: Storage | None = None,
        online_capacity: int | None = None,
        offline_fraction: float = 0.5,
        batch_size: int | None = None,
        transform: Convert | None = None,
        **dataset_kwargs: object,
    ) -> None:
        if (online_storage is None) == (online_capacity is None):
            raise TypeError(describe(self, "takes either online_storage or online_capacity"))
        if not 0 <= offline_fraction <= 1:
            raise ValueError(describe(self, "offline_fraction is a share", expected="[0, 1]", found=offline_fraction))
        if isinstance(offline_dataset, str):
            offline_dataset = load_dataset(offline_dataset, **dataset_kwargs)
        elif dataset_kwargs:
            raise TypeError(describe(self, "unexpected arguments", found=sorted(dataset_kwargs)))
        if not isinstance(offline_dataset, ReplayBuffer):
            rows, offline = offline_dataset, LazyTensorStorage(len(offline_dataset))
            offline_dataset = TensorDictReplayBuffer(storage=offline)
            offline_dataset.extend(rows)
        if online_storage is None:
            assert online_capacity is not None
            online_storage = LazyTensorStorage(online_capacity)
        self.offline_buffer = offline_dataset
        self.online_buffer = TensorDictReplayBuffer(storage=online_storage)
        self.offline_fraction = self._initial_fraction = offline_fraction
        self.batch_size, self.transform = batch_size, transform

    def add(self, data: TensorDictBase) -> int | Tensor | None:
        """Store one new item; return its slot."""
        return self.online_buffer.add(data)

    def extend(self, data: TensorDictBase) -> Tensor:
        """Store new items ``[N]``; return their slots."""
        return self.online_buffer.extend(data)

    def anneal(self, step: int, total: int) -> float:
        """Set the share of the old data to what is due at ``step``, from all of it down to none.

        >>> from tensordict import TensorDict
        >>> old = TensorDict(item=torch.zeros(50), batch_size=[50])
        >>> OfflineToOnlineReplayBuffer(old, online_capacity=10).anneal(step=25, total=100)
        0.375
        """
        left = max(0.0, 1.0 - step / total)
        self.offline_fraction = self._initial_fraction * left
        return self.offline_fraction

    def sample(self, batch_size: int | None = None) -> TensorDictBase:
        """Return a batch ``[B]``, the old data first.

        Raises:
            ValueError: if no batch size was given here or to the constructor.
        """
        size = self.batch_size if batch_size is None else batch_size
        if size is None or size < 1:
            raise ValueError(describe(self, "the size of a sample is not known", hint="Give a batch_size."))
        old = round(size * self.offline_fraction) if len(self.online_buffer) else size
        parts = [(self.offline_buffer, old), (self.online_buffer, size - old)]
        samples = [buffer.sample(count) for buffer, count in parts if count]
        batch: Any = torch.cat([_without_index(part) for part in samples])
        return batch if self.transform is None else self.transform(batch)

    def __len__(self) -> int:
        return len(self.offline_buffer) + len(self.online_buffer)

    def __iter__(self) -> Iterator[TensorDictBase]:
        while True:
            yield self.sample()

    def state_dict(self) -> State:
        """Return the state of both buffers, and the share."""
        return {
            "offline": self.offline_buffer.state_dict(),
            "online": self.online_buffer.state_dict(),
            "fraction": self.offline_fraction,
        }

    def load_state_dict(self, state_dict: State) -> None:
        """Go on where the buffer stood whose :meth:`state_dict` this is, or change nothing."""
        self.offline_buffer.check_state(state_dict["offline"])
        self.online_buffer.check_state(state_dict["online"])
        fraction = float(state_dict["fraction"])
        self.offline_buffer.load_state_dict(state_dict["offline"])
        self.online_buffer.load_state_dict(state_dict["online"])
        self.offline_fraction = fraction


def prefill_replay_buffer(
    rb: ReplayBuffer, dataset: ReplayBuffer | TensorDictBase, n_samples: int | None = None, chunk_size: int = 1000
) -> int:
    """Copy the first rows of a dataset into a buffer, and return how many.

    Args:
        rb: The buffer that is written to.
        dataset: A buffer, or a tensordict ``[N]``.
        n_samples: How many rows; all if ``None``.
        chunk_size: Rows copied at a time.

    >>> from tensordict import TensorDict
    >>> buffer = ReplayBuffer(storage=LazyTensorStorage(10))
    >>> prefill_replay_buffer(buffer, TensorDict(a=torch.arange(50), batch_size=[50]), 4)
    4
    >>> buffer[:]["a"]
    tensor([0, 1, 2, 3])
    """
    rows = len(dataset) if n_samples is None else min(n_samples, len(dataset))
    for first in range(0, rows, chunk_size):
        chunk = dataset[first : min(first + chunk_size, rows)]
        rb.extend(_without_index(chunk) if is_tensor_collection(chunk) else chunk)
    return rows


def _without_index(sample: TensorDictBase) -> TensorDictBase:
    """Drop the slots, which mean nothing outside of the buffer that they belong to."""
    return sample.exclude("index", "priority_weight")
