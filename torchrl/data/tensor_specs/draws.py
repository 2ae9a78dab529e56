"""Random numbers within bounds, exact at the extremes of every dtype."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from torchrl.data.tensor_specs.spaces import NARROW_UNSIGNED

# Above this many values a float64 in [0, 1) no longer tells them apart.
_EXACT = 2.0**52


def draw_finite_floats(low: Tensor, high: Tensor, size: torch.Size) -> Tensor:
    """Draw floats ``size``, uniform between ``low [*S]`` and ``high [*S]``.

    Bounds and distances between them must be finite.
    """
    share = torch.rand(size, dtype=low.dtype, device=low.device)
    value = torch.addcmul(low, share, high - low)
    return torch.minimum(torch.maximum(value, low), high)  # rounding may step over a bound


def draw_any_floats(low: Tensor, high: Tensor, size: torch.Size) -> Tensor:
    """Draw floats ``size`` within ``low [*S]`` and ``high [*S]``, of which any may be infinite.

    Uniform between finite bounds, exponential beyond a lone one, standard normal without bounds.
    """
    has_low, has_high = low.isfinite(), high.isfinite()
    share = low.new_empty(size).uniform_()
    # Two products instead of low + share * (high - low): the difference may overflow.
    value = low * (1 - share) + high * share
    if not bool((has_low & has_high).all()):
        beyond = low.new_empty(size).exponential_()
        value = torch.where(has_low & has_high, value, low.new_empty(size).normal_())
        value = torch.where(has_low & ~has_high, low + beyond, value)
        value = torch.where(~has_low & has_high, high - beyond, value)
    return torch.minimum(torch.maximum(value, low), high)


def draw_integers(low: Tensor, high: Tensor, size: torch.Size) -> Tensor:
    """Draw integers ``size``, uniform between ``low [*S]`` and ``high [*S]``, both included."""
    dtype = low.dtype
    low, high = low.to(torch.int64), high.to(torch.int64)
    if bool((high.double() - low.double() < _EXACT).all()):
        width = high - low + 1
        share = torch.rand(size, dtype=torch.float64, device=low.device)
        return torch.minimum(low + (share * width).long(), high).to(dtype)
    seed = int(torch.randint(2**62, ()))
    bounds = low.cpu().numpy(), high.cpu().numpy()
    drawn = np.random.default_rng(seed).integers(*bounds, size=tuple(size), endpoint=True)
    return torch.as_tensor(drawn, device=low.device).to(dtype)


def draw_floats_between(
    low: float,
    high: float,
    size: torch.Size,
    dtype: torch.dtype,
    device: torch.device | None,
    exact: bool = False,
) -> Tensor:
    """Draw floats ``size``, uniform between two finite numbers whose difference is finite.

    ``exact`` is what :func:`is_exact` says of them.
    """
    drawn = torch.empty(size, dtype=dtype, device=device).uniform_(low, high)
    return drawn if exact else drawn.clamp_(low, high)


def is_exact(low: float, high: float, dtype: torch.dtype) -> bool:
    """Return whether a dtype expresses the distance between two bounds exactly.

    Rounding then never steps over a bound: a share of the distance rounds to at most the distance,
    and ``low`` plus that to at most ``high``.
    """
    rounded = (torch.tensor(high, dtype=dtype) - torch.tensor(low, dtype=dtype)).item()
    return Fraction(rounded) == Fraction(high) - Fraction(low)


def draw_integers_between(
    low: float, high: float, size: torch.Size, dtype: torch.dtype, device: torch.device | None
) -> Tensor:
    """Draw integers ``size``, uniform between two numbers, both included."""
    wide = torch.int64 if dtype in NARROW_UNSIGNED else dtype
    low, high = int(low), int(high)
    end = None if high == limits(wide)[1] else high + 1  # the greatest integer has no successor
    return torch.empty(size, dtype=wide, device=device).random_(low, end).to(dtype)


def limits(dtype: torch.dtype) -> tuple[float, float]:
    """Return the least and the greatest finite number of a dtype.

    >>> limits(torch.uint8), limits(torch.bool)
    ((0, 255), (0, 1))
    """
    if dtype == torch.bool:
        return 0, 1
    info = torch.finfo(dtype) if is_continuous(dtype) else torch.iinfo(dtype)
    return info.min, info.max


def is_continuous(dtype: torch.dtype) -> bool:
    """Return whether a dtype is of floats or complex numbers."""
    return dtype.is_floating_point or dtype.is_complex
