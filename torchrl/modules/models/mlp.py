"""The multi-layer perceptron."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchrl._core.devices import check_devices
from torchrl._core.errors import describe
from torchrl._core.legacy import old_keywords
from torchrl._core.records.torch_private import call_in_turn
from torchrl.modules.models.layers import Layers, SharedBias, build_layer, build_on, hidden_widths, per_layer

Kwargs = dict[str, Any] | list[dict[str, Any]] | None


class MLP(Layers):
    """A multi-layer perceptron: linear layers, each but the last followed by an activation.

    A hidden layer is: linear, dropout, normalisation, activation. Several inputs are concatenated.

    Args:
        in_features: Size of the input; inferred at the first call if ``None``.
        out_features: Size of the output, or its shape.
        depth: Number of hidden layers, 32 wide unless ``num_cells`` is given. Without either, there
            is a single linear layer.
        num_cells: Width of every hidden layer, or of each.
        activation_class: Class (or factory) of the activations, modules or functions; the old name is
            ``activation``.
        activation_kwargs: Its arguments; a list has one element for each activation.
        norm_class: Class of the normalisations, if any.
        norm_kwargs: Its arguments; a list has one element for each normalisation.
        dropout: Probability of dropping a hidden unit; ``None`` has no dropout layers.
        bias_last_layer: Whether the last layer has a bias.
        single_bias_last_layer: Use one bias for all outputs of the last layer.
        layer_class: Class of the linear layers, such as :class:`~torchrl.modules.NoisyLinear`.
        layer_kwargs: Its arguments beside sizes, ``bias`` and ``device``; a list has one element
            for each layer.
        activate_last_layer: Treat the last layer as a hidden one, with activation.
        device: Where the parameters live.

    Raises:
        ValueError: if ``out_features`` is missing, or if widths, depth or lists of arguments
            contradict each other.

    >>> MLP(3, 4, num_cells=[32, 64])(torch.zeros(10, 3)).shape
    torch.Size([10, 4])
    >>> MLP(out_features=(2, 5), depth=2)(torch.zeros(10, 3), torch.zeros(10, 1)).shape
    torch.Size([10, 2, 5])
    """

    @old_keywords(activation="activation_class")
    def __init__(
        self,
        in_features: int | None = None,
        out_features: int | Sequence[int] | None = None,
        depth: int | None = None,
        num_cells: Sequence[int] | int | None = None,
        activation_class: Callable[..., nn.Module] = nn.Tanh,
        activation_kwargs: Kwargs = None,
        norm_class: Callable[..., nn.Module] | None = None,
        norm_kwargs: Kwargs = None,
        dropout: float | None = None,
        bias_last_layer: bool = True,
        single_bias_last_layer: bool = False,
        layer_class: Callable[..., nn.Module] = nn.Linear,
        layer_kwargs: Kwargs = None,
        activate_last_layer: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        check_devices(self, device=device)
        if out_features is None:
            raise ValueError(describe(self, "needs the size of its output: out_features"))
        hidden = hidden_widths(num_cells, depth, self)
        self.in_features, self.out_features = in_features, out_features
        self.depth, self.num_cells = len(hidden), hidden
        self._shape = None if isinstance(out_features, int) else tuple(out_features)
        size = out_features if isinstance(out_features, int) else math.prod(out_features)

        num_active = len(hidden) + activate_last_layer
        activations = per_layer(activation_kwargs, num_active, "activation_kwargs", self)
        norms = per_layer(norm_kwargs, num_active, "norm_kwargs", self)
        layers: list[nn.Module] = []
        last = len(hidden)
        kwargs_of = per_layer(layer_kwargs, last + 1, "layer_kwargs", self)
        previous = in_features
        for i, width in enumerate([*hidden, size]):
            bias = i < last or (bias_last_layer and not single_bias_last_layer)
            kwargs = {"bias": bias, "device": device, **(kwargs_of[i] or {})}
            layers.append(build_layer(layer_class, previous, width, self, **kwargs))
            previous = width
            if i == last and bias_last_layer and single_bias_last_layer:
                layers.append(SharedBias(device))
            if i < num_active:
                if dropout is not None:
                    layers.append(nn.Dropout(dropout))
                if norm_class is not None:
                    layers.append(build_on(norm_class, norms[i], device))
                layers.append(build_on(activation_class, activations[i], device))
        super().__init__(*layers)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return ``[*B, out_features]`` for inputs ``[*B, F1]``, ``[*B, F2]``, ..."""
        out = call_in_turn(self, inputs[0] if len(inputs) == 1 else torch.cat(inputs, -1))
        return out if self._shape is None else out.unflatten(-1, self._shape)
