"""Proximal policy optimisation for groups of agents.

``n`` agents.
"""

from __future__ import annotations

from typing import Any

from tensordict.nn import TensorDictModule, TensorDictModuleBase, TensorDictSequential
from torch import Tensor

from torchrl._core.legacy import old_keywords
from torchrl.modules import ValueNorm
from torchrl.objectives.ppo import ClipPPOLoss
from torchrl.objectives.value.registry import ValueEstimators


class MAPPOLoss(ClipPPOLoss):
    """Clipped PPO in which every agent has its advantage, and a critic may see all of them.

    Advantages come from :class:`~torchrl.objectives.value.MultiAgentGAE`, which gives the rewards
    and ends of the team to each agent, and are standardised for each agent by itself.

    Args:
        actor_network: A policy with a distribution over ``action [*B, n, A]``.
        critic_network: Writes ``state_value [*B, n, 1]``.
        value_norm: A :class:`~torchrl.modules.ValueNorm`: the critic predicts normalised values,
            and its targets, which the normaliser learns from, are normalised. Advantages must then
            come from the loss or from its ``value_estimator``, which undo it.
        entropy_coeff: Weight of the entropy.
        normalize_advantage: Standardise the advantages.
        normalize_advantage_exclude_dims: Dimensions of which each index is standardised by itself.
        options: As in :class:`~torchrl.objectives.ClipPPOLoss`.

    Reads: As :class:`~torchrl.objectives.ClipPPOLoss`, ``advantage [*B, n, 1]``.
    Returns: As :class:`~torchrl.objectives.ClipPPOLoss`.

    Source: Yu et al., 2022, https://arxiv.org/abs/2103.01955, appendix A.

    >>> from torchrl.testing.networks import team_advantages, team_networks
    >>> loss = MAPPOLoss(*team_networks())  # of two agents
    >>> loss.set_keys(action=("agents", "action"), sample_log_prob=("agents", "action_log_prob"))
    >>> loss.set_keys(value=("agents", "state_value"))
    >>> losses = loss(team_advantages())
    >>> losses.backward()
    >>> losses["loss_objective"].shape
    torch.Size([])
    """

    default_value_estimator = ValueEstimators.MAGAE

    @old_keywords(actor="actor_network", critic="critic_network", entropy_coef="entropy_coeff")
    def __init__(
        self,
        actor_network: TensorDictModuleBase,
        critic_network: TensorDictModuleBase | None = None,
        *,
        value_norm: ValueNorm | None = None,
        entropy_coeff: float = 0.01,
        normalize_advantage: bool = True,
        normalize_advantage_exclude_dims: tuple[int, ...] = (-2,),
        **options: Any,
    ) -> None:
        super().__init__(
            actor_network,
            critic_network,
            entropy_coeff=entropy_coeff,
            normalize_advantage=normalize_advantage,
            normalize_advantage_exclude_dims=normalize_advantage_exclude_dims,
            **options,
        )
        self.value_norm = value_norm

    def value_networks(self) -> dict[str, Any]:
        networks = super().value_networks()
        if self.value_norm is not None:
            key = self.tensor_keys.value
            undo = TensorDictModule(self.value_norm.denormalize, [key], [key])
            networks["value_network"] = TensorDictSequential(networks["value_network"], undo)
        return networks

    def scale_values(self, value: Tensor, mask: Tensor | None, learn: bool = False) -> Tensor:
        if self.value_norm is None:
            return value
        if learn:
            self.value_norm.update(value if mask is None else value[mask])
        return self.value_norm.normalize(value)


class IPPOLoss(MAPPOLoss):
    """Clipped PPO in which every agent learns for itself: its critic sees what it sees.

    The formulas are those of :class:`MAPPOLoss`; what differs is the critic that is passed.

    Source: de Witt et al., 2020, https://arxiv.org/abs/2011.09533.

    >>> from torchrl.testing.networks import team_advantages, team_networks
    >>> loss = IPPOLoss(*team_networks())  # the critic reads ("agents", "observation")
    >>> loss.set_keys(action=("agents", "action"), sample_log_prob=("agents", "action_log_prob"))
    >>> loss.set_keys(value=("agents", "state_value"))
    >>> loss(team_advantages())["loss_critic"].shape
    torch.Size([])
    """
