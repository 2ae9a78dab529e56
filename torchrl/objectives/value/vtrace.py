"""V-trace: advantages from the data of another policy."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import NestedKey
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl._core.keys import as_keys, require
from torchrl._core.math import cleared
from torchrl._core.records.policies import input_keys
from torchrl._core.returns import vtrace_advantage_estimate
from torchrl.objectives.distributions import check_actor, distribution, log_prob, old_log_prob
from torchrl.objectives.value.estimators import Steps, ValueEstimatorBase


class VTrace(ValueEstimatorBase):
    r"""V-trace, the off-policy correction of IMPALA.

    Args:
        gamma: Discount factor, or one a step.
        actor_network: The policy being learnt; the data holds the log-probability of each action
            under the policy that acted.
        value_network: Reads observations, writes ``state_value [*B, T, 1]``.
        rho_thresh: Clips the importance weight of each temporal difference.
        c_thresh: Clips the importance weight of what follows.
        average_adv: Standardise the advantages of the batch.
        options: Arguments of :class:`ValueEstimatorBase`.

    Reads: ``action``, ``action_log_prob [*B, T]`` beside what every estimator reads.

    Source: Espeholt et al., 2018, https://arxiv.org/abs/1802.01561, section 4.1.

    >>> from torchrl.envs import GymEnv
    >>> from torchrl.modules import make_actor, make_critic
    >>> env = GymEnv("Pendulum-v1")
    >>> actor = make_actor(env, num_cells=(16,))
    >>> vtrace = VTrace(gamma=0.99, actor_network=actor, value_network=make_critic(env, num_cells=(16,)))
    >>> vtrace(env.rollout(8, actor))["advantage"].shape
    torch.Size([8, 1])
    """

    needs_value = True
    actor_network: Any

    def __init__(
        self,
        *,
        gamma: float | Tensor,
        actor_network: TensorDictModuleBase,
        value_network: TensorDictModuleBase | None = None,
        rho_thresh: float = 1.0,
        c_thresh: float = 1.0,
        average_adv: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(gamma=gamma, value_network=value_network, **options)
        check_actor(self, actor_network)
        self.actor_network = actor_network
        self.rho_thresh, self.c_thresh = rho_thresh, c_thresh
        self.average_adv = average_adv

    @property  # type: ignore[misc]  # an attribute of tensordict's
    def in_keys(self) -> list[NestedKey]:
        """What every estimator reads, what the policy reads, its action and log-probability."""
        keys = [*super().in_keys, *input_keys(self.actor_network), *self._action_keys()]
        return list(dict.fromkeys([*keys, *as_keys(self.tensor_keys.sample_log_prob)]))

    def returns(self, steps: Steps) -> Tensor:
        return self._estimate(steps)[1]

    def estimate(self, steps: Steps) -> tuple[Tensor, Tensor]:
        advantage, target = self._estimate(steps)
        return steps.standardized(advantage) if self.average_adv else advantage, target

    def _estimate(self, steps: Steps) -> tuple[Tensor, Tensor]:
        assert steps.value is not None
        td, actor = steps.tensordict, self.actor_network
        require(td, [*input_keys(actor), *self._action_keys()], self)
        ndim = steps.value.ndim - 1
        with torch.no_grad():
            dist = distribution(actor, td)
            log_pi = log_prob(dist, td, self._action_keys()[0], ndim).unsqueeze(-1)  # [*B, T, 1]
        log_mu = old_log_prob(self, td, self.tensor_keys.sample_log_prob, actor, ndim)
        return vtrace_advantage_estimate(
            steps.gamma,
            cleared(log_pi, steps.mask).expand_as(steps.value),
            cleared(log_mu.unsqueeze(-1), steps.mask).expand_as(steps.value),
            steps.value,
            steps.next_value,
            steps.reward,
            steps.done,
            steps.terminated,
            self.rho_thresh,
            self.c_thresh,
            steps.time_dim,
        )

    def _action_keys(self) -> list[NestedKey]:
        return self.actor_network.dist_sample_keys
