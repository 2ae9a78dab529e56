"""Every combination of a few discrete choices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def all_combinations(
    choices: Sequence[Sequence[int]], dtype: torch.dtype | None, device: torch.device | None
) -> Tensor:
    """Return every choice of one number from each range, ``[N, len(choices)]``, the last fastest.

    >>> all_combinations([[0, 1], [5, 6]], torch.int64, None).tolist()
    [[0, 5], [0, 6], [1, 5], [1, 6]]
    """
    if not choices:
        return torch.empty(1, 0, dtype=dtype, device=device)
    columns = [torch.tensor(list(values), dtype=dtype, device=device) for values in choices]
    return torch.stack([c.flatten() for c in torch.meshgrid(*columns, indexing="ij")], -1)
