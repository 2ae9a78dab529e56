"""Randomised ensembled double Q-learning: Chen et al., 2021, https://arxiv.org/abs/2101.05982."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl._core.errors import describe
from torchrl._core.keys import write
from torchrl._core.records.policies import value_of
from torchrl.data import TensorSpec
from torchrl.modules import gSDEModule
from torchrl.objectives.max_entropy import OUT_KEYS, MaxEntropyKeys, SoftActorCriticLoss
from torchrl.objectives.networks import Critics, frozen


@dataclass
class REDQKeys(MaxEntropyKeys):
    """Names of the entries of randomised ensembled double Q-learning."""

    sample_log_prob: NestedKey = write("action_log_prob")


class REDQLoss(SoftActorCriticLoss):
    r"""Soft actor-critic with many critics, of which a few, drawn at each call, make the target.

    .. math:: L_Q = \sum_i d\big(Q_i(s, a),\ r + \gamma (1 - e)
        (\min_{j \in M} \bar Q_j(s', a') - \alpha \log\pi(a'|s'))\big)
    .. math:: L_\pi = \alpha \log\pi(a_\pi|s) - \operatorname{mean}_i Q_i(s, a_\pi)

    Args:
        actor_network: A policy with a distribution that has gradients (``rsample``).
        qvalue_network: Reads observations and action, writes ``state_action_value [*B, 1]``; one
            network, from which the others are drawn, or a list of all.
        num_qvalue_nets: Number of critics.
        sub_sample_len: How many of them make a target; all, if there are fewer.
        min_alpha: Lower limit of the temperature.
        max_alpha: Upper limit of the temperature.
        target_entropy: See :class:`~torchrl.objectives.max_entropy.MaxEntropyLoss`.
        action_spec: See there.
        delay_qvalue: Take the target from frozen copies of the critics.
        gSDE: The policy must have a :class:`~torchrl.modules.gSDEModule`. The noise of the data
            (``_eps_gSDE``) is asked for by no loss, as it draws actions of its own.
        options: As in :class:`~torchrl.objectives.SACLoss`.

    Reads: As :class:`~torchrl.objectives.SACLoss`.
    Writes: ``td_error [*B]``, the largest error of a critic, as priority.
    Returns: ``loss_actor``, ``loss_qvalue``, ``loss_alpha``, ``alpha``, ``entropy``,
        ``state_action_value_actor [N, *B]``, ``action_log_prob_actor [*B]``,
        ``next.state_value [*B]``, ``target_value [*B]``.

    Source: Chen et al., 2021, https://arxiv.org/abs/2101.05982, algorithm 1.

    >>> from torchrl.envs import GymEnv
    >>> from torchrl.modules import make_actor, make_critic
    >>> env = GymEnv("Pendulum-v1")
    >>> actor, critic = make_actor(env, num_cells=(16,)), make_critic(env, num_cells=(16,), with_action=True)
    >>> loss = REDQLoss(actor, critic, num_qvalue_nets=10, sub_sample_len=2)
    >>> loss(env.rollout(8))["state_action_value_actor"].shape  # 10 critics, 8 steps
    torch.Size([10, 8])
    """

    _AcceptedKeys = REDQKeys
    keys_of_heads = ("action", "log_prob", "sample_log_prob")

    def __init__(
        self,
        actor_network: TensorDictModuleBase,
        qvalue_network: Critics,
        *,
        num_qvalue_nets: int = 10,
        sub_sample_len: int = 2,
        min_alpha: float | None = 0.1,
        max_alpha: float | None = 10.0,
        target_entropy: float | str = "auto",
        action_spec: TensorSpec | None = None,
        delay_qvalue: bool = True,
        gSDE: bool = False,  # noqa: N803 - the name that users know
        **options: Any,
    ) -> None:
        super().__init__(min_alpha=min_alpha, max_alpha=max_alpha, **options)
        if sub_sample_len < 1:
            raise ValueError(
                describe(self, "draws too few critics", expected="a sub_sample_len of 1 or more", found=sub_sample_len)
            )
        self.gSDE, self.delay_qvalue = gSDE, delay_qvalue
        self._set_actor(actor_network)
        if gSDE and not any(isinstance(module, gSDEModule) for module in self.actor_network.modules()):
            raise TypeError(describe(self, "got gSDE=True with a policy that has no gSDEModule"))
        self.convert_to_functional(qvalue_network, "qvalue_network", num_qvalue_nets, create_target_params=delay_qvalue)
        self.num_qvalue_nets, self.sub_sample_len = num_qvalue_nets, sub_sample_len
        self._set_target_entropy(target_entropy, action_spec)
        self.out_keys = [
            *OUT_KEYS,
            "state_action_value_actor",
            "action_log_prob_actor",
            "next.state_value",
            "target_value",
        ]

    def _critic_terms(self, td: TensorDictBase) -> dict[str, Tensor]:
        key = self.tensor_keys.state_action_value
        with self._apart(self.network("qvalue_network")):
            predicted = value_of(self.network("qvalue_network"), td, key)  # [N, *B]
        with torch.no_grad():
            ahead = self._at_next(td, self._next_value)  # [*B]
            target = self._bootstrap(td, ahead.unsqueeze(-1))
            self._prioritise(td, (predicted.detach() - target).abs().amax(0))
        return {
            "loss_qvalue": self._weigh(td, self._errors(predicted, target).sum(0)),
            "next.state_value": ahead,
            "target_value": target,
        }

    def _actor_terms(self, td: TensorDictBase) -> tuple[dict[str, Tensor], Tensor]:
        actions, log_prob = self._draw(td)
        with frozen(self.network("qvalue_network")) as critics:
            value = self._judged(critics, td, self.tensor_keys.state_action_value, actions).squeeze(-1)  # [N, *B]
        terms = {
            "loss_actor": self.alpha * log_prob - value.mean(0),
            "state_action_value_actor": value,
            "action_log_prob_actor": log_prob,
        }
        return terms, log_prob

    def _next_value(self, next_root: TensorDictBase) -> Tensor:
        """Return the soft value ``[*B]`` of the next step, by critics drawn again."""
        actions, log_prob = self._draw(next_root)
        actions, key = self._beside_taken(next_root, actions), self.tensor_keys.state_action_value
        values = value_of(self.target("qvalue_network"), next_root, key, actions)
        drawn = torch.randperm(self.num_qvalue_nets, device=values.device)
        lowest = values[drawn[: self.sub_sample_len]].amin(0)
        return lowest - self.alpha * log_prob
