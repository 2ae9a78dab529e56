"""Normalisation of observations: fixed, measured and running statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor, nn

from torchrl._core.errors import ShapeError, SpecError, describe
from torchrl._core.keys import next_key, sibling
from torchrl._core.mdp import last_name
from torchrl._core.records.flat_record import Record
from torchrl._core.records.torch_private import buffer_slots
from torchrl.data import Composite, TensorSpec, Unbounded
from torchrl.envs.base import EnvBase
from torchrl.envs.specs import leaf_names
from torchrl.envs.transforms.base import R, Transform
from torchrl.envs.transforms.compose import Compose
from torchrl.envs.transforms.derived_specs import affine_spec
from torchrl.envs.transforms.functional import affine


def merge_moments(
    loc: Tensor, var: Tensor, weight: Tensor, batch_loc: Tensor, batch_var: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Return mean and variance of a mixture of known moments and a batch.

    Args:
        loc: Mean ``[*S]``.
        var: Variance ``[*S]``.
        weight: Weight of the batch, between 0 and 1, broadcast to ``[*S]``.
        batch_loc: Mean of the batch.
        batch_var: Variance of the batch.

    Source: Chan et al., 1979, "Updating formulae and a pairwise algorithm".

    >>> half = torch.tensor(0.5)
    >>> merge_moments(torch.tensor(0.0), torch.tensor(0.0), half, torch.tensor(2.0), 0.0)
    (tensor(1.), tensor(1.))
    """
    gap = batch_loc - loc
    spread = (1 - weight) * (var + weight * gap.square()) + weight * batch_var
    return loc + weight * gap, spread


def frozen_deviation(loc: Tensor, var: Tensor, eps: float) -> Tensor:
    """Return the divisor of a normalisation by statistics that are not updated any more.

    The deviation, at least ``eps``; 1 where it is zero up to rounding: a constant entry is only
    shifted.

    >>> frozen_deviation(torch.zeros(2), torch.tensor([0.0, 4.0]), 1e-4)
    tensor([1., 2.])
    """
    std = var.sqrt()
    return std.clamp_min(eps).masked_fill(std <= 1e-12 * loc.abs(), 1.0)


class RunningMeanStd(nn.Module):
    """Running mean and standard deviation.

    Args:
        shape: Shape ``[*S]`` of a sample.
        epsilon: Weight of the initial mean 0 and variance 1, in samples.

    >>> stats = RunningMeanStd(epsilon=0.0)
    >>> stats.update(torch.tensor([1.0, 3.0]))
    >>> stats.mean.item(), stats.std.item()
    (2.0, 1.0)
    """

    mean: Tensor
    var: Tensor
    count: Tensor
    is_shared = False
    lock: AbstractContextManager | None = None  # held for an update, if several processes share the statistics

    def __init__(self, shape: Sequence[int] = (), epsilon: float = 1e-4) -> None:
        super().__init__()
        shape = tuple(shape)
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("var", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(epsilon, dtype=torch.float64))

    @property
    def std(self) -> Tensor:
        """Standard deviation ``[*S]``."""
        return self.var.sqrt()

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Update the statistics with samples ``[*N, *S]``."""
        x = x.reshape(-1, *self.mean.shape).to(self.mean)
        if len(x):
            var, loc = torch.var_mean(x, 0, correction=0)
            with self.lock or nullcontext():
                self.count += len(x)
                moments = merge_moments(self.mean, self.var, len(x) / self.count, loc, var)
                self.mean.copy_(moments[0])
                self.var.copy_(moments[1])

    def normalize(self, x: Tensor, clip: float | None = None) -> Tensor:
        """Return ``(x - mean) / std``, clamped to ``[-clip, clip]``."""
        out = ((x - self.mean) / self.std.clamp_min(1e-8)).to(x.dtype)
        return out if clip is None else out.clamp(-clip, clip)


_DEFAULT_KEYS = ("observation", "pixels")


_UNCHANGED = 1e-6  # largest deviation of a constant feature, by rounding


class ObservationNorm(Transform):
    r"""Shifts and scales observations: :math:`o \leftarrow o \cdot s + l`.

    Args:
        loc: The shift :math:`l`; measured by :meth:`init_stats` if ``None``.
        scale: The factor :math:`s`; measured by :meth:`init_stats` if ``None``.
        in_keys: The observations; those of ``observation`` and ``pixels`` that exist if ``None``.
        out_keys: Where to write them; in place if ``None``.
        in_keys_inv: Entries mapped back in the inverse pass.
        out_keys_inv: Their names outside.
        standard_normal: Compute :math:`(o - l) / s` instead.
        eps: Smallest deviation of a measurement. If ``None``, a constant feature (of a deviation of
            at most 1e-6) is only shifted: divided by 1.

    Raises:
        RuntimeError: if used before ``loc`` and ``scale`` are known.
        SpecError: if an output is part of the state that the environment reads, and no inverse restores it.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), ObservationNorm(in_keys=["observation"]))
    >>> env.transform.init_stats(100)
    >>> env.transform.loc.shape
    torch.Size([3])
    """

    supports_flat_records = True
    partial_reset_safe = True
    deferrable = True

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
        super().__init__(_DEFAULT_KEYS if in_keys is None else in_keys, out_keys, in_keys_inv, out_keys_inv)
        self.missing_tolerance = not self._in_keys_given
        self.standard_normal = standard_normal
        self.eps = eps
        for name, value in (("loc", loc), ("scale", scale)):
            if value is not None and not (isinstance(value, Tensor) and value.is_floating_point()):
                value = torch.as_tensor(value, dtype=torch.get_default_dtype())
            self.register_buffer(name, value)

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *args: object) -> None:
        # Statistics that are not measured yet have no tensor to load into.
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
        buffers = self._buffers  # attributes that are buffers are slow
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
            here: list[NestedKey] = [key for key in _DEFAULT_KEYS if key in leaf_names(specs["observation"])]
            if self.out_keys is self.in_keys or self.out_keys == list(_DEFAULT_KEYS):
                self.in_keys = self.out_keys = here
        _check_state(self, [key for key in self.out_keys if key not in self.in_keys_inv], specs)
        return super().transform_specs(specs)

    def init_stats(
        self,
        num_iter: int,
        reduce_dim: int | Sequence[int] = 0,
        cat_dim: int | None = None,
        key: NestedKey | None = None,
        keep_dims: Sequence[int] | None = None,
    ) -> None:
        """Measure ``loc`` and ``scale`` on random steps, so that outputs are about N(0, 1).

        Args:
            num_iter: Number of steps (of each row, for a batched environment).
            reduce_dim: Dimensions of the rollouts ``[*B, T, *S]`` over which to average.
            cat_dim: Dimension along which rollouts are joined; the time if ``None``.
            key: Observation to measure; the only one if ``None``.
            keep_dims: Those of ``reduce_dim`` to keep, with size 1.

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
            raise RuntimeError("ObservationNorm: init_stats() needs the environment; append the transform to one.")
        for earlier in parent.transform.leaves():
            if isinstance(earlier, ObservationNorm) and not earlier.initialized:
                raise RuntimeError(
                    "ObservationNorm: an earlier ObservationNorm of the same environment is not "
                    "initialised; call its init_stats() first."
                )
        if key is None:
            if len(self.in_keys) != 1:
                raise ValueError(f"ObservationNorm: init_stats() needs a key, one of {self.in_keys}.")
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


def _random_observations(env: EnvBase, key: NestedKey, steps: int, cat_dim: int | None) -> Tensor:
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


STATISTICS = ("loc", "var", "count")


class VecNormV2(Transform):
    r"""Normalises entries by their running mean and standard deviation.

    .. math:: x \leftarrow (x - \mu) / \max(\sigma, \epsilon)

    where a sample that is :math:`k` steps old has weight :math:`\text{decay}^k`. In an environment
    each step and each reset updates the statistics with the rows that moved, except in evaluation
    mode (``eval()``) and after :meth:`freeze`.

    Args:
        in_keys: Entries to normalise.
        out_keys: Where to write them; in place if ``None``.
        lock: Held for an update, if several processes share the statistics.
        stateful: Keep the statistics in the transform; otherwise in the record, beside each entry,
            as ``<key>_loc``, ``<key>_var`` and ``<key>_count``.
        decay: Weight of a step relative to the next one; 1 weighs all steps equally.
        eps: Smallest standard deviation; frozen statistics divide a constant entry by 1.
        shared_data: Statistics to use and to update in place, as returned by
            :meth:`build_shared_data`.
        reduce_batch_dims: One mean and deviation for all rows of a batch; otherwise one for each.

    The state dict holds ``<key>_loc``, ``<key>_var`` and ``<key>_count`` of each entry: save it
    with the policy.

    Raises:
        ValueError: for a ``decay`` outside of (0, 1], or ``stateful=False`` together with
            statistics of all rows or of several processes.
        SpecError: if an output is part of the state that the environment reads.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), VecNormV2(["observation"], decay=1.0))
    >>> _ = env.rollout(50)
    >>> sorted(env.transform.state_dict()), env.transform.loc["observation"].shape
    (['observation_count', 'observation_loc', 'observation_var'], torch.Size([3]))
    """

    supports_flat_records = True
    _batch_ndim = 0
    _zeros: list[tuple[NestedKey, Tensor]] = []  # names and initial values of statistics in records

    def __init__(
        self,
        in_keys: Sequence[NestedKey],
        out_keys: Sequence[NestedKey] | None = None,
        *,
        lock: AbstractContextManager | None = None,
        stateful: bool = True,
        decay: float = 0.9999,
        eps: float = 1e-4,
        shared_data: Mapping[str, Tensor] | TensorDictBase | None = None,
        reduce_batch_dims: bool = False,
    ) -> None:
        super().__init__(in_keys, out_keys)
        if not 0 < decay <= 1:
            raise ValueError(f"{type(self).__name__}: decay must be above 0 and at most 1, found {decay}.")
        if not stateful and (reduce_batch_dims or shared_data is not None or lock is not None):
            raise ValueError(
                f"{type(self).__name__}: with stateful=False each row carries its own statistics; "
                "reduce_batch_dims, shared_data and lock need stateful=True."
            )
        self.decay, self.eps, self.reduce_batch_dims = decay, eps, reduce_batch_dims
        self.lock, self.stateful = lock, stateful
        self.frozen = False
        self.is_shared = shared_data is not None
        if shared_data is not None:
            for name in [f"{buffer_name(k)}_{s}" for k in self.in_keys for s in STATISTICS]:
                self.register_buffer(name, shared_data[name])

    # --- statistics ------------------------------------------------------------------------------

    def _statistics(self, key: NestedKey) -> list[Tensor] | None:
        name = buffer_name(key)
        found = [self._buffers.get(f"{name}_{which}") for which in STATISTICS]
        return [each for each in found if each is not None] or None

    def _recall(self, key: NestedKey, before: Record, value: Tensor) -> list[Tensor]:
        """Return the statistics of an entry: of the transform, or in the record ``before``."""
        if not self.stateful:
            found = [before.get(name, None) for name in _keys_in_record(key)]
            return found if found[0] is not None else list(self._new(value.shape, value.device))
        self._allocate(key, value.shape, value.device)
        kept = self._statistics(key)
        assert kept is not None
        return kept

    def _allocate(self, key: NestedKey, shape: torch.Size, device: torch.device | None) -> None:
        if self._statistics(key) is None:
            for which, value in zip(STATISTICS, self._new(shape, device), strict=True):
                self.register_buffer(f"{buffer_name(key)}_{which}", value)

    def _new(self, shape: torch.Size, device: torch.device | None) -> tuple[Tensor, Tensor, Tensor]:
        return _new(shape, self._batch_ndim, device, self.reduce_batch_dims)

    @torch.no_grad()
    def _updated(self, statistics: list[Tensor], value: Tensor, rows: Tensor | None) -> list[Tensor]:
        """Return the statistics updated with ``rows [*B, 1]`` of ``value``."""
        loc, var, count = statistics
        value = value.detach().to(loc.dtype)
        batch_var: Tensor | float = 0.0
        moved: Tensor | int = 1
        if value.ndim > loc.ndim:  # rows without statistics of their own are samples
            value = value.reshape(-1, *loc.shape)
            if rows is not None:
                value = value[rows.reshape(-1)]
            if not len(value):
                return statistics
            moved = len(value)
            batch_var, value = torch.var_mean(value, 0, correction=0)
        elif rows is not None:
            shape = (*value.shape[: self._batch_ndim], *(1,) * (loc.ndim - self._batch_ndim))
            moved = rows.reshape(shape).to(count.dtype)
        count = count + moved
        weight = moved / count.clamp_min(1) if self.decay == 1 else self._share(moved, count)
        return [*merge_moments(loc, var, torch.as_tensor(weight), value, batch_var), count]

    def _share(self, moved: Tensor | int, count: Tensor) -> Tensor:
        """Return the weight of the latest samples among all, corrected for the start.

        The weights of ``count`` samples sum to ``1 - decay ** count`` before the correction.
        """
        # As the same function of both: the first samples have a share of exactly 1.
        latest, total = (
            torch.expm1(torch.as_tensor(n, device=count.device).double() * math.log(self.decay)) for n in (moved, count)
        )
        return latest / total.clamp_max(-1e-300)

    def _pair(self, key: NestedKey, record: Record | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of an entry."""
        statistics = self._statistics(key)
        if record is not None and not self.stateful:
            found = [record.get(name, None) for name in _keys_in_record(key)]
            statistics = None if found[0] is None else found
        if statistics is None:
            raise RuntimeError(
                describe(
                    self,
                    "has no statistics yet" if self.stateful else "has its statistics in records",
                    key=key,
                    hint="Append the transform to an environment, load its state, or apply it once before eval()."
                    if self.stateful
                    else "Look there, or build the transform with stateful=True.",
                )
            )
        return statistics[0], frozen_deviation(statistics[0], statistics[1], self.eps)

    # --- data ------------------------------------------------------------------------------------

    def _each(self, record: R, before: Record, rows: Tensor | None, *, tolerant: bool) -> R:
        for source, destination, value in self._read(record, tolerant=tolerant):
            with self.lock or nullcontext():
                statistics = self._recall(source, before, value)
                follows = not (self.evaluating or self.frozen)
                if follows:
                    self._check_shape(source, value, statistics[0])
                    latest = self._updated(statistics, value, rows)
                    statistics = self._remember(statistics, latest)
            if not self.stateful:
                for name, each in zip(_keys_in_record(source), statistics, strict=True):
                    record.set(name, each)
            if follows:  # the value is among the samples: it is at the mean if there is no spread
                scale = statistics[1].sqrt().clamp_min(self.eps)
            else:
                scale = frozen_deviation(statistics[0], statistics[1], self.eps)
            dtype = value.dtype if value.is_floating_point() else torch.get_default_dtype()
            record.set(destination, ((value - statistics[0]) / scale).to(dtype))
        return record

    def _remember(self, kept: list[Tensor], latest: list[Tensor]) -> list[Tensor]:
        if not self.stateful:
            return latest
        for old, new in zip(kept, latest, strict=True):
            old.copy_(new)  # in place: others may share it
        return kept

    def _check_shape(self, key: NestedKey, value: Tensor, loc: Tensor) -> None:
        if value.shape[value.ndim - loc.ndim :] != loc.shape:
            raise ShapeError(
                describe(
                    self,
                    "does not have the shape of its statistics",
                    key=key,
                    expected=f"[*, {', '.join(map(str, loc.shape))}]",
                    found=tuple(value.shape),
                    hint="With reduce_batch_dims=True statistics hold for any batch size.",
                )
            )

    def entries_touched(self) -> set[NestedKey] | None:
        """Return the entries read and written; ``None`` if statistics are in the record."""
        return {*self.in_keys, *self.out_keys} if self.stateful else None

    def _step(self, tensordict: Record, next_tensordict: R) -> R:
        moving = tensordict.get("_step", None)
        return self._each(next_tensordict, tensordict, moving, tolerant=self.missing_tolerance)

    def _reset(self, tensordict: Record | None, tensordict_reset: R) -> R:
        rows = self.inner.reset_rows(tensordict) if "inner" in self.__dict__ else None
        for name, zero in self._zeros:
            carried = None if tensordict is None else tensordict.get(name, None)
            tensordict_reset.set(name, zero if carried is None else carried)
        # A reset has no reward.
        return self._each(tensordict_reset, tensordict_reset, rows, tolerant=True)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Normalise a record ``[*B]``; its rows are new samples unless ``eval()`` was called."""
        if "inner" not in self.__dict__:
            self.__dict__["_batch_ndim"] = tensordict.ndim
        return self._each(tensordict, tensordict, None, tolerant=self.missing_tolerance)

    def denorm(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Undo the normalisation in a record, in place."""
        for source, destination in zip(self.in_keys, self.out_keys, strict=True):
            value = tensordict.get(destination, None)
            if value is not None:
                loc, scale = self._pair(source, tensordict)
                tensordict.set(source, (value * scale + loc).to(value.dtype))
        return tensordict

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Allocate the statistics; outputs have no bounds."""
        self._check_keys(specs)
        _check_state(self, self.out_keys, specs)
        self.__dict__["_batch_ndim"] = len(specs["observation"].shape)
        self.__dict__["_zeros"] = []
        for source, destination in zip(self.in_keys, self.out_keys, strict=True):
            for group in ("observation", "reward"):
                if source in leaf_names(specs[group]):
                    spec = specs[group][source]
                    self._add_statistics(specs["observation"], source, spec)
                    floating = spec.dtype is not None and spec.dtype.is_floating_point
                    dtype = spec.dtype if floating else torch.get_default_dtype()
                    image = Unbounded(spec.shape, dtype=dtype, device=spec.device)
                    specs[group][destination] = image
        return specs

    def _add_statistics(self, group: Composite, key: NestedKey, spec: TensorSpec) -> None:
        if self.stateful:
            self._allocate(key, spec.shape, spec.device)
            return
        for name, zero in zip(_keys_in_record(key), self._new(spec.shape, spec.device), strict=True):
            group[name] = Unbounded(zero.shape, dtype=zero.dtype, device=zero.device)
            self._zeros.append((name, zero))

    # --- frozen, copied, shared ------------------------------------------------------------------

    def freeze(self) -> VecNormV2:
        """Stop updating the statistics."""
        self.frozen = True
        return self

    def unfreeze(self) -> VecNormV2:
        """Update the statistics again."""
        self.frozen = False
        return self

    def frozen_copy(self) -> VecNormV2:
        """Return a copy with statistics of its own that do not change.

        Raises:
            RuntimeError: if there were no data yet.
        """
        self._require_data()
        copied: Any = self.clone()
        buffers = buffer_slots(copied)
        for name, buffer in list(buffers.items()):
            buffers[name] = buffer.clone()  # type: ignore[union-attr]  # none is None
        copied.is_shared, copied.lock = False, None
        return copied.freeze()

    @property
    def loc(self) -> TensorDictBase:
        """The means, by entry."""
        return TensorDict({key: self._pair(key)[0] for key in self.in_keys})

    @property
    def scale(self) -> TensorDictBase:
        """The standard deviations, by entry."""
        return TensorDict({key: self._pair(key)[1] for key in self.in_keys})

    def _require_data(self) -> None:
        for key in self.in_keys if self.stateful else ():
            statistics = self._statistics(key)
            if statistics is None or not bool(statistics[2].any()):
                hint = "Step the environment, or load a state, first."
                raise RuntimeError(describe(self, "has no data to copy statistics of", key=key, hint=hint))

    def to_observation_norm(self) -> Transform:
        """Return a transform that normalises by the current statistics.

        Raises:
            RuntimeError: if there were no data yet.
        """
        self._require_data()
        parts = []
        for source, destination in zip(self.in_keys, self.out_keys, strict=True):
            loc, scale = (x.to(torch.get_default_dtype()) for x in self._pair(source))
            parts.append(ObservationNorm(loc, scale, [source], [destination], standard_normal=True))
        return parts[0] if len(parts) == 1 else Compose(*parts)

    @staticmethod
    def build_shared_data(
        env: EnvBase, in_keys: Sequence[NestedKey], *, reduce_batch_dims: bool = False
    ) -> TensorDictBase:
        """Return statistics in shared memory, for the transforms of several processes.

        Args:
            env: An environment like those that share them.
            in_keys: Entries to normalise.
            reduce_batch_dims: That of the transforms.
        """
        shared = TensorDict({})
        for key in in_keys:
            spec = env.full_observation_spec.get(key, None)
            spec = env.full_reward_spec[key] if spec is None else spec
            values = _new(spec.shape, len(env.batch_size), spec.device, reduce_batch_dims)
            for which, value in zip(STATISTICS, values, strict=True):
                shared.set(f"{buffer_name(key)}_{which}", value)
        return shared.share_memory_()

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *args: object) -> None:
        for key in self.in_keys:  # statistics may be loaded before any data
            if self._statistics(key) is None:
                for which in STATISTICS:
                    name = f"{buffer_name(key)}_{which}"
                    if prefix + name in state_dict:
                        self.register_buffer(name, torch.empty_like(state_dict[prefix + name]))
        super()._load_from_state_dict(state_dict, prefix, *args)


class VecNorm(VecNormV2):
    """Normalises observations and rewards by their running mean and standard deviation.

    As :class:`VecNormV2`, with one mean and deviation for all rows of a batch by default.

    Args:
        in_keys: Entries to normalise; ``observation`` and ``reward`` if ``None``.
        out_keys: Where to write them; in place if ``None``.
        shared_td: Statistics to use and to update in place.
        lock: Held for an update, if several processes share the statistics.
        decay: Weight of a sample relative to the next one; 1 weighs all samples equally.
        eps: Smallest standard deviation.
        shapes: Shapes of the entries, in order, without batch dimensions: statistics then exist
            before any data.
        new_api: One mean and deviation for each row, as :class:`VecNormV2` has by default.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), VecNorm())
    >>> env.rollout(3)["next", "reward"].shape
    torch.Size([3, 1])
    """

    supports_flat_records = True

    def __init__(
        self,
        in_keys: Sequence[NestedKey] | None = None,
        out_keys: Sequence[NestedKey] | None = None,
        shared_td: TensorDictBase | None = None,
        lock: AbstractContextManager | None = None,
        decay: float = 0.9999,
        eps: float = 1e-4,
        shapes: Sequence[Sequence[int]] | None = None,
        new_api: bool | None = None,
    ) -> None:
        super().__init__(
            ["observation", "reward"] if in_keys is None else in_keys,
            out_keys,
            lock=lock,
            decay=decay,
            eps=eps,
            shared_data=shared_td,
            reduce_batch_dims=not new_api,
        )
        if shapes is not None:
            for key, shape in zip(self.in_keys, shapes, strict=True):
                self._allocate(key, torch.Size(shape), None)


def buffer_name(key: NestedKey) -> str:
    """Return the name under which the statistics of an entry are saved.

    >>> buffer_name(("agents", "observation"))
    'agents_observation'
    """
    return key if isinstance(key, str) else "_".join(map(str, key))


def _check_state(owner: Transform, written: list[NestedKey], specs: dict[str, Composite]) -> None:
    """Raise SpecError if an output is an entry from which the environment computes the next step."""
    for key in {*written} & {*leaf_names(specs["state"])}:
        raise SpecError(
            describe(
                owner,
                "would replace a part of the state that the environment reads at each step",
                key=key,
                hint="Write to another entry with out_keys, or do not normalise it.",
            )
        )


def _keys_in_record(key: NestedKey) -> list[NestedKey]:
    """Return the keys of the statistics of an entry in a record."""
    return [sibling(key, f"{last_name(key)}_{which}") for which in STATISTICS]


def _new(
    shape: torch.Size, batch_ndim: int, device: torch.device | None, reduced: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return an initial mean, variance and number of samples."""
    own = shape[batch_ndim:] if reduced else shape
    rows = () if reduced else (*shape[:batch_ndim], *(1,) * (len(shape) - batch_ndim))
    loc = torch.zeros(own, dtype=torch.float64, device=device)
    return loc, torch.zeros_like(loc), torch.zeros(rows, dtype=torch.int64, device=device)
