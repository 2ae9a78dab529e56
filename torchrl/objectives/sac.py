"""Soft actor-critic, for continuous and for discrete actions.

``N`` critics or actions, as said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl._core.errors import describe
from torchrl._core.keys import write
from torchrl._core.records.policies import take, value_of
from torchrl.data import TensorSpec
from torchrl.modules.tensordict_module.action_space import resolve
from torchrl.objectives.distributions import distribution
from torchrl.objectives.max_entropy import OUT_KEYS, Actions, MaxEntropyKeys, SoftActorCriticLoss
from torchrl.objectives.networks import Critics, frozen
from torchrl.objectives.off_policy import spec_leaf


class SACLoss(SoftActorCriticLoss):
    r"""Soft actor-critic.

    .. math:: L_\pi = \alpha \log\pi(a_\pi|s) - \min_i Q_i(s, a_\pi), \quad
        L_Q = \sum_i d\big(Q_i(s, a),\ r + \gamma (1 - e) V'\big)
    .. math:: V' = \min_i \bar Q_i(s', a') - \alpha \log\pi(a'|s')

    With a value network, :math:`V' = \bar V(s')` and that network has a loss of its own (the first
    version of the algorithm).

    Args:
        actor_network: A policy with a distribution that has gradients (``rsample``).
        qvalue_network: Reads observations and action, writes ``state_action_value [*B, 1]``; one
            network, from which the others are drawn, or a list of all.
        value_network: Reads observations, writes ``state_value [*B, 1]``.
        num_qvalue_nets: Number of critics.
        target_entropy: See :class:`~torchrl.objectives.max_entropy.MaxEntropyLoss`.
        action_spec: See there.
        delay_actor: Draw the next action from a frozen copy of the actor.
        delay_qvalue: Take the target from frozen copies of the critics.
        delay_value: Take the target from a frozen copy of the value network.
        skip_done_states: Read nothing of what follows a done step, whose next observation may be
            anything; the critics do not learn from truncated steps then, whose target is not known.
            The batch must bear indexing by a mask. Networks with a memory value all steps of a
            sequence, and those after done steps are not used.
        options: Arguments of :class:`~torchrl.objectives.max_entropy.MaxEntropyLoss`
            (``alpha_init``, ``min_alpha``, ``max_alpha``, ``fixed_alpha``) and
            :class:`~torchrl.objectives.off_policy.CriticLoss` (``loss_function``, ``gamma``, ...).

    Reads: ``action``, ``next.reward [*B, 1]``, ``next.terminated [*B, 1]`` (or ``next.done``) and
        the inputs of the networks, now and next.
    Writes: ``td_error [*B]``, the largest error of a critic, as priority.
    Returns: ``loss_actor``, ``loss_qvalue``, ``loss_alpha``, ``loss_value`` (with a value network),
        ``alpha``, ``entropy``.

    Source: Haarnoja et al., 2018, https://arxiv.org/abs/1812.05905, eq. 5, 7, 18; with a value
        network https://arxiv.org/abs/1801.01290, eq. 5, 7, 12.

    >>> from torchrl.envs import GymEnv
    >>> from torchrl.modules import make_actor, make_critic
    >>> from torchrl.objectives import SoftUpdate
    >>> env = GymEnv("Pendulum-v1")
    >>> actor = make_actor(env, num_cells=(16,))
    >>> loss = SACLoss(actor, make_critic(env, num_cells=(16,), with_action=True), gamma=0.98)
    >>> updater = SoftUpdate(loss, tau=0.005)
    >>> losses = loss(env.rollout(8))
    >>> losses.backward()  # the sum of loss_actor, loss_qvalue and loss_alpha
    >>> updater.step()  # after the step of the optimizer
    >>> losses["alpha"]
    tensor(1.)
    """

    def __init__(
        self,
        actor_network: TensorDictModuleBase,
        qvalue_network: Critics,
        value_network: TensorDictModuleBase | None = None,
        *,
        num_qvalue_nets: int = 2,
        target_entropy: float | str = "auto",
        action_spec: TensorSpec | None = None,
        delay_actor: bool = False,
        delay_qvalue: bool = True,
        delay_value: bool = True,
        skip_done_states: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.skip_done_states = skip_done_states
        self.delay_actor, self.delay_qvalue, self.delay_value = delay_actor, delay_qvalue, delay_value
        self._set_actor(actor_network, delay_actor)
        self.has_value = value_network is not None
        if value_network is not None:  # which values the next step alone
            self.network_inputs = {"actor_network": "root", "qvalue_network": "root", "value_network": "root next"}
            self.convert_to_functional(value_network, "value_network", create_target_params=delay_value)
        self.convert_to_functional(
            qvalue_network, "qvalue_network", num_qvalue_nets, create_target_params=delay_qvalue and not self.has_value
        )
        self._set_target_entropy(target_entropy, action_spec)
        self.out_keys = list(OUT_KEYS)
        if self.has_value:
            self.out_keys = [*self.out_keys, "loss_value"]

    def _critic_terms(self, td: TensorDictBase) -> dict[str, Tensor]:
        key, skip = self.tensor_keys.state_action_value, self.skip_done_states
        with self._apart(self.network("qvalue_network")):
            predicted = value_of(self.network("qvalue_network"), td, key)  # [N, *B]
        with torch.no_grad():
            ahead = self._ahead(td, self._next_value, skip)
            target = self._bootstrap(td, ahead.unsqueeze(-1))  # [*B]
            self._prioritise(td, (predicted.detach() - target).abs().amax(0))
        errors = self._weigh(td, self._errors(predicted, target).sum(0))
        return {"loss_qvalue": self._of_known_targets(td, errors, skip)}

    def value_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Return ``loss_value`` of a batch, of a loss with a value network, and what is reported beside it."""
        if not self.has_value:
            raise TypeError(describe(self, "has no value network", hint="Give value_network, or use qvalue_loss()."))
        return self._term(tensordict, self._policy_terms, "loss_value")

    def _actor_terms(self, td: TensorDictBase) -> tuple[dict[str, Tensor], Tensor]:
        actions, log_prob = self._draw(td)
        with frozen(self.network("qvalue_network")) as critics:
            value = self._judged(critics, td, self.tensor_keys.state_action_value, actions).squeeze(-1).amin(0)  # [*B]
        out = {"loss_actor": self.alpha * log_prob - value}
        if self.has_value:
            soft = (value - self.alpha * log_prob).detach()
            with self._apart(self.value_network):
                now = value_of(self.value_network, td, self.tensor_keys.value)
            out["loss_value"] = self._weigh(td, self._errors(now, soft))
        return out, log_prob

    def _next_value(self, next_root: TensorDictBase) -> Tensor:
        """Return the soft value ``[*B]`` of the next step."""
        keys = self.tensor_keys
        if self.has_value:
            return value_of(self.target("value_network"), next_root, keys.value)
        actions, log_prob = self._draw(next_root, self.target("actor_network"))
        return self._lowest(next_root, actions) - self.alpha * log_prob

    def _lowest(self, td: TensorDictBase, actions: Actions) -> Tensor:
        critics, actions = self.target("qvalue_network"), self._beside_taken(td, actions)
        return value_of(critics, td, self.tensor_keys.state_action_value, actions).amin(0)


@dataclass
class DiscreteSACKeys(MaxEntropyKeys):
    """Names of the entries of discrete soft actor-critic."""

    action_value: NestedKey = write("action_value")


class DiscreteSACLoss(SoftActorCriticLoss):
    r"""Soft actor-critic for discrete actions: expectations over actions are sums.

    .. math:: V = \sum_a \pi(a|s) \big(\min_i Q_i(s, a) - \alpha \log\pi(a|s)\big)

    Args:
        actor_network: A policy over ``N`` actions, whose distribution has ``logits [*B, N]``.
        qvalue_network: Reads observations, writes ``action_value [*B, N]``; one network, from which
            the others are drawn, or a list of all.
        action_space: ``"one_hot"``, ``"categorical"`` or a spec.
        num_actions: ``N``; the spec tells it too.
        num_qvalue_nets: Number of critics.
        target_entropy_weight: The target entropy is this times :math:`\log N`.
        target_entropy: The target entropy itself, in nats, unless it is ``"auto"``.
        delay_qvalue: Take the target from frozen copies of the critics.
        skip_done_states: See :class:`SACLoss`.
        options: As in :class:`SACLoss`.

    Reads: As :class:`SACLoss`. Writes: As :class:`SACLoss`.
    Returns: ``loss_actor``, ``loss_qvalue``, ``loss_alpha``, ``alpha``, ``entropy``.

    Source: Christodoulou, 2019, https://arxiv.org/abs/1910.07207, eq. 10 to 12.

    >>> from torchrl.envs import GymEnv
    >>> from torchrl.modules import make_actor, make_critic
    >>> env = GymEnv("CartPole-v1")
    >>> actor, critic = make_actor(env, num_cells=(16,)), make_critic(env, num_cells=(16,), values_of_actions=True)
    >>> loss = DiscreteSACLoss(actor, critic, action_space=env.action_spec)
    >>> list(loss(env.rollout(8)).keys())
    ['loss_actor', 'loss_qvalue', 'loss_alpha', 'alpha', 'entropy']
    """

    _AcceptedKeys = DiscreteSACKeys
    network_outputs: Mapping[str, tuple[str, ...]] = {"qvalue_network": ("action_value",)}
    keys_of_heads = ()

    def __init__(
        self,
        actor_network: TensorDictModuleBase,
        qvalue_network: Critics,
        *,
        action_space: str | TensorSpec | None = None,
        num_actions: int | None = None,
        num_qvalue_nets: int = 2,
        target_entropy_weight: float = 0.98,
        target_entropy: float | str = "auto",
        delay_qvalue: bool = True,
        skip_done_states: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.skip_done_states, self.delay_qvalue = skip_done_states, delay_qvalue
        self._set_actor(actor_network)
        self.convert_to_functional(qvalue_network, "qvalue_network", num_qvalue_nets, create_target_params=delay_qvalue)
        if action_space is None:
            action_space = getattr(actor_network, "spec", None)
        self.action_space, spec = resolve(self, action_space, None, None, self.tensor_keys.action)
        if target_entropy == "auto":
            if num_actions is None:
                leaf = spec_leaf(spec, self.tensor_keys.action)
                num_actions = getattr(getattr(leaf, "space", None), "n", None)
            if num_actions is None:
                raise ValueError(
                    describe(
                        self, "cannot tell the target entropy", hint="Give num_actions, or the spec as action_space."
                    )
                )
            target_entropy = target_entropy_weight * math.log(num_actions)
        self._set_target_entropy(target_entropy, None)
        self.out_keys = list(OUT_KEYS)

    def losses(self, td: TensorDictBase) -> dict[str, Tensor]:
        self._limit_alpha()
        critic, values = self._critic(td)
        actor, expected = self._actor_terms(td, values)
        reports = self._reports(expected, self.row_mask(td))
        return {**actor, **critic, **self._alpha_losses(expected), **reports}

    def _critic_terms(self, td: TensorDictBase) -> dict[str, Tensor]:
        return self._critic(td)[0]

    def _critic(self, td: TensorDictBase) -> tuple[dict[str, Tensor], Tensor]:
        """Return the loss of the critics, and what they say of each action, ``[N, *B, A]``."""
        keys, skip = self.tensor_keys, self.skip_done_states
        with self._apart(self.network("qvalue_network")):
            values = take(self.network("qvalue_network"), td, keys.action_value)  # [N, *B, A]
        taken = self._taken(values, td.get(keys.action))  # [N, *B]
        with torch.no_grad():
            soft = self._ahead(td, self._next_value, skip)  # [*B]
            target = self._bootstrap(td, soft.unsqueeze(-1))
            self._prioritise(td, (taken - target).abs().amax(0))
        errors = self._weigh(td, self._errors(taken, target).sum(0))
        return {"loss_qvalue": self._of_known_targets(td, errors, skip)}, values

    def _actor_terms(self, td: TensorDictBase, values: Tensor | None = None) -> tuple[dict[str, Tensor], Tensor]:
        if values is None:
            with torch.no_grad():
                values = take(self.network("qvalue_network"), td, self.tensor_keys.action_value)  # [N, *B, A]
        probs, log_probs = self._policy(td)
        lowest = values.detach().amin(0)  # [*B, A]
        expected = (probs * log_probs).sum(-1)  # [*B], minus the entropy
        return {"loss_actor": (probs * (self.alpha * log_probs - lowest)).sum(-1)}, expected

    def _next_value(self, next_root: TensorDictBase) -> Tensor:
        """Return the soft value ``[*B]`` of the next step."""
        probs, log_probs = self._policy(next_root)  # [*B, A]
        critics = self.target("qvalue_network")
        values = take(critics, next_root, self.tensor_keys.action_value).amin(0)
        return (probs * (values - self.alpha * log_probs)).sum(-1)

    def _policy(self, td: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Return probabilities and their logarithms ``[*B, A]``; impossible actions have zero in both."""
        actor = self.actor_network
        dist: Any = distribution(actor, td)
        log_probs = dist.logits.log_softmax(-1)
        probs = log_probs.exp()
        return probs, log_probs.masked_fill(probs == 0, 0.0)  # the limit of p log p

    def _taken(self, values: Tensor, action: Tensor) -> Tensor:
        return torch.stack([self.action_space.value_of(v, action).squeeze(-1) for v in values.unbind(0)])
