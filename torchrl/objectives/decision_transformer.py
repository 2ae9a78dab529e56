"""Decision transformers: return-conditioned sequences, from fixed data or online."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl._core.devices import check_devices
from torchrl._core.keys import read, write
from torchrl._core.legacy import old_keywords
from torchrl._core.math import distance_loss, known_distance
from torchrl.objectives.calls import distribution, take
from torchrl.objectives.common import LossModule
from torchrl.objectives.distributions import entropy, log_prob
from torchrl.objectives.masks import per_item
from torchrl.objectives.max_entropy import MaxEntropyLoss


class DTLoss(LossModule):
    """Predict the action of the data from the history and the return to come.

    Args:
        actor_network: Reads trajectories, writes ``action [*B, T, A]``.
        loss_function: ``"l1"``, ``"l2"`` or ``"smooth_l1"``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        device: Where the loss, its network included, is moved to.

    Reads: ``action [*B, T, A]`` and the inputs of the policy (which often are the action too).
    Returns: ``loss``.

    Source: Chen et al., 2021, https://arxiv.org/abs/2106.01345, section 3.
    """

    @dataclass
    class _AcceptedKeys:
        action_target: NestedKey = read("action")
        action_pred: NestedKey = write("action")

    network_inputs: Mapping[str, str] = {"actor_network": "root"}
    network_outputs: Mapping[str, tuple[str, ...]] = {"actor_network": ("action_pred",)}

    @old_keywords()
    def __init__(
        self,
        actor_network: Any,
        *,
        loss_function: str = "l2",
        reduction: str | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        check_devices(self, device=device)
        super().__init__(reduction=reduction)
        self.convert_to_functional(actor_network, "actor_network")
        self.loss_function = known_distance(self, loss_function)
        self.out_keys = ["loss"]
        if device is not None:
            self.to(device)

    def losses(self, td: TensorDictBase) -> dict[str, Tensor]:
        keys = self.tensor_keys
        predicted = take(self.actor_network, td, keys.action_pred)
        distance = distance_loss(predicted, td.get(keys.action_target), self.loss_function)
        return {
            "loss": per_item(distance.flatten(td.ndim)) if distance.ndim > td.ndim else distance
        }


class OnlineDTLoss(MaxEntropyLoss):
    r"""Raise the likelihood of the data's actions, at an entropy that is held.

    .. math:: L = -\log\pi(a|h) - \alpha H(\pi), \quad L_\alpha = \log\alpha\, (H(\pi) - \bar H)

    Args:
        actor_network: A policy with a distribution over ``action [*B, T, A]``.
        target_entropy: See :class:`~torchrl.objectives.max_entropy.MaxEntropyLoss`.
        samples_mc_entropy: How many samples estimate an entropy without closed form.
        options: Arguments of :class:`~torchrl.objectives.max_entropy.MaxEntropyLoss`:
            ``alpha_init``, ``min_alpha``, ``max_alpha``, ``fixed_alpha``, ``action_spec``,
            ``reduction``.

    Reads: ``action [*B, T, A]`` and the inputs of the policy.
    Returns: ``loss_log_likelihood``, ``loss_entropy``, ``loss_alpha``, ``alpha``, ``entropy``.

    Source: Zheng et al., 2022, https://arxiv.org/abs/2202.05607, eq. 3 to 5.
    """

    _AcceptedKeys: Any = DTLoss._AcceptedKeys
    network_inputs: Mapping[str, str] = {"actor_network": "root"}

    def __init__(
        self,
        actor_network: Any,
        *,
        target_entropy: float | str = "auto",
        action_spec: Any = None,
        samples_mc_entropy: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.samples_mc_entropy = samples_mc_entropy
        self._set_actor(actor_network)
        self._set_target_entropy(target_entropy, action_spec)
        self.out_keys = [
            "loss_log_likelihood",
            "loss_entropy",
            "loss_alpha",
            "alpha",
            "entropy",
        ]

    def losses(self, td: TensorDictBase) -> dict[str, Tensor]:
        self._limit_alpha()
        actor, key = self.actor_network, self.tensor_keys.action_target
        self._infer_target_entropy([td.get(key)], td.ndim)
        dist = distribution(actor, td)
        spread = entropy(dist, td.ndim, self.samples_mc_entropy)  # [*B, T]
        return {
            "loss_log_likelihood": -log_prob(dist, td, key, td.ndim),
            "loss_entropy": -self.alpha * spread,
            **self._alpha_losses(-spread),
            **self._reports(-spread, self._mask(td)),
        }
