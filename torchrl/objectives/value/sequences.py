"""Roots in turn, and between them the next observations that are no later root.

Legend: ``N`` columns, ``T`` steps, ``L`` rows of a column with next observations between its roots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn

from torchrl._core.keys import next_key


class Interleaved(NamedTuple):
    """How roots and next observations, side by side ``[N, 2 T]``, become one sequence a column.

    Args:
        column: Numbers of the columns, ``[N, 1]``.
        source: Which of the ``2 T`` is at each place ``[N, L]``; at the end of a column that is
            shorter than others its first root again.
        place: Where each root stands ``[N, T]``; its next observation stands behind it.
    """

    column: Tensor
    source: Tensor
    place: Tensor


def interleave(ends: Tensor) -> Interleaved:
    """Return the sequences for trajectories whose pieces end where ``ends [N, T]`` is true.

    A piece ends also where the data ends.

    >>> interleave(torch.tensor([[False, True, False]])).source.tolist()  # n of 1, n of 2 are 4, 5
    [[0, 1, 4, 2, 5]]
    """
    columns, steps = ends.shape
    ends = ends.clone()
    ends[:, -1] = True
    step = torch.arange(steps, device=ends.device)
    place = step + ends.cumsum(1) - ends.long()  # [N, T]
    source = place.new_zeros(columns, int(place[:, -1].max()) + 2)
    source.scatter_(1, place, step.expand(columns, steps))
    column, end = ends.nonzero(as_tuple=True)
    source[column, place[column, end] + 1] = steps + end
    return Interleaved(torch.arange(columns, device=ends.device).unsqueeze(1), source, place)


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


_PAIRS = 64  # are compared at most
_FEW = 8  # pairs say nothing


def shuffled_pairs(td: TensorDictBase, keys: Sequence[NestedKey], goes_on: Tensor) -> tuple[int, int] | None:
    """Return how many of some pairs of rows follow each other, if less than half of them do.

    A row follows another, whose episode goes on, if its root is the other's next observation.

    Args:
        td: Rows ``[T]``.
        keys: Entries of roots and next observations.
        goes_on: Whether the episode goes on behind each row, ``[T]``.

    Returns: ``(pairs that follow each other, pairs)``; ``None`` if the rows may be in order.

    >>> from tensordict import TensorDict
    >>> rows = torch.arange(9).unsqueeze(-1)
    >>> td = TensorDict(x=rows, next=TensorDict(x=rows + 1, batch_size=[9]), batch_size=[9])
    >>> on = torch.ones(9, dtype=torch.bool)
    >>> shuffled_pairs(td, ["x"], on), shuffled_pairs(td[[4, 0, 7, 3, 8, 5, 1, 2, 6]], ["x"], on)
    (None, (1, 8))
    """
    pairs = [(td.get(key, None), td.get(next_key(key), None)) for key in keys]
    pairs = [(a, b) for a, b in pairs if isinstance(a, Tensor) and isinstance(b, Tensor)]
    rows = td.shape[0] - 1
    if not pairs or rows < _FEW:
        return None
    index = torch.arange(0, rows, -(-rows // _PAIRS), device=goes_on.device)
    on = goes_on[index]
    linked = on
    for root, next_root in pairs:
        one, other = root[index + 1].flatten(1), next_root[index].flatten(1)
        same = (one == other) | ((one != one) & (other != other))  # NaN is itself, here
        linked = linked & same.all(-1)
    try:
        count, total = torch.stack([linked.sum(), on.sum()]).tolist()
    except RuntimeError:  # under torch.vmap there are no numbers to look at
        return None
    return (count, total) if total >= _FEW and 2 * count < total else None
