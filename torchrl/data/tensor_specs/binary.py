"""Vectors of bits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchrl._core.devices import check_devices
from torchrl._core.errors import ShapeError, SpecError, describe
from torchrl.data.tensor_specs.base import Op, TensorSpec
from torchrl.data.tensor_specs.categorical import check_last, check_n
from torchrl.data.tensor_specs.helpers import DeviceLike, Value, all_combinations, as_size, wrap_dim
from torchrl.data.tensor_specs.spaces import BinaryBox


class Binary(TensorSpec):
    """A vector of ``n`` numbers, each of them 0 or 1.

    Projecting sets what exceeds one half.

    Args:
        n: Number of bits; the last size of ``shape`` if ``None``.
        shape: Shape ``[*B, n]`` of a value; ``[]`` is a single bit.
        device: Where values live.
        dtype: Dtype of values.

    Raises:
        SpecError: if neither ``n`` nor ``shape`` is given.
        ShapeError: if the last size of ``shape`` is not ``n``.

    >>> spec = Binary(3)
    >>> spec.project(torch.tensor([0.2, 0.8, 5.0])), spec.cardinality()
    (tensor([0, 1, 1], dtype=torch.int8), 8)
    """

    space: BinaryBox

    def __init__(
        self,
        n: int | None = None,
        shape: Sequence[int] | int | None = None,
        device: DeviceLike = None,
        dtype: torch.dtype = torch.int8,
    ) -> None:
        check_devices(self, device=device)
        if shape is None:
            if n is None:
                raise SpecError(describe(self, "needs a number of bits or a shape", hint="Write Binary(n)."))
            shape = n
        size = as_size(shape)
        if n is None:
            n = size[-1] if size else 1
        else:
            check_n(self, n, provisional=False)
            if size or n != 1:
                check_last(self, size, n)
        super().__init__(size, BinaryBox(n), device, dtype, "discrete")
        self._feature_ndim = min(len(size), 1)  # single bits have no dimension of their own

    @property
    def n(self) -> int:
        """Number of bits."""
        return self.space.n

    def _rand(self, size: torch.Size) -> Tensor:
        return torch.empty(size, dtype=self.dtype, device=self._device).random_(0, 2)

    def _contains(self, val: Tensor) -> bool:
        return bool(((val == 0) | (val == 1)).all())

    def _project(self, val: Tensor) -> Tensor:
        return (val > 0.5).to(self.dtype)

    def _cast(self, val: Tensor) -> Tensor:
        return val  # _project makes the dtype

    def _expected(self) -> str:
        return "zeros and ones"

    def _reshape(self, op: Op) -> Binary:
        spec = self._derive(op)
        return spec._with(space=BinaryBox(spec.shape[-1] if spec.shape else 1))

    def unbind(self, dim: int = 0) -> tuple[Binary, ...]:
        """Return the specs of the slices of a value along a dimension before the last.

        Raises:
            ShapeError: if it is the last dimension, which holds one value.
        """
        if self._feature_ndim and wrap_dim(self, dim, len(self.shape)) == len(self.shape) - 1:
            raise ShapeError(describe(self, "cannot give up its last dimension, which holds one value", found=dim))
        return super().unbind(dim)

    def cardinality(self) -> float:
        """Return how many values there are."""
        return 2 ** self.numel()

    def enumerate(self, use_mask: bool = False) -> Value:
        """Return every value, stacked ``[N, *B, n]``."""
        values = all_combinations([range(2)] * self.numel(), self.dtype, self._device)
        return values.reshape(-1, *self.shape)
