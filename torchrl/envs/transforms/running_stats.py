"""Mean and variance of what was seen so far."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn


def merge_moments(
    loc: Tensor, var: Tensor, weight: Tensor, batch_loc: Tensor, batch_var: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Return mean and variance of a mixture: what was known, and a batch of weight ``weight``.

    Args:
        loc: Mean ``[*S]``.
        var: Variance ``[*S]``.
        weight: Share of the batch, between 0 and 1, broadcast to ``[*S]``.
        batch_loc: Mean of the batch.
        batch_var: Variance of the batch.

    Source: Chan et al., 1979, "Updating formulae and a pairwise algorithm".

    >>> half = torch.tensor(0.5)
    >>> merge_moments(torch.tensor(0.0), torch.tensor(0.0), half, torch.tensor(2.0), 0.0)
    (tensor(1.), tensor(1.))
    """
    gap = batch_loc - loc
    spread = (1 - weight) * (var + weight * gap.square()) + weight * batch_var
    return loc + weight * gap, spread


def frozen_deviation(loc: Tensor, var: Tensor, eps: float) -> Tensor:
    """Return what to divide by, from statistics that do not follow the data any more.

    The deviation, at least ``eps``; 1 where it is zero up to rounding: what never changed, or was
    never seen, is only shifted.

    >>> frozen_deviation(torch.zeros(2), torch.tensor([0.0, 4.0]), 1e-4)
    tensor([1., 2.])
    """
    std = var.sqrt()
    return std.clamp_min(eps).masked_fill(std <= 1e-12 * loc.abs(), 1.0)


class RunningMeanStd(nn.Module):
    """Mean and standard deviation of all that was seen.

    Args:
        shape: Shape ``[*S]`` of a sample.
        epsilon: Weight of the first guess, mean 0 and variance 1, in samples.

    >>> stats = RunningMeanStd(epsilon=0.0)
    >>> stats.update(torch.tensor([1.0, 3.0]))
    >>> stats.mean.item(), stats.std.item()
    (2.0, 1.0)
    """

    mean: Tensor
    var: Tensor
    count: Tensor
    is_shared = False
    lock: Any = None  # held while the statistics change, if several processes share them

    def __init__(self, shape: Sequence[int] = (), epsilon: float = 1e-4) -> None:
        super().__init__()
        shape = tuple(shape)
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("var", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(epsilon, dtype=torch.float64))

    @property
    def std(self) -> Tensor:
        """Standard deviation ``[*S]``."""
        return self.var.sqrt()

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Take samples ``[*N, *S]`` into account."""
        x = x.reshape(-1, *self.mean.shape).to(self.mean)
        if len(x):
            var, loc = torch.var_mean(x, 0, correction=0)
            with self.lock or nullcontext():
                self.count += len(x)
                moments = merge_moments(self.mean, self.var, len(x) / self.count, loc, var)
                self.mean.copy_(moments[0])
                self.var.copy_(moments[1])

    def normalize(self, x: Tensor, clip: float | None = None) -> Tensor:
        """Return ``(x - mean) / std``, clamped to ``[-clip, clip]``."""
        out = ((x - self.mean) / self.std.clamp_min(1e-8)).to(x.dtype)
        return out if clip is None else out.clamp(-clip, clip)
