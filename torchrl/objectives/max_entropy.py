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
from torchrl.modules.tensordict_module.probabilistic import reads_own_draws
from torchrl.objectives.calls import distribution
from torchrl.objectives.distributions import check_actor, draw, heads
from torchrl.objectives.masks import cleared
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
    network_inputs: Mapping[str, str] = {
        "actor_network": "root next",
        "qvalue_network": "root next",
    }
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

    def _set_target_entropy(self, target_entropy: float | str, action_spec: Any) -> None:
        if target_entropy == "auto":
            spec = action_spec
            if spec is None:
                spec = getattr(self.actor_network, "spec", None)
            dims = None if spec is None else action_dims(spec, self.actor_network.dist_sample_keys)
            target_entropy = math.nan if dims is None else -float(dims)
        self._coefficient("target_entropy", float(target_entropy))
        self._knows_target_entropy = not math.isnan(float(target_entropy))

    def _draw(self, td: TensorDictBase, actor: Any = None) -> tuple[Actions, Tensor]:
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

    def _ahead(
        self, td: TensorDictBase, value: Callable[[TensorDictBase], Tensor], skip: bool
    ) -> Tensor:
        """Return values ``[*B, ...]`` of the next steps, if asked only of those that are not final.

        Args:
            td: The batch.
            value: Called on the next steps.
            skip: Whether final steps are left out; their values, which do not count, are 0.
        """
        if not skip:
            return self._at_next(td, value)
        goes_on = ~self.value_estimator.ends(td)[1].squeeze(-1)  # [*B]
        if self._remembers(td):  # sequences have no gaps
            return cleared(self._at_next(td, value), goes_on)
        some = value(td.get("next")[goes_on])
        return some.new_zeros((*goes_on.shape, *some.shape[1:])).index_put((goes_on,), some)

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
        return {"alpha": self.alpha, "entropy": -self._mean(log_prob.detach(), mask)}


def action_dims(spec: Any, keys: list[NestedKey]) -> int | None:
    """Return how many numbers an action has, all heads together; ``None`` if the spec has none.

    Batch dimensions of a composite, and agents of a group within it, do not count.
    """
    if not hasattr(spec, "keys"):
        return math.prod(spec.shape)
    present = set(spec.keys(True, True))
    if not present:
        return None
    chosen = [key for key in keys if key in present] or [
        key for key in present if len(present) == 1
    ]
    if not chosen:
        return None
    total = 0
    for key in chosen:
        leaf = spec_leaf(spec, key)
        parent = spec[key[:-1]] if isinstance(key, tuple) and len(key) > 1 else spec
        total += math.prod(leaf.shape[len(parent.shape) :])
    return total
