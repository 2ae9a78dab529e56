"""Where episodes begin and end in a storage, kept up to date as rows come in.

The clock of a storage counts rows ever written: row ``t`` stands in slot ``t % R``, and the rows
from ``begin`` to ``now`` are there. An episode is a run of rows of one lane (column of a
multi-dimensional storage): a triple ``(start, stop, lane)``, ``stop`` excluded. Each sync looks at
new rows only, so that a sample costs the same whatever the storage holds.

Legend: ``R`` slots, ``W`` lanes, ``E`` episodes, ``N`` rows, ``B`` items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tensordict import NestedKey
from torch import Tensor

from torchrl._core.errors import ShapeError, describe
from torchrl.data.replay_buffers.storages.base import Storage

START, STOP, LANE = range(3)
COLLECTED = ("collector", "traj_ids")


class EpisodeTable:
    """Closed episodes ``[E, 3]`` of at least some length, in order of their ends.

    Args:
        least: Shorter episodes are left out.
    """

    def __init__(self, least: int) -> None:
        self.least = least
        self._rows = np.empty((64, 3), dtype=np.int64)
        self._head = self._tail = 0

    def append(self, episodes: np.ndarray) -> None:
        """Add episodes ``[E, 3]``, which end after those at hand."""
        long = episodes[:, STOP] - episodes[:, START] >= self.least
        self._tail = self._place(episodes[long])

    def _place(self, episodes: np.ndarray) -> int:
        """Write episodes after those at hand; return where they end."""
        stop = self._tail + len(episodes)
        if stop > len(self._rows):
            kept = self._rows[self._head : self._tail]
            self._rows = np.empty((2 * (len(kept) + len(episodes)) + 64, 3), dtype=np.int64)
            self._rows[: len(kept)] = kept
            self._head, self._tail = 0, len(kept)
            stop = self._tail + len(episodes)
        self._rows[self._tail : stop] = episodes
        return stop

    def forget(self, begin: int) -> None:
        """Drop the episodes of which less than ``least`` steps are left from ``begin`` on."""
        stops = self._rows[self._head : self._tail, STOP]
        self._head += int(stops.searchsorted(begin + self.least))

    def view(self, running: np.ndarray) -> np.ndarray:
        """Return the episodes ``[E, 3]``, those that are still running at the end."""
        stop = self._place(running)
        return self._rows[self._head : stop]


class Episodes:
    """The episodes of a storage.

    Args:
        end_keys: Entries that say where episodes end; any of them ends one.
        traj_key: Entry that numbers episodes, in place of ``end_keys``: one ends where the number
            changes.
        ends: Flags ``[R, *W]``, in place of any entry.
        trajectories: Numbers ``[R, *W]``, in place of any entry.
        trust: Do not look again at rows that are overwritten out of order.
    """

    def __init__(
        self,
        end_keys: Sequence[NestedKey] = (("next", "done"),),
        traj_key: NestedKey | None = None,
        ends: Tensor | None = None,
        trajectories: Tensor | None = None,
        trust: bool = False,
    ) -> None:
        self.end_keys, self.traj_key, self.trust = list(end_keys), traj_key, trust
        self._ends, self._trajectories = ends, trajectories
        self.begin = self.now = 0
        self._restart(1, 0)
        self._edits = -1

    def _restart(self, lanes: int, begin: int) -> None:
        self._tables = {1: EpisodeTable(1)}
        self._running = np.full(lanes, begin)  # where the episode of each lane started
        self._last: np.ndarray | None = None  # trajectory number at the end of each lane
        self.begin = self.now = begin
        self._views: dict[int, np.ndarray] = {}
        self._sorted: np.ndarray | None = None

    def sync(self, storage: Storage) -> None:
        """Look at the rows that were written since the last time."""
        rows, edits = storage.rows, storage.edits
        now = max(storage.written, rows)
        if now == self.now and (edits == self._edits or self.trust):
            return
        begin, lanes = now - rows, storage.width
        edited = edits != self._edits and not self.trust
        if edited or now < self.now or begin > self.now or lanes != len(self._running):
            self._restart(lanes, begin)
        self._edits, first, capacity = edits, self.now, storage.capacity
        while first < now:
            stop = min(now, first - first % capacity + capacity)
            slots = slice(first % capacity, first % capacity + stop - first)
            self._read(storage, slots, first, stop - first)
            first = stop
        self.begin, self.now, self._sorted = begin, now, None
        self._views.clear()
        for table in self._tables.values():
            table.forget(begin)

    def _read(self, storage: Storage, slots: slice, first: int, count: int) -> None:
        """Note the ends among ``count`` rows from time ``first`` on."""
        if self._trajectories is not None or self.traj_key is not None:
            numbers = self._numbers(storage, slots, count)  # [N, W, *]
            last = numbers[:1] if self._last is None else self._last
            before = np.concatenate([last, numbers[:-1]])
            ended = (before != numbers).reshape(count, len(self._running), -1).any(-1)
            self._last, offset = numbers[-1:], 0  # an end shows one row later
        else:
            ended, offset = self._flags(storage, slots, count), 1
        time, lane = ended.nonzero()
        self._close(time + first + offset, lane)

    def _flags(self, storage: Storage, slots: slice, count: int) -> np.ndarray:
        if self._ends is not None:
            return self._ends[slots].reshape(count, -1).numpy()
        flags = [storage.entry(key, slots) for key in self.end_keys]
        lanes = [
            flag.cpu().reshape(count, len(self._running), -1).any(-1).numpy() for flag in flags
        ]
        return np.logical_or.reduce(lanes)

    def _numbers(self, storage: Storage, slots: slice, count: int) -> np.ndarray:
        if self._trajectories is not None:
            numbers = self._trajectories[slots]
        else:
            assert self.traj_key is not None
            numbers = storage.entry(self.traj_key, slots)
        return numbers.cpu().reshape(count, len(self._running), -1).numpy()

    def _close(self, stops: np.ndarray, lanes: np.ndarray) -> None:
        """Close episodes at ``stops [E]`` of ``lanes [E]``, in order of time."""
        if not len(stops):
            return
        order = lanes.argsort(kind="stable")  # by lane, then by time
        stop, lane = stops[order], lanes[order]
        starts = np.empty_like(stop)
        starts[1:] = stop[:-1]
        first = np.ones(len(stop), dtype=bool)
        first[1:] = lane[1:] != lane[:-1]
        starts[first] = self._running[lane[first]]
        final = np.append(first[1:], True)
        self._running[lane[final]] = stop[final]
        episodes = np.empty((len(stops), 3), dtype=np.int64)
        episodes[order] = np.stack([starts, stop, lane], 1)
        for table in self._tables.values():
            table.append(episodes)

    def are_interleaved(self, storage: Storage) -> bool:
        """Whether a trajectory number comes back after rows of another one.

        Flags tell nothing of that; there the numbers that collectors write are looked at.
        """
        key = self.traj_key
        if self._trajectories is not None:
            numbers = self._trajectories[: storage.rows]
        else:
            if key is None:
                key = COLLECTED
                if not storage.has_entry(key):
                    return False
            numbers = storage.entry(key, slice(0, storage.rows))
        column = numbers.cpu().reshape(storage.rows, storage.width, -1)[:, 0, 0]
        return len(column.unique_consecutive()) > len(column.unique()) + 1  # a ring may cut one

    def at_least(self, steps: int) -> np.ndarray:
        """Return the episodes ``[E, 3]`` of which ``steps`` steps or more are stored.

        Their starts may lie before :attr:`begin`, where rows have been overwritten.
        """
        if steps in self._views:
            return self._views[steps]
        table = self._tables.get(steps)
        if table is None:
            if len(self._tables) > 8:  # lengths that were asked for once
                self._tables = {1: self._tables[1]}
                self._views.clear()
            table = self._tables[steps] = EpisodeTable(steps)
            table.append(self._tables[1].view(np.empty((0, 3), dtype=np.int64)))
            table.forget(self.begin)
        start = np.maximum(self._running, self.begin)
        (lane,) = (self.now - start >= steps).nonzero()
        running = np.stack([start[lane], np.full(len(lane), self.now), lane], 1)
        self._views[steps] = view = table.view(running)
        return view

    def stopping_from(self, time: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the episodes ``[E, 3]`` that stop at ``time`` or later, and which are closed."""
        every = self.at_least(1)
        recent = every[every[:, STOP].searchsorted(time) :]
        running = self._running[recent[:, LANE]] < self.now
        return recent, ~((recent[:, STOP] == self.now) & running)

    def locate(self, time: np.ndarray, lane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return start and stop ``[B]`` of the episodes that hold the rows at ``time [B]``."""
        if self._sorted is None:
            episodes = self.at_least(1)
            order = episodes[:, LANE].argsort(kind="stable")
            self._sorted = episodes[order]
            self._keys = self._key(self._sorted[:, STOP], self._sorted[:, LANE])
        found = self._sorted[self._keys.searchsorted(self._key(time, lane), "right")]
        return np.maximum(found[:, START], self.begin), found[:, STOP]

    @staticmethod
    def _key(stop: np.ndarray, lane: np.ndarray) -> np.ndarray:
        """Return numbers that sort by lane, then by time."""
        return (lane << 44) + stop

    def times(self, positions: np.ndarray, storage: Storage) -> tuple[np.ndarray, np.ndarray]:
        """Return times and lanes ``[B]`` of the items at ``positions [B]``."""
        slot, lane = np.divmod(positions, storage.width)
        return self.begin + (slot - self.begin) % storage.capacity, lane

    @staticmethod
    def positions(time: np.ndarray, lane: np.ndarray, storage: Storage) -> np.ndarray:
        """Return the positions ``[B]`` of the items at ``time [B]`` of ``lane [B]``."""
        return time % storage.capacity * storage.width + lane


def find_start_stop_traj(
    *,
    trajectory: Tensor | None = None,
    end: Tensor | None = None,
    at_capacity: bool,
    cursor: int | Tensor | range | None = None,
    device: Any = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Find where trajectories start and stop in the slots of a ring.

    Args:
        trajectory: Numbers ``[R, *W]`` of the trajectories; one ends where the number changes.
        end: Flags ``[R, *W]`` that end trajectories, in place of ``trajectory``.
        at_capacity: Whether every slot is filled, so that the first follows the last.
        cursor: The slot, or slots, written last: what follows is older.
        device: Of the result; the device of the input if ``None``.

    Returns: first and last slots ``[E, 1 + len(W)]``, lane by lane, and lengths ``[E]``.

    Raises:
        ShapeError: unless exactly one of ``trajectory`` and ``end`` is given.

    >>> done = torch.tensor([False, True, False, False, True, False])
    >>> start, stop, length = find_start_stop_traj(end=done, at_capacity=True, cursor=3)
    >>> start.squeeze(-1).tolist(), stop.squeeze(-1).tolist(), length.tolist()
    ([5, 2, 4], [1, 3, 4], [3, 2, 1])
    """
    if (trajectory is None) == (end is None):
        raise ShapeError(describe("find_start_stop_traj", "takes either trajectory or end"))
    if end is None:
        assert trajectory is not None
        end = trajectory != trajectory.roll(-1, 0)
    else:
        end = end.clone()
    if not at_capacity:
        end[-1] = True
    elif cursor is not None:
        end[torch.as_tensor(cursor).reshape(-1)[-1]] = True
    slots = len(end)
    end[-1] |= ~end.any(0)
    stop = end.flatten(1).T.nonzero() if end.ndim > 1 else end.unsqueeze(0).nonzero()
    lane, last = stop.unbind(-1)  # [E], by lane, then by slot
    is_first = torch.ones_like(lane, dtype=torch.bool)
    is_first[1:] = lane[1:] != lane[:-1]
    is_final = is_first.roll(-1)
    start = last.roll(1) + 1
    start[is_first] = last[is_final] + 1 if at_capacity else torch.zeros_like(last[is_first])
    length = (last - start) % slots + 1
    start = start % slots
    inner = torch.unravel_index(lane, end.shape[1:]) if end.ndim > 1 else ()
    device = end.device if device is None else device
    first = torch.stack([start, *inner], -1).to(device)
    return first, torch.stack([last, *inner], -1).to(device), length.to(device)
