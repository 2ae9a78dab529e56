"""Rewards: scaled, and summed over an episode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl._core.keys import as_keys, sibling
from torchrl._core.mdp import last_name
from torchrl.data import Composite, TensorSpec, Unbounded
from torchrl.envs.transforms.affine import affine, affine_spec
from torchrl.envs.transforms.base import Transform


class RewardScaling(Transform):
    r"""Rescales the reward: :math:`r \leftarrow a\,r + b`.

    Args:
        loc: The shift :math:`b`.
        scale: The factor :math:`a`.
        in_keys: The rewards to rescale; ``reward`` if ``None``.
        out_keys: Where to write them; in place if ``None``.
        standard_normal: Compute :math:`(r - b) / a` instead.

    >>> from tensordict import TensorDict
    >>> RewardScaling(loc=1.0, scale=2.0)(TensorDict(reward=torch.ones(1)))["reward"]
    tensor([3.])
    """

    entrywise = True
    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        loc: float | Tensor,
        scale: float | Tensor,
        in_keys: Sequence[NestedKey] | None = None,
        out_keys: Sequence[NestedKey] | None = None,
        standard_normal: bool = False,
    ) -> None:
        super().__init__(["reward"] if in_keys is None else in_keys, out_keys)
        self.register_buffer("loc", torch.as_tensor(loc, dtype=torch.get_default_dtype()))
        self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.get_default_dtype()))
        self.standard_normal = standard_normal

    def _apply_transform(self, value: Tensor) -> Tensor:
        return affine(value, self.loc, self.scale, standard_normal=self.standard_normal)

    def _transform_spec(self, spec: TensorSpec) -> TensorSpec:
        return affine_spec(spec, self._apply_transform)


class RewardSum(Transform):
    """Sums the rewards of an episode.

    Args:
        in_keys: The rewards; every reward of the environment if ``None``.
        out_keys: Where their sums are written; ``episode_<name>`` beside each if ``None``.
        reward_spec: Count the sums among the rewards instead of the observations: they are then
            written under ``"next"`` only.

    Reads: ``reward [*B, 1]`` under ``"next"``, and the sum of the step before.
    Writes: ``episode_reward [*B, 1]``, 0 at a reset; under ``"next"`` it includes the step's
    reward.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("CartPole-v1"), RewardSum())
    >>> env.rollout(3)["next", "episode_reward"].squeeze(-1)
    tensor([1., 2., 3.])
    """

    entrywise = True

    def __init__(
        self,
        in_keys: Sequence[NestedKey] | None = None,
        out_keys: Sequence[NestedKey] | None = None,
        *,
        reward_spec: bool = False,
    ) -> None:
        self._in_keys_given = in_keys is not None
        keys = as_keys(["reward"] if in_keys is None else in_keys)
        super().__init__(keys, _sum_names(keys) if out_keys is None else out_keys)
        self._out_keys_given = out_keys is not None
        self.reward_spec = reward_spec
        self._shapes: list[tuple[NestedKey, Any]] = []

    def _step(self, tensordict: Any, next_tensordict: Any) -> Any:
        for source, destination in zip(self.in_keys, self.out_keys, strict=True):
            total = tensordict.get(destination, None)
            if total is None:
                raise self._missing(destination, tensordict)
            next_tensordict.set(destination, total + next_tensordict.get(source))
        return next_tensordict

    def _reset(self, tensordict: Any, tensordict_reset: Any) -> Any:
        for destination, spec in self._shapes:
            tensordict_reset.set(destination, spec.zero())
        return tensordict_reset

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Sum the rewards of each episode along time, the last dimension of ``[*B, T]``.

        Reads: ``("next", "reward")`` and ``("next", "done")``.
        Writes: the sum under ``"next"``.
        """
        done = tensordict.get(("next", "done"))  # [*B, T, 1]
        dim = tensordict.ndim - 1
        for source, destination in zip(self.in_keys, self.out_keys, strict=True):
            reward, carry, sums = tensordict.get("next").get(source), 0.0, []
            for r, d in zip(reward.unbind(dim), done.unbind(dim), strict=True):
                carry = carry + r
                sums.append(carry)
                carry = carry * ~d
            tensordict.get("next").set(destination, torch.stack(sums, dim))
        return tensordict

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Add the sums to the observations, or to the rewards."""
        if not self._in_keys_given:
            self.in_keys = [*specs["reward"].keys(True, True)]
            self.out_keys = self.out_keys if self._out_keys_given else _sum_names(self.in_keys)
        self._check_keys(specs)
        group = specs["reward" if self.reward_spec else "observation"]
        self._shapes = []
        for source, destination in zip(self.in_keys, self.out_keys, strict=True):
            reward = specs["reward"][source]
            group[destination] = Unbounded(reward.shape, dtype=reward.dtype, device=reward.device)
            self._shapes.append((destination, group[destination]))
        return specs


def _sum_names(keys: Sequence[NestedKey]) -> list[NestedKey]:
    return [sibling(key, f"episode_{last_name(key)}") for key in keys]
