"""Scaled, clipped and flattened actions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchrl._core.errors import SpecError, describe
from torchrl._core.records.flat_record import Record
from torchrl.data import Bounded, Composite, TensorSpec, Unbounded
from torchrl.envs.specs import leaf_names
from torchrl.envs.transforms.base import Keys, R, Transform
from torchrl.envs.transforms.derived_specs import clamped, rearranged


class ActionTransform(Transform):
    """Base of transforms of actions; the forward pass is for samples of a replay buffer only."""

    def _step(self, tensordict: Record, next_tensordict: R) -> R:
        return next_tensordict  # which holds no action

    def _reset(self, tensordict: Record | None, tensordict_reset: R) -> R:
        return tensordict_reset


class ActionScaling(ActionTransform):
    r"""Scales actions between -1 and 1 (or 0 and 1) to the bounds of the environment.

    The inverse pass computes :math:`a \leftarrow a \cdot s + l`; the forward pass, as a module or
    in a replay buffer, undoes it.

    Args:
        in_keys_inv: The action of the environment, one; ``action`` if ``None``.
        out_keys_inv: Its name outside.
        in_keys: The action read by :meth:`forward`; ``out_keys_inv`` if ``None``.
        out_keys: Where :meth:`forward` writes it.
        loc: The shift :math:`l`; from the bounds if ``None``.
        scale: The factor :math:`s`; from the bounds if ``None``.
        standard_normal: Actions outside lie between -1 and 1; otherwise between 0 and 1.

    Raises:
        SpecError: if ``loc`` or ``scale`` is needed from an action without finite bounds.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), ActionScaling())
    >>> env.action_spec.low, env.base_env.action_spec.low
    (tensor([-1.]), tensor([-2.]))
    """

    supports_flat_records = True
    loc: Tensor | None
    scale: Tensor | None

    def __init__(
        self,
        in_keys_inv: Keys = None,
        out_keys_inv: Keys = None,
        in_keys: Keys = None,
        out_keys: Keys = None,
        *,
        loc: float | Tensor | None = None,
        scale: float | Tensor | None = None,
        standard_normal: bool = True,
    ) -> None:
        inner = ["action"] if in_keys_inv is None else in_keys_inv
        outer = inner if out_keys_inv is None else out_keys_inv
        super().__init__(outer if in_keys is None else in_keys, out_keys, inner, outer)
        if len(self.in_keys_inv) != 1:
            raise ValueError(
                f"ActionScaling: expected one action, found {self.in_keys_inv}; use one transform for each."
            )
        self.standard_normal = standard_normal
        for name, value in (("loc", loc), ("scale", scale)):
            given = None if value is None else torch.as_tensor(value)
            self.register_buffer(name, given)
        self._given = (loc is not None, scale is not None)

    def _pair(self) -> tuple[Tensor, Tensor]:
        loc, scale = self._buffers["loc"], self._buffers["scale"]
        if loc is None or scale is None:
            raise RuntimeError(
                "ActionScaling: loc and scale are unknown; give both, or append the transform to "
                "an environment with bounded actions."
            )
        return loc, scale

    def _apply_transform(self, value: Tensor) -> Tensor:
        loc, scale = self._pair()
        return (value - loc) / scale

    def _inv_apply_transform(self, value: Tensor) -> Tensor:
        loc, scale = self._pair()
        return torch.addcmul(loc, value, scale)

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Derive shift and factor from the bounds, where not given, and map the bounds."""
        known = leaf_names(specs["action"])
        if self.in_keys_inv[0] not in known:
            raise self._missing(self.in_keys_inv[0], known)
        spec = specs["action"][self.in_keys_inv[0]]
        bounded = isinstance(spec, Bounded) and bool((spec.high - spec.low).isfinite().all())
        if not all(self._given):
            if not bounded:
                raise SpecError(
                    describe(
                        self,
                        "has no finite bounds to scale to",
                        key=self.in_keys_inv[0],
                        found=type(spec).__name__,
                        hint="Give loc and scale.",
                    )
                )
            span = spec.high - spec.low
            loc, scale = (spec.low + span / 2, span / 2) if self.standard_normal else (spec.low, span)
            if not self._given[0]:
                self.loc = loc.clone()
            if not self._given[1]:
                self.scale = scale.clone()
        return super().transform_specs(specs)

    def _check_keys(self, specs: dict[str, Composite]) -> None:
        """Accept all keys: ``in_keys`` are those of replay buffers."""

    def _inv_transform_spec(self, spec: TensorSpec) -> TensorSpec:
        if not isinstance(spec, Bounded):
            return Unbounded(spec.shape, dtype=spec.dtype, device=spec.device)
        ends = self._apply_transform(spec.low), self._apply_transform(spec.high)
        low, high = torch.minimum(*ends), torch.maximum(*ends)
        return Bounded(low, high, shape=spec.shape, dtype=spec.dtype, device=spec.device)


class ClipTransform(Transform):
    """Clamps entries in the forward pass, actions and states in the inverse pass.

    Args:
        in_keys: Entries clamped in the forward pass.
        out_keys: Where to write them; in place if ``None``.
        in_keys_inv: Entries clamped in the inverse pass.
        out_keys_inv: Their names outside.
        low: Least value; none if ``None``.
        high: Largest value; none if ``None``.

    >>> from tensordict import TensorDict
    >>> clip = ClipTransform(["reward"], low=-10.0, high=10.0)
    >>> clip(TensorDict(reward=torch.full((1,), 50.0)))["reward"]
    tensor([10.])
    """

    supports_flat_records = True
    deferrable = True

    def __init__(
        self,
        in_keys: Keys = None,
        out_keys: Keys = None,
        in_keys_inv: Keys = None,
        out_keys_inv: Keys = None,
        *,
        low: float | None = None,
        high: float | None = None,
    ) -> None:
        super().__init__(in_keys, out_keys, in_keys_inv, out_keys_inv)
        if low is None and high is None:
            raise ValueError("ClipTransform: give low, high or both.")
        self.low, self.high = low, high

    def _apply_transform(self, value: Tensor) -> Tensor:
        return value.clamp(self.low, self.high)

    _inv_apply_transform = _apply_transform

    def _transform_spec(self, spec: TensorSpec) -> TensorSpec:
        return clamped(spec, self.low, self.high)

    _inv_transform_spec = _transform_spec

    def transform_state_spec(self, state_spec: Composite) -> Composite:
        """Keep the bounds of states, which the environment may return: they are clamped, not refused."""
        for source, destination in zip(self.in_keys_inv, self.out_keys_inv, strict=True):
            if source != destination and source in leaf_names(state_spec):
                state_spec[destination] = state_spec[source].clone()
                del state_spec[source]
        return state_spec


class FlattenAction(ActionTransform):
    """Flattens neighbouring dimensions of the action; the inverse pass restores them.

    Args:
        first_dim: First of them, negative.
        last_dim: Last of them, negative.
        in_keys_inv: The actions of the environment; ``action`` if ``None``.
        out_keys_inv: Their names outside.
        in_keys: Actions flattened by :meth:`forward`; none if ``None``.
        out_keys: Where :meth:`forward` writes them.
        allow_positive_dim: Accept dimensions that are not negative; in an environment they count
            without its batch, otherwise from the first dimension of the tensor.
        action_shape: The sizes that are flattened; from the environment's spec if ``None``.

    >>> flatten = FlattenAction(action_shape=(2, 3))
    >>> from tensordict import TensorDict
    >>> flatten.inv(TensorDict(action=torch.zeros(6)))["action"].shape
    torch.Size([2, 3])
    """

    supports_flat_records = True

    def __init__(
        self,
        first_dim: int = -2,
        last_dim: int = -1,
        in_keys_inv: Keys = None,
        out_keys_inv: Keys = None,
        in_keys: Keys = None,
        out_keys: Keys = None,
        allow_positive_dim: bool = False,
        *,
        action_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(in_keys, out_keys, ["action"] if in_keys_inv is None else in_keys_inv, out_keys_inv)
        if (first_dim >= 0 or last_dim >= 0) and not allow_positive_dim:
            raise ValueError(f"FlattenAction: expected negative dimensions, found {first_dim} and {last_dim}.")
        self.first_dim, self.last_dim = first_dim, last_dim
        self._sizes = None if action_shape is None else tuple(action_shape)

    def _flat(self, value: Tensor) -> Tensor:
        first, last = self._range(value.ndim)
        return value.flatten(first, last)

    def _range(self, ndim: int) -> tuple[int, int]:
        dims = (self.first_dim, self.last_dim)
        first, last = (d if d < 0 else d + self._env_dims - ndim for d in dims)
        return first, last

    _apply_transform = _flat

    def _inv_apply_transform(self, value: Tensor) -> Tensor:
        if self._sizes is None:
            raise RuntimeError(
                "FlattenAction: the shape of the action is unknown; append the transform to an "
                "environment, or give action_shape."
            )
        _, last = self._range(value.ndim + len(self._sizes) - 1)
        return value.unflatten(last, self._sizes)

    def _check_keys(self, specs: dict[str, Composite]) -> None:
        known = leaf_names(specs["action"])
        for key in self.in_keys_inv:
            if key not in known:
                raise self._missing(key, known)

    def _inv_transform_spec(self, spec: TensorSpec) -> TensorSpec:
        first, last = self._range(len(spec.shape))
        self._sizes = tuple(spec.shape[first:] if last == -1 else spec.shape[first : last + 1])
        return rearranged(spec, self._flat)
