"""Sums over episodes that nobody reads while steps are taken.

How long an episode is and what it has earned is noted at every step, and read after the last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor

from torchrl._core.entries import Entries
from torchrl._core.mdp import DONE
from torchrl.envs.postponed import Postponed
from torchrl.envs.step_plan import StepPlan

_IN_NUMPY = (torch.float32, torch.float64, torch.int64)


@dataclass(frozen=True)
class RunningSum(Postponed):
    """An entry ``[*B, 1]`` that is 0 at a reset and grows at each step.

    The ``source`` is the entry under ``"next"`` that is added; 1 if ``None``.
    """

    follows_itself = True

    def fits(self, plan: StepPlan) -> bool:
        """Return whether it is one number for each row, and ends when its row does."""
        groups, spec = plan.groups, plan.specs["observation"][self.key]
        return len(groups) == 1 and groups[0].done == DONE and groups[0].shape == spec.shape

    def write(
        self, steps: TensorDictBase, first: Entries, root: Entries, *, reset_at_end: bool
    ) -> None:
        """Write the sums before and after each step, and that of the root that follows."""
        outcomes = steps.get("next")
        ends = outcomes.get(DONE)  # [*B, T, 1]
        if self.source is None:
            added = torch.ones_like(ends, dtype=torch.int64)
        else:
            added = outcomes.get(self.source)
        before, after = running_sum(first[self.key], added, ends)
        steps.set(self.key, before)
        outcomes.set(self.key, after)
        total = after[..., -1, :]
        over = ends[..., -1, :] & reset_at_end
        root.set(self.key, total.masked_fill(over, 0))


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
