"""Specs of functions of entries, derived from the spec of the entry and the function."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from torchrl.data import Binary, Bounded, Categorical, OneHot, TensorSpec, Unbounded

Function = Callable[[Tensor], Tensor]


def rearranged(spec: TensorSpec, function: Function) -> TensorSpec:
    """Return the spec of entries whose elements ``function`` rearranges.

    >>> rearranged(Bounded(0.0, 1.0, (2, 3)), lambda x: x.flatten(-2)).shape
    torch.Size([6])
    """
    if isinstance(spec, Bounded):
        low, high = function(spec.low), function(spec.high)
        return Bounded(low, high, shape=low.shape, dtype=spec.dtype, device=spec.device)
    shape, dtype = function(spec.zero()).shape, spec.dtype or torch.int64
    if isinstance(spec, Categorical) and spec.mask is None:
        return Categorical(spec.n, shape, spec.device, dtype)
    if isinstance(spec, OneHot) and shape[-1:] == spec.shape[-1:]:
        return OneHot(spec.n, shape, spec.device, dtype)
    if isinstance(spec, OneHot | Binary):
        return Binary(shape=shape, device=spec.device, dtype=dtype)
    return Unbounded(shape, device=spec.device, dtype=spec.dtype)


def monotone(spec: TensorSpec, function: Function) -> TensorSpec:
    """Return the spec of the output of a monotone function.

    >>> monotone(Bounded(-4.0, 9.0, (2,)), torch.sign).high
    tensor([1., 1.])
    """
    if isinstance(spec, Bounded):
        low, high = function(spec.low), function(spec.high)
        return Bounded(low, high, shape=low.shape, dtype=low.dtype, device=spec.device)
    image = function(spec.zero())
    return Unbounded(image.shape, dtype=image.dtype, device=spec.device)


def unbounded_image(spec: TensorSpec, function: Function) -> TensorSpec:
    """Return an unbounded spec of the shape and dtype that ``function`` returns."""
    image = function(spec.zero())
    return Unbounded(image.shape, dtype=image.dtype, device=image.device)


def clamped(spec: TensorSpec, low: float | None, high: float | None) -> TensorSpec:
    """Return the spec of numbers clamped between ``low`` and ``high``, where given.

    >>> clamped(Bounded(-4.0, 0.5, (2,)), -1.0, 1.0).low
    tensor([-1., -1.])
    """
    if isinstance(spec, Bounded):
        least, most = spec.low.clamp(low, high), spec.high.clamp(low, high)
    else:
        dtype = spec.dtype or torch.get_default_dtype()
        limits = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
        least = torch.full(spec.shape, limits.min, dtype=dtype, device=spec.device)
        most = torch.full(spec.shape, limits.max, dtype=dtype, device=spec.device)
        if dtype.is_floating_point:
            least, most = least - torch.inf, most + torch.inf
        least, most = least.clamp(low, high), most.clamp(low, high)
    return Bounded(least, most, shape=spec.shape, dtype=spec.dtype, device=spec.device)


def affine_spec(spec: TensorSpec, apply: Function) -> TensorSpec:
    """Return the spec of an affine function: bounds are mapped, too; integers become floats."""
    floating = spec.dtype is not None and spec.dtype.is_floating_point
    dtype = spec.dtype if floating else torch.get_default_dtype()
    if isinstance(spec, Bounded):
        ends = [apply(bound.to(dtype)) for bound in (spec.low, spec.high)]
        low, high = torch.minimum(*ends), torch.maximum(*ends)
        if not (low.isnan().any() or high.isnan().any()):
            shape = torch.broadcast_shapes(low.shape, spec.shape)
            return Bounded(low, high, shape=shape, dtype=low.dtype, device=spec.device)
    return Unbounded(spec.shape, dtype=dtype, device=spec.device)
