"""Mathematics with more than one user: squashing, two-hot codes, masked means."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from torchrl._core.errors import ShapeError, describe
from torchrl._core.records.rows import expand_right


def symlog(value: Tensor) -> Tensor:
    """``sign(x) log(1 + |x|)`` (Hafner et al., 2023, https://arxiv.org/abs/2301.04104, eq. 9).

    Args:
        value: Numbers of any shape.

    >>> import math
    >>> symlog(torch.tensor([-math.e + 1, 0.0, math.e - 1]))
    tensor([-1.,  0.,  1.])
    """
    return value.sign() * value.abs().log1p()


def symexp(value: Tensor) -> Tensor:
    """Inverse of :func:`symlog`.

    Args:
        value: Numbers of any shape.

    >>> symexp(symlog(torch.tensor([-100.0, 0.0, 3.0]))).round(decimals=3)
    tensor([-100.,    0.,    3.])
    """
    return value.sign() * value.abs().expm1()


def safetanh(x: Tensor, eps: float) -> Tensor:
    """``tanh(x)``, at least ``eps`` away from 1 and -1, with the gradient of ``tanh``.

    >>> safetanh(torch.tensor([-80.0, 80.0]), 0.01)
    tensor([-0.9900,  0.9900])
    """
    y = x.tanh()
    return y + (y.clamp(-(1 - eps), 1 - eps) - y).detach()


def safeatanh(y: Tensor, eps: float) -> Tensor:
    """Inverse of :func:`safetanh`: finite, as its gradient, where ``y`` is 1 or -1."""
    return (y + (y.clamp(-(1 - eps), 1 - eps) - y).detach()).atanh()


def signed_hyperbolic(value: Tensor, epsilon: float = 1e-3) -> Tensor:
    """``sign(x) (sqrt(|x| + 1) - 1) + eps x`` (Pohlen et al., 2018, https://arxiv.org/abs/1805.11593)."""
    return value.sign() * ((value.abs() + 1).sqrt() - 1) + epsilon * value


def signed_parabolic(value: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Inverse of :func:`signed_hyperbolic`.

    >>> signed_parabolic(signed_hyperbolic(torch.tensor([-9.0, 4.0]))).round(decimals=2)
    tensor([-9.,  4.])
    """
    root = (1 + 4 * epsilon * (epsilon + 1 + value.abs())).sqrt()
    return value.sign() * (((root - 1) / (2 * epsilon)).square() - 1)


def two_hot_encode(x: Tensor, bins: Tensor) -> Tensor:
    """Spread each number over the two bins around it, so that its mean over bins is the number.

    Args:
        x: ``[*B]``; clamped to the range of the bins.
        bins: ``[N]``, increasing.

    Returns: weights ``[*B, N]`` that sum to 1.

    >>> two_hot_encode(torch.tensor([0.25]), torch.tensor([-1.0, 0.0, 1.0]))
    tensor([[0.0000, 0.7500, 0.2500]])
    """
    x = x.clamp(bins[0], bins[-1])
    above = torch.searchsorted(bins, x.contiguous()).clamp(1, len(bins) - 1)
    below = above - 1
    share = ((x - bins[below]) / (bins[above] - bins[below])).unsqueeze(-1)
    shape, count = x.shape, len(bins)
    low = F.one_hot(below, count).to(x.dtype).view(*shape, count)
    high = F.one_hot(above, count).to(x.dtype).view(*shape, count)
    return (1 - share) * low + share * high


def two_hot_decode(logits: Tensor, bins: Tensor) -> Tensor:
    """Mean of the bins under ``softmax(logits [*B, N])``.

    Args:
        logits: Logits ``[*B, N]`` of the bins.
        bins: The numbers ``[N]`` of the bins.

    >>> bins = torch.tensor([0.0, 1.0, 2.0])
    >>> two_hot_decode(torch.tensor([[0.25, 0.25, 0.5]]).log(), bins)
    tensor([1.2500])
    """
    return (logits.softmax(-1) * bins).sum(-1)


def two_hot_cross_entropy(logits: Tensor, target: Tensor, bins: Tensor) -> Tensor:
    """Cross-entropy of ``logits [*B, N]`` against the two-hot code of ``target [*B]``.

    Args:
        logits: Logits ``[*B, N]`` of the bins.
        target: Numbers ``[*B]``; those beyond the bins count as the last ones.
        bins: The numbers ``[N]`` of the bins, ascending.

    >>> bins = torch.tensor([0.0, 1.0, 2.0])
    >>> target = torch.tensor([1.25])  # 3/4 on the bin 1, 1/4 on the bin 2
    >>> two_hot_cross_entropy(torch.zeros(1, 3), target, bins)
    tensor([1.0986])
    """
    return -(two_hot_encode(target, bins) * logits.log_softmax(-1)).sum(-1)


def cross_entropy_loss(log_policy: Tensor, action: Tensor, inplace: bool = False) -> Tensor:
    """Pick the logarithms ``[*B]`` of the probabilities of actions; to be maximised.

    Args:
        log_policy: ``[*B, N]``, normalised.
        action: Indices ``[*B]``, or one-hot ``[*B, N]``.
        inplace: Clear, in ``log_policy`` itself, what is not picked by a one-hot action.

    Raises:
        ShapeError: if ``action`` has another shape.

    >>> log_policy = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()
    >>> cross_entropy_loss(log_policy, torch.tensor([1, 0])).exp()
    tensor([0.7500, 0.5000])
    """
    if action.shape == log_policy.shape:
        others = ~action.bool()
        clear = log_policy.masked_fill_ if inplace else log_policy.masked_fill
        return clear(others, 0.0).sum(-1)
    if action.shape == log_policy.shape[:-1]:
        return log_policy.gather(-1, action.unsqueeze(-1)).squeeze(-1)
    raise ShapeError(
        describe(
            "cross_entropy_loss",
            "got actions of a shape that fits no policy",
            expected=f"{list(log_policy.shape[:-1])} or {list(log_policy.shape)}",
            found=list(action.shape),
        )
    )


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


def standardized(
    x: Tensor, mask: Tensor | None = None, exclude_dims: tuple[int, ...] = (), min_std: float = 1e-6
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
