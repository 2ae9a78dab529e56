"""What losses of an actor and a critic share: the advantage, the entropy, the critic's error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torch.distributions import Distribution

from torchrl._core.devices import check_devices
from torchrl._core.errors import ShapeError, describe
from torchrl._core.keys import next_key, read, require, write
from torchrl._core.legacy import old_keywords
from torchrl._core.math import distance_loss, known_distance
from torchrl._core.plan import input_keys
from torchrl.objectives.calls import take
from torchrl.objectives.common import LossModule
from torchrl.objectives.distributions import check_actor, entropy, heads, log_prob
from torchrl.objectives.masks import cleared, expand_right, per_item
from torchrl.objectives.networks import frozen
from torchrl.objectives.value.estimators import ValueEstimators

OLD_KEYWORDS = {
    "actor": "actor_network",
    "critic": "critic_network",
    "entropy_coef": "entropy_coeff",
    "critic_coef": "critic_coeff",
    "advantage_norm": "normalize_advantage",
}


class ActorCriticLoss(LossModule):
    """Base of the losses that push the policy along an advantage, beside a critic.

    Without an advantage in the data, one is computed by the value estimator of the loss, if what
    that reads is there: the batch must then be of trajectories, ``[*B, T]``. It stays as it is.
    Log-probabilities of several factors are summed to the shape of the advantage without its last
    dimension.

    Args:
        actor_network: A policy with a distribution.
        critic_network: Reads observations, writes ``state_value [*B, 1]``; without it the loss
            has no term for the critic.
        entropy_bonus: Whether the entropy of the policy is part of the loss.
        entropy_coeff: Its weight, 0.01 by default; a mapping gives each head of a composite
            policy its own.
        samples_mc_entropy: How many samples estimate an entropy without closed form.
        loss_critic_type: ``"l1"``, ``"l2"`` or ``"smooth_l1"``.
        critic_coeff: Weight of the critic's error.
        clip_value: How far the value may go from the one in the data, if it is limited.
        separate_losses: Keep the critic's error out of what both networks share.
        gamma: Discount factor of the default value estimator.
        lmbda: Its trade-off parameter.
        advantage_key: Old way to name the advantage, like ``set_keys(advantage=...)``.
        value_target_key: The same for the value target.
        value_key: The same for the value.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        device: Where the loss, its networks included, is moved to.
    """

    @dataclass
    class _AcceptedKeys:
        advantage: NestedKey = read("advantage")
        value_target: NestedKey = read("value_target")
        action: NestedKey = read("action")
        value: NestedKey = write("state_value")
        sample_log_prob: NestedKey = write("action_log_prob")
        reward: NestedKey = write("reward")
        done: NestedKey = write("done")
        terminated: NestedKey = write("terminated")
        steps_to_next_obs: NestedKey = write("steps_to_next_obs")

    actor_network: Any
    critic_network: Any
    network_inputs: Mapping[str, str] = {
        "actor_network": "root",
        "critic_network": "root",
    }
    default_value_estimator = ValueEstimators.GAE
    keys_of_heads = ("action", "sample_log_prob")
    _call_keys: Any = (None, None)  # for which in_keys they were found

    @old_keywords(functional=None)  # networks are called as they are
    def __init__(
        self,
        actor_network: Any,
        critic_network: TensorDictModuleBase | None = None,
        *,
        entropy_bonus: bool = False,
        entropy_coeff: float | Mapping[NestedKey, float] | None = None,
        samples_mc_entropy: int = 1,
        loss_critic_type: str = "smooth_l1",
        critic_coeff: float | None = 1.0,
        clip_value: float | None = None,
        separate_losses: bool = False,
        delay_value: bool = False,
        gamma: float | None = None,
        lmbda: float | None = None,
        advantage_key: NestedKey | None = None,
        value_target_key: NestedKey | None = None,
        value_key: NestedKey | None = None,
        reduction: str | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        check_devices(self, device=device)
        super().__init__(reduction=reduction)
        self.convert_to_functional(actor_network, "actor_network")
        check_actor(self, actor_network)
        if critic_network is not None:
            self.convert_to_functional(
                critic_network, "critic_network", create_target_params=delay_value
            )
            if self.tensor_keys.value not in critic_network.out_keys:
                self.tensor_keys.value = critic_network.out_keys[0]
        action = actor_network.dist_sample_keys[0]
        if len(actor_network.dist_sample_keys) == 1 and action != "_":
            self.tensor_keys.action = action
        self.has_critic = critic_network is not None
        self.loss_critic_type = known_distance(self, loss_critic_type)
        self.separate_losses = separate_losses
        self._coefficient("critic_coeff", 1.0 if critic_coeff is None else critic_coeff)
        self.clips_value = clip_value is not None
        if clip_value is not None:
            self._coefficient("clip_value", clip_value)
        self.entropy_bonus, self.samples_mc_entropy = entropy_bonus, samples_mc_entropy
        coefficient = 0.01 if entropy_coeff is None else entropy_coeff
        self._entropy_heads: list[NestedKey] = []
        if isinstance(coefficient, Mapping):
            self._entropy_heads = [*coefficient]
            self._coefficient("entropy_coeff", [*coefficient.values()])
        else:
            self._coefficient("entropy_coeff", coefficient)
        given = {"gamma": gamma, "lmbda": lmbda}
        self._value_kwargs = {name: value for name, value in given.items() if value is not None}
        old = {"advantage": advantage_key, "value_target": value_target_key, "value": value_key}
        self.set_keys(**{name: key for name, key in old.items() if key is not None})
        if device is not None:
            self.to(device)

    def _collect_in_keys(self) -> list[NestedKey]:
        keys, names = super()._collect_in_keys(), self.tensor_keys
        if not self.has_critic:
            keys.remove(names.value_target)
        if self.clips_value:
            keys.append(names.value)
        return keys

    @property
    def call_keys(self) -> list[NestedKey]:
        """What is read, and what an advantage is made of where the data has none."""
        read_keys, names = self.in_keys, self.tensor_keys
        if self._call_keys[0] is not read_keys:
            keys = [*read_keys, *(other for key in read_keys for other in self._stand_ins(key))]
            if self.has_critic:
                after = [
                    *input_keys(self.critic_network),
                    names.reward,
                    names.done,
                    names.terminated,
                ]
                keys += map(next_key, after)
            self.__dict__["_call_keys"] = read_keys, list(dict.fromkeys(keys))
        return self._call_keys[1]

    def _check_entries(self, td: TensorDictBase) -> None:
        missing = [key for key in self.in_keys if not self._has(td, key)]
        if not missing:
            return
        hint, estimated = "", {self.tensor_keys.advantage, self.tensor_keys.value_target}
        others = [key for key in missing if key not in estimated]
        if not others:
            hint = "Run GAE on the batch first"
            if self.has_critic:
                lacks = [key for key in self.value_estimator.in_keys if not self._has(td, key)]
                if not lacks:
                    return
                hint += f", or let the loss compute it, which needs {lacks} too"
            hint += "."
        hint = hint or "Collect that entry, or name yours with set_keys()."
        require(td, others or missing, self, hint)

    def _estimator_networks(self) -> dict[str, Any]:
        networks: dict[str, Any] = {"value_network": None}
        if self.has_critic:
            networks["value_network"] = self.target("critic_network")
        return {**networks, "actor_network": self.actor_network}

    def _with_advantage(self, td: TensorDictBase) -> TensorDictBase:
        """Return the batch with an advantage and a value target."""
        names = self.tensor_keys
        wanted = [names.advantage, names.value_target] if self.has_critic else [names.advantage]
        if all(td.get(key, None) is not None for key in wanted):
            return td
        with torch.no_grad():
            return self.value_estimator(td.copy())

    def _advantage(self, td: TensorDictBase, mask: Tensor | None) -> Tensor:
        key = self.tensor_keys.advantage
        advantage = td.get(key)
        if advantage.shape == td.batch_size and advantage.shape[-1:] != (1,):
            raise ShapeError(
                describe(
                    self,
                    "has no dimension for the reward, after those of the batch",
                    key=key,
                    expected=[*td.batch_size, 1],
                    found=list(advantage.shape),
                    hint="Write it with unsqueeze(-1).",
                )
            )
        return cleared(advantage, mask)

    def _log_prob(self, dist: Distribution, td: TensorDictBase, advantage: Tensor) -> Tensor:
        """Log-probability ``[*B]`` of the action of the data, which takes no gradient."""
        return log_prob(dist, td, self.tensor_keys.action, advantage.ndim - 1)

    def _as_predicted(self, value: Tensor, mask: Tensor | None, learn: bool = False) -> Tensor:
        """Return values of the data in the unit of the critic's predictions, maybe learning it."""
        return value

    def _entropy_losses(
        self, dist: Distribution, ndim: int, mask: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the weighted entropy ``[*B]`` as a loss, and its mean."""
        if not self.entropy_bonus:
            return {}
        parts = {
            name: entropy(part, ndim, self.samples_mc_entropy) for name, part in heads(dist).items()
        }
        total: Tensor = sum(parts.values())  # type: ignore[assignment]  # of one part at least
        if not self._entropy_heads:
            weighted = self.entropy_coeff * total
        elif set(parts) == set(self._entropy_heads):
            pairs = zip(self.entropy_coeff, self._entropy_heads, strict=True)
            weighted = sum(coefficient * parts[name] for coefficient, name in pairs)
        else:
            raise ValueError(
                describe(
                    self,
                    "got an entropy_coeff that does not name the heads of the policy",
                    expected=list(parts),
                    found=self._entropy_heads,
                )
            )
        return {"loss_entropy": -weighted, "entropy": self._mean(total.detach(), mask)}

    def _critic_losses(
        self, td: TensorDictBase, mask: Tensor | None, explained_variance: bool = False
    ) -> dict[str, Tensor]:
        """Return the critic's error ``[*B]`` and what is reported of it."""
        if not self.has_critic:
            return {}
        names, critic = self.tensor_keys, self.critic_network
        if self.separate_losses:
            with frozen(critic, only={id(p) for p in self.actor_network.parameters()}):
                value = take(critic, td, names.value)  # [*B, 1]
        else:
            value = take(critic, td, names.value)  # [*B, 1]
        target = self._as_predicted(td.get(names.value_target), mask, learn=True)
        target = cleared(target, mask)
        loss, out = distance_loss(value, target, self.loss_critic_type), {}
        if self.clips_value:
            old = cleared(self._as_predicted(td.get(names.value), mask), mask)
            reach = self.clip_value
            clipped = old + torch.clamp(value - old, -reach, reach)
            far = distance_loss(clipped, target, self.loss_critic_type)
            out["value_clip_fraction"] = self._mean((far > loss).to(loss.dtype).detach(), mask)
            loss = torch.maximum(loss, far)
        out["loss_critic"] = self.critic_coeff * per_item(loss)
        if explained_variance:
            out["explained_variance"] = _explained_variance(value.detach(), target, mask)
        return out


def _explained_variance(value: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    """Return the share ``[]`` of the targets' variance that the values explain; 0 for one row."""
    if mask is not None:
        value, target = cleared(value, mask), cleared(target, mask)
        error, number = target - value, expand_right(mask, value).sum().clamp_min(1)
        of_error = cleared(error - error.sum() / number, mask).square().sum()
        of_target = cleared(target - target.sum() / number, mask).square().sum()
        return 1 - of_error / of_target.clamp_min(1e-8)
    # torch computes the variance of all numbers at half the cost if asked for the mean as well.
    of_error, _ = torch.var_mean(target - value, correction=0)
    of_target, _ = torch.var_mean(target, correction=0)
    return 1 - of_error / of_target.clamp_min(1e-8)
