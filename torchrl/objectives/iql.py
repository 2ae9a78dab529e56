"""Implicit Q-learning: Kostrikov et al., 2021, https://arxiv.org/abs/2110.06169."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl._core.errors import describe
from torchrl._core.keys import write
from torchrl._core.records.policies import take, value_of
from torchrl.data import TensorSpec
from torchrl.modules.tensordict_module.action_space import resolve
from torchrl.objectives.distributions import check_actor, closed_entropy, distribution, log_prob
from torchrl.objectives.networks import Critics
from torchrl.objectives.off_policy import CriticKeys, CriticLoss

MAX_WEIGHT = 100.0  # section 5.3 of the paper's appendix


@dataclass
class IQLKeys(CriticKeys):
    """Names of the entries of implicit Q-learning."""

    value: NestedKey = write("state_value")
    state_action_value: NestedKey = write("state_action_value")
    log_prob: NestedKey = write("action_log_prob")


class IQLLoss(CriticLoss):
    r"""Q-learning that never asks what an action outside the data is worth.

    .. math:: L_V = |\tau - 1(u < 0)|\, u^2, \quad u = \min_i \bar Q_i(s, a) - V(s)
    .. math:: L_Q = \sum_i d\big(Q_i(s, a),\ r + \gamma (1 - e) V(s')\big), \quad
        L_\pi = -\min(e^{\beta u}, 100) \log\pi(a|s)

    Args:
        actor_network: A policy with a distribution.
        qvalue_network: Reads observations and action, writes ``state_action_value [*B, 1]``; one
            network, from which the others are drawn, or a list of all.
        value_network: Reads observations, writes ``state_value [*B, 1]``.
        num_qvalue_nets: Number of critics.
        temperature: :math:`\beta`, how strongly the policy prefers good actions.
        expectile: :math:`\tau`, from 0.5 (the mean of the data) to 1 (its best).
        options: Arguments of :class:`~torchrl.objectives.off_policy.CriticLoss`.

    Reads: ``action``, ``next.reward [*B, 1]``, ``next.terminated [*B, 1]`` (or ``next.done``) and
        the inputs of the networks; of the value network also next.
    Writes: ``td_error [*B]``, the largest error of a critic, as priority.
    Returns: ``loss_actor``, ``loss_qvalue``, ``loss_value``, ``entropy``; without a closed form of the
        entropy that is the mean of :math:`-\log\pi(a|s)` over the actions of the data.

    Source: Kostrikov et al., 2021, https://arxiv.org/abs/2110.06169, eq. 5 to 7.

    >>> from torchrl.envs import GymEnv
    >>> from torchrl.modules import make_actor, make_critic
    >>> env = GymEnv("Pendulum-v1")
    >>> actor, critic = make_actor(env, num_cells=(16,)), make_critic(env, num_cells=(16,), with_action=True)
    >>> loss = IQLLoss(actor, critic, make_critic(env, num_cells=(16,)), expectile=0.7)
    >>> list(loss(env.rollout(8)).keys())  # a batch of the dataset
    ['loss_actor', 'loss_value', 'entropy', 'loss_qvalue']
    """

    _AcceptedKeys = IQLKeys
    keys_of_heads: ClassVar[tuple[str, ...]] = ("action", "log_prob")
    network_inputs: Mapping[str, str] = {
        "actor_network": "root",
        "qvalue_network": "root",
        "value_network": "root next",
    }
    network_outputs: Mapping[str, tuple[str, ...]] = {
        "actor_network": ("action",),
        "qvalue_network": ("state_action_value",),
        "value_network": ("value",),
    }

    def __init__(
        self,
        actor_network: TensorDictModuleBase,
        qvalue_network: Critics,
        value_network: TensorDictModuleBase,
        *,
        num_qvalue_nets: int = 2,
        temperature: float = 1.0,
        expectile: float = 0.5,
        **options: Any,
    ) -> None:
        if not 0 < expectile < 1:
            raise ValueError(describe(self, "got an expectile that is none", expected="0 to 1", found=expectile))
        super().__init__(**options)
        self.convert_to_functional(actor_network, "actor_network")
        check_actor(self, actor_network)
        self.convert_to_functional(qvalue_network, "qvalue_network", num_qvalue_nets, create_target_params=True)
        self.convert_to_functional(value_network, "value_network")
        self.temperature, self.expectile, self.delay_qvalue = temperature, expectile, True
        self.out_keys = ["loss_actor", "loss_qvalue", "loss_value", "entropy"]

    def losses(self, td: TensorDictBase) -> dict[str, Tensor]:
        critic = self._critic_terms(td)
        return {**self._actor_terms(td), **critic}

    def actor_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Return ``loss_actor`` of a batch, and what is reported beside it."""
        return self._term(tensordict, self._actor_terms, "loss_actor")

    def qvalue_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Return ``loss_qvalue`` of a batch, and what is reported beside it; write the priority."""
        return self._term(tensordict, self._critic_terms, "loss_qvalue", has_priority=True)

    def value_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Return ``loss_value`` of a batch, and what is reported beside it."""
        return self._term(tensordict, self._actor_terms, "loss_value")

    def _critic_terms(self, td: TensorDictBase) -> dict[str, Tensor]:
        keys = self.tensor_keys
        with self._apart(self.network("qvalue_network")):
            predicted = self._taken(self.network("qvalue_network"), td)  # [N, *B]
        with torch.no_grad():
            ahead = self._at_next(td, lambda rows: value_of(self.value_network, rows, keys.value))
            target = self._bootstrap(td, ahead.unsqueeze(-1))
            self._prioritise(td, (predicted.detach() - target).abs().amax(0))
        return {"loss_qvalue": self._weigh(td, self._errors(predicted, target).sum(0))}

    def _actor_terms(self, td: TensorDictBase) -> dict[str, Tensor]:
        """Return the losses of the policy and of the value network, which follow from the same advantage."""
        mask, keys, actor = self.row_mask(td), self.tensor_keys, self.actor_network
        with torch.no_grad():
            lowest = self._taken(self.target("qvalue_network"), td).amin(0)  # [*B]
        with self._apart(self.value_network):
            value = value_of(self.value_network, td, keys.value)
        gap = lowest - value
        side = torch.where(gap < 0, 1 - self.expectile, self.expectile)
        weight = (self.temperature * gap.detach()).exp().clamp_max(MAX_WEIGHT)
        dist = distribution(actor, td)
        chosen = log_prob(dist, td, keys.action, gap.ndim)  # [*B], agents of a group apart
        with torch.no_grad():  # without a draw: the report follows from the batch
            spread = closed_entropy(dist, gap.ndim)
            spread = -chosen if spread is None else spread
        return {
            "loss_actor": -weight * chosen,
            "loss_value": self._weigh(td, side * gap.square()),
            "entropy": self._reduce(spread, mask, "mean"),
        }

    def _taken(self, networks: Any, td: TensorDictBase) -> Tensor:
        """Return what each critic says of the action of the data, ``[N, *B]``."""
        return value_of(networks, td, self.tensor_keys.state_action_value)


@dataclass
class DiscreteIQLKeys(IQLKeys):
    """Names of the entries of implicit Q-learning on discrete actions."""

    action_value: NestedKey = write("action_value")


class DiscreteIQLLoss(IQLLoss):
    """Implicit Q-learning on discrete actions.

    Args:
        actor_network: A policy with a distribution.
        qvalue_network: Reads observations, writes ``action_value [*B, N]`` (or
            ``state_action_value``, or its last output); one network, from which the others are drawn, or a list of all.
        value_network: Reads observations, writes ``state_value [*B, 1]``.
        action_space: ``"one_hot"``, ``"categorical"`` or a spec.
        options: As in :class:`IQLLoss`.

    Reads: As :class:`IQLLoss`. Writes: As :class:`IQLLoss`. Returns: As :class:`IQLLoss`.

    >>> from torchrl.envs import GymEnv
    >>> from torchrl.modules import make_actor, make_critic
    >>> env = GymEnv("CartPole-v1")
    >>> actor, critic = make_actor(env, num_cells=(16,)), make_critic(env, num_cells=(16,), values_of_actions=True)
    >>> loss = DiscreteIQLLoss(actor, critic, make_critic(env, num_cells=(16,)), action_space=env.action_spec)
    >>> list(loss(env.rollout(8)).keys())  # a batch of the dataset
    ['loss_actor', 'loss_value', 'entropy', 'loss_qvalue']
    """

    _AcceptedKeys = DiscreteIQLKeys
    network_outputs: Mapping[str, tuple[str, ...]] = {**IQLLoss.network_outputs, "qvalue_network": ("action_value",)}
    keys_of_heads = ()

    def __init__(
        self,
        actor_network: TensorDictModuleBase,
        qvalue_network: Critics,
        value_network: TensorDictModuleBase,
        *,
        action_space: str | TensorSpec | None = None,
        **options: Any,
    ) -> None:
        super().__init__(actor_network, qvalue_network, value_network, **options)
        out_keys = self.qvalue_network.out_keys
        if self.tensor_keys.action_value not in out_keys:
            other = self.tensor_keys.state_action_value
            self.tensor_keys.action_value = other if other in out_keys else out_keys[-1]
        if action_space is None:
            action_space = getattr(actor_network, "spec", None)
        self.action_space, _ = resolve(self, action_space, None, None, self.tensor_keys.action)

    def _taken(self, networks: Any, td: TensorDictBase) -> Tensor:
        values = take(networks, td, self.tensor_keys.action_value)  # [N, *B, A]
        action = td.get(self.tensor_keys.action)
        return torch.stack([self.action_space.value_of(v, action).squeeze(-1) for v in values.unbind(0)])
