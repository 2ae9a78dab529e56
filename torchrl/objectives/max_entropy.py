"""What losses of maximum entropy share: draws of the policy and the temperature."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn

from torchrl._core.errors import describe
from torchrl._core.keys import as_keys, write
from torchrl._core.math import cleared
from torchrl.data import TensorSpec
from torchrl.modules.tensordict_module.probabilistic import reads_own_draws
from torchrl.objectives.distributions import check_actor, distribution, draw, heads
from torchrl.objectives.off_policy import CriticKeys, CriticLoss, spec_leaf

Actions = dict[NestedKey, Tensor]
OUT_KEYS = ("loss_actor", "loss_qvalue", "loss_alpha", "alpha", "entropy")


@dataclass
class MaxEntropyKeys(CriticKeys):
    """Names of the entries of losses of maximum entropy."""

    value: NestedKey = write("state_value")
    state_action_value: NestedKey = write("state_action_value")
    log_prob: NestedKey = write("action_log_prob")


class MaxEntropyLoss(CriticLoss):
    r"""Base of the losses that reward a policy for its entropy, at a temperature that is learnt.

    .. math:: L_\alpha = -\log\alpha\, (\log\pi(a|s) + \bar H)

    Args:
        alpha_init: Temperature at the start.
        min_alpha: Its lower limit.
        max_alpha: Its upper limit.
        fixed_alpha: Do not learn it.
        target_entropy: What the entropy is driven to, in nats; ``"auto"`` is minus the number of
            dimensions of the action.
        action_spec: Spec of the action, or a composite that has it; without it, the policy's own
            spec or the first batch tells the dimensions of the action.
        options: Arguments of :class:`~torchrl.objectives.off_policy.CriticLoss`.

    Source: Haarnoja et al., 2018, https://arxiv.org/abs/1812.05905, section 5.
    """

    _AcceptedKeys = MaxEntropyKeys
    keys_of_heads: ClassVar[tuple[str, ...]] = ("action", "log_prob")
    network_inputs: Mapping[str, str] = {"actor_network": "root next", "qvalue_network": "root next"}
    network_outputs: Mapping[str, tuple[str, ...]] = {
        "qvalue_network": ("state_action_value",),
        "value_network": ("value",),
    }
    log_alpha: Tensor
    target_entropy: Tensor
    actor_network: Any

    def __init__(
        self,
        *,
        alpha_init: float = 1.0,
        min_alpha: float | None = None,
        max_alpha: float | None = None,
        fixed_alpha: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        limits = (min_alpha or 0.0, math.inf if max_alpha is None else max_alpha)
        if not limits[0] <= alpha_init <= limits[1] or alpha_init <= 0:
            raise ValueError(
                describe(
                    self,
                    "got an alpha_init out of its limits",
                    expected=f"more than 0, in {list(limits)}",
                    found=alpha_init,
                )
            )
        has_limits = min_alpha is not None or max_alpha is not None
        self._log_limits = tuple(math.log(x) if x > 0 else -math.inf for x in limits)
        self._has_limits = has_limits and not fixed_alpha
        self.fixed_alpha = fixed_alpha
        log_alpha = torch.tensor(math.log(alpha_init))
        if fixed_alpha:
            self.register_buffer("log_alpha", log_alpha)
        else:
            self.log_alpha = nn.Parameter(log_alpha)

    def _set_actor(self, actor_network: Any, target: bool = False) -> None:
        self.convert_to_functional(actor_network, "actor_network", create_target_params=target)
        check_actor(self, actor_network)
        if reads_own_draws(actor_network):
            raise TypeError(
                describe(
                    self,
                    "draws the actions of all heads at once",
                    expected="heads that follow from observations alone",
                    found="a head that reads what another has drawn",
                )
            )
        device = next((p.device for p in actor_network.parameters()), None)
        if device is not None:
            self.log_alpha.data = self.log_alpha.data.to(device)
        keys = actor_network.dist_sample_keys
        if len(keys) == 1 and keys[0] != "_" and hasattr(self.tensor_keys, "action"):
            self.tensor_keys.action = keys[0]

    def _set_target_entropy(self, target_entropy: float | str, action_spec: TensorSpec | None) -> None:
        if target_entropy == "auto":
            spec = action_spec
            if spec is None:
                spec = getattr(self.actor_network, "spec", None)
            dims = None if spec is None else action_dims(spec, self.actor_network.dist_sample_keys)
            target_entropy = math.nan if dims is None else -float(dims)
        self._coefficient("target_entropy", float(target_entropy))
        self._knows_target_entropy = not math.isnan(float(target_entropy))

    def _draw(self, td: TensorDictBase, actor: object = None) -> tuple[Actions, Tensor]:
        """Return actions of the policy and their log-probability ``[*B]``, both with gradients."""
        actor = self.actor_network if actor is None else actor
        dist = distribution(actor, td)
        if not all(part.has_rsample for part in heads(dist).values()):
            raise TypeError(
                describe(
                    self,
                    "needs actions with a gradient",
                    expected="a distribution with rsample, such as TanhNormal",
                    found=type(dist).__name__,
                )
            )
        actions, log_prob = draw(dist, self.tensor_keys.action, self._log_prob_ndim(td))
        self._infer_target_entropy(actions.values(), log_prob.ndim)
        return actions, log_prob

    def _ahead(self, td: TensorDictBase, value: Callable[[TensorDictBase], Tensor], skip: bool) -> Tensor:
        """Return values ``[*B, ...]`` of the next steps, if asked only of those that are not final.

        Args:
            td: The batch.
            value: Called on the next steps.
            skip: Whether done steps are left out; their values, which do not count, are 0.
        """
        if not skip:
            return self._at_next(td, value)
        done, terminated = self.value_estimator.ends(td)
        goes_on = ~(done | terminated).squeeze(-1)  # [*B]
        if self._remembers(td):  # sequences have no gaps
            return cleared(self._at_next(td, value), goes_on)
        some = value(td.get("next")[goes_on])
        return some.new_zeros((*goes_on.shape, *some.shape[1:])).index_put((goes_on,), some)

    def _of_known_targets(self, td: TensorDictBase, error: Tensor, skip: bool) -> Tensor:
        """Return errors ``[*B]`` of critics; rows whose target is unknown do not count.

        Args:
            td: The batch.
            error: Of each row.
            skip: Whether nothing is read of what follows done steps: then the target of a row that
                was truncated is not known.
        """
        if not skip:
            return error
        done, terminated = self.value_estimator.ends(td)
        known, mask = ~(done & ~terminated).squeeze(-1), self.row_mask(td)  # [*B]
        error = cleared(error, known)
        if self.reduction != "mean":
            return error
        rows = torch.ones_like(known) if mask is None else mask
        return error * (rows.sum() / (rows & known).sum().clamp_min(1))

    def _infer_target_entropy(self, actions: Iterable[Tensor], ndim: int) -> None:
        """Count the dimensions of actions ``[*B, ...]``, if no spec has told them."""
        if not self._knows_target_entropy:
            dims = sum(math.prod(action.shape[ndim:]) for action in actions)
            self.target_entropy.fill_(-float(dims))
            self._knows_target_entropy = True

    def _log_prob_ndim(self, td: TensorDictBase) -> int:
        """Return how many dimensions ``*B`` are; agents of a group with own actions count."""
        keys = as_keys(self.tensor_keys.action)
        if len(keys) == 1 and len(self.actor_network.dist_sample_keys) > 1:
            keys = self.actor_network.dist_sample_keys
        groups = [td.get(key[:-1], None) if isinstance(key, tuple) else td for key in keys]
        return min(td.ndim if group is None else group.ndim for group in groups)

    @property
    def alpha(self) -> Tensor:
        """The temperature, without gradient."""
        return self.log_alpha.detach().exp()

    def _alpha_losses(self, log_prob: Tensor) -> dict[str, Tensor]:
        """Return the loss of the temperature ``[*B]``, if it is learnt."""
        entropy_gap = (log_prob + self.target_entropy).detach()
        if self.fixed_alpha:
            return {"loss_alpha": torch.zeros_like(entropy_gap)}
        return {"loss_alpha": -self.log_alpha * entropy_gap}

    def _limit_alpha(self) -> None:
        if self._has_limits:
            with torch.no_grad():
                self.log_alpha.copy_(self.log_alpha.clamp(*self._log_limits))

    def _reports(self, log_prob: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        return {"alpha": self.alpha, "entropy": -self._reduce(log_prob.detach(), mask, "mean")}


class SoftActorCriticLoss(MaxEntropyLoss):
    """Base of the losses of maximum entropy that have a critic of actions.

    Hooks:
        _critic_terms: ``td -> {"loss_qvalue": [*B], ...}``; writes the priority.
        _actor_terms: ``td -> ({"loss_actor": [*B], ...}, log-probabilities [*B])``.
    """

    _AcceptedKeys: Any = MaxEntropyKeys

    def losses(self, td: TensorDictBase) -> dict[str, Tensor]:
        self._limit_alpha()
        critic = self._critic_terms(td)
        actor, log_prob = self._actor_terms(td)
        reports = self._reports(log_prob, self.row_mask(td))
        return {**actor, **critic, **self._alpha_losses(log_prob), **reports}

    def _critic_terms(self, td: TensorDictBase) -> dict[str, Tensor]:
        raise NotImplementedError

    def _actor_terms(self, td: TensorDictBase) -> tuple[dict[str, Tensor], Tensor]:
        raise NotImplementedError

    def actor_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Return ``loss_actor`` of a batch, and what is reported beside it, with ``log_prob [*B]``."""
        return self._term(tensordict, self._policy_terms, "loss_actor")

    def qvalue_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Return ``loss_qvalue`` of a batch, and what is reported beside it; write the priority."""
        return self._term(tensordict, self._critic_terms, "loss_qvalue", has_priority=True)

    def alpha_loss(
        self, tensordict: TensorDictBase | Mapping[str, Tensor] | None = None, *, log_prob: Tensor | None = None
    ) -> Any:
        """Return ``loss_alpha``, and what is reported beside it; the loss alone if ``log_prob`` is given.

        Args:
            tensordict: What :meth:`actor_loss` reported; or a batch, for which actions are drawn.
            log_prob: Log-probabilities ``[*B]`` of the policy's actions, in its place.
        """
        self._limit_alpha()
        if log_prob is not None:
            return self._reduce(self._alpha_losses(log_prob)["loss_alpha"])
        report: Any = tensordict
        if isinstance(tensordict, TensorDictBase):
            report = self._term(tensordict, self._policy_terms, "loss_actor")[1]
        loss = self._alpha_losses(report["log_prob"])["loss_alpha"]
        return self._reduce(loss, report.get("mask")), {"alpha": self.alpha}

    def _policy_terms(self, td: TensorDictBase) -> dict[str, Tensor]:
        self._limit_alpha()
        terms, log_prob = self._actor_terms(td)
        return {**terms, "log_prob": log_prob, **self._reports(log_prob, self.row_mask(td))}


def action_dims(spec: Any, keys: list[NestedKey]) -> int | None:
    """Return how many numbers an action has, all heads together; ``None`` if the spec has none.

    Batch dimensions of a composite, and agents of a group within it, do not count.
    """
    if not hasattr(spec, "keys"):
        return math.prod(spec.shape)
    present = set(spec.keys(True, True))
    if not present:
        return None
    chosen = [key for key in keys if key in present] or [key for key in present if len(present) == 1]
    if not chosen:
        return None
    total = 0
    for key in chosen:
        leaf = spec_leaf(spec, key)
        parent = spec[key[:-1]] if isinstance(key, tuple) and len(key) > 1 else spec
        total += math.prod(leaf.shape[len(parent.shape) :])
    return total
