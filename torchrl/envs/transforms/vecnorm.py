"""Normalisation by statistics that are measured along the way, saved with the transform, frozen."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor, nn

from torchrl._core.errors import describe
from torchrl.data import Composite, Unbounded
from torchrl.envs.spec_access import leaf_names
from torchrl.envs.transforms.base import Transform
from torchrl.envs.transforms.compose import Compose
from torchrl.envs.transforms.inside import Inside
from torchrl.envs.transforms.normalization import ObservationNorm

STATISTICS = ("loc", "var", "count")


def merge_moments(
    loc: Tensor, var: Tensor, weight: Tensor, batch_loc: Tensor, batch_var: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Return mean and variance of a mixture: what was known, and a batch of weight ``weight``.

    Args:
        loc: Mean ``[*S]``.
        var: Variance ``[*S]``.
        weight: Share of the batch, between 0 and 1, broadcast to ``[*S]``.
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


class RunningMeanStd(nn.Module):
    """Mean and standard deviation of all that was seen.

    Args:
        shape: Shape ``[*S]`` of a sample.
        epsilon: Weight of the first guess, mean 0 and variance 1, in samples.

    >>> stats = RunningMeanStd(epsilon=0.0)
    >>> stats.update(torch.tensor([1.0, 3.0]))
    >>> stats.mean.item(), stats.std.item()
    (2.0, 1.0)
    """

    mean: Tensor
    var: Tensor
    count: Tensor

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
        """Take samples ``[*N, *S]`` into account."""
        x = x.reshape(-1, *self.mean.shape).to(self.mean)
        if len(x):
            self.count += len(x)
            var, loc = torch.var_mean(x, 0, correction=0)
            moments = merge_moments(self.mean, self.var, len(x) / self.count, loc, var)
            self.mean.copy_(moments[0])
            self.var.copy_(moments[1])

    def normalize(self, x: Tensor, clip: float | None = None) -> Tensor:
        """Return ``(x - mean) / std``, clamped to ``[-clip, clip]``."""
        out = ((x - self.mean) / self.std.clamp_min(1e-8)).to(x.dtype)
        return out if clip is None else out.clamp(-clip, clip)


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
        decay: How much a step counts less than the next; 1 counts all alike.
        eps: Least standard deviation.
        shared_data: Statistics to use and to update in place, as :meth:`build_shared_data` makes
            them.
        reduce_batch_dims: One mean and deviation for all rows of a batch; otherwise one for each.

    The state dict holds ``<key>_loc``, ``<key>_var`` and ``<key>_count`` of each entry: save it
    with the policy.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), VecNormV2(["observation"], decay=1.0))
    >>> _ = env.rollout(50)
    >>> sorted(env.transform.state_dict()), env.transform.loc["observation"].shape
    (['observation_count', 'observation_loc', 'observation_var'], torch.Size([3]))
    """

    entrywise = True
    _batch_ndim = 0
    _inside: Inside | None = None

    def __init__(
        self,
        in_keys: Sequence[NestedKey],
        out_keys: Sequence[NestedKey] | None = None,
        *,
        lock: Any = None,
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
        self.decay, self.eps, self.reduce_batch_dims = decay, eps, reduce_batch_dims
        self.lock = lock
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

    def _allocate(self, key: NestedKey, shape: torch.Size, batch_ndim: int, device: Any) -> None:
        if self._statistics(key) is None:
            for which, value in zip(
                STATISTICS, _new(shape, batch_ndim, device, self.reduce_batch_dims), strict=True
            ):
                self.register_buffer(f"{buffer_name(key)}_{which}", value)

    @torch.no_grad()
    def _update(self, key: NestedKey, value: Tensor, rows: Tensor | None) -> None:
        statistics = self._statistics(key)
        if self.frozen or not self.training or statistics is None:
            return
        loc, var, count = statistics
        value = value.detach().to(loc.dtype)
        batch_var: Tensor | float = 0.0
        if self.reduce_batch_dims:
            flat = value.reshape(-1, *loc.shape)
            if rows is not None:
                flat = flat[rows.reshape(-1)]
            steps = len(flat)
            if not steps:
                return
            batch_var, value = torch.var_mean(flat, 0, correction=0)
            moved: Tensor | int = steps
        else:
            steps = 1
            shape = (*value.shape[: self._batch_ndim], *(1,) * (loc.ndim - self._batch_ndim))
            moved = 1 if rows is None else rows.reshape(shape).to(count.dtype)
        with self.lock or nullcontext():
            count += moved
            weight = moved / count if self.decay == 1 else self._share(moved, count)
            moments = merge_moments(loc, var, torch.as_tensor(weight), value, batch_var)
            loc.copy_(moments[0])
            var.copy_(moments[1])

    def _share(self, moved: Tensor | int, count: Tensor) -> Tensor:
        """Return the weight of the latest samples among all: that of one, corrected for the start.

        The weights of ``count`` samples sum to ``1 - decay ** count`` before the correction.
        """
        decay = torch.tensor(self.decay, dtype=torch.float64, device=count.device)
        return (1 - decay**moved) / (1 - decay**count).clamp_min(1e-300)

    def _pair(self, key: NestedKey) -> tuple[Tensor, Tensor]:
        statistics = self._statistics(key)
        if statistics is None:
            raise RuntimeError(
                describe(
                    self,
                    "has no statistics yet",
                    key=key,
                    mend="Append the transform to an environment, load its state, or apply it "
                    "once in training mode.",
                )
            )
        return statistics[0], statistics[1].sqrt().clamp_min(self.eps)

    def _normalized(self, key: NestedKey, value: Tensor) -> Tensor:
        loc, scale = self._pair(key)
        dtype = value.dtype if value.is_floating_point() else torch.get_default_dtype()
        return ((value - loc) / scale).to(dtype)

    # --- data ------------------------------------------------------------------------------------

    def _each(self, record: Any, rows: Tensor | None, *, tolerant: bool) -> Any:
        for source, destination in zip(self.in_keys, self.out_keys, strict=True):
            value = record.get(source, None)
            if value is None:
                if tolerant:
                    continue
                raise self._missing(source, record)
            self._allocate(source, value.shape, self._batch_ndim, value.device)
            self._update(source, value, rows)
            record.set(destination, self._normalized(source, value))
        return record

    def _step(self, tensordict: Any, next_tensordict: Any) -> Any:
        moving = tensordict.get("_step", None)
        return self._each(next_tensordict, moving, tolerant=self.missing_tolerance)

    def _reset(self, tensordict: Any, tensordict_reset: Any) -> Any:
        rows = None if self._inside is None else self._inside.being_reset(tensordict)
        return self._each(tensordict_reset, rows, tolerant=True)  # a reset has no reward

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Normalise a record ``[*B]``; in training mode its rows count as new samples."""
        if self._inside is None:
            self.__dict__["_batch_ndim"] = tensordict.ndim
        return self._each(tensordict, None, tolerant=self.missing_tolerance)

    def denorm(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Undo the normalisation in a record, in place."""
        for source, destination in zip(self.in_keys, self.out_keys, strict=True):
            value = tensordict.get(destination, None)
            if value is not None:
                loc, scale = self._pair(source)
                tensordict.set(source, (value * scale + loc).to(value.dtype))
        return tensordict

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Make room for the statistics; what comes out has no bounds."""
        self._check_keys(specs)
        self.__dict__["_inside"] = Inside(specs)
        self.__dict__["_batch_ndim"] = len(specs["observation"].shape)
        for source, destination in zip(self.in_keys, self.out_keys, strict=True):
            for group in ("observation", "reward"):
                if source in leaf_names(specs[group]):
                    spec = specs[group][source]
                    self._allocate(source, spec.shape, self._batch_ndim, spec.device)
                    floating = spec.dtype is not None and spec.dtype.is_floating_point
                    dtype = spec.dtype if floating else torch.get_default_dtype()
                    image = Unbounded(spec.shape, dtype=dtype, device=spec.device)
                    specs[group][destination] = image
        return specs

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
            copied._buffers[name] = copied._buffers[name].clone()  # type: ignore[union-attr]
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

    As :class:`VecNormV2`, with one mean and deviation for all rows of a batch.

    Args:
        in_keys: Entries to normalise; ``observation`` and ``reward`` if ``None``.
        out_keys: Where to write them; in place if ``None``.
        shared_td: Statistics to use and to update in place.
        lock: Held while the statistics change, if several processes share them.
        decay: How much a sample counts less than the next; 1 counts all alike.
        eps: Least standard deviation.

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
    ) -> None:
        super().__init__(
            ["observation", "reward"] if in_keys is None else in_keys,
            out_keys,
            lock=lock,
            decay=decay,
            eps=eps,
            shared_data=shared_td,
            reduce_batch_dims=True,
        )


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
        if moving is not None and before is not None:
            total = torch.where(moving, total, before)
        self.__dict__["_total"] = total
        if self.training and not self.frozen:
            self.statistics.update(total if moving is None else total[moving])
        return next_tensordict.set(self.out_keys[0], self._apply_transform(reward))

    def _reset(self, tensordict: Any, tensordict_reset: Any) -> Any:
        rows = self._inside.being_reset(tensordict)
        if rows is None or self._total is None:
            self.__dict__["_total"] = None
        else:
            self.__dict__["_total"] = torch.where(rows, 0.0, self._total)
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


def buffer_name(key: NestedKey) -> str:
    """Return the name under which the statistics of an entry are saved.

    >>> buffer_name(("agents", "observation"))
    'agents_observation'
    """
    return key if isinstance(key, str) else "_".join(map(str, key))


def _new(
    shape: torch.Size, batch_ndim: int, device: Any, reduced: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a mean, a variance and a number of samples to begin with."""
    own = shape[batch_ndim:] if reduced else shape
    rows = () if reduced else (*shape[:batch_ndim], *(1,) * (len(shape) - batch_ndim))
    loc = torch.zeros(own, dtype=torch.float64, device=device)
    return loc, torch.zeros_like(loc), torch.zeros(rows, dtype=torch.int64, device=device)
