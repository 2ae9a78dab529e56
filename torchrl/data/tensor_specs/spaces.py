"""What a spec ranges over: an interval, a number of categories, a number of bits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from torchrl._core.devices import check_devices

# For these torch has no kernels to compare or round, and no pickling: int64 is used.
NARROW_UNSIGNED = (torch.uint16, torch.uint32)
Dest: TypeAlias = torch.device | torch.dtype | str | int | None


class Box(ABC):
    """A set of values.

    Hooks:
        to: ``dest -> Box``, the same set on another device or in another dtype.

    >>> from torchrl.data import Bounded
    >>> space = Bounded(-1, 1, shape=(2,)).space
    >>> space.to(torch.float64).low.dtype
    torch.float64
    """

    @abstractmethod
    def to(self, dest: Dest) -> Box: ...

    def clone(self) -> Box:
        """Return a box of its own that shares nothing with this one."""
        return self.to(None)


class ContinuousBox(Box):
    """The interval from ``low`` to ``high``, both included, elementwise.

    Args:
        low: Lower bound ``[*S]``.
        high: Upper bound ``[*S]``.
        device: Where the bounds are kept; as they come if ``None``.

    >>> box = ContinuousBox(torch.tensor([-1.0]), torch.tensor([1.0]))
    >>> box.minimum, box.maximum
    (tensor([-1.]), tensor([1.]))
    """

    def __init__(self, low: Tensor, high: Tensor, device: torch.device | str | None = None) -> None:
        check_devices(self, device=device)
        low, high = torch.as_tensor(low), torch.as_tensor(high)
        self.low, self.high = (low, high) if device is None else (low.to(device), high.to(device))

    @property
    def minimum(self) -> Tensor:
        """The lower bound ``[*S]``."""
        return self.low

    @property
    def maximum(self) -> Tensor:
        """The upper bound ``[*S]``."""
        return self.high

    def to(self, dest: Dest) -> ContinuousBox:
        if dest is None:
            return ContinuousBox(_compact_clone(self.low), _compact_clone(self.high))
        return ContinuousBox(self.low.to(dest), self.high.to(dest))

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.low, self.high))

    def __getstate__(self) -> tuple[Tensor, Tensor, torch.dtype]:
        # torch cannot pickle tensors of these dtypes
        narrow = self.low.dtype in NARROW_UNSIGNED
        low, high = (self.low.long(), self.high.long()) if narrow else (self.low, self.high)
        return low, high, self.low.dtype

    def __setstate__(self, state: tuple[Tensor, Tensor, torch.dtype]) -> None:
        low, high, dtype = state
        self.low, self.high = low.to(dtype), high.to(dtype)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ContinuousBox) and _equal(self.low, other.low) and _equal(self.high, other.high)

    def __repr__(self) -> str:
        return f"ContinuousBox(\n    low={_describe(self.low)},\n    high={_describe(self.high)})"


@dataclass
class CategoricalBox(Box):
    """The whole numbers from 0 to ``n - 1``; ``n = -1`` means: not known yet.

    Args:
        n: Number of values.

    >>> CategoricalBox(3)
    CategoricalBox(n=3)
    """

    n: int

    def to(self, dest: Dest) -> CategoricalBox:
        return type(self)(self.n)


@dataclass
class BinaryBox(Box):
    """Vectors of ``n`` bits.

    Args:
        n: Number of bits.

    >>> BinaryBox(4)
    BinaryBox(n=4)
    """

    n: int

    def to(self, dest: Dest) -> BinaryBox:
        return BinaryBox(self.n)


class BoxList(Box):
    """Several boxes side by side.

    Args:
        boxes: One for each part of the value.

    >>> BoxList.from_nvec([2, 3])
    BoxList(boxes=[CategoricalBox(n=2), CategoricalBox(n=3)])
    """

    def __init__(self, boxes: Iterable[Box]) -> None:
        self.boxes = list(boxes)

    @classmethod
    def from_nvec(cls, nvec: Iterable[int]) -> BoxList:
        """Return one :class:`CategoricalBox` for each number of categories."""
        return cls(CategoricalBox(int(n)) for n in nvec)

    def to(self, dest: Dest) -> BoxList:
        return BoxList(box.to(dest) for box in self.boxes)

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, item: int) -> Box:
        return self.boxes[item]

    def __iter__(self) -> Iterator[Box]:
        return iter(self.boxes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BoxList) and self.boxes == other.boxes

    def __repr__(self) -> str:
        return f"BoxList(boxes={self.boxes})"


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


def _compact_clone(tensor: Tensor) -> Tensor:
    """Copy a tensor without writing out the dimensions that ``expand`` only pretends to have."""
    real = tuple(
        slice(0, 1) if stride == 0 and size else slice(None)
        for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    return tensor[real].clone().expand(tensor.shape)


def _describe(tensor: Tensor) -> str:
    return (
        f"Tensor(shape={tensor.shape}, device={tensor.device}, dtype={tensor.dtype}, "
        f"contiguous={tensor.is_contiguous()})"
    )
