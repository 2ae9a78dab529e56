"""Estimators by temporal differences: TD(0), TD(1), TD(lambda)."""

from __future__ import annotations

from typing import Any

from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl._core import returns
from torchrl.objectives.value.base import Steps, ValueEstimatorBase


class _TDEstimator(ValueEstimatorBase):
    """What the three share: rewards that may be standardised."""

    def __init__(
        self,
        *,
        gamma: float | Tensor,
        value_network: TensorDictModuleBase | None = None,
        average_rewards: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(gamma=gamma, value_network=value_network, **options)
        self.average_rewards = average_rewards

    def _reward(self, steps: Steps) -> Tensor:
        return steps.standardized(steps.reward) if self.average_rewards else steps.reward


class TD0Estimator(_TDEstimator):
    r"""One-step bootstrap.

    .. math:: G_t = r_t + \gamma (1 - e_t) V(s_{t+1})

    Args:
        gamma: Discount factor, or one a step.
        value_network: Reads observations, writes ``state_value [*B, T, 1]``.
        average_rewards: Standardise the rewards of the batch first.
        options: Arguments of :class:`ValueEstimatorBase`.

    Source: Sutton, 1988, https://doi.org/10.1007/BF00115009.

    >>> import torch
    >>> from tensordict import TensorDict
    >>> after = TensorDict(state_value=[4.0], reward=[1.0], done=[False], terminated=[False])
    >>> estimator = TD0Estimator(gamma=0.5, value_network=None)
    >>> estimator(TensorDict(state_value=[1.0], next=after))["advantage"]
    tensor([2.])
    """

    needs_time = False

    def returns(self, steps: Steps) -> Tensor:
        return returns.td0_return_estimate(
            steps.gamma, steps.next_value, self._reward(steps), steps.terminated
        )


class TD1Estimator(_TDEstimator):
    r"""Discounted return to the end of the episode, bootstrapped where the future goes on.

    Args:
        gamma: Discount factor, or one a step.
        value_network: Reads observations, writes ``state_value [*B, T, 1]``.
        average_rewards: Standardise the rewards of the batch first.
        options: Arguments of :class:`ValueEstimatorBase`.

    Source: Sutton and Barto, Reinforcement Learning, 2nd edition, 2018, section 12.1.
    """

    def returns(self, steps: Steps) -> Tensor:
        return returns.td1_return_estimate(
            steps.gamma,
            steps.next_value,
            self._reward(steps),
            steps.done,
            steps.terminated,
            time_dim=steps.time_dim,
        )


class TDLambdaEstimator(_TDEstimator):
    r"""Lambda-return: all n-step returns, weighted by powers of :math:`\lambda`.

    Args:
        gamma: Discount factor, or one a step.
        lmbda: From 0 (one step) to 1 (the whole episode).
        value_network: Reads observations, writes ``state_value [*B, T, 1]``.
        average_rewards: Standardise the rewards of the batch first.
        vectorized: Scan over time (``True``), loop over it (``False``) or do what is faster.
        options: Arguments of :class:`ValueEstimatorBase`.

    Source: Sutton and Barto, Reinforcement Learning, 2nd edition, 2018, eq. 12.18.
    """

    def __init__(
        self,
        *,
        gamma: float | Tensor,
        lmbda: float | Tensor,
        value_network: TensorDictModuleBase | None = None,
        average_rewards: bool = False,
        vectorized: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            gamma=gamma, value_network=value_network, average_rewards=average_rewards, **options
        )
        self.lmbda, self.vectorized = self._hold("lmbda", lmbda), vectorized

    def returns(self, steps: Steps) -> Tensor:
        return returns.td_lambda_return_estimate(
            steps.gamma,
            self.lmbda,
            steps.next_value,
            self._reward(steps),
            steps.done,
            steps.terminated,
            time_dim=steps.time_dim,
            vectorized=self.vectorized,
        )
