"""Replay buffers of tensordicts: the same with other defaults."""

from __future__ import annotations

from typing import Any

from tensordict import NestedKey

from torchrl.data.replay_buffers.buffer import ReplayBuffer
from torchrl.data.replay_buffers.writers.base import Writer
from torchrl.data.replay_buffers.writers.round_robin import TensorDictRoundRobinWriter


class TensorDictReplayBuffer(ReplayBuffer):
    """A replay buffer of tensordicts, whose samples know where they come from.

    Args:
        priority_key: Entry of which :meth:`update_tensordict_priority` takes the priorities.
        **kwargs: As for :class:`ReplayBuffer`.

    Writes: ``index [B]`` (``[B, ndim]`` where a storage has several dimensions), and
    ``priority_weight [B]`` if the sampler weighs samples.

    >>> import torch
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
