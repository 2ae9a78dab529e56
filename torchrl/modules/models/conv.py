"""Convolutional networks over images and volumes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from torchrl._core.devices import check_devices
from torchrl._core.errors import ShapeError, describe
from torchrl.modules.models.layers import (
    Layers,
    SquashDims,
    Squeeze2dLayer,
    SqueezeLayer,
    build_layer,
    build_on,
    hidden_widths,
    per_layer,
)
from torchrl.modules.models.mlp import MLP, Kwargs

Sizes = int | Sequence[int | tuple[int, ...]]


class _ConvNetBase(Layers):
    """Convolutions, each followed by an activation, then an aggregation.

    Hooks:
        layer_class: The convolution.
        ndims: Number of dimensions of one input, channels included.
        squeeze_class: Layer that removes the spatial dimensions where they have size one.
    """

    layer_class: ClassVar[Callable[..., nn.Module]]
    ndims: ClassVar[int]
    squeeze_class: ClassVar[Callable[[], nn.Module]]

    def __init__(
        self,
        in_features: int | None = None,
        depth: int | None = None,
        num_cells: Sequence[int] | int | None = None,
        kernel_sizes: Sizes = 3,
        strides: Sizes = 1,
        paddings: Sizes = 0,
        activation_class: Callable[..., nn.Module] = nn.ELU,
        activation_kwargs: Kwargs = None,
        norm_class: Callable[..., nn.Module] | None = None,
        norm_kwargs: Kwargs = None,
        bias_last_layer: bool = True,
        aggregator_class: Callable[..., nn.Module] | None = SquashDims,
        aggregator_kwargs: dict[str, Any] | None = None,
        squeeze_output: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        check_devices(self, device=device)
        sizes = {"kernel_sizes": kernel_sizes, "strides": strides, "paddings": paddings}
        sizes = {k: list(v) if isinstance(v, Sequence) else v for k, v in sizes.items()}
        if depth is None and not isinstance(num_cells, Sequence):
            lists = [len(v) for v in (*sizes.values(), activation_kwargs, norm_kwargs) if isinstance(v, list)]
            if num_cells is not None and not lists:
                raise ValueError(describe(self, "has no depth", hint="Give depth, or a list with one element a layer."))
            depth = lists[0] if lists else 3
        cells = hidden_widths(num_cells, depth, self)
        spread = {k: per_layer(v, len(cells), k, self) for k, v in sizes.items()}
        activations = per_layer(activation_kwargs, len(cells), "activation_kwargs", self)
        norms = per_layer(norm_kwargs, len(cells), "norm_kwargs", self)
        self.in_features, self.num_cells, self.depth = in_features, cells, len(cells)
        layers: list[nn.Module] = []
        previous = in_features
        for i, width in enumerate(cells):
            layers.append(
                build_layer(
                    type(self).layer_class,
                    previous,
                    width,
                    self,
                    kernel_size=spread["kernel_sizes"][i],
                    stride=spread["strides"][i],
                    padding=spread["paddings"][i],
                    bias=bias_last_layer or i < len(cells) - 1,
                    device=device,
                )
            )
            previous = width
            layers.append(build_on(activation_class, activations[i], device))
            if norm_class is not None:
                layers.append(build_on(norm_class, norms[i], device))
        if aggregator_class is not None:
            kwargs = aggregator_kwargs
            if kwargs is None and aggregator_class is SquashDims:
                kwargs = {"ndims_in": self.ndims}
            layers.append(build_on(aggregator_class, kwargs, device))
        if squeeze_output:
            layers.append(type(self).squeeze_class())
        super().__init__(*layers)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``[*B, out]`` for images ``[*B, C, *S]`` of any batch dimensions."""
        if inputs.ndim < self.ndims:
            raise ShapeError(
                describe(
                    self,
                    f"reads images of {self.ndims} dimensions, channels first, or batches of them",
                    found=list(inputs.shape),
                    hint="Give images without channels a dimension for them.",
                )
            )
        batch = inputs.shape[: -self.ndims]
        if len(batch) == 1:
            return super().forward(inputs)
        flat = inputs.reshape(-1, *inputs.shape[-self.ndims :])
        out = super().forward(flat)
        return out.reshape(*batch, *out.shape[1:])


class ConvNet(_ConvNetBase):
    """A convolutional network over images ``[*B, C, H, W]``.

    Args:
        in_features: Number of channels of the input; inferred at the first call if ``None``.
        depth: Number of convolutions; that of the first list among the arguments if ``None``, or 3
            without ``num_cells``.
        num_cells: Channels of every layer, or of each; 32 by default.
        kernel_sizes: Kernel size, or one for each layer.
        strides: Stride, or one for each layer.
        paddings: Padding, or one for each layer.
        activation_class: Class of the activations, one after each convolution.
        activation_kwargs: Its arguments; a list has one element for each layer.
        norm_class: Class of the normalisations after the activations, if any.
        norm_kwargs: Its arguments; a list has one element for each layer.
        bias_last_layer: Whether the last convolution has a bias.
        aggregator_class: Layer that makes a vector of the last feature maps; ``None`` for none.
        aggregator_kwargs: Its arguments.
        squeeze_output: Remove the spatial dimensions, which then have size one.
        device: Where the parameters live.

    Raises:
        ValueError: if depth and lists contradict each other, or there is neither beside ``num_cells``.

    >>> net = ConvNet(num_cells=[32, 64], kernel_sizes=[8, 4], strides=[2, 1])
    >>> net(torch.zeros(5, 3, 32, 32)).shape
    torch.Size([5, 6400])
    """

    layer_class = nn.Conv2d
    ndims = 3
    squeeze_class = Squeeze2dLayer

    @classmethod
    def default_atari_dqn(cls, num_actions: int) -> nn.Sequential:
        """Return the network of the DQN paper: three convolutions, a hidden layer of 512, a value for each action.

        Source: Mnih et al., 2015, https://doi.org/10.1038/nature14236.

        >>> ConvNet.default_atari_dqn(6)(torch.zeros(5, 4, 84, 84)).shape
        torch.Size([5, 6])
        """
        images = cls(num_cells=[32, 64, 64], kernel_sizes=[8, 4, 3], strides=[4, 2, 1], activation_class=nn.ReLU)
        return nn.Sequential(images, MLP(out_features=num_actions, num_cells=[512], activation_class=nn.ReLU))


class Conv3dNet(_ConvNetBase):
    """A convolutional network over volumes ``[*B, C, D, H, W]``; see :class:`ConvNet`.

    >>> Conv3dNet(num_cells=[8], kernel_sizes=3)(torch.zeros(5, 1, 8, 8, 8)).shape
    torch.Size([5, 1728])
    """

    layer_class = nn.Conv3d
    ndims = 4

    @staticmethod
    def squeeze_class() -> nn.Module:
        """Return a layer that removes the three spatial dimensions."""
        return SqueezeLayer((-1, -2, -3))
