"""Planning by model-predictive path integrals."""

from __future__ import annotations

from typing import Any

from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn

from torchrl.modules.planners.common import GaussianPlanner


class MPPIPlanner(GaussianPlanner):
    r"""Moves a normal distribution of plans to the mean of the best, weighted by their advantage.

    .. math:: \mu = \sum_i \omega_i a_i, \quad \sigma^2 = \sum_i \omega_i (a_i - \mu)^2, \quad
        \omega = \mathrm{softmax}(\tau A)

    Args:
        env: A model of the environment: any environment that takes any batch size.
        advantage_module: Reads imagined transitions ``[*B, K, T]`` and writes ``advantage
            [*B, K, T, 1]``; that of the first step scores a plan.
        temperature: :math:`\tau`: the higher, the more the best plan counts.
        planning_horizon: Steps ``T`` of a plan.
        optim_steps: How often the distribution moves.
        num_candidates: Number of plans that are tried each time.
        top_k: How many of them count.
        reward_key: Where the reward is.
        action_key: Where the action goes.

    Reads: the observations of ``env``. Writes: ``action [*B, A]``, the first of the plan.

    Raises:
        SpecError: if there are fewer candidates than ``top_k``.

    Source: Williams et al., 2015, https://arxiv.org/abs/1509.01149; Hansen et al., 2022,
    https://arxiv.org/abs/2203.04955, eq. 4-5.

    >>> from tensordict.nn import TensorDictModule
    >>> from torchrl.envs import PendulumEnv
    >>> env = PendulumEnv()
    >>> returns = TensorDictModule(
    ...     lambda reward: reward.flip(-2).cumsum(-2).flip(-2), [("next", "reward")], ["advantage"]
    ... )
    >>> options = dict(planning_horizon=5, optim_steps=3, num_candidates=16, top_k=4)
    >>> policy = MPPIPlanner(env, returns, temperature=0.5, **options)
    >>> env.rollout(3, policy)["action"].shape
    torch.Size([3, 1])
    """

    def __init__(
        self,
        env: Any,
        advantage_module: nn.Module,
        temperature: float,
        planning_horizon: int,
        optim_steps: int,
        num_candidates: int,
        top_k: int,
        reward_key: NestedKey = ("next", "reward"),
        action_key: NestedKey = "action",
    ) -> None:
        super().__init__(
            env, planning_horizon, optim_steps, num_candidates, top_k, reward_key, action_key
        )
        self.advantage_module, self.temperature = advantage_module, temperature

    def _scores(self, transitions: TensorDictBase) -> Tensor:
        return self.advantage_module(transitions).get("advantage")[..., 0, 0]

    def _fit(self, elite: Tensor, scores: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        weight = (self.temperature * scores).softmax(-1)
        weight = weight[(...,) + (None,) * (elite.ndim - weight.ndim)]
        mean = (weight * elite).sum(dim, keepdim=True)
        variance = (weight * (elite - mean).square()).sum(dim)
        return mean.squeeze(dim), variance.sqrt()
