"""What losses of an actor and a critic share: the advantage, the entropy, the critic's error."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import CompositeDistribution, TensorDictModuleBase
from torch import Tensor
from torch.distributions import Distribution

from torchrl._core.devices import check_devices
from torchrl._core.errors import ShapeError, describe
from torchrl._core.keys import kept_keys, next_key, read, require, write
from torchrl._core.legacy import old_keywords
from torchrl._core.math import cleared
from torchrl._core.records.policies import input_keys, take
from torchrl._core.records.rows import expand_right
from torchrl.objectives.common import LossModule, distance_loss, known_distance
from torchrl.objectives.distributions import check_actor, entropy, heads, per_item
from torchrl.objectives.networks import frozen
from torchrl.objectives.value.registry import ValueEstimators

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
    network_inputs: Mapping[str, str] = {"actor_network": "root", "critic_network": "root"}
    default_value_estimator = ValueEstimators.GAE
    keys_of_heads = ("action", "sample_log_prob")

    @old_keywords(functional=None)  # networks are called as they are
    def __init__(
        self,
        actor_network: TensorDictModuleBase,
        critic_network: TensorDictModuleBase | None = None,
        *,
        entropy_bonus: bool = False,
        entropy_coeff: float | Mapping[NestedKey, float] | None = None,
        samples_mc_entropy: int = 1,
        loss_critic_type: str = "smooth_l1",
        critic_coeff: float | None = 1.0,
        clip_value: float | Tensor | None = None,
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
        self.separate_losses, self.delay_value = separate_losses, delay_value
        self.convert_to_functional(actor_network, "actor_network")
        check_actor(self, actor_network)
        if critic_network is not None:
            self.convert_to_functional(critic_network, "critic_network", create_target_params=delay_value)
            if self.tensor_keys.value not in critic_network.out_keys:
                self.tensor_keys.value = critic_network.out_keys[0]
        actions = self.actor_network.dist_sample_keys
        if len(actions) == 1 and actions[0] != "_":
            self.tensor_keys.action = actions[0]
        with suppress(RuntimeError):  # of an actor that was built with another composite_lp_aggregate
            scores: list[NestedKey] = getattr(self.actor_network, "log_prob_keys", [])
            if len(scores) == 1:
                self.tensor_keys.sample_log_prob = scores[0]
        self.has_critic = critic_network is not None
        self.loss_critic_type = known_distance(self, loss_critic_type)
        self._coefficient("critic_coeff", 1.0 if critic_coeff is None else critic_coeff)
        self.clips_value = clip_value is not None
        if clip_value is not None:
            is_number = isinstance(clip_value, int | float) and not isinstance(clip_value, bool)
            if not is_number and not (isinstance(clip_value, Tensor) and clip_value.numel() == 1):
                raise ValueError(
                    describe(
                        self, "got a clip_value that is none", expected="a number or a scalar tensor", found=clip_value
                    )
                )
            self._coefficient("clip_value", torch.as_tensor(clip_value).reshape(()))
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

    def collect_in_keys(self) -> list[NestedKey]:
        keys, names = super().collect_in_keys(), self.tensor_keys
        if not self.has_critic:
            keys.remove(names.value_target)
        if self.clips_value:
            keys.append(names.value)
        return keys

    @kept_keys
    def call_keys(self) -> list[NestedKey]:
        """Every entry that is read, and those from which a missing advantage is computed."""
        read_keys, names = self.in_keys, self.tensor_keys
        keys = [*read_keys, *(other for key in read_keys for other in self.alternatives(key))]
        if self.has_critic:
            ends = [names.reward, names.done, names.terminated]
            keys += map(next_key, [*input_keys(self.critic_network), *ends])
        return list(dict.fromkeys(keys))

    def check_entries(self, td: TensorDictBase) -> None:
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

    def value_networks(self) -> dict[str, Any]:
        networks: dict[str, Any] = {"value_network": None}
        if self.has_critic:
            networks["value_network"] = self.target("critic_network")
        return {**networks, "actor_network": self.actor_network}

    def with_advantage(self, td: TensorDictBase, mask: Tensor | None) -> tuple[TensorDictBase, Tensor]:
        """Return the batch with advantage and value target, and the advantage ``[*B, 1]``.

        What the batch lacks is computed by the value estimator.
        """
        names = self.tensor_keys
        advantage = td.get(names.advantage, None)
        if advantage is None or (self.has_critic and td.get(names.value_target, None) is None):
            with torch.no_grad():
                td = self.value_estimator(td.copy())
            advantage = td.get(names.advantage)
        if advantage.shape == td.batch_size and advantage.shape[-1:] != (1,):
            raise ShapeError(
                describe(
                    self,
                    "has no dimension for the reward, after those of the batch",
                    key=names.advantage,
                    expected=[*td.batch_size, 1],
                    found=list(advantage.shape),
                    hint="Write it with unsqueeze(-1).",
                )
            )
        return td, advantage if mask is None else cleared(advantage, mask)

    def scale_values(self, value: Tensor, mask: Tensor | None, learn: bool = False) -> Tensor:
        """Return values of the data in the unit of the critic's predictions, maybe learning it."""
        return value

    def _entropy_losses(self, dist: Distribution, ndim: int, mask: Tensor | None) -> dict[str, Tensor]:
        """Return the weighted entropy ``[*B]`` as a loss, and its mean."""
        if not self.entropy_bonus:
            return {}
        if not isinstance(dist, CompositeDistribution):
            total: Any = entropy(dist, ndim, self.samples_mc_entropy)
            parts: dict[NestedKey, Tensor] = {"action": total}
        else:
            parts = {name: entropy(part, ndim, self.samples_mc_entropy) for name, part in heads(dist).items()}
            total = sum(parts.values())
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
        return {"loss_entropy": -weighted, "entropy": self._reduce(total.detach(), mask, "mean")}

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
        target = self.scale_values(td.get(names.value_target), mask, learn=True)
        if mask is not None:
            target = cleared(target, mask)
        loss, out = distance_loss(value, target, self.loss_critic_type), {}
        if self.clips_value:
            old = cleared(self.scale_values(td.get(names.value), mask), mask)
            reach = self.clip_value
            clipped = old + torch.clamp(value - old, -reach, reach)
            far = distance_loss(clipped, target, self.loss_critic_type)
            out["value_clip_fraction"] = self._reduce((far > loss).to(loss.dtype).detach(), mask, "mean")
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
