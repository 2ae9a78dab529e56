"""Truncated quantile critics: Kuznetsov et al., 2020, https://arxiv.org/abs/2005.04269.

``N`` critics of ``Z`` quantiles each.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl._core.errors import describe
from torchrl._core.records.policies import take
from torchrl.data import TensorSpec
from torchrl.objectives.dqn import quantile_huber
from torchrl.objectives.max_entropy import OUT_KEYS, SoftActorCriticLoss
from torchrl.objectives.networks import Critics, frozen


class TQCLoss(SoftActorCriticLoss):
    r"""Soft actor-critic on quantiles of the return, of which the highest are dropped.

    The target of every critic are the quantiles of all target critics, pooled and sorted, without
    the highest; the policy climbs the mean of all quantiles.

    Args:
        actor_network: A policy with a distribution that has gradients (``rsample``).
        qvalue_network: Reads observations and action, writes ``state_action_value [*B, Z]``; one
            network, from which the others are drawn, or a list of all.
        num_qvalue_nets: Number of critics.
        top_quantiles_to_drop_per_net: How many quantiles are dropped, for each critic.
        target_entropy: See :class:`~torchrl.objectives.max_entropy.MaxEntropyLoss`.
        action_spec: See there.
        delay_qvalue: Take the target from frozen copies of the critics.
        skip_done_states: See :class:`~torchrl.objectives.SACLoss`.
        options: As in :class:`~torchrl.objectives.SACLoss`.

    Reads: As :class:`~torchrl.objectives.SACLoss`.
    Writes: ``td_error [*B]``, the distance of the mean of all quantiles from that of the target, as
        priority.
    Returns: ``loss_actor``, ``loss_qvalue``, ``loss_alpha``, ``alpha``, ``entropy``.

    Source: Kuznetsov et al., 2020, https://arxiv.org/abs/2005.04269, eq. 6 to 12.

    >>> from tensordict.nn import TensorDictModule
    >>> from torchrl.envs import GymEnv
    >>> from torchrl.modules import MLP, make_actor
    >>> env = GymEnv("Pendulum-v1")
    >>> critic = TensorDictModule(MLP(4, 25), ["observation", "action"], ["state_action_value"])  # 25 quantiles
    >>> loss = TQCLoss(make_actor(env, num_cells=(16,)), critic, num_qvalue_nets=5, top_quantiles_to_drop_per_net=2)
    >>> list(loss(env.rollout(8)).keys())
    ['loss_actor', 'loss_qvalue', 'loss_alpha', 'alpha', 'entropy']
    """

    def __init__(
        self,
        actor_network: TensorDictModuleBase,
        qvalue_network: Critics,
        *,
        num_qvalue_nets: int = 5,
        top_quantiles_to_drop_per_net: int = 2,
        target_entropy: float | str = "auto",
        action_spec: TensorSpec | None = None,
        delay_qvalue: bool = True,
        skip_done_states: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.skip_done_states, self.delay_qvalue = skip_done_states, delay_qvalue
        self._set_actor(actor_network)
        self.convert_to_functional(qvalue_network, "qvalue_network", num_qvalue_nets, create_target_params=delay_qvalue)
        self.top_quantiles_to_drop = top_quantiles_to_drop_per_net * num_qvalue_nets
        self._set_target_entropy(target_entropy, action_spec)
        self.out_keys = list(OUT_KEYS)

    def _critic_terms(self, td: TensorDictBase) -> dict[str, Tensor]:
        key = self.tensor_keys.state_action_value
        with self._apart(self.network("qvalue_network")):
            predicted = take(self.network("qvalue_network"), td, key)  # [N, *B, Z]
        with torch.no_grad():
            soft = self._ahead(td, self._next_quantiles, self.skip_done_states)
            target = self._bootstrap_each(td, soft)  # [*B, K]
            self._prioritise(td, (predicted.mean((0, -1)) - target.mean(-1)).abs())
        errors: Any = sum(quantile_huber(q, target) / q.shape[-1] for q in predicted.unbind(0))
        errors = self._weigh(td, errors / len(predicted))
        return {"loss_qvalue": self._of_known_targets(td, errors, self.skip_done_states)}

    def _actor_terms(self, td: TensorDictBase) -> tuple[dict[str, Tensor], Tensor]:
        actions, log_prob = self._draw(td)
        with frozen(self.network("qvalue_network")) as critics:
            value = self._judged(critics, td, self.tensor_keys.state_action_value, actions).mean((0, -1))  # [*B]
        return {"loss_actor": self.alpha * log_prob - value}, log_prob

    def _next_quantiles(self, next_root: TensorDictBase) -> Tensor:
        """Return the soft quantiles ``[*B, K]`` of the next step that are kept."""
        key = self.tensor_keys.state_action_value
        actions, log_prob = self._draw(next_root)
        actions = self._beside_taken(next_root, actions)
        ahead = take(self.target("qvalue_network"), next_root, key, actions)  # [N, *B, Z]
        pooled = ahead.movedim(0, -1).flatten(-2).sort(-1).values  # [*B, N * Z]
        kept = pooled.shape[-1] - self.top_quantiles_to_drop
        if kept < 1:
            raise ValueError(
                describe(
                    self,
                    "drops all quantiles",
                    expected=f"less than {pooled.shape[-1]}",
                    found=self.top_quantiles_to_drop,
                    hint="Lower top_quantiles_to_drop_per_net.",
                )
            )
        return pooled[..., :kept] - (self.alpha * log_prob).unsqueeze(-1)
