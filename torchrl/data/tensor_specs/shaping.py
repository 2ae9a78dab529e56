"""What indexing, expanding, reshaping and stacking make of a spec.

Every operation is one function of a tensor that begins with the spec's dimensions; it is applied to
whatever tensors the spec keeps, bounds and masks alike, and leaves further dimensions alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from torchrl.data.tensor_specs.tools import as_size, drawable, expand_ellipsis, wrap_dim

Op = Callable[[Tensor], Tensor]
S = TypeVar("S", bound="Shaped")


class Shaped:
    """Something of a shape, on which tensor operations that change the shape work.

    Hooks:
        _reshape: ``op -> spec``; the default does for specs that keep no tensors.
    """

    shape: torch.Size
    _draw_shape: torch.Size  # the shape, with ones for sizes that vary
    _memo: dict[Any, Any] | None = None  # what encode() remembers; of no use to a derived spec

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

    def expand(self: S, *shape: Any) -> S:
        """Return the spec of values expanded to ``shape``."""
        ndim = len(self.shape)
        size = list(self._blank().expand(as_size(*shape)).shape)
        for dim in range(1, ndim + 1):
            if self.shape[-dim] == -1:
                size[-dim] = -1  # a size that varies stays as it is
        return self._reshape(lambda t: t.expand((*size, *t.shape[ndim:])))

    def unsqueeze(self: S, dim: int) -> S:
        """Return the spec of values with one more dimension."""
        at = wrap_dim(self, dim, len(self.shape) + 1)
        return self._reshape(lambda t: t.unsqueeze(at))

    def squeeze(self: S, dim: int | None = None) -> S:
        """Return the spec of values without dimensions of size one."""
        dims = range(len(self.shape)) if dim is None else [wrap_dim(self, dim, len(self.shape))]
        ones = tuple(d for d in dims if self.shape[d] == 1)
        return self._reshape(lambda t: t.squeeze(ones))

    def reshape(self: S, *shape: Any) -> S:
        """Return the spec of values in another shape."""
        return self._to_size(self._blank().reshape(as_size(*shape)).shape)

    def view(self: S, *shape: Any) -> S:
        """Return the spec of values in another shape."""
        return self.reshape(*shape)

    def flatten(self: S, start_dim: int = 0, end_dim: int = -1) -> S:
        """Return the spec of values with several dimensions made one."""
        return self._to_size(self._blank().flatten(start_dim, end_dim).shape)

    def unflatten(self: S, dim: int, sizes: Sequence[int]) -> S:
        """Return the spec of values with one dimension made several."""
        return self._to_size(self._blank().unflatten(dim, tuple(sizes)).shape)

    def unbind(self: S, dim: int = 0) -> tuple[S, ...]:
        """Return the specs of the slices of a value along a dimension."""
        at = wrap_dim(self, dim, len(self.shape))
        return tuple(self[(slice(None),) * at + (i,)] for i in range(self.shape[at]))

    def index_select(self: S, dim: int, index: Tensor) -> S:
        """Return the spec of the chosen slices of a value along a dimension."""
        at = wrap_dim(self, dim, len(self.shape))
        return self._reshape(lambda t: t.index_select(at, index.to(t.device)))

    def __getitem__(self: S, index: Any) -> S:
        full = expand_ellipsis(index, len(self.shape))
        return self._reshape(lambda t: t[full])

    def _to_size(self: S, size: torch.Size) -> S:
        ndim = len(self.shape)
        return self._reshape(lambda t: t.reshape((*size, *t.shape[ndim:])))

    def _blank(self) -> Tensor:
        return torch.empty((), dtype=torch.bool).expand(self._draw_shape)

    def _reshape(self: S, op: Op) -> S:
        return self._derive(op)

    def _derive(self: S, op: Op, **changes: Any) -> S:
        """Return a copy whose shape went through ``op``, with some attributes replaced.

        A size that varies is told from the others by what ``op`` makes of two sizes.
        """
        shape = op(self._blank()).shape
        if -1 in self.shape:
            twice = torch.Size(2 if s == -1 else s for s in self.shape)
            other = op(torch.empty((), dtype=torch.bool).expand(twice)).shape
            shape = torch.Size(a if a == b else -1 for a, b in zip(shape, other, strict=True))
        return self._with(shape=shape, _draw_shape=drawable(shape), **changes)

    def _with(self: S, **changes: Any) -> S:
        new = copy.copy(self)
        new._memo = None if self._memo is None else {}
        vars(new).update(changes)
        return new

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func not in TORCH_FUNCTIONS:
            return NotImplemented
        return TORCH_FUNCTIONS[func](*args, **(kwargs or {}))


TORCH_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    torch.squeeze: lambda input, *args, **kwargs: input.squeeze(*args, **kwargs),
    torch.unsqueeze: lambda input, *args, **kwargs: input.unsqueeze(*args, **kwargs),
    torch.reshape: lambda input, *args, **kwargs: input.reshape(*args, **kwargs),
    torch.flatten: lambda input, *args, **kwargs: input.flatten(*args, **kwargs),
    torch.unflatten: lambda input, *args, **kwargs: input.unflatten(*args, **kwargs),
    torch.unbind: lambda input, *args, **kwargs: input.unbind(*args, **kwargs),
    torch.index_select: lambda input, *args, **kwargs: input.index_select(*args, **kwargs),
}
