"""Distributions with all their mass on one point: deterministic policies among stochastic ones."""

from __future__ import annotations

import math
from typing import Any

import torch
from tensordict.nn import distributions as base
from torch import Size, Tensor

from torchrl._core.legacy import old_keywords
from torchrl.modules.distributions.continuous import (
    Bound,
    Shape,
    check_range,
    keep_inside,
    same_kind,
)


class Delta(base.Delta):
    """All the mass on one point.

    ``log_prob`` is infinite at the point and minus infinite elsewhere.

    Args:
        param: The point ``[*B, A]``.
        atol: Absolute tolerance with which ``log_prob`` tells the point.
        rtol: Relative tolerance.
        batch_shape: Shape of the batch; all dimensions but the last by default.
        event_shape: Shape of one event; the last dimension by default.

    >>> dist = Delta(torch.tensor([1.0, 2.0]))
    >>> dist.sample(), dist.log_prob(torch.tensor([1.0, 3.0]))
    (tensor([1., 2.]), tensor(-inf))
    """

    has_rsample = True

    def sample(self, sample_shape: Shape = ()) -> Tensor:  # type: ignore[override]  # tuples too
        """Return the point, ``[*sample_shape, *B, A]``, without its gradient."""
        return self.rsample(sample_shape).detach()

    def rsample(self, sample_shape: Shape = ()) -> Tensor:  # type: ignore[override]  # tuples too
        """Return the point, ``[*sample_shape, *B, A]``."""
        return self.param.expand((*sample_shape, *self.param.shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return infinity where ``value [*B, A]`` is the point, else minus infinity: ``[*B]``."""
        close = (value - self.param).abs() <= self.atol + self.rtol * self.param.abs()
        events = len(self.event_shape)
        same = close.flatten(close.ndim - events).all(-1) if events else close
        score = torch.full(same.shape, -math.inf, dtype=self.param.dtype, device=same.device)
        return score.masked_fill(same, math.inf)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> Delta:
        """Return the distribution with the batch shape ``batch_shape``."""
        shape = (*batch_shape, *self.event_shape)
        batch = Size(batch_shape)
        return Delta(self.param.expand(shape), self.atol, self.rtol, batch, self.event_shape)


class TanhDelta(Delta):
    """All the mass on ``tanh(param)``, rescaled to a range: a bounded deterministic policy.

    Args:
        param: The point before the squashing, ``[*B, A]``.
        low: Lower end of the range: a number or a tensor ``[A]``; the old name is ``min``.
        high: Upper end of the range; the old name is ``max``.
        event_dims: How many last dimensions make one event.
        atol: Absolute tolerance with which ``log_prob`` tells the point.
        rtol: Relative tolerance.
        safe: Keep the point off the bounds by one machine precision.

    Raises:
        ValueError: if the range is empty.

    >>> dist = TanhDelta(torch.zeros(4, 2), low=0.0, high=3.0)
    >>> dist.sample()[0], dist.log_prob(dist.sample())[0]
    (tensor([1.5000, 1.5000]), tensor(inf))
    """

    @old_keywords(min="low", max="high")
    def __init__(
        self,
        param: Tensor,
        low: Bound = -1.0,
        high: Bound = 1.0,
        event_dims: int = 1,
        atol: float = 1e-6,
        rtol: float = 1e-6,
        safe: bool = True,
    ) -> None:
        check_range(self, low, high)
        self.low, self.high, self.safe = same_kind(low, param), same_kind(high, param), safe
        batch = param.ndim - event_dims
        super().__init__(param, atol, rtol, param.shape[:batch], param.shape[batch:])

    def update(self, param: Tensor) -> None:
        """Replace the point before the squashing; the range stays."""
        value = param.tanh() * ((self.high - self.low) / 2) + (self.low + self.high) / 2
        self.param = keep_inside(value, self.low, self.high) if self.safe else value
