"""Networks of tensors: usable alone in any PyTorch code."""

from torchrl.modules.models.batchrenorm import BatchRenorm1d
from torchrl.modules.models.conv import Conv3dNet, ConvNet
from torchrl.modules.models.ddpg import DdpgCnnActor, DdpgCnnQNet, DdpgMlpActor, DdpgMlpQNet
from torchrl.modules.models.dqn import DistributionalDQNnet, DuelingCnnDQNet, DuelingMlpDQNet
from torchrl.modules.models.exploration import NoisyLazyLinear, NoisyLinear, reset_noise
from torchrl.modules.models.init import init_weights
from torchrl.modules.models.mlp import MLP
from torchrl.modules.models.multiagent import (
    MultiAgentConvNet,
    MultiAgentMLP,
    MultiAgentNetBase,
    QMixer,
    VDNMixer,
)
from torchrl.modules.models.utils import SquashDims, Squeeze2dLayer, SqueezeLayer

__all__ = [
    "BatchRenorm1d",
    "Conv3dNet",
    "ConvNet",
    "DdpgCnnActor",
    "DdpgCnnQNet",
    "DdpgMlpActor",
    "DdpgMlpQNet",
    "DistributionalDQNnet",
    "DuelingCnnDQNet",
    "DuelingMlpDQNet",
    "MLP",
    "MultiAgentConvNet",
    "MultiAgentMLP",
    "MultiAgentNetBase",
    "NoisyLazyLinear",
    "NoisyLinear",
    "QMixer",
    "SquashDims",
    "Squeeze2dLayer",
    "SqueezeLayer",
    "VDNMixer",
    "init_weights",
    "reset_noise",
]
