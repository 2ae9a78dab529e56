"""Scaled, clipped and normalised rewards and value targets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn

from torchrl._core.errors import ShapeError, describe
from torchrl._core.records.flat_record import Record
from torchrl._core.records.rows import expand_right
from torchrl.data import Binary, Bounded, Composite, TensorSpec, Unbounded
from torchrl.envs.specs import leaf_names
from torchrl.envs.transforms.base import R, State, Transform
from torchrl.envs.transforms.buffer.trajectories import BufferTransform
from torchrl.envs.transforms.derived_specs import affine_spec, clamped
from torchrl.envs.transforms.functional import affine
from torchrl.envs.transforms.observation.normalization import RunningMeanStd, merge_moments


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

    supports_flat_records = True
    partial_reset_safe = True
    deferrable = True
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


class RewardClipping(Transform):
    """Clamps rewards.

    Args:
        clamp_min: Smallest reward; no limit if ``None``.
        clamp_max: Largest reward; no limit if ``None``.
        in_keys: The rewards; ``reward`` if ``None``.
        out_keys: Where to write them; in place if ``None``.

    >>> from tensordict import TensorDict
    >>> RewardClipping(-1.0, 1.0)(TensorDict(reward=torch.full((1,), 5.0)))["reward"]
    tensor([1.])
    """

    supports_flat_records = True
    deferrable = True

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
    """Replaces rewards by 1 where they are positive, else 0.

    Args:
        in_keys: The rewards; ``reward`` if ``None``.
        out_keys: Where to write them, as int8; in place if ``None``.

    >>> from tensordict import TensorDict
    >>> BinarizeReward()(TensorDict(reward=torch.tensor([-1.0])))["reward"]
    tensor([0], dtype=torch.int8)
    """

    supports_flat_records = True
    deferrable = True

    def __init__(self, in_keys: Sequence[NestedKey] | None = None, out_keys: Sequence[NestedKey] | None = None) -> None:
        super().__init__(["reward"] if in_keys is None else in_keys, out_keys)

    def _apply_transform(self, value: Tensor) -> Tensor:
        return (value > 0).to(torch.int8)

    def _transform_spec(self, spec: TensorSpec) -> TensorSpec:
        return Binary(shape=spec.shape, device=spec.device, dtype=torch.int8)


class SignTransform(Transform):
    """Replaces numbers by their sign.

    Args:
        in_keys: Entries read in the forward pass; ``reward`` if neither these nor ``in_keys_inv``
            are given.
        out_keys: Where to write them; in place if ``None``.
        in_keys_inv: Entries written in the inverse pass.
        out_keys_inv: Their names outside.

    Source: Mnih et al., 2015, https://doi.org/10.1038/nature14236, "Training details".

    >>> from tensordict import TensorDict
    >>> SignTransform()(TensorDict(reward=torch.tensor([-3.0])))["reward"]
    tensor([-1.])
    """

    supports_flat_records = True
    deferrable = True

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


class ReturnNorm(Transform):
    r"""Divides rewards by the running standard deviation of the discounted return.

    .. math:: r \leftarrow r / \max(\sigma(G), \epsilon), \quad G_t = r_t + \gamma G_{t-1}

    Rewards keep their sign; only their size changes.

    Args:
        gamma: Discount factor, that of the algorithm.
        in_keys: The reward; ``reward`` if ``None``.
        out_keys: Where to write it; in place if ``None``.
        eps: Smallest standard deviation.

    Source: Engstrom et al., 2020, https://arxiv.org/abs/2005.12729, "reward scaling".

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("CartPole-v1"), ReturnNorm(gamma=0.99))
    >>> _ = env.rollout(100, break_when_any_done=False)
    >>> bool(env.transform.statistics.std > 1)
    True
    """

    supports_flat_records = True
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

    def _step(self, tensordict: Record, next_tensordict: R) -> R:
        reward = next_tensordict.get(self.in_keys[0], None)
        if reward is None:
            raise self._missing(self.in_keys[0], next_tensordict)
        before, moving = self._total, tensordict.get("_step", None)
        total = reward if before is None else reward + self.gamma * before
        if moving is not None:
            moving = expand_right(moving, total.shape)
            total = total if before is None else torch.where(moving, total, before)
        self.__dict__["_total"] = total
        if not (self.evaluating or self.frozen):
            self.statistics.update(total if moving is None else total[moving])
        next_tensordict.set(self.out_keys[0], self._apply_transform(reward))
        return next_tensordict

    def _reset(self, tensordict: Record | None, tensordict_reset: R) -> R:
        rows = self.inner.reset_rows(tensordict)
        if rows is None or self._total is None:
            self.__dict__["_total"] = None
        else:
            rows = expand_right(rows, self._total.shape)
            self.__dict__["_total"] = self._total.masked_fill(rows, 0)
        return tensordict_reset

    def _apply_transform(self, value: Tensor) -> Tensor:
        return value / self.statistics.std.clamp_min(self.eps).to(value.dtype)

    def get_extra_state(self) -> State:
        """Return the discounted returns so far."""
        return {"total": self._total}

    def set_extra_state(self, state: State) -> None:
        """Restore the discounted returns."""
        self.__dict__["_total"] = state["total"]

    def freeze(self) -> ReturnNorm:
        """Stop updating the deviation."""
        self.frozen = True
        return self

    def unfreeze(self) -> ReturnNorm:
        """Update the deviation again."""
        self.frozen = False
        return self

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Remove the bounds of the reward."""
        self._check_keys(specs)
        if self.in_keys[0] in leaf_names(specs["reward"]):
            spec = specs["reward"][self.in_keys[0]]
            specs["reward"][self.out_keys[0]] = Unbounded(spec.shape, dtype=spec.dtype, device=spec.device)
        return specs


class PopArt(BufferTransform):
    r"""Normalises targets by running statistics, and keeps the network's outputs as they were.

    .. math:: y \leftarrow (y - \mu) / \sigma, \qquad
        w \leftarrow w\,\sigma_{old} / \sigma, \quad
        b \leftarrow (\sigma_{old}\,b + \mu_{old} - \mu) / \sigma

    Each batch updates the statistics in training mode, but not after ``eval()``. For replay buffers
    or batches with the targets of a value estimator.

    Args:
        in_keys: Targets ``[*B, 1]``.
        layer: The last layer of the value network, which learns normalised targets; it is
            corrected when the statistics change. No layer is corrected if ``None``.
        out_keys: Where to write the normalised targets; in place if ``None``.
        beta: Weight of a batch in the statistics; larger for the first batches, so that the initial
            values have no weight.
        eps: Smallest standard deviation.

    Raises:
        ShapeError: unless the layer has one output, and a bias.

    Source: van Hasselt et al., 2016, https://arxiv.org/abs/1602.07714, algorithm 1.

    >>> from tensordict import TensorDict
    >>> layer = nn.Linear(2, 1)
    >>> popart = PopArt(["value_target"], layer)
    >>> before = popart.denormalize(layer(torch.ones(2)))
    >>> _ = popart(TensorDict(value_target=torch.tensor([[90.0], [110.0]]), batch_size=[2]))
    >>> bool(torch.isclose(popart.denormalize(layer(torch.ones(2))), before, atol=1e-4))
    True
    """

    loc: Tensor
    var: Tensor
    weight: Tensor
    _layer: nn.Linear | None

    def __init__(
        self,
        in_keys: Sequence[NestedKey],
        layer: nn.Linear | None = None,
        out_keys: Sequence[NestedKey] | None = None,
        *,
        beta: float = 3e-4,
        eps: float = 1e-4,
    ) -> None:
        super().__init__(in_keys, out_keys)
        if not 0 < beta <= 1:
            raise ValueError(f"PopArt: beta must be above 0 and at most 1, found {beta}.")
        if layer is not None and (layer.out_features != 1 or layer.bias is None):
            raise ShapeError(describe(self, "corrects a layer of one output, with a bias", found=layer))
        self.beta, self.eps = beta, eps
        self.__dict__["_layer"] = layer  # not registered: it belongs to the network
        self.register_buffer("loc", torch.zeros((), dtype=torch.float64))
        self.register_buffer("var", torch.ones((), dtype=torch.float64))
        self.register_buffer("weight", torch.zeros((), dtype=torch.float64))

    @property
    def scale(self) -> Tensor:
        """The standard deviation."""
        return self.var.sqrt().clamp_min(self.eps)

    @torch.no_grad()
    def update(self, target: Tensor) -> None:
        """Update the statistics with targets, and correct the layer."""
        loc, scale = self.loc.clone(), self.scale
        # The sum of the weights of all batches; the initial values have none.
        self.weight += self.beta * (1 - self.weight)
        var, mean = torch.var_mean(target.to(self.loc), correction=0)
        moments = merge_moments(self.loc, self.var, self.beta / self.weight, mean, var)
        self.loc.copy_(moments[0])
        self.var.copy_(moments[1])
        if (layer := self._layer) is not None:
            layer.weight.mul_((scale / self.scale).to(layer.weight))
            layer.bias.copy_((scale * layer.bias + loc - self.loc) / self.scale)

    def _apply_transform(self, value: Tensor) -> Tensor:
        return ((value - self.loc) / self.scale).to(value.dtype)

    def denormalize(self, value: Tensor) -> Tensor:
        """Undo the normalisation of a value ``[*B, 1]``."""
        return (value * self.scale + self.loc).to(value.dtype)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Normalise the targets of a batch ``[*B]``; in training mode, update with them first."""
        if self.training:
            found = [tensordict.get(key, None) for key in self.in_keys]
            present = [target.flatten() for target in found if target is not None]
            if present:
                self.update(torch.cat(present))
        return super().forward(tensordict)
