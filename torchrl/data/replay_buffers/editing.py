"""`EditedBuffer`: how what is stored changes in place, and how trajectories are found in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, tensorclass
from torch import Tensor

from torchrl._core.keys import require
from torchrl.data.replay_buffers.samplers.episodes import Episodes
from torchrl.data.replay_buffers.storages.base import Storage
from torchrl.data.replay_buffers.writers.base import Writer
from torchrl.data.trajectory_query import Trajectory, TrajectoryPredicate

KNOWN_OF_ITEMS = (  # what samples say about items, besides what is stored of them
    "index",
    "generation",
    "priority_weight",
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
        version_rejected: Whether it stayed since what is stored is newer, ``[B]``; ``None`` where
            versions were not compared.
    """

    updated: Tensor
    version_rejected: Tensor | None = None


class EditedBuffer(ABC):
    """The part of a replay buffer that finds trajectories, and changes entries of stored rows.

    What is written here is stored as it is: transforms have no part in it, and priorities stay.

    Hooks:
        _writing, _reading: contexts in which nothing else writes.
    """

    _storage: Storage
    _writer: Writer

    @abstractmethod
    def _writing(self) -> AbstractContextManager[Any]: ...

    @abstractmethod
    def _reading(self) -> AbstractContextManager[Any]: ...

    def query(
        self,
        predicate: TrajectoryPredicate | None = None,
        *,
        trajectory_key: NestedKey | None = None,
    ) -> list[Trajectory]:
        """Return the stored trajectories that a predicate takes, in order of their ends.

        Of a trajectory whose beginning was overwritten there is the rest; it is asked for what is
        there.

        Args:
            predicate: Says yes or no; all trajectories are returned if ``None``.
            trajectory_key: Entry that numbers them; ``("collector", "traj_ids")`` if it is stored,
                else ``("next", "done")`` tells where they end.

        >>> from tensordict import TensorDict
        >>> from torchrl.data import LazyTensorStorage, ReplayBuffer, traj
        >>> buffer = ReplayBuffer(storage=LazyTensorStorage(9))
        >>> done = torch.tensor([False, True, True]).unsqueeze(-1)
        >>> outcome = dict(done=done, reward=torch.ones(3, 1))
        >>> _ = buffer.extend(TensorDict(next=outcome, batch_size=[3]))
        >>> [trajectory.length for trajectory in buffer.query(traj.reward.sum() > 1)]
        [2]
        """
        storage, found = self._storage, []
        with self._reading():
            numbers = ("collector", "traj_ids") if trajectory_key is None else trajectory_key
            known = trajectory_key is not None or storage.has_entry(numbers)
            episodes = Episodes(traj_key=numbers if known else None)
            episodes.sync(storage)
            for start, stop, lane in episodes.at_least(1).tolist():
                time = np.arange(max(start, episodes.begin), stop)
                positions = torch.from_numpy(episodes.positions(time, np.array(lane), storage))
                if predicate is None or predicate(self._part(positions, predicate.keys)):
                    found.append(Trajectory(self._part(positions, None)))
        return found

    def _part(self, positions: Tensor, keys: list[NestedKey] | None) -> TensorDictBase:
        """Read some entries, or all, of the items at ``positions [T]``."""
        storage = self._storage
        if keys is None:
            steps = storage.take(positions)
            return storage.collate(steps) if isinstance(steps, list) else steps
        entries = {key: storage.take_entry(key, positions) for key in keys}
        return TensorDict(entries, batch_size=positions.shape)

    def set_(self, key: NestedKey, value: Any) -> None:
        """Replace one entry of all stored rows by ``value``, of the shape of ``buffer[:]``.

        Raises:
            MissingKeyError, ShapeError, DTypeError: if it does not look like what is stored;
                nothing is written then.
        """
        self.set_at_(key, value, slice(None))

    def set_at_(self, key: NestedKey, value: Any, index: Any) -> None:
        """Replace one entry of the rows ``buffer[index]``.

        Raises:
            MissingKeyError, ShapeError, DTypeError: if it does not look like what is stored;
                nothing is written then.
        """
        self._replace({key: value}, index)

    def update_(self, data: TensorDictBase, index: Any = slice(None)) -> None:
        """Replace the entries that ``data`` has, of the rows ``buffer[index]``; of all by default.

        Raises:
            MissingKeyError, ShapeError, DTypeError: if it does not look like what is stored;
                nothing is written then.
        """
        self._replace(_entries(data), index)

    def _replace(self, entries: dict[Any, Any], index: Any) -> None:
        self._writer.allow_edits()
        with self._writing():
            self._storage.set_entries(entries, self._storage.place_at(index))

    def update_if_present(
        self, data: TensorDictBase, version_key: NestedKey | None = None
    ) -> ConditionalUpdateResult:
        """Replace entries of sampled items, unless they were overwritten in the meantime.

        Args:
            data: A sample ``[B]``, with the entries that are to change and without the others.
            version_key: Entry that numbers versions: items whose stored version is higher stay.

        Reads: ``index`` and ``generation [B]``, as samples have them where the writer counts
        generations.

        Raises:
            MissingKeyError: if ``data`` lacks one of them, or has an entry that is not stored.

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
        hint = "Let the writer count them: track_generations=True."
        require(data, ["index", "generation"], self, hint)
        self._writer.allow_edits()
        entries, storage = _entries(data), self._storage
        entries = {key: entries[key] for key in entries if key not in KNOWN_OF_ITEMS}
        with self._writing():
            positions = storage.positions(data.get("index"))
            found = storage.generations(positions) == data.get("generation")
            rejected = None
            if version_key is not None:
                require(data, [version_key], self)
                stored = storage.take_entry(version_key, positions)
                older = (data.get(version_key) < stored).reshape(len(positions), -1).any(1)
                rejected = found & older.to(found.device)
                found = found & ~rejected
            place: Any = positions[found]
            if storage.ndim > 1:
                place = torch.unravel_index(place, (storage.capacity, *storage.row_shape))
            storage.set_entries({key: value[found] for key, value in entries.items()}, place)
        make: Any = ConditionalUpdateResult  # a tensorclass
        return make(found, rejected, batch_size=found.shape)


def _entries(data: TensorDictBase) -> dict[Any, Any]:
    return {key: data.get(key) for key in data.keys(True, True)}
