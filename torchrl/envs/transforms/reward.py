"""Rewards: scaled, clipped, combined, and summed over an episode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl._core.errors import ShapeError, describe
from torchrl._core.keys import as_keys, leaf_keys, sibling
from torchrl._core.mdp import DONE, last_name
from torchrl.data import Binary, Bounded, Composite, TensorSpec, Unbounded
from torchrl.envs.postponed import Postponed
from torchrl.envs.running_sums import RunningSum
from torchrl.envs.spec_access import leaf_names
from torchrl.envs.step_plan import expand_flag
from torchrl.envs.transforms.affine import affine, affine_spec
from torchrl.envs.transforms.base import Transform, free_dims
from torchrl.envs.transforms.episode import done_keys, dones_around, nearest_reset
from torchrl.envs.transforms.images import clamped, unbounded_image


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
    resets_rows_alone = True
    postponable = True
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
        reset_keys: Names of the masks of rows that are reset, one for each reward; that of the
            innermost level of flags around it if ``None``.
        reward_spec: Count the sums among the rewards, and what a step reads, instead of among the
            observations.

    Reads: ``reward [*B, 1]`` under ``"next"``, and the sum of the step before.
    Writes: ``episode_reward [*B, 1]``, 0 at a reset; under ``"next"`` it includes the step's
    reward.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("CartPole-v1"), RewardSum())
    >>> env.rollout(3)["next", "episode_reward"].squeeze(-1)
    tensor([1., 2., 3.])
    """

    entrywise = True
    resets_rows_alone = True
    postponable = True

    def __init__(
        self,
        in_keys: Sequence[NestedKey] | None = None,
        out_keys: Sequence[NestedKey] | None = None,
        reset_keys: Sequence[NestedKey] | None = None,
        *,
        reward_spec: bool = False,
    ) -> None:
        self._in_keys_given = in_keys is not None
        keys = as_keys(["reward"] if in_keys is None else in_keys)
        super().__init__(keys, _sum_names(keys) if out_keys is None else out_keys)
        self._out_keys_given = out_keys is not None
        self.reset_keys = None if reset_keys is None else as_keys(reset_keys)
        self.reward_spec = reward_spec
        self._sums: list[tuple[NestedKey, NestedKey, Any]] = []
        self._batch = torch.Size([])

    def _step(self, tensordict: Any, next_tensordict: Any) -> Any:
        for source, destination in zip(self.in_keys, self.out_keys, strict=True):
            total = tensordict.get(destination, None)
            if total is None:
                raise self._missing(destination, tensordict)
            next_tensordict.set(destination, total + next_tensordict.get(source))
        return next_tensordict

    def entries_touched(self) -> set[NestedKey]:
        """Return the rewards and their sums."""
        return {*self.in_keys, *self.out_keys}

    def postponed(self) -> list[Postponed]:
        """Return the sums, unless they are rewards themselves or have masks of their own."""
        if self.reward_spec or self.reset_keys is not None:
            return []
        return [RunningSum(*pair) for pair in zip(self.out_keys, self.in_keys, strict=True)]

    def _reset(self, tensordict: Any, tensordict_reset: Any) -> Any:
        free = free_dims(tensordict_reset, self._batch)
        for destination, reset_key, spec in self._sums:
            rows: Any = None if tensordict is None else tensordict.get(reset_key, None)
            before = None if rows is None else tensordict.get(destination, None)
            if before is None:
                total = spec.zero(free)
            else:
                total = before.masked_fill(expand_flag(rows, before.shape), 0)
            tensordict_reset.set(destination, total)
        return tensordict_reset

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Sum the rewards of each episode along time, the last dimension of ``[*B, T]``.

        Reads: ``("next", "reward")``, and under ``"next"`` the outermost ``done`` around it.
        Writes: the sum under ``"next"``.
        """
        following, dim = tensordict.get("next"), tensordict.ndim - 1
        dones = [key for key in leaf_keys(following) if last_name(key) == DONE]
        for source, destination in zip(self.in_keys, self.out_keys, strict=True):
            reward, ends = following.get(source, None), dones_around(source, dones)
            if reward is None or not ends:
                raise self._missing(source if reward is None else DONE, following)
            done = following.get(ends[0])  # [*B, T, 1]
            carry, sums = torch.zeros_like(reward.select(dim, 0)), []
            for r, d in zip(reward.unbind(dim), done.unbind(dim), strict=True):
                carry = carry + r
                sums.append(carry)
                carry = carry.masked_fill(expand_flag(d, carry.shape), 0)
            following.set(destination, torch.stack(sums, dim))
        return tensordict

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Add the sums to the observations, or to the rewards."""
        if not self._in_keys_given:
            self.in_keys = [*specs["reward"].keys(True, True)]
            self.out_keys = self.out_keys if self._out_keys_given else _sum_names(self.in_keys)
        self._check_keys(specs)
        # A reward that is a state too is carried from step to step.
        groups = ("reward", "state") if self.reward_spec else ("observation",)
        self._sums, self._batch, dones = [], specs["observation"].shape, done_keys(specs)
        reset_keys = self.reset_keys or [nearest_reset(key, dones) for key in self.in_keys]
        if len(reset_keys) != len(self.in_keys):
            raise ValueError(
                f"RewardSum: expected as many reset_keys as rewards, found {reset_keys} for "
                f"{self.in_keys}."
            )
        for source, destination, reset_key in zip(
            self.in_keys, self.out_keys, reset_keys, strict=True
        ):
            reward = specs["reward"][source]
            spec = Unbounded(reward.shape, dtype=reward.dtype, device=reward.device)
            for group in groups:
                specs[group][destination] = spec.clone()
            self._sums.append((destination, reset_key, spec))
        return specs


def _sum_names(keys: Sequence[NestedKey]) -> list[NestedKey]:
    return [sibling(key, f"episode_{last_name(key)}") for key in keys]


class RewardClipping(Transform):
    """Clamps rewards.

    Args:
        clamp_min: Least reward; none if ``None``.
        clamp_max: Largest reward; none if ``None``.
        in_keys: The rewards; ``reward`` if ``None``.
        out_keys: Where to write them; in place if ``None``.

    >>> from tensordict import TensorDict
    >>> RewardClipping(-1.0, 1.0)(TensorDict(reward=torch.full((1,), 5.0)))["reward"]
    tensor([1.])
    """

    entrywise = True
    postponable = True

    def __init__(
        self,
        clamp_min: float | None = None,
        clamp_max: float | None = None,
        in_keys: Sequence[NestedKey] | None = None,
        out_keys: Sequence[NestedKey] | None = None,
    ) -> None:
        super().__init__(["reward"] if in_keys is None else in_keys, out_keys)
        if clamp_min is None and clamp_max is None:
            raise ValueError("RewardClipping: give clamp_min, clamp_max or both.")
        self.clamp_min, self.clamp_max = clamp_min, clamp_max

    def _apply_transform(self, value: Tensor) -> Tensor:
        return value.clamp(self.clamp_min, self.clamp_max)

    def _transform_spec(self, spec: TensorSpec) -> TensorSpec:
        return clamped(spec, self.clamp_min, self.clamp_max)


class BinarizeReward(Transform):
    """Turns rewards into 1 where they are positive, else 0.

    Args:
        in_keys: The rewards; ``reward`` if ``None``.
        out_keys: Where to write them, as int8; in place if ``None``.

    >>> from tensordict import TensorDict
    >>> BinarizeReward()(TensorDict(reward=torch.tensor([-1.0])))["reward"]
    tensor([0], dtype=torch.int8)
    """

    entrywise = True
    postponable = True

    def __init__(
        self,
        in_keys: Sequence[NestedKey] | None = None,
        out_keys: Sequence[NestedKey] | None = None,
    ) -> None:
        super().__init__(["reward"] if in_keys is None else in_keys, out_keys)

    def _apply_transform(self, value: Tensor) -> Tensor:
        return (value > 0).to(torch.int8)

    def _transform_spec(self, spec: TensorSpec) -> TensorSpec:
        return Binary(shape=spec.shape, device=spec.device, dtype=torch.int8)


class SignTransform(Transform):
    """Replaces numbers by their sign.

    Args:
        in_keys: Entries on the way out; ``reward`` if neither these nor ``in_keys_inv`` are given.
        out_keys: Where to write them; in place if ``None``.
        in_keys_inv: Entries on the way in.
        out_keys_inv: Their names seen from outside.

    Source: Mnih et al., 2015, https://doi.org/10.1038/nature14236, "Training details".

    >>> from tensordict import TensorDict
    >>> SignTransform()(TensorDict(reward=torch.tensor([-3.0])))["reward"]
    tensor([-1.])
    """

    entrywise = True
    postponable = True

    def __init__(
        self,
        in_keys: Sequence[NestedKey] | None = None,
        out_keys: Sequence[NestedKey] | None = None,
        in_keys_inv: Sequence[NestedKey] | None = None,
        out_keys_inv: Sequence[NestedKey] | None = None,
    ) -> None:
        if in_keys is None and in_keys_inv is None:
            in_keys = ["reward"]
        super().__init__(in_keys, out_keys, in_keys_inv, out_keys_inv)

    def _apply_transform(self, value: Tensor) -> Tensor:
        return value.sign()

    def _inv_apply_transform(self, value: Tensor) -> Tensor:
        return value.sign()

    def _transform_spec(self, spec: TensorSpec) -> TensorSpec:
        return Bounded(-1, 1, shape=spec.shape, dtype=spec.dtype, device=spec.device)


class LineariseRewards(Transform):
    r"""Weighs the parts of a reward: :math:`r = \sum_i w_i r_i`.

    Args:
        in_keys: Rewards of several objectives ``[*B, N]``.
        out_keys: Where to write their sums ``[*B, 1]``; in place if ``None``.
        weights: ``[N]``; ones if ``None``.

    >>> from tensordict import TensorDict
    >>> sums = LineariseRewards(["reward"], weights=[1.0, 0.5])
    >>> sums(TensorDict(reward=torch.tensor([2.0, 4.0])))["reward"]
    tensor([4.])
    """

    entrywise = True
    weights: Tensor | None

    def __init__(
        self,
        in_keys: Sequence[NestedKey],
        out_keys: Sequence[NestedKey] | None = None,
        *,
        weights: Sequence[float] | Tensor | None = None,
    ) -> None:
        super().__init__(in_keys, out_keys)
        known = weights is not None
        self.register_buffer("weights", torch.as_tensor(weights) if known else None)

    def _apply_transform(self, value: Tensor) -> Tensor:
        weights = self._buffers["weights"]
        if weights is None:
            return value.sum(-1, True)
        if value.shape[-1] != len(weights):
            raise ShapeError(
                describe(
                    self,
                    "has another number of rewards than there are weights",
                    expected=len(weights),
                    found=value.shape[-1],
                )
            )
        return (value * weights).sum(-1, True)

    def _transform_spec(self, spec: TensorSpec) -> TensorSpec:
        return unbounded_image(spec, self._apply_transform)


class SuccessReward(Transform):
    """Replaces the reward by ``scale`` in steps that succeed, else 0.

    Args:
        success_key: Flag of success ``[*B, 1]``.
        reward_key: The reward that is replaced.
        scale: Reward of a success.

    >>> from tensordict import TensorDict
    >>> record = TensorDict(success=torch.tensor([True]), reward=torch.zeros(1))
    >>> SuccessReward(scale=2.0)(record)["reward"]
    tensor([2.])
    """

    entrywise = True
    postponable = True

    def __init__(
        self,
        success_key: NestedKey = "success",
        reward_key: NestedKey = "reward",
        *,
        scale: float = 1.0,
    ) -> None:
        super().__init__(as_keys(success_key), as_keys(reward_key))
        self.scale = scale

    def _reset(self, tensordict: Any, tensordict_reset: Any) -> Any:
        return tensordict_reset  # a reset has no reward

    def entries_touched(self) -> set[NestedKey]:
        """Return the flag and the reward."""
        return {*self.in_keys, *self.out_keys}

    def _apply_transform(self, value: Tensor) -> Tensor:
        return value.to(torch.get_default_dtype()) * self.scale

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Replace the spec of the reward."""
        self._check_keys(specs)
        known = next(s[self.in_keys[0]] for s in specs.values() if self.in_keys[0] in leaf_names(s))
        low, high = sorted((0.0, float(self.scale)))
        dtype = torch.get_default_dtype()
        specs["reward"][self.out_keys[0]] = Bounded(
            low, high, shape=known.shape, dtype=dtype, device=known.device
        )
        return specs


class TargetReturn(Transform):
    """Tells the policy which return is still wanted.

    Args:
        target_return: The return wanted of an episode.
        mode: ``"reduce"`` subtracts each reward from it, ``"constant"`` does not.
        in_keys: The rewards; ``reward`` if ``None``.
        out_keys: Where to write what is wanted; ``target_return`` if ``None``.
        reset_key: Name of the mask of rows that are reset, if another than the environment's own.

    Reads: the reward, and the entry of the step before.
    Writes: ``target_return [*B, 1]``.

    Source: Chen et al., 2021, https://arxiv.org/abs/2106.01345, section 3.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("CartPole-v1"), TargetReturn(10.0))
    >>> env.rollout(3)["target_return"].squeeze(-1)
    tensor([10., 9., 8.])
    """

    entrywise = True

    def __init__(
        self,
        target_return: float,
        mode: str = "reduce",
        in_keys: Sequence[NestedKey] | None = None,
        out_keys: Sequence[NestedKey] | None = None,
        reset_key: NestedKey | None = None,
    ) -> None:
        super().__init__(
            ["reward"] if in_keys is None else in_keys,
            ["target_return"] if out_keys is None else out_keys,
        )
        if mode not in ("reduce", "constant"):
            raise ValueError(f"TargetReturn: mode must be 'reduce' or 'constant', found {mode!r}.")
        self.target_return, self.mode, self.reset_key = target_return, mode, reset_key
        self._specs: list[tuple[NestedKey, TensorSpec]] = []
        self._batch = torch.Size([])

    def _step(self, tensordict: Any, next_tensordict: Any) -> Any:
        for source, destination in zip(self.in_keys, self.out_keys, strict=True):
            wanted = tensordict.get(destination, None)
            if wanted is None:
                raise self._missing(destination, tensordict)
            if self.mode == "reduce":
                wanted = wanted - next_tensordict.get(source)
            next_tensordict.set(destination, wanted)
        return next_tensordict

    def _reset(self, tensordict: Any, tensordict_reset: Any) -> Any:
        mask = None
        if self.reset_key is not None and tensordict is not None:
            mask = tensordict.get(self.reset_key, None)
        free = free_dims(tensordict_reset, self._batch)
        for key, spec in self._specs:
            wanted = torch.full_like(spec.zero(free), self.target_return)
            if mask is not None:
                wanted = torch.where(expand_flag(mask, wanted.shape), wanted, tensordict.get(key))
            tensordict_reset.set(key, wanted)
        return tensordict_reset

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Refuse: what is wanted follows from the steps before."""
        raise RuntimeError(
            "TargetReturn follows an environment step by step and cannot be applied to a lone "
            "record; append it to the environment that collects the data."
        )

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Add what is wanted to the observations."""
        self._check_keys(specs)
        self._specs, self._batch = [], specs["observation"].shape
        for source, destination in zip(self.in_keys, self.out_keys, strict=True):
            like = specs["reward"][source]
            spec = Unbounded(like.shape, dtype=like.dtype, device=like.device)
            specs["observation"][destination] = spec
            self._specs.append((destination, spec))
        return specs
