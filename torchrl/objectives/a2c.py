"""Advantage actor-critic: Mnih et al., 2016, https://arxiv.org/abs/1602.01783."""

from __future__ import annotations

from typing import Any

from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl._core.legacy import old_keywords
from torchrl._core.math import standardized
from torchrl.objectives.actor_critic import OLD_KEYWORDS, ActorCriticLoss
from torchrl.objectives.distributions import distribution, log_prob, per_item


class A2CLoss(ActorCriticLoss):
    r"""Policy gradient along the advantage, with a critic and an entropy bonus.

    .. math:: L = -\log\pi(a|s)\, A - c_H H(\pi) + c_V\, d(V(s), G)

    Args:
        actor_network: A policy with a distribution.
        critic_network: Reads observations, writes ``state_value [*B, 1]``.
        entropy_bonus: Whether the entropy is part of the loss.
        normalize_advantage: Standardise the advantages of each batch; ``advantage_norm`` is another
            name for it.
        options: Arguments of :class:`~torchrl.objectives.actor_critic.ActorCriticLoss`: ``gamma``,
            ``entropy_coeff``, ``critic_coeff``, ``loss_critic_type``, ``clip_value``,
            ``separate_losses``, ``reduction``, names of entries.

    Reads: ``action``, ``advantage [*B, 1]``, ``value_target [*B, 1]`` and the inputs of both
        networks.
    Returns: ``loss_objective``, ``loss_critic``, ``entropy``, ``loss_entropy``.

    Source: Mnih et al., 2016, https://arxiv.org/abs/1602.01783, algorithm S3.

    >>> from torchrl.envs import GymEnv
    >>> from torchrl.modules import make_actor, make_critic
    >>> env = GymEnv("Pendulum-v1")
    >>> actor = make_actor(env, num_cells=(16,))
    >>> loss = A2CLoss(actor, make_critic(env, num_cells=(16,)), gamma=0.9)
    >>> losses = loss(env.rollout(8, actor))  # advantages are estimated if the batch has none
    >>> list(losses.keys())
    ['loss_objective', 'loss_entropy', 'entropy', 'loss_critic']
    >>> losses.backward()
    """

    @old_keywords(**OLD_KEYWORDS)
    def __init__(
        self,
        actor_network: TensorDictModuleBase,
        critic_network: TensorDictModuleBase | None = None,
        *,
        entropy_bonus: bool = True,
        normalize_advantage: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(actor_network, critic_network, entropy_bonus=entropy_bonus, **options)
        self.normalize_advantage = bool(normalize_advantage)
        names: list[NestedKey] = ["loss_objective", *["loss_critic"] * self.has_critic]
        if entropy_bonus:
            names += ["entropy", "loss_entropy"]
        self.out_keys = names + ["value_clip_fraction"] * (self.has_critic and self.clips_value)

    def losses(self, td: TensorDictBase) -> dict[str, Tensor]:
        mask = self.row_mask(td)
        td, advantage = self.with_advantage(td, mask)  # [*B, 1]
        if self.normalize_advantage:
            advantage = standardized(advantage, mask)
        dist = distribution(self.actor_network, td)
        ndim = advantage.ndim - 1
        score = log_prob(dist, td, self.tensor_keys.action, ndim).unsqueeze(-1)  # [*B, 1]
        return {
            "loss_objective": per_item(-score * advantage),
            **self._entropy_losses(dist, ndim, mask),
            **self._critic_losses(td, mask),
        }
