"""`Bounded`: numbers, real or integer, between two bounds; random numbers of these ranges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from torchrl._core.devices import check_devices
from torchrl._core.errors import DTypeError, ShapeError, SpecError, describe
from torchrl._core.legacy import old_keywords
from torchrl.data.tensor_specs.base import Op, TensorSpec
from torchrl.data.tensor_specs.helpers import DeviceLike, all_combinations, as_size, drawable, to_tensor
from torchrl.data.tensor_specs.spaces import NARROW_UNSIGNED, ContinuousBox

Bound = float | int | Tensor | np.ndarray | Sequence[float]


class Bounded(TensorSpec):
    """Numbers between ``low`` and ``high``, both included, elementwise.

    ``Bounded(...)`` is a :class:`BoundedContinuous` if its dtype is a float, else a
    :class:`BoundedDiscrete`; these two differ in nothing but the default dtype.

    Drawing is uniform between finite bounds. Beyond a lone finite bound the distance to it is
    exponential with mean one, and a number without bounds is standard normal. Projecting clamps;
    NaN becomes the member closest to zero.

    Args:
        low: Lower bound, broadcast to ``shape``; may be ``-inf``.
        high: Upper bound, broadcast to ``shape``; may be ``inf``.
        shape: Shape ``[*S]``; that of the bounds if ``None``. ``-1`` is a size that varies, along
            which the bounds do not.
        device: Where values live; if ``None``, the bounds' own if that is not the CPU.
        dtype: Dtype of values; the bounds' own if they are tensors or arrays, else torch's default.
        domain: ``"continuous"`` or ``"discrete"``; must agree with the dtype.

    Raises:
        SpecError: if a bound is missing, NaN or not of the dtype, or ``low`` exceeds ``high``.
        ShapeError: if a bound cannot be broadcast to ``shape``.
        DTypeError: if domain and dtype contradict each other.

    >>> spec = Bounded(-torch.ones(3), torch.ones(3))
    >>> spec.project(torch.tensor([-2.0, 0.5, 7.0]))
    tensor([-1.0000,  0.5000,  1.0000])
    >>> spec.is_in(spec.rand()), Bounded(0, 255, (2,), dtype=torch.uint8).domain
    (True, 'discrete')
    """

    space: ContinuousBox
    _default_domain: str | None = None
    _ends: tuple[float, float] | None = None  # bounds that all elements share, if they do
    _exact = False  # whether their distance is a number of the dtype
    _finite = False  # whether all bounds, and the distances between them, are finite

    @old_keywords(minimum="low", maximum="high")
    def __new__(
        cls,
        low: Bound | None = None,
        high: Bound | None = None,
        shape: Sequence[int] | int | None = None,
        device: DeviceLike = None,
        dtype: torch.dtype | None = None,
        domain: str | None = None,
    ) -> Bounded:
        """Choose the class by the dtype."""
        if cls is Bounded:
            discrete = not is_continuous(_bounded_dtype(low, high, dtype, domain))
            return super().__new__(BoundedDiscrete if discrete else BoundedContinuous)
        return super().__new__(cls)

    @old_keywords(minimum="low", maximum="high")
    def __init__(
        self,
        low: Bound | None = None,
        high: Bound | None = None,
        shape: Sequence[int] | int | None = None,
        device: DeviceLike = None,
        dtype: torch.dtype | None = None,
        domain: str | None = None,
    ) -> None:
        check_devices(self, device=device)
        if low is None or high is None:
            raise SpecError(
                describe(
                    self,
                    "needs both bounds",
                    expected="low and high",
                    found=f"low={low}, high={high}",
                    hint="Write an infinite bound as float('inf'), or use Unbounded.",
                )
            )
        domain = domain or self._default_domain
        dtype = _bounded_dtype(low, high, dtype, domain)
        check_domain(self, dtype, domain)
        low, high = _as_bound(self, low, dtype), _as_bound(self, high, dtype)
        if device is None and low.device.type != "cpu":
            device = low.device
        size = _common_size(self, low, high, shape)
        domain = "continuous" if is_continuous(dtype) else "discrete"
        super().__init__(size, None, device, dtype, domain)
        to = low.device if self._device is None else self._device
        self.space = ContinuousBox(low.to(to).expand(self._draw_shape), high.to(to).expand(self._draw_shape))
        _check_order(self)
        self._finite = not is_continuous(dtype) or bool((self.high - self.low).isfinite().all())
        self._ends = _shared_ends(self.space) if self._finite else None
        if self._ends is not None and is_continuous(dtype):
            self._exact = is_exact(*self._ends, dtype)

    @property
    def low(self) -> Tensor:
        """Lower bound ``[*S]``."""
        return self.space.low

    @property
    def high(self) -> Tensor:
        """Upper bound ``[*S]``."""
        return self.space.high

    minimum, maximum = low, high

    def _rand(self, size: torch.Size) -> Tensor:
        dtype, device = self.dtype, self._device
        assert dtype is not None
        if self.domain == "discrete":
            if self._ends is None:
                return draw_integers(self.low, self.high, size)
            return draw_integers_between(*self._ends, size, dtype, device)
        if self._ends is not None:
            return draw_floats_between(*self._ends, size, dtype, device, self._exact)
        draw_floats = draw_finite_floats if self._finite else draw_any_floats
        return draw_floats(self.low, self.high, size)

    def _contains(self, val: Tensor) -> bool:
        low, high = self._bounds_for(val)
        val = _comparable(val)
        return bool(((val >= low) & (val <= high)).all())

    def _project(self, val: Tensor) -> Tensor:
        if self.domain == "continuous":
            val = val.nan_to_num(0.0, math.inf, -math.inf)
            if self._ends is not None:
                return val.clamp(*self._ends)
        low, high = self._bounds_for(val)
        val = torch.minimum(torch.maximum(_comparable(val), low), high)
        return val.to(self.dtype)

    def _cast(self, val: Tensor) -> Tensor:
        if self.domain == "continuous":
            return val.to(self.dtype)
        low, high = self._bounds_for(val)
        if val.is_floating_point():
            val = val.double().nan_to_num(0.0, math.inf, -math.inf)
            least, most = limits(torch.int64)
            # float64 rounds the greatest integers up: what reaches them is set to them.
            val = torch.where(val >= float(most), most, torch.where(val <= float(least), least, val.long()))
        else:
            val = val.long()
        return torch.minimum(torch.maximum(val, low.long()), high.long()).to(self.dtype)

    def _bounds_for(self, val: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self.space
        if low.device != val.device:
            low, high = low.to(val.device), high.to(val.device)
        return _comparable(low), _comparable(high)

    def _expected(self) -> str:
        if self._ends is not None:
            return f"values from {self._ends[0]} to {self._ends[1]}"
        low, high = self.space
        if low.numel() > 8:
            low, high = _comparable(low).min(), _comparable(high).max()
        return f"values from {low.tolist()} to {high.tolist()}"

    def _reshape(self, op: Op) -> Bounded:
        space = ContinuousBox(op(self.low), op(self.high))
        ends = self._ends if space.low.numel() else None
        return self._derive(op, space=space, _ends=ends)

    def _to_dtype(self, dtype: torch.dtype) -> Bounded:
        low, high = self.space
        return Bounded(low.to(dtype), high.to(dtype), self.shape, self._device, dtype)

    def cardinality(self) -> float:
        """Return how many values there are; infinite for floats."""
        if self.domain == "continuous":
            return math.inf
        return math.prod(high - low + 1 for low, high in zip(*self._flat_bounds(), strict=True))

    def enumerate(self, use_mask: bool = False) -> Tensor:
        """Return every value, stacked ``[N, *S]``.

        Raises:
            SpecError: if there are infinitely many.
        """
        if self.domain == "continuous":
            return super().enumerate(use_mask)
        ranges = [range(low, high + 1) for low, high in zip(*self._flat_bounds(), strict=True)]
        return all_combinations(ranges, self.dtype, self._device).reshape(-1, *self.shape)

    def _flat_bounds(self) -> tuple[list[int], list[int]]:
        return self.low.flatten().tolist(), self.high.flatten().tolist()


class BoundedContinuous(Bounded):
    """Floats between bounds: :class:`Bounded` with a float dtype by default.

    >>> BoundedContinuous(0, 1, (2,)).dtype
    torch.float32
    """

    _default_domain = "continuous"


class BoundedDiscrete(Bounded):
    """Integers between bounds, both included: :class:`Bounded` with dtype int64 by default.

    >>> BoundedDiscrete(1, 6).cardinality()
    6
    """

    _default_domain = "discrete"


def _bounded_dtype(low: Bound | None, high: Bound | None, dtype: torch.dtype | None, domain: str | None) -> torch.dtype:
    if dtype is not None:
        return dtype
    own = [_own_dtype(bound) for bound in (low, high)]
    found = [d for d in own if d is not None]
    default = torch.int64 if domain == "discrete" else torch.get_default_dtype()
    if not found:
        return default
    common = found[0] if len(found) == 1 else torch.promote_types(*found)
    return default if domain == "continuous" and not is_continuous(common) else common


def _own_dtype(bound: Bound | None) -> torch.dtype | None:
    if isinstance(bound, Tensor):
        return bound.dtype
    if isinstance(bound, np.ndarray | np.generic):
        return torch.from_numpy(np.empty(0, bound.dtype)).dtype
    return None


def check_domain(who: TensorSpec, dtype: torch.dtype, domain: str | None) -> None:
    """Raise :class:`SpecError` if ``domain`` contradicts the dtype."""
    own = "continuous" if is_continuous(dtype) else "discrete"
    if domain not in (None, own):
        raise DTypeError(
            describe(
                who,
                f"is {domain}, and its dtype is not",
                expected=f"a dtype that is {domain}",
                found=dtype,
                hint="Leave out one of the two.",
            )
        )


def _as_bound(who: TensorSpec, bound: Bound, dtype: torch.dtype) -> Tensor:
    """Return a bound in a dtype; for integers, an infinite one is the dtype's limit."""
    raw = to_tensor(bound, None)
    if is_continuous(dtype):
        cast = raw.to(dtype)
        wrong = cast.isnan()
    else:
        raw = raw.double() if is_continuous(raw.dtype) else raw.long()
        cast, (least, most) = raw.to(dtype), limits(dtype)
        cast = torch.where(raw == math.inf, torch.tensor(most, dtype=dtype), cast)
        cast = torch.where(raw == -math.inf, torch.tensor(least, dtype=dtype), cast)
        wrong = (cast.to(raw.dtype) != raw) & ~raw.isinf()
    if bool(wrong.any()):
        raise SpecError(
            describe(
                who,
                "has a bound that its dtype cannot express",
                expected=f"numbers of {dtype}",
                found=raw.tolist() if raw.numel() <= 8 else "others among the bounds",
                hint="Fix the bound, or choose another dtype.",
            )
        )
    return cast


def _common_size(who: TensorSpec, low: Tensor, high: Tensor, shape: Sequence[int] | int | None) -> torch.Size:
    try:
        if shape is None:
            return torch.broadcast_shapes(low.shape, high.shape)
        size = as_size(shape)
        low.expand(drawable(size)), high.expand(drawable(size))
    except RuntimeError:
        raise ShapeError(
            describe(
                who,
                "has bounds that do not fit its shape",
                expected="bounds that broadcast to one shape" if shape is None else list(size),
                found=f"low {list(low.shape)} and high {list(high.shape)}",
                hint="Give both bounds the shape of a value, or make them numbers.",
            )
        ) from None
    return size


def _check_order(spec: Bounded) -> None:
    low, high = _comparable(spec.low), _comparable(spec.high)
    if bool((low > high).any()):
        raise SpecError(
            describe(
                spec,
                "has a lower bound above its upper bound",
                expected="low <= high everywhere",
                found=f"low up to {(low - high).max().item()} above high",
                hint="Swap the bounds?",
            )
        )


def _shared_ends(space: ContinuousBox) -> tuple[float, float] | None:
    """Return the bounds of every element if all are the same and a draw between them is simple."""
    low, high = map(_comparable, space)
    if not low.numel():
        return None
    ends = low.flatten()[0], high.flatten()[0]
    if not bool((low == ends[0]).all() & (high == ends[1]).all()):
        return None
    return ends[0].item(), ends[1].item()


def _comparable(tensor: Tensor) -> Tensor:
    return tensor.long() if tensor.dtype in NARROW_UNSIGNED else tensor


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
    low: float, high: float, size: torch.Size, dtype: torch.dtype, device: torch.device | None, exact: bool = False
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
