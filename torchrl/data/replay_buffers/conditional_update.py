"""`ConditionalUpdateResult`: replace entries of sampled items that were not overwritten since."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase, tensorclass
from torch import Tensor

from torchrl._core.keys import require
from torchrl.data.replay_buffers.data_types import Index
from torchrl.data.replay_buffers.storages.base import Storage

INFO_OF_TENSORDICT_BUFFERS = ("index", "generation", "priority_weight")
ITEM_INFO = (  # entries of a sample that are not stored
    *INFO_OF_TENSORDICT_BUFFERS,
    "staleness",
    "anchor_index",
    "learning_mask",
    "validity_mask",
)


@tensorclass
class ConditionalUpdateResult:
    """Which items :meth:`~torchrl.data.ReplayBuffer.update_if_present` changed.

    Args:
        updated: Whether an item was changed, ``[B]``.
        version_rejected: Whether it was not changed because the stored version is newer, ``[B]``;
            ``None`` if versions were not compared.

    >>> from tensordict import TensorDict
    >>> from torchrl.data import (
    ...     LazyTensorStorage, TensorDictReplayBuffer, TensorDictRoundRobinWriter,
    ... )
    >>> writer = TensorDictRoundRobinWriter(track_generations=True)
    >>> buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(2), writer=writer)
    >>> _ = buffer.extend(TensorDict(state=torch.zeros(2), batch_size=[2]))
    >>> old = buffer.sample(8).select("index", "generation", "state")
    >>> _ = buffer.add(TensorDict(state=torch.tensor(1.0)))  # in place of the first
    >>> result = buffer.update_if_present(old.set("state", old["state"] + 7))
    >>> (result.updated == (old["index"] == 1)).all(), buffer[:]["state"]
    (tensor(True), tensor([1., 7.]))
    """

    updated: Tensor
    version_rejected: Tensor | None = None


def update_unless_overwritten(
    owner: object, storage: Storage, data: TensorDictBase, version_key: NestedKey | None
) -> ConditionalUpdateResult:
    """Replace the entries of ``data [B]``, except :data:`ITEM_INFO`, where the items are stored.

    See :meth:`~torchrl.data.ReplayBuffer.update_if_present`; ``owner`` is named in errors.
    """
    require(data, ["index", "generation"], owner, "Use a writer with track_generations=True.")
    entries = {key: value for key, value in entries_of(data).items() if key not in ITEM_INFO}
    positions = storage.positions(data.get("index"))
    found = storage.generations(positions) == data.get("generation")
    rejected = None
    if version_key is not None:
        require(data, [version_key], owner)
        stored = storage.take_entry(version_key, positions)
        older = (data.get(version_key) < stored).reshape(len(positions), -1).any(1)
        rejected = found & older.to(found.device)
        found = found & ~rejected
    place: Index = positions[found]
    if storage.ndim > 1:
        place = torch.unravel_index(place, (storage.capacity, *storage.row_shape))
    storage.set_entries({key: value[found] for key, value in entries.items()}, place)
    make: Any = ConditionalUpdateResult  # a tensorclass
    return make(found, rejected, batch_size=found.shape)


def entries_of(data: TensorDictBase) -> dict[NestedKey, Tensor]:
    """Return the leaves of a tensordict by key."""
    return {key: data.get(key) for key in data.keys(True, True)}
