"""`TensorSpec`: shape, dtype and device of an entry, and the set of its values.

Shapes: ``*S`` the spec's own shape, ``*L`` any leading dimensions of a value.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from tensordict import NestedKey
from torch import Tensor

from torchrl._core.devices import check_devices
from torchrl._core.errors import (
    DTypeError,
    MissingKeyError,
    ShapeError,
    ShapeIndexError,
    SpecDTypeError,
    SpecError,
    SpecKeyError,
    SpecShapeError,
    describe,
)
from torchrl.data.tensor_specs.helpers import (
    DeviceLike,
    Index,
    Shape,
    Value,
    as_device,
    as_size,
    drawable,
    expand_ellipsis,
    fits,
    format_fields,
    forward_slices,
    found_range,
    to_front,
    to_tensor,
    wrap_dim,
)
from torchrl.data.tensor_specs.spaces import Box, Dest

if TYPE_CHECKING:
    from typing_extensions import Self  # of the typing module from Python 3.11 on

Spec = TypeVar("Spec", bound="TensorSpec")
Op = Callable[[Tensor], Tensor]
OUTSIDE: dict[type, type[Exception]] = {
    DTypeError: SpecDTypeError,
    ShapeError: SpecShapeError,
    MissingKeyError: SpecKeyError,
}


class TensorSpec(ABC):
    """Shape, dtype and device of an entry, and its set of values: sample, check, project, encode.

    A spec is immutable, except for its mask, if it has one, and for the entries of a composite.

    Args:
        shape: Shape ``[*S]`` of a value; ``-1`` is a size that varies.
        space: The set of values.
        device: Device of random values; ``None`` is torch's default device, whichever that is when
            they are made.
        dtype: Dtype of a value.
        domain: ``"continuous"``, ``"discrete"`` or empty.

    Hooks:
        _rand: ``size [*L, *S] -> value [*L, *S]``, one draw from the set.
        _contains: ``value [*L, *S] -> bool``, for a value whose shape and dtype are right.
        _project: ``value [*L, *S] -> value [*L, *S]``, the closest member of the set.
        _reshape: ``op -> spec``, where ``op`` changes the first dimensions of any tensor
            ``[*S, ...]``; the default does for specs that keep no tensors.
        _encode: ``anything -> value``; the default converts arrays, numbers and lists.

    >>> class Even(TensorSpec):
    ...     def _rand(self, size):
    ...         return 2 * torch.randint(10, size)
    ...
    ...     def _contains(self, value):
    ...         return bool((value % 2 == 0).all())
    ...
    ...     def _project(self, value):
    ...         return value // 2 * 2
    >>> spec = Even((3,), dtype=torch.int64)
    >>> spec.is_in(spec.rand()), spec.project(torch.tensor([1, 2, 3]))
    (True, tensor([0, 2, 2]))
    """

    space: Any
    _draw_shape: torch.Size  # the shape, with ones for sizes that vary
    _memo: dict[object, Tensor] | None = None  # of encode(); a derived spec has its own
    _device: torch.device | None = None  # as given
    _feature_ndim: int = 1  # trailing dimensions that no time or batch dimension may follow

    def __init__(
        self,
        shape: Sequence[int] | int,
        space: Any = None,
        device: DeviceLike = None,
        dtype: torch.dtype | None = torch.float32,
        domain: str = "",
    ) -> None:
        check_devices(self, device=device)
        self.shape = as_size(shape)
        self.space, self.dtype, self.domain = space, dtype, domain
        self._device = as_device(device)
        self._draw_shape = drawable(self.shape)

    @property
    def device(self) -> torch.device | None:
        """Where random values are: torch's default device, unless one was given."""
        return torch.get_default_device() if self._device is None else self._device

    def rand(self, shape: Sequence[int] | int | None = ()) -> Value:
        """Return a random value ``[*shape, *S]`` of the set; ``None`` is no shape."""
        return self._rand(self._size(shape))

    def sample(self, shape: Sequence[int] | int | None = ()) -> Value:
        """Return a random value ``[*shape, *S]`` of the set."""
        return self.rand(shape)

    def zero(self, shape: Sequence[int] | int | None = ()) -> Value:
        """Return zeros ``[*shape, *S]``; a placeholder, which the set may not hold."""
        return torch.zeros(self._size(shape), dtype=self.dtype, device=self._device)

    def zeros(self, shape: Sequence[int] | int | None = ()) -> Value:
        """Return zeros ``[*shape, *S]``; a placeholder, which the set may not hold."""
        return self.zero(shape)

    def one(self, shape: Sequence[int] | int | None = ()) -> Value:
        """Return ones ``[*shape, *S]``; a placeholder, which the set may not hold."""
        return torch.ones(self._size(shape), dtype=self.dtype, device=self._device)

    def ones(self, shape: Sequence[int] | int | None = ()) -> Value:
        """Return ones ``[*shape, *S]``; a placeholder, which the set may not hold."""
        return self.one(shape)

    def _size(self, shape: Sequence[int] | int | None) -> torch.Size:
        if isinstance(shape, int):
            return torch.Size((shape, *self._draw_shape))
        return torch.Size((*shape, *self._draw_shape)) if shape else self._draw_shape

    def is_in(self, val: Value) -> bool:
        """Return whether ``val`` is a value of this spec; never raises.

        Any leading dimensions are welcome, and so are dimensions between the first dimensions
        of the spec and its last ones: a rollout ``[N, T, 1]`` lies in the spec ``[N, 1]`` of a
        batch of environments. Devices are not compared.
        """
        if isinstance(val, Tensor) and val.shape == self.shape and val.dtype is self.dtype:
            return self._contains(val)
        return self.error_report(val) is None

    def contains(self, val: Value) -> bool:
        """Return whether ``val`` is a value of this spec; never raises."""
        return self.is_in(val)

    def __contains__(self, val: object) -> bool:
        return self.is_in(val)

    def assert_is_in(self, value: Value, key: NestedKey | None = None) -> None:
        """Raise unless ``value`` is in the set. All errors are a :class:`SpecError`, too.

        Raises:
            ShapeError: if its shape does not fit.
            DTypeError: if it has another dtype, or is no tensor.
            SpecError: if it lies outside the set.
        """
        error = self.error_report(value, key)
        if error is not None:
            raise OUTSIDE.get(type(error), type(error))(str(error))

    def type_check(self, value: Value, key: NestedKey | None = None) -> None:
        """Raise :class:`DTypeError` unless ``value`` has the spec's dtype."""
        error = self._type_error(value, key)
        if error is not None:
            raise error

    def error_report(self, val: Value, key: NestedKey | None = None, batch_ndim: int = 0) -> Exception | None:
        """Return the error that explains why ``val`` is not in the set, or ``None`` if it is.

        Args:
            val: A value ``[*L, *S]``.
            key: Name of the entry, for the message.
            batch_ndim: How many of the first dimensions of ``S`` are known to be batch dimensions.
        """
        error = self._type_error(val, key)
        if error is not None:
            return error
        aligned = self._align(val, batch_ndim)
        if not aligned:
            return self._shape_error(val.shape, key)
        if any(self._contains(candidate) for candidate in aligned):
            return None
        return SpecError(
            describe(
                self,
                "lies outside its spec",
                key=key,
                expected=self._expected(),
                found=found_range(val),
                hint="Bring it back with project(), or widen the spec.",
            )
        )

    def project(self, val: Value, batch_ndim: int = 0) -> Value:
        """Return ``val`` if it is in the set, else the closest value that is, in the spec's dtype.

        Args:
            val: A value ``[*L, *S]``, with extra dimensions where :meth:`is_in` accepts them.
            batch_ndim: How many of the first dimensions of ``S`` are known to be batch dimensions.

        Raises:
            ShapeError: if the shape does not fit.
        """
        if val.shape == self.shape:
            return self._project(val if val.dtype is self.dtype else self._cast(val))
        extra, starts = val.ndim - len(self.shape), self._starts(val.shape, batch_ndim)
        if not starts:
            raise self._shape_error(val.shape, None)
        if len(starts) > 1 and extra and self.is_in(val):
            return val  # in one of several readings of its shape: leave it in that one
        start = starts[0]
        aligned = to_front(val, start, extra)
        projected = self._project(aligned if val.dtype is self.dtype else self._cast(aligned))
        if not start or not extra:
            return projected
        return projected.movedim(tuple(range(extra)), tuple(range(start, start + extra)))

    def _cast(self, val: Tensor) -> Tensor:
        """Cast to the spec's dtype; subclasses whose range is narrow saturate."""
        return val.to(self.dtype)

    def _type_error(self, val: Value, key: NestedKey | None) -> Exception | None:
        if isinstance(val, Tensor) and val.dtype == self.dtype:
            return None
        found = val.dtype if isinstance(val, Tensor) else type(val).__name__
        hint = "Convert it with encode()." if not isinstance(val, Tensor) else "Cast the value."
        return DTypeError(describe(self, "has the wrong dtype", key=key, expected=self.dtype, found=found, hint=hint))

    def _shape_error(self, shape: torch.Size, key: NestedKey | None) -> ShapeError:
        return ShapeError(
            describe(
                self,
                "has the wrong shape",
                key=key,
                expected=f"{list(self.shape)} after any leading dimensions",
                found=list(shape),
                hint="Fix the value, or the shape of the spec.",
            )
        )

    def _starts(self, shape: torch.Size, batch_ndim: int) -> list[int]:
        """Return the dimensions ``start`` before which the extra dimensions of a value may be."""
        own, extra = self.shape, len(shape) - len(self.shape)
        if extra < 0:
            return []
        last = max(len(own) - self._feature_ndim, min(batch_ndim, len(own)), 0)
        return [
            start
            for start in range(last + 1)
            if fits(shape[:start], own[:start]) and fits(shape[start + extra :], own[start:])
        ]

    def _align(self, val: Tensor, batch_ndim: int) -> list[Tensor]:
        """Return ``val`` as ``[*L, *S]``, once for each way in which its shape fits."""
        extra = val.ndim - len(self.shape)
        starts = self._starts(val.shape, batch_ndim)
        if not extra:
            starts = starts[:1]
        return [to_front(val, start, extra) for start in starts]

    def _expected(self) -> object:
        return self.space

    def encode(self, val: Value, *, ignore_device: bool = False) -> Value:
        """Return ``val`` as a value of this spec.

        A numpy array that already has the dtype shares its memory with the result, as
        ``torch.from_numpy`` does; copy what its owner overwrites. The range is not checked.

        Args:
            val: An array, number, list or tensor ``[*L, *S]``, or one of as many elements as ``S``.
            ignore_device: Leave the result where it is made.

        Raises:
            ShapeError: if the shape does not fit.
        """
        if self._memo is None:
            return self._encode(val, ignore_device)
        array = np.asarray(val)
        key = (array.dtype.str, array.shape, array.tobytes(), ignore_device)
        if key not in self._memo:
            self._memo[key] = self._encode(val, ignore_device)
        return self._memo[key].clone()

    def _encode(self, val: Value, ignore_device: bool) -> Value:
        return self._placed(self._fitted(to_tensor(val, self.dtype)), ignore_device)

    def _placed(self, value: Tensor, ignore_device: bool) -> Tensor:
        if ignore_device or self._device is None or value.device == self._device:
            return value
        return value.to(self._device)

    def _fitted(self, value: Tensor) -> Tensor:
        """Return ``value`` in the spec's shape, with leading dimensions if it comes with them."""
        if value.shape == self.shape:
            return value
        if fits(value.shape[max(value.ndim - len(self.shape), 0) :], self.shape):
            return value
        if value.numel() == self._draw_shape.numel():
            return value.reshape(self._draw_shape)
        raise ShapeError(
            describe(
                self,
                "cannot encode a value of this shape",
                expected=list(self.shape),
                found=list(value.shape),
                hint="Build the spec from what is encoded.",
            )
        )

    def to_numpy(self, val: Value, safe: bool = False) -> Value:
        """Return ``val`` as numpy has it; undoes :meth:`encode`.

        Args:
            val: A value ``[*L, *S]``.
            safe: Check first that it is in the set.
        """
        if safe:
            self.assert_is_in(val)
        return self._to_numpy(val)

    def _to_numpy(self, val: Value) -> Value:
        if val.dtype is torch.bfloat16:  # numpy has none
            val = val.float()
        return val.detach().cpu().numpy()

    def memoize_encode(self, mode: bool = True) -> None:
        """Remember what :meth:`encode` returned for each input; for small discrete sets."""
        self._memo = {} if mode else None

    def cardinality(self) -> float:
        """Return how many values there are; infinite for continuous specs."""
        return float("inf")

    def enumerate(self, use_mask: bool = False) -> Value:
        """Return every value, stacked ``[N, *S]``.

        Args:
            use_mask: Leave out what the mask forbids.

        Raises:
            SpecError: if there are infinitely many.
        """
        raise SpecError(
            describe(self, "cannot be enumerated: it has infinitely many values", hint="Draw from it with rand().")
        )

    def to(self: Spec, dest: Dest) -> Spec:
        """Return the spec on another device, or of another dtype."""
        if isinstance(dest, torch.dtype):
            return self if dest == self.dtype else self._to_dtype(dest)
        check_devices(self, dest=dest)
        device = as_device(dest)
        if device is None or device == self._device:
            return self
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor | Box)}
        return self._with(_device=device, **moved)

    def _to_dtype(self: Spec, dtype: torch.dtype) -> Spec:
        return self._with(dtype=dtype)

    def cpu(self: Spec) -> Spec:
        """Return the spec on the CPU."""
        return self.to("cpu")

    def cuda(self: Spec, device: int | None = None) -> Spec:
        """Return the spec on a CUDA device; the current one if ``None``."""
        return self.to("cuda" if device is None else f"cuda:{device}")

    def clear_device_(self: Spec) -> Spec:
        """Forget the device, in place: values are drawn wherever torch puts them."""
        self._device = None
        return self

    def clone(self: Spec) -> Spec:
        """Return a spec of its own that shares nothing with this one."""
        return copy.deepcopy(self)

    # --- operations that change the shape ---

    @property
    def ndim(self) -> int:
        """Number of dimensions of a value."""
        return len(self.shape)

    def ndimension(self) -> int:
        """Return the number of dimensions of a value."""
        return len(self.shape)

    def numel(self) -> int:
        """Return the number of elements of a value."""
        return self._draw_shape.numel()

    def expand(self: Spec, *shape: Shape) -> Spec:
        """Return the spec of values expanded to ``shape``."""
        ndim = len(self.shape)
        size = list(self._blank().expand(as_size(*shape)).shape)
        for dim in range(1, ndim + 1):
            if self.shape[-dim] == -1:
                size[-dim] = -1  # a size that varies stays as it is
        return self._reshape(lambda t: t.expand((*size, *t.shape[ndim:])))

    def unsqueeze(self: Spec, dim: int) -> Spec:
        """Return the spec of values with one more dimension."""
        at = wrap_dim(self, dim, len(self.shape) + 1)
        return self._reshape(lambda t: t.unsqueeze(at))

    def squeeze(self: Spec, dim: int | None = None) -> Spec:
        """Return the spec of values without dimensions of size one."""
        dims = range(len(self.shape)) if dim is None else [wrap_dim(self, dim, len(self.shape))]
        ones = tuple(d for d in dims if self.shape[d] == 1)
        return self._reshape(lambda t: t.squeeze(ones))

    def reshape(self: Spec, *shape: Shape) -> Spec:
        """Return the spec of values in another shape."""
        return self._to_size(self._blank().reshape(as_size(*shape)).shape)

    def view(self: Spec, *shape: Shape) -> Spec:
        """Return the spec of values in another shape."""
        return self.reshape(*shape)

    def flatten(self: Spec, start_dim: int = 0, end_dim: int = -1) -> Spec:
        """Return the spec of values with several dimensions made one."""
        return self._to_size(self._blank().flatten(start_dim, end_dim).shape)

    def unflatten(self: Spec, dim: int, sizes: Sequence[int]) -> Spec:
        """Return the spec of values with one dimension made several."""
        return self._to_size(self._blank().unflatten(dim, tuple(sizes)).shape)

    def unbind(self: Spec, dim: int = 0) -> tuple[Spec, ...]:
        """Return the specs of the slices of a value along a dimension."""
        at = wrap_dim(self, dim, len(self.shape))
        return tuple(self[(slice(None),) * at + (i,)] for i in range(self.shape[at]))

    def index_select(self: Spec, dim: int, index: Tensor) -> Spec:
        """Return the spec of the chosen slices of a value along a dimension."""
        at = wrap_dim(self, dim, len(self.shape))
        return self._reshape(lambda t: t.index_select(at, index.to(t.device)))

    def __getitem__(self: Spec, index: Index) -> Spec:
        full = forward_slices(expand_ellipsis(index, len(self.shape)), self._draw_shape)
        try:
            return self._reshape(lambda t: t[full])
        except ShapeIndexError:
            raise
        except ShapeError as error:
            raise ShapeIndexError(str(error)) from None

    def _to_size(self: Spec, size: torch.Size) -> Spec:
        ndim = len(self.shape)
        return self._reshape(lambda t: t.reshape((*size, *t.shape[ndim:])))

    def _blank(self) -> Tensor:
        return torch.empty((), dtype=torch.bool).expand(self._draw_shape)

    def _reshape(self: Spec, op: Op) -> Spec:
        return self._derive(op)

    def _derive(self: Spec, op: Op, **changes: object) -> Spec:
        """Return a copy whose shape went through ``op``, with some attributes replaced.

        A size that varies is told from the others by what ``op`` makes of two sizes.
        """
        shape = op(self._blank()).shape
        if -1 in self.shape:
            twice = torch.Size(2 if s == -1 else s for s in self.shape)
            other = op(torch.empty((), dtype=torch.bool).expand(twice)).shape
            shape = torch.Size(a if a == b else -1 for a, b in zip(shape, other, strict=True))
        return self._with(shape=shape, _draw_shape=drawable(shape), **changes)

    def _with(self: Spec, **changes: object) -> Spec:
        new = copy.copy(self)
        new._memo = None if self._memo is None else {}
        vars(new).update(changes)
        return new

    @classmethod
    def __torch_function__(
        cls, func: object, types: object, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in TORCH_FUNCTIONS:
            return NotImplemented
        return TORCH_FUNCTIONS[func](*args, **(kwargs or {}))

    # --- equality and hooks ---

    def __eq__(self, other: object) -> bool:
        return (
            type(self) is type(other)
            and isinstance(other, type(self))
            and (self.shape, self.dtype, self.device, self.domain)
            == (other.shape, other.dtype, other.device, other.domain)
            and self.space == other.space
            and self._same(other)
        )

    def _same(self, other: Self) -> bool:
        """Compare what a subclass keeps beyond shape, dtype, device, domain and space."""
        return True

    def _fields(self) -> dict[str, object]:
        return {
            "shape": self.shape,
            "space": self.space,
            "device": self.device,
            "dtype": self.dtype,
            "domain": self.domain or None,
        }

    def __repr__(self) -> str:
        return format_fields(type(self).__name__, self._fields())

    @abstractmethod
    def _rand(self, size: torch.Size) -> Value: ...

    @abstractmethod
    def _contains(self, val: Value) -> bool: ...

    @abstractmethod
    def _project(self, val: Value) -> Value: ...


class CompoundSpec(TensorSpec):
    """A spec of several specs, which draw, check and project their parts of a value.

    Hooks:
        _build: ``"rand" | "zero" | "one", shape -> value [*shape, *S]``.
        error_report, project: as of :class:`TensorSpec`, for any value.
    """

    def rand(self, shape: Sequence[int] | int | None = ()) -> Value:
        """Return a random value ``[*shape, *S]``, which every spec draws its part of."""
        return self._build("rand", shape)

    def zero(self, shape: Sequence[int] | int | None = ()) -> Value:
        """Return a value of zeros ``[*shape, *S]``."""
        return self._build("zero", shape)

    def one(self, shape: Sequence[int] | int | None = ()) -> Value:
        """Return a value of ones ``[*shape, *S]``."""
        return self._build("one", shape)

    def _rand(self, size: torch.Size) -> Value:
        return self.rand(size[: len(size) - len(self.shape)])

    def _contains(self, val: Value) -> bool:
        return self.error_report(val) is None

    def _project(self, val: Value) -> Value:
        return self.project(val)

    @abstractmethod
    def _build(self, method: str, shape: Sequence[int] | int | None) -> Value: ...


TORCH_FUNCTIONS: dict[object, Callable[..., Any]] = {
    torch.squeeze: lambda input, *args, **kwargs: input.squeeze(*args, **kwargs),
    torch.unsqueeze: lambda input, *args, **kwargs: input.unsqueeze(*args, **kwargs),
    torch.reshape: lambda input, *args, **kwargs: input.reshape(*args, **kwargs),
    torch.flatten: lambda input, *args, **kwargs: input.flatten(*args, **kwargs),
    torch.unflatten: lambda input, *args, **kwargs: input.unflatten(*args, **kwargs),
    torch.unbind: lambda input, *args, **kwargs: input.unbind(*args, **kwargs),
    torch.index_select: lambda input, *args, **kwargs: input.index_select(*args, **kwargs),
}
