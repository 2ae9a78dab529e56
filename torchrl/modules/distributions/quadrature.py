"""Moments of a squashed normal variable by Gaussian quadrature."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

NODES = 48
_HERMITE = tuple(torch.from_numpy(x) for x in np.polynomial.hermite.hermgauss(NODES))
_LEGENDRE = tuple(torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(NODES))


def tanh_moment(loc: Tensor, scale: Tensor, order: int) -> Tensor:
    r"""Return :math:`E[\tanh^k(\mu + \sigma z)]` for a standard normal :math:`z`.

    A narrow normal sees a smooth function: Gauss-Hermite. A wide one is itself smooth where the
    function changes: by parts, :math:`1 - \int k t^{k-1} \Phi((\mathrm{artanh}\,t - \mu) / \sigma)
    dt`, Gauss-Legendre. The error is below 1e-4 for every width.

    Args:
        loc: :math:`\mu`, any shape.
        scale: :math:`\sigma`, of the same shape.
        order: The exponent :math:`k`.

    >>> tanh_moment(torch.tensor([0.0, 100.0]), torch.ones(2), 1)
    tensor([0., 1.])
    """
    nodes, weights = (x.to(loc) for x in _HERMITE)
    x = loc.unsqueeze(-1) + scale.unsqueeze(-1) * (math.sqrt(2) * nodes)  # [*shape, NODES]
    narrow = (x.tanh() ** order * weights).sum(-1) / math.sqrt(math.pi)

    nodes, weights = (x.to(loc) for x in _LEGENDRE)
    quantile = (nodes.atanh() - loc.unsqueeze(-1)) / scale.unsqueeze(-1)
    slope = order * nodes ** (order - 1)
    wide = 1 - (weights * slope * torch.special.ndtr(quantile)).sum(-1)
    return torch.where(scale < 2, narrow, wide)
