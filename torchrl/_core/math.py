"""Scalar mathematics with more than one user: distances, squashings, two-hot codes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from torchrl._core.errors import ShapeError, describe

_DISTANCES = {"l1": F.l1_loss, "l2": F.mse_loss, "smooth_l1": F.smooth_l1_loss}


def distance_loss(v1: Tensor, v2: Tensor, loss_function: str, strict_shape: bool = True) -> Tensor:
    """Distance of each element.

    Args:
        v1: Any shape.
        v2: The same shape.
        loss_function: ``"l1"``, ``"l2"`` (squared) or ``"smooth_l1"`` (Huber with threshold 1).
        strict_shape: Refuse shapes that differ; otherwise ``v2`` is reshaped as ``v1``.

    Raises:
        ShapeError: if the shapes differ.
        ValueError: if the name of the distance is unknown.

    >>> distance_loss(torch.tensor([0.0, 3.0]), torch.tensor([1.0, 1.0]), "l2")
    tensor([1., 4.])
    """
    if v1.shape != v2.shape:
        if strict_shape:
            raise ShapeError(
                describe(
                    "distance_loss",
                    "got tensors of different shapes",
                    expected=list(v1.shape),
                    found=list(v2.shape),
                    hint="Give both the shape [*batch, 1].",
                )
            )
        v2 = v2.reshape(v1.shape)
    return _DISTANCES[known_distance("distance_loss", loss_function)](v1, v2, reduction="none")


def known_distance(owner: object, name: str) -> str:
    """Return the name of a distance.

    Raises:
        ValueError: if there is no such distance.
    """
    if name not in _DISTANCES:
        raise ValueError(
            describe(
                owner,
                "got an unknown distance",
                expected=f"one of {[*_DISTANCES]}",
                found=repr(name),
            )
        )
    return name


def symlog(value: Tensor) -> Tensor:
    """``sign(x) log(1 + |x|)`` (Hafner et al., 2023, https://arxiv.org/abs/2301.04104, eq. 9)."""
    return value.sign() * value.abs().log1p()


def symexp(value: Tensor) -> Tensor:
    """Inverse of :func:`symlog`.

    >>> symexp(symlog(torch.tensor([-100.0, 0.0, 3.0]))).round(decimals=3)
    tensor([-100.,    0.,    3.])
    """
    return value.sign() * value.abs().expm1()


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
    """Mean of the bins under ``softmax(logits [*B, N])``."""
    return (logits.softmax(-1) * bins).sum(-1)


def two_hot_cross_entropy(logits: Tensor, target: Tensor, bins: Tensor) -> Tensor:
    """Cross-entropy of ``logits [*B, N]`` against the two-hot code of ``target [*B]``."""
    return -(two_hot_encode(target, bins) * logits.log_softmax(-1)).sum(-1)
