"""Which rows count: what a mask calls padding enters neither values nor gradients."""

from __future__ import annotations

import torch
from tensordict import NestedKey
from torch import Tensor

PADDING_MASK: NestedKey = ("collector", "mask")
AUTO_LOSS_MASK_KEYS: tuple[NestedKey, ...] = (PADDING_MASK, "learning_mask")


def expand_right(mask: Tensor, like: Tensor) -> Tensor:
    """Expand ``mask [*B]`` to the shape of ``like [*B, ...]``."""
    return mask.reshape(*mask.shape, *(1,) * (like.ndim - mask.ndim)).expand_as(like)


def cleared(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return ``x [*B, ...]`` with zeros in the rows that do not count.

    Padding may hold anything. What is cleared before it enters a formula harms neither the value
    nor, as an infinity times zero would, the gradient.
    """
    return x if mask is None else torch.where(expand_right(mask, x), x, 0.0)


def replaced(x: Tensor, mask: Tensor, everything: bool) -> Tensor:
    """Return ``x [*B, ...]`` with rows that do not count replaced by the first that does.

    What a network makes of a row reaches its gradient even where the loss is multiplied by zero, if
    it is NaN or infinite. A row of the data is the one input that it surely takes.

    Args:
        x: Any entry.
        mask: ``[*B]``, the rows that count.
        everything: Replace whole rows; otherwise only numbers that are not finite.

    >>> x, mask = torch.tensor([[1.0], [torch.nan]]), torch.tensor([True, False])
    >>> replaced(x, mask, everything=True).T
    tensor([[1., 1.]])
    """
    if x.shape[: mask.ndim] != mask.shape or not (everything or x.is_floating_point()):
        return x
    first = mask.flatten().long().argmax().reshape(1)  # 0 if none counts
    row = x.flatten(0, mask.ndim - 1).index_select(0, first)[0]
    kept = expand_right(mask, x)
    if x.is_floating_point():
        row = row.nan_to_num(0.0, 0.0, 0.0)
    return torch.where(kept if everything else kept | x.isfinite(), x, row)


def per_item(x: Tensor) -> Tensor:
    """Return ``[*B]``, one number an item, of ``x [*B, F]``: the mean of its features.

    >>> per_item(torch.tensor([[1.0], [2.0]]))
    tensor([1., 2.])
    """
    return x.squeeze(-1) if x.shape[-1] == 1 else x.mean(-1)


def standardized(
    x: Tensor,
    mask: Tensor | None = None,
    exclude_dims: tuple[int, ...] = (),
    min_std: float = 1e-6,
) -> Tensor:
    """Return ``x`` with mean 0 and standard deviation 1; a lone element becomes 0.

    Args:
        x: ``[*B, ...]``.
        mask: ``[*B]``, the rows that count.
        exclude_dims: Dimensions of which each index has its own mean and deviation.
        min_std: Least divisor.

    >>> standardized(torch.tensor([1.0, 2.0, 3.0]))
    tensor([-1.,  0.,  1.])
    """
    kept = {dim % x.ndim for dim in exclude_dims}
    dims = [dim for dim in range(x.ndim) if dim not in kept]
    if mask is None:
        mean = x.mean(dims, keepdim=True)
        if mean.numel() == x.numel():
            return x - mean
        return (x - mean) / x.std(dims, keepdim=True).clamp_min(min_std)
    number = expand_right(mask, x).sum(dims, keepdim=True).clamp_min(1)
    mean = cleared(x, mask).sum(dims, keepdim=True) / number
    centred = cleared(x - mean, mask)
    variance = centred.square().sum(dims, keepdim=True) / (number - 1).clamp_min(1)
    return centred / variance.sqrt().clamp_min(min_std)
