"""Normalisation by statistics that are measured along the way, saved with the transform, frozen."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor

from torchrl._core.errors import ShapeError, describe
from torchrl._core.keys import sibling
from torchrl._core.mdp import last_name
from torchrl.data import Composite, TensorSpec, Unbounded
from torchrl.envs.spec_access import leaf_names
from torchrl.envs.transforms.base import Transform
from torchrl.envs.transforms.compose import Compose
from torchrl.envs.transforms.inside import Inside
from torchrl.envs.transforms.normalization import ObservationNorm
from torchrl.envs.transforms.running_stats import frozen_deviation, merge_moments

STATISTICS = ("loc", "var", "count")


class VecNormV2(Transform):
    r"""Normalises entries by their running mean and standard deviation.

    .. math:: x \leftarrow (x - \mu) / \max(\sigma, \epsilon)

    where a sample that is :math:`k` steps old counts :math:`\text{decay}^k`. In an environment the
    statistics follow each step and each reset, of the rows that move only; they stand still in
    evaluation mode (``eval()``) and after :meth:`freeze`.

    Args:
        in_keys: Entries to normalise.
        out_keys: Where to write them; in place if ``None``.
        lock: Held while the statistics change, if several processes share them.
        stateful: Keep the statistics here; otherwise they travel with the record, beside each
            entry, as ``<key>_loc``, ``<key>_var`` and ``<key>_count``.
        decay: How much a step counts less than the next; 1 counts all alike.
        eps: Least standard deviation; statistics that stand still divide what never changed by 1.
        shared_data: Statistics to use and to update in place, as :meth:`build_shared_data` makes
            them.
        reduce_batch_dims: One mean and deviation for all rows of a batch; otherwise one for each.

    The state dict holds ``<key>_loc``, ``<key>_var`` and ``<key>_count`` of each entry: save it
    with the policy.

    Raises:
        ValueError: for a ``decay`` outside of (0, 1], or ``stateful=False`` together with
            statistics of all rows or of several processes.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), VecNormV2(["observation"], decay=1.0))
    >>> _ = env.rollout(50)
    >>> sorted(env.transform.state_dict()), env.transform.loc["observation"].shape
    (['observation_count', 'observation_loc', 'observation_var'], torch.Size([3]))
    """

    entrywise = True
    _batch_ndim = 0
    _inside: Inside | None = None
    _zeros: Any = ()  # statistics that travel, and what they begin with

    def __init__(
        self,
        in_keys: Sequence[NestedKey],
        out_keys: Sequence[NestedKey] | None = None,
        *,
        lock: Any = None,
        stateful: bool = True,
        decay: float = 0.9999,
        eps: float = 1e-4,
        shared_data: Mapping[str, Any] | TensorDictBase | None = None,
        reduce_batch_dims: bool = False,
    ) -> None:
        super().__init__(in_keys, out_keys)
        if not 0 < decay <= 1:
            raise ValueError(
                f"{type(self).__name__}: decay must be above 0 and at most 1, found {decay}."
            )
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
        found: Any = [self._buffers.get(f"{name}_{which}") for which in STATISTICS]
        return None if found[0] is None else found

    def _recall(self, key: NestedKey, before: Any, value: Tensor) -> list[Tensor]:
        """Return the statistics of an entry: those kept here, or those in the record ``before``."""
        if not self.stateful:
            found = [before.get(name, None) for name in _travelling(key)]
            return found if found[0] is not None else list(self._new(value.shape, value.device))
        self._allocate(key, value.shape, value.device)
        kept = self._statistics(key)
        assert kept is not None
        return kept

    def _allocate(self, key: NestedKey, shape: torch.Size, device: Any) -> None:
        if self._statistics(key) is None:
            for which, value in zip(STATISTICS, self._new(shape, device), strict=True):
                self.register_buffer(f"{buffer_name(key)}_{which}", value)

    def _new(self, shape: torch.Size, device: Any) -> tuple[Tensor, Tensor, Tensor]:
        return _new(shape, self._batch_ndim, device, self.reduce_batch_dims)

    @torch.no_grad()
    def _updated(
        self, statistics: list[Tensor], value: Tensor, rows: Tensor | None
    ) -> list[Tensor]:
        """Return the statistics once ``rows [*B, 1]`` of ``value`` are taken into account."""
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
        """Return the weight of the latest samples among all: that of one, corrected for the start.

        The weights of ``count`` samples sum to ``1 - decay ** count`` before the correction.
        """
        # As the same function of both: the first samples have a share of exactly 1.
        latest, total = (
            torch.expm1(torch.as_tensor(n, device=count.device).double() * math.log(self.decay))
            for n in (moved, count)
        )
        return latest / total.clamp_max(-1e-300)

    def _pair(self, key: NestedKey, record: Any = None) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of an entry."""
        statistics = self._statistics(key)
        if record is not None and not self.stateful:
            found = [record.get(name, None) for name in _travelling(key)]
            statistics = None if found[0] is None else found
        if statistics is None:
            raise RuntimeError(
                describe(
                    self,
                    "has no statistics yet" if self.stateful else "has its statistics in records",
                    key=key,
                    hint="Append the transform to an environment, load its state, or apply it "
                    "once in training mode."
                    if self.stateful
                    else "Look there, or build the transform with stateful=True.",
                )
            )
        return statistics[0], frozen_deviation(statistics[0], statistics[1], self.eps)

    # --- data ------------------------------------------------------------------------------------

    def _each(self, record: Any, before: Any, rows: Tensor | None, *, tolerant: bool) -> Any:
        for source, destination, value in self._read(record, tolerant=tolerant):
            with self.lock or nullcontext():
                statistics = self._recall(source, before, value)
                follows = self.training and not self.frozen
                if follows:
                    self._check_shape(source, value, statistics[0])
                    latest = self._updated(statistics, value, rows)
                    statistics = self._remember(statistics, latest)
            if not self.stateful:
                for name, each in zip(_travelling(source), statistics, strict=True):
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
        """Return the entries and their images; unknown where statistics travel with them."""
        return {*self.in_keys, *self.out_keys} if self.stateful else None

    def _step(self, tensordict: Any, next_tensordict: Any) -> Any:
        moving = tensordict.get("_step", None)
        return self._each(next_tensordict, tensordict, moving, tolerant=self.missing_tolerance)

    def _reset(self, tensordict: Any, tensordict_reset: Any) -> Any:
        rows = None if self._inside is None else self._inside.being_reset(tensordict)
        for name, zero in self._zeros:
            carried = None if tensordict is None else tensordict.get(name, None)
            tensordict_reset.set(name, zero if carried is None else carried)
        # A reset has no reward.
        return self._each(tensordict_reset, tensordict_reset, rows, tolerant=True)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Normalise a record ``[*B]``; in training mode its rows count as new samples."""
        if self._inside is None:
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
        """Make room for the statistics; what comes out has no bounds."""
        self._check_keys(specs)
        self.__dict__["_inside"] = Inside(specs)
        self.__dict__["_batch_ndim"] = len(specs["observation"].shape)
        self.__dict__["_zeros"] = []
        for source, destination in zip(self.in_keys, self.out_keys, strict=True):
            for group in ("observation", "reward"):
                if source in leaf_names(specs[group]):
                    spec = specs[group][source]
                    self._make_room(specs["observation"], source, spec)
                    floating = spec.dtype is not None and spec.dtype.is_floating_point
                    dtype = spec.dtype if floating else torch.get_default_dtype()
                    image = Unbounded(spec.shape, dtype=dtype, device=spec.device)
                    specs[group][destination] = image
        return specs

    def _make_room(self, group: Composite, key: NestedKey, spec: TensorSpec) -> None:
        if self.stateful:
            self._allocate(key, spec.shape, spec.device)
            return
        for name, zero in zip(_travelling(key), self._new(spec.shape, spec.device), strict=True):
            group[name] = Unbounded(zero.shape, dtype=zero.dtype, device=zero.device)
            self._zeros.append((name, zero))

    # --- frozen, copied, shared ------------------------------------------------------------------

    def freeze(self) -> VecNormV2:
        """Keep the statistics as they are, whatever comes."""
        self.frozen = True
        return self

    def unfreeze(self) -> VecNormV2:
        """Let the statistics follow the data again."""
        self.frozen = False
        return self

    def frozen_copy(self) -> VecNormV2:
        """Return a copy with statistics of its own that do not change."""
        copied = self.clone()
        for name in list(copied._buffers):
            copied._buffers[name] = copied._buffers[name].clone()  # type: ignore[union-attr]  # none is None
        copied.is_shared, copied.lock = False, None
        return copied.freeze()

    def clone(self) -> VecNormV2:
        """Return a copy without a place; statistics that are shared stay shared."""
        memo: dict[int, Any] = {id(self.lock): self.lock, id(self._container): None}
        if self.is_shared:
            memo.update({id(buffer): buffer for buffer in self._buffers.values()})
        return copy.deepcopy(self, memo)

    @property
    def loc(self) -> TensorDictBase:
        """The means, by entry."""
        return TensorDict({key: self._pair(key)[0] for key in self.in_keys})

    @property
    def scale(self) -> TensorDictBase:
        """The standard deviations, by entry."""
        return TensorDict({key: self._pair(key)[1] for key in self.in_keys})

    def to_observation_norm(self) -> Transform:
        """Return a transform that normalises by the statistics as they are now."""
        parts = []
        for source, destination in zip(self.in_keys, self.out_keys, strict=True):
            loc, scale = (x.to(torch.get_default_dtype()) for x in self._pair(source))
            parts.append(ObservationNorm(loc, scale, [source], [destination], standard_normal=True))
        return parts[0] if len(parts) == 1 else Compose(*parts)

    @staticmethod
    def build_shared_data(
        env: Any, in_keys: Sequence[NestedKey], *, reduce_batch_dims: bool = False
    ) -> TensorDictBase:
        """Return statistics in shared memory, for the transforms of several processes.

        Args:
            env: An environment like those that will share them.
            in_keys: Entries to normalise.
            reduce_batch_dims: As given to the transforms.
        """
        shared = TensorDict({})
        for key in in_keys:
            spec = env.full_observation_spec.get(key, None)
            spec = env.full_reward_spec[key] if spec is None else spec
            values = _new(spec.shape, len(env.batch_size), spec.device, reduce_batch_dims)
            for which, value in zip(STATISTICS, values, strict=True):
                shared.set(f"{buffer_name(key)}_{which}", value)
        return shared.share_memory_()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        for key in self.in_keys:  # statistics may be loaded before any data was seen
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
        lock: Held while the statistics change, if several processes share them.
        decay: How much a sample counts less than the next; 1 counts all alike.
        eps: Least standard deviation.
        shapes: Shapes of the entries, in order, without batch dimensions: statistics then exist
            before any data.
        new_api: One mean and deviation for each row, as :class:`VecNormV2` has by default.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), VecNorm())
    >>> env.rollout(3)["next", "reward"].shape
    torch.Size([3, 1])
    """

    entrywise = True

    def __init__(
        self,
        in_keys: Sequence[NestedKey] | None = None,
        out_keys: Sequence[NestedKey] | None = None,
        shared_td: TensorDictBase | None = None,
        lock: Any = None,
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


def _travelling(key: NestedKey) -> list[NestedKey]:
    """Return where the statistics of an entry stand in a record, if they travel with it."""
    return [sibling(key, f"{last_name(key)}_{which}") for which in STATISTICS]


def _new(
    shape: torch.Size, batch_ndim: int, device: Any, reduced: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a mean, a variance and a number of samples to begin with."""
    own = shape[batch_ndim:] if reduced else shape
    rows = () if reduced else (*shape[:batch_ndim], *(1,) * (len(shape) - batch_ndim))
    loc = torch.zeros(own, dtype=torch.float64, device=device)
    return loc, torch.zeros_like(loc), torch.zeros(rows, dtype=torch.int64, device=device)
