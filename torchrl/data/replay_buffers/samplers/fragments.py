"""Episodes that lie in a storage in pieces: each step has a place of its own in its episode.

Legend: ``N`` items, ``E`` episodes, ``B`` items of a sample.
"""

from __future__ import annotations

import numpy as np
import torch
from tensordict import NestedKey

from torchrl.data.replay_buffers.storages.base import Storage


class FragmentedEpisodes:
    """The episodes of a storage whose steps may lie anywhere, in any order.

    Stands in for :class:`Episodes`: time is the place of a step among all, sorted by episode and
    step, and there is one lane. An episode whose step is missing counts as two. After each change
    of the storage everything is sorted anew.

    Args:
        traj_key: Entry that numbers episodes.
        step_key: Entry that numbers the steps of an episode.
    """

    def __init__(self, traj_key: NestedKey, step_key: NestedKey) -> None:
        self.traj_key, self.step_key = traj_key, step_key
        self.begin, self._state = 0, (0, 0, 0)
        self._order = self._place = self._bounds = np.zeros(1, dtype=np.int64)

    def sync(self, storage: Storage) -> None:
        """Sort, if anything was written since the last time."""
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
        """Return start, stop and lane ``[E, 3]`` of the episodes of ``steps`` steps or more."""
        start, stop = self._bounds[:-1], self._bounds[1:]
        episodes = np.stack([start, stop, np.zeros_like(start)], 1)
        return episodes[stop - start >= steps]

    def locate(self, time: np.ndarray, lane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return start and stop ``[B]`` of the episodes that hold the steps at ``time [B]``."""
        after = self._bounds.searchsorted(time, "right")
        return self._bounds[after - 1], self._bounds[after]

    def times(self, positions: np.ndarray, storage: Storage) -> tuple[np.ndarray, np.ndarray]:
        """Return times and lanes ``[B]`` of the items at ``positions [B]``."""
        return self._place[positions], np.zeros_like(positions)

    def positions(self, time: np.ndarray, lane: np.ndarray, storage: Storage) -> np.ndarray:
        """Return the positions ``[B]`` of the items at ``time [B]``."""
        return self._order[time]
