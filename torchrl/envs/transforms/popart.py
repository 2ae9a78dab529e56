"""Targets of a value network brought to one scale, without disturbing what it has learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn

from torchrl._core.errors import ShapeError, describe
from torchrl.envs.transforms.replay import OfBuffers
from torchrl.envs.transforms.running_stats import merge_moments


class PopArt(OfBuffers):
    r"""Normalises targets by running statistics, and keeps the network's outputs as they were.

    .. math:: y \leftarrow (y - \mu) / \sigma, \qquad
        w \leftarrow w\,\sigma_{old} / \sigma, \quad
        b \leftarrow (\sigma_{old}\,b + \mu_{old} - \mu) / \sigma

    The statistics follow the batches in training mode, and stand still after ``eval()``. A
    transform of replay buffers, or of batches that a value estimator has been through.

    Args:
        in_keys: Targets ``[*B, 1]``.
        layer: The last layer of the value network, which learns normalised targets; it is
            corrected whenever the statistics move. None is if ``None``.
        out_keys: Where to write the normalised targets; in place if ``None``.
        beta: How much a batch moves the statistics; the first ones move them more, so that the
            start does not count.
        eps: Least standard deviation.

    Raises:
        ShapeError: unless the layer has one output, and a bias.

    Source: van Hasselt et al., 2016, https://arxiv.org/abs/1602.07714, algorithm 1.

    >>> from tensordict import TensorDict
    >>> layer = nn.Linear(2, 1)
    >>> popart = PopArt(["value_target"], layer)
    >>> before = popart.denormalize(layer(torch.ones(2)))
    >>> _ = popart(TensorDict(value_target=torch.tensor([[90.0], [110.0]]), batch_size=[2]))
    >>> bool(torch.isclose(popart.denormalize(layer(torch.ones(2))), before, atol=1e-4))
    True
    """

    loc: Tensor
    var: Tensor
    weight: Tensor
    _layer: nn.Linear | None

    def __init__(
        self,
        in_keys: Sequence[NestedKey],
        layer: nn.Linear | None = None,
        out_keys: Sequence[NestedKey] | None = None,
        *,
        beta: float = 3e-4,
        eps: float = 1e-4,
    ) -> None:
        super().__init__(in_keys, out_keys)
        if not 0 < beta <= 1:
            raise ValueError(f"PopArt: beta must be above 0 and at most 1, found {beta}.")
        if layer is not None and (layer.out_features != 1 or layer.bias is None):
            raise ShapeError(
                describe(self, "corrects a layer of one output, with a bias", found=layer)
            )
        self.beta, self.eps = beta, eps
        self.__dict__["_layer"] = layer  # not ours to save: it belongs to the network
        self.register_buffer("loc", torch.zeros((), dtype=torch.float64))
        self.register_buffer("var", torch.ones((), dtype=torch.float64))
        self.register_buffer("weight", torch.zeros((), dtype=torch.float64))

    @property
    def scale(self) -> Tensor:
        """The standard deviation."""
        return self.var.sqrt().clamp_min(self.eps)

    @torch.no_grad()
    def update(self, target: Tensor) -> None:
        """Take targets into account, and correct the layer."""
        loc, scale = self.loc.clone(), self.scale
        # The weights of all batches sum to this; the first guess has none.
        self.weight += self.beta * (1 - self.weight)
        var, mean = torch.var_mean(target.to(self.loc), correction=0)
        moments = merge_moments(self.loc, self.var, self.beta / self.weight, mean, var)
        self.loc.copy_(moments[0])
        self.var.copy_(moments[1])
        if (layer := self._layer) is not None:
            layer.weight.mul_((scale / self.scale).to(layer.weight))
            layer.bias.copy_((scale * layer.bias + loc - self.loc) / self.scale)

    def _apply_transform(self, value: Tensor) -> Tensor:
        return ((value - self.loc) / self.scale).to(value.dtype)

    def denormalize(self, value: Tensor) -> Tensor:
        """Return what a normalised value ``[*B, 1]`` stands for."""
        return (value * self.scale + self.loc).to(value.dtype)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Normalise the targets of a batch ``[*B]``; in training mode, follow them first."""
        if self.training:
            found: list[Any] = [tensordict.get(key, None) for key in self.in_keys]
            present = [target.flatten() for target in found if target is not None]
            if present:
                self.update(torch.cat(present))
        return super().forward(tensordict)
