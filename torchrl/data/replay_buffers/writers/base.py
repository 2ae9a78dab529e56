"""`Writer`: which slots the next rows fill."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from tensordict import is_tensor_collection
from torch import Tensor

from torchrl._core.errors import DTypeError, describe
from torchrl.data.replay_buffers.storages.base import Storage
from torchrl.data.replay_buffers.storages.schema import expand_items


class Writer(ABC):
    """Picks the slots to fill, and fills them.

    Hooks:
        extend: ``rows [N] -> slots [N]``; ``-1`` where a row was not kept.
        add: ``row -> slot``, or ``None``.
        _empty: told that the storage was emptied.
        state_dict, load_state_dict: what a writer must know to go on where it stopped.
    """

    track_generations: bool = False  # whether samples tell how often their slots were filled
    writes: bool = True  # whether anything is ever written
    _storage: Storage | None = None

    def register_storage(self, storage: Storage) -> None:
        """Make ``storage`` the one that is written to."""
        self._storage = storage

    @property
    def storage(self) -> Storage:
        """The storage that is written to.

        Raises:
            RuntimeError: if there is none yet.
        """
        if self._storage is None:
            raise RuntimeError(
                describe(self, "has no storage", hint="Hand it to a ReplayBuffer, with a storage.")
            )
        return self._storage

    @abstractmethod
    def extend(self, data: Any) -> Tensor: ...

    @abstractmethod
    def add(self, data: Any) -> int | None: ...

    def stamped(self, data: Any, slots: Tensor) -> Any:
        """Return rows with what this writer stores besides, for slots ``[N]`` or one ``[]``."""
        return data

    def stamped_items(self, data: Any, positions: Tensor) -> Any:
        """Return items with what this writer stores besides, for ``positions [*I]``."""
        return data

    def allow_edits(self) -> None:
        """Do nothing, or raise an error where stored rows must stay as they are."""

    def _empty(self) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed to go on where this writer stands."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the writer stood whose :meth:`state_dict` this is."""


def stamp(data: Any, slots: Tensor, storage: Storage) -> Any:
    """Return a shallow copy of ``data`` with the index of every item in it."""
    index = slots
    if storage.ndim > 1:
        within = torch.arange(storage.width).view(storage.row_shape)  # [*W]
        slots = slots.reshape(*slots.shape, *(1,) * within.ndim)
        index = storage.coordinates(slots * storage.width + within)  # [*N, *W, ndim]
    lead = slots.ndim
    return data.copy().set("index", expand_items(index, lead, data.batch_size))


def require_tensordict(data: Any, writer: Writer) -> None:
    """Raise :class:`DTypeError` unless ``data`` is a tensordict or tensorclass."""
    if is_tensor_collection(data):
        return
    raise DTypeError(
        describe(
            writer,
            "writes tensordicts only",
            found=type(data).__name__,
            hint="Nothing was written. ReplayBuffer with RoundRobinWriter keeps any object.",
        )
    )
