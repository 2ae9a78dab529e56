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
from torchrl._core.math import cleared, standardized
from torchrl.objectives.actor_critic import OLD_KEYWORDS, ActorCriticLoss
from torchrl.objectives.distributions import (
    LOG_PROB,
    OLD_LOG_PROB,
    distribution,
    divergence,
    log_prob,
    old_log_prob,
    per_item,
)


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
    Returns: ``loss_objective``, ``entropy``, ``loss_entropy``, ``loss_critic``; in a tensordict also
        ``kl_approx`` (the estimate :math:`r - 1 - \log r`, Schulman, 2020,
        http://joschu.net/blog/kl-approx.html) and ``explained_variance``.

    >>> from torchrl.envs import GymEnv
    >>> from torchrl.modules import make_actor, make_critic
    >>> env = GymEnv("Pendulum-v1")
    >>> actor = make_actor(env, num_cells=(16,))
    >>> loss = PPOLoss(actor, make_critic(env, num_cells=(16,)))
    >>> batch = loss.value_estimator(env.rollout(8, actor))  # once, before the epochs
    >>> losses = loss(batch)
    >>> round(losses["kl_approx"].item(), 6)  # the policy has not moved yet
    0.0
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
        first, last = self.objective_keys()
        names: list[NestedKey] = ["loss_objective", *first]
        if self.entropy_bonus:
            names += ["entropy", "loss_entropy"]
        if self.has_critic:
            names += ["loss_critic"] + ["value_clip_fraction"] * self.clips_value
        return names + last

    def objective_keys(self) -> tuple[list[NestedKey], list[NestedKey]]:
        """Return what a variant reports in a tuple: after the objective, and at the end."""
        return [], []

    def alternatives(self, key: NestedKey) -> list[NestedKey]:
        if key == self.tensor_keys.sample_log_prob:  # one name for all heads
            return [LOG_PROB, OLD_LOG_PROB, *getattr(self.actor_network, "log_prob_keys", [])]
        return super().alternatives(key)

    def losses(self, td: TensorDictBase) -> dict[str, Tensor]:
        mask = self.row_mask(td)
        td, advantage = self.with_advantage(td, mask)  # [*B, 1]
        if self.normalize_advantage:
            dims = self.normalize_advantage_exclude_dims
            advantage = standardized(advantage, mask, dims)
        ratio = self.max_importance_ratio
        ndim, limit = advantage.ndim - 1, None if ratio is None else math.log(ratio)
        dist = distribution(self.actor_network, td)
        before = old_log_prob(self, td, self.tensor_keys.sample_log_prob, self.actor_network, ndim)  # [*B]
        if self.delay_actor:
            with torch.no_grad():
                near = log_prob(self._delayed(td), td, self.tensor_keys.action, ndim)
                staleness = near - before if mask is None else cleared(near - before, mask)
                if limit is not None:
                    staleness = staleness.clamp_max(limit)
                advantage, before = advantage * staleness.exp().unsqueeze(-1), near
        log_weight = log_prob(dist, td, self.tensor_keys.action, ndim) - before  # [*B]
        if mask is not None:
            log_weight = cleared(log_weight, mask)
        if limit is not None:
            log_weight = log_weight.clamp_max(limit)
        out = self.policy_objective(log_weight.unsqueeze(-1), advantage, mask)
        out["loss_objective"] = per_item(out["loss_objective"])
        with torch.no_grad():
            out["kl_approx"] = self._reduce(log_weight.expm1() - log_weight, mask, "mean")
        out.update(self._entropy_losses(dist, ndim, mask))
        out.update(self._critic_losses(td, mask, self.log_explained_variance))
        return self.add_terms(out, td, dist, ndim)

    def _delayed(self, td: TensorDictBase) -> Distribution:
        """Return the distribution of the frozen copy of the policy."""
        return distribution(self.target("actor_network"), td)

    def policy_objective(self, log_weight: Tensor, advantage: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Return the loss of the policy ``[*B, 1]``, and what is reported of it."""
        return {"loss_objective": -log_weight.exp() * advantage}

    def add_terms(self, out: dict[str, Tensor], td: TensorDictBase, dist: Any, ndim: int) -> dict[str, Tensor]:
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
        clip_value: How far the value may go from the one in the data; ``True`` takes ``clip_epsilon``.
        options: Arguments of :class:`PPOLoss`.

    Reads: As :class:`PPOLoss`.
    Returns: As :class:`PPOLoss`, and ``clip_fraction`` (the share of weights out of reach) after the
        objective, ``ESS`` (the share of samples that count) at the end; in a tensordict also
        ``max_ratio`` and ``mean_ratio`` of the weights.

    Source: Schulman et al., 2017, https://arxiv.org/abs/1707.06347, eq. 7 and 9.

    >>> from torchrl.envs import GymEnv
    >>> from torchrl.modules import make_actor, make_critic
    >>> env = GymEnv("Pendulum-v1")
    >>> actor = make_actor(env, num_cells=(16,))
    >>> loss = ClipPPOLoss(actor, make_critic(env, num_cells=(16,)), clip_epsilon=0.2, entropy_coeff=0.0)
    >>> batch = loss.value_estimator(env.rollout(8, actor))  # once, before the epochs
    >>> losses = loss(batch)
    >>> losses.backward()
    >>> losses["clip_fraction"], losses["ESS"]
    (tensor(0.), tensor(1.))
    """

    @old_keywords(actor="actor_network", critic="critic_network")
    def __init__(
        self,
        actor_network: TensorDictModuleBase,
        critic_network: TensorDictModuleBase | None = None,
        *,
        clip_epsilon: float | tuple[float, float] = 0.2,
        clip_value: bool | float | Tensor | None = None,
        **options: Any,
    ) -> None:
        if isinstance(clip_value, bool):
            clip_value = clip_epsilon if clip_value else None  # type: ignore[assignment]  # a pair is refused
        super().__init__(actor_network, critic_network, clip_value=clip_value, **options)
        self._coefficient("clip_epsilon", clip_epsilon)

    def objective_keys(self) -> tuple[list[NestedKey], list[NestedKey]]:
        return ["clip_fraction"], ["ESS"]

    def policy_objective(self, log_weight: Tensor, advantage: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        epsilon = self.clip_epsilon
        low, high = (epsilon, epsilon) if epsilon.ndim == 0 else epsilon.unbind()
        ratio = log_weight.exp()  # [*B, 1]
        clipped = ratio.clamp(1 - low, 1 + high)
        gain = torch.minimum(ratio * advantage, clipped * advantage)
        weights = ratio.detach() if mask is None else cleared(ratio.detach(), mask)
        count = weights.numel() if mask is None else mask.sum()
        total = weights.sum()
        return {
            "loss_objective": -gain,
            "clip_fraction": self._reduce((clipped != ratio).to(ratio.dtype), mask, "mean"),
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
        the delayed actor is used.
    Returns: As :class:`PPOLoss`, and ``kl []``.

    Source: Schulman et al., 2017, https://arxiv.org/abs/1707.06347, eq. 8.

    >>> from torchrl.envs import GymEnv
    >>> from torchrl.modules import make_actor, make_critic
    >>> env = GymEnv("Pendulum-v1")
    >>> actor = make_actor(env, num_cells=(16,))
    >>> loss = KLPENPPOLoss(actor, make_critic(env, num_cells=(16,)), dtarg=0.01, beta=1.0)
    >>> batch = loss.value_estimator(env.rollout(8, actor))
    >>> abs(round(loss(batch)["kl"].item(), 6)), loss.beta  # below the goal, so that the penalty shrinks
    (0.0, tensor(0.5000))
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

    def collect_in_keys(self) -> list[NestedKey]:
        keys = super().collect_in_keys()
        if not self.delay_actor:
            keys += self.actor_network.dist_params_keys
        return list(dict.fromkeys(keys))

    def objective_keys(self) -> tuple[list[NestedKey], list[NestedKey]]:
        return ["kl"], []

    def add_terms(self, out: dict[str, Tensor], td: TensorDictBase, dist: Any, ndim: int) -> dict[str, Tensor]:
        if self.delay_actor:
            before = self._delayed(td)
        else:
            require(td, self.actor_network.dist_params_keys, self)
            before = self.actor_network.build_dist_from_params(td)
        kl = divergence(before, dist, ndim, self.samples_mc_kl)  # [*B]
        out["loss_objective"] = out["loss_objective"] + self.beta * kl
        out["kl"] = kl = self._reduce(kl.detach(), self.row_mask(td), "mean")
        factor = torch.where(kl > 1.5 * self.dtarg, self.increment, 1.0)
        factor = torch.where(kl < self.dtarg / 1.5, self.decrement, factor)
        self.beta = self.beta * factor.to(self.beta)
        return out
