"""What is no tensor, and what is one of several things."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tensordict import NestedKey, NonTensorData, NonTensorStack, is_non_tensor, is_tensor_collection
from torch import Tensor

from torchrl._core.devices import check_devices
from torchrl._core.errors import DTypeError, SpecError, describe
from torchrl.data.tensor_specs.base import CompoundSpec, Op, TensorSpec
from torchrl.data.tensor_specs.composite import Composite
from torchrl.data.tensor_specs.helpers import DeviceLike, Value, as_device
from torchrl.data.tensor_specs.spaces import Dest

if TYPE_CHECKING:
    from typing_extensions import Self  # of the typing module from Python 3.11 on


class NonTensor(TensorSpec):
    """Any Python object: a string, a dictionary, a game state.

    What is drawn is always ``example_data``.

    Args:
        shape: Shape ``[*S]``.
        device: Kept by what is drawn.
        dtype: A dtype that the objects are known by; recorded, and checked against nothing.
        example_data: An object of this kind.
        batched: Draw a stack of objects, one for each element, instead of one for all.
        feature_dims: How many of the last dimensions of ``shape`` a value need not have; if
            ``None``, a last size of one.

    >>> spec = NonTensor(example_data="hello")
    >>> spec.rand().data, spec.is_in("a string"), spec.is_in(torch.zeros(1))
    ('hello', True, False)
    """

    _feature_ndim = 0

    def __init__(
        self,
        shape: Sequence[int] | int = (1,),
        device: DeviceLike = None,
        dtype: torch.dtype | None = None,
        example_data: object = None,
        batched: bool | None = None,
        feature_dims: int | None = None,
    ) -> None:
        check_devices(self, device=device)
        super().__init__(shape, None, device, dtype, "")
        self.example_data, self.batched = example_data, bool(batched)
        self.feature_dims = feature_dims

    @property
    def device(self) -> torch.device | None:
        """Device that drawn objects have; objects need none."""
        return self._device

    def cardinality(self) -> float:
        """Raise RuntimeError: objects cannot be counted."""
        raise RuntimeError(describe(self, "has no number of values: any object is one"))

    def _rand(self, size: torch.Size) -> Value:
        return self._filled(self.example_data, size)

    def zero(self, shape: Sequence[int] | int | None = ()) -> Value:
        """Return the example, ``[*shape, *S]``."""
        return self.rand(shape)

    def one(self, shape: Sequence[int] | int | None = ()) -> Value:
        """Return the example, ``[*shape, *S]``."""
        return self.rand(shape)

    def _filled(self, data: object, size: torch.Size) -> NonTensorData | NonTensorStack:
        if not self.batched or not size.numel() or not size:
            return NonTensorData(data=data, batch_size=size, device=self._device)
        parts = [self._filled(data, size[1:]) for _ in range(size[0])]
        return NonTensorStack(*parts, stack_dim=0)

    def error_report(self, val: Value, key: NestedKey | None = None, batch_ndim: int = 0) -> Exception | None:
        """Return the error that tells why ``val`` is no such object, or ``None`` if it is one."""
        if not is_non_tensor(val):
            return self._type_error(val, key)
        optional = self.feature_dims
        if optional is None:
            optional = int(bool(self.shape) and self.shape[-1] == 1)
        bare = self._with(shape=self.shape[: len(self.shape) - optional], feature_dims=0)
        if self._starts(val.batch_size, batch_ndim) or bare._starts(val.batch_size, batch_ndim):
            return None
        return self._shape_error(val.batch_size, key)

    def _type_error(self, val: Value, key: NestedKey | None) -> Exception | None:
        if is_non_tensor(val) or not (isinstance(val, Tensor) or is_tensor_collection(val)):
            return None
        return DTypeError(
            describe(
                self,
                "is a tensor",
                key=key,
                expected="an object that is none",
                found=type(val).__name__,
                hint="Use Unbounded or Bounded for tensors.",
            )
        )

    def project(self, val: Value, batch_ndim: int = 0) -> Value:
        """Return ``val`` as it is."""
        return val

    def _contains(self, val: Value) -> bool:
        return True

    def _project(self, val: Value) -> Value:
        return val

    def encode(self, val: Value, *, ignore_device: bool = False) -> Value:
        """Return an object as an entry of a tensordict.

        With ``batched``, a list or an array of objects becomes a stack of them.
        """
        if is_non_tensor(val):
            return val
        if self.batched and isinstance(val, list | np.ndarray):
            return NonTensorStack.from_list(list(val))
        device = None if ignore_device else self._device
        return NonTensorData(data=val, batch_size=self._draw_shape, device=device)

    def _to_numpy(self, val: Value) -> Value:
        if isinstance(val, NonTensorStack):
            return np.array(val.tolist(), dtype=object)
        return val.data if is_non_tensor(val) else val

    def _same(self, other: Self) -> bool:
        mine = (self.batched, self.feature_dims)
        alike = mine == (other.batched, other.feature_dims)
        return alike and same_data(self.example_data, other.example_data)

    def _fields(self) -> dict[str, object]:
        fields = super()._fields()
        return {**fields, "example_data": repr(self.example_data)}


class Choice(CompoundSpec):
    """One of several specs or objects, any of which may be drawn.

    One choice is made for all elements of a draw, and zeros and ones are those of the first. Along
    leading dimensions, members may come from different choices.

    Args:
        choices: Specs of one shape and dtype, or objects that are no tensors, not both. A stack of
            objects, ``NonTensorStack``, is one choice.

    Raises:
        TypeError: if ``choices`` is no list.
        SpecError: if there are no choices, or they are of different shapes, dtypes or kinds.

    >>> spec = Choice([NonTensor(example_data="left"), NonTensor(example_data="right")])
    >>> spec.rand().data in ("left", "right")
    True
    """

    def __init__(self, choices: Sequence[Value]) -> None:
        if not isinstance(choices, list | tuple):
            raise DTypeError(describe(self, "needs a list of choices", found=choices))
        self.choices = list(choices)
        first = self.choices[0] if self.choices else None
        self._of_specs = isinstance(first, TensorSpec)
        if not self.choices or not self._alike():
            raise SpecError(
                describe(
                    self,
                    "needs choices of one kind",
                    expected="specs of one shape and dtype, or objects",
                    found=self.choices,
                    hint="Stack specs that differ with torch.stack().",
                )
            )
        like: Any = first if self._of_specs else NonTensor(self._object_shape(first))
        super().__init__(like.shape, None, like._device, like.dtype, like.domain)
        self._feature_ndim = like._feature_ndim

    @property
    def device(self) -> torch.device | None:
        """Device of the choices."""
        return self._device

    def _alike(self) -> bool:
        first = self.choices[0]
        if self._of_specs:
            kind = (first.shape, first.dtype, first.device, isinstance(first, Composite))
            return all(
                isinstance(spec, TensorSpec)
                and (spec.shape, spec.dtype, spec.device, isinstance(spec, Composite)) == kind
                for spec in self.choices
            )
        return not any(isinstance(choice, TensorSpec | Tensor) for choice in self.choices)

    @staticmethod
    def _object_shape(choice: Value) -> torch.Size:
        return choice.batch_size if is_non_tensor(choice) else torch.Size(())

    def _specs(self) -> list[TensorSpec]:
        if self._of_specs:
            return self.choices
        return [NonTensor(self.shape, self._device, example_data=_plain(choice)) for choice in self.choices]

    def _build(self, method: str, shape: Sequence[int] | int | None) -> Value:
        chosen = int(torch.randint(len(self.choices), ())) if method == "rand" else 0
        choice = self.choices[chosen]
        if isinstance(choice, NonTensorStack):
            size = self._size(shape)
            return choice.clone().expand(size) if len(size) > choice.ndim else choice.clone()
        return getattr(self._specs()[chosen], method)(shape)

    def error_report(self, val: Value, key: NestedKey | None = None, batch_ndim: int = 0) -> Exception | None:
        """Return the error of the first choice if ``val`` is in none, else ``None``."""
        if self._of_specs:
            errors = [spec.error_report(val, key, batch_ndim) for spec in self.choices]
            if None in errors or self._each_in_some(val, batch_ndim):
                return None
            return errors[0]
        first = self.choices[0]
        data = _parts(val, first.ndim if isinstance(first, NonTensorStack) else 0)
        known = [_plain(choice) for choice in self.choices]
        if all(not isinstance(item, Tensor) and item in known for item in data):
            return None
        return SpecError(
            describe(
                self,
                "is none of the choices",
                key=key,
                expected=known,
                found=data,
                hint="Add the choice, or fix the value.",
            )
        )

    def _each_in_some(self, val: Value, batch_ndim: int) -> bool:
        """Return whether every part of a tensor along its leading dimensions is in some choice."""
        extra = val.ndim - len(self.shape) if isinstance(val, Tensor) else 0
        if extra < 1:
            return False
        return any(
            all(self.is_in(part) for part in aligned.flatten(0, extra - 1)) for aligned in self._align(val, batch_ndim)
        )

    def project(self, val: Value, batch_ndim: int = 0) -> Value:
        """Return ``val`` if it is in a choice, else what the first choice makes of it."""
        if self.error_report(val, None, batch_ndim) is None:
            return val
        first = self._specs()[0]
        return first.project(val, batch_ndim) if self._of_specs else self.zero()

    def encode(self, val: Value, *, ignore_device: bool = False) -> Value:
        """Return ``val`` as the first choice that it is in has it."""
        specs = self._specs()
        encoded = [spec.encode(val, ignore_device=ignore_device) for spec in specs]
        fitting = (v for v in encoded if self.is_in(v))
        return next(fitting, encoded[0])

    def _to_numpy(self, val: Value) -> Value:
        return self._specs()[0].to_numpy(val)

    def cardinality(self) -> float:
        """Return how many values there are, one that two choices share counted twice."""
        if not self._of_specs:
            return len(self.choices)
        return sum(spec.cardinality() for spec in self.choices)

    def enumerate(self, use_mask: bool = False) -> Value:
        """Return every value, stacked ``[N, *S]``; objects as a list."""
        if not self._of_specs:
            return [
                choice.clone() if isinstance(choice, NonTensorStack) else spec.rand()
                for choice, spec in zip(self.choices, self._specs(), strict=True)
            ]
        return torch.cat([spec.enumerate(use_mask) for spec in self.choices])

    def _reshape(self, op: Op) -> Choice:
        if not self._of_specs:
            return self._derive(op)
        return Choice([spec._reshape(op) for spec in self.choices])

    def to(self, dest: Dest) -> Choice:
        """Return the spec on another device, or of another dtype."""
        if not isinstance(dest, torch.dtype):
            check_devices(self, dest=dest)
        same = not isinstance(dest, torch.dtype) and as_device(dest) in (None, self._device)
        if not self._of_specs or same:
            return super().to(dest)
        return Choice([spec.to(dest) for spec in self.choices])

    def clear_device_(self) -> Choice:
        """Forget the device, in place and in every choice."""
        self._device = None
        if self._of_specs:
            for spec in self.choices:
                spec.clear_device_()
        return self

    def _same(self, other: Self) -> bool:
        if self._of_specs or other._of_specs:
            return bool(self.choices == other.choices)
        return same_data([_plain(choice) for choice in self.choices], [_plain(choice) for choice in other.choices])

    def _fields(self) -> dict[str, object]:
        return {"choices": self.choices, "shape": self.shape, "device": self._device}


def same_data(a: Value, b: Value) -> bool:
    """Return whether two objects are equal, where arrays among their parts are compared whole.

    >>> same_data((np.zeros(2), "a"), (np.zeros(2), "a"))
    True
    """
    if a is b:
        return True
    if isinstance(a, np.ndarray | Tensor) or isinstance(b, np.ndarray | Tensor):
        return type(a) is type(b) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, list | tuple) and type(a) is type(b):
        return len(a) == len(b) and all(map(same_data, a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same_data(a[key], b[key]) for key in a)
    return bool(a == b)


def _plain(value: Value) -> Value:
    """Return an object, or the nested list of a stack of them."""
    if isinstance(value, NonTensorStack):
        return value.tolist()
    return value.data if is_non_tensor(value) else value


def _parts(value: Value, ndim: int) -> list[Value]:
    """Return what a stack holds along its leading dimensions, in parts of ``ndim`` dimensions."""
    if isinstance(value, NonTensorStack) and value.ndim > ndim:
        return [item for part in value.unbind(0) for item in _parts(part, ndim)]
    return [_plain(value)]
