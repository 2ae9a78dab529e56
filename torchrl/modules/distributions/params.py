"""From the output of a network to the parameters of a normal distribution."""

from __future__ import annotations

from typing import Any

from tensordict.nn.distributions import NormalParamExtractor
from torch import Tensor, nn


class NormalParamWrapper(nn.Module):
    """A network whose output is split in two: a location, and a scale made positive.

    Args:
        operator: The network; its output is ``[*B, 2 A]``, and what else it returns is passed on.
        scale_mapping: Name of the map to positive numbers: see
            :class:`tensordict.nn.NormalParamExtractor`.
        scale_lb: Lower bound of the scale.

    >>> import torch
    >>> loc, scale = NormalParamWrapper(nn.Linear(3, 4))(torch.zeros(5, 3))
    >>> loc.shape, bool((scale > 0).all())
    (torch.Size([5, 2]), True)
    """

    def __init__(
        self,
        operator: nn.Module,
        scale_mapping: str = "biased_softplus_1.0",
        scale_lb: float = 1e-4,
    ) -> None:
        super().__init__()
        self.operator = operator
        self.extractor = NormalParamExtractor(scale_mapping, scale_lb)  # type: ignore[arg-type]  # a float is a Number

    def forward(self, *tensors: Tensor, **kwargs: Any) -> tuple[Tensor, ...]:
        out = self.operator(*tensors, **kwargs)
        return self.extractor(*out) if isinstance(out, tuple) else self.extractor(out)
