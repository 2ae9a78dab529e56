"""Policies that plan: they evaluate sequences of actions in a model of the environment (CEM, MPPI).

``*B`` batch, ``K`` candidates, ``T`` planning horizon, ``A`` actions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

from torchrl._core.errors import SpecError, describe
from torchrl._core.keys import require, sibling
from torchrl._core.mdp import step_mdp
from torchrl.data import Composite, TensorSpec

__all__ = ["CEMPlanner", "MPCPlannerBase", "MPPIPlanner"]
__path__: list[str] = []  # old paths below this module can be imported, see torchrl._legacy


class MPCPlannerBase(TensorDictModuleBase, ABC):
    """Base class of policies that write the first action of a plan.

    Args:
        env: A model of the environment: any environment that supports all batch sizes.
        action_key: Key of the action.

    Hooks:
        planning: ``td [*B] -> action [*B, A]``, the first action of the plan.

    Reads: the observations of ``env``. Writes: ``action [*B, A]``.

    >>> from torchrl.envs import PendulumEnv
    >>> class Brake(MPCPlannerBase):
    ...     def planning(self, td):
    ...         return -td["thdot"].unsqueeze(-1)
    >>> env = PendulumEnv()
    >>> env.rollout(3, Brake(env))["action"].shape
    torch.Size([3, 1])
    """

    def __init__(self, env: Any, action_key: NestedKey = "action") -> None:
        super().__init__()
        # An environment may be a module; in a tuple it is no submodule of the policy.
        self._env = (env,)
        self.action_key = action_key
        keys: Any = [*env.observation_spec.keys(True, True)], [action_key]
        self.in_keys, self.out_keys = keys

    @property
    def env(self) -> Any:
        """The model."""
        return self._env[0]

    @property
    def action_spec(self) -> TensorSpec:
        """Spec of one action ``[A]``."""
        spec = self.env.action_spec
        return spec[self.action_key] if isinstance(spec, Composite) else spec

    @abstractmethod
    def planning(self, td: TensorDictBase) -> Tensor: ...

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Plan from the observation; write the first action."""
        require(tensordict, self.in_keys, self, "Reset the environment before.")
        with torch.no_grad():
            action = self.planning(tensordict.copy())
        return tensordict.set(self.action_key, action)

    def imagine(self, td: TensorDictBase, actions: Tensor) -> TensorDictBase:
        """Return the transitions that the model predicts for candidates.

        Args:
            td: States ``[*B]``.
            actions: Candidates ``[*B, K, T, A]``.

        Returns: the transitions ``[*B, K, T]``.
        """
        batch = td.batch_size
        num = actions.shape[len(batch)]
        td = td.unsqueeze(-1).expand(*batch, num).clone()
        steps: list[TensorDictBase] = []
        for action in actions.unbind(len(batch) + 1):
            td = self.env.step(td.set(self.action_key, action))
            # All states have the entries of the first: a model may write more than it reads.
            steps.append(td.select(*(steps[0].keys() if steps else td.keys())))
            td = step_mdp(td)
        return torch.stack(steps, len(batch) + 1)  # type: ignore[arg-type,return-value]


class GaussianPlanner(MPCPlannerBase):
    """Base class of planners that fit a normal distribution of plans to the best candidates.

    Args:
        env: A model of the environment.
        planning_horizon: ``T``.
        optim_steps: Number of updates of the distribution.
        num_candidates: ``K``.
        top_k: Number of best candidates that it is fitted to.
        reward_key: Key of the reward.
        action_key: Key of the action.

    Hooks:
        _scores: ``transitions [*B, K, T] -> score [*B, K]``, the higher the better.
        _fit: ``actions [*B, top_k, T, A], scores [*B, top_k] -> mean, std [*B, T, A]``.

    Raises:
        SpecError: if there are fewer candidates than ``top_k``.
    """

    def __init__(
        self,
        env: Any,
        planning_horizon: int,
        optim_steps: int,
        num_candidates: int,
        top_k: int,
        reward_key: NestedKey = ("next", "reward"),
        action_key: NestedKey = "action",
    ) -> None:
        super().__init__(env, action_key)
        if not 0 < top_k <= num_candidates:
            raise SpecError(
                describe(
                    self,
                    "takes the best of its candidates",
                    expected="top_k <= num_candidates",
                    found=(top_k, num_candidates),
                )
            )
        self.planning_horizon, self.optim_steps = planning_horizon, optim_steps
        self.num_candidates, self.top_k, self.reward_key = num_candidates, top_k, reward_key

    def planning(self, td: TensorDictBase) -> Tensor:
        """Return the first action of the mean of the final distribution."""
        batch, spec = td.batch_size, self.action_spec
        features = tuple(spec.shape[-1:])
        shape = (*batch, 1, self.planning_horizon, *features)
        mean = torch.zeros(shape, dtype=spec.dtype, device=spec.device)
        std = torch.ones_like(mean)
        dim = len(batch)
        for _ in range(self.optim_steps):
            noise = torch.randn(
                (*batch, self.num_candidates, self.planning_horizon, *features), dtype=mean.dtype, device=mean.device
            )
            actions = spec.project(mean + std * noise)  # [*B, K, T, A]
            scores = self._scores(self.imagine(td, actions))
            best, index = scores.topk(self.top_k, dim)
            index = index[(...,) + (None,) * (actions.ndim - index.ndim)]
            elite = actions.gather(dim, index.expand(*index.shape[: dim + 1], *actions.shape[dim + 1 :]))
            mean, std = (x.unsqueeze(dim) for x in self._fit(elite, best, dim))
        return spec.project(mean.select(dim, 0).select(dim, 0))

    @abstractmethod
    def _scores(self, transitions: TensorDictBase) -> Tensor: ...

    @abstractmethod
    def _fit(self, elite: Tensor, scores: Tensor, dim: int) -> tuple[Tensor, Tensor]: ...


class CEMPlanner(GaussianPlanner):
    """Cross-entropy method: fit a distribution of plans to those of highest return, repeatedly.

    Rewards after the end of an episode do not count.

    Args:
        env: A model of the environment: any environment that supports all batch sizes.
        planning_horizon: Steps ``T`` of a plan.
        optim_steps: Number of updates of the distribution.
        num_candidates: Number of plans in each update.
        top_k: Number of plans that the distribution is fitted to.
        reward_key: Key of the reward.
        action_key: Key of the action.

    Reads: the observations of ``env``. Writes: ``action [*B, A]``, the first of the plan.

    Raises:
        SpecError: if there are fewer candidates than ``top_k``.

    Source: Rubinstein and Kroese, 2004; Chua et al., 2018, https://arxiv.org/abs/1805.12114.

    >>> from torchrl.envs import PendulumEnv
    >>> env = PendulumEnv()
    >>> policy = CEMPlanner(
    ...     env, planning_horizon=5, optim_steps=3, num_candidates=16, top_k=4
    ... )
    >>> env.rollout(3, policy)["action"].shape
    torch.Size([3, 1])
    """

    def _scores(self, transitions: TensorDictBase) -> Tensor:
        reward = transitions.get(self.reward_key)  # [*B, K, T, 1]
        done = transitions.get(sibling(self.reward_key, "done"), None)
        if done is not None:
            ended = done.cumsum(-2) - done.long() > 0  # before this step
            reward = reward.masked_fill(ended, 0.0)
        return reward.sum((-2, -1))

    def _fit(self, elite: Tensor, scores: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        return elite.mean(dim), elite.std(dim, correction=0)


class MPPIPlanner(GaussianPlanner):
    r"""Model-predictive path integral: fit to the best plans, weighted by their advantage.

    .. math:: \mu = \sum_i \omega_i a_i, \quad \sigma^2 = \sum_i \omega_i (a_i - \mu)^2, \quad
        \omega = \mathrm{softmax}(\tau A)

    Args:
        env: A model of the environment: any environment that supports all batch sizes.
        advantage_module: Reads imagined transitions ``[*B, K, T]`` and writes ``advantage
            [*B, K, T, 1]``; that of the first step is the score of a plan.
        temperature: :math:`\tau`: the higher, the larger the weight of the best plan.
        planning_horizon: Steps ``T`` of a plan.
        optim_steps: Number of updates of the distribution.
        num_candidates: Number of plans in each update.
        top_k: Number of plans that the distribution is fitted to.
        reward_key: Key of the reward.
        action_key: Key of the action.

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
        super().__init__(env, planning_horizon, optim_steps, num_candidates, top_k, reward_key, action_key)
        self.advantage_module, self.temperature = advantage_module, temperature

    def _scores(self, transitions: TensorDictBase) -> Tensor:
        return self.advantage_module(transitions).get("advantage")[..., 0, 0]

    def _fit(self, elite: Tensor, scores: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        weight = (self.temperature * scores).softmax(-1)
        weight = weight[(...,) + (None,) * (elite.ndim - weight.ndim)]
        mean = (weight * elite).sum(dim, keepdim=True)
        variance = (weight * (elite - mean).square()).sum(dim)
        return mean.squeeze(dim), variance.sqrt()
