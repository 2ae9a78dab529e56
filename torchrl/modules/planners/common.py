"""Policies that plan: they try sequences of actions in a model of the environment.

``*B`` batch, ``K`` candidates, ``T`` planning horizon, ``A`` actions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl._core.errors import SpecError, describe
from torchrl._core.keys import require
from torchrl._core.mdp import step_mdp
from torchrl.data import Composite, TensorSpec


class MPCPlannerBase(TensorDictModuleBase, ABC):
    """Writes the first action of a plan.

    Args:
        env: A model of the environment: any environment that takes any batch size.
        action_key: Where the action goes.

    Hooks:
        planning: ``td [*B] -> action [*B, A]``, the first action of the plan.

    Reads: the observations of ``env``. Writes: ``action [*B, A]``.
    """

    def __init__(self, env: Any, action_key: NestedKey = "action") -> None:
        super().__init__()
        # An environment may be a module; it is not part of the policy.
        self._env = (env,)
        self.action_key = action_key
        reads: Any = [*env.observation_spec.keys(True, True)]
        writes: Any = [action_key]
        self.in_keys, self.out_keys = reads, writes

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
        """Plan from what is observed; write the first action."""
        require(tensordict, self.in_keys, self, "Reset the environment before.")
        with torch.no_grad():
            action = self.planning(tensordict.copy())
        return tensordict.set(self.action_key, action)

    def imagine(self, td: TensorDictBase, actions: Tensor) -> TensorDictBase:
        """Return what the model makes of candidates.

        Args:
            td: States ``[*B]``.
            actions: Candidates ``[*B, K, T, A]``.

        Returns: the transitions ``[*B, K, T]``.
        """
        batch = td.batch_size
        num = actions.shape[len(batch)]
        td = td.unsqueeze(-1).expand(*batch, num).clone()
        steps: list[Any] = []
        for action in actions.unbind(len(batch) + 1):
            td = self.env.step(td.set(self.action_key, action))
            # What the first state has, all have: a model may write more than it was given.
            steps.append(td.select(*(steps[0].keys() if steps else td.keys())))
            td = step_mdp(td)
        transitions: Any = torch.stack(steps, len(batch) + 1)
        return transitions


class GaussianPlanner(MPCPlannerBase):
    """Draws candidates from a normal distribution, which it moves to the best of them.

    Args:
        env: A model of the environment.
        planning_horizon: ``T``.
        optim_steps: How often the distribution moves.
        num_candidates: ``K``.
        top_k: How many of the best it moves to.
        reward_key: Where the reward is.
        action_key: Where the action goes.

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
                (*batch, self.num_candidates, self.planning_horizon, *features),
                dtype=mean.dtype,
                device=mean.device,
            )
            actions = spec.project(mean + std * noise)  # [*B, K, T, A]
            scores = self._scores(self.imagine(td, actions))
            best, index = scores.topk(self.top_k, dim)
            index = index[(...,) + (None,) * (actions.ndim - index.ndim)]
            elite = actions.gather(
                dim, index.expand(*index.shape[: dim + 1], *actions.shape[dim + 1 :])
            )
            mean, std = (x.unsqueeze(dim) for x in self._fit(elite, best, dim))
        return spec.project(mean.select(dim, 0).select(dim, 0))

    @abstractmethod
    def _scores(self, transitions: TensorDictBase) -> Tensor: ...

    @abstractmethod
    def _fit(self, elite: Tensor, scores: Tensor, dim: int) -> tuple[Tensor, Tensor]: ...
