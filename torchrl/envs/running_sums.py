"""Sums over episodes that nobody reads while steps are taken: written into all steps at once.

How long an episode is and what it has earned is noted at every step, and read after the last. A
loop leaves such entries out (:meth:`EnvBase.postpone`) and adds them to the stack of its steps; the
numbers are those that a sum step by step gives, to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl._core.entries import Entries
from torchrl._core.mdp import DONE

_IN_NUMPY = (torch.float32, torch.float64, torch.int64)


class RunningSum(NamedTuple):
    """An entry ``[*B, 1]`` that is 0 at a reset and grows at each step.

    Args:
        key: Where it stands.
        source: The entry under ``"next"`` that is added; 1 if ``None``.
    """

    key: NestedKey
    source: NestedKey | None


def take_out(root: Entries, sums: Sequence[RunningSum]) -> Entries:
    """Take the sums out of a root and return them."""
    return Entries({key: root.pop(key) for key, _ in sums})


def write_sums(
    steps: TensorDictBase, sums: Sequence[RunningSum], first: Entries, *, reset_at_end: bool
) -> Entries:
    """Write sums into ``steps [*B, T]``, whose rows were reset after each end but perhaps the last.

    Args:
        steps: What was collected without them.
        sums: What to write.
        first: What they were at the first root.
        reset_at_end: Whether rows that ended at the last step were reset.

    Returns: what they are at the root that follows.
    """
    outcomes, last = steps.get("next"), Entries()
    ends = outcomes.get(DONE)  # [*B, T, 1]
    for key, source in sums:
        added = torch.ones_like(ends, dtype=torch.int64) if source is None else outcomes.get(source)
        before, after = running_sum(first[key], added, ends)
        steps.set(key, before)
        outcomes.set(key, after)
        total = after[..., -1, :]
        last[key] = total.masked_fill(ends[..., -1, :], 0) if reset_at_end else total.clone()
    return last


def running_sum(first: Tensor, added: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Return sums ``[*B, T, 1]`` before and after each step, which begin anew after an end.

    Args:
        first: Where they begin, ``[*B, 1]``.
        added: What each step adds, ``[*B, T, 1]``.
        ends: After which steps they begin anew, ``[*B, T, 1]``.

    >>> ends = torch.tensor([[False], [True], [False]])
    >>> before, after = running_sum(torch.tensor([5.0]), torch.ones(3, 1), ends)
    >>> before.squeeze(-1), after.squeeze(-1)
    (tensor([5., 6., 0.]), tensor([6., 7., 1.]))
    """
    num_steps, num_rows = added.shape[-2], first.numel()
    is_plain = added.device.type == "cpu" and not (added.requires_grad or first.requires_grad)
    # One call for each episode against two for each step.
    if is_plain and added.dtype in _IN_NUMPY and num_rows + int(ends.sum()) < 2 * num_steps:
        after = _by_episode(first, added, ends)
    else:
        after = _by_step(first, added, ends)
    restarted = after[..., :-1, :].masked_fill(ends[..., :-1, :], 0)
    return torch.cat([first.unsqueeze(-2), restarted], -2), after


def _by_episode(first: Tensor, added: Tensor, ends: Tensor) -> Tensor:
    num_steps, after = added.shape[-2], added.clone(memory_format=torch.contiguous_format)
    totals = after.view(-1, num_steps).numpy()
    totals[:, 0] += first.reshape(-1).numpy()
    for row, over in zip(totals, ends.reshape(-1, num_steps).numpy(), strict=True):
        start = 0
        for stop in (*(np.flatnonzero(over[:-1]) + 1), num_steps):
            np.add.accumulate(row[start:stop], out=row[start:stop])
            start = stop
    return after


def _by_step(first: Tensor, added: Tensor, ends: Tensor) -> Tensor:
    total, after = first, []
    for value, over in zip(added.unbind(-2), ends.unbind(-2), strict=True):
        after.append(total + value)
        total = after[-1].masked_fill(over, 0)
    return torch.stack(after, -2)
