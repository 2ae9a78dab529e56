"""Small layers, the arguments of layers in a network, and the initialisation of weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from torchrl._core.devices import check_devices
from torchrl._core.errors import describe
from torchrl._core.records.torch_private import call_in_turn
from torchrl.modules.models.exploration import NoisyLazyLinear, NoisyLinear

_LAZY: dict[Any, Callable[..., nn.Module]] = {
    nn.Linear: nn.LazyLinear,
    NoisyLinear: NoisyLazyLinear,
    nn.Conv2d: nn.LazyConv2d,
    nn.Conv3d: nn.LazyConv3d,
}


# Activations by name, for scripts that choose one by their settings.
ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "mish": nn.Mish,
    "relu": nn.ReLU,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


class Layers(nn.Sequential):
    """Layers called one after the other; a slice of them is a plain sequence."""

    def __getitem__(self, index: Any) -> Any:
        """Return a layer, or a sequence of some."""
        if isinstance(index, slice):
            return nn.Sequential(*list(self)[index])
        return super().__getitem__(index)

    def forward(self, value: Tensor) -> Tensor:
        return call_in_turn(self, value)


class SquashDims(nn.Module):
    """Flatten the last dimensions into one.

    Args:
        ndims_in: Number of these dimensions.

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
    """Remove dimensions of size one.

    Args:
        dims: The dimensions, counted from the end.

    Raises:
        ValueError: if a dimension is counted from the start: there may be batch dimensions.

    >>> SqueezeLayer((-1,))(torch.zeros(2, 1)).shape
    torch.Size([2])
    """

    def __init__(self, dims: Sequence[int] = (-1,)) -> None:
        super().__init__()
        if any(dim >= 0 for dim in dims):
            raise ValueError(describe(self, "squeezes trailing dimensions", expected="dims < 0", found=dims))
        self.dims = tuple(dims)

    def forward(self, value: Tensor) -> Tensor:
        return value.squeeze(self.dims)


class Squeeze2dLayer(SqueezeLayer):
    """Remove the last two dimensions, which have size one.

    >>> Squeeze2dLayer()(torch.zeros(2, 3, 1, 1)).shape
    torch.Size([2, 3])
    """

    def __init__(self) -> None:
        super().__init__((-1, -2))


class SharedBias(nn.Module):
    """Add one learned number to every feature.

    >>> SharedBias()(torch.ones(2, 3)).shape
    torch.Size([2, 3])
    """

    def __init__(self, device: torch.device | str | None = None) -> None:
        check_devices(self, device=device)
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, device=device))

    def reset_parameters(self) -> None:
        """Set the number to zero."""
        nn.init.zeros_(self.bias)

    def forward(self, value: Tensor) -> Tensor:
        return value + self.bias


def per_layer(value: object, num_layers: int, name: str, owner: object) -> list:
    """Return one argument for each layer: a list has one element for each, others are repeated.

    Raises:
        ValueError: if a list has another length.

    >>> per_layer(3, 2, "strides", "ConvNet"), per_layer([1, 2], 2, "strides", "ConvNet")
    ([3, 3], [1, 2])
    """
    if isinstance(value, list):
        if len(value) != num_layers:
            raise ValueError(
                describe(owner, f"has one element of {name!r} for each layer", expected=num_layers, found=len(value))
            )
        return value
    return [value] * num_layers


def hidden_widths(num_cells: Sequence[int] | int | None, depth: int | None, owner: object) -> list[int]:
    """Return the width of each hidden layer.

    The default width is 32; without width and depth there is no hidden layer.

    Raises:
        ValueError: if a list of widths and a depth contradict each other.

    >>> hidden_widths(64, 2, "MLP"), hidden_widths(None, 3, "MLP")
    ([64, 64], [32, 32, 32])
    """
    if num_cells is None:
        return [32] * (depth or 0)
    if isinstance(num_cells, int):
        return [num_cells] * (1 if depth is None else depth)
    if depth is not None and depth != len(num_cells):
        raise ValueError(
            describe(
                owner, "has one element of 'num_cells' for each hidden layer", expected=depth, found=list(num_cells)
            )
        )
    return list(num_cells)


class FunctionLayer(nn.Module):
    """Call a function of tensors, as a layer.

    >>> FunctionLayer(torch.relu)(torch.tensor([-1.0, 1.0]))
    tensor([0., 1.])
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


def build_on(
    layer: Callable[..., nn.Module], kwargs: dict[str, Any] | None, device: torch.device | str | None
) -> nn.Module:
    """Build an activation or normalisation, a module or a function, and move it to the device."""
    module = layer(**(kwargs or {}))
    if not isinstance(module, nn.Module):
        module = FunctionLayer(module)
    return module if device is None else module.to(device)


def build_layer(
    layer_class: Callable[..., nn.Module], in_features: int | None, out_features: int, owner: object, **kwargs: Any
) -> nn.Module:
    """Build a layer, or a lazy one where the number of input features is ``None``.

    Raises:
        ValueError: if it is ``None`` and the class has no lazy version.
    """
    if in_features is not None:
        return layer_class(in_features, out_features, **kwargs)
    if layer_class not in _LAZY:
        name = getattr(layer_class, "__name__", layer_class)
        raise ValueError(describe(owner, f"cannot infer the input of {name}", hint="Give in_features."))
    return _LAZY[layer_class](out_features, **kwargs)


class BatchRenorm1d(nn.Module):
    r"""Normalize features with batch statistics, corrected towards the running ones.

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
        smooth: Increase the correction over the warm-up instead of starting it afterwards.

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
        self.running_mean.lerp_(mean.detach().to(self.running_mean), self.momentum)
        size = x.numel() // self.num_features
        unbiased = var.detach() * (size / max(size - 1, 1))  # as in torch.nn.BatchNorm1d
        self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)
        self.num_batches_tracked.add_(1)
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


M = TypeVar("M", bound=nn.Module)
_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def init_weights(module: M, gain: float = math.sqrt(2), last_gain: float | None = None, bias: float = 0.0) -> M:
    """Initialise linear and convolutional layers orthogonally, in place.

    Args:
        module: The network; its parameters must exist (call a lazy network once before).
        gain: Gain of the layers; the square root of 2 suits ReLU and is usual for PPO.
        last_gain: Gain of the last layer; usual are 0.01 for a policy and 1 for a value.
        bias: Value of the biases.

    Raises:
        ValueError: if a layer has no parameters yet.

    Source: Saxe et al., 2013, https://arxiv.org/abs/1312.6120.

    >>> net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    >>> net = init_weights(net, last_gain=0.01)
    >>> bool(net[2].weight.abs().max() < 0.02)
    True
    """
    layers = [layer for layer in module.modules() if isinstance(layer, _WEIGHTED)]
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
