"""Batch renormalisation: batch statistics in training that agree with the running ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BatchRenorm1d(nn.Module):
    r"""Normalises features with batch statistics, corrected towards the running ones.

    .. math:: \hat x = \frac{x - \mu_B}{\sigma_B} r + d, \quad
        r = \mathrm{clip}_{[1/r_{max}, r_{max}]}(\sigma_B / \sigma), \quad
        d = \mathrm{clip}_{[-d_{max}, d_{max}]}((\mu_B - \mu) / \sigma)

    No gradient flows through ``r`` and ``d``. During the warm-up it is plain batch normalisation;
    in evaluation it uses the running statistics.

    Args:
        num_features: Number of features ``F``.
        momentum: Weight of a batch in the running statistics.
        eps: Added to variances.
        max_r: Bound of the correction of the scale.
        max_d: Bound of the correction of the mean.
        warmup_steps: Training calls before the correction.
        smooth: Let the correction grow over the warm-up instead of starting behind it.

    Source: Ioffe, 2017, https://arxiv.org/abs/1702.03275, algorithm 1; in RL: Bhatt et al., 2019,
    https://arxiv.org/abs/1902.05605.

    >>> layer = BatchRenorm1d(3)
    >>> spread = layer(torch.randn(100, 3)).std(0, correction=0)
    >>> torch.allclose(spread, torch.ones(3), atol=1e-3)
    True
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_features: int,
        *,
        momentum: float = 0.01,
        eps: float = 1e-5,
        max_r: float = 3.0,
        max_d: float = 5.0,
        warmup_steps: int = 10000,
        smooth: bool = False,
    ) -> None:
        super().__init__()
        self.num_features, self.momentum, self.eps = num_features, momentum, eps
        self.max_r, self.max_d = max_r, max_d
        self.warmup_steps, self.smooth = warmup_steps, smooth
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Return normalised features ``[*B, F]``."""
        if not self.training:
            normal = (x - self.running_mean) * (self.running_var + self.eps).rsqrt()
            return normal * self.weight + self.bias
        dims = tuple(range(x.ndim - 1))
        mean, var = x.mean(dims), x.var(dims, correction=0)  # [F]
        std = (var + self.eps).sqrt()
        r, d = self._corrections(mean.detach(), std.detach())
        self._track(mean.detach(), var.detach())
        return ((x - mean) / std * r + d) * self.weight + self.bias

    def _corrections(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``r`` and ``d``, which are 1 and 0 in the warm-up."""
        running = (self.running_var + self.eps).sqrt()
        r = (std / running).clamp(1 / self.max_r, self.max_r)
        d = ((mean - self.running_mean) / running).clamp(-self.max_d, self.max_d)
        share = (self.num_batches_tracked >= self.warmup_steps).to(r)
        if self.smooth and self.warmup_steps:
            share = (self.num_batches_tracked / self.warmup_steps).clamp(max=1.0).to(r)
        return 1 + (r - 1) * share, d * share

    def _track(self, mean: Tensor, var: Tensor) -> None:
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_(var.to(self.running_var), self.momentum)
        self.num_batches_tracked.add_(1)
