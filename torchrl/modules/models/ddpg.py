"""The policies and critics of DDPG, from vectors and from images.

Actions are unbounded: squash them with :class:`~torchrl.modules.TanhModule` or a
:class:`~torchrl.modules.TanhDelta`. ``*B`` batch dimensions, ``A`` actions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torchrl._core.devices import check_devices
from torchrl.modules.models.conv import ConvNet
from torchrl.modules.models.layers import SquashDims
from torchrl.modules.models.mlp import MLP

Device = torch.device | str | None
Kwargs = dict[str, Any] | None
LAST_LAYER_MLP, LAST_LAYER_CNN = 3e-3, 3e-4  # paper, section 7


def _conv_kwargs(use_avg_pooling: bool, device: Device, given: Kwargs) -> dict[str, Any]:
    pooling: dict[str, Any] = {"aggregator_class": SquashDims}
    if use_avg_pooling:
        pooling = {
            "aggregator_class": nn.AdaptiveAvgPool2d,
            "aggregator_kwargs": {"output_size": (1, 1)},
            "squeeze_output": True,
        }
    base = {
        "num_cells": [32, 32, 32],
        "kernel_sizes": 3,
        "strides": [2, 1, 1],
        "activation_class": nn.ReLU,
        "device": device,
    }
    return {**base, **pooling, **(given or {})}


def _mlp_kwargs(num_cells: list[int], device: Device, given: Kwargs) -> dict[str, Any]:
    return {"num_cells": num_cells, "activation_class": nn.ReLU, "device": device, **(given or {})}


def _shrink_last(net: MLP, bound: float) -> None:
    """Initialise the last layer so that first outputs are near zero."""
    last = [layer for layer in net if isinstance(layer, nn.Linear)][-1]
    for parameter in last.parameters():
        if not nn.parameter.is_lazy(parameter):
            nn.init.uniform_(parameter, -bound, bound)


class DdpgMlpActor(nn.Module):
    """The policy of the paper, for vectors: hidden layers of 400 and 300.

    Args:
        action_dim: Number of actions.
        mlp_net_kwargs: Arguments of the :class:`MLP`, over the default ones.
        device: Where the parameters live.

    Source: Lillicrap et al., 2015, https://arxiv.org/abs/1509.02971, section 7.

    >>> DdpgMlpActor(2)(torch.zeros(10, 3)).shape
    torch.Size([10, 2])
    """

    def __init__(self, action_dim: int, mlp_net_kwargs: Kwargs = None, device: Device = None) -> None:
        check_devices(self, device=device)
        super().__init__()
        self.mlp = MLP(**_mlp_kwargs([400, 300], device, {"out_features": action_dim, **(mlp_net_kwargs or {})}))
        _shrink_last(self.mlp, LAST_LAYER_MLP)

    def forward(self, observation: Tensor) -> Tensor:
        """Return actions ``[*B, A]``."""
        return self.mlp(observation)


class DdpgMlpQNet(nn.Module):
    """The critic of the paper, for vectors: the action enters after the first hidden layer.

    Args:
        mlp_net_kwargs_net1: Arguments of the :class:`MLP` before the action.
        mlp_net_kwargs_net2: Arguments of the :class:`MLP` after it.
        device: Where the parameters live.

    Source: Lillicrap et al., 2015, https://arxiv.org/abs/1509.02971, section 7.

    >>> DdpgMlpQNet()(torch.zeros(10, 3), torch.zeros(10, 2)).shape
    torch.Size([10, 1])
    """

    def __init__(
        self, mlp_net_kwargs_net1: Kwargs = None, mlp_net_kwargs_net2: Kwargs = None, device: Device = None
    ) -> None:
        check_devices(self, device=device)
        super().__init__()
        first = {"out_features": 400, "activate_last_layer": True, **(mlp_net_kwargs_net1 or {})}
        second = {"out_features": 1, **(mlp_net_kwargs_net2 or {})}
        self.mlp1 = MLP(**_mlp_kwargs([], device, first))
        self.mlp2 = MLP(**_mlp_kwargs([300], device, second))
        _shrink_last(self.mlp2, LAST_LAYER_MLP)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return values ``[*B, 1]``."""
        return self.mlp2(self.mlp1(observation), action)


class DdpgCnnActor(nn.Module):
    """The policy of the paper, for images: three convolutions, two hidden layers of 200.

    Args:
        action_dim: Number of actions.
        conv_net_kwargs: Arguments of the :class:`ConvNet`, over the default ones.
        mlp_net_kwargs: Arguments of the :class:`MLP`, over the default ones.
        use_avg_pooling: Average the last feature maps instead of flattening them.
        device: Where the parameters live.

    Source: Lillicrap et al., 2015, https://arxiv.org/abs/1509.02971, section 7.

    >>> action, hidden = DdpgCnnActor(2)(torch.zeros(10, 3, 32, 32))
    >>> action.shape, hidden.shape
    (torch.Size([10, 2]), torch.Size([10, 3872]))
    """

    def __init__(
        self,
        action_dim: int,
        conv_net_kwargs: Kwargs = None,
        mlp_net_kwargs: Kwargs = None,
        use_avg_pooling: bool = False,
        device: Device = None,
    ) -> None:
        check_devices(self, device=device)
        super().__init__()
        self.convnet = ConvNet(**_conv_kwargs(use_avg_pooling, device, conv_net_kwargs))
        self.mlp = MLP(**_mlp_kwargs([200, 200], device, {"out_features": action_dim, **(mlp_net_kwargs or {})}))
        _shrink_last(self.mlp, LAST_LAYER_CNN)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions ``[*B, A]`` and the features of the convolutions."""
        hidden = self.convnet(observation)
        return self.mlp(hidden), hidden


class DdpgCnnQNet(nn.Module):
    """The critic of the paper, for images: the action enters after the convolutions.

    Args:
        conv_net_kwargs: Arguments of the :class:`ConvNet`, over the default ones.
        mlp_net_kwargs: Arguments of the :class:`MLP`, over the default ones.
        use_avg_pooling: Average the last feature maps instead of flattening them.
        device: Where the parameters live.

    Source: Lillicrap et al., 2015, https://arxiv.org/abs/1509.02971, section 7.

    >>> DdpgCnnQNet()(torch.zeros(10, 3, 32, 32), torch.zeros(10, 2)).shape
    torch.Size([10, 1])
    """

    def __init__(
        self,
        conv_net_kwargs: Kwargs = None,
        mlp_net_kwargs: Kwargs = None,
        use_avg_pooling: bool = True,
        device: Device = None,
    ) -> None:
        check_devices(self, device=device)
        super().__init__()
        self.convnet = ConvNet(**_conv_kwargs(use_avg_pooling, device, conv_net_kwargs))
        self.mlp = MLP(**_mlp_kwargs([200, 200], device, {"out_features": 1, **(mlp_net_kwargs or {})}))
        _shrink_last(self.mlp, LAST_LAYER_CNN)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return values ``[*B, 1]``."""
        return self.mlp(self.convnet(observation), action)
