"""New slices first, each once; then old ones.

Legend: ``S`` slices, ``L`` steps of a slice, ``E`` episodes, ``Q`` slices that wait.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from torchrl._core.errors import describe
from torchrl.data.replay_buffers.samplers.episodes import LANE, START, STOP, Episodes
from torchrl.data.replay_buffers.samplers.slice import SliceSampler
from torchrl.data.replay_buffers.storages.base import Storage


class StreamingSliceSampler(SliceSampler):
    """Hands out every slice that came in, the oldest first, and fills up the batch with others.

    Each episode is cut, as it grows, into slices of ``L`` steps from its start on. What is left at
    its end makes one more, which reaches back over steps of the slice before. A batch holds slices
    that nobody has seen yet; where they are too few, the rest are drawn as :class:`SliceSampler`
    draws them. Slices whose steps are overwritten before their turn are lost.

    Args:
        slice_len: Steps ``L`` of a slice.
        **slices: As for :class:`SliceSampler`, without ``num_slices`` and ``fragmented``; ``span``
            is for the slices that are drawn.

    Writes: as :class:`SliceSampler`.

    Raises:
        TypeError: if ``fragmented`` or ``num_slices`` is given.

    Source: Hafner et al., 2023, https://arxiv.org/abs/2301.04104, on the "online queue" of the
    replay buffer. Differs: slices do not cross the ends of episodes.

    >>> from tensordict import TensorDict
    >>> from torchrl.data import LazyTensorStorage, ReplayBuffer
    >>> sampler = StreamingSliceSampler(slice_len=2, traj_key="episode")
    >>> buffer = ReplayBuffer(storage=LazyTensorStorage(9), sampler=sampler, batch_size=4)
    >>> steps = TensorDict(step=torch.arange(5), episode=torch.zeros(5), batch_size=[5])
    >>> _ = buffer.extend(steps)
    >>> buffer.sample()["step"]
    tensor([0, 1, 2, 3])
    """

    def __init__(self, *, slice_len: int, **slices: Any) -> None:
        if slices.get("fragmented"):
            raise TypeError(describe(self, "cuts episodes as they grow, so they may not be torn"))
        super().__init__(slice_len=slice_len, **slices)
        self._empty()

    def _empty(self) -> None:
        super()._empty()
        self._waiting = np.empty((0, 3), dtype=np.int64)  # [Q, 3], as episodes are
        self._cut_to = np.zeros(0, dtype=np.int64)  # steps of a lane before this one were cut
        self._seen, self._edits = 0, 0

    def _pick(
        self, storage: Storage, count: int, length: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self.episodes.sync(storage)
        if storage.written != self._seen or storage.edits != self._edits:
            self._cut_new(storage, length)
        ready, self._waiting = self._waiting[:count], self._waiting[count:]
        if len(ready) == count:
            return tuple(ready.T)
        drawn = super()._pick(storage, count - len(ready), length)
        first, last, lane = map(np.append, ready.T, drawn)
        return first, last, lane

    def _cut_new(self, storage: Storage, length: int) -> None:
        """Cut slices of the steps that came in since the last time; drop those that are gone."""
        found = self.episodes
        assert isinstance(found, Episodes)
        if len(self._cut_to) != storage.width:
            self._cut_to = np.zeros(storage.width, dtype=np.int64)
        recent, closed = found.stopping_from(self._seen)
        start, stop, lane = recent.T
        start = np.maximum(start, found.begin)
        begin = np.clip(self._cut_to[lane], start, stop)
        pieces = (stop - begin) // length
        rest = begin + pieces * length
        number = np.arange(pieces.sum()) - np.repeat(pieces.cumsum() - pieces, pieces)
        first = np.repeat(begin, pieces) + number * length
        cut = np.stack([first, first + length, np.repeat(lane, pieces)], 1)
        torn = closed & (rest < stop)
        if self.strict_length:
            torn &= stop - start >= length
        ends = np.stack([np.maximum(stop - length, start), stop, lane], 1)[torn]
        np.maximum.at(self._cut_to, lane, np.where(closed, stop, rest))
        new = np.concatenate([cut, ends])
        new = new[new[:, STOP].argsort(kind="stable")]
        waiting = np.concatenate([self._waiting, new])
        waiting = waiting[waiting[:, START] >= found.begin]
        if self._edits != storage.edits and len(waiting):
            start, stop = found.locate(waiting[:, START], waiting[:, LANE])
            waiting = waiting[stop >= waiting[:, STOP]]
        self._waiting, self._seen, self._edits = waiting, found.now, storage.edits

    def pass_state(self) -> Any:
        """Return the slices that wait, and how far episodes were cut."""
        waiting, cut_to = torch.from_numpy(self._waiting), torch.from_numpy(self._cut_to.copy())
        return waiting, cut_to, self._seen, self._edits

    def restore_pass(self, state: Any) -> None:
        """Go back to where :meth:`pass_state` was taken."""
        waiting, cut_to, self._seen, self._edits = state
        self._waiting, self._cut_to = waiting.numpy(), cut_to.numpy().copy()

    def state_dict(self) -> dict[str, Any]:
        """Return the slices that wait, and how far episodes were cut."""
        arrays = {"waiting": self._waiting, "cut_to": self._cut_to}
        state = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        return {**state, "seen": self._seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the sampler stood whose :meth:`state_dict` this is."""
        self._waiting = state_dict["waiting"].numpy().copy()
        self._cut_to = state_dict["cut_to"].numpy().copy()
        self._seen = state_dict["seen"]
