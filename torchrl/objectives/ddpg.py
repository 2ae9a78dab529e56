"""Deep deterministic policy gradient: Lillicrap et al., 2016, https://arxiv.org/abs/1509.02971."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl._core.keys import write
from torchrl._core.records.policies import take, value_of
from torchrl.objectives.networks import frozen
from torchrl.objectives.off_policy import CriticKeys, CriticLoss


@dataclass
class DDPGKeys(CriticKeys):
    """Names of the entries of losses with a critic of state and action."""

    state_action_value: NestedKey = write("state_action_value")


class DDPGLoss(CriticLoss):
    r"""A deterministic policy climbs a critic, which follows a target critic.

    .. math:: L_\pi = -Q(s, \pi(s)), \quad
        L_Q = d\big(Q(s, a),\ r + \gamma (1 - e) \bar Q(s', \bar\pi(s'))\big)

    Args:
        actor_network: Reads observations, writes ``action [*B, A]``.
        value_network: Reads observations and action, writes ``state_action_value [*B, 1]``.
        loss_function: ``"l1"``, ``"l2"`` or ``"smooth_l1"``.
        delay_actor: Take the next action from a frozen copy of the actor.
        delay_value: Take the target from a frozen copy of the critic.
        gamma: Discount factor, 0.99 by default.
        options: Arguments of :class:`~torchrl.objectives.off_policy.CriticLoss`.

    Reads: ``action``, ``next.reward [*B, 1]``, ``next.terminated [*B, 1]`` (or ``next.done``) and
        the inputs of the networks, now and next.
    Writes: ``td_error [*B]``, the squared error, as priority.
    Returns: ``loss_actor``, ``loss_value``; the means ``pred_value``, ``target_value``, ``td_error``; the
        largest, ``pred_value_max``, ``target_value_max``. A call with tensors returns all but ``td_error``.

    Source: Lillicrap et al., 2016, https://arxiv.org/abs/1509.02971, algorithm 1.

    >>> from torchrl.envs import GymEnv
    >>> from torchrl.modules import make_critic, make_deterministic_actor
    >>> from torchrl.objectives import SoftUpdate
    >>> env = GymEnv("Pendulum-v1")
    >>> actor = make_deterministic_actor(env, num_cells=(16,))
    >>> loss = DDPGLoss(actor, make_critic(env, num_cells=(16,), with_action=True), gamma=0.98)
    >>> updater = SoftUpdate(loss, tau=0.005)
    >>> losses = loss(env.rollout(8))
    >>> losses.backward()  # the sum of loss_actor and loss_value
    >>> updater.step()  # after the step of the optimizer
    >>> list(losses.keys())
    ['loss_actor', 'loss_value', 'pred_value', 'target_value', 'pred_value_max', 'target_value_max', 'td_error']
    """

    _AcceptedKeys = DDPGKeys
    network_inputs: Mapping[str, str] = {"actor_network": "root next", "value_network": "root next"}
    network_outputs: Mapping[str, tuple[str, ...]] = {
        "actor_network": ("action",),
        "value_network": ("state_action_value",),
    }

    def __init__(
        self,
        actor_network: TensorDictModuleBase,
        value_network: TensorDictModuleBase,
        *,
        loss_function: str = "l2",
        delay_actor: bool = False,
        delay_value: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(loss_function=loss_function, **options)
        self.convert_to_functional(actor_network, "actor_network", create_target_params=delay_actor)
        self.convert_to_functional(value_network, "value_network", create_target_params=delay_value)
        self.delay_actor, self.delay_value = delay_actor, delay_value
        self.out_keys = ["loss_actor", "loss_value", "pred_value", "target_value", "pred_value_max", "target_value_max"]

    def losses(self, td: TensorDictBase) -> dict[str, Tensor]:
        critic = self._critic_terms(td)
        return {**self._actor_terms(td), **critic}

    def loss_actor(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Return ``loss_actor`` of a batch, and what is reported beside it."""
        return self._term(tensordict, self._actor_terms, "loss_actor")

    def loss_value(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Return ``loss_value`` of a batch, and what is reported beside it; write the priority."""
        return self._term(tensordict, self._critic_terms, "loss_value", has_priority=True)

    def _critic_terms(self, td: TensorDictBase) -> dict[str, Tensor]:
        mask = self.row_mask(td)
        predicted, target = self._critic(td)
        error = (predicted.detach() - target).square()
        self._prioritise(td, error)
        return {
            "loss_value": self._weigh(td, self._errors(predicted, target)),
            "pred_value": self._reduce(predicted.detach(), mask, "mean"),
            "target_value": self._reduce(target, mask, "mean"),
            "pred_value_max": predicted.max(),
            "target_value_max": target.max(),
            "td_error": self._reduce(error, mask, "mean"),
        }

    def _critic(self, td: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Return what the critic says and what it should say, ``[*B]`` each."""
        keys = self.tensor_keys
        with self._apart(self.value_network):
            predicted = value_of(self.value_network, td, keys.state_action_value)
        with torch.no_grad():
            ahead = self._at_next(td, self._next_value)  # [*B]
            target = self._bootstrap(td, ahead.unsqueeze(-1))
        return predicted, target

    def _next_value(self, next_root: TensorDictBase) -> Tensor:
        keys = self.tensor_keys
        action = take(self.target("actor_network"), next_root, keys.action)
        actions = self._beside_taken(next_root, {keys.action: action})
        critic = self.target("value_network")
        return value_of(critic, next_root, keys.state_action_value, actions)

    def _actor_terms(self, td: TensorDictBase) -> dict[str, Tensor]:
        keys = self.tensor_keys
        action = take(self.actor_network, td, keys.action)
        with frozen(self.value_network) as critic:
            key, actions = keys.state_action_value, {keys.action: action}
            return {"loss_actor": -self._judged(critic, td, key, actions).squeeze(-1)}
