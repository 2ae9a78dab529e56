"""One choice among ``n``: ``Categorical`` as a number, ``OneHot`` as a vector with a single one.

Shapes: ``*B`` the batch dimensions of a spec, ``*L`` leading dimensions of a value, ``n``
categories.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from torchrl._core.devices import check_devices
from torchrl._core.errors import ShapeError, SpecError, describe
from torchrl.data.tensor_specs.combinations import all_combinations
from torchrl.data.tensor_specs.masks import (
    Masked,
    best_legal,
    check_categories,
    check_feature_kept,
    check_last,
    check_n,
    keep_legal,
    nearest_legal,
    pick,
)
from torchrl.data.tensor_specs.register import Register
from torchrl.data.tensor_specs.shaping import Op
from torchrl.data.tensor_specs.spaces import CategoricalBox
from torchrl.data.tensor_specs.tools import DeviceLike, as_size, to_tensor

_MAX_ROWS = 256  # above, a table of all one-hot vectors costs more than it saves


class Categorical(Masked):
    """A whole number from 0 to ``n - 1``.

    Args:
        n: Number of categories; ``-1`` if it varies and :meth:`set_provisional_n` will tell.
        shape: Shape ``[*B]`` of a value.
        device: Where values live.
        dtype: Dtype of values; ``torch.bool`` makes a flag of ``n = 2``.
        mask: True where a category is legal, broadcast to ``[*B, n]``.

    Raises:
        SpecError: if ``n`` is neither positive nor -1.
        ShapeError: if the mask does not fit.

    >>> spec = Categorical(3, mask=torch.tensor([True, False, False]))
    >>> spec.rand(), spec.is_in(torch.tensor(1)), spec.to_one_hot(torch.tensor(0))
    (tensor(0), False, tensor([ True, False, False]))
    """

    space: CategoricalBox
    _feature_ndim = 0
    _provisional_n: int | None = None

    def __init__(
        self,
        n: int,
        shape: Sequence[int] | int | None = None,
        device: DeviceLike = None,
        dtype: torch.dtype = torch.int64,
        mask: Tensor | None = None,
    ) -> None:
        check_devices(self, device=device)
        check_n(self, n)
        box = CategoricalBox(int(n))
        super().__init__(() if shape is None else shape, box, device, dtype, "discrete")
        self.update_mask(mask)

    @property
    def n(self) -> int:
        """Number of categories."""
        return self.space.n

    def set_provisional_n(self, n: int) -> None:
        """Set the number of categories to draw from until further notice, where ``n`` is -1."""
        check_n(self, n)
        self._provisional_n = int(n)

    def _count(self) -> int:
        n = self.space.n if self.space.n != -1 else self._provisional_n
        if n is None:
            raise SpecError(
                describe(
                    self,
                    "has a number of categories that varies",
                    hint="Tell it with set_provisional_n() before values are drawn.",
                )
            )
        return n

    def _mask_shape(self) -> torch.Size:
        return torch.Size((*self.shape, self._count()))

    def _rand(self, size: torch.Size) -> Tensor:
        if self.mask is None:
            return torch.randint(self._count(), size, dtype=self.dtype, device=self.device)
        return self._draw_legal(self.mask, size).to(self.dtype)

    def _contains(self, val: Tensor) -> bool:
        if self.space.n == -1 and self._provisional_n is None:
            return bool((val >= 0).all())
        index = val.long()
        if not bool(((index >= 0) & (index < self._count())).all()):
            return False
        mask = self._mask_for(val)
        if mask is None:
            return True
        full = mask.expand(*val.shape, mask.shape[-1])  # [*L, *B, n]
        return bool(full.gather(-1, index.unsqueeze(-1)).all())

    def _project(self, val: Tensor) -> Tensor:
        index = val.long().clamp(0, self._count() - 1)
        mask = self._mask_for(val)
        if mask is not None:
            if not bool(mask.any(-1).all()):
                raise self._no_legal_value()
            index = nearest_legal(index, mask)
        return index.to(self.dtype)

    def _cast(self, val: Tensor) -> Tensor:
        most = self._count() - 1
        if val.is_floating_point():
            val = val.nan_to_num(0.0, most, 0.0).clamp(0, most).round()
        return val.long().clamp(0, most).to(self.dtype)

    def _to_numpy(self, val: Tensor) -> Any:
        return val.detach().cpu().numpy()[()]

    def _reshape(self, op: Op) -> Categorical:
        return self._derive(op, mask=None if self.mask is None else op(self.mask))

    def cardinality(self) -> float:
        """Return how many values there are, masked ones included."""
        return self._count() ** self.numel()

    def enumerate(self, use_mask: bool = False) -> Tensor:
        """Return every value, stacked ``[N, *B]``."""
        n = self._count()
        values = all_combinations([range(n)] * self.numel(), self.dtype, self.device)
        values = values.reshape(-1, *self.shape)
        return keep_legal(self, values) if use_mask else values

    def index(self, index: Tensor, tensor_to_index: Tensor) -> Tensor:
        """Return what a value picks from ``tensor_to_index [*L, *B, n]``, as ``[*L, *B, 1]``."""
        return pick(index.long(), tensor_to_index)

    def _as_one_hot(self, val: Tensor) -> Tensor:
        return one_hot(val.long(), self._count()).bool()  # [*L, *B, n]

    def to_one_hot_spec(self) -> OneHot:
        """Return the spec of the same choice as a one-hot vector."""
        n = self._count()
        return OneHot(n, (*self.shape, n), self.device, torch.bool, mask=self.mask)


class OneHot(Masked):
    """A vector of ``n`` entries, one of which is one.

    Projecting sets the greatest entry, the first of several; numbers are encoded as the
    category they name.

    Args:
        n: Number of categories.
        shape: Shape ``[*B, n]`` of a value.
        device: Where values live.
        dtype: Dtype of values.
        use_register: Let :meth:`encode` number any hashable values as they appear.
        mask: True where a category is legal, broadcast to ``[*B, n]``.

    Raises:
        SpecError: if ``n`` is not positive.
        ShapeError: if the last size of ``shape`` is not ``n``, or the mask does not fit.

    >>> spec = OneHot(3)
    >>> spec.encode(2), spec.project(torch.tensor([0.1, 0.7, 0.7]))
    (tensor([False, False,  True]), tensor([False,  True, False]))
    """

    space: CategoricalBox
    _rows: Tensor | None = None

    def __init__(
        self,
        n: int,
        shape: Sequence[int] | int | None = None,
        device: DeviceLike = None,
        dtype: torch.dtype = torch.bool,
        use_register: bool = False,
        mask: Tensor | None = None,
    ) -> None:
        check_devices(self, device=device)
        check_n(self, n, provisional=False)
        size = torch.Size((n,)) if shape is None else as_size(shape)
        check_last(self, size, n)
        super().__init__(size, CategoricalBox(int(n)), device, dtype, "discrete")
        self.register = Register(int(n)) if use_register else None
        if n <= _MAX_ROWS:
            self._rows = torch.eye(n, dtype=dtype, device=self.device)
        self.update_mask(mask)

    @property
    def n(self) -> int:
        """Number of categories."""
        return self.space.n

    @property
    def _table(self) -> Tensor | None:
        """The rows ``[n, n]`` in which a number is looked up, where that is all there is to do."""
        return self._rows if len(self.shape) == 1 and self.register is None else None

    @property
    def use_register(self) -> bool:
        """Whether :meth:`encode` numbers values as they appear."""
        return self.register is not None

    def _mask_shape(self) -> torch.Size:
        return self.shape

    def _one_hot(self, index: Tensor) -> Tensor:
        """Return ``index [*L, *B]`` as a value ``[*L, *B, n]``."""
        if self._rows is not None and self._rows.device == index.device:
            return torch.embedding(self._rows, index)
        return one_hot(index, self.space.n).to(self.dtype)

    def _rand(self, size: torch.Size) -> Tensor:
        if self.mask is None:
            return self._one_hot(torch.randint(self.space.n, size[:-1], device=self.device))
        return self._one_hot(self._draw_legal(self.mask, size[:-1]))

    def _contains(self, val: Tensor) -> bool:
        ones = val == 1
        if not bool(((ones.sum(-1) == 1) & ((val == 0) | ones).all(-1)).all()):
            return False
        mask = self._mask_for(val)
        return mask is None or bool((mask | ~ones).all())

    def _project(self, val: Tensor) -> Tensor:
        mask = self._mask_for(val)
        if mask is not None and not bool(mask.any(-1).all()):
            raise self._no_legal_value()
        return self._one_hot(best_legal(val, mask))

    def _cast(self, val: Tensor) -> Tensor:
        return val  # scores are compared as they come; _project makes the dtype

    def _encode(self, val: Any, ignore_device: bool) -> Tensor:
        rows = self._table
        if isinstance(val, int | np.integer) and rows is not None and 0 <= val < len(rows):
            return self._placed(rows[val].clone(), ignore_device)
        if isinstance(val, Tensor) and val.dtype == self.dtype and self.is_in(val):
            return self._placed(val, ignore_device)
        if self.register is not None:
            val = self._registered(self.register, val)
        index = to_tensor(val, torch.int64)
        batch = self.shape[:-1]
        if index.shape[max(index.ndim - len(batch), 0) :] != batch:
            if index.numel() != batch.numel():
                raise ShapeError(
                    describe(
                        self,
                        "cannot encode categories of this shape",
                        expected=list(batch),
                        found=list(index.shape),
                        hint="Pass one number for each one-hot vector.",
                    )
                )
            index = index.reshape(batch)
        check_categories(self, index, self.space.n)
        return self._placed(self._one_hot(index), ignore_device)

    def _registered(self, register: Register, val: Any) -> Any:
        """Return the number of a value, or those of a batch ``[*L, *B]`` of them."""
        if self.shape[:-1].numel() == 1:
            return register.number(val, self)
        values = np.asarray(val)
        numbers = [register.number(value, self) for value in values.flat]
        return np.array(numbers).reshape(values.shape)

    def _to_numpy(self, val: Tensor) -> Any:
        index = self.to_categorical(val).numpy(force=True)[()]
        if self.register is None:
            return index
        if index.ndim == 0:
            return self.register.value(index)
        return np.array([self.register.value(i) for i in index.flat]).reshape(index.shape)

    def _reshape(self, op: Op) -> OneHot:
        check_feature_kept(self, op)
        return self._derive(op, mask=None if self.mask is None else op(self.mask))

    def _to_dtype(self, dtype: torch.dtype) -> OneHot:
        rows = None if self._rows is None else self._rows.to(dtype)
        return self._with(dtype=dtype, _rows=rows)

    def _same(self, other: Any) -> bool:
        return super()._same(other) and self.register == other.register

    def cardinality(self) -> float:
        """Return how many values there are, masked ones included."""
        return self.space.n ** self.shape[:-1].numel()

    def enumerate(self, use_mask: bool = False) -> Tensor:
        """Return every value, stacked ``[N, *B, n]``."""
        choices = [range(self.space.n)] * self.shape[:-1].numel()
        index = all_combinations(choices, torch.int64, self.device)
        values = self._one_hot(index.reshape(-1, *self.shape[:-1]))
        return keep_legal(self, values) if use_mask else values

    def index(self, index: Tensor, tensor_to_index: Tensor) -> Tensor:
        """Return what a value picks from ``tensor_to_index [*L, *B, n]``, as ``[*L, *B, 1]``."""
        return pick(self.to_categorical(index), tensor_to_index)

    def _as_numbers(self, val: Tensor) -> Tensor:
        return (val.to(torch.uint8) if val.dtype == torch.bool else val).argmax(-1)  # [*L, *B]

    def to_categorical_spec(self) -> Categorical:
        """Return the spec of the same choice as a number."""
        return Categorical(self.space.n, self.shape[:-1], self.device, mask=self.mask)
