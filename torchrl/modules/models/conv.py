"""Convolutional networks over images and volumes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from torchrl._core.devices import check_devices
from torchrl._core.errors import ShapeError, describe
from torchrl.modules.models.mlp import Kwargs
from torchrl.modules.models.utils import (
    Layers,
    SquashDims,
    Squeeze2dLayer,
    SqueezeLayer,
    build,
    layer_of,
    per_layer,
    widths,
)

Sizes = int | Sequence[int | tuple[int, ...]]


class _ConvNetBase(Layers):
    """Convolutions, each followed by an activation, then an aggregation.

    Hooks:
        layer_class: The convolution.
        ndims: Number of dimensions of one input, channels included.
        squeeze_class: What drops the spatial dimensions where they have size one.
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
        if num_cells is None and depth is None:
            given = [len(v) for v in sizes.values() if isinstance(v, list)]
            depth = given[0] if given else 3
        cells = widths(num_cells, depth, self)
        spread = {k: per_layer(v, len(cells), k, self) for k, v in sizes.items()}
        activations = per_layer(activation_kwargs, len(cells), "activation_kwargs", self)
        norms = per_layer(norm_kwargs, len(cells), "norm_kwargs", self)
        self.in_features, self.num_cells, self.depth = in_features, cells, len(cells)
        layers: list[nn.Module] = []
        previous = in_features
        for i, width in enumerate(cells):
            layers.append(
                layer_of(
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
            layers.append(build(activation_class, activations[i], device))
            if norm_class is not None:
                layers.append(build(norm_class, norms[i], device))
        if aggregator_class is not None:
            kwargs = aggregator_kwargs
            if kwargs is None and aggregator_class is SquashDims:
                kwargs = {"ndims_in": self.ndims}
            layers.append(build(aggregator_class, kwargs, device))
        if squeeze_output:
            layers.append(type(self).squeeze_class())
        super().__init__(*layers)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``[*B, out]`` for images ``[*B, C, *S]``, whatever the batch dimensions."""
        if inputs.ndim < self.ndims:
            raise ShapeError(
                describe(
                    self._get_name(),
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
        in_features: Number of channels of the input; inferred from the first one if ``None``.
        depth: Number of convolutions; 3 unless a list says otherwise.
        num_cells: Channels of every layer, or of each; 32 if not given.
        kernel_sizes: Kernel size, or one for each layer.
        strides: Stride, or one for each layer.
        paddings: Padding, or one for each layer.
        activation_class: Class of the activations, one behind each convolution.
        activation_kwargs: Its arguments; a list has one element for each layer.
        norm_class: Class of the normalisations behind the activations, if any.
        norm_kwargs: Its arguments; a list has one element for each layer.
        bias_last_layer: Whether the last convolution has a bias.
        aggregator_class: What makes a vector of the last feature maps; ``None`` leaves them.
        aggregator_kwargs: Its arguments.
        squeeze_output: Drop the spatial dimensions, which have size one then.
        device: Where the parameters live.

    Raises:
        ValueError: if depth and lists contradict each other.

    >>> net = ConvNet(num_cells=[32, 64], kernel_sizes=[8, 4], strides=[2, 1])
    >>> net(torch.zeros(5, 3, 32, 32)).shape
    torch.Size([5, 6400])
    """

    layer_class = nn.Conv2d
    ndims = 3
    squeeze_class = Squeeze2dLayer


class Conv3dNet(_ConvNetBase):
    """A convolutional network over volumes ``[*B, C, D, H, W]``; see :class:`ConvNet`.

    >>> Conv3dNet(num_cells=[8], kernel_sizes=3)(torch.zeros(5, 1, 8, 8, 8)).shape
    torch.Size([5, 1728])
    """

    layer_class = nn.Conv3d
    ndims = 4

    @staticmethod
    def squeeze_class() -> nn.Module:
        """Drop the three spatial dimensions."""
        return SqueezeLayer((-1, -2, -3))
