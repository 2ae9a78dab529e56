"""Roots in turn, and between them the next observations that no root stands for.

Legend: ``N`` lanes, ``T`` steps, ``L`` rows of a lane once next observations stand between roots.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Interleaved(NamedTuple):
    """How roots and next observations, side by side ``[N, 2 T]``, become one sequence a lane.

    Args:
        lane: Numbers of the lanes, ``[N, 1]``.
        source: Which of the ``2 T`` stands in each place ``[N, L]``; at the end of a lane that is
            shorter than others its first root again.
        place: Where each root stands ``[N, T]``; its next observation stands behind it.
    """

    lane: Tensor
    source: Tensor
    place: Tensor


def interleave(ends: Tensor) -> Interleaved:
    """Return the sequences for trajectories whose pieces end where ``ends [N, T]`` is true.

    A piece ends also where the data ends.

    >>> interleave(torch.tensor([[False, True, False]])).source.tolist()  # n of 1, n of 2 are 4, 5
    [[0, 1, 4, 2, 5]]
    """
    lanes, steps = ends.shape
    ends = ends.clone()
    ends[:, -1] = True
    step = torch.arange(steps, device=ends.device)
    place = step + ends.cumsum(1) - ends.long()  # [N, T]
    source = place.new_zeros(lanes, int(place[:, -1].max()) + 2)
    source.scatter_(1, place, step.expand(lanes, steps))
    lane, end = ends.nonzero(as_tuple=True)
    source[lane, place[lane, end] + 1] = steps + end
    return Interleaved(torch.arange(lanes, device=ends.device).unsqueeze(1), source, place)


def takes_sequences(network: nn.Module | None) -> bool:
    """Return whether a critic, called now, would remember what came before in a sequence."""
    return any(part.recurrent_mode for part in _memories(network))


def may_take_sequences(network: nn.Module | None) -> bool:
    """Return whether a critic could remember, in some call."""
    return next(_memories(network), None) is not None


def takes_branches(network: nn.Module) -> bool:
    """Return whether all that remembers in a network knows steps that depart from a sequence."""
    return all(getattr(part, "takes_branches", False) for part in _memories(network))


def _memories(network: nn.Module | None) -> Iterator[Any]:
    parts: Any = () if network is None else network.modules()
    return (part for part in parts if hasattr(type(part), "recurrent_mode"))
