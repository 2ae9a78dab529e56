"""Generalized advantage estimation, for one agent and for several."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl._core.returns import generalized_advantage_estimate
from torchrl.objectives.value.base import Steps, ValueEstimatorBase


class GAE(ValueEstimatorBase):
    r"""Generalized advantage estimation.

    .. math:: A_t = \sum_k (\gamma \lambda)^k \delta_{t+k}, \quad
        \delta_t = r_t + \gamma (1 - e_t) V(s_{t+1}) - V(s_t)

    Args:
        gamma: Discount factor, or one a step.
        lmbda: Bias-variance trade-off, from 0 (one step) to 1 (the whole episode).
        value_network: Reads observations, writes ``state_value [*B, T, 1]``.
        average_gae: Standardise the advantages of the batch, after the value target is made of
            them.
        vectorized: Scan over time (``True``), loop over it (``False``) or do what is faster.
        auto_reset_env: The next observation of a truncated step is that of the next episode (some
            vectorised environments keep no other): bootstrap from the root instead.
        options: Arguments of :class:`ValueEstimatorBase`.

    Source: Schulman et al., 2016, https://arxiv.org/abs/1506.02438, eq. 16.

    >>> from tensordict import TensorDict
    >>> flag = torch.zeros(2, 1, dtype=torch.bool)
    >>> after = TensorDict(state_value=torch.zeros(2, 1), reward=torch.ones(2, 1), done=flag)
    >>> td = TensorDict(state_value=torch.zeros(2, 1), next=after, batch_size=[2])
    >>> GAE(gamma=0.5, lmbda=1.0, value_network=None)(td)["advantage"].T
    tensor([[1.5000, 1.0000]])
    """

    needs_value = True

    def __init__(
        self,
        *,
        gamma: float | Tensor,
        lmbda: float | Tensor,
        value_network: TensorDictModuleBase | None = None,
        average_gae: bool = False,
        vectorized: bool | None = None,
        auto_reset_env: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(gamma=gamma, value_network=value_network, **options)
        self.lmbda, self.vectorized = self._hold("lmbda", lmbda), vectorized
        self.average_gae, self.auto_reset_env = average_gae, auto_reset_env

    def returns(self, steps: Steps) -> Tensor:
        return self._estimate(steps)[1]

    def estimate(self, steps: Steps) -> tuple[Tensor, Tensor]:
        advantage, target = self._estimate(steps)
        return steps.standardized(advantage) if self.average_gae else advantage, target

    def _estimate(self, steps: Steps) -> tuple[Tensor, Tensor]:
        assert steps.value is not None
        next_value = steps.next_value
        if self.auto_reset_env:
            next_value = torch.where(steps.done, steps.value, next_value)
        return generalized_advantage_estimate(
            steps.gamma,
            self.lmbda,
            steps.value,
            next_value,
            steps.reward,
            steps.done,
            steps.terminated,
            time_dim=steps.time_dim,
            vectorized=self.vectorized,
        )


class MultiAgentGAE(GAE):
    """GAE for agents that share rewards and ends but have each their value.

    Rewards and flags ``[*B, T, 1]`` of the team count for every agent of values
    ``[*B, T, n, 1]``; those that already have the agent dimension are left as they are.

    Args:
        agent_dim: Where the agents are in the values.
        options: Arguments of :class:`GAE`.
    """

    def __init__(self, *, agent_dim: int = -2, **options: Any) -> None:
        super().__init__(**options)
        self.agent_dim = agent_dim

    def _estimate(self, steps: Steps) -> tuple[Tensor, Tensor]:
        shape = steps.next_value.shape

        def of_each(x: Tensor) -> Tensor:
            x = x if x.ndim == len(shape) else x.unsqueeze(self.agent_dim)
            return x.expand(shape)

        team: dict[str, Any] = {
            name: of_each(getattr(steps, name)) for name in ("reward", "done", "terminated")
        }
        gamma = steps.gamma
        if isinstance(gamma, Tensor) and gamma.ndim:
            gamma = of_each(gamma)
        return super()._estimate(replace(steps, **team, gamma=gamma))
