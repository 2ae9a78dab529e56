"""Observations brought to a common scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey
from torch import Tensor

from torchrl._core.errors import describe
from torchrl._core.keys import next_key
from torchrl.data import Composite, TensorSpec
from torchrl.envs.spec_access import leaf_names
from torchrl.envs.transforms.affine import affine, affine_spec
from torchrl.envs.transforms.base import Transform

_DEFAULT_KEYS = ("observation", "pixels")
_UNCHANGED = 1e-6  # deviation of a feature that did not change while it was measured


class ObservationNorm(Transform):
    r"""Shifts and scales observations: :math:`o \leftarrow o \cdot s + l`.

    Args:
        loc: The shift :math:`l`; measured by :meth:`init_stats` if ``None``.
        scale: The factor :math:`s`; measured by :meth:`init_stats` if ``None``.
        in_keys: The observations; those of ``observation`` and ``pixels`` that exist if ``None``.
        out_keys: Where to write them; in place if ``None``.
        in_keys_inv: Entries mapped back on the way in.
        out_keys_inv: Their names seen from outside.
        standard_normal: Compute :math:`(o - l) / s` instead.
        eps: Least deviation that a measurement may give. If ``None``, what did not change (a
            deviation of at most 1e-6) is only shifted: divided by 1.

    Raises:
        RuntimeError: if used before ``loc`` and ``scale`` are known.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), ObservationNorm(in_keys=["observation"]))
    >>> env.transform.init_stats(100)
    >>> env.transform.loc.shape
    torch.Size([3])
    """

    entrywise = True
    resets_rows_alone = True
    postponable = True

    def __init__(
        self,
        loc: float | Tensor | None = None,
        scale: float | Tensor | None = None,
        in_keys: Sequence[NestedKey] | None = None,
        out_keys: Sequence[NestedKey] | None = None,
        in_keys_inv: Sequence[NestedKey] | None = None,
        out_keys_inv: Sequence[NestedKey] | None = None,
        standard_normal: bool = False,
        eps: float | None = None,
    ) -> None:
        self._in_keys_given = in_keys is not None
        super().__init__(
            _DEFAULT_KEYS if in_keys is None else in_keys, out_keys, in_keys_inv, out_keys_inv
        )
        self.missing_tolerance = not self._in_keys_given
        self.standard_normal = standard_normal
        self.eps = eps
        for name, value in (("loc", loc), ("scale", scale)):
            known = None if value is None else torch.as_tensor(value, dtype=_float(value))
            self.register_buffer(name, known)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        # What is not measured yet has no tensor to load into.
        for name in ("loc", "scale"):
            value = state_dict.get(prefix + name)
            if value is not None and self._buffers[name] is None:
                self._buffers[name] = torch.empty_like(value)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def initialized(self) -> bool:
        """Whether ``loc`` and ``scale`` are known."""
        return self._buffers["loc"] is not None and self._buffers["scale"] is not None

    def _statistics(self) -> tuple[Tensor, Tensor]:
        buffers = self._buffers  # attributes that are buffers are slow to reach
        loc, scale = buffers["loc"], buffers["scale"]
        if loc is None or scale is None:
            raise RuntimeError(
                describe(
                    self,
                    "is used before its loc and scale are known",
                    hint="Give both to the constructor, or call env.transform[i].init_stats(1000).",
                )
            )
        return loc, scale

    def _apply_transform(self, value: Tensor) -> Tensor:
        loc, scale = self._statistics()
        return affine(value, loc, scale, standard_normal=self.standard_normal)

    def _inv_apply_transform(self, value: Tensor) -> Tensor:
        loc, scale = self._statistics()
        if self.standard_normal:
            return affine(value, loc, scale, standard_normal=False)
        return affine(value, loc, scale, standard_normal=True)

    def _transform_spec(self, spec: TensorSpec) -> TensorSpec:
        return affine_spec(spec, self._apply_transform) if self.initialized else spec

    def _inv_transform_spec(self, spec: TensorSpec) -> TensorSpec:
        return affine_spec(spec, self._apply_transform) if self.initialized else spec

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Map the bounds of the observations."""
        if not self._in_keys_given:
            here: list[NestedKey] = [
                key for key in _DEFAULT_KEYS if key in leaf_names(specs["observation"])
            ]
            if self.out_keys is self.in_keys or self.out_keys == list(_DEFAULT_KEYS):
                self.in_keys = self.out_keys = here
        return super().transform_specs(specs)

    def init_stats(
        self,
        num_iter: int,
        reduce_dim: int | Sequence[int] = 0,
        cat_dim: int | None = None,
        key: NestedKey | None = None,
        keep_dims: Sequence[int] | None = None,
    ) -> None:
        """Measure ``loc`` and ``scale`` on random steps, so that what comes out is about N(0, 1).

        Args:
            num_iter: Number of steps (of each row, for a batched environment).
            reduce_dim: Dimensions of the rollouts ``[*B, T, *S]`` over which to average.
            cat_dim: Dimension along which rollouts are joined; the time if ``None``.
            key: Observation to measure; the only one if ``None``.
            keep_dims: Those of ``reduce_dim`` that stay, with size 1.

        Raises:
            RuntimeError: without an environment, if done already, or if an earlier
                :class:`ObservationNorm` of the same environment has not been.
            ValueError: if there are several observations and no ``key``.
        """
        if self.initialized:
            raise RuntimeError(
                f"ObservationNorm: loc and scale are known already ({self._buffers['loc']}); build "
                "a new transform to measure again."
            )
        parent = self.parent
        if parent is None:
            raise RuntimeError(
                "ObservationNorm: init_stats() needs the environment; append the transform to one."
            )
        before: Any = parent.transform
        for earlier in before:
            if isinstance(earlier, ObservationNorm) and not earlier.initialized:
                raise RuntimeError(
                    "ObservationNorm: an earlier ObservationNorm of the same environment is not "
                    "initialised; call its init_stats() first."
                )
        if key is None:
            if len(self.in_keys) != 1:
                raise ValueError(
                    f"ObservationNorm: init_stats() needs a key, one of {self.in_keys}."
                )
            key = self.in_keys[0]
        dims = [reduce_dim] if isinstance(reduce_dim, int) else list(reduce_dim)
        data = _random_observations(parent, key, num_iter, cat_dim)
        mean, std = _moments(data, dims, self.eps)
        kept = {d % data.ndim for d in keep_dims or ()}
        for dim in sorted((d % data.ndim for d in dims), reverse=True):
            if dim not in kept:
                mean, std = mean.squeeze(dim), std.squeeze(dim)
        if not self.standard_normal:
            mean, std = -mean / std, 1 / std
        self.loc, self.scale = mean, std
        container = self.container
        while not hasattr(container, "empty_cache"):
            container = container.container
        container.empty_cache()


def _random_observations(env: Any, key: NestedKey, steps: int, cat_dim: int | None) -> Tensor:
    """Return the observations of ``steps`` random steps, ``[*B, steps, *S]``."""
    dim = len(env.batch_size) if cat_dim is None else cat_dim
    pieces: list[Tensor] = []
    collected = 0
    while collected < steps:
        batch = env.rollout(steps - collected)
        pieces.append(batch.get(next_key(key)))
        collected += batch.shape[-1]
    data = torch.cat(pieces, dim)
    return data if data.is_floating_point() else data.to(torch.get_default_dtype())


def _moments(data: Tensor, dims: list[int], eps: float | None) -> tuple[Tensor, Tensor]:
    """Return mean and deviation over ``dims``, which stay with size 1, in the dtype of ``data``."""
    double = data.double()  # a constant has no deviation by rounding
    var, mean = torch.var_mean(double, dims, correction=0, keepdim=True)
    number = data.numel() // max(mean.numel(), 1)
    std = (var * (number / max(number - 1, 1))).sqrt()
    std = std.masked_fill(std <= _UNCHANGED, 1.0) if eps is None else std.clamp_min(eps)
    return mean.to(data.dtype), std.to(data.dtype)


def _float(value: Any) -> torch.dtype:
    floating = isinstance(value, Tensor) and value.is_floating_point()
    return value.dtype if floating else torch.get_default_dtype()
