"""`SliceSampler` and its variants: sub-trajectories of consecutive steps of one episode.

Legend: ``S`` slices, ``L`` steps of a slice, ``B`` items of a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tensordict import NestedKey
from torch import Tensor

from torchrl._core.errors import describe
from torchrl._core.keys import as_keys
from torchrl._core.keys import sibling as beside
from torchrl.data.replay_buffers.data_types import Info, State
from torchrl.data.replay_buffers.samplers.base import Sampler, require_items, whole_number
from torchrl.data.replay_buffers.samplers.episodes import COLUMN, START, STOP, Episodes, FragmentedEpisodes
from torchrl.data.replay_buffers.samplers.prioritized import PrioritizedSampler
from torchrl.data.replay_buffers.storages.base import Storage, check_flags

MASK = ("collector", "mask")
ROUNDS = 16  # draws of starts before all valid starts are enumerated
Span = bool | int | tuple[bool | int, bool | int]


class SliceSampler(Sampler):
    """Draw slices of consecutive steps: an episode, then a start in it, both uniformly.

    A slice never crosses the end of an episode or the slot at which rows are overwritten next.
    The time of a sample does not depend on how many items are stored.

    Args:
        num_slices: Number of slices ``S`` of a sample; ``L`` is then batch size / ``S``.
        slice_len: Steps ``L`` of a slice; ``S`` is then batch size / ``L``.
        end_key: Flag of the end of an episode, one number a step; ``("next", "done")`` if no other
            way is given.
        end_keys: Several such flags; any of them ends an episode.
        traj_key: Entry that numbers episodes; one ends where the number changes. With ``end_key`` or
            ``end_keys`` these are used if the entry is not stored.
        ends: Flags ``[R, *W]``, in place of an entry.
        trajectories: Numbers ``[R, *W]``, in place of an entry.
        step_key: Entry that numbers the steps of an episode; read if they are fragmented.
        fragmented: The steps of an episode may be in any slots, as with several writers; they are
            ordered by ``traj_key`` and ``step_key``. Each change of the storage then sorts all of
            it.
        cache_values: Do not search episodes again after rows were overwritten out of order, by
            ``buffer[i] = row``.
        truncated_key: Set at the end of a slice, as is ``done`` beside it; ``None`` changes
            neither.
        init_key: Set at the start of a slice, if it is stored; ``None`` does not change it.
            Recurrent modules reset their state where it is set, whatever state is stored there. To
            continue from the stored state pass ``None``, and to the module samples of shape
            ``[N, L]``.
        strict_length: Skip episodes shorter than ``L``; otherwise their slices are shorter.
        pad_output: Repeat the last step of shorter slices up to ``L``, and write a mask.
        span: Let slices extend over start and end of an episode, and keep the steps inside:
            ``True`` by all but one step, a number by that many; a pair for start and end.
        compile, use_gpu: Change nothing: of new rows alone the ends are found, with numpy.

    Reads: the entries that mark the ends of episodes.
    Writes: ``truncated_key [B, 1]`` and ``done [B, 1]`` beside it, true at the last step of each
    slice; ``init_key``, true at the first; ``("collector", "mask") [B]`` if the output is padded.
    ``terminated`` is as stored.

    Raises:
        TypeError: unless exactly one of ``num_slices`` and ``slice_len`` is given, and at most one
            way to find episodes; or if ``fragmented`` comes without ``traj_key``.
        ValueError: unless ``num_slices`` or ``slice_len`` is a whole number of one or more, and
            ``span`` leaves at least one step of a slice inside its episode.

    >>> from tensordict import TensorDict
    >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    >>> sampler = SliceSampler(slice_len=2, traj_key="episode")
    >>> buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(9), sampler=sampler, batch_size=4)
    >>> _ = buffer.extend(TensorDict(episode=torch.tensor([0, 0, 0, 1, 1]), batch_size=[5]))
    >>> buffer.sample()["episode"].view(2, 2).diff(dim=1).tolist()
    [[0], [0]]
    """

    replaces_entries = True

    def __init__(
        self,
        *,
        num_slices: int | None = None,
        slice_len: int | None = None,
        end_key: NestedKey | None = None,
        end_keys: Sequence[NestedKey] | None = None,
        traj_key: NestedKey | None = None,
        ends: Tensor | None = None,
        trajectories: Tensor | None = None,
        step_key: NestedKey = "step_count",
        fragmented: bool = False,
        cache_values: bool = False,
        truncated_key: NestedKey | None = ("next", "truncated"),
        init_key: NestedKey | None = "is_init",
        strict_length: bool = True,
        pad_output: bool = False,
        span: Span = False,
        compile: bool | dict[str, object] = False,
        use_gpu: bool | torch.device = False,
    ) -> None:
        if not isinstance(compile, dict):
            check_flags(self, compile=compile)
        if not isinstance(use_gpu, torch.device):
            check_flags(self, use_gpu=use_gpu)
        if (num_slices is None) == (slice_len is None):
            raise TypeError(describe(self, "takes either num_slices or slice_len"))
        flags, stored = [end_key, end_keys], [ends, trajectories]
        given = [sum(way is not None for way in ways) for ways in (flags, [traj_key], stored)]
        if given[0] > 1 or given[2] > 1 or (given[2] and given[0] + given[1]):
            raise TypeError(
                describe(
                    self,
                    "takes one way to find episodes",
                    expected="end_key or end_keys, with or without traj_key; or ends; or trajectories",
                )
            )
        if num_slices is not None:
            whole_number(self, "num_slices", num_slices, 1)
        if slice_len is not None:
            whole_number(self, "slice_len", slice_len, 1)
        self.num_slices, self.slice_len = num_slices, slice_len
        self.truncated_key, self.init_key = truncated_key, init_key
        self.strict_length, self.pad_output = strict_length, pad_output
        self.span = span
        self._check_span(slice_len)
        self.episodes: Episodes | FragmentedEpisodes
        if fragmented:
            if traj_key is None:
                raise TypeError(describe(self, "finds fragments by traj_key, which is not given"))
            self.episodes = FragmentedEpisodes(traj_key, step_key)
        else:
            keys = as_keys(end_keys or end_key) or [("next", "done")]
            self.episodes = Episodes(keys, traj_key, ends, trajectories, cache_values, bool(given[0]))
        self._edges: tuple[np.ndarray, np.ndarray] | None = None

    def _empty(self) -> None:
        self.ran_out = False

    def _reach(self, length: int) -> list[int]:
        """Return by how many steps slices may extend over start and end of an episode."""
        pair = self.span if isinstance(self.span, tuple | list) else (self.span, self.span)
        return [length - 1 if side is True else int(side) for side in pair]

    def _check_span(self, length: int | None) -> None:
        """Raise :class:`ValueError` if ``span`` leaves nothing of a slice inside its episode."""
        span = self.span
        pair = span if isinstance(span, tuple | list) else (span, span)
        whole = all(isinstance(side, int) and side >= 0 for side in pair)
        if len(pair) == 2 and whole and (length is None or max(self._reach(length)) < length):
            return
        steps = "the steps of a slice" if length is None else f"the {length} steps of a slice"
        raise ValueError(
            describe(
                self,
                "span must leave at least one step of a slice inside its episode",
                expected=f"True, or whole numbers from 0 on and less than {steps}, or a pair",
                found=span,
            )
        )

    def sizes(self, batch_size: int) -> tuple[int, int]:
        """Return ``S`` and ``L`` of a batch.

        Raises:
            ValueError: if the batch size is not a multiple of what is given.
        """
        given = self.num_slices or self.slice_len
        assert given is not None
        if given < 1 or batch_size % given:
            name = "num_slices" if self.num_slices else "slice_len"
            raise ValueError(
                describe(
                    self,
                    "the batch size does not divide into slices",
                    expected=f"a multiple of {name}={given}",
                    found=batch_size,
                )
            )
        other = batch_size // given
        return (given, other) if self.num_slices else (other, given)

    def sample(self, storage: Storage, batch_size: int) -> tuple[Tensor, Info]:
        """Return positions ``[B]``, slice after slice; fewer if slices are shorter.

        Raises:
            RuntimeError: if no episode is long enough.
        """
        require_items(storage, self)
        count, length = self.sizes(batch_size)
        if self.span:
            self._check_span(length)
        first, last, column = self._pick(storage, count, length)
        return self.slices(storage, first, last, column, length)

    def _pick(self, storage: Storage, count: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return first and last (excluded) steps, and columns, of ``count`` slices."""
        episodes = self._long_enough(storage, length)
        if not len(episodes):
            raise no_long_episode(self, self.episodes, storage, length)
        which, when = self._uniform(2 * count).reshape(2, count)
        chosen = self._choose(len(episodes), which, storage)
        start, stop, column = episodes.take(chosen, 0).T
        start = np.maximum(start, self.episodes.oldest)
        return *self._cut(start, stop, length, when[: len(chosen)]), column

    def can_sample(self, storage: Storage, batch_size: int) -> bool:
        """Return whether an episode is long enough."""
        return len(self._long_enough(storage, self.sizes(batch_size)[1])) > 0

    def _long_enough(self, storage: Storage, length: int) -> np.ndarray:
        self.episodes.sync(storage)
        return self.episodes.at_least(length if self.strict_length else 1)

    def _choose(self, episodes: int, chance: np.ndarray, storage: Storage) -> np.ndarray:
        """Return which of the episodes are sliced, at most as many as there are chances ``[S]``."""
        return (chance * episodes).astype(np.int64)

    def _cut(
        self, start: np.ndarray, stop: np.ndarray, length: int, chance: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return first and last (excluded) steps of a slice of each episode."""
        before, after = self._reach(length)
        earliest = start - before
        latest = np.maximum(stop - length + after, earliest)
        first = earliest + (chance * (latest - earliest + 1)).astype(np.int64)
        return np.maximum(first, start), np.minimum(first + length, stop)

    def slices(
        self, storage: Storage, first: np.ndarray, last: np.ndarray, column: np.ndarray, length: int
    ) -> tuple[Tensor, Info]:
        """Return the positions of slices, and what is marked at their edges."""
        steps = first[:, None] + np.arange(length)  # [S, L]
        whole, info = None, Info()
        if np.minimum.reduce(last - first, initial=length) == length:
            final, initial = self._edges_of(len(first), length)
        else:
            whole = steps < last[:, None]
            steps = np.minimum(steps, last[:, None] - 1)
            final, initial = steps == last[:, None] - 1, steps == first[:, None]
            initial[:, 1:] = False  # a padded slice of one step repeats its first
        positions = self.episodes.positions(steps, column[:, None], storage)
        if self.pad_output:
            whole = np.ones(steps.shape, dtype=bool) if whole is None else whole
            info[MASK] = torch.from_numpy(whole.reshape(-1))
        elif whole is not None:
            positions, final, initial = positions[whole], final[whole], initial[whole]
        items = torch.from_numpy(positions.reshape(-1))
        self._mark(storage, items, final.reshape(-1, 1), initial.reshape(-1, 1), info)
        return items, info

    def _edges_of(self, count: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Return which steps ``[S, L]`` of full slices are last, and which are first."""
        if self._edges is None or self._edges[0].shape != (count, length):
            final = np.zeros((count, length), dtype=bool)
            final[:, -1] = True
            self._edges = final, final[:, ::-1].copy()
        return self._edges

    def _mark(self, storage: Storage, positions: Tensor, final: np.ndarray, initial: np.ndarray, info: Info) -> None:
        """Set the flags at the edges ``[B, 1]`` of slices, in what is stored of them."""
        if self.truncated_key is not None:
            for key in (self.truncated_key, beside(self.truncated_key, "done")):
                info[key] = _raised(storage, key, positions, final)
        if self.init_key is not None and storage.has_entry(self.init_key):
            info[self.init_key] = _raised(storage, self.init_key, positions, initial)

    def pass_state(self) -> object:
        """Return ``None``: draws are independent."""

    def restore_pass(self, state: Any) -> None:
        """Do nothing."""

    def state_dict(self) -> State:
        """Return an empty state: episodes are found in the storage."""
        return {}


class SliceSamplerWithoutReplacement(SliceSampler):
    """Slices every episode once, in passes; iterating over the buffer stops after one.

    A new pass starts when rows were written. The last batch of a pass has fewer slices.

    Args:
        num_slices: Number of slices ``S`` of a sample; ``L`` is then batch size / ``S``.
        slice_len: Steps ``L`` of a slice; ``S`` is then batch size / ``L``.
        drop_last: Leave out the last batch of a pass if it has fewer slices.
        shuffle: Take the episodes in random order; in the order of their ends otherwise.
        **kwargs: As for :class:`SliceSampler`.

    >>> from tensordict import TensorDict
    >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    >>> sampler = SliceSamplerWithoutReplacement(slice_len=2, traj_key="episode", shuffle=False)
    >>> buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(9), sampler=sampler, batch_size=4)
    >>> _ = buffer.extend(TensorDict(episode=torch.arange(9) // 3, batch_size=[9]))  # three episodes
    >>> [batch["episode"].tolist() for batch in buffer]
    [[0, 0, 1, 1], [2, 2]]
    """

    def __init__(
        self,
        *,
        num_slices: int | None = None,
        slice_len: int | None = None,
        drop_last: bool = False,
        shuffle: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_slices=num_slices, slice_len=slice_len, **kwargs)
        self.drop_last, self.shuffle = drop_last, shuffle
        self._empty()

    def _empty(self) -> None:
        super()._empty()
        self._order, self._next, self._seen = np.empty(0, dtype=np.int64), 0, (-1, -1)

    def _choose(self, episodes: int, chance: np.ndarray, storage: Storage) -> np.ndarray:
        count = len(chance)
        if self.drop_last and count > episodes:
            raise ValueError(
                describe(
                    self, "drop_last leaves out the only batch", expected=f"at most {episodes} slices", found=count
                )
            )
        seen = (storage.written, episodes)
        if self._next >= len(self._order) or seen != self._seen:
            order = torch.randperm(episodes, generator=self.generator) if self.shuffle else None
            self._order = np.arange(episodes) if order is None else order.numpy()
            self._next, self._seen = 0, seen
        chosen = self._order[self._next : self._next + count]
        self._next += len(chosen)
        left = len(self._order) - self._next
        self.ran_out = left == 0 or (self.drop_last and left < count)
        if self.ran_out:
            self._next = len(self._order)
        return chosen

    def pass_state(self) -> object:
        """Return the order of the pass, which never changes in place, and where it stands."""
        return torch.from_numpy(self._order), self._next, self._seen, self.ran_out

    def restore_pass(self, state: Any) -> None:
        """Load the state of :meth:`pass_state`."""
        order, self._next, seen, self.ran_out = state
        self._order, self._seen = order.numpy(), tuple(seen)

    def state_dict(self) -> State:
        """Return the order of the pass and where it stands."""
        order = torch.from_numpy(self._order.copy())
        return {"order": order, "next": self._next, "seen": self._seen, "ran_out": self.ran_out}

    def load_state_dict(self, state_dict: State) -> None:
        """Go on with the pass of a :meth:`state_dict`."""
        self._order = state_dict["order"].numpy().copy()
        self._next, self._seen = state_dict["next"], tuple(state_dict["seen"])
        self.ran_out = state_dict["ran_out"]


class StreamingSliceSampler(SliceSampler):
    """Sample every new slice once, the oldest first, and fill the batch with random slices.

    Each episode is cut, as it grows, into slices of ``L`` steps from its start on. What is left at
    its end makes one more, which overlaps the slice before. A batch holds slices that were not
    sampled yet; if there are too few, the others are drawn as by :class:`SliceSampler`. Slices
    whose steps are overwritten before they are sampled are dropped.

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
            raise TypeError(describe(self, "cuts episodes as they grow, so they may not be fragmented"))
        super().__init__(slice_len=slice_len, **slices)
        self._empty()

    def _empty(self) -> None:
        super()._empty()
        self._unsampled = np.empty((0, 3), dtype=np.int64)  # [Q, 3], as episodes are
        self._cut_to = np.zeros(0, dtype=np.int64)  # steps of a column before this one were cut
        self._seen, self._edits = 0, 0

    def _pick(self, storage: Storage, count: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self.episodes.sync(storage)
        if storage.written != self._seen or storage.edits != self._edits:
            self._cut_new(storage, length)
        ready, self._unsampled = self._unsampled[:count], self._unsampled[count:]
        if len(ready) == count:
            return tuple(ready.T)
        drawn = super()._pick(storage, count - len(ready), length)
        first, last, column = map(np.append, ready.T, drawn)
        return first, last, column

    def _cut_new(self, storage: Storage, length: int) -> None:
        """Cut the steps written since the last call; drop slices that were overwritten."""
        found = self.episodes
        assert isinstance(found, Episodes)
        if len(self._cut_to) != storage.width:
            self._cut_to = np.zeros(storage.width, dtype=np.int64)
        recent, closed = found.stopping_from(self._seen)
        start, stop, column = recent.T
        start = np.maximum(start, found.oldest)
        cut_from = np.clip(self._cut_to[column], start, stop)
        pieces = (stop - cut_from) // length
        rest = cut_from + pieces * length
        number = np.arange(pieces.sum()) - np.repeat(pieces.cumsum() - pieces, pieces)
        first = np.repeat(cut_from, pieces) + number * length
        cut = np.stack([first, first + length, np.repeat(column, pieces)], 1)
        torn = closed & (rest < stop)
        if self.strict_length:
            torn &= stop - start >= length
        ends = np.stack([np.maximum(stop - length, start), stop, column], 1)[torn]
        np.maximum.at(self._cut_to, column, np.where(closed, stop, rest))
        new = np.concatenate([cut, ends])
        new = new[new[:, STOP].argsort(kind="stable")]
        waiting = np.concatenate([self._unsampled, new])
        waiting = waiting[waiting[:, START] >= found.oldest]
        if self._edits != storage.edits and len(waiting):
            start, stop = found.locate(waiting[:, START], waiting[:, COLUMN])
            waiting = waiting[stop >= waiting[:, STOP]]
        self._unsampled, self._seen, self._edits = waiting, found.now, storage.edits

    def pass_state(self) -> object:
        """Return the slices not yet sampled, and up to which step episodes were cut."""
        waiting, cut_to = torch.from_numpy(self._unsampled), torch.from_numpy(self._cut_to.copy())
        return waiting, cut_to, self._seen, self._edits

    def restore_pass(self, state: Any) -> None:
        """Load the state of :meth:`pass_state`."""
        waiting, cut_to, self._seen, self._edits = state
        self._unsampled, self._cut_to = waiting.numpy(), cut_to.numpy().copy()

    def state_dict(self) -> State:
        """Return the slices not yet sampled, and up to which step episodes were cut."""
        arrays = {"waiting": self._unsampled, "cut_to": self._cut_to}
        state = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        return {**state, "seen": self._seen}

    def load_state_dict(self, state_dict: State) -> None:
        """Load the state of a :meth:`state_dict`."""
        self._unsampled = state_dict["waiting"].numpy().copy()
        self._cut_to = state_dict["cut_to"].numpy().copy()
        self._seen = state_dict["seen"]


class PrioritizedSliceSampler(PrioritizedSampler):
    r"""Draw starts of slices in proportion to their priority, among those with enough steps left.

    Starts too close to the end of their episode are drawn again, so that the probabilities of the
    others stay in proportion.

    Args:
        max_capacity, alpha, beta, eps, dtype, reduction, max_priority_within_buffer: As for
            :class:`PrioritizedSampler`.
        **slices: As for :class:`SliceSampler`. Slices that ``span`` lets extend over the start of an
            episode are drawn by the priority of its first step.

    Starts with fewer steps left than ``L`` are not drawn; with ``strict_length=False`` a shorter
    episode is returned whole, as often as the priority of its first step says.

    Writes: ``priority_weight [B]``, that of the start for all steps of a slice; and as
    :class:`SliceSampler`.

    >>> from tensordict import TensorDict
    >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    >>> sampler = PrioritizedSliceSampler(9, 1.0, 1.0, slice_len=2, traj_key="episode")
    >>> buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(9), sampler=sampler, batch_size=4)
    >>> _ = buffer.extend(TensorDict(episode=torch.tensor([0, 0, 0, 1, 1]), batch_size=[5]))
    >>> buffer.update_priority(torch.arange(5), torch.tensor([0.0, 9.0, 9.0, 0.0, 9.0]))
    >>> buffer.sample()["index"]
    tensor([1, 2, 1, 2])
    """

    replaces_entries = True

    def __init__(
        self,
        max_capacity: int,
        alpha: float,
        beta: float,
        eps: float = 1e-8,
        dtype: torch.dtype = torch.float32,
        reduction: str = "max",
        max_priority_within_buffer: bool = False,
        **slices: Any,
    ) -> None:
        super().__init__(max_capacity, alpha, beta, eps, dtype, reduction, max_priority_within_buffer)
        self._slices = SliceSampler(**slices)

    def sample(self, storage: Storage, batch_size: int) -> tuple[Tensor, Info]:
        """Return positions ``[B]``, slice after slice, and their weights.

        Raises:
            RuntimeError: if no episode is long enough.
        """
        require_items(storage, self)
        self._catch_up(storage)
        count, length = self._slices.sizes(batch_size)
        self._slices.episodes.sync(storage)
        start = self._starts(storage, count, length)
        time, column = self._slices.episodes.times(start, storage)
        first, stop = self._slices.episodes.locate(time, column)
        last = np.minimum(time + length, stop)
        before = self._reach(length)[0]
        if before:  # a slice may start before its episode, of which these are the steps inside
            cut = (self._uniform(count) * (before + 1)).astype(np.int64)
            last = np.where(time == first, np.minimum(time + length - cut, stop), last)
        positions, info = self._slices.slices(storage, time, last, column, length)
        steps = np.full(count, length) if self._slices.pad_output else last - time
        weight = self._weights(self._sum_tree.take(start))
        weight = weight.repeat_interleave(torch.from_numpy(steps))
        return positions, {"priority_weight": weight, **info}

    def can_sample(self, storage: Storage, batch_size: int) -> bool:
        """Return whether an episode is long enough."""
        return self._slices.can_sample(storage, batch_size)

    def _reach(self, length: int) -> list[int]:
        """Return by how many steps slices may extend over start and end of an episode."""
        if not self._slices.span:
            return [0, 0]
        self._slices._check_span(length)
        return self._slices._reach(length)

    def _starts(self, storage: Storage, count: int, length: int) -> np.ndarray:
        """Draw the positions ``[S]`` of starts of slices of ``length`` steps."""
        found = np.empty(0, dtype=np.int64)
        for _ in range(ROUNDS):
            drawn, _ = self._draw(2 * count)
            found = np.append(found, drawn[self._leaves_room(drawn, storage, length)])
            if len(found) >= count:
                return found[:count]
        every = np.flatnonzero(self._sum_tree.leaves > 0)
        every = every[self._leaves_room(every, storage, length)]
        if not len(every):
            raise no_long_episode(self, self._slices.episodes, storage, length)
        cumulated = self._sum_tree.take(every).cumsum()
        quantile = torch.rand(count, dtype=torch.float64, generator=self.generator)
        chosen = cumulated.searchsorted(quantile.numpy() * cumulated[-1], "right")
        return every[np.minimum(chosen, len(every) - 1)]

    def _leaves_room(self, positions: np.ndarray, storage: Storage, length: int) -> np.ndarray:
        time, column = self._slices.episodes.times(positions, storage)
        start, stop = self._slices.episodes.locate(time, column)
        needed = length - self._reach(length)[1]
        if self._slices.strict_length:
            return (stop - time >= needed) & (stop - start >= length)
        return stop - time >= np.minimum(needed, stop - start)


def no_long_episode(
    sampler: object, episodes: Episodes | FragmentedEpisodes, storage: Storage, length: int
) -> RuntimeError:
    """Return the error that says why there is no episode of ``length`` steps."""
    fact = f"no stored episode has {length} steps"
    hint = "Wait for longer ones, or allow shorter slices by strict_length=False."
    if isinstance(episodes, Episodes) and episodes.are_interleaved(storage):
        fact += ": rows of several episodes take turns, they are interleaved"
        hint = (
            "Store rows of several environments as [environments, time] in a storage of ndim=2, or "
            "find the steps by traj_key and step_key with fragmented=True."
        )
    return RuntimeError(describe(sampler, fact, hint=hint))


def _raised(storage: Storage, key: NestedKey, positions: Tensor, edge: np.ndarray) -> Tensor:
    """Return the flags ``[B, *F]`` of items, also set where ``edge [B, 1]`` says so."""
    if not storage.has_entry(key):
        return torch.from_numpy(edge.copy())
    flag = storage.take_entry(key, positions)
    edges = torch.from_numpy(edge.reshape(len(edge), *(1,) * (flag.ndim - 1))).to(flag.device)
    return flag | edges
