"""Losses as functions of tensors."""

from __future__ import annotations

from torch import Tensor

from torchrl._core.errors import ShapeError, describe
from torchrl._core.math import distance_loss

__all__ = ["cross_entropy_loss", "distance_loss"]


def cross_entropy_loss(log_policy: Tensor, action: Tensor, inplace: bool = False) -> Tensor:
    """Pick the logarithms ``[*B]`` of the probabilities of actions; to be maximised.

    Args:
        log_policy: ``[*B, N]``, normalised.
        action: Indices ``[*B]``, or one-hot ``[*B, N]``.
        inplace: Clear, in ``log_policy`` itself, what is not picked by a one-hot action.

    Raises:
        ShapeError: if ``action`` has another shape.

    >>> import torch
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
