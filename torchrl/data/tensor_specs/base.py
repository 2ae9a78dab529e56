"""What a spec is: the shape, dtype and device of an entry, and the set its values come from.

Shapes: ``*S`` the spec's own shape, ``*L`` any leading dimensions of a value.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from torchrl._core.devices import check_devices
from torchrl._core.errors import DTypeError, ShapeError, SpecError, describe
from torchrl.data.tensor_specs.shaping import Shaped
from torchrl.data.tensor_specs.spaces import Box
from torchrl.data.tensor_specs.tools import (
    DeviceLike,
    as_device,
    as_size,
    drawable,
    fits,
    format_fields,
    found_range,
    to_front,
    to_tensor,
)

Spec = TypeVar("Spec", bound="TensorSpec")


class TensorSpec(Shaped, ABC):
    """What an entry may hold: shape, dtype, device, and a set of values to draw from and check.

    A spec is immutable but for its mask, if it has one, and for what composites hold.

    Args:
        shape: Shape ``[*S]`` of a value; ``-1`` stands for a size that varies.
        space: The set of values.
        device: Where drawn values live; ``None`` is torch's default device.
        dtype: Dtype of a value.
        domain: ``"continuous"``, ``"discrete"`` or empty.

    Hooks:
        _rand: ``size [*L, *S] -> value [*L, *S]``, one draw from the set.
        _contains: ``value [*L, *S] -> bool``, for a value whose shape and dtype are right.
        _project: ``value [*L, *S] -> value [*L, *S]``, the closest member of the set.
        _reshape: ``op -> spec``, where ``op`` changes the first dimensions of any tensor
            ``[*S, ...]``; the default does for specs that keep no tensors.
        _encode: ``anything -> value``; the default converts arrays, numbers and lists.
    """

    space: Any
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
        self.device = as_device(device)
        self._draw_shape = drawable(self.shape)

    def rand(self, shape: Sequence[int] | int = ()) -> Any:
        """Return a random value ``[*shape, *S]`` of the set."""
        return self._rand(self._size(shape))

    def sample(self, shape: Sequence[int] | int = ()) -> Any:
        """Return a random value ``[*shape, *S]`` of the set."""
        return self.rand(shape)

    def zero(self, shape: Sequence[int] | int = ()) -> Any:
        """Return zeros ``[*shape, *S]``; a placeholder, which the set may not hold."""
        return torch.zeros(self._size(shape), dtype=self.dtype, device=self.device)

    def zeros(self, shape: Sequence[int] | int = ()) -> Any:
        """Return zeros ``[*shape, *S]``; a placeholder, which the set may not hold."""
        return self.zero(shape)

    def one(self, shape: Sequence[int] | int = ()) -> Any:
        """Return ones ``[*shape, *S]``; a placeholder, which the set may not hold."""
        return torch.ones(self._size(shape), dtype=self.dtype, device=self.device)

    def ones(self, shape: Sequence[int] | int = ()) -> Any:
        """Return ones ``[*shape, *S]``; a placeholder, which the set may not hold."""
        return self.one(shape)

    def _size(self, shape: Sequence[int] | int) -> torch.Size:
        if isinstance(shape, int):
            return torch.Size((shape, *self._draw_shape))
        return torch.Size((*shape, *self._draw_shape)) if len(shape) else self._draw_shape

    def is_in(self, val: Any) -> bool:
        """Return whether ``val`` is a value of this spec; never raises.

        Any leading dimensions are welcome, and so are dimensions between the first dimensions
        of the spec and its last ones: a rollout ``[N, T, 1]`` lies in the spec ``[N, 1]`` of a
        batch of environments. Devices are not compared.
        """
        if isinstance(val, Tensor) and val.shape == self.shape and val.dtype is self.dtype:
            return self._contains(val)
        return self.complaint(val) is None

    def contains(self, val: Any) -> bool:
        """Return whether ``val`` is a value of this spec; never raises."""
        return self.is_in(val)

    def __contains__(self, val: object) -> bool:
        return self.is_in(val)

    def assert_is_in(self, value: Any, key: Any = None) -> None:
        """Raise unless ``value`` is in the set.

        Raises:
            ShapeError: if its shape does not fit.
            DTypeError: if it has another dtype, or is no tensor.
            SpecError: if it lies outside the set.
        """
        error = self.complaint(value, key)
        if error is not None:
            raise error

    def type_check(self, value: Any, key: Any = None) -> None:
        """Raise :class:`DTypeError` unless ``value`` has the spec's dtype."""
        error = self._type_complaint(value, key)
        if error is not None:
            raise error

    def complaint(self, val: Any, key: Any = None, batch_ndim: int = 0) -> Exception | None:
        """Return the error that tells why ``val`` is not in the set, or ``None`` if it is.

        Args:
            val: A value ``[*L, *S]``.
            key: Name of the entry, for the message.
            batch_ndim: How many of the first dimensions of ``S`` are known to be batch dimensions.
        """
        error = self._type_complaint(val, key)
        if error is not None:
            return error
        aligned = self._align(val, batch_ndim)
        if not aligned:
            return self._shape_complaint(val.shape, key)
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

    def project(self, val: Any, batch_ndim: int = 0) -> Any:
        """Return ``val`` if it is in the set, else the closest value that is, in the spec's dtype.

        Args:
            val: A value ``[*L, *S]``, with extra dimensions where :meth:`is_in` welcomes them.
            batch_ndim: How many of the first dimensions of ``S`` are known to be batch dimensions.

        Raises:
            ShapeError: if the shape does not fit: no projection mends that.
        """
        if val.shape == self.shape:
            return self._project(val if val.dtype is self.dtype else self._cast(val))
        extra, starts = val.ndim - len(self.shape), self._starts(val.shape, batch_ndim)
        if not starts:
            raise self._shape_complaint(val.shape, None)
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

    def _type_complaint(self, val: Any, key: Any) -> Exception | None:
        if isinstance(val, Tensor) and val.dtype == self.dtype:
            return None
        found = val.dtype if isinstance(val, Tensor) else type(val).__name__
        hint = "Convert it with encode()." if not isinstance(val, Tensor) else "Cast the value."
        return DTypeError(
            describe(
                self, "has the wrong dtype", key=key, expected=self.dtype, found=found, hint=hint
            )
        )

    def _shape_complaint(self, shape: torch.Size, key: Any) -> ShapeError:
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
        """Return where the extra dimensions of a value may stand: before dimension ``start``."""
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

    def encode(self, val: Any, *, ignore_device: bool = False) -> Any:
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

    def _encode(self, val: Any, ignore_device: bool) -> Any:
        return self._placed(self._fitted(to_tensor(val, self.dtype)), ignore_device)

    def _placed(self, value: Tensor, ignore_device: bool) -> Tensor:
        if ignore_device or self.device is None or value.device == self.device:
            return value
        return value.to(self.device)

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

    def to_numpy(self, val: Any, safe: bool = False) -> Any:
        """Return ``val`` as numpy has it; undoes :meth:`encode`.

        Args:
            val: A value ``[*L, *S]``.
            safe: Check first that it is in the set.
        """
        if safe:
            self.assert_is_in(val)
        return self._to_numpy(val)

    def _to_numpy(self, val: Any) -> Any:
        if val.dtype is torch.bfloat16:  # numpy has none
            val = val.float()
        return val.detach().cpu().numpy()

    def memoize_encode(self, mode: bool = True) -> None:
        """Remember what :meth:`encode` returned for each input; for small discrete sets."""
        self._memo = {} if mode else None

    def cardinality(self) -> float:
        """Return how many values there are; infinite for continuous specs."""
        return float("inf")

    def enumerate(self, use_mask: bool = False) -> Any:
        """Return every value, stacked ``[N, *S]``.

        Args:
            use_mask: Leave out what the mask forbids.

        Raises:
            SpecError: if there are infinitely many.
        """
        raise SpecError(
            describe(
                self,
                "cannot be enumerated: it has infinitely many values",
                hint="Draw from it with rand().",
            )
        )

    def to(self: Spec, dest: Any) -> Spec:
        """Return the spec on another device, or of another dtype."""
        if isinstance(dest, torch.dtype):
            return self if dest == self.dtype else self._to_dtype(dest)
        check_devices(self, dest=dest)
        device = as_device(dest)
        if device is None or device == self.device:
            return self
        moved = {
            name: value.to(device)
            for name, value in vars(self).items()
            if isinstance(value, Tensor | Box)
        }
        return self._with(device=device, **moved)

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
        self.device = None
        return self

    def clone(self: Spec) -> Spec:
        """Return a spec of its own that shares nothing with this one."""
        return copy.deepcopy(self)

    def __eq__(self, other: object) -> bool:
        return (
            type(self) is type(other)
            and isinstance(other, TensorSpec)
            and (self.shape, self.dtype, self.device, self.domain)
            == (other.shape, other.dtype, other.device, other.domain)
            and self.space == other.space
            and self._same(other)
        )

    def _same(self, other: Any) -> bool:
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
    def _rand(self, size: torch.Size) -> Any: ...

    @abstractmethod
    def _contains(self, val: Any) -> bool: ...

    @abstractmethod
    def _project(self, val: Any) -> Any: ...
