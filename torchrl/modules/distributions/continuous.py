"""Distributions over vectors of real numbers, most of them bounded as actuators are.

``*B`` batch dimensions, ``A`` actions. A "range" is ``[low, high]``: numbers or tensors ``[A]``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Size, Tensor
from torch import distributions as d
from torch.distributions import constraints
from torch.nn.functional import softplus

from torchrl._core.errors import describe
from torchrl._core.legacy import old_keywords
from torchrl.modules.distributions.quadrature import tanh_moment

Bound = float | Tensor
Shape = Size | list[int] | tuple[int, ...]
LOG_2 = math.log(2.0)
LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


def squash_loc(loc: Tensor, upscale: Bound) -> Tensor:
    """Keep a location within ``upscale`` of zero, smoothly: ``upscale * tanh(loc / upscale)``."""
    return (loc / upscale).tanh() * upscale


def as_pair(loc: Tensor, scale: Tensor | float) -> Sequence[Tensor]:
    """Return both parameters as tensors of one shape."""
    if not isinstance(scale, Tensor):
        return loc, torch.full_like(loc, scale)
    if loc.shape == scale.shape:
        return loc, scale
    return torch.broadcast_tensors(loc, scale)


def same_kind(bound: Bound, like: Tensor) -> Bound:
    """Return a bound as a number, or as a tensor of the dtype and device of ``like``."""
    return bound.to(like) if isinstance(bound, Tensor) else float(bound)


def keep_inside(value: Tensor, low: Bound, high: Bound) -> Tensor:
    """Clamp values to the range less one machine precision of its half-width at each end."""
    margin = torch.finfo(value.dtype).eps * (high - low) / 2
    return value.clamp(low + margin, high - margin)  # type: ignore[arg-type]  # both tensors or both numbers


def check_range(owner: object, low: Bound, high: Bound) -> None:
    """Raise :class:`ValueError` unless numbers ``low < high``; tensors are trusted, to be fast."""
    if not (isinstance(low, Tensor) or isinstance(high, Tensor) or low < high):
        raise ValueError(
            describe(owner, "has an empty range", expected="low < high", found=(low, high))
        )


class IndependentNormal(d.Independent):
    """A diagonal normal distribution over vectors: log-probabilities are summed.

    Args:
        loc: Mean ``[*B, A]``.
        scale: Standard deviation ``[*B, A]``, or a number.
        upscale: Bound of the location where ``tanh_loc`` is set.
        tanh_loc: Keep the location within ``upscale`` of zero, smoothly.
        event_dim: How many last dimensions make one event.
        **kwargs: Of :class:`torch.distributions.Normal`; arguments are not validated by default.

    >>> dist = IndependentNormal(torch.zeros(4, 2), torch.ones(4, 2))
    >>> dist.rsample().shape, dist.log_prob(torch.zeros(4, 2)).shape
    (torch.Size([4, 2]), torch.Size([4]))
    """

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor | float,
        upscale: Bound = 5.0,
        tanh_loc: bool = False,
        event_dim: int = 1,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("validate_args", False)
        self.upscale, self.tanh_loc = upscale, tanh_loc
        if tanh_loc:
            loc = squash_loc(loc, upscale)
        super().__init__(d.Normal(loc, scale, **kwargs), event_dim, validate_args=False)

    @property
    def loc(self) -> Tensor:
        """The mean ``[*B, A]``."""
        return self.base_dist.loc

    @property
    def scale(self) -> Tensor:
        """The standard deviation ``[*B, A]``."""
        return self.base_dist.scale

    @property
    def deterministic_sample(self) -> Tensor:
        """The mean, which is the mode."""
        return self.base_dist.loc

    def expand(self, batch_shape: Shape, _instance: Any = None) -> IndependentNormal:
        """Return the distribution with the batch shape ``batch_shape``."""
        new: Any = super().expand(batch_shape, IndependentNormal.__new__(IndependentNormal))
        new.upscale, new.tanh_loc = self.upscale, self.tanh_loc
        return new

    def update(self, loc: Tensor, scale: Tensor) -> None:
        """Replace the parameters; the shapes stay."""
        self.base_dist.loc = squash_loc(loc, self.upscale) if self.tanh_loc else loc
        self.base_dist.scale = scale


class TanhNormal(d.Distribution):
    r"""A normal distribution squashed into a range by a hyperbolic tangent.

    .. math:: y = m + h \tanh(x), \quad x \sim N(\mu, \sigma), \quad
        \log p(y) = \log N(x) - \log(1 - \tanh^2 x) - \log h

    with the middle :math:`m` and half the width :math:`h` of the range. ``log_prob`` works on the
    distances of a value to both bounds, so it keeps its precision next to them and is finite on
    them; a sample is best scored with it, by :meth:`rsample_and_log_prob`, which still knows
    :math:`x`. There is no closed form of the entropy: ``entropy`` raises.

    Args:
        loc: Location before the squashing, ``[*B, A]``.
        scale: Standard deviation before the squashing, ``[*B, A]``, or a number.
        upscale: Bound of the location where ``tanh_loc`` is set.
        low: Lower end of the range; the old name ``min`` is understood.
        high: Upper end of the range; the old name ``max`` is understood.
        event_dims: How many last dimensions make one event; 1, or 0 where ``loc`` has no dimension.
        tanh_loc: Keep the location within ``upscale`` of zero, smoothly.
        safe_tanh: Keep samples off the bounds by one machine precision.
        validate_args: Check the parameters, the range and the values to be scored.

    Raises:
        ValueError: if the range is empty.

    Source: Haarnoja et al., 2018, https://arxiv.org/abs/1801.01290, appendix C.

    >>> dist = TanhNormal(torch.zeros(4, 2), torch.ones(4, 2), low=-2, high=2)
    >>> action, log_prob = dist.rsample_and_log_prob()
    >>> action.shape, log_prob.shape, dist.mode[0]
    (torch.Size([4, 2]), torch.Size([4]), tensor([0., 0.]))
    """

    has_rsample = True
    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}

    @old_keywords(min="low", max="high")
    def __init__(
        self,
        loc: Tensor,
        scale: Tensor | float,
        upscale: Bound = 5.0,
        low: Bound = -1.0,
        high: Bound = 1.0,
        event_dims: int | None = None,
        tanh_loc: bool = False,
        safe_tanh: bool = True,
        validate_args: bool = False,
    ) -> None:
        check_range(self, low, high)
        self.low, self.high = same_kind(low, loc), same_kind(high, loc)
        self.half = (self.high - self.low) / 2
        self.upscale, self.tanh_loc, self.safe_tanh = upscale, tanh_loc, safe_tanh
        self.update(loc, scale)
        shape = self.loc.shape
        events = min(1, len(shape)) if event_dims is None else event_dims
        batch = len(shape) - events
        super().__init__(shape[:batch], shape[batch:], validate_args=validate_args)
        if validate_args and not bool(torch.as_tensor(self.half > 0).all()):
            raise ValueError(describe(self, "has an empty range", expected="low < high"))

    def update(self, loc: Tensor, scale: Tensor | float) -> None:
        """Replace the parameters; the range stays."""
        if self.tanh_loc:
            loc = squash_loc(loc, self.upscale)
        self.loc, self.scale = as_pair(loc, scale)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> TanhNormal:
        """Return the distribution with the batch shape ``batch_shape``."""
        shape = (*batch_shape, *self.event_shape)
        new = TanhNormal(
            self.loc.expand(shape),
            self.scale.expand(shape),
            low=self.low,
            high=self.high,
            event_dims=len(self.event_shape),
            safe_tanh=self.safe_tanh,
            validate_args=self._validate_args,
        )
        new.upscale, new.tanh_loc = self.upscale, self.tanh_loc  # of locations to come
        return new

    @property
    def support(self) -> constraints.Constraint:
        """The closed range."""
        within = constraints.interval(self.low, self.high)
        return constraints.independent(within, len(self.event_shape))

    @property
    def base_dist(self) -> d.Independent:
        """The normal distribution before the squashing."""
        normal = d.Normal(self.loc, self.scale, validate_args=False)
        return d.Independent(normal, len(self.event_shape), validate_args=False)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Draw ``[*sample_shape, *B, A]``, differentiably."""
        return self.squash(torch.addcmul(self.loc, self.scale, self._noise(sample_shape)))

    def rsample_and_log_prob(self, sample_shape: Shape = ()) -> tuple[Tensor, Tensor]:
        """Draw and score in one go; exact even where the squashing saturates.

        Returns: samples ``[*sample_shape, *B, A]``, log-probabilities ``[*sample_shape, *B]``.
        """
        noise = self._noise(sample_shape)
        x = torch.addcmul(self.loc, self.scale, noise)
        return self.squash(x), self._log_density_before(x, noise)

    def sample_and_log_prob(self, sample_shape: Shape = ()) -> tuple[Tensor, Tensor]:
        """Do the same as :meth:`rsample_and_log_prob`, with no gradient through the samples."""
        with torch.no_grad():
            x = torch.addcmul(self.loc, self.scale, self._noise(sample_shape))
            value = self.squash(x)
        return value, self._log_density_before(x, (x - self.loc) / self.scale)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density ``[*B]`` of values ``[*B, A]`` within the range."""
        if self._validate_args:
            self._validate_sample(value)
        log_below, log_above = self._log_gaps(value)
        x = (log_below - log_above) / 2  # artanh
        return self._log_density((x - self.loc) / self.scale, log_below + log_above)

    def cdf(self, value: Tensor) -> Tensor:
        """Return the probability of each component of lying below ``value [*B, A]``."""
        log_below, log_above = self._log_gaps(value)
        return torch.special.ndtr(((log_below - log_above) / 2 - self.loc) / self.scale)

    def icdf(self, value: Tensor) -> Tensor:
        """Return the quantiles of each component at the probabilities ``value [*B, A]``."""
        return self.squash(self.loc + self.scale * torch.special.ndtri(value))

    @property
    def mode(self) -> Tensor:
        """Image of the mode of the normal, in the range; the median too."""
        return self.squash(self.loc)

    deterministic_sample = mode
    median = mode

    @property
    def mean(self) -> Tensor:
        """The mean, by quadrature: right to 1e-4 of half the width of the range."""
        return self._scaled(tanh_moment(self.loc, self.scale, 1))

    @property
    def variance(self) -> Tensor:
        """The variance of each component, by quadrature."""
        first = tanh_moment(self.loc, self.scale, 1)
        return (tanh_moment(self.loc, self.scale, 2) - first.square()).clamp_min(0) * self.half**2

    def squash(self, x: Tensor) -> Tensor:
        """Map real numbers into the range."""
        value = self._scaled(x.tanh())
        return keep_inside(value, self.low, self.high) if self.safe_tanh else value

    def _scaled(self, squashed: Tensor) -> Tensor:
        middle = (self.low + self.high) / 2
        if isinstance(middle, float) and middle == 0.0:
            return squashed if self.half == 1.0 else squashed * self.half
        return squashed * self.half + middle

    def _noise(self, sample_shape: Shape) -> Tensor:
        shape = (*sample_shape, *self.loc.shape)
        return torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)

    def _log_gaps(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logarithms of ``1 + tanh(x)`` and ``1 - tanh(x)``."""
        # A difference of close numbers is exact where 1 - value / half has lost its digits.
        least = torch.finfo(value.dtype).eps / 2
        below = ((value - self.low) / self.half).clamp_min(least)
        above = ((self.high - value) / self.half).clamp_min(least)
        return below.log(), above.log()

    def _log_density_before(self, x: Tensor, noise: Tensor) -> Tensor:
        """Return the log-density of ``squash(x)`` where ``x = loc + scale * noise``."""
        # log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2 x)), which never overflows
        return self._log_density(noise, x + softplus(-2 * x), -2.0, 2.0 * LOG_2)

    def _log_density(
        self, noise: Tensor, slope: Tensor, factor: float = 1.0, offset: float = 0.0
    ) -> Tensor:
        """Return the log-density where ``log(1 - tanh(x)^2) = factor * slope + offset``."""
        surprise = torch.addcmul(self.scale.log(), noise, noise, value=0.5)
        surprise = surprise.add(slope, alpha=factor)
        constant = LOG_SQRT_2PI + offset
        if isinstance(self.half, Tensor):
            surprise = surprise + self.half.log()
        else:
            constant += math.log(self.half)
        events = len(self._event_shape)
        if events == 0:
            return torch.rsub(surprise, -constant)
        size = math.prod(self._event_shape)
        return torch.rsub(surprise.sum(tuple(range(-events, 0))), -constant * size)


class TruncatedNormal(d.Distribution):
    """A normal distribution restricted to a range; log-probabilities are summed over the last dim.

    Args:
        loc: Location of the normal before the restriction, ``[*B, A]``.
        scale: Its standard deviation ``[*B, A]``, or a number.
        upscale: Bound of the location where ``tanh_loc`` is set.
        low: Lower end of the range; the old name ``min`` is understood.
        high: Upper end of the range; the old name ``max`` is understood.
        tanh_loc: Keep the location within ``upscale`` of zero, smoothly.

    Raises:
        ValueError: if the range is empty.

    Source: Burkardt, 2014, The Truncated Normal Distribution.

    >>> dist = TruncatedNormal(torch.zeros(4, 2), torch.ones(4, 2), low=0.0, high=1.0)
    >>> sample = dist.rsample()
    >>> bool(((sample >= 0) & (sample <= 1)).all()), dist.log_prob(sample).shape
    (True, torch.Size([4]))
    """

    has_rsample = True
    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}

    @old_keywords(min="low", max="high")
    def __init__(
        self,
        loc: Tensor,
        scale: Tensor | float,
        upscale: Bound = 5.0,
        low: Bound = -1.0,
        high: Bound = 1.0,
        tanh_loc: bool = False,
        validate_args: bool = False,
    ) -> None:
        check_range(self, low, high)
        self.low, self.high = same_kind(low, loc), same_kind(high, loc)
        self.upscale, self.tanh_loc = upscale, tanh_loc
        self.update(loc, scale)
        shape = self.loc.shape
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    def update(self, loc: Tensor, scale: Tensor | float) -> None:
        """Replace the parameters; the range stays."""
        if self.tanh_loc:
            loc = squash_loc(loc, self.upscale)
        self.loc, self.scale = as_pair(loc, scale)
        # Where the whole range lies above the location, mirror it: the normal tail is
        # representable below zero (1e-30) and not above (1 - 1e-30).
        self._mirror = torch.where((self.low + self.high) / 2 > self.loc, -1.0, 1.0).to(loc.dtype)
        alpha, beta = (self.low - self.loc) / self.scale, (self.high - self.loc) / self.scale
        mirrored = self._mirror < 0
        self._alpha = torch.where(mirrored, -beta, alpha)
        self._beta = torch.where(mirrored, -alpha, beta)
        log_below, log_within = log_ndtr(self._alpha), log_ndtr(self._beta)
        self._log_mass = log_within + torch.log1p(-(log_below - log_within).exp())

    def expand(self, batch_shape: Shape, _instance: Any = None) -> TruncatedNormal:
        """Return the distribution with the batch shape ``batch_shape``."""
        shape = (*batch_shape, *self.event_shape)
        loc, scale, validate = self.loc.expand(shape), self.scale.expand(shape), self._validate_args
        new = TruncatedNormal(loc, scale, low=self.low, high=self.high, validate_args=validate)
        new.upscale, new.tanh_loc = self.upscale, self.tanh_loc  # of locations to come
        return new

    @property
    def support(self) -> constraints.Constraint:
        """The closed range."""
        return constraints.independent(constraints.interval(self.low, self.high), 1)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Draw ``[*sample_shape, *B, A]`` by inversion, differentiably."""
        shape = (*sample_shape, *self.loc.shape)
        return self.icdf(torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device))

    def icdf(self, value: Tensor) -> Tensor:
        """Return the quantiles of each component at the probabilities ``value [*B, A]``."""
        below = torch.special.ndtr(self._alpha)
        share = torch.where(self._mirror < 0, 1 - value, value)
        tiny = torch.finfo(value.dtype).tiny
        mass = (below + share * self._log_mass.exp()).clamp(tiny, 1 - torch.finfo(value.dtype).eps)
        return self._within(self._mirror * torch.special.ndtri(mass) * self.scale + self.loc)

    def cdf(self, value: Tensor) -> Tensor:
        """Return the probability of each component of lying below ``value [*B, A]``."""
        x = self._mirror * (value - self.loc) / self.scale
        share = (torch.special.ndtr(x) - torch.special.ndtr(self._alpha)) / self._log_mass.exp()
        return torch.where(self._mirror < 0, 1 - share, share).clamp(0, 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density ``[*B]`` of values ``[*B, A]``: minus infinity out of range."""
        if self._validate_args:
            self._validate_sample(value)
        noise = (value - self.loc) / self.scale
        density = -noise.square() / 2 - LOG_SQRT_2PI - self.scale.log() - self._log_mass
        outside = (value < self.low) | (value > self.high)
        return density.masked_fill(outside, -math.inf).sum(-1)

    def entropy(self) -> Tensor:
        """Return the entropy ``[*B]`` in nats."""
        second = self._tails()[1]
        return (LOG_SQRT_2PI + 0.5 + self.scale.log() + self._log_mass + second / 2).sum(-1)

    @property
    def mean(self) -> Tensor:
        """The mean ``[*B, A]``."""
        mean = self.loc + self._mirror * self.scale * self._tails()[0]
        return self._within(mean)  # far from the location, the sum has lost its digits

    deterministic_sample = mean

    @property
    def variance(self) -> Tensor:
        """The variance of each component."""
        first, second = self._tails()
        return self.scale.square() * (1 + second - first.square()).clamp_min(0)

    @property
    def mode(self) -> Tensor:
        """The location, or the end of the range next to it."""
        return self._within(self.loc)

    def _within(self, value: Tensor) -> Tensor:
        return value.clamp_min(self.low).clamp_max(self.high)  # one may be a number

    def _tails(self) -> tuple[Tensor, Tensor]:
        """Return ``(p(a) - p(b)) / Z`` and ``(a p(a) - b p(b)) / Z`` of the mirrored range."""
        alpha = (-self._alpha.square() / 2 - LOG_SQRT_2PI - self._log_mass).exp()
        beta = (-self._beta.square() / 2 - LOG_SQRT_2PI - self._log_mass).exp()
        return alpha - beta, self._alpha * alpha - self._beta * beta


def log_ndtr(x: Tensor) -> Tensor:
    """Return the logarithm of the normal distribution function."""
    return torch.special.log_ndtr(x)


@d.register_kl(TanhNormal, TanhNormal)
def _kl_tanh_normal(p: TanhNormal, q: TanhNormal) -> Tensor:
    same = torch.as_tensor(p.low == q.low) & torch.as_tensor(p.high == q.high)
    if not bool(same.all()):
        raise NotImplementedError("KL(TanhNormal, TanhNormal) needs two equal ranges.")
    return d.kl_divergence(p.base_dist, q.base_dist)  # an invertible map keeps it
