"""Small layers that networks are assembled from, and how their arguments are spread over layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchrl._core.devices import check_devices
from torchrl._core.direct import call_in_turn
from torchrl._core.errors import describe
from torchrl.modules.models.exploration import NoisyLazyLinear, NoisyLinear

LAZY: dict[Any, Callable[..., nn.Module]] = {
    nn.Linear: nn.LazyLinear,
    NoisyLinear: NoisyLazyLinear,
    nn.Conv2d: nn.LazyConv2d,
    nn.Conv3d: nn.LazyConv3d,
}


class Layers(nn.Sequential):
    """Layers called one after the other; a slice of them is a plain sequence."""

    def __getitem__(self, index: Any) -> Any:
        """Return a layer, or a sequence of some."""
        if isinstance(index, slice):
            return nn.Sequential(*list(self)[index])
        return super().__getitem__(index)

    def forward(self, value: Any) -> Any:
        return call_in_turn(self._modules.values(), value)


class SquashDims(nn.Module):
    """Flattens the last dimensions into one.

    Args:
        ndims_in: How many.

    >>> SquashDims()(torch.zeros(2, 3, 4, 5)).shape
    torch.Size([2, 60])
    """

    def __init__(self, ndims_in: int = 3) -> None:
        super().__init__()
        self.ndims_in = ndims_in

    def forward(self, value: Tensor) -> Tensor:
        return value.flatten(-self.ndims_in, -1)

    def extra_repr(self) -> str:
        return f"ndims_in={self.ndims_in}"


class SqueezeLayer(nn.Module):
    """Drops dimensions of size one.

    Args:
        dims: Which, counted from the end.

    Raises:
        ValueError: if a dimension is counted from the start: there may be batch dimensions.

    >>> SqueezeLayer((-1,))(torch.zeros(2, 1)).shape
    torch.Size([2])
    """

    def __init__(self, dims: Sequence[int] = (-1,)) -> None:
        super().__init__()
        if any(dim >= 0 for dim in dims):
            raise ValueError(
                describe(self, "squeezes trailing dimensions", expected="dims < 0", found=dims)
            )
        self.dims = tuple(dims)

    def forward(self, value: Tensor) -> Tensor:
        return value.squeeze(self.dims)


class Squeeze2dLayer(SqueezeLayer):
    """Drops the last two dimensions, which have size one.

    >>> Squeeze2dLayer()(torch.zeros(2, 3, 1, 1)).shape
    torch.Size([2, 3])
    """

    def __init__(self) -> None:
        super().__init__((-1, -2))


class SharedBias(nn.Module):
    """Adds one learned number to every feature.

    >>> SharedBias()(torch.ones(2, 3)).shape
    torch.Size([2, 3])
    """

    def __init__(self, device: torch.device | str | None = None) -> None:
        check_devices(self, device=device)
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, device=device))

    def forward(self, value: Tensor) -> Tensor:
        return value + self.bias


def per_layer(value: Any, num_layers: int, name: str, owner: object) -> list:
    """Spread an argument over layers: a list has one element for each, anything else is repeated.

    Raises:
        ValueError: if a list has another length.

    >>> per_layer(3, 2, "strides", "ConvNet"), per_layer([1, 2], 2, "strides", "ConvNet")
    ([3, 3], [1, 2])
    """
    if isinstance(value, list):
        if len(value) != num_layers:
            raise ValueError(
                describe(
                    owner,
                    f"has one element of {name!r} for each layer",
                    expected=num_layers,
                    found=len(value),
                )
            )
        return value
    return [value] * num_layers


def widths(num_cells: Sequence[int] | int | None, depth: int | None, owner: object) -> list[int]:
    """Return the width of each hidden layer from what was said of width and depth.

    Widths are 32 unless said otherwise; where nothing is said, there is no hidden layer.

    Raises:
        ValueError: if a list of widths and a depth contradict each other.

    >>> widths(64, 2, "MLP"), widths([32, 64], None, "MLP"), widths(None, 3, "MLP")
    ([64, 64], [32, 64], [32, 32, 32])
    """
    if num_cells is None:
        return [32] * (depth or 0)
    if isinstance(num_cells, int):
        return [num_cells] * (1 if depth is None else depth)
    if depth is not None and depth != len(num_cells):
        raise ValueError(
            describe(
                owner,
                "has one element of 'num_cells' for each hidden layer",
                expected=depth,
                found=list(num_cells),
            )
        )
    return list(num_cells)


def build(
    layer: Callable[..., nn.Module],
    kwargs: dict[str, Any] | None,
    device: torch.device | str | None,
) -> nn.Module:
    """Build an activation or normalisation on a device, whether its class takes one or not."""
    module = layer(**(kwargs or {}))
    return module if device is None else module.to(device)


def layer_of(
    layer_class: Callable[..., nn.Module],
    in_features: int | None,
    out_features: int,
    owner: object,
    **kwargs: Any,
) -> nn.Module:
    """Build a layer, or its lazy twin where the number of input features is open.

    Raises:
        ValueError: if it is open and the class has no lazy twin.
    """
    if in_features is not None:
        return layer_class(in_features, out_features, **kwargs)
    if layer_class not in LAZY:
        name = getattr(layer_class, "__name__", layer_class)
        raise ValueError(
            describe(owner, f"cannot infer the input of {name}", hint="Give in_features.")
        )
    return LAZY[layer_class](out_features, **kwargs)
