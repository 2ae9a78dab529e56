"""`Categorical`, `OneHot`: one of `n` categories, with a mask of the legal ones.

Shapes: ``*B`` the batch dimensions of a spec, ``*L`` leading dimensions of a value, ``n``
categories. A mask ``[*B, n]`` is true where a category is legal.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, SupportsIndex

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from torchrl._core.devices import check_devices
from torchrl._core.errors import ShapeError, SpecError, describe
from torchrl.data.tensor_specs.base import Op, TensorSpec
from torchrl.data.tensor_specs.helpers import DeviceLike, Value, all_combinations, as_size, to_tensor
from torchrl.data.tensor_specs.spaces import CategoricalBox

if TYPE_CHECKING:
    from typing_extensions import Self  # of the typing module from Python 3.11 on


class Masked(TensorSpec):
    """A discrete spec whose categories may be forbidden by a mask.

    Its values are numbers of categories or one-hot vectors, and can be had in either form.

    Hooks:
        _mask_shape: ``-> size``, what a mask is broadcast to.
        _as_numbers, _as_one_hot: ``value -> value`` in that form; as it is by default.
        to_categorical_spec, to_one_hot_spec: may be overridden likewise.
    """

    mask: Tensor | None = None

    def update_mask(self, mask: Tensor | None) -> None:
        """Set in place which categories are legal.

        Args:
            mask: True where legal; broadcast to the batch dimensions, then the categories.
                ``None`` allows all.

        Raises:
            ShapeError: if it cannot be broadcast.
        """
        if mask is None:
            self.mask = None
            return
        mask = torch.as_tensor(mask, dtype=torch.bool, device=self._device)
        size = self._mask_shape()
        try:
            self.mask = mask.expand(size)
        except RuntimeError:
            raise ShapeError(
                describe(
                    self,
                    "cannot use a mask of this shape",
                    expected=list(size),
                    found=list(mask.shape),
                    hint="Give a mask its spec's batch dimensions, then the categories.",
                )
            ) from None

    def to_categorical(self, val: Tensor, safe: bool = False) -> Tensor:
        """Return a value as numbers of categories.

        Args:
            val: A value ``[*L, *S]``.
            safe: Check first that it is in the set.
        """
        if safe:
            self.assert_is_in(val)
        return self._as_numbers(val)

    def to_one_hot(self, val: Tensor, safe: bool = False) -> Tensor:
        """Return a value as one-hot vectors.

        Args:
            val: A value ``[*L, *S]``.
            safe: Check first that it is in the set.
        """
        if safe:
            self.assert_is_in(val)
        return self._as_one_hot(val)

    def to_categorical_spec(self) -> Masked:
        """Return the spec of the same choices as numbers of categories."""
        return self

    def to_one_hot_spec(self) -> Masked:
        """Return the spec of the same choices as one-hot vectors."""
        return self

    def _as_numbers(self, val: Tensor) -> Tensor:
        return val

    def _as_one_hot(self, val: Tensor) -> Tensor:
        return val

    def _mask_for(self, val: Tensor) -> Tensor | None:
        if self.mask is None or self.mask.device == val.device:
            return self.mask
        return self.mask.to(val.device)

    def _draw_legal(self, mask: Tensor, lead: torch.Size) -> Tensor:
        """Draw one legal category for each element, uniformly.

        Args:
            mask: True where legal ``[*B, n]``.
            lead: Shape ``[*L, *B]`` of the result.

        Raises:
            SpecError: if nothing is legal for some element.
        """
        score = torch.rand(*lead, mask.shape[-1], device=mask.device)  # [*L, *B, n]
        best = score.masked_fill_(~mask, -1.0).max(-1)
        if bool((best.values < 0).any()):
            raise self._no_legal_value()
        return best.indices

    def _no_legal_value(self) -> SpecError:
        return SpecError(
            describe(
                self,
                "has a mask that forbids every value",
                expected="at least one legal category wherever a value is drawn or projected",
                hint="Pass update_mask() a mask with a true entry in each row.",
            )
        )

    def _expected(self) -> str:
        masked = "" if self.mask is None else ", where the mask is true"
        return f"{self.space}{masked}"

    def _same(self, other: Self) -> bool:
        if self.mask is None or other.mask is None:
            return self.mask is other.mask
        return torch.equal(self.mask, other.mask)

    @abstractmethod
    def _mask_shape(self) -> torch.Size: ...


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
            return torch.randint(self._count(), size, dtype=self.dtype, device=self._device)
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

    def _to_numpy(self, val: Tensor) -> Value:
        return val.detach().cpu().numpy()[()]

    def _reshape(self, op: Op) -> Categorical:
        return self._derive(op, mask=None if self.mask is None else op(self.mask))

    def cardinality(self) -> float:
        """Return how many values there are, masked ones included."""
        return self._count() ** self.numel()

    def enumerate(self, use_mask: bool = False) -> Tensor:
        """Return every value, stacked ``[N, *B]``."""
        n = self._count()
        values = all_combinations([range(n)] * self.numel(), self.dtype, self._device)
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
        return OneHot(n, (*self.shape, n), self._device, torch.bool, mask=self.mask)


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
            self._rows = torch.eye(n, dtype=dtype, device=self._device)
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
            return self._one_hot(torch.randint(self.space.n, size[:-1], device=self._device))
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

    def _encode(self, val: Value, ignore_device: bool) -> Tensor:
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

    def _registered(self, register: Register, val: Value) -> Value:
        """Return the number of a value, or those of a batch ``[*L, *B]`` of them."""
        if self.shape[:-1].numel() == 1:
            return register.number(val, self)
        values = np.asarray(val)
        numbers = [register.number(value, self) for value in values.flat]
        return np.array(numbers).reshape(values.shape)

    def _to_numpy(self, val: Tensor) -> Value:
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

    def _same(self, other: Self) -> bool:
        return super()._same(other) and self.register == other.register

    def cardinality(self) -> float:
        """Return how many values there are, masked ones included."""
        return self.space.n ** self.shape[:-1].numel()

    def enumerate(self, use_mask: bool = False) -> Tensor:
        """Return every value, stacked ``[N, *B, n]``."""
        choices = [range(self.space.n)] * self.shape[:-1].numel()
        index = all_combinations(choices, torch.int64, self._device)
        values = self._one_hot(index.reshape(-1, *self.shape[:-1]))
        return keep_legal(self, values) if use_mask else values

    def index(self, index: Tensor, tensor_to_index: Tensor) -> Tensor:
        """Return what a value picks from ``tensor_to_index [*L, *B, n]``, as ``[*L, *B, 1]``."""
        return pick(self.to_categorical(index), tensor_to_index)

    def _as_numbers(self, val: Tensor) -> Tensor:
        return (val.to(torch.uint8) if val.dtype == torch.bool else val).argmax(-1)  # [*L, *B]

    def to_categorical_spec(self) -> Categorical:
        """Return the spec of the same choice as a number."""
        return Categorical(self.space.n, self.shape[:-1], self._device, mask=self.mask)


class Register(dict[Hashable, int]):
    """Numbers hashable values in the order in which they appear.

    Args:
        size: Number of values.

    >>> register = Register(2)
    >>> [register.number(value, "OneHot") for value in ("left", "right", "left")]
    [0, 1, 0]
    >>> register.value(1)
    'right'
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def number(self, value: Value, who: object) -> int:
        """Return the number under which a value was first seen.

        Args:
            value: A hashable value, or an array or tensor of one element.
            who: The spec, for the message.

        Raises:
            SpecError: if all numbers are taken.
        """
        item = value.item() if isinstance(value, np.ndarray | np.generic | Tensor) else value
        if item not in self and len(self) == self.size:
            raise SpecError(
                describe(
                    who,
                    "has no category left for a new value",
                    expected=f"one of {list(self)}",
                    found=repr(item),
                    hint="Raise n.",
                )
            )
        return self.setdefault(item, len(self))

    def value(self, number: SupportsIndex) -> Hashable:
        """Return the value that has a number."""
        return list(self)[number]


def nearest_legal(index: Tensor, mask: Tensor) -> Tensor:
    """Return for each category the closest legal one; the lower of two.

    Args:
        index: Categories ``[*L, *B]``.
        mask: True where legal ``[*B, n]``.
    """
    n = mask.shape[-1]
    distance = (torch.arange(n, device=mask.device) - index.unsqueeze(-1)).abs()  # [*L, *B, n]
    return distance.masked_fill(~mask, n).argmin(-1)


def best_legal(score: Tensor, mask: Tensor | None) -> Tensor:
    """Return the legal category ``[*L]`` of the greatest score ``[*L, n]``, the first of several.

    NaN counts as the least score.
    """
    if score.is_floating_point():
        score = score.nan_to_num(-torch.inf, torch.inf, -torch.inf)
    if mask is None:
        return (score.to(torch.uint8) if score.dtype == torch.bool else score).argmax(-1)
    # A legal -inf must still beat what is forbidden.
    score = score.double().clamp_min(torch.finfo(torch.float64).min)
    return score.masked_fill(~mask, -torch.inf).argmax(-1)


def pick(index: Tensor, tensor: Tensor) -> Tensor:
    """Return the entries ``[*L, 1]`` of ``tensor [*L, n]`` that ``index [*L]`` names."""
    index = index.unsqueeze(-1).expand(*tensor.shape[:-1], 1)
    return tensor.gather(-1, index)


def keep_legal(spec: TensorSpec, values: Tensor) -> Tensor:
    """Return the rows of ``values [N, *S]`` that are in ``spec``."""
    return values[[spec.is_in(value) for value in values]]


def check_n(who: TensorSpec, n: int, provisional: bool = True) -> None:
    """Raise :class:`SpecError` unless ``n`` is a number of categories."""
    if n < 1 and not (provisional and n == -1):
        raise SpecError(
            describe(
                who, "needs a number of categories", expected="n >= 1", found=n, hint="Give n a value of at least 1."
            )
        )


def check_last(who: TensorSpec, shape: torch.Size, n: int) -> None:
    """Raise :class:`ShapeError` unless the last size is ``n``."""
    if not shape or shape[-1] != n:
        raise ShapeError(
            describe(
                who,
                "has the wrong last size",
                expected=f"a shape that ends with {n}",
                found=list(shape),
                hint="Append that size, or leave the shape out.",
            )
        )


def check_categories(who: TensorSpec, index: Tensor, n: int | Tensor) -> None:
    """Raise :class:`SpecError` unless every number names a category."""
    if bool(((index < 0) | (index >= n)).any()):
        raise SpecError(
            describe(
                who,
                "cannot encode a category that it does not have",
                expected=f"numbers from 0 to below {n if isinstance(n, int) else n.tolist()}",
                found=index.tolist() if index.numel() <= 8 else "others among them",
                hint="Raise n, or let use_register=True number the values.",
            )
        )


def check_feature_kept(spec: TensorSpec, op: Op, ndim: int = 1) -> None:
    """Raise :class:`ShapeError` if ``op`` changes the last ``ndim`` dimensions, which are one value."""
    last = spec.shape[-ndim:]
    mark = torch.arange(last.numel()).view(last)
    kept = op(mark.expand(spec.shape))  # [*B', n] unless a dimension was mixed up
    if kept.ndim < ndim or kept.shape[-ndim:] != last or not bool((kept == mark).all()):
        raise ShapeError(
            describe(
                spec,
                "cannot give up its last dimension, which holds one value",
                expected=f"a shape that ends with the same {last.numel()} entries",
                found=list(kept.shape),
                hint="Change the dimensions before it.",
            )
        )
