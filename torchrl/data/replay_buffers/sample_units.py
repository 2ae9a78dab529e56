"""`SampleUnit`: return one item for each sampled position, or a window of items around it.

Legend: ``A`` anchors, the positions that a sampler draws; ``w`` items of a window; ``B`` items of a
sample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from tensordict import NestedKey
from torch import Tensor

from torchrl._core.errors import describe
from torchrl.data.replay_buffers.data_types import Info
from torchrl.data.replay_buffers.samplers.episodes import Episodes
from torchrl.data.replay_buffers.samplers.slice import PrioritizedSliceSampler, SliceSampler
from torchrl.data.replay_buffers.storages.base import Storage

BOUNDARIES = ("pad", "stop", "include_reset")


class SampleUnit(ABC):
    """Maps the positions that a sampler draws to those of a sample. Each buffer needs its own.

    Hooks:
        expand: ``(anchors [A], storage) -> (positions [B], number of each [A], info)``: the items
            of the first anchor, then those of the second; ``info [B]`` joins the sample.

    >>> from torchrl.data import ReplayBuffer
    >>> class Twice(SampleUnit):
    ...     def expand(self, anchors, storage):
    ...         return anchors.repeat_interleave(2), torch.full_like(anchors, 2), {}
    >>> buffer = ReplayBuffer(sample_unit=Twice(), batch_size=3)
    >>> _ = buffer.extend(torch.arange(9))
    >>> buffer.sample().shape
    torch.Size([6])
    """

    @abstractmethod
    def expand(self, anchors: Tensor, storage: Storage) -> tuple[Tensor, Tensor, Info]: ...

    def __call__(self, sampler: object, anchors: Tensor, info: Info, storage: Storage) -> tuple[Tensor, Info]:
        """Return the positions ``[B]`` of a sample, and the info about them.

        Raises:
            TypeError: if the sampler draws slices, which are windows already.
        """
        if isinstance(sampler, SliceSampler | PrioritizedSliceSampler):
            raise TypeError(
                describe(
                    self,
                    f"{type(sampler).__name__} draws slices, not single items",
                    hint="Use another sampler, or no sample_unit.",
                )
            )
        positions, number, more = self.expand(anchors, storage)
        about = {key: value.repeat_interleave(number, 0) for key, value in info.items()}
        return positions, {**about, **more}


class Transition(SampleUnit):
    """Return the item at each position.

    >>> from torchrl.data import ReplayBuffer
    >>> buffer = ReplayBuffer(sample_unit=Transition(), batch_size=3)
    >>> _ = buffer.extend(torch.arange(9))
    >>> buffer.sample().shape
    torch.Size([3])
    """

    def expand(self, anchors: Tensor, storage: Storage) -> tuple[Tensor, Tensor, Info]:
        """Return the anchors."""
        return anchors, torch.ones_like(anchors), {}


class Sequence(SampleUnit):
    """Return a window of steps for each position, its anchor: the first step to learn from.

    A window is ``burn_in`` steps that warm up a recurrent state, ``length`` steps to learn from,
    and ``bootstrap`` steps whose values are targets.

    Args:
        length: Steps to learn from, from the anchor on.
        episode_boundary: The steps of a window beyond the episode of its anchor: ``"pad"`` repeats
            the step at the edge, ``"stop"`` omits them, ``"include_reset"`` takes those of the
            episodes before and after, and repeats where none are stored.
        done_key: Flag of the end of an episode.
        burn_in: Steps before the anchor.
        bootstrap: Steps after those to learn from.
        dilation: From one step of the window to the next, in steps of the episode.

    Reads: ``done_key [B, 1]``.
    Writes: ``anchor_index``, as ``index``, of the step that was drawn; ``learning_mask [B]``, true
    for steps to learn from; ``validity_mask [B]``, false where a step is repeated. The batch is
    flat, ``[A * w]`` unless windows stop early; the batch size is ``A``.

    Raises:
        ValueError: if a number is out of range, or ``episode_boundary`` unknown.

    Source: Kapturowski et al., 2019, https://openreview.net/forum?id=r1lyTjAqYX, section 3.

    >>> from tensordict import TensorDict
    >>> from torchrl.data import LazyTensorStorage, ReplayBuffer
    >>> unit = Sequence(2, burn_in=1)
    >>> buffer = ReplayBuffer(storage=LazyTensorStorage(9), sample_unit=unit)
    >>> done = torch.tensor([False, False, False]).unsqueeze(-1)
    >>> steps = TensorDict(step=torch.arange(3), next=dict(done=done), batch_size=[3])
    >>> _ = buffer.extend(steps)
    >>> batch = buffer.sample(64)
    >>> batch["step"].view(64, 3).unique(dim=0).tolist()
    [[0, 0, 1], [0, 1, 2], [1, 2, 2]]
    >>> batch["learning_mask"].view(64, 3).any(0)
    tensor([False,  True,  True])
    """

    def __init__(
        self,
        length: int,
        episode_boundary: str = "pad",
        done_key: NestedKey = ("next", "done"),
        burn_in: int = 0,
        bootstrap: int = 0,
        dilation: int = 1,
    ) -> None:
        if min(length, dilation) < 1 or min(burn_in, bootstrap) < 0:
            raise ValueError(
                describe(
                    self,
                    "an argument is out of range",
                    expected="length, dilation >= 1 and burn_in, bootstrap >= 0",
                    found=(length, dilation, burn_in, bootstrap),
                )
            )
        if episode_boundary not in BOUNDARIES:
            raise ValueError(describe(self, "unknown episode_boundary", expected=BOUNDARIES, found=episode_boundary))
        self.length, self.episode_boundary, self.done_key = length, episode_boundary, done_key
        self.burn_in, self.bootstrap, self.dilation = burn_in, bootstrap, dilation
        self._episodes = Episodes([done_key])

    def expand(self, anchors: Tensor, storage: Storage) -> tuple[Tensor, Tensor, Info]:
        """Return the positions of the windows, their sizes, and the masks of their steps."""
        episodes = self._episodes
        episodes.sync(storage)
        time, column = episodes.times(anchors.numpy(), storage)
        if self.episode_boundary == "include_reset":
            start, stop = np.full_like(time, episodes.oldest), np.full_like(time, episodes.now)
        else:
            start, stop = episodes.locate(time, column)
        place = np.arange(-self.burn_in, self.length + self.bootstrap)  # [w]
        steps = time[:, None] + self.dilation * place  # [A, w]
        valid = (steps >= start[:, None]) & (steps < stop[:, None])
        learning = valid & (place >= 0) & (place < self.length)
        steps = np.clip(steps, start[:, None], stop[:, None] - 1)
        kept = valid if self.episode_boundary == "stop" else np.ones_like(valid)
        positions = episodes.positions(steps, column[:, None], storage)[kept]
        number = torch.from_numpy(kept.sum(1))  # [A]
        info: Info = {
            "anchor_index": storage.coordinates(anchors).repeat_interleave(number, 0),
            "learning_mask": torch.from_numpy(learning[kept]),
            "validity_mask": torch.from_numpy(valid[kept]),
        }
        return torch.from_numpy(positions), number, info


def priorities_of_anchors(anchors: Tensor, priority: Tensor, learning: Tensor, reduction: str) -> tuple[Tensor, Tensor]:
    """Reduce the priorities of the steps that were learned from to one for each anchor.

    Args:
        anchors: Positions ``[B]``, one for each step.
        priority: ``[B, *]``.
        learning: Which steps count, ``[B]``.
        reduction: ``"max"``, ``"min"``, ``"mean"`` or ``"median"``.

    Returns: positions ``[U]``, each once, and their priorities ``[U]``.

    >>> anchors, priority = torch.tensor([7, 7, 3]), torch.tensor([1.0, 5.0, 2.0])
    >>> priorities_of_anchors(anchors, priority, torch.ones(3, dtype=torch.bool), "mean")
    (tensor([3, 7]), tensor([2., 3.], dtype=torch.float64))
    """
    reduce = getattr(np, reduction)
    anchors, priority = anchors[learning], priority[learning].reshape(int(learning.sum()), -1)
    every, inverse = anchors.unique(return_inverse=True)
    order = inverse.argsort(stable=True)
    stops = torch.bincount(inverse).cumsum(0)[:-1]
    groups = np.split(priority[order].double().numpy(force=True), stops.numpy(force=True))
    return every, torch.tensor([float(reduce(group)) for group in groups], dtype=torch.float64)
