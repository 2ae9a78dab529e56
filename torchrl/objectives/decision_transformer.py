"""Decision transformers: return-conditioned sequences, from fixed data or online."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torch.nn import functional as F

from torchrl._core.devices import check_devices
from torchrl._core.keys import read, write
from torchrl._core.legacy import old_keywords
from torchrl._core.records.policies import take
from torchrl.data import TensorSpec
from torchrl.objectives.common import LossModule, distance_loss, known_distance
from torchrl.objectives.distributions import distribution, entropy, log_prob, per_item
from torchrl.objectives.max_entropy import MaxEntropyLoss


class DTLoss(LossModule):
    """Predict the action of the data from the history and the return to come.

    Args:
        actor_network: Reads trajectories, writes ``action [*B, T, A]``.
        loss_function: ``"l1"``, ``"l2"`` or ``"smooth_l1"``; ``"cross_entropy"`` for one discrete choice, whose
            logits ``[*B, T, N]`` the network writes: name their entry with ``set_keys(action_pred="logits")``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        device: Where the loss, its network included, is moved to.

    Reads: ``action [*B, T, A]`` and the inputs of the policy (which often are the action too); padding is told by
        the mask ``("collector", "mask") [*B, T]``.
    Returns: ``loss``.

    Source: Chen et al., 2021, https://arxiv.org/abs/2106.01345, section 3.

    >>> from torchrl.modules import MLP
    >>> from tensordict.nn import TensorDictModule
    >>> actor = TensorDictModule(MLP(5, 2), ["observation", "return_to_go"], ["action"])
    >>> loss = DTLoss(actor)  # in practice of a transformer
    >>> steps = {"observation": torch.zeros(4, 10, 4), "return_to_go": torch.ones(4, 10, 1)}
    >>> loss(**steps, action=torch.zeros(4, 10, 2)).shape
    torch.Size([])
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
        actor_network: TensorDictModuleBase,
        *,
        loss_function: str = "l2",
        reduction: str | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        check_devices(self, device=device)
        super().__init__(reduction=reduction)
        self.convert_to_functional(actor_network, "actor_network")
        is_choice = loss_function == "cross_entropy"
        self.loss_function = loss_function if is_choice else known_distance(self, loss_function)
        self.out_keys = ["loss"]
        if device is not None:
            self.to(device)

    def collect_in_keys(self) -> list[NestedKey]:
        """Return what is read; a policy that keeps its context as state reads sequences in its place."""
        sequences = getattr(self.actor_network, "sequence_keys", None)
        if sequences is None:
            return super().collect_in_keys()
        return list(dict.fromkeys([self.tensor_keys.action_target, *sequences]))

    def losses(self, td: TensorDictBase) -> dict[str, Tensor]:
        keys = self.tensor_keys
        sequences = {key: td.get(key) for key in getattr(self.actor_network, "sequence_keys", ())}
        predicted = take(self.actor_network, td, keys.action_pred, sequences)
        target = td.get(keys.action_target)
        if self.loss_function == "cross_entropy":
            number = (target.long().argmax(-1) if target.shape == predicted.shape else target).reshape(td.batch_size)
            rows = F.cross_entropy(predicted.flatten(0, -2), number.flatten(), reduction="none")
            return {"loss": rows.reshape(td.batch_size)}
        distance = distance_loss(predicted, target, self.loss_function)
        return {"loss": per_item(distance.flatten(td.ndim)) if distance.ndim > td.ndim else distance}


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

    >>> from torchrl.envs import GymEnv
    >>> from torchrl.modules import make_actor
    >>> env = GymEnv("Pendulum-v1")
    >>> loss = OnlineDTLoss(make_actor(env, num_cells=(16,)), action_spec=env.action_spec)  # a transformer in practice
    >>> list(loss(env.rollout(8)[None]).keys())
    ['loss_log_likelihood', 'loss_entropy', 'loss_alpha', 'alpha', 'entropy']
    """

    _AcceptedKeys: Any = DTLoss._AcceptedKeys
    network_inputs: Mapping[str, str] = {"actor_network": "root"}

    def __init__(
        self,
        actor_network: TensorDictModuleBase,
        *,
        target_entropy: float | str = "auto",
        action_spec: TensorSpec | None = None,
        samples_mc_entropy: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.samples_mc_entropy = samples_mc_entropy
        self._set_actor(actor_network)
        self._set_target_entropy(target_entropy, action_spec)
        self.out_keys = ["loss_log_likelihood", "loss_entropy", "loss_alpha", "alpha", "entropy"]

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
            **self._reports(-spread, self.row_mask(td)),
        }
