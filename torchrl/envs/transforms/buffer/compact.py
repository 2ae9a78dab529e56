"""Transforms of replay buffers that store less, and a filter by the age of the policy.

Shapes: ``*B`` the batch, ``T`` time, the last dimension of a record's batch size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl._core.errors import ShapeError, describe
from torchrl._core.keys import as_keys, leaf_keys, next_key, require
from torchrl._core.records.flat_record import Record
from torchrl.data import Composite, Unbounded
from torchrl.envs.specs import leaf_names
from torchrl.envs.transforms.base import R, Transform
from torchrl.envs.transforms.buffer.trajectories import BufferTransform, time_last
from torchrl.envs.transforms.observation.shape import drop

WHOLE_NUMBERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool)


class NextObservationDelta(Transform):
    """Stores the difference to the next observation, in fewer bits, in place of it.

    In a replay buffer, data are stored so, and samples have the next observation again. In an
    environment, batches of steps have the difference under ``"next"`` in place of the observation;
    single steps have both, since the next step starts from the observation.

    Args:
        in_keys: Observations at the root; in a buffer those that are under ``"next"`` too, in an
            environment all, if ``None``.
        delta_dtype: Dtype of what is stored.
        restore_dtype: Dtype of the next observation in samples; ``"root"``: that of the
            observation at the root.
        drop_delta: Leave the difference out of samples.
        excluded_dtypes: Observations of these are stored whole.

    Reads, in the inverse pass: ``observation`` and ``next.observation [*B, *S]``.
    Writes, in the inverse pass: ``next.delta.observation`` instead of ``next.observation``; in the
    forward pass the latter, equal up to the precision of ``delta_dtype``.

    Raises:
        ValueError: for a difference that ``delta_dtype`` cannot hold.

    >>> from tensordict import TensorDict
    >>> step = TensorDict(x=torch.ones(2), next=TensorDict(x=torch.full((2,), 1.5)))
    >>> delta = NextObservationDelta(["x"])
    >>> stored = delta.inv(step)
    >>> stored["next", "delta", "x"].dtype, delta(stored)["next", "x"]
    (torch.float16, tensor([1.5000, 1.5000]))
    """

    supports_flat_records = True
    partial_reset_safe = True

    def __init__(
        self,
        in_keys: Sequence[NestedKey] | None = None,
        *,
        delta_dtype: torch.dtype = torch.float16,
        restore_dtype: torch.dtype | str = "root",
        drop_delta: bool = True,
        excluded_dtypes: Sequence[torch.dtype] = WHOLE_NUMBERS,
    ) -> None:
        super().__init__(in_keys)
        if restore_dtype != "root" and not isinstance(restore_dtype, torch.dtype):
            raise ValueError(f"NextObservationDelta: restore_dtype must be 'root' or a dtype, found {restore_dtype!r}.")
        self._all_keys = in_keys is None
        self.delta_dtype, self.restore_dtype = delta_dtype, restore_dtype
        self.drop_delta, self.excluded_dtypes = drop_delta, tuple(excluded_dtypes)
        self.omitted_next = []

    def inv(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return a copy with differences."""
        out, keys = tensordict.copy(), self.in_keys
        if self._all_keys:
            present = set(leaf_keys(tensordict))
            keys = [key for key in leaf_keys(tensordict) if next_key(key) in present and key[0] != "delta"]
        elif not self.missing_tolerance:
            require(out, [k for key in keys for k in (key, next_key(key))], self, "Name them.")
        for key in keys:
            before, after = out.get(key, None), out.get(next_key(key), None)
            if not isinstance(before, Tensor) or after is None:
                continue
            if self._has_delta(before.dtype):
                out.set(next_key(_delta_name(key)), self._delta(key, before, after))
                drop(out, next_key(key))
        return out

    def _has_delta(self, dtype: torch.dtype | None) -> bool:
        return dtype is not None and dtype not in self.excluded_dtypes and dtype.is_floating_point

    def _step(self, tensordict: Record, next_tensordict: R) -> R:
        for key in self.omitted_next:
            before, after = tensordict.get(key), next_tensordict.get(key)
            next_tensordict.set(_delta_name(key), self._delta(key, before, after))
        return next_tensordict

    def _reset(self, tensordict: Record | None, tensordict_reset: R) -> R:
        for key in self.omitted_next:
            zeros = torch.zeros_like(tensordict_reset.get(key), dtype=self.delta_dtype)
            tensordict_reset.set(_delta_name(key), zeros)
        return tensordict_reset

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Add the differences."""
        observation = specs["observation"]
        known = leaf_names(observation)
        if not self._all_keys:
            self._check_keys(specs)
        keys = [key for key in (known if self._all_keys else self.in_keys) if key in known]
        self.omitted_next = [key for key in keys if self._has_delta(observation[key].dtype)]
        for key in self.omitted_next:
            spec = observation[key]
            observation[_delta_name(key)] = Unbounded(spec.shape, dtype=self.delta_dtype, device=spec.device)
        return specs

    def _delta(self, key: NestedKey, before: Tensor, after: Tensor) -> Tensor:
        exact = after - before
        delta = exact.to(self.delta_dtype)
        if bool((exact.isfinite() & ~delta.isfinite()).any()):
            raise ValueError(
                describe(
                    self,
                    f"changes by more than {self.delta_dtype} can hold",
                    key=key,
                    found=float(exact[exact.isfinite()].abs().max()),
                    hint="Normalise it first, or give a wider delta_dtype.",
                )
            )
        return delta

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Restore the next observations."""
        keys = self.in_keys
        if self._all_keys:
            present = set(leaf_keys(tensordict))
            keys = [k for k in leaf_keys(tensordict) if next_key(_delta_name(k)) in present]
        for key in keys:
            name = next_key(_delta_name(key))
            delta = tensordict.get(name, None)
            if delta is None:
                continue
            before = tensordict.get(key)
            dtype = before.dtype if self.restore_dtype == "root" else self.restore_dtype
            assert isinstance(dtype, torch.dtype)
            tensordict.set(next_key(key), (before + delta.to(before.dtype)).to(dtype))
            if self.drop_delta:
                drop(tensordict, name)
        return tensordict


def _delta_name(key: NestedKey) -> NestedKey:
    return ("delta", key) if isinstance(key, str) else ("delta", *key)


class NextStateReconstructor(BufferTransform):
    """Takes the next observation from the following row, for data that were stored without it.

    Args:
        keys: The observations.
        traj_key: The number of the trajectory that a row belongs to.
        done_key: End of an episode: what follows is not in the data.
        step_count_key: The number of a step in its trajectory; the following row must be the
            next step. Not compared if ``None``.
        fill_value: What stands where the following row is not there; 0 in entries that cannot hold
            it.
        strict: Refuse data without ``traj_key``; otherwise rows then follow each other up to the
            end of an episode.

    Reads: ``observation [*B, T, *S]``, rows in the order of time.
    Writes: ``next.observation [*B, T, *S]``.

    >>> from tensordict import TensorDict
    >>> data = TensorDict(observation=torch.arange(4.0), batch_size=[4])
    >>> data["collector", "traj_ids"] = torch.tensor([0, 0, 1, 1])
    >>> data["next", "done"] = torch.tensor([[False], [True], [False], [False]])
    >>> NextStateReconstructor()(data)["next", "observation"]
    tensor([1., nan, 3., nan])
    """

    def __init__(
        self,
        keys: Sequence[NestedKey] = ("observation",),
        *,
        traj_key: NestedKey = ("collector", "traj_ids"),
        done_key: NestedKey = ("next", "done"),
        step_count_key: NestedKey | None = None,
        fill_value: float = torch.nan,
        strict: bool = True,
    ) -> None:
        named = as_keys(list(keys))
        super().__init__(named, [next_key(key) for key in named])
        self.traj_key, self.done_key = as_keys(traj_key)[0], as_keys(done_key)[0]
        self.step_count_key, self.fill_value, self.strict = step_count_key, fill_value, strict

    @time_last
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the next observations."""
        time = tensordict.ndim - 1
        if time < 0:
            raise ShapeError(describe(self, "needs rows in the order of time", expected="[*B, T]", found=[]))
        require(tensordict, self.in_keys, self, "Name the observations that are stored.")
        follows = self._follows(tensordict, time)  # [*B, T]
        for source, destination in zip(self.in_keys, self.out_keys, strict=True):
            value = tensordict.get(source)
            rows = follows.reshape(*follows.shape, *(1,) * (value.ndim - follows.ndim))
            holds = value.is_floating_point() or self.fill_value == self.fill_value
            fill = torch.full_like(value, self.fill_value if holds else 0)
            tensordict.set(destination, torch.where(rows, value.roll(-1, time), fill))
        return tensordict

    def _follows(self, td: TensorDictBase, time: int) -> Tensor:
        """Return which rows ``[*B, T]`` are followed by the next step of their trajectory."""
        require(td, [self.done_key], self, "Give done_key.")
        follows = ~td.get(self.done_key).reshape(*td.batch_size, -1).any(-1)
        follows.select(time, -1).fill_(False)
        if self.strict:
            require(td, [self.traj_key], self, "Give traj_key, or strict=False.")
        if (number := td.get(self.traj_key, None)) is not None:
            number = number.reshape(td.batch_size)
            follows &= number == number.roll(-1, time)
        if self.step_count_key is not None:
            require(td, [self.step_count_key], self, "Give step_count_key.")
            count = td.get(self.step_count_key).reshape(td.batch_size)
            follows &= count + 1 == count.roll(-1, time)
        return follows


class PolicyAgeFilter(BufferTransform):
    """Removes what was collected by a policy that is too old.

    Args:
        current_version: Version of the policy that learns, or a function that returns it.
        max_policy_lag: Largest difference to the current version.
        policy_version_key: The version that collected a step.
        strict: Refuse data without a version; otherwise they pass.

    Reads: ``policy_version [N, ...]``.
    Writes: those of the ``N`` rows of which no step is too old.

    >>> from tensordict import TensorDict
    >>> data = TensorDict(policy_version=torch.tensor([1, 5, 7]), batch_size=[3])
    >>> PolicyAgeFilter(7, max_policy_lag=2)(data)["policy_version"]
    tensor([5, 7])
    """

    def __init__(
        self,
        current_version: int | Callable[[], int],
        max_policy_lag: int,
        *,
        policy_version_key: NestedKey = "policy_version",
        strict: bool = False,
    ) -> None:
        super().__init__(as_keys(policy_version_key))
        if max_policy_lag < 0:
            raise ValueError(f"PolicyAgeFilter: max_policy_lag must not be negative, found {max_policy_lag}.")
        self.current_version, self.max_policy_lag = current_version, max_policy_lag
        self.strict = strict

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return the rows that are not too old."""
        version = tensordict.get(self.in_keys[0], None)
        if version is None:
            if self.strict:
                require(tensordict, self.in_keys, self, "Let the collector track the version.")
            return tensordict
        if not tensordict.ndim:
            raise ShapeError(describe(self, "needs a batch of rows", expected="[N, ...]", found=[]))
        now = self.current_version
        lag = (now() if callable(now) else now) - version.reshape(len(tensordict), -1)
        return tensordict[(lag <= self.max_policy_lag).all(-1)]
