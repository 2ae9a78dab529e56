"""Networks of tensors: usable alone in any PyTorch code."""

from torchrl.modules.models.conv import Conv3dNet, ConvNet
from torchrl.modules.models.exploration import NoisyLazyLinear, NoisyLinear, reset_noise
from torchrl.modules.models.mlp import MLP
from torchrl.modules.models.utils import SquashDims, Squeeze2dLayer, SqueezeLayer

__all__ = [
    "Conv3dNet",
    "ConvNet",
    "MLP",
    "NoisyLazyLinear",
    "NoisyLinear",
    "SquashDims",
    "Squeeze2dLayer",
    "SqueezeLayer",
    "reset_noise",
]
