"""`Episodes`: starts and stops of the episodes in a storage, updated as rows are written.

Time counts the rows that were ever written: row ``t`` is in slot ``t % R``; the rows from
``oldest`` to ``now`` are stored. An episode is a run of rows of one column, an element of ``[*W]``:
a triple ``(start, stop, column)``, ``stop`` excluded. Each ``sync`` reads new rows only, so that
the time of a sample does not depend on the number of rows.

Legend: ``R`` slots, ``W`` columns, ``E`` episodes, ``N`` rows, ``B`` items.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor

from torchrl._core.errors import ShapeError, ShapeRuntimeError, describe
from torchrl.data.replay_buffers.storages.base import Storage
from torchrl.data.trajectory_query import Trajectory, TrajectoryPredicate

START, STOP, COLUMN = range(3)
COLLECTED = ("collector", "traj_ids")


class EpisodeTable:
    """Finished episodes ``[E, 3]`` of at least some length, in order of their ends.

    Args:
        least: Minimum number of steps.
    """

    def __init__(self, least: int) -> None:
        self.least = least
        self._rows = np.empty((64, 3), dtype=np.int64)
        self._head = self._tail = 0

    def append(self, episodes: np.ndarray) -> None:
        """Add episodes ``[E, 3]``, which end after those in the table."""
        long = episodes[:, STOP] - episodes[:, START] >= self.least
        self._tail = self._place(episodes[long])

    def _place(self, episodes: np.ndarray) -> int:
        """Write episodes after the last row of the table; return the number of rows then."""
        stop = self._tail + len(episodes)
        if stop > len(self._rows):
            kept = self._rows[self._head : self._tail]
            self._rows = np.empty((2 * (len(kept) + len(episodes)) + 64, 3), dtype=np.int64)
            self._rows[: len(kept)] = kept
            self._head, self._tail = 0, len(kept)
            stop = self._tail + len(episodes)
        self._rows[self._tail : stop] = episodes
        return stop

    def forget(self, oldest: int) -> None:
        """Drop the episodes of which less than ``least`` steps are left from ``oldest`` on."""
        stops = self._rows[self._head : self._tail, STOP]
        self._head += int(stops.searchsorted(oldest + self.least))

    def view(self, running: np.ndarray) -> np.ndarray:
        """Return the episodes ``[E, 3]``, those that are still running at the end."""
        stop = self._place(running)
        return self._rows[self._head : stop]


class Episodes:
    """Finds the episodes of a storage.

    Args:
        end_keys: Flags of the ends of episodes; any of them ends one.
        traj_key: Entry that numbers episodes, in place of ``end_keys``: one ends where the number
            changes.
        ends: Flags ``[R, *W]``, in place of any entry.
        trajectories: Numbers ``[R, *W]``, in place of any entry.
        trust: Do not read rows again that were overwritten out of order.
        fall_back: Use ``end_keys`` if ``traj_key`` is not stored.
    """

    def __init__(
        self,
        end_keys: Sequence[NestedKey] = (("next", "done"),),
        traj_key: NestedKey | None = None,
        ends: Tensor | None = None,
        trajectories: Tensor | None = None,
        trust: bool = False,
        fall_back: bool = False,
    ) -> None:
        self.end_keys, self.traj_key, self.trust = list(end_keys), traj_key, trust
        self._wanted = traj_key if fall_back else None
        self._ends, self._trajectories = ends, trajectories
        self.oldest = self.now = 0
        self._restart(1, 0)
        self._edits = -1

    def _restart(self, columns: int, oldest: int) -> None:
        self._tables = {1: EpisodeTable(1)}
        self._running = np.full(columns, oldest)  # where the episode of each column started
        self._last: np.ndarray | None = None  # trajectory number at the end of each column
        self.oldest = self.now = oldest
        self._views: dict[int, np.ndarray] = {}
        self._sorted: np.ndarray | None = None

    def sync(self, storage: Storage) -> None:
        """Read the rows that were written since the last call."""
        rows, edits = storage.rows, storage.edits
        now = max(storage.written, rows)
        if now == self.now and (edits == self._edits or self.trust):
            return
        if self._wanted is not None and not self.now:
            self.traj_key = self._wanted if storage.has_entry(self._wanted) else None
        oldest, columns = now - rows, storage.width
        edited = edits != self._edits and not self.trust
        if edited or now < self.now or oldest > self.now or columns != len(self._running):
            self._restart(columns, oldest)
        self._edits, first, capacity = edits, self.now, storage.capacity
        while first < now:
            stop = min(now, first - first % capacity + capacity)
            slots = slice(first % capacity, first % capacity + stop - first)
            self._read(storage, slots, first, stop - first)
            first = stop
        self.oldest, self.now, self._sorted = oldest, now, None
        self._views.clear()
        for table in self._tables.values():
            table.forget(oldest)

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
        time, column = ended.nonzero()
        self._close(time + first + offset, column)

    def _flags(self, storage: Storage, slots: slice, count: int) -> np.ndarray:
        if self._ends is not None:
            return self._ends[slots].reshape(count, -1).numpy()
        flags = [storage.entry(key, slots) for key in self.end_keys]
        size = count * len(self._running) * storage.item_shape.numel()
        for key, flag in zip(self.end_keys, flags, strict=True):
            if flag.numel() != size:
                raise ShapeRuntimeError(
                    describe(
                        "SliceSampler",
                        "has more than one flag for each step",
                        key=key,
                        expected=[*storage.shape, *storage.item_shape, 1],
                        found=[*storage.shape, *flag.shape[storage.ndim :]],
                        hint="Name the flag that ends an episode by end_key.",
                    )
                )
        columns = [flag.cpu().reshape(count, len(self._running), -1).any(-1).numpy() for flag in flags]
        return np.logical_or.reduce(columns)

    def _numbers(self, storage: Storage, slots: slice, count: int) -> np.ndarray:
        if self._trajectories is not None:
            numbers = self._trajectories[slots]
        else:
            assert self.traj_key is not None
            numbers = storage.entry(self.traj_key, slots)
        return numbers.cpu().reshape(count, len(self._running), -1).numpy()

    def _close(self, stops: np.ndarray, columns: np.ndarray) -> None:
        """Close episodes at ``stops [E]`` of ``columns [E]``, in order of time."""
        if not len(stops):
            return
        order = columns.argsort(kind="stable")  # by column, then by time
        stop, column = stops[order], columns[order]
        starts = np.empty_like(stop)
        starts[1:] = stop[:-1]
        first = np.ones(len(stop), dtype=bool)
        first[1:] = column[1:] != column[:-1]
        starts[first] = self._running[column[first]]
        final = np.append(first[1:], True)
        self._running[column[final]] = stop[final]
        episodes = np.empty((len(stops), 3), dtype=np.int64)
        episodes[order] = np.stack([starts, stop, column], 1)
        for table in self._tables.values():
            table.append(episodes)

    def are_interleaved(self, storage: Storage) -> bool:
        """Whether a trajectory number comes back after rows of another one.

        If episodes are found by flags, the numbers that collectors write are compared.
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

        Their starts may lie before :attr:`oldest`, where rows have been overwritten.
        """
        if steps in self._views:
            return self._views[steps]
        table = self._tables.get(steps)
        if table is None:
            if len(self._tables) > 8:  # keep few lengths
                self._tables = {1: self._tables[1]}
                self._views.clear()
            table = self._tables[steps] = EpisodeTable(steps)
            table.append(self._tables[1].view(np.empty((0, 3), dtype=np.int64)))
            table.forget(self.oldest)
        start = np.maximum(self._running, self.oldest)
        (column,) = (self.now - start >= steps).nonzero()
        running = np.stack([start[column], np.full(len(column), self.now), column], 1)
        self._views[steps] = view = table.view(running)
        return view

    def stopping_from(self, time: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the episodes ``[E, 3]`` that stop at ``time`` or later, and which are closed."""
        every = self.at_least(1)
        recent = every[every[:, STOP].searchsorted(time) :]
        running = self._running[recent[:, COLUMN]] < self.now
        return recent, ~((recent[:, STOP] == self.now) & running)

    def locate(self, time: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return start and stop ``[B]`` of the episodes that hold the rows at ``time [B]``."""
        if self._sorted is None:
            episodes = self.at_least(1)
            order = episodes[:, COLUMN].argsort(kind="stable")
            self._sorted = episodes[order]
            self._keys = self._key(self._sorted[:, STOP], self._sorted[:, COLUMN])
        found = self._sorted[self._keys.searchsorted(self._key(time, column), "right")]
        return np.maximum(found[:, START], self.oldest), found[:, STOP]

    @staticmethod
    def _key(stop: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Return numbers that sort by column, then by time."""
        return (column << 44) + stop

    def times(self, positions: np.ndarray, storage: Storage) -> tuple[np.ndarray, np.ndarray]:
        """Return times and columns ``[B]`` of the items at ``positions [B]``."""
        slot, column = np.divmod(positions, storage.width)
        return self.oldest + (slot - self.oldest) % storage.capacity, column

    @staticmethod
    def positions(time: np.ndarray, column: np.ndarray, storage: Storage) -> np.ndarray:
        """Return the positions ``[B]`` of the items at ``time [B]`` of ``column [B]``."""
        return time % storage.capacity * storage.width + column


class FragmentedEpisodes:
    """The episodes of a storage whose steps may lie anywhere, in any order.

    Has the methods of :class:`Episodes`: time is the index of a step among all steps, sorted by
    episode and step, and there is one column. An episode with a missing step counts as two. After
    each change of the storage all steps are sorted again.

    Args:
        traj_key: Entry that numbers episodes.
        step_key: Entry that numbers the steps of an episode.
    """

    def __init__(self, traj_key: NestedKey, step_key: NestedKey) -> None:
        self.traj_key, self.step_key = traj_key, step_key
        self.oldest, self._state = 0, (0, 0, 0)
        self._order = self._place = self._bounds = np.zeros(1, dtype=np.int64)

    def sync(self, storage: Storage) -> None:
        """Sort all steps if any were written since the last call."""
        state = (storage.rows, storage.written, storage.edits)
        if state == self._state:
            return
        items = torch.arange(len(storage))
        keys = [storage.take_entry(key, items).cpu() for key in (self.step_key, self.traj_key)]
        step, traj = (key.reshape(len(items), -1)[:, 0].numpy() for key in keys)
        self._order = np.lexsort((step, traj))  # [N]
        self._place = self._order.argsort()
        step, traj = step[self._order], traj[self._order]
        breaks = (traj[1:] != traj[:-1]) | (step[1:] != step[:-1] + 1)
        self._bounds = np.concatenate([[0], np.flatnonzero(breaks) + 1, [len(items)]])  # [E + 1]
        self._state = state

    def at_least(self, steps: int) -> np.ndarray:
        """Return start, stop and column ``[E, 3]`` of the episodes of ``steps`` steps or more."""
        start, stop = self._bounds[:-1], self._bounds[1:]
        episodes = np.stack([start, stop, np.zeros_like(start)], 1)
        return episodes[stop - start >= steps]

    def locate(self, time: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return start and stop ``[B]`` of the episodes that hold the steps at ``time [B]``."""
        after = self._bounds.searchsorted(time, "right")
        return self._bounds[after - 1], self._bounds[after]

    def times(self, positions: np.ndarray, storage: Storage) -> tuple[np.ndarray, np.ndarray]:
        """Return times and columns ``[B]`` of the items at ``positions [B]``."""
        return self._place[positions], np.zeros_like(positions)

    def positions(self, time: np.ndarray, column: np.ndarray, storage: Storage) -> np.ndarray:
        """Return the positions ``[B]`` of the items at ``time [B]``."""
        return self._order[time]


def stored_trajectories(
    storage: Storage, predicate: TrajectoryPredicate | None = None, trajectory_key: NestedKey | None = None
) -> list[Trajectory]:
    """Return the trajectories of a storage for which ``predicate`` is true, in order of their ends.

    See :meth:`~torchrl.data.ReplayBuffer.query`.

    >>> from torchrl.data import LazyTensorStorage, ReplayBuffer, traj
    >>> buffer = ReplayBuffer(storage=LazyTensorStorage(9))
    >>> result = dict(done=torch.tensor([[False], [True], [True]]), reward=torch.ones(3, 1))
    >>> _ = buffer.extend(TensorDict(next=result, batch_size=[3]))
    >>> [trajectory.length for trajectory in buffer.query(traj.reward.sum() > 1)]
    [2]
    """
    numbers = COLLECTED if trajectory_key is None else trajectory_key
    known = trajectory_key is not None or storage.has_entry(numbers)
    episodes, found = Episodes(traj_key=numbers if known else None), []
    episodes.sync(storage)
    for start, stop, column in episodes.at_least(1).tolist():
        time = np.arange(max(start, episodes.oldest), stop)
        positions = torch.from_numpy(episodes.positions(time, np.array(column), storage))
        if predicate is None or predicate(_read_steps(storage, positions, predicate.keys)):
            found.append(Trajectory(_read_steps(storage, positions, None)))
    return found


def _read_steps(storage: Storage, positions: Tensor, keys: list[NestedKey] | None) -> TensorDictBase:
    """Read some entries, or all if ``keys`` is ``None``, of the items at ``positions [T]``."""
    if keys is None:
        steps = storage.take(positions)
        return storage.collate(steps) if isinstance(steps, list) else steps
    entries = {key: storage.take_entry(key, positions) for key in keys}
    return TensorDict(entries, batch_size=positions.shape)


def find_start_stop_traj(
    *,
    trajectory: Tensor | None = None,
    end: Tensor | None = None,
    at_capacity: bool,
    cursor: int | Tensor | range | None = None,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Find where trajectories start and stop in the slots of a ring.

    Args:
        trajectory: Numbers ``[R, *W]`` of the trajectories; one ends where the number changes.
        end: Flags ``[R, *W]`` that end trajectories, in place of ``trajectory``.
        at_capacity: Whether every slot is filled, so that the first follows the last.
        cursor: The slot, or slots, written last: what follows is older.
        device: Of the result; the device of the input if ``None``.

    Returns: first and last slots ``[E, 1 + len(W)]``, column by column, and lengths ``[E]``.

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
    column, last = stop.unbind(-1)  # [E], by column, then by slot
    is_first = torch.ones_like(column, dtype=torch.bool)
    is_first[1:] = column[1:] != column[:-1]
    is_final = is_first.roll(-1)
    start = last.roll(1) + 1
    start[is_first] = last[is_final] + 1 if at_capacity else torch.zeros_like(last[is_first])
    length = (last - start) % slots + 1
    start = start % slots
    inner = torch.unravel_index(column, end.shape[1:]) if end.ndim > 1 else ()
    device = end.device if device is None else device
    first = torch.stack([start, *inner], -1).to(device)
    return first, torch.stack([last, *inner], -1).to(device), length.to(device)
