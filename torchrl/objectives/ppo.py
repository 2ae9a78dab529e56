"""Proximal policy optimisation: Schulman et al., 2017, https://arxiv.org/abs/1707.06347."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torch.distributions import Distribution

from torchrl._core.errors import describe
from torchrl._core.keys import read, require
from torchrl._core.legacy import old_keywords
from torchrl.objectives.actor_critic import OLD_KEYWORDS, ActorCriticLoss
from torchrl.objectives.calls import distribution
from torchrl.objectives.distributions import OLD_LOG_PROB, divergence, old_log_prob
from torchrl.objectives.masks import cleared, per_item, standardized


class PPOLoss(ActorCriticLoss):
    r"""Importance-weighted policy gradient, with nothing that keeps the policy near.

    .. math:: L = -\frac{\pi(a|s)}{\mu(a|s)} A - c_H H(\pi) + c_V\, d(V(s), G)

    Args:
        actor_network: A policy with a distribution.
        critic_network: Reads observations, writes ``state_value [*B, 1]``.
        entropy_bonus: Whether the entropy is part of the loss.
        log_explained_variance: Report how much of the targets the critic explains.
        normalize_advantage: Standardise the advantages of each batch; ``advantage_norm`` is another
            name for it.
        normalize_advantage_exclude_dims: Dimensions of which each index is standardised by itself.
        delay_actor: Measure what is near from a frozen copy of the policy, which follows by
            :class:`SoftUpdate` or :class:`HardUpdate`, rather than from the one that acted: the
            objective is that of :math:`\pi / \bar\pi`, and the advantage is weighed by
            :math:`\bar\pi / \mu` (Hilton et al., 2021, https://arxiv.org/abs/2110.00641, eq. 3).
        max_importance_ratio: Upper limit of the importance weight.
        options: Arguments of :class:`~torchrl.objectives.actor_critic.ActorCriticLoss`: ``gamma``,
            ``entropy_coeff``, ``critic_coeff``, ``loss_critic_type``, ``clip_value``,
            ``separate_losses``, ``reduction``, names of entries.

    Reads: ``action``, ``action_log_prob [*B]`` (or ``sample_log_prob``), ``advantage [*B, 1]``,
        ``value_target [*B, 1]``, and the inputs of both networks.
    Returns: ``loss_objective``, ``loss_entropy``, ``loss_critic``, ``entropy``, ``kl_approx`` (the
        estimate :math:`r - 1 - \log r`, Schulman, 2020, http://joschu.net/blog/kl-approx.html),
        ``explained_variance``.
    """

    @dataclass
    class _AcceptedKeys(ActorCriticLoss._AcceptedKeys):
        sample_log_prob: NestedKey = read("action_log_prob")

    @old_keywords(**OLD_KEYWORDS)
    def __init__(
        self,
        actor_network: TensorDictModuleBase,
        critic_network: TensorDictModuleBase | None = None,
        *,
        entropy_bonus: bool = True,
        log_explained_variance: bool = True,
        normalize_advantage: bool = False,
        normalize_advantage_exclude_dims: tuple[int, ...] = (),
        delay_actor: bool = False,
        max_importance_ratio: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(actor_network, critic_network, entropy_bonus=entropy_bonus, **options)
        self.delay_actor = delay_actor
        if delay_actor:
            self.convert_to_functional(actor_network, "actor_network", create_target_params=True)
        self.log_explained_variance = log_explained_variance
        self.normalize_advantage = normalize_advantage
        self.normalize_advantage_exclude_dims = tuple(normalize_advantage_exclude_dims)
        self.max_importance_ratio = max_importance_ratio
        self.out_keys = self._names_of_outputs()

    def _names_of_outputs(self) -> list[NestedKey]:
        names: list[NestedKey] = ["loss_objective", *self._objective_names(), "kl_approx"]
        if self.entropy_bonus:
            names += ["loss_entropy", "entropy"]
        if self.has_critic:
            names += ["loss_critic"]
            names += ["value_clip_fraction"] * self.clips_value
            names += ["explained_variance"] * self.log_explained_variance
        return names

    def _objective_names(self) -> list[str]:
        return []

    def _stand_ins(self, key: NestedKey) -> list[NestedKey]:
        if key == self.tensor_keys.sample_log_prob:  # one name for all heads
            return [OLD_LOG_PROB, *getattr(self.actor_network, "log_prob_keys", [])]
        return super()._stand_ins(key)

    def losses(self, td: TensorDictBase) -> dict[str, Tensor]:
        mask = self._mask(td)
        td = self._with_advantage(td)
        advantage = self._advantage(td, mask)  # [*B, 1]
        if self.normalize_advantage:
            dims = self.normalize_advantage_exclude_dims
            advantage = standardized(advantage, mask, dims)
        ndim = advantage.ndim - 1
        dist = distribution(self.actor_network, td)
        before = old_log_prob(
            self, td, self.tensor_keys.sample_log_prob, self.actor_network, ndim
        )  # [*B]
        if self.delay_actor:
            with torch.no_grad():
                near = self._log_prob(self._delayed(td), td, advantage)
                advantage = advantage * self._limited(near - before, mask).exp().unsqueeze(-1)
                before = near
        log_weight = self._limited(self._log_prob(dist, td, advantage) - before, mask)
        out = self._objective(log_weight.unsqueeze(-1), advantage, mask)
        out["loss_objective"] = per_item(out["loss_objective"])
        with torch.no_grad():
            out["kl_approx"] = self._mean(log_weight.expm1() - log_weight, mask)
        out.update(self._entropy_losses(dist, ndim, mask))
        out.update(self._critic_losses(td, mask, self.log_explained_variance))
        return self._adapted(out, td, dist, ndim)

    def _delayed(self, td: TensorDictBase) -> Distribution:
        """Return the distribution of the frozen copy of the policy."""
        return distribution(self.target("actor_network"), td)

    def _limited(self, log_weight: Tensor, mask: Tensor | None) -> Tensor:
        """Return logarithms of importance weights up to their limit; of padding 0."""
        log_weight = cleared(log_weight, mask)
        if self.max_importance_ratio is None:
            return log_weight
        return log_weight.clamp_max(math.log(self.max_importance_ratio))

    def _objective(
        self, log_weight: Tensor, advantage: Tensor, mask: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the loss of the policy ``[*B, 1]``, and what is reported of it."""
        return {"loss_objective": -log_weight.exp() * advantage}

    def _adapted(
        self, out: dict[str, Tensor], td: TensorDictBase, dist: Any, ndim: int
    ) -> dict[str, Tensor]:
        """Return the losses with what a variant adds."""
        return out


class ClipPPOLoss(PPOLoss):
    r"""Proximal policy optimisation with the clipped objective.

    .. math:: L = -\min(w A,\ \operatorname{clip}(w, 1 - \epsilon, 1 + \epsilon) A) - c_H H(\pi)
        + c_V\, d(V(s), G), \quad w = \pi(a|s) / \mu(a|s)

    Args:
        actor_network: A policy with a distribution.
        critic_network: Reads observations, writes ``state_value [*B, 1]``.
        clip_epsilon: How far the weight counts; a pair is (below, above) 1.
        options: Arguments of :class:`PPOLoss`.

    Reads: As :class:`PPOLoss`.
    Returns: As :class:`PPOLoss`, and ``clip_fraction`` (the share of weights out of reach), ``ESS``
        (the share of samples that count), ``max_ratio`` and ``mean_ratio`` of the weights.

    Source: Schulman et al., 2017, https://arxiv.org/abs/1707.06347, eq. 7 and 9.
    """

    @old_keywords(actor="actor_network", critic="critic_network")
    def __init__(
        self,
        actor_network: TensorDictModuleBase,
        critic_network: TensorDictModuleBase | None = None,
        *,
        clip_epsilon: float | tuple[float, float] = 0.2,
        **options: Any,
    ) -> None:
        super().__init__(actor_network, critic_network, **options)
        self._coefficient("clip_epsilon", clip_epsilon)

    def _objective_names(self) -> list[str]:
        return ["clip_fraction", "ESS", "max_ratio", "mean_ratio"]

    def _objective(
        self, log_weight: Tensor, advantage: Tensor, mask: Tensor | None
    ) -> dict[str, Tensor]:
        epsilon = self.clip_epsilon
        low, high = (epsilon, epsilon) if epsilon.ndim == 0 else epsilon.unbind()
        ratio = log_weight.exp()  # [*B, 1]
        clipped = ratio.clamp(1 - low, 1 + high)
        gain = torch.minimum(ratio * advantage, clipped * advantage)
        weights = cleared(ratio.detach(), mask)
        count = weights.numel() if mask is None else mask.sum()
        total = weights.sum()
        return {
            "loss_objective": -gain,
            "clip_fraction": self._mean((clipped != ratio).to(ratio.dtype), mask),
            "ESS": total.square() / weights.square().sum() / count,
            "max_ratio": weights.max(),
            "mean_ratio": total / count,
        }


class KLPENPPOLoss(PPOLoss):
    r"""Proximal policy optimisation with an adaptive penalty on the divergence.

    .. math:: L = -w A + \beta\, KL(\mu \,\|\, \pi) - c_H H(\pi) + c_V\, d(V(s), G)

    After each call :math:`\beta` grows if the divergence passes 1.5 times its goal, and shrinks if
    it falls below the goal divided by 1.5.

    Args:
        actor_network: A policy with a distribution.
        critic_network: Reads observations, writes ``state_value [*B, 1]``.
        dtarg: Goal of the divergence, in nats.
        beta: Weight of the penalty at the start.
        increment: Factor by which it grows.
        decrement: Factor by which it shrinks.
        samples_mc_kl: How many samples estimate a divergence without closed form.
        options: Arguments of :class:`PPOLoss`.

    Reads: As :class:`PPOLoss`, and the parameters of the distribution that acted, unless that of
        the delayed actor stands for it.
    Returns: As :class:`PPOLoss`, and ``kl []``.

    Source: Schulman et al., 2017, https://arxiv.org/abs/1707.06347, eq. 8.
    """

    beta: Tensor

    @old_keywords(actor="actor_network", critic="critic_network")
    def __init__(
        self,
        actor_network: TensorDictModuleBase,
        critic_network: TensorDictModuleBase | None = None,
        *,
        dtarg: float = 0.01,
        beta: float = 1.0,
        increment: float = 2.0,
        decrement: float = 0.5,
        samples_mc_kl: int = 1,
        **options: Any,
    ) -> None:
        if increment < 1 or decrement > 1:
            raise ValueError(
                f"{type(self).__name__}: expected increment >= 1 >= decrement, "
                f"found increment={increment}, decrement={decrement}."
            )
        super().__init__(actor_network, critic_network, **options)
        if not self.delay_actor and getattr(actor_network, "return_composite", False):
            raise TypeError(
                describe(
                    self,
                    "cannot tell from a batch the distribution of each draw of a chain",
                    expected="a policy with one distribution, of several heads or not",
                    found="return_composite=True",
                    hint="Pass delay_actor=True.",
                )
            )
        self.dtarg, self.increment, self.decrement = dtarg, increment, decrement
        self.samples_mc_kl = samples_mc_kl
        self._coefficient("beta", beta)

    def _collect_in_keys(self) -> list[NestedKey]:
        keys = super()._collect_in_keys()
        if not self.delay_actor:
            keys += self.actor_network.dist_params_keys
        return list(dict.fromkeys(keys))

    def _objective_names(self) -> list[str]:
        return ["kl"]

    def _adapted(
        self, out: dict[str, Tensor], td: TensorDictBase, dist: Any, ndim: int
    ) -> dict[str, Tensor]:
        if self.delay_actor:
            before = self._delayed(td)
        else:
            require(td, self.actor_network.dist_params_keys, self)
            before = self.actor_network.build_dist_from_params(td)
        kl = divergence(before, dist, ndim, self.samples_mc_kl)  # [*B]
        out["loss_objective"] = out["loss_objective"] + self.beta * kl
        out["kl"] = kl = self._mean(kl.detach(), self._mask(td))
        factor = torch.where(kl > 1.5 * self.dtarg, self.increment, 1.0)
        factor = torch.where(kl < self.dtarg / 1.5, self.decrement, factor)
        self.beta = self.beta * factor.to(self.beta)
        return out
