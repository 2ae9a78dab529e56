"""Conservative Q-learning: Kumar et al., 2020, https://arxiv.org/abs/2006.04779.

``N`` critics or discrete actions, ``R`` sampled actions.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

from torchrl._core.errors import describe
from torchrl._core.records.policies import value_of
from torchrl.data import TensorSpec
from torchrl.objectives.distributions import distribution, draw, log_prob
from torchrl.objectives.dqn import DQNLoss
from torchrl.objectives.max_entropy import Actions
from torchrl.objectives.networks import Critics
from torchrl.objectives.off_policy import action_bounds
from torchrl.objectives.sac import SACLoss


class CQLLoss(SACLoss):
    r"""Soft actor-critic for fixed data: actions outside the data are valued low.

    .. math:: L_{CQL} = w \sum_i \Big(T \log \frac{1}{3R} \sum_a
        \frac{e^{Q_i(s, a) / T}}{\mu(a)} - Q_i(s, a_{data})\Big)

    where the actions are drawn, a third each, uniformly, from the policy at :math:`s` and from the
    policy at :math:`s'`, and :math:`\mu` is the density of each.

    Args:
        actor_network: A policy with a distribution that has gradients (``rsample``).
        qvalue_network: Reads observations and action, writes ``state_action_value [*B, 1]``; one
            network, from which a second is drawn, or a list of both.
        temperature: :math:`T`.
        min_q_weight: :math:`w`.
        max_q_backup: Bootstrap from the best of ``num_random`` next actions.
        deterministic_backup: Leave the entropy out of the target.
        num_random: :math:`R`.
        with_lagrange: Learn the weight of the penalty, so that each critic's is driven to
            ``lagrange_thresh``.
        lagrange_thresh: See there.
        options: As in :class:`~torchrl.objectives.SACLoss`. The range of uniform actions is that of
            ``action_spec`` or of the policy's spec, and [-1, 1] without them.

    Reads: As :class:`~torchrl.objectives.SACLoss`. Writes: As :class:`~torchrl.objectives.SACLoss`.
    Returns: ``loss_actor``, ``loss_actor_bc`` (which clones the data; to be used in the place of
        ``loss_actor`` while the critics warm up), ``loss_qvalue``, ``loss_cql``, ``loss_alpha``,
        ``loss_alpha_prime`` (with Lagrange), ``alpha``, ``entropy``.

    Source: Kumar et al., 2020, https://arxiv.org/abs/2006.04779, eq. 4 (variant H) and appendix F.

    >>> from torchrl.envs import GymEnv
    >>> from torchrl.modules import make_actor, make_critic
    >>> env = GymEnv("Pendulum-v1")
    >>> actor, critic = make_actor(env, num_cells=(16,)), make_critic(env, num_cells=(16,), with_action=True)
    >>> loss = CQLLoss(actor, critic, action_spec=env.action_spec)
    >>> losses = loss(env.rollout(8))  # a batch of the dataset
    >>> list(losses.keys())
    ['loss_actor', 'loss_qvalue', 'loss_alpha', 'alpha', 'entropy', 'loss_actor_bc', 'loss_cql']
    """

    keys_of_heads = ()  # uniform actions are of one name

    def __init__(
        self,
        actor_network: TensorDictModuleBase,
        qvalue_network: Critics,
        *,
        action_spec: TensorSpec | None = None,
        temperature: float = 1.0,
        min_q_weight: float = 1.0,
        max_q_backup: bool = False,
        deterministic_backup: bool = True,
        num_random: int = 10,
        with_lagrange: bool = False,
        lagrange_thresh: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(actor_network, qvalue_network, action_spec=action_spec, **options)
        self.temperature, self.min_q_weight = temperature, min_q_weight
        self.max_q_backup, self.deterministic_backup = max_q_backup, deterministic_backup
        self.num_random, self.lagrange_thresh = num_random, lagrange_thresh
        self.with_lagrange = with_lagrange
        if len(self.actor_network.dist_sample_keys) > 1:
            raise TypeError(
                describe(
                    self,
                    "draws uniform actions of one name",
                    expected="a policy with one action",
                    found=self.actor_network.dist_sample_keys,
                )
            )
        spec = getattr(actor_network, "spec", None) if action_spec is None else action_spec
        bounds = (-1.0, 1.0) if spec is None else None
        low, high = action_bounds(self, spec, bounds, self.tensor_keys.action)
        self._coefficient("action_low", low)
        self._coefficient("action_high", high)
        self.out_keys = ["loss_actor", "loss_actor_bc", "loss_qvalue", "loss_cql", "loss_alpha", "alpha", "entropy"]
        if with_lagrange:
            self.log_alpha_prime = nn.Parameter(torch.zeros_like(self.log_alpha))
            self.out_keys.insert(5, "loss_alpha_prime")

    def losses(self, td: TensorDictBase) -> dict[str, Tensor]:
        return {**super().losses(td), **self._cloning_terms(td), **self._conservative_terms(td)}

    def q_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Return ``loss_qvalue`` of a batch, and what is reported beside it; write the priority."""
        return self.qvalue_loss(tensordict)

    def actor_bc_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Return ``loss_actor_bc`` of a batch, and what is reported beside it."""
        return self._term(tensordict, self._cloning_terms, "loss_actor_bc")

    def cql_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Return ``loss_cql`` of a batch, and what is reported beside it."""
        return self._term(tensordict, self._conservative_terms, "loss_cql")

    def alpha_prime_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Return ``loss_alpha_prime`` of a batch, of a loss with Lagrange, and what is reported beside it."""
        if not self.with_lagrange:
            raise TypeError(describe(self, "does not learn the weight of its penalty", hint="Pass with_lagrange=True."))
        return self._term(tensordict, self._conservative_terms, "loss_alpha_prime")

    def _cloning_terms(self, td: TensorDictBase) -> dict[str, Tensor]:
        dist, key = distribution(self.actor_network, td), self.tensor_keys.action
        of_data = log_prob(dist, td, key, td.ndim)
        _, of_policy = draw(dist, key, td.ndim)
        return {"loss_actor_bc": self.alpha * of_policy - of_data}

    def _conservative_terms(self, td: TensorDictBase) -> dict[str, Tensor]:
        out = {}
        with self._apart(self.network("qvalue_network")):
            penalty = self._penalty(td)  # [N, *B]
        if self.with_lagrange:
            weight, gap = self.log_alpha_prime.exp().clamp(0.0, 1e6), penalty - self.lagrange_thresh
            out["loss_alpha_prime"] = -weight * self._weigh(td, gap.detach().mean(0))
            penalty = weight.detach() * gap
        out["loss_cql"] = self._weigh(td, penalty.sum(0))
        return out

    def _penalty(self, td: TensorDictBase) -> Tensor:
        """Return how far each critic values sampled actions above the data's, ``[N, *B]``."""
        key, count = self.tensor_keys.state_action_value, self.num_random
        with torch.no_grad():
            draws = [self._uniform(td), self._draw(td.expand(count, *td.batch_size)), self._draws_at_next(td)]
        wide = td.expand(count, *td.batch_size)
        ratios = [
            self._judged(self.network("qvalue_network"), wide, key, actions).squeeze(-1) / self.temperature - density
            for actions, density in draws
        ]  # [N, R, *B] each
        sampled = torch.cat(ratios, 1).logsumexp(1) - math.log(3 * count)  # [N, *B]
        gap = self.temperature * sampled - value_of(self.network("qvalue_network"), td, key)
        return self.min_q_weight * gap

    def _draws_at_next(self, td: TensorDictBase) -> tuple[Actions, Tensor]:
        """Return ``R`` actions of the policy at each next step, and their log-density."""
        key, count = self.tensor_keys.action, self.num_random

        def draws(rows: TensorDictBase) -> Tensor:
            actions, density = self._draw(rows.expand(count, *rows.batch_size))
            drawn = [actions[key].flatten(td.ndim + 1), density.unsqueeze(-1)]
            return torch.cat(drawn, -1).movedim(0, -2)  # [*B, R, A + 1]

        drawn = self._at_next(td, draws).movedim(-2, 0)
        shape = td.get(key).shape[td.ndim :]
        return {key: drawn[..., :-1].unflatten(-1, shape)}, drawn[..., -1]

    def _uniform(self, td: TensorDictBase) -> tuple[Actions, Tensor]:
        """Return ``R`` uniform actions a sample and their log-density."""
        key = self.tensor_keys.action
        action = td.get(key)
        low, width = self.action_low, (self.action_high - self.action_low).expand(action.shape)
        draws = torch.rand(self.num_random, *action.shape, device=action.device, dtype=action.dtype)
        density = -width.log().flatten(td.ndim).sum(-1)  # [*B]
        return {key: low + width * draws}, density.expand(self.num_random, *td.batch_size)

    def _next_value(self, next_root: TensorDictBase) -> Tensor:
        if self.max_q_backup:
            wide = next_root.expand(self.num_random, *next_root.batch_size)
            actions, log_prob_of_next = self._draw(wide, self.target("actor_network"))
            value, best = self._lowest(wide, actions).max(0)
            log_prob_of_next = log_prob_of_next.gather(0, best.unsqueeze(0)).squeeze(0)
        else:
            actions, log_prob_of_next = self._draw(next_root, self.target("actor_network"))
            value = self._lowest(next_root, actions)
        return value if self.deterministic_backup else value - self.alpha * log_prob_of_next


class DiscreteCQLLoss(DQNLoss):
    r"""Q-learning for fixed data: actions outside the data are valued low.

    .. math:: L_{CQL} = w \left( T \log \sum_{a'} e^{Q(s, a') / T} - Q(s, a) \right)

    Args:
        value_network: Reads observations, writes ``action_value [*B, N]``.
        temperature: :math:`T`.
        min_q_weight: :math:`w`.
        options: As in :class:`~torchrl.objectives.DQNLoss`.

    Reads: As :class:`~torchrl.objectives.DQNLoss`. Writes: As :class:`~torchrl.objectives.DQNLoss`.
    Returns: ``loss_qvalue``, ``loss_cql``, and the means ``td_error``, ``pred_value``,
        ``target_value``.

    Source: Kumar et al., 2020, https://arxiv.org/abs/2006.04779, eq. 4 (variant H).

    >>> from torchrl.envs import GymEnv
    >>> from torchrl.modules import make_q_actor
    >>> env = GymEnv("CartPole-v1")
    >>> loss = DiscreteCQLLoss(make_q_actor(env, num_cells=(16,)))
    >>> list(loss(env.rollout(8)).keys())  # a batch of the dataset
    ['loss_qvalue', 'td_error', 'pred_value', 'target_value', 'loss_cql']
    """

    def __init__(
        self,
        value_network: TensorDictModuleBase,
        *,
        temperature: float = 1.0,
        min_q_weight: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(value_network, **options)
        self.temperature, self.min_q_weight = temperature, min_q_weight
        self.out_keys = ["loss_qvalue", "loss_cql", "td_error", "pred_value", "target_value"]

    def losses(self, td: TensorDictBase) -> dict[str, Tensor]:
        values, taken = self._of_all_and_taken(td)
        return {**self._critic_terms(td, taken), **self._conservative_terms(td, values, taken)}

    def value_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Return ``loss_qvalue`` of a batch, and what is reported beside it; write the priority."""
        return self._term(tensordict, self._critic_terms, "loss_qvalue", has_priority=True)

    qvalue_loss = value_loss

    def cql_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Return ``loss_cql`` of a batch, and what is reported beside it."""
        return self._term(tensordict, self._conservative_terms, "loss_cql")

    def _of_all_and_taken(self, td: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Return the values ``[*B, N]`` of all actions, and those of the actions of the data ``[*B]``."""
        values = self._possible(self._values(td), td)
        return values, self.action_space.value_of(values, td.get(self.tensor_keys.action)).squeeze(-1)

    def _conservative_terms(
        self, td: TensorDictBase, values: Tensor | None = None, taken: Tensor | None = None
    ) -> dict[str, Tensor]:
        if values is None or taken is None:
            values, taken = self._of_all_and_taken(td)
        soft = self.temperature * (values / self.temperature).logsumexp(-1)  # [*B]
        return {"loss_cql": self._weigh(td, self.min_q_weight * (soft - taken))}

    def _critic_terms(self, td: TensorDictBase, taken: Tensor | None = None) -> dict[str, Tensor]:
        mask = self.row_mask(td)
        if taken is None:
            taken = self._of_all_and_taken(td)[1]
        with torch.no_grad():
            target = self._bootstrap(td, self._next_value(td))
            error = (taken - target).square()
        self._prioritise(td, error.unsqueeze(-1))
        return {
            "loss_qvalue": self._weigh(td, self._errors(taken, target)),
            "td_error": self._reduce(error, mask, "mean"),
            "pred_value": self._reduce(taken.detach(), mask, "mean"),
            "target_value": self._reduce(target, mask, "mean"),
        }
