"""Networks of tensors: usable alone in any PyTorch code."""

from torchrl.modules.models.conv import Conv3dNet, ConvNet
from torchrl.modules.models.ddpg import DdpgCnnActor, DdpgCnnQNet, DdpgMlpActor, DdpgMlpQNet
from torchrl.modules.models.decision_transformer import DecisionTransformer, DTActor, OnlineDTActor
from torchrl.modules.models.dqn import DistributionalDQNnet, DuelingCnnDQNet, DuelingMlpDQNet
from torchrl.modules.models.exploration import (
    ConsistentDropout,
    ConsistentDropoutModule,
    LazygSDEModule,
    NoisyLazyLinear,
    NoisyLinear,
    gSDEModule,
    reset_noise,
)
from torchrl.modules.models.layers import BatchRenorm1d, SquashDims, Squeeze2dLayer, SqueezeLayer, init_weights
from torchrl.modules.models.mlp import MLP
from torchrl.modules.models.model_based import (
    DreamerActor,
    ObsDecoder,
    ObsEncoder,
    RSSMPosterior,
    RSSMPrior,
    RSSMRollout,
)
from torchrl.modules.models.multiagent import (
    Mixer,
    MultiAgentConvNet,
    MultiAgentMLP,
    MultiAgentNetBase,
    QMixer,
    VDNMixer,
)

__all__ = [
    "BatchRenorm1d",
    "ConsistentDropout",
    "ConsistentDropoutModule",
    "Conv3dNet",
    "ConvNet",
    "DTActor",
    "DdpgCnnActor",
    "DdpgCnnQNet",
    "DdpgMlpActor",
    "DdpgMlpQNet",
    "DecisionTransformer",
    "DistributionalDQNnet",
    "DreamerActor",
    "DuelingCnnDQNet",
    "DuelingMlpDQNet",
    "LazygSDEModule",
    "MLP",
    "Mixer",
    "MultiAgentConvNet",
    "MultiAgentMLP",
    "MultiAgentNetBase",
    "NoisyLazyLinear",
    "NoisyLinear",
    "ObsDecoder",
    "ObsEncoder",
    "OnlineDTActor",
    "QMixer",
    "RSSMPosterior",
    "RSSMPrior",
    "RSSMRollout",
    "SquashDims",
    "Squeeze2dLayer",
    "SqueezeLayer",
    "VDNMixer",
    "gSDEModule",
    "init_weights",
    "reset_noise",
]
