"""`Unbounded`: any numbers of a dtype."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchrl._core.devices import check_devices
from torchrl.data.tensor_specs.base import Op, TensorSpec
from torchrl.data.tensor_specs.bounded import check_domain, draw_integers_between, is_continuous, limits
from torchrl.data.tensor_specs.helpers import DeviceLike
from torchrl.data.tensor_specs.spaces import ContinuousBox


class Unbounded(TensorSpec):
    """Any numbers of some dtype.

    ``Unbounded(...)`` is an :class:`UnboundedContinuous` if its dtype is a float, else an
    :class:`UnboundedDiscrete`; these two differ in nothing but the default dtype. Floats are drawn
    from a standard normal distribution, integers uniformly from all there are. NaN is a member.

    Args:
        shape: Shape ``[*S]``; ``-1`` is a size that varies.
        device: Where values live.
        dtype: Dtype of values; torch's default if ``None``.
        domain: ``"continuous"`` or ``"discrete"``; must agree with the dtype.

    Raises:
        DTypeError: if domain and dtype contradict each other.

    >>> spec = Unbounded((3, 4))
    >>> spec.rand((2,)).shape, spec.is_in(torch.zeros(3, 5))
    (torch.Size([2, 3, 4]), False)
    """

    space: ContinuousBox
    _default_domain: str | None = None

    def __new__(
        cls,
        shape: Sequence[int] | int = (1,),
        device: DeviceLike = None,
        dtype: torch.dtype | None = None,
        domain: str | None = None,
    ) -> Unbounded:
        """Choose the class by the dtype."""
        if cls is Unbounded:
            discrete = not is_continuous(_unbounded_dtype(dtype, domain))
            return super().__new__(UnboundedDiscrete if discrete else UnboundedContinuous)
        return super().__new__(cls)

    def __init__(
        self,
        shape: Sequence[int] | int = (1,),
        device: DeviceLike = None,
        dtype: torch.dtype | None = None,
        domain: str | None = None,
    ) -> None:
        check_devices(self, device=device)
        domain = domain or self._default_domain
        dtype = _unbounded_dtype(dtype, domain)
        check_domain(self, dtype, domain)
        domain = "continuous" if is_continuous(dtype) else "discrete"
        super().__init__(shape, None, device, dtype, domain)
        low, high = limits(dtype)
        self.space = ContinuousBox(
            torch.tensor(low, dtype=dtype, device=self._device).expand(self._draw_shape),
            torch.tensor(high, dtype=dtype, device=self._device).expand(self._draw_shape),
        )
        self._ends = (int(low), int(high)) if domain == "discrete" else None

    def _rand(self, size: torch.Size) -> Tensor:
        if self._ends is None:
            return torch.randn(size, dtype=self.dtype, device=self._device)
        assert self.dtype is not None
        return draw_integers_between(*self._ends, size, self.dtype, self._device)

    def _contains(self, val: Tensor) -> bool:
        return True

    def _project(self, val: Tensor) -> Tensor:
        return val

    def _reshape(self, op: Op) -> Unbounded:
        return self._derive(op, space=ContinuousBox(op(self.space.low), op(self.space.high)))

    def _to_dtype(self, dtype: torch.dtype) -> Unbounded:
        return Unbounded(self.shape, self._device, dtype)


class UnboundedContinuous(Unbounded):
    """Any floats: :class:`Unbounded` with a float dtype.

    >>> UnboundedContinuous().shape
    torch.Size([1])
    """

    _default_domain = "continuous"


class UnboundedDiscrete(Unbounded):
    """Any integers: :class:`Unbounded` with dtype int64 by default.

    >>> UnboundedDiscrete((2,)).dtype
    torch.int64
    """

    _default_domain = "discrete"


def _unbounded_dtype(dtype: torch.dtype | None, domain: str | None) -> torch.dtype:
    if dtype is not None:
        return dtype
    return torch.int64 if domain == "discrete" else torch.get_default_dtype()
