"""Randomised ensembled double Q-learning: Chen et al., 2021, https://arxiv.org/abs/2101.05982."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl._core.errors import describe
from torchrl._core.keys import next_key, write
from torchrl.modules import gSDEModule
from torchrl.objectives.calls import value_of
from torchrl.objectives.max_entropy import OUT_KEYS, Actions, MaxEntropyKeys, MaxEntropyLoss
from torchrl.objectives.networks import frozen

NOISE = "_eps_gSDE"


@dataclass
class REDQKeys(MaxEntropyKeys):
    """Names of the entries of randomised ensembled double Q-learning."""

    sample_log_prob: NestedKey = write("action_log_prob")


class REDQLoss(MaxEntropyLoss):
    r"""Soft actor-critic with many critics, of which a few, drawn anew, make the target.

    .. math:: L_Q = \sum_i d\big(Q_i(s, a),\ r + \gamma (1 - e)
        (\min_{j \in M} \bar Q_j(s', a') - \alpha \log\pi(a'|s'))\big)
    .. math:: L_\pi = \alpha \log\pi(a_\pi|s) - \operatorname{mean}_i Q_i(s, a_\pi)

    Args:
        actor_network: A policy with a distribution that has gradients (``rsample``).
        qvalue_network: Reads observations and action, writes ``state_action_value [*B, 1]``; one
            network, from which the others are drawn, or a list of all.
        num_qvalue_nets: Number of critics.
        sub_sample_len: How many of them make a target.
        min_alpha: Lower limit of the temperature.
        max_alpha: Upper limit of the temperature.
        target_entropy: See :class:`~torchrl.objectives.max_entropy.MaxEntropyLoss`.
        action_spec: See there.
        delay_qvalue: Take the target from frozen copies of the critics.
        gSDE: The policy has a :class:`~torchrl.modules.gSDEModule`: the noise of the data
            (``_eps_gSDE``) is not asked for, since the loss draws actions of its own.
        options: As in :class:`~torchrl.objectives.SACLoss`.

    Reads: As :class:`~torchrl.objectives.SACLoss`.
    Writes: ``td_error [*B]``, the largest error of a critic, as priority.
    Returns: ``loss_actor``, ``loss_qvalue``, ``loss_alpha``, ``alpha``, ``entropy``,
        ``state_action_value_actor [N, *B]``, ``action_log_prob_actor [*B]``,
        ``next.state_value [*B]``, ``target_value [*B]``.

    Source: Chen et al., 2021, https://arxiv.org/abs/2101.05982, algorithm 1.
    """

    _AcceptedKeys = REDQKeys
    keys_of_heads = ("action", "log_prob", "sample_log_prob")

    def __init__(
        self,
        actor_network: Any,
        qvalue_network: Any,
        *,
        num_qvalue_nets: int = 10,
        sub_sample_len: int = 2,
        min_alpha: float | None = 0.1,
        max_alpha: float | None = 10.0,
        target_entropy: float | str = "auto",
        action_spec: Any = None,
        delay_qvalue: bool = True,
        gSDE: bool = False,  # noqa: N803 - the name that users know
        **options: Any,
    ) -> None:
        super().__init__(min_alpha=min_alpha, max_alpha=max_alpha, **options)
        if not 0 < sub_sample_len <= num_qvalue_nets:
            raise ValueError(
                describe(
                    self,
                    "cannot draw that many critics",
                    expected=f"sub_sample_len in 1 to {num_qvalue_nets}",
                    found=sub_sample_len,
                )
            )
        self.gSDE = gSDE
        self._set_actor(actor_network)
        if gSDE and self._noise_shape() is None:
            raise TypeError(describe(self, "got gSDE=True with a policy that has no gSDEModule"))
        self.convert_to_functional(
            qvalue_network, "qvalue_network", num_qvalue_nets, create_target_params=delay_qvalue
        )
        self.num_qvalue_nets, self.sub_sample_len = num_qvalue_nets, sub_sample_len
        self._set_target_entropy(target_entropy, action_spec)
        self.out_keys = [
            *OUT_KEYS,
            "state_action_value_actor",
            "action_log_prob_actor",
            "next.state_value",
            "target_value",
        ]

    def _collect_in_keys(self) -> list[NestedKey]:
        keys = super()._collect_in_keys()
        noise = (NOISE, next_key(NOISE)) if self.gSDE else ()
        return [key for key in keys if key not in noise]

    def _noise_shape(self) -> torch.Size | None:
        """Return the shape ``[A, S]`` of the noise of a policy with state-dependent exploration."""
        layers = (m for m in self.actor_network.modules() if isinstance(m, gSDEModule))
        layer = next(layers, None)
        return None if layer is None else layer.sigma.shape

    def _draw(self, td: TensorDictBase, actor: Any = None) -> tuple[Actions, Tensor]:
        if self.gSDE:
            shape, like = self._noise_shape(), next(self.actor_network.parameters())
            assert shape is not None
            td = td.copy().set(NOISE, like.new_zeros(*td.batch_size, *shape))
        return super()._draw(td, actor)

    def losses(self, td: TensorDictBase) -> dict[str, Tensor]:
        self._limit_alpha()
        mask, key = self._mask(td), self.tensor_keys.state_action_value
        with self._apart(self.qvalue_network):
            predicted = value_of(self.qvalue_network, td, key)  # [N, *B]
        with torch.no_grad():
            ahead = self._at_next(td, self._next_value)  # [*B]
            target = self._bootstrap(td, ahead.unsqueeze(-1))
            self._prioritise(td, (predicted.detach() - target).abs().amax(0))
        actions, log_prob = self._draw(td)
        with frozen(self.qvalue_network) as critics:
            value = self._judged(critics, td, key, actions).squeeze(-1)  # [N, *B]
        return {
            "loss_actor": self.alpha * log_prob - value.mean(0),
            "loss_qvalue": self._weigh(td, self._errors(predicted, target).sum(0)),
            **self._alpha_losses(log_prob),
            **self._reports(log_prob, mask),
            "state_action_value_actor": value,
            "action_log_prob_actor": log_prob,
            "next.state_value": ahead,
            "target_value": target,
        }

    def _next_value(self, following: TensorDictBase) -> Tensor:
        """Return the soft value ``[*B]`` of the next step, by critics drawn again."""
        actions, log_prob = self._draw(following)
        actions, key = self._beside_taken(following, actions), self.tensor_keys.state_action_value
        values = value_of(self.target("qvalue_network"), following, key, actions)
        drawn = torch.randperm(self.num_qvalue_nets, device=values.device)
        lowest = values[drawn[: self.sub_sample_len]].amin(0)
        return lowest - self.alpha * log_prob
