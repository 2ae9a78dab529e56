"""Several choices side by side: ``MultiCategorical`` as numbers, ``MultiOneHot`` as one-hots.

Shapes: ``*B`` the batch dimensions of a spec, ``*L`` leading dimensions of a value, ``m`` choices
among ``nvec [m]`` categories, or a grid ``[*G]`` of ``m`` choices, ``K`` the sum of ``nvec``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from torchrl._core.devices import check_devices
from torchrl._core.errors import ShapeError, SpecError, describe
from torchrl.data.tensor_specs.base import Op
from torchrl.data.tensor_specs.categorical import (
    Masked,
    Register,
    best_legal,
    check_categories,
    check_feature_kept,
    check_last,
    keep_legal,
    nearest_legal,
)
from torchrl.data.tensor_specs.helpers import DeviceLike, Value, all_combinations, as_size, to_tensor
from torchrl.data.tensor_specs.spaces import BoxList

if TYPE_CHECKING:
    from typing_extensions import Self  # of the typing module from Python 3.11 on

M = TypeVar("M", bound="Multi")
Counts = Sequence[Any] | Tensor | np.ndarray


class Multi(Masked):
    """What both forms of several choices share: how many categories each has, and their mask."""

    space: BoxList
    nvec: Tensor

    def __init__(
        self, nvec: Counts, shape: torch.Size, device: DeviceLike, dtype: torch.dtype, mask: Tensor | None
    ) -> None:
        check_devices(self, device=device)
        counts = torch.as_tensor(nvec).flatten().tolist()
        self.counts = counts
        super().__init__(shape, BoxList.from_nvec(counts), device, dtype, "discrete")
        self._sizes = torch.tensor(counts, device=self._device)  # [m]
        self._offsets = self._sizes.cumsum(0) - self._sizes  # first of the K entries of each choice
        self.nvec = self._sizes.view(torch.as_tensor(nvec).shape)
        self.update_mask(mask)

    def _batch(self) -> torch.Size:
        return self.shape[:-1]

    def _mask_shape(self) -> torch.Size:
        return torch.Size((*self._batch(), sum(self.counts)))

    def _draw(self, lead: torch.Size) -> Tensor:
        """Draw categories ``[*lead, m]``."""
        if self.mask is None:
            share = torch.rand((*lead, len(self.counts)), dtype=torch.float64, device=self._device)
            return (share * self._sizes).long()
        parts = [self._draw_legal(mask, lead) for mask in self._mask_parts(self.mask)]
        return torch.stack(parts, -1)

    def _mask_parts(self, mask: Tensor) -> tuple[Tensor, ...]:
        return mask.split(self.counts, -1)

    def _legal_parts(self, val: Tensor) -> Sequence[Tensor | None]:
        """Return the mask of each choice, after a check that each leaves something to choose."""
        mask = self._mask_for(val)
        if mask is None:
            return [None] * len(self.counts)
        parts = self._mask_parts(mask)
        if not all(bool(part.any(-1).all()) for part in parts):
            raise self._no_legal_value()
        return parts

    def _is_legal(self, index: Tensor) -> bool:
        """Return whether the mask allows categories ``[*L, *B, m]``."""
        mask = self._mask_for(index)
        if mask is None:
            return True
        full = mask.expand(*index.shape[:-1], mask.shape[-1])  # [*L, *B, K]
        return bool(full.gather(-1, index + self._offsets.to(index.device)).all())

    def _hot(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """Return categories ``[*L, *B, m]`` as vectors ``[*L, *B, K]``."""
        hot = torch.zeros(*index.shape[:-1], sum(self.counts), dtype=dtype, device=index.device)
        return hot.scatter_(-1, index + self._offsets.to(index.device), 1)

    def _combinations(self) -> Tensor:
        """Return all categories ``[N, *B, m]``."""
        batch = self._batch()
        choices = [range(n) for n in self.counts] * batch.numel()
        return all_combinations(choices, torch.int64, self._device).reshape(-1, *batch, len(self.counts))

    def cardinality(self) -> float:
        """Return how many values there are, masked ones included."""
        total = 1
        for n in self.counts:
            total *= n
        return total ** self._batch().numel()

    def index(self, index: Tensor, tensor_to_index: Tensor) -> Tensor:
        """Return what a value picks from ``tensor_to_index [*L, *B, K]``, as ``[*L, *B, m]``."""
        index = self._categories(index) + self._offsets.to(index.device)
        return tensor_to_index.gather(-1, index.expand(*tensor_to_index.shape[:-1], -1))

    def _categories(self, val: Tensor) -> Tensor:
        raise AssertionError

    def _reshape(self: M, op: Op) -> M:
        own = max(self._feature_ndim, 1)  # dimensions of a value without batch dimensions
        check_feature_kept(self, op, own)
        mask = self.mask
        if mask is not None:
            # An op expects the spec's shape first, and a mask has K where the spec may have m.
            single = mask.view(*mask.shape[:-1], *(1,) * own, mask.shape[-1])
            mask = op(single.expand(*self.shape, mask.shape[-1]))  # [*S, K]
            mask = mask.flatten(-own - 1, -2)[..., 0, :]
        return self._derive(op, mask=mask)


class MultiCategorical(Multi):
    """Several whole numbers, the ``i``-th from 0 to ``nvec[i] - 1``.

    Args:
        nvec: Number of categories of each choice ``[m]``, or of each place of a grid ``[*G]``.
        shape: Shape ``[*B, m]`` or ``[*B, *G]`` of a value.
        device: Where values live.
        dtype: Dtype of values.
        mask: True where a category is legal, broadcast to ``[*B, K]``.
        remove_singleton: Make a single choice without batch dimensions a value of shape ``[]``.

    Raises:
        SpecError: if a number of categories is not positive.
        ShapeError: if ``shape`` does not end with that of ``nvec``, or the mask does not fit.

    >>> spec = MultiCategorical([3, 5])
    >>> spec.cardinality(), spec.project(torch.tensor([7, -2])).tolist()
    (15, [2, 0])
    """

    def __init__(
        self,
        nvec: Counts,
        shape: Sequence[int] | int | None = None,
        device: DeviceLike = None,
        dtype: torch.dtype = torch.int64,
        mask: Tensor | None = None,
        remove_singleton: bool = True,
    ) -> None:
        check_devices(self, device=device)
        check_counts(self, nvec)
        grid = torch.as_tensor(nvec).shape
        size = grid if shape is None else as_size(shape)
        if len(grid) == 1:
            check_last(self, size, len(nvec))
        elif size[-len(grid) :] != grid:
            raise ShapeError(describe(self, "has another shape than its grid", expected=[*grid], found=[*size]))
        self.remove_singleton = remove_singleton
        # A lone number has no dimension of its own: every method puts it back and takes it off.
        self._lone = remove_singleton and size == (1,)
        self._feature_ndim = 0 if self._lone else len(grid)
        super().__init__(nvec, size[:-1] if self._lone else size, device, dtype, mask)

    def _batch(self) -> torch.Size:
        return self.shape[: len(self.shape) - self._feature_ndim]

    def _categories(self, val: Tensor) -> Tensor:
        if self._feature_ndim == 1:
            return val.long()
        return val.long().unsqueeze(-1) if self._lone else val.long().flatten(-self._feature_ndim)

    def _joined(self, index: Tensor) -> Tensor:
        index = index.to(self.dtype)
        if self._feature_ndim == 1:
            return index
        return index.squeeze(-1) if self._lone else index.unflatten(-1, self.nvec.shape)

    def _rand(self, size: torch.Size) -> Tensor:
        return self._joined(self._draw(size[: len(size) - self._feature_ndim]))

    def _contains(self, val: Tensor) -> bool:
        index = self._categories(val)
        inside = (index >= 0) & (index < self._sizes.to(index.device))
        return bool(inside.all()) and self._is_legal(index)

    def _project(self, val: Tensor) -> Tensor:
        index = self._categories(val)
        index = torch.minimum(index.clamp_min(0), self._sizes.to(index.device) - 1)
        if self.mask is not None:
            parts = zip(index.unbind(-1), self._legal_parts(val), strict=True)
            index = torch.stack([nearest_legal(i, m) for i, m in parts if m is not None], -1)
        return self._joined(index)

    def _cast(self, val: Tensor) -> Tensor:
        most = max(self.counts) - 1
        if val.is_floating_point():
            val = val.nan_to_num(0.0, most, 0.0).clamp(0, most).round()
        return val.long().clamp(0, most).to(self.dtype)

    def _reshape(self, op: Op) -> MultiCategorical:
        if not self._lone:
            return super()._reshape(op)
        mask = None if self.mask is None else op(self.mask)
        return self._derive(op, mask=mask)

    def enumerate(self, use_mask: bool = False) -> Tensor:
        """Return every value, stacked ``[N, *B, m]``."""
        values = self._joined(self._combinations())
        return keep_legal(self, values) if use_mask else values

    def split(self, val: Tensor) -> tuple[Tensor, ...]:
        """Return the choices of a value ``[*L, *B, m]`` one by one, each ``[*L, *B]``."""
        return (val,) if self._lone else val.flatten(-self._feature_ndim).unbind(-1)

    def _as_one_hot(self, val: Tensor) -> Tensor:
        return self._hot(self._categories(val), torch.bool)  # [*L, *B, K]

    def to_one_hot_spec(self) -> MultiOneHot:
        """Return the spec of the same choices as one-hot vectors."""
        return MultiOneHot(self.counts, self._mask_shape(), self._device, torch.bool, mask=self.mask)


class MultiOneHot(Multi):
    """Several one-hot vectors, one after the other.

    Args:
        nvec: Number of categories of each choice ``[m]``.
        shape: Shape ``[*B, K]`` of a value.
        device: Where values live.
        dtype: Dtype of values.
        use_register: Let :meth:`encode` number any hashable values of each choice as they appear.
        mask: True where a category is legal, broadcast to ``[*B, K]``.

    Raises:
        SpecError: if a number of categories is not positive.
        ShapeError: if the last size of ``shape`` is not ``K``, or the mask does not fit.

    >>> spec = MultiOneHot([2, 3])
    >>> spec.encode([1, 2]).int().tolist(), spec.to_categorical(spec.encode([1, 2])).tolist()
    ([0, 1, 0, 0, 1], [1, 2])
    """

    def __init__(
        self,
        nvec: Counts,
        shape: Sequence[int] | int | None = None,
        device: DeviceLike = None,
        dtype: torch.dtype = torch.bool,
        use_register: bool = False,
        mask: Tensor | None = None,
    ) -> None:
        check_devices(self, device=device)
        check_counts(self, nvec)
        self.registers = [Register(int(n)) for n in nvec] if use_register else None
        width = sum(int(n) for n in nvec)
        size = as_size(width) if shape is None else as_size(shape)
        check_last(self, size, width)
        super().__init__(nvec, size, device, dtype, mask)

    def _categories(self, val: Tensor) -> Tensor:
        return torch.stack([best_legal(part, None) for part in self.split(val)], -1)

    def _rand(self, size: torch.Size) -> Tensor:
        assert self.dtype is not None
        return self._hot(self._draw(size[:-1]), self.dtype)

    def _contains(self, val: Tensor) -> bool:
        ones = val == 1
        if not bool(((val == 0) | ones).all()):
            return False
        if not all(bool((part.sum(-1) == 1).all()) for part in self.split(ones)):
            return False
        mask = self._mask_for(val)
        return mask is None or bool((mask | ~ones).all())

    def _project(self, val: Tensor) -> Tensor:
        assert self.dtype is not None
        parts = zip(self.split(val), self._legal_parts(val), strict=True)
        return self._hot(torch.stack([best_legal(s, m) for s, m in parts], -1), self.dtype)

    def _cast(self, val: Tensor) -> Tensor:
        return val  # scores are compared as they come; _project makes the dtype

    def _encode(self, val: Value, ignore_device: bool) -> Tensor:
        if isinstance(val, Tensor) and val.dtype == self.dtype and self.is_in(val):
            return self._placed(val, ignore_device)
        if self.registers is not None:
            val = self._registered(self.registers, val)
        index = self._numbers()._fitted(to_tensor(val, torch.int64))
        check_categories(self, index, self._sizes.to(index.device))
        assert self.dtype is not None
        return self._placed(self._hot(index, self.dtype), ignore_device)

    def _numbers(self) -> MultiCategorical:
        shape = (*self.shape[:-1], len(self.counts))
        return MultiCategorical(self.counts, shape, self._device, mask=self.mask, remove_singleton=False)

    def _registered(self, registers: list[Register], val: Value) -> np.ndarray:
        """Return the numbers ``[*L, *B, m]`` of values, one for each choice."""
        values = np.asarray(val, dtype=object)
        rows = values.reshape(-1, len(registers))
        numbers = [
            [register.number(value, self) for register, value in zip(registers, row, strict=True)] for row in rows
        ]
        return np.array(numbers).reshape(values.shape)

    def _to_numpy(self, val: Tensor) -> Value:
        index = self._categories(val).numpy(force=True)
        if self.registers is None:
            return index
        choices = index.reshape(-1, len(self.registers))
        values = [[register.value(i) for register, i in zip(self.registers, row, strict=True)] for row in choices]
        return np.array(values, dtype=object).reshape(index.shape)

    def _same(self, other: Self) -> bool:
        return super()._same(other) and self.registers == other.registers

    def enumerate(self, use_mask: bool = False) -> Tensor:
        """Return every value, stacked ``[N, *B, K]``."""
        assert self.dtype is not None
        values = self._hot(self._combinations(), self.dtype)
        return keep_legal(self, values) if use_mask else values

    def split(self, val: Tensor) -> tuple[Tensor, ...]:
        """Return the one-hot vectors of a value ``[*L, *B, K]`` one by one."""
        return val.split(self.counts, -1)

    def _as_numbers(self, val: Tensor) -> Tensor:
        index = self._categories(val)  # [*L, *B, m]
        return index.squeeze(-1) if self.to_categorical_spec()._lone else index

    def to_categorical_spec(self) -> MultiCategorical:
        """Return the spec of the same choices as numbers: one number ``[]`` of a single choice."""
        shape = (*self.shape[:-1], len(self.counts))
        return MultiCategorical(self.counts, shape, self._device, mask=self.mask)


def check_counts(who: Multi, nvec: Counts) -> None:
    """Raise :class:`SpecError` unless every number of categories is positive."""
    counts = torch.as_tensor(nvec)
    if (
        not counts.ndim
        or (counts.ndim > 1 and isinstance(who, MultiOneHot))
        or not counts.numel()
        or bool((counts < 1).any())
    ):
        raise SpecError(
            describe(
                who,
                "needs the number of categories of each choice",
                expected="a list of numbers >= 1",
                found=counts.tolist(),
                hint="Write batch dimensions in shape.",
            )
        )
