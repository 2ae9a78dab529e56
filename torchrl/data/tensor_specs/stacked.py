"""Specs that differ along one dimension: lazy stacks, of leaves and of composites.

Shapes: ``*S`` the shape of each of ``k`` specs; the stack has ``k`` inserted at ``dim``. A size in
which the specs differ is ``-1``.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from tensordict import LazyStackedTensorDict, NestedKey, unravel_key
from torch import Tensor

from torchrl._core.errors import DTypeError, MissingKeyError, ShapeError, SpecError, StackError, describe
from torchrl.data.tensor_specs.base import TORCH_FUNCTIONS, CompoundSpec, Op, TensorSpec
from torchrl.data.tensor_specs.composite import Composite, Entry, is_key
from torchrl.data.tensor_specs.helpers import (
    Index,
    Value,
    all_combinations,
    drawable,
    expand_ellipsis,
    to_tensor,
    wrap_dim,
)
from torchrl.data.tensor_specs.spaces import Dest
from torchrl.data.tensor_specs.unbounded import Unbounded

if TYPE_CHECKING:
    from typing_extensions import Self  # of the typing module from Python 3.11 on

T = TypeVar("T", bound="_Lazy")


def stack_specs(input: Sequence[TensorSpec], dim: int = 0) -> TensorSpec:
    """Return the spec of stacked values: one spec if all are equal, else a lazy stack.

    >>> from torchrl.data import Bounded, Categorical
    >>> torch.stack([Categorical(3), Categorical(3)]).shape
    torch.Size([2])
    >>> type(torch.stack([Bounded(0, 1, (2,)), Bounded(0, 2, (2,))])).__name__
    'Stacked'
    """
    specs = list(input)
    first = specs[0]
    if all(spec == first for spec in specs[1:]):
        single = first.unsqueeze(dim)
        at = wrap_dim(first, dim, len(single.shape))
        return single.expand(*single.shape[:at], len(specs), *single.shape[at + 1 :])
    composites = [spec for spec in specs if isinstance(spec, Composite)]
    if len(composites) == len(specs):
        return StackedComposite(*composites, dim=dim)
    return Stacked(*specs, dim=dim)


TORCH_FUNCTIONS[torch.stack] = stack_specs


class _Lazy(CompoundSpec):
    """What both stacks share: the specs, the dimension, and what is done to each spec in turn."""

    specs: list[Any]
    dim: int

    @property
    def device(self) -> torch.device | None:
        """Device that all specs share, if they do."""
        return self._device

    def _stack_up(self, specs: Iterable[TensorSpec], dim: int) -> torch.Size:
        """Keep the specs; return the shape of the stack."""
        self.specs = list(specs)
        if not self.specs:
            raise SpecError(describe(self, "needs specs", found="none", hint="Pass one or more."))
        ndims = {len(spec.shape) for spec in self.specs}
        if len(ndims) > 1:
            raise ShapeError(
                describe(
                    self,
                    "cannot stack specs with different numbers of dimensions",
                    found=[list(spec.shape) for spec in self.specs],
                    hint="Unsqueeze some of them.",
                )
            )
        self.dim = wrap_dim(self, dim, ndims.pop() + 1)
        sizes = zip(*(spec.shape for spec in self.specs), strict=True)
        shape = [column[0] if len(set(column)) == 1 else -1 for column in sizes]
        shape.insert(self.dim, len(self.specs))
        return torch.Size(shape)

    def _common(self, name: str) -> Any:
        """Return an attribute if all specs agree on it, else ``None``."""
        values = [getattr(spec, name) for spec in self.specs]
        return values[0] if all(value == values[0] for value in values) else None

    def _rebuild(self: T, specs: Iterable[TensorSpec], dim: int) -> T:
        cls: Any = type(self)
        return cls(*specs, dim=dim)

    def __getitem__(self, index: Index) -> Any:
        """Return the spec that was stacked, of a number along the stack; else that of a part."""
        parts = expand_ellipsis(index, len(self.shape))
        number = parts[self.dim] if len(parts) > self.dim else None
        others = (*parts[: self.dim], *parts[self.dim + 1 :])
        if isinstance(number, int) and all(isinstance(part, slice) and part == slice(None) for part in others):
            if not -len(self.specs) <= number < len(self.specs):
                raise IndexError(
                    describe(self, "has no such member", expected=f"below {len(self.specs)}", found=number)
                )
            return self.specs[number]
        return super().__getitem__(index)

    def _reshape(self, op: Op) -> Any:
        """Apply ``op`` to each spec as the stack would feel it.

        ``op`` sees a spec's tensors with the stack's dimension put in, and so does a mark that
        counts the specs; what became of the mark tells which spec ended up where.
        """
        k, at = len(self.specs), self.dim
        ndim = len(self.shape)
        count = torch.arange(k).reshape(k, *(1,) * (ndim - at - 1))  # [k, 1, ...]
        mark = op(count.expand(self._draw_shape))
        place = _varying_dim(mark)
        if place == -1:
            raise ShapeError(
                describe(
                    self,
                    "cannot mix its stacked dimension with others",
                    expected=f"dimension {at} left whole",
                    found=list(mark.shape),
                    hint="Change the other dimensions only.",
                )
            )

        def within(j: int | None) -> Op:
            def apply(t: Tensor) -> Tensor:
                whole = t.unsqueeze(at)
                whole = op(whole.expand(*whole.shape[:at], k, *whole.shape[at + 1 :]))
                return whole if j is None or place is None else whole.select(place, j)

            return apply

        if place is None:
            chosen = int(mark.flatten()[0]) if mark.numel() else 0
            return self.specs[chosen]._reshape(within(None))
        order = mark.movedim(place, 0).reshape(mark.shape[place], -1)[:, 0].tolist()
        return self._rebuild((self.specs[i]._reshape(within(j)) for j, i in enumerate(order)), place)

    def to(self: T, dest: Dest) -> T:
        """Return the stack on another device, or of another dtype."""
        specs = [spec.to(dest) for spec in self.specs]
        if all(new is old for new, old in zip(specs, self.specs, strict=True)):
            return self
        return self._rebuild(specs, self.dim)

    def clone(self: T) -> T:
        """Return a stack of its own that shares nothing with this one."""
        return self._rebuild((spec.clone() for spec in self.specs), self.dim)

    def clear_device_(self: T) -> T:
        """Forget the device, in place and in every spec."""
        self._device = None
        for spec in self.specs:
            spec.clear_device_()
        return self

    def memoize_encode(self, mode: bool = True) -> None:
        """Let every spec remember what its :meth:`encode` returned."""
        for spec in self.specs:
            spec.memoize_encode(mode)

    def cardinality(self) -> float:
        """Return how many values there are: the product over the specs."""
        return math.prod(spec.cardinality() for spec in self.specs)

    def enumerate(self, use_mask: bool = False) -> Value:
        """Return every combination of values, stacked ``[N, *S]``."""
        values = [spec.enumerate(use_mask) for spec in self.specs]
        index = all_combinations([range(len(v)) for v in values], torch.int64, self._device)
        return self._joined([v[index[:, i]] for i, v in enumerate(values)], 1)

    def _places(self, ndim: int) -> list[int]:
        """Return where the stacked dimension of a value may stand."""
        return [at for at in dict.fromkeys((ndim - len(self.shape) + self.dim, self.dim)) if at >= 0]

    def _each_error(self, val: Value, shape: torch.Size, key: NestedKey | None, batch_ndim: int) -> Exception | None:
        error: Exception | None = None
        for at in self._places(len(shape)):
            if at < len(shape) and shape[at] == len(self.specs):
                parts = zip(self.specs, val.unbind(at), strict=True)
                errors = [spec.error_report(part, key, batch_ndim) for spec, part in parts]
                if not any(errors):
                    return None
                error = error or next(e for e in errors if e)
        return error or self._shape_error(shape, key)

    def _joined(self, values: list[Value], lead: int) -> Value:
        raise AssertionError

    def _same(self, other: Self) -> bool:
        return bool(self.dim == other.dim and self.specs == other.specs)

    def _fields(self) -> dict[str, object]:
        fields: dict[str, object] = {str(i): spec for i, spec in enumerate(self.specs)}
        fields.update(dim=self.dim, device=self._device, shape=self.shape)
        return fields

    def _build(self, method: str, shape: Sequence[int] | int | None) -> Value:
        lead = 1 if isinstance(shape, int) else len(shape or ())
        return self._joined([getattr(spec, method)(shape) for spec in self.specs], lead)


class Stacked(_Lazy):
    """Leaf specs of one dtype that differ along a dimension.

    Values are stacked tensors; where the sizes differ, nested tensors (``torch.jagged``), which
    torch builds only if the stacked dimension comes first.

    Args:
        *specs: Leaf specs with the same number of dimensions.
        dim: Index of the stacked dimension in the result.

    Raises:
        StackError: if the specs have different dtypes.
        ShapeError: if they have different numbers of dimensions.

    >>> from torchrl.data import Categorical
    >>> spec = Stacked(Categorical(2), Categorical(9), dim=0)
    >>> spec.shape, spec.is_in(torch.tensor([1, 8])), spec.is_in(torch.tensor([8, 1]))
    (torch.Size([2]), True, False)
    """

    def __init__(self, *specs: TensorSpec, dim: int) -> None:
        shape = self._stack_up(specs, dim)
        if len({spec.dtype for spec in self.specs}) > 1 or any(isinstance(s, Composite) for s in specs):
            raise StackError(
                describe(
                    self,
                    "stacks leaf specs of one dtype",
                    found=[str(s.dtype or type(s).__name__) for s in self.specs],
                    hint="Cast with to(), or stack composites with StackedComposite.",
                )
            )
        device, dtype = self._common("_device"), self.specs[0].dtype
        super().__init__(shape, None, device, dtype, self._common("domain") or "")
        self._feature_ndim = max(spec._feature_ndim for spec in self.specs)

    @property
    def space(self) -> list[Any]:
        """The set of values of each spec."""
        return [spec.space for spec in self.specs]

    @space.setter
    def space(self, value: Value) -> None:
        assert value is None

    def _joined(self, values: list[Value], lead: int) -> Value:
        at = lead + self.dim
        if all(value.shape == values[0].shape for value in values):
            return torch.stack(values, at)
        if at == 0:
            try:
                return torch.nested.as_nested_tensor(values, layout=torch.jagged)
            except RuntimeError:
                pass
        raise ShapeError(
            describe(
                self,
                "cannot put values of different shapes into one tensor",
                expected="a stacked dimension that comes first, and one size that varies",
                found=[list(value.shape) for value in values],
                hint="Stack composites instead: their tensordicts stack lazily.",
            )
        )

    def error_report(self, val: Value, key: NestedKey | None = None, batch_ndim: int = 0) -> Exception | None:
        """Return the error of the first slice that is not in its spec, if any is."""
        error = self._type_error(val, key)
        if error is not None:
            return error
        shape = val.batch_size if self.dtype is None else torch.Size(_plain_sizes(val))
        return self._each_error(val, shape, key, batch_ndim)

    def _type_error(self, val: Value, key: NestedKey | None) -> Exception | None:
        return self.specs[0]._type_error(val, key)

    def project(self, val: Value, batch_ndim: int = 0) -> Value:
        """Return ``val`` with each slice projected by its spec.

        Raises:
            ShapeError: if the shape does not fit.
        """
        for at in self._places(val.ndim):
            if val.shape[at] == len(self.specs):
                parts = [spec.project(part, batch_ndim) for spec, part in zip(self.specs, val.unbind(at), strict=True)]
                return self._joined(parts, at - self.dim)
        raise self._shape_error(torch.Size(_plain_sizes(val)), None)

    def encode(self, val: Value, *, ignore_device: bool = False) -> Value:
        """Return a sequence of what each spec encodes, or an array stacked alike, as a value."""
        lead = 0
        if isinstance(val, Tensor | np.ndarray):
            lead = max(val.ndim - len(self.shape), 0)
            val = to_tensor(val, None).unbind(lead + self.dim)
        parts = [spec.encode(part, ignore_device=ignore_device) for spec, part in zip(self.specs, val, strict=True)]
        return self._joined(parts, lead)

    def _to_numpy(self, val: Value) -> Value:
        at = val.ndim - len(self.shape) + self.dim
        parts = zip(self.specs, val.unbind(at), strict=True)
        arrays = [spec.to_numpy(part) for spec, part in parts]
        if all(np.shape(a) == np.shape(arrays[0]) for a in arrays):
            return np.stack(arrays, min(at, np.ndim(arrays[0])))
        return arrays


class StackedComposite(_Lazy, Composite):
    """Composites that differ along a dimension: tasks or agents with entries of their own.

    It holds the entries that all of them have; drawn values are lazily stacked tensordicts, and
    entries of one composite alone are found by indexing. Setting an entry sets it in each.

    Args:
        *specs: Composites with the same number of dimensions.
        dim: Index of the stacked dimension in the batch size.

    Raises:
        ShapeError: if they have different numbers of dimensions.

    >>> from torchrl.data import Unbounded
    >>> spec = torch.stack([Composite(a=Unbounded((2,))), Composite(a=Unbounded((3,)))])
    >>> spec["a"].shape, spec.rand()[1]["a"].shape
    (torch.Size([2, -1]), torch.Size([3]))
    """

    def __init__(self, *specs: Composite, dim: int) -> None:
        self._shape = self._stack_up(specs, dim)
        self._draw_shape = drawable(self._shape)
        self._locked, self._names = False, None
        self.space, self.dtype, self.domain = None, None, ""
        self._device = self._common("_device")
        self.data_cls = self._common("data_cls")
        self.step_mdp_static = bool(self._common("step_mdp_static"))

    @property
    def _specs(self) -> dict[str, Any]:  # type: ignore[override]  # not kept, but looked up
        """The stacked specs of the entries that all composites have."""
        first, *rest = self.specs
        common = [name for name in first if all(name in spec for spec in rest)]
        return {name: self._entry(name) for name in common}

    def _has_entry(self, name: str) -> bool:
        return all(name in spec._specs for spec in self.specs)

    def _entry(self, name: str) -> Any:
        entries = [spec._specs[name] for spec in self.specs]
        if any(entry is None for entry in entries):
            return None
        try:
            return stack_specs(entries, self.dim)
        except (DTypeError, ShapeError) as error:
            raise type(error)(
                describe(
                    self,
                    "cannot be one entry of the stack",
                    key=name,
                    expected="specs of one dtype and as many dimensions",
                    found=[f"{entry.dtype} {list(entry.shape)}" for entry in entries],
                    hint="Give those that differ names of their own.",
                )
            ) from None

    def _elsewhere(self, name: str) -> str:
        some = [i for i, spec in enumerate(self.specs) if name in spec._specs]
        return f"Those at {some} alone have {name!r}: index first." if some else ""

    def set(self, name: NestedKey, spec: Entry) -> StackedComposite:
        """Set a (nested) entry in every composite: the slices of a spec along the stack."""
        self._check_unlocked()
        parts: Iterable[TensorSpec | None] = [None] * len(self.specs)
        if spec is not None:
            whole = spec if isinstance(spec, TensorSpec) else Composite(spec, shape=self.shape)
            parts = whole.unbind(self.dim)
        for composite, part in zip(self.specs, parts, strict=True):
            composite.set(name, part)
        return self

    def update(self, other: Mapping[NestedKey, Entry] | Composite) -> StackedComposite:
        """Set every entry of ``other``, and merge composites. Return this one."""
        for key, spec in other.items():
            self.set(key, spec)
        return self

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Index) -> Any:
        return self.get(index) if is_key(index) else _Lazy.__getitem__(self, index)

    def __delitem__(self, key: NestedKey) -> None:
        """Remove an entry from every composite that has it.

        Raises:
            MissingKeyError: if none has it.
        """
        self._check_unlocked()
        having = [spec for spec in self.specs if key in spec]
        if not having:
            raise MissingKeyError(describe(self, "is absent", key=key, hint="No member of the stack has it."))
        for spec in having:
            del spec[unravel_key(key)]

    def type_check(self, value: Value, key: NestedKey | None = None) -> None:
        """Raise :class:`DTypeError` unless every entry of each slice has its spec's dtype."""
        if key is not None:
            self.get(key).type_check(value)
            return
        lead = value.ndim - len(self.shape)
        for spec, part in zip(self.specs, value.unbind(lead + self.dim), strict=True):
            spec.type_check(part)

    def empty(self) -> StackedComposite:
        """Return a stack of composites that hold nothing."""
        return StackedComposite(*(spec.empty() for spec in self.specs), dim=self.dim)

    def _set_shape(self, size: torch.Size) -> None:
        raise ShapeError(
            describe(
                self,
                "cannot take another shape",
                expected=list(self.shape),
                found=list(size),
                hint="Set the shape of the composites before they are stacked.",
            )
        )

    def _set_lock(self, locked: bool, recurse: bool) -> StackedComposite:
        self._locked = locked
        for spec in self.specs:
            spec._held = weakref.ref(self) if locked else None
            spec._set_lock(locked, recurse)
        return self

    def _nested(self) -> list[Composite]:
        return self.specs

    def _joined(self, values: list[Value], lead: int) -> Value:
        return LazyStackedTensorDict(*values, stack_dim=lead + self.dim)

    def error_report(self, val: Value, key: NestedKey | None = None, batch_ndim: int = 0) -> Exception | None:
        """Return the error of the first slice that is not in its composite, if any is."""
        error = Composite._type_error(self, val, key)
        if error is not None:
            return error
        batch_size = torch.Size(getattr(val, "batch_size", ()))
        return self._each_error(val, batch_size, key, batch_ndim)

    def _type_error(self, val: Value, key: NestedKey | None) -> Exception | None:
        return Composite._type_error(self, val, key)

    def project(self, val: Value, batch_ndim: int = 0) -> Value:
        """Return what each composite projects: a lazy stack along this dimension is changed in place."""
        lead = val.ndim - len(self.shape)
        parts = zip(self.specs, val.unbind(lead + self.dim), strict=True)
        projected = [spec.project(part, batch_ndim) for spec, part in parts]
        in_place = isinstance(val, LazyStackedTensorDict) and val.stack_dim == lead + self.dim
        return val if in_place else self._joined(projected, lead)

    def encode(self, val: Value, *, ignore_device: bool = False) -> Value:
        """Return a sequence of mappings, one for each composite, as lazily stacked tensordicts.

        A mapping of stacked arrays, as :meth:`to_numpy` returns it, is one, too.
        """
        if isinstance(val, Mapping):
            val = [_member(val, i, self.dim) for i in range(len(self.specs))]
        parts = zip(self.specs, val, strict=True)
        return self._joined([s.encode(p, ignore_device=ignore_device) for s, p in parts], 0)

    def _to_numpy(self, val: Value) -> dict[str, Value]:
        """Return stacked arrays; where shapes differ, or a composite lacks the entry, lists of them."""
        at = val.ndim - len(self.shape) + self.dim
        parts = zip(self.specs, val.unbind(at), strict=True)
        return _stacked_arrays([spec.to_numpy(part) for spec, part in parts], at)

    def _fields(self) -> dict[str, object]:
        return _Lazy._fields(self)

    def _same(self, other: Self) -> bool:
        return _Lazy._same(self, other)


def _stacked_arrays(parts: Sequence[dict[str, Value]], at: int) -> dict[str, Value]:
    """Stack the arrays of several nested dictionaries; ``None`` in a list is one that lacks the entry."""
    out: dict[str, Value] = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        values: list[Any] = [part.get(name) for part in parts]
        if all(isinstance(value, dict) for value in values):
            out[name] = _stacked_arrays(values, at)
        elif any(value is None or isinstance(value, dict) for value in values):
            out[name] = values
        elif all(np.shape(value) == np.shape(values[0]) for value in values):
            out[name] = np.stack(values, min(at, np.ndim(values[0])))
        else:
            out[name] = values
    return out


def _member(values: Mapping[str, Value], number: int, at: int) -> dict[str, Value]:
    """Undo :func:`_stacked_arrays` for one of the dictionaries."""
    out: dict[str, Value] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            out[name] = _member(value, number, at)
        elif isinstance(value, list):
            out[name] = value[number]
        else:
            out[name] = np.take(value, number, min(at, np.ndim(value) - 1))
    return {name: value for name, value in out.items() if value is not None}


def _varying_dim(mark: Tensor) -> int | None:
    """Return the one dimension along which ``mark`` varies; ``None`` if none, -1 if several."""
    found = None
    for dim in range(mark.ndim):
        if mark.shape[dim] and not bool((mark == mark.narrow(dim, 0, 1)).all()):
            if found is not None:
                return -1
            found = dim
    return found


def _plain_sizes(val: Tensor) -> list[int]:
    """Return the sizes of a tensor, -1 where those of a nested tensor vary."""
    return [s if isinstance(s, int) else -1 for s in val.shape]


def contains_lazy_spec(spec: TensorSpec) -> bool:
    """Return whether a spec is a lazy stack or holds one.

    Args:
        spec: Any spec; composites are searched.

    >>> contains_lazy_spec(Composite(a=Unbounded()))
    False
    """
    if isinstance(spec, Stacked | StackedComposite):
        return True
    return isinstance(spec, Composite) and any(
        contains_lazy_spec(inner) for inner in spec.values() if inner is not None
    )


def check_no_exclusive_keys(spec: TensorSpec, recurse: bool = True) -> bool:
    """Return whether stacked composites all have the same entries.

    Args:
        spec: A spec.
        recurse: Look into nested composites too.

    >>> import torch
    >>> check_no_exclusive_keys(torch.stack([Composite(a=Unbounded()), Composite()]))
    False
    """
    if isinstance(spec, StackedComposite):
        names = set(spec.specs[0])
        if any(set(other) != names for other in spec.specs):
            return False
        inside = spec.specs
    else:
        inside = list(spec.values()) if isinstance(spec, Composite) else []
    if not recurse:
        return True
    # Two nested composites may each have what the other lacks: look at them stacked as well.
    stacked = list(spec.values()) if isinstance(spec, StackedComposite) else []
    return all(check_no_exclusive_keys(s) for s in (*inside, *stacked) if s is not None)


def consolidate_spec(
    spec: Composite, recurse_through_entries: bool = True, recurse_through_stack: bool = True
) -> Composite:
    """Return a spec in which stacked composites all have the same entries.

    What a composite lacks is added as an :class:`Unbounded` of the dtype and the batch size, whose
    other sizes are zero; an entry without other dimensions keeps its shape.

    Args:
        spec: A composite, perhaps lazily stacked.
        recurse_through_entries: Look into nested composites.
        recurse_through_stack: Look into the composites that are stacked.

    >>> import torch
    >>> whole = consolidate_spec(torch.stack([Composite(a=Unbounded((3,))), Composite()]))
    >>> whole[1]["a"].shape
    torch.Size([0])
    """
    options = (recurse_through_entries, recurse_through_stack)
    if isinstance(spec, StackedComposite):
        specs = [part.clone() for part in spec.specs]
        if recurse_through_stack:
            specs = [consolidate_spec(part, *options) for part in specs]
        _fill_up(specs)
        return StackedComposite(*specs, dim=spec.dim)
    spec = spec.clone()
    if recurse_through_entries:
        for name, inner in spec.items():
            if isinstance(inner, Composite):
                spec.set(name, consolidate_spec(inner, *options))
    return spec


def _fill_up(composites: list[Composite]) -> None:
    """Give each composite, in place, a placeholder for what it lacks."""
    entries: dict[NestedKey, tuple[TensorSpec, int]] = {}
    for composite in composites:
        for key, leaf in composite.items(True, True):
            if leaf is not None:
                entries.setdefault(key, (leaf, len(composite.shape)))
    for composite in composites:
        for key, (leaf, batch_ndim) in entries.items():
            if composite.get(key, None) is None:
                features = tuple(0 for _ in leaf.shape[batch_ndim:])
                shape = (*composite.shape, *features)
                composite.set(key, Unbounded(shape, leaf.device, leaf.dtype))
