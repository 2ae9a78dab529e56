"""Twin delayed DDPG: Fujimoto et al., 2018, https://arxiv.org/abs/1802.09477."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl._core.records.policies import take, value_of
from torchrl.data import TensorSpec
from torchrl.objectives.ddpg import DDPGKeys
from torchrl.objectives.networks import Critics, frozen
from torchrl.objectives.off_policy import CriticLoss, action_bounds


class TD3Loss(CriticLoss):
    r"""DDPG with two critics, of which the lower counts, and a smoothed target policy.

    .. math:: L_\pi = -Q_1(s, \pi(s)), \quad L_Q = \sum_i d\big(Q_i(s, a),\
        r + \gamma (1 - e) \min_j \bar Q_j(s', \tilde a)\big), \quad
        \tilde a = \bar\pi(s') + \operatorname{clip}(\epsilon, -c, c)

    How often the actor is updated is the training loop's choice.

    Args:
        actor_network: Reads observations, writes ``action [*B, A]``.
        qvalue_network: Reads observations and action, writes ``state_action_value [*B, 1]``; one
            network, from which the others are drawn, or a list of all.
        action_spec: Spec of the action; it or ``bounds`` tells the range of the actions.
        bounds: The lowest and the highest action.
        num_qvalue_nets: Number of critics.
        policy_noise: Standard deviation of the smoothing noise, in units of the action.
        noise_clip: Its limit, in the same unit.
        loss_function: ``"l1"``, ``"l2"`` or ``"smooth_l1"``.
        delay_actor: Take the next action from a frozen copy of the actor.
        delay_qvalue: Take the target from frozen copies of the critics.
        options: Arguments of :class:`~torchrl.objectives.off_policy.CriticLoss`, such as ``gamma``.

    Reads: ``action``, ``next.reward [*B, 1]``, ``next.terminated [*B, 1]`` (or ``next.done``) and
        the inputs of the networks, now and next.
    Writes: ``td_error [*B]``, the largest error of a critic, as priority.
    Returns: ``loss_actor``, ``loss_qvalue``, ``pred_value [N, *B]``,
        ``state_action_value_actor [*B]``, ``next_state_value [*B]``, ``target_value [*B]``.

    Source: Fujimoto et al., 2018, https://arxiv.org/abs/1802.09477, algorithm 1.

    >>> from torchrl.envs import GymEnv
    >>> from torchrl.modules import make_critic, make_deterministic_actor
    >>> env = GymEnv("Pendulum-v1")
    >>> actor = make_deterministic_actor(env, num_cells=(16,))
    >>> critic = make_critic(env, num_cells=(16,), with_action=True)
    >>> loss = TD3Loss(actor, critic, action_spec=env.action_spec)
    >>> losses = loss(env.rollout(8))
    >>> losses["loss_qvalue"].shape, losses["pred_value"].shape
    (torch.Size([]), torch.Size([2, 8]))
    """

    _AcceptedKeys = DDPGKeys
    network_inputs: Mapping[str, str] = {"actor_network": "root next", "qvalue_network": "root next"}
    network_outputs: Mapping[str, tuple[str, ...]] = {
        "actor_network": ("action",),
        "qvalue_network": ("state_action_value",),
    }

    def __init__(
        self,
        actor_network: TensorDictModuleBase,
        qvalue_network: Critics,
        *,
        action_spec: TensorSpec | None = None,
        bounds: Sequence | None = None,
        num_qvalue_nets: int = 2,
        policy_noise: float = 0.2,
        noise_clip: float = 0.5,
        delay_actor: bool = True,
        delay_qvalue: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.convert_to_functional(actor_network, "actor_network", create_target_params=delay_actor)
        self.convert_to_functional(qvalue_network, "qvalue_network", num_qvalue_nets, create_target_params=delay_qvalue)
        self.delay_actor, self.delay_qvalue = delay_actor, delay_qvalue
        self.policy_noise, self.noise_clip = policy_noise, noise_clip
        low, high = action_bounds(self, action_spec, bounds, self.tensor_keys.action)
        self._coefficient("action_low", low)
        self._coefficient("action_high", high)
        self.out_keys = [
            "loss_actor",
            "loss_qvalue",
            "pred_value",
            "state_action_value_actor",
            "next_state_value",
            "target_value",
        ]

    def losses(self, td: TensorDictBase) -> dict[str, Tensor]:
        critic = self._critic_terms(td)
        return {**self._actor_terms(td), **critic}

    def actor_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Return ``loss_actor`` of a batch, and what is reported beside it."""
        return self._term(tensordict, self._actor_terms, "loss_actor")

    def qvalue_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Return ``loss_qvalue`` of a batch, and what is reported beside it; write the priority."""
        return self._term(tensordict, self._critic_terms, "loss_qvalue", has_priority=True)

    value_loss = qvalue_loss

    def _actor_terms(self, td: TensorDictBase) -> dict[str, Tensor]:
        value = self._value_of_policy(td)[0]
        return {"loss_actor": -value, "state_action_value_actor": value}

    def _value_of_policy(self, td: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Return what the first critic says of the policy's actions ``[*B]``, and these."""
        keys = self.tensor_keys
        action = take(self.actor_network, td, keys.action)
        with frozen(self.network("qvalue_network")[0]) as critic:
            value = self._judged(critic, td, keys.state_action_value, {keys.action: action})
        return value.squeeze(-1), action

    def _critic_terms(self, td: TensorDictBase) -> dict[str, Tensor]:
        keys = self.tensor_keys
        with self._apart(self.network("qvalue_network")):
            predicted = value_of(self.network("qvalue_network"), td, keys.state_action_value)  # [N, *B]
        with torch.no_grad():
            ahead = self._at_next(td, self._next_value)  # [*B]
            target = self._bootstrap(td, ahead.unsqueeze(-1))
            self._prioritise(td, (predicted.detach() - target).abs().amax(0))
        return {
            "loss_qvalue": self._weigh(td, self._errors(predicted, target).sum(0)),
            "pred_value": predicted,
            "next_state_value": ahead,
            "target_value": target,
        }

    def _next_value(self, next_root: TensorDictBase) -> Tensor:
        keys, low, high = self.tensor_keys, self.action_low, self.action_high
        action = take(self.target("actor_network"), next_root, keys.action)
        noise = torch.randn_like(action) * self.policy_noise
        noise = noise.clamp(-self.noise_clip, self.noise_clip)
        action = torch.minimum(torch.maximum(action + noise, low), high)
        actions = self._beside_taken(next_root, {keys.action: action})
        critics = self.target("qvalue_network")
        return value_of(critics, next_root, keys.state_action_value, actions).amin(0)


class TD3BCLoss(TD3Loss):
    r"""TD3 for fixed data: the policy is also drawn to the actions of the data.

    .. math:: L_\pi = -\lambda Q_1(s, \pi(s)) + (\pi(s) - a)^2, \quad
        \lambda = \alpha / \operatorname{mean} |Q_1(s, \pi(s))|

    Args:
        actor_network: Reads observations, writes ``action [*B, A]``.
        qvalue_network: Reads observations and action, writes ``state_action_value [*B, 1]``.
        alpha: How much the critic counts against the data.
        options: Arguments of :class:`TD3Loss`.

    Reads: As :class:`TD3Loss`. Writes: As :class:`TD3Loss`.
    Returns: As :class:`TD3Loss`, and ``bc_loss``, ``lmbd``.

    Source: Fujimoto and Gu, 2021, https://arxiv.org/abs/2106.06860, eq. 3 and 5.

    >>> from torchrl.envs import GymEnv
    >>> from torchrl.modules import make_critic, make_deterministic_actor
    >>> env = GymEnv("Pendulum-v1")
    >>> actor = make_deterministic_actor(env, num_cells=(16,))
    >>> critic = make_critic(env, num_cells=(16,), with_action=True)
    >>> loss = TD3BCLoss(actor, critic, alpha=2.5, action_spec=env.action_spec)
    >>> losses = loss(env.rollout(8))  # a batch of the dataset
    >>> losses["bc_loss"].shape, losses["lmbd"].shape
    (torch.Size([]), torch.Size([]))
    """

    def __init__(
        self, actor_network: TensorDictModuleBase, qvalue_network: Critics, *, alpha: float = 2.5, **options: Any
    ) -> None:
        super().__init__(actor_network, qvalue_network, **options)
        self.alpha = alpha
        self.out_keys = [*self.out_keys[:2], "bc_loss", "lmbd", *self.out_keys[2:]]

    def _actor_terms(self, td: TensorDictBase) -> dict[str, Tensor]:
        mask = self.row_mask(td)
        value, action = self._value_of_policy(td)
        distance = (action - td.get(self.tensor_keys.action)).square().mean(-1)  # [*B]
        weight = self.alpha / self._reduce(value.detach().abs(), mask, "mean")
        return {
            "loss_actor": distance - weight * value,
            "state_action_value_actor": value,
            "bc_loss": self._reduce(distance, mask, "mean"),
            "lmbd": weight,
        }
