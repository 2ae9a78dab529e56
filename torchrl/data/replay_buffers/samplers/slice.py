"""Sub-trajectories: slices of consecutive steps of one episode.

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
from torchrl.data.replay_buffers.samplers.base import Sampler, require_items, whole_number
from torchrl.data.replay_buffers.samplers.episodes import Episodes
from torchrl.data.replay_buffers.samplers.fragments import FragmentedEpisodes
from torchrl.data.replay_buffers.storages.base import Storage

MASK = ("collector", "mask")
Span = bool | int | tuple[bool | int, bool | int]


class SliceSampler(Sampler):
    """Draws slices of consecutive steps: an episode, each alike, then a start, each alike.

    A slice never crosses the end of an episode, nor the place where new rows overwrite old ones.
    The time of a sample does not depend on how many items are stored.

    Args:
        num_slices: Number of slices ``S`` of a sample; ``L`` is then batch size / ``S``.
        slice_len: Steps ``L`` of a slice; ``S`` is then batch size / ``L``.
        end_key: Entry that says where episodes end; ``("next", "done")`` if nothing else is given.
        end_keys: Several such entries; any of them ends an episode.
        traj_key: Entry that numbers episodes; one ends where the number changes.
        ends: Flags ``[R, *W]``, in place of an entry.
        trajectories: Numbers ``[R, *W]``, in place of an entry.
        step_key: Entry that numbers the steps of an episode; read if they are fragmented.
        fragmented: The steps of an episode lie anywhere, as when several writers take turns:
            ``traj_key`` and ``step_key`` tell how they follow one another. Each change of the
            storage then sorts all of it.
        cache_values: Do not look for episodes again when rows were overwritten out of order, by
            ``buffer[i] = row``.
        truncated_key: Set where a slice ends, and ``done`` beside it; ``None`` leaves both alone.
        init_key: Set where a slice starts, if it is stored; ``None`` leaves it alone. Recurrent
            modules begin with an empty state where it is set, whatever state is stored there. To go
            on from the stored state give ``None``, and the module samples of shape ``[N, L]``.
        strict_length: Leave out episodes shorter than ``L``; otherwise their slices are shorter.
        pad_output: Repeat the last step of shorter slices up to ``L``, and write a mask.
        span: Let slices reach over the start and the end of an episode, of which they keep what is
            inside: ``True`` by all but one step, a number by that many; a pair for start and end.

    Reads: the entries that say where episodes end.
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
    ) -> None:
        if (num_slices is None) == (slice_len is None):
            raise TypeError(describe(self, "takes either num_slices or slice_len"))
        ways = [end_key, end_keys, traj_key, ends, trajectories]
        if sum(way is not None for way in ways) > 1:
            raise TypeError(
                describe(
                    self,
                    "takes one way to find episodes",
                    expected="one of end_key, end_keys, traj_key, ends, trajectories",
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
            self.episodes = Episodes(keys, traj_key, ends, trajectories, cache_values)
        self._edges: tuple[np.ndarray, np.ndarray] | None = None

    def _empty(self) -> None:
        self.ran_out = False

    def _reach(self, length: int) -> list[int]:
        """Return by how many steps slices of ``length`` steps may reach over start and end."""
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

    def sample(self, storage: Storage, batch_size: int) -> tuple[Tensor, dict[Any, Any]]:
        """Return positions ``[B]``, slice after slice; fewer if slices are shorter.

        Raises:
            RuntimeError: if no episode is long enough.
        """
        require_items(storage, self)
        count, length = self.sizes(batch_size)
        if self.span:
            self._check_span(length)
        first, last, lane = self._pick(storage, count, length)
        return self.slices(storage, first, last, lane, length)

    def _pick(
        self, storage: Storage, count: int, length: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return first and last (excluded) steps, and lanes, of ``count`` slices."""
        episodes = self._long_enough(storage, length)
        if not len(episodes):
            raise no_long_episode(self, self.episodes, storage, length)
        which, when = self._uniform(2 * count).reshape(2, count)
        chosen = self._choose(len(episodes), which, storage)
        start, stop, lane = episodes.take(chosen, 0).T
        start = np.maximum(start, self.episodes.begin)
        return *self._cut(start, stop, length, when[: len(chosen)]), lane

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
        begin = earliest + (chance * (latest - earliest + 1)).astype(np.int64)
        return np.maximum(begin, start), np.minimum(begin + length, stop)

    def slices(
        self, storage: Storage, first: np.ndarray, last: np.ndarray, lane: np.ndarray, length: int
    ) -> tuple[Tensor, dict[Any, Any]]:
        """Return the positions of slices, and what is marked at their edges."""
        steps = first[:, None] + np.arange(length)  # [S, L]
        whole, info = None, dict[Any, Any]()
        if np.minimum.reduce(last - first, initial=length) == length:
            final, initial = self._edges_of(len(first), length)
        else:
            whole = steps < last[:, None]
            steps = np.minimum(steps, last[:, None] - 1)
            final, initial = steps == last[:, None] - 1, steps == first[:, None]
            initial[:, 1:] = False  # a padded slice of one step repeats its first
        positions = self.episodes.positions(steps, lane[:, None], storage)
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

    def _mark(
        self,
        storage: Storage,
        positions: Tensor,
        final: np.ndarray,
        initial: np.ndarray,
        info: dict[Any, Any],
    ) -> None:
        """Set the flags at the edges ``[B, 1]`` of slices, in what is stored of them."""
        if self.truncated_key is not None:
            for key in (self.truncated_key, beside(self.truncated_key, "done")):
                info[key] = _raised(storage, key, positions, final)
        if self.init_key is not None and storage.has_entry(self.init_key):
            info[self.init_key] = _raised(storage, self.init_key, positions, initial)

    def pass_state(self) -> Any:
        """Return nothing: each draw stands for itself."""

    def restore_pass(self, state: Any) -> None:
        """Do nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: where episodes are is read from the storage."""
        return {}


class SliceSamplerWithoutReplacement(SliceSampler):
    """Slices every episode once, in passes; iterating over the buffer stops after one.

    A pass starts anew when rows were written. The last batch of a pass has fewer slices.

    Args:
        num_slices: Number of slices ``S`` of a sample; ``L`` is then batch size / ``S``.
        slice_len: Steps ``L`` of a slice; ``S`` is then batch size / ``L``.
        drop_last: Leave out the last batch of a pass if it has fewer slices.
        shuffle: Take the episodes in random order; in the order of their ends otherwise.
        **kwargs: As for :class:`SliceSampler`.
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
                    self,
                    "drop_last leaves out the only batch",
                    expected=f"at most {episodes} slices",
                    found=count,
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

    def pass_state(self) -> Any:
        """Return the order of the pass, which never changes in place, and where it stands."""
        return torch.from_numpy(self._order), self._next, self._seen, self.ran_out

    def restore_pass(self, state: Any) -> None:
        """Go back to where :meth:`pass_state` was taken."""
        order, self._next, seen, self.ran_out = state
        self._order, self._seen = order.numpy(), tuple(seen)

    def state_dict(self) -> dict[str, Any]:
        """Return the order of the pass and where it stands."""
        order = torch.from_numpy(self._order.copy())
        return {"order": order, "next": self._next, "seen": self._seen, "ran_out": self.ran_out}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the pass of a :meth:`state_dict`."""
        self._order = state_dict["order"].numpy().copy()
        self._next, self._seen = state_dict["next"], tuple(state_dict["seen"])
        self.ran_out = state_dict["ran_out"]


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
