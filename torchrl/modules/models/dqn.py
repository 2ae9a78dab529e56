"""Q-networks: dueling heads, distributions of values.

``*B`` batch dimensions, ``N`` actions, ``Z`` atoms.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import NestedKey
from tensordict.nn import TensorDictModule
from torch import Tensor, nn

from torchrl._core.devices import check_devices
from torchrl.modules.models.conv import ConvNet
from torchrl.modules.models.mlp import MLP

Device = torch.device | str | None
Kwargs = dict[str, Any] | None


class _Dueling(nn.Module):
    """Features, then ``Q = V + A - mean(A)``."""

    def __init__(self, features: nn.Module, advantage: nn.Module, value: nn.Module) -> None:
        super().__init__()
        self.features, self.advantage, self.value = features, advantage, value

    def forward(self, observation: Tensor) -> Tensor:
        """Return action values ``[*B, N]``."""
        hidden = self.features(observation)
        advantage = self.advantage(hidden)
        return self.value(hidden) + advantage - advantage.mean(-1, keepdim=True)


class DuelingMlpDQNet(_Dueling):
    """A dueling Q-network of vectors.

    Args:
        out_features: Number of actions.
        out_features_value: Size of the value, which is broadcast against the actions.
        mlp_kwargs_feature: Arguments of the :class:`MLP` of features, over the default ones.
        mlp_kwargs_output: Arguments of the two :class:`MLP` heads, over the default ones.
        device: Where the parameters live.

    Source: Wang et al., 2015, https://arxiv.org/abs/1511.06581, eq. 9.

    >>> DuelingMlpDQNet(4)(torch.zeros(10, 3)).shape
    torch.Size([10, 4])
    """

    def __init__(
        self,
        out_features: int,
        out_features_value: int = 1,
        mlp_kwargs_feature: Kwargs = None,
        mlp_kwargs_output: Kwargs = None,
        device: Device = None,
    ) -> None:
        check_devices(self, device=device)
        base: dict[str, Any] = {"activation_class": nn.ELU, "device": device, "num_cells": [256]}
        feature = {**base, "out_features": 256, "activate_last_layer": True}
        feature.update(mlp_kwargs_feature or {})
        head = {**base, "in_features": feature["out_features"], **(mlp_kwargs_output or {})}
        super().__init__(
            MLP(**feature), MLP(**head, out_features=out_features), MLP(**head, out_features=out_features_value)
        )


class DuelingCnnDQNet(_Dueling):
    """A dueling Q-network of images, with the layers of the paper.

    Args:
        out_features: Number of actions.
        out_features_value: Size of the value, which is broadcast against the actions.
        cnn_kwargs: Arguments of the :class:`ConvNet`, over the default ones.
        mlp_kwargs: Arguments of the two :class:`MLP` heads, over the default ones.
        device: Where the parameters live.

    Source: Wang et al., 2015, https://arxiv.org/abs/1511.06581, section 4.2.

    >>> DuelingCnnDQNet(4)(torch.zeros(10, 4, 84, 84)).shape
    torch.Size([10, 4])
    """

    def __init__(
        self,
        out_features: int,
        out_features_value: int = 1,
        cnn_kwargs: Kwargs = None,
        mlp_kwargs: Kwargs = None,
        device: Device = None,
    ) -> None:
        check_devices(self, device=device)
        conv: dict[str, Any] = {
            "num_cells": [32, 64, 64],
            "kernel_sizes": [8, 4, 3],
            "strides": [4, 2, 1],
            "activation_class": nn.ReLU,
            "device": device,
        }
        head: dict[str, Any] = {"num_cells": [512], "activation_class": nn.ReLU, "device": device}
        head.update(mlp_kwargs or {})
        super().__init__(
            ConvNet(**{**conv, **(cnn_kwargs or {})}),
            MLP(**head, out_features=out_features),
            MLP(**head, out_features=out_features_value),
        )


class DistributionalDQNnet(TensorDictModule):
    """Convert scores of atoms to their log-probabilities.

    Args:
        in_keys: Where the scores are.
        out_keys: Where the log-probabilities go.

    Reads: ``action_value [*B, Z, N]``. Writes: ``action_value [*B, Z, N]``.

    Source: Bellemare et al., 2017, https://arxiv.org/abs/1707.06887.

    >>> from tensordict import TensorDict
    >>> td = DistributionalDQNnet()(TensorDict(action_value=torch.randn(5, 2)))
    >>> torch.allclose(td["action_value"].exp().sum(-2), torch.ones(2))
    True
    """

    def __init__(self, *, in_keys: list[NestedKey] | None = None, out_keys: list[NestedKey] | None = None) -> None:
        super().__init__(nn.LogSoftmax(-2), in_keys or ["action_value"], out_keys or ["action_value"])
