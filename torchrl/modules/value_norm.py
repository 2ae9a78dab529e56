"""Normalisers of value targets: a critic predicts in units that stay near one.

``M`` values seen at once, ``F`` the shape of one of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchrl._core.devices import check_devices
from torchrl._core.errors import ShapeError, describe

__all__ = ["PercentileValueNorm", "PopArtValueNorm", "RunningValueNorm", "ValueNorm"]


class ValueNorm(nn.Module, ABC):
    """Base class of affine maps to normalised values, fitted to the values of ``update``.

    Its statistics are buffers: they move and are saved with the loss that holds it.

    Args:
        shape: Shape ``F`` of one value, each entry of which has its own statistics.
        epsilon: Lower bound of the variance.
        device: Where the statistics live.

    Hooks:
        observe: ``[M, F] ->`` nothing; update the statistics.
        location_and_scale: ``-> ([F], [F])``, what is subtracted and what is divided by.

    >>> class Scale(ValueNorm):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.register_buffer("scale", torch.ones(1))
    ...
    ...     def observe(self, value):
    ...         self.scale.copy_(value.abs().max())
    ...
    ...     def location_and_scale(self):
    ...         return torch.zeros(1), self.scale
    >>> norm = Scale()
    >>> norm.update(torch.tensor([[-4.0], [2.0]]))
    >>> norm.normalize(torch.tensor([2.0]))
    tensor([0.5000])
    """

    def __init__(
        self, *, shape: int | Sequence[int] = 1, epsilon: float = 1e-5, device: torch.device | str | None = None
    ) -> None:
        check_devices(self, device=device)
        super().__init__()
        self.shape = torch.Size([shape] if isinstance(shape, int) else shape)
        self.epsilon, self._device = epsilon, device

    @torch.no_grad()
    def update(self, value: Tensor) -> None:
        """Update the statistics with values ``[..., F]``."""
        if value.shape[value.ndim - len(self.shape) :] != self.shape:
            raise ShapeError(
                describe(
                    self,
                    "got values of another shape",
                    expected=f"[..., {', '.join(map(str, self.shape))}]",
                    found=list(value.shape),
                    hint="Give the normaliser shape=...",
                )
            )
        if value.numel():
            self.observe(value.reshape(-1, *self.shape).to(torch.float32))

    def normalize(self, value: Tensor) -> Tensor:
        """Return values ``[..., F]`` in normalised units."""
        location, scale = self.location_and_scale()
        return (value - location) / scale

    def denormalize(self, value: Tensor) -> Tensor:
        """Return normalised values ``[..., F]`` in units of the rewards."""
        location, scale = self.location_and_scale()
        return value * scale + location

    @abstractmethod
    def observe(self, values: Tensor) -> None: ...

    @abstractmethod
    def location_and_scale(self) -> tuple[Tensor, Tensor]: ...

    def _statistic(self, name: str, size: torch.Size | Sequence[int]) -> None:
        self.register_buffer(name, torch.zeros(size, device=self._device))


class PopArtValueNorm(ValueNorm):
    """Normalise by mean and deviation of recent values, weighted exponentially.

    The averages are corrected for their start at zero, as those of Adam.

    Args:
        shape: See :class:`ValueNorm`.
        beta: Weight of the old average in each update.
        epsilon: See :class:`ValueNorm`.
        device: See :class:`ValueNorm`.

    Source: van Hasselt et al., 2016, https://arxiv.org/abs/1602.07714, eq. 3; the output layer is
        left as it is, as by Yu et al., 2022, https://arxiv.org/abs/2103.01955.

    >>> norm = PopArtValueNorm()
    >>> norm.update(torch.tensor([[10.0], [30.0]]))
    >>> norm.normalize(torch.tensor([30.0])), norm.denormalize(torch.tensor([1.0]))
    (tensor([1.]), tensor([30.]))
    """

    mean: Tensor
    mean_square: Tensor
    weight: Tensor

    def __init__(
        self,
        *,
        shape: int | Sequence[int] = 1,
        beta: float = 0.99999,
        epsilon: float = 1e-5,
        device: torch.device | str | None = None,
    ) -> None:
        check_devices(self, device=device)
        super().__init__(shape=shape, epsilon=epsilon, device=device)
        self.beta = beta
        self._statistic("mean", self.shape)
        self._statistic("mean_square", self.shape)
        self._statistic("weight", ())

    def observe(self, values: Tensor) -> None:
        """Move the averages."""
        fresh = 1 - self.beta
        self.mean.lerp_(values.mean(0), fresh)
        self.mean_square.lerp_(values.square().mean(0), fresh)
        self.weight.lerp_(torch.ones_like(self.weight), fresh)

    def location_and_scale(self) -> tuple[Tensor, Tensor]:
        """Return mean and deviation; 0 and 1 before the first update."""
        seen = self.weight > 0
        weight = torch.where(seen, self.weight, 1.0)
        mean = self.mean / weight
        variance = (self.mean_square / weight - mean.square()).clamp_min(self.epsilon)
        return mean, torch.where(seen, variance.sqrt(), 1.0)


class RunningValueNorm(ValueNorm):
    """Normalise by mean and deviation of all values so far.

    Args:
        shape: See :class:`ValueNorm`.
        epsilon: See :class:`ValueNorm`.
        device: See :class:`ValueNorm`.

    Source: Chan et al., 1979, Updating formulae and a pairwise algorithm for computing sample
        variances, eq. 2.1.

    >>> norm = RunningValueNorm()
    >>> for value in (10.0, 30.0):
    ...     norm.update(torch.tensor([value]))
    >>> norm.normalize(torch.tensor([30.0]))
    tensor([1.])
    """

    mean: Tensor
    squares: Tensor
    count: Tensor

    def __init__(
        self, *, shape: int | Sequence[int] = 1, epsilon: float = 1e-5, device: torch.device | str | None = None
    ) -> None:
        check_devices(self, device=device)
        super().__init__(shape=shape, epsilon=epsilon, device=device)
        self._statistic("mean", self.shape)
        self._statistic("squares", self.shape)  # sum of squared deviations
        self._statistic("count", ())

    def observe(self, values: Tensor) -> None:
        """Merge the statistics of the new values into those of the old."""
        number, mean = len(values), values.mean(0)
        total, gap = self.count + number, mean - self.mean
        self.squares += (values - mean).square().sum(0)
        self.squares += gap.square() * self.count * number / total
        self.mean += gap * number / total
        self.count.copy_(total)

    def location_and_scale(self) -> tuple[Tensor, Tensor]:
        """Return mean and deviation; 0 and 1 before the first update."""
        variance = (self.squares / self.count.clamp_min(1)).clamp_min(self.epsilon)
        return self.mean, torch.where(self.count > 0, variance.sqrt(), 1.0)


class PercentileValueNorm(ValueNorm):
    """Divide by the range between two quantiles of recent values, which is robust to outliers.

    Args:
        shape: See :class:`ValueNorm`.
        quantiles: The lower and the upper one.
        rate: Weight of new quantiles in each update.
        min_scale: Lower bound of the range, so that small values are not amplified.
        center: Subtract the lower quantile.
        epsilon: Lower bound of the range.
        device: See :class:`ValueNorm`.

    Source: Hafner et al., 2023, https://arxiv.org/abs/2301.04104, eq. 7.

    >>> norm = PercentileValueNorm(quantiles=(0.0, 1.0), rate=1.0)
    >>> norm.update(torch.tensor([[-3.0], [1.0], [5.0]]))
    >>> norm.normalize(torch.tensor([4.0]))
    tensor([0.5000])
    """

    low: Tensor
    high: Tensor
    is_set: Tensor

    def __init__(
        self,
        *,
        shape: int | Sequence[int] = 1,
        quantiles: tuple[float, float] = (0.05, 0.95),
        rate: float = 0.01,
        min_scale: float = 1.0,
        center: bool = False,
        epsilon: float = 1e-5,
        device: torch.device | str | None = None,
    ) -> None:
        check_devices(self, device=device)
        super().__init__(shape=shape, epsilon=epsilon, device=device)
        self.quantiles, self.rate = quantiles, rate
        self.min_scale, self.center = min_scale, center
        self._statistic("low", self.shape)
        self._statistic("high", self.shape)
        self._statistic("is_set", ())

    def observe(self, values: Tensor) -> None:
        """Move the averages of both quantiles; the first values set them."""
        at = torch.tensor(self.quantiles, device=values.device)
        low, high = torch.quantile(values, at, 0)
        rate = torch.where(self.is_set > 0, self.rate, 1.0)
        self.low += rate * (low - self.low)
        self.high += rate * (high - self.high)
        self.is_set.fill_(1.0)

    def location_and_scale(self) -> tuple[Tensor, Tensor]:
        """Return the lower quantile, if centred, and the range."""
        scale = (self.high - self.low).clamp_min(max(self.min_scale, self.epsilon))
        return self.low if self.center else torch.zeros_like(self.low), scale
