"""Rewards brought to the scale of returns that are measured along the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey
from torch import Tensor

from torchrl.data import Composite, Unbounded
from torchrl.envs.step_plan import expand_flag
from torchrl.envs.transforms.base import Transform
from torchrl.envs.transforms.inside import Inside
from torchrl.envs.transforms.running_stats import RunningMeanStd


class ReturnNorm(Transform):
    r"""Divides rewards by the running standard deviation of the discounted return.

    .. math:: r \leftarrow r / \max(\sigma(G), \epsilon), \quad G_t = r_t + \gamma G_{t-1}

    Rewards keep their sign; only their size changes.

    Args:
        gamma: Discount factor, that of the algorithm.
        in_keys: The reward; ``reward`` if ``None``.
        out_keys: Where to write it; in place if ``None``.
        eps: Least standard deviation.

    Source: Engstrom et al., 2020, https://arxiv.org/abs/2005.12729, "reward scaling".

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("CartPole-v1"), ReturnNorm(gamma=0.99))
    >>> _ = env.rollout(100, break_when_any_done=False)
    >>> bool(env.transform.statistics.std > 1)
    True
    """

    entrywise = True
    _inside: Inside
    _total: Tensor | None

    def __init__(
        self,
        gamma: float = 0.99,
        in_keys: Sequence[NestedKey] | None = None,
        out_keys: Sequence[NestedKey] | None = None,
        *,
        eps: float = 1e-4,
    ) -> None:
        super().__init__(["reward"] if in_keys is None else in_keys, out_keys)
        if len(self.in_keys) != 1:
            raise ValueError(f"ReturnNorm: expected one reward, found {self.in_keys}.")
        self.gamma, self.eps, self.frozen = gamma, eps, False
        self.statistics = RunningMeanStd()
        self.__dict__.update(_total=None)

    def _step(self, tensordict: Any, next_tensordict: Any) -> Any:
        reward = next_tensordict.get(self.in_keys[0], None)
        if reward is None:
            raise self._missing(self.in_keys[0], next_tensordict)
        before, moving = self._total, tensordict.get("_step", None)
        total = reward if before is None else reward + self.gamma * before
        if moving is not None:
            moving = expand_flag(moving, total.shape)
            total = total if before is None else torch.where(moving, total, before)
        self.__dict__["_total"] = total
        if self.training and not self.frozen:
            self.statistics.update(total if moving is None else total[moving])
        return next_tensordict.set(self.out_keys[0], self._apply_transform(reward))

    def _reset(self, tensordict: Any, tensordict_reset: Any) -> Any:
        rows = self._inside.being_reset(tensordict)
        if rows is None or self._total is None:
            self.__dict__["_total"] = None
        else:
            rows = expand_flag(rows, self._total.shape)
            self.__dict__["_total"] = self._total.masked_fill(rows, 0)
        return tensordict_reset

    def _apply_transform(self, value: Tensor) -> Tensor:
        return value / self.statistics.std.clamp_min(self.eps).to(value.dtype)

    def get_extra_state(self) -> Any:
        """Return the discounted returns so far."""
        return {"total": self._total}

    def set_extra_state(self, state: Any) -> None:
        """Go on from the discounted returns of another."""
        self.__dict__["_total"] = state["total"]

    def freeze(self) -> ReturnNorm:
        """Keep the deviation as it is."""
        self.frozen = True
        return self

    def unfreeze(self) -> ReturnNorm:
        """Let the deviation follow the data again."""
        self.frozen = False
        return self

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Take the bounds of the reward away."""
        self._check_keys(specs)
        self.__dict__["_inside"] = Inside(specs)
        spec = specs["reward"][self.in_keys[0]]
        image = Unbounded(spec.shape, dtype=spec.dtype, device=spec.device)
        specs["reward"][self.out_keys[0]] = image
        return specs
