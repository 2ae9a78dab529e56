"""Whether rows of a batch follow each other in time, as far as it can be told cheaply."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl._core.keys import next_key

_PAIRS = 64  # are compared at most
_FEW = 8  # pairs say nothing


def shuffled_pairs(
    td: TensorDictBase, keys: Sequence[NestedKey], goes_on: Tensor
) -> tuple[int, int] | None:
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
    for root, following in pairs:
        one, other = root[index + 1].flatten(1), following[index].flatten(1)
        same = (one == other) | ((one != one) & (other != other))  # NaN is itself, here
        linked = linked & same.all(-1)
    try:
        count, total = torch.stack([linked.sum(), on.sum()]).tolist()
    except RuntimeError:  # under torch.vmap there are no numbers to look at
        return None
    return (count, total) if total >= _FEW and 2 * count < total else None
