"""The one formula behind scaling and normalising: ``x * scale + loc``, or its inverse."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchrl.data import Bounded, TensorSpec, Unbounded


def affine(x: Tensor, loc: Tensor, scale: Tensor, *, standard_normal: bool) -> Tensor:
    """Return ``x * scale + loc``, or ``(x - loc) / scale`` if ``standard_normal``.

    >>> affine(torch.tensor(3.0), torch.tensor(1.0), torch.tensor(2.0), standard_normal=True)
    tensor(1.)
    """
    return (x - loc) / scale if standard_normal else torch.addcmul(loc, x, scale)


def affine_spec(spec: TensorSpec, apply: Any) -> TensorSpec:
    """Return the spec of an affine image: bounds are mapped too, and integers become floats."""
    floating = spec.dtype is not None and spec.dtype.is_floating_point
    dtype = spec.dtype if floating else torch.get_default_dtype()
    if isinstance(spec, Bounded):
        ends = [apply(bound.to(dtype)) for bound in (spec.low, spec.high)]
        low, high = torch.minimum(*ends), torch.maximum(*ends)
        if not (low.isnan().any() or high.isnan().any()):
            shape = torch.broadcast_shapes(low.shape, spec.shape)
            return Bounded(low, high, shape=shape, dtype=low.dtype, device=spec.device)
    return Unbounded(spec.shape, dtype=dtype, device=spec.device)
