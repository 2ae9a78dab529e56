"""REINFORCE: Williams, 1992, https://doi.org/10.1007/BF00992696."""

from __future__ import annotations

from typing import Any

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl._core.legacy import old_keywords
from torchrl.objectives.actor_critic import ActorCriticLoss
from torchrl.objectives.distributions import distribution, log_prob, per_item


class ReinforceLoss(ActorCriticLoss):
    r"""Policy gradient along the advantage, with a critic as its baseline.

    .. math:: L = -\log\pi(a|s)\, A + d(V(s), G)

    Args:
        actor_network: A policy with a distribution.
        critic_network: Reads observations, writes ``state_value [*B, 1]``.
        delay_value: Estimate advantages with a target copy of the critic.
        options: Arguments of :class:`~torchrl.objectives.actor_critic.ActorCriticLoss`: ``gamma``,
            ``loss_critic_type``, ``clip_value``, ``entropy_bonus`` (off by default),
            ``separate_losses``, ``reduction``, names of entries.

    Reads: ``action``, ``advantage [*B, 1]``, ``value_target [*B, 1]`` and the inputs of both
        networks.
    Returns: ``loss_actor``, ``loss_value``; with ``entropy_bonus`` also ``loss_entropy``,
        ``entropy``.

    Source: Williams, 1992, https://doi.org/10.1007/BF00992696, section 4.

    >>> from torchrl.envs import GymEnv
    >>> from torchrl.modules import make_actor, make_critic
    >>> env = GymEnv("CartPole-v1")
    >>> actor = make_actor(env, num_cells=(16,))
    >>> loss = ReinforceLoss(actor, make_critic(env, num_cells=(16,)))
    >>> batch = loss.value_estimator(env.rollout(8, actor))
    >>> list(loss(batch).keys())
    ['loss_actor', 'loss_value']
    """

    @old_keywords(actor="actor_network", critic="critic_network")
    def __init__(
        self,
        actor_network: TensorDictModuleBase,
        critic_network: TensorDictModuleBase | None = None,
        *,
        delay_value: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(actor_network, critic_network, delay_value=delay_value, **options)
        self.out_keys = ["loss_actor"]
        if self.has_critic:
            self.out_keys += ["loss_value", *["value_clip_fraction"] * self.clips_value]
        if self.entropy_bonus:
            self.out_keys += ["loss_entropy", "entropy"]

    def losses(self, td: TensorDictBase) -> dict[str, Tensor]:
        mask = self.row_mask(td)
        td, advantage = self.with_advantage(td, mask)  # [*B, 1]
        dist = distribution(self.actor_network, td)
        ndim = advantage.ndim - 1
        score = log_prob(dist, td, self.tensor_keys.action, ndim).unsqueeze(-1)  # [*B, 1]
        out = self._critic_losses(td, mask)
        if self.has_critic:
            out["loss_value"] = out.pop("loss_critic")
        out.update(self._entropy_losses(dist, ndim, mask))
        return {"loss_actor": per_item(-score * advantage), **out}
