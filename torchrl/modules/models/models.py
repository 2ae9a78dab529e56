"""Where the networks once stood in one file; they are re-exported here."""

from torchrl.modules.models.conv import Conv3dNet, ConvNet
from torchrl.modules.models.mlp import MLP

__all__ = ["Conv3dNet", "ConvNet", "MLP"]
