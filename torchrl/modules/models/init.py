"""Initial weights."""

from __future__ import annotations

import math
from typing import TypeVar

from torch import nn

from torchrl._core.errors import describe

M = TypeVar("M", bound=nn.Module)
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def init_weights(
    module: M, gain: float = math.sqrt(2), last_gain: float | None = None, bias: float = 0.0
) -> M:
    """Initialise linear and convolutional layers orthogonally, in place.

    Args:
        module: The network; its parameters must exist (call a lazy network once before).
        gain: Gain of the layers; the square root of 2 suits ReLU and is the custom for PPO.
        last_gain: Gain of the last layer; 0.01 for a policy and 1 for a value are the custom.
        bias: Value of the biases.

    Raises:
        ValueError: if a layer has no parameters yet.

    Source: Saxe et al., 2013, https://arxiv.org/abs/1312.6120.

    >>> net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    >>> net = init_weights(net, last_gain=0.01)
    >>> bool(net[2].weight.abs().max() < 0.02)
    True
    """
    layers = [layer for layer in module.modules() if isinstance(layer, WEIGHTED)]
    for i, layer in enumerate(layers):
        if nn.parameter.is_lazy(layer.weight):
            raise ValueError(
                describe(
                    "init_weights",
                    f"found {type(layer).__name__} without parameters",
                    hint="Call the network once before.",
                )
            )
        is_last = i == len(layers) - 1
        nn.init.orthogonal_(layer.weight, last_gain if is_last and last_gain is not None else gain)
        if layer.bias is not None:
            nn.init.constant_(layer.bias, bias)
    return module
