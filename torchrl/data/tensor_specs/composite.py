"""`Composite`: specs by key, as a tensordict has its entries.

Shapes: ``*B`` the batch dimensions of a composite, with which the shape of every spec in it starts.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, is_tensor_collection, unravel_key

from torchrl._core.devices import check_devices
from torchrl._core.errors import DTypeError, MissingKeyError, ShapeError, describe, nearest
from torchrl.data.tensor_specs.base import CompoundSpec, Op, TensorSpec
from torchrl.data.tensor_specs.helpers import DeviceLike, Index, Value, all_combinations, as_device, as_size
from torchrl.data.tensor_specs.spaces import Dest

if TYPE_CHECKING:
    from typing_extensions import Self  # of the typing module from Python 3.11 on

Entry = TensorSpec | Mapping | None
_MISSING, _ABSENT = object(), object()
_NO_KEYS = ("shape", "device", "dtype", "space")  # attributes that entries would be taken for


C = TypeVar("C", bound="Composite")


class Composite(CompoundSpec):
    """The spec of a tensordict: specs by name, which may be composites themselves.

    Args:
        *args: Mappings from (nested) key to spec; a mapping in place of a spec becomes a composite,
            and ``None`` reserves a name without values.
        shape: Batch size ``[*B]``; the shape of every spec starts with it.
        device: Device of every value; each spec keeps its own if ``None``.
        data_cls: Tensorclass of random values.
        step_mdp_static: Whether these entries stay at the root from step to step and are not
            repeated under ``"next"``.
        names: Name of each batch dimension, passed on to drawn tensordicts; lost when an operation
            changes the number of dimensions.
        **kwargs: More specs by name.

    Raises:
        ShapeError: if the shape of a spec does not start with ``shape``.

    >>> from torchrl.data import Bounded, OneHot
    >>> spec = Composite(action=OneHot(4), agents={"torque": Bounded(-1, 1, (2,))})
    >>> spec["agents", "torque"].shape, list(spec.keys(True, True))
    (torch.Size([2]), ['action', ('agents', 'torque')])
    >>> td = spec.rand((3,))
    >>> td.batch_size, spec.is_in(td)
    (torch.Size([3]), True)
    """

    def __init__(
        self,
        *args: Mapping[str, Entry] | Mapping[NestedKey, Entry] | Composite,
        shape: Sequence[int] | int | None = None,
        device: DeviceLike = None,
        data_cls: type | None = None,
        step_mdp_static: bool = False,
        names: Sequence[str | None] | None = None,
        **kwargs: Entry,
    ) -> None:
        check_devices(self, device=device)
        self._specs: dict[str, TensorSpec | None] = {}
        self._locked = False
        self._names: list[Any] | None = None
        super().__init__(() if shape is None else shape, None, device, None, "")
        self.data_cls: Any = data_cls
        self.step_mdp_static = step_mdp_static
        self.names = names
        for entries in (*args, kwargs):
            for key, spec in entries.items():
                self.set(key, spec)

    @property
    def device(self) -> torch.device | None:
        """Device of every value; ``None`` if each spec keeps its own."""
        return self._device

    def empty(self) -> Composite:
        """Return a composite of the same shape and device that holds nothing."""
        return Composite(
            shape=self.shape,
            device=self._device,
            data_cls=self.data_cls,
            step_mdp_static=self.step_mdp_static,
            names=self.names,
        )

    def _child(self) -> Composite:
        return Composite(shape=self.shape, device=self._device)

    @property
    def shape(self) -> torch.Size:
        """Batch size ``[*B]``; setting it checks every spec, and nested composites follow."""
        return self._shape

    @shape.setter
    def shape(self, shape: Sequence[int] | int) -> None:
        self._check_unlocked()
        size = as_size(shape)
        for key, spec in self._specs.items():
            if isinstance(spec, Composite):
                spec._check_leaves(size, (key,))
            elif spec is not None:
                _check_begins(self, key, spec, size)
        self._set_shape(size)

    def _check_leaves(self, size: torch.Size, path: tuple[str, ...]) -> None:
        for key, spec in self.items(True, True):
            if spec is not None:
                name = (*path, key) if isinstance(key, str) else (*path, *key)
                _check_begins(self, name, spec, size)

    def _set_shape(self, size: torch.Size) -> None:
        self._shape = self._draw_shape = size
        if self._names is not None and len(self._names) != len(size):
            self._names = None
        for spec in self._specs.values():
            if isinstance(spec, Composite) and spec.shape[: len(size)] != size:
                spec._set_shape(size)

    @property
    def names(self) -> list[str | None] | None:
        """Name of each batch dimension."""
        return self._names

    @names.setter
    def names(self, names: Sequence[str | None] | None) -> None:
        if names is not None and len(names) != len(self.shape):
            raise ShapeError(
                describe(
                    self,
                    "needs a name for each batch dimension",
                    expected=f"{len(self.shape)} names",
                    found=list(names),
                )
            )
        self._names = None if names is None else list(names)

    def set(self: C, name: NestedKey, spec: Entry) -> C:
        """Set a (nested) entry, making composites on the way; return this composite."""
        self._check_unlocked()
        key: Any = unravel_key(name)
        if isinstance(key, tuple):
            first, rest = key[0], key[1:]
            child = self._specs.get(first)
            if not isinstance(child, Composite):
                child = self._specs[first] = self._child()
            child.set(rest if len(rest) > 1 else rest[0], spec)
            return self
        if key in _NO_KEYS:
            raise AttributeError(
                describe(self, "has an attribute of this name", key=key, hint="Name the entry otherwise.")
            )
        self._specs[key] = None if spec is None else self._fitting(key, spec)
        return self

    def _fitting(self, key: str, entry: TensorSpec | Mapping) -> TensorSpec:
        """Return an entry as a spec with this tree's device and batch size."""
        spec = entry if isinstance(entry, TensorSpec) else self._child().update(entry)
        if self._device is not None:
            spec = spec.to(self._device)
        if isinstance(spec, Composite) and spec.shape[: len(self.shape)] != self.shape:
            spec = spec.clone()
            spec.shape = self.shape
        _check_begins(self, key, spec, self.shape)
        return spec

    def get(self, item: NestedKey, default: Any = _MISSING) -> Any:
        """Return a (nested) entry, or ``default`` if it is absent.

        Raises:
            MissingKeyError: if it is absent and there is no default.
        """
        key = unravel_key(item)
        spec: Any = self
        for part in (key,) if isinstance(key, str) else key:
            if not isinstance(spec, Composite) or not spec._has_entry(part):
                if default is not _MISSING:
                    return default
                names = list(self.keys(True))
                other = spec._elsewhere(part) if isinstance(spec, Composite) else ""
                hint = f"{nearest(item, names)} It holds {names}. {other}".strip()
                raise MissingKeyError(describe(self, "is absent", key=item, hint=hint))
            spec = spec._entry(part)
        return spec

    def _has_entry(self, name: str) -> bool:
        return name in self._specs

    def _entry(self, name: str) -> TensorSpec | None:
        return self._specs[name]

    def _elsewhere(self, name: str) -> str:
        """Return where a name that is absent here may be found."""
        return ""

    def pop(self, key: NestedKey, default: Any = _MISSING) -> Any:
        """Remove and return a (nested) entry, or return ``default`` if it is absent."""
        self._check_unlocked()
        spec = self.get(key, default)
        if key in self:
            del self[key]
        return spec

    def update(self: C, other: Mapping[NestedKey, Entry] | Composite) -> C:
        """Set every entry of ``other``; composites on both sides are merged. Return this one."""
        for key, spec in other.items():
            mine = self.get(key, None)
            if isinstance(mine, Composite) and isinstance(spec, Composite | Mapping):
                mine.update(spec)
            else:
                self.set(key, spec)
        return self

    def is_empty(self, recurse: bool = False) -> bool:
        """Return whether there are no entries; with ``recurse``, none but empty composites."""
        if not recurse:
            return not self._specs
        return all(isinstance(spec, Composite) and spec.is_empty(True) for spec in self._specs.values())

    def separates(self, *keys: NestedKey, default: Any = None) -> tuple[Any, Any]:
        """Return two composites: the entries named, and the rest.

        Args:
            *keys: Entries, each of which may be absent.
            default: Returned for an empty side.
        """
        rest, named = self.clone(), self.empty()
        for key in keys:
            if key in rest:
                named.set(key, rest.pop(key))
        first, second = (default if side.is_empty(True) else side for side in (named, rest))
        return first, second

    def keys(self, include_nested: bool = False, leaves_only: bool = False) -> KeysView[NestedKey]:
        """Return the names of the entries.

        Args:
            include_nested: Name what nested composites hold too, as tuples.
            leaves_only: Leave out composites.
        """
        return _Keys(self._flat(include_nested, leaves_only))

    def values(self, include_nested: bool = False, leaves_only: bool = False) -> ValuesView[Any]:
        """Return the specs, in the order of :meth:`keys`."""
        return self._flat(include_nested, leaves_only).values()

    def items(self, include_nested: bool = False, leaves_only: bool = False) -> ItemsView[NestedKey, Any]:
        """Return names and specs, in the order of :meth:`keys`."""
        return self._flat(include_nested, leaves_only).items()

    def _flat(self, include_nested: bool, leaves_only: bool) -> dict[NestedKey, Any]:
        flat: dict[NestedKey, Any] = {}
        for name, spec in self._specs.items():
            nested = isinstance(spec, Composite)
            if not (leaves_only and nested):
                flat[name] = spec
            if isinstance(spec, Composite) and include_nested:
                for key, inner in spec.items(True, leaves_only):
                    flat[(name, key) if isinstance(key, str) else (name, *key)] = inner
        return flat

    def __getitem__(self, index: Index) -> Any:
        if is_key(index):
            return self.get(index)
        return super().__getitem__(index)

    def __setitem__(self, key: NestedKey, spec: Entry) -> None:
        self.set(key, spec)

    def __delitem__(self, key: NestedKey) -> None:
        self._check_unlocked()
        self.get(key)
        path = unravel_key(key)
        if isinstance(path, tuple):
            del self.get(path[:-1])[path[-1]]
        else:
            del self._specs[path]

    def __contains__(self, key: object) -> bool:
        if not is_key(key):
            return self.is_in(key)
        return self.get(key, _ABSENT) is not _ABSENT

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)

    @property
    def is_locked(self) -> bool:
        """Whether entries may be neither set nor removed."""
        return self._locked

    locked = is_locked

    def lock_(self, recurse: bool = True) -> Self:
        """Forbid changes from now on; also in nested composites, with ``recurse``."""
        return self._set_lock(True, recurse)

    def unlock_(self, recurse: bool = True) -> Self:
        """Allow changes again; also in nested composites, with ``recurse``.

        Raises:
            RuntimeError: if a composite that was locked with this one in it is still locked.
        """
        whole = None if self._held is None else self._held()
        if whole is not None and whole._locked:
            raise RuntimeError(describe(self, "is part of a composite that is locked", hint="Unlock that one."))
        return self._set_lock(False, recurse)

    _held: weakref.ref[Composite] | None = None  # what was locked with this in it

    def _set_lock(self, locked: bool, recurse: bool) -> Self:
        self._locked = locked
        if recurse:
            for spec in self._nested():
                spec._held = weakref.ref(self) if locked else None
                spec._set_lock(locked, True)
        return self

    def _nested(self) -> list[Composite]:
        return [spec for spec in self._specs.values() if isinstance(spec, Composite)]

    def __copy__(self) -> Self:
        new = type(self).__new__(type(self))
        vars(new).update(self.__getstate__())
        return new

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_held"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        for spec in self._nested() if self._locked else ():
            spec._held = weakref.ref(self) if spec._locked else None

    def _check_unlocked(self) -> None:
        if self._locked:
            raise RuntimeError(describe(self, "is locked", hint="Call unlock_() first, or change a clone()."))

    def rand_update(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write random values into ``tensordict [*L, *B]`` and return it."""
        return tensordict.update(self.rand(self._leading(tensordict)))

    def zeros_update(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write zeros into ``tensordict [*L, *B]`` and return it."""
        return tensordict.update(self.zero(self._leading(tensordict)))

    def _leading(self, tensordict: TensorDictBase) -> torch.Size:
        return tensordict.batch_size[: len(tensordict.batch_size) - len(self.shape)]

    def _build(self, method: str, shape: Sequence[int] | int | None) -> Value:
        size = self._size(shape)
        values = {name: getattr(spec, method)(shape) for name, spec in self._specs.items() if spec is not None}
        return self._wrap(values, size)

    def _wrap(self, values: dict[str, Value], size: torch.Size) -> Value:
        names = self._names
        if names is not None:
            names = [None] * (len(size) - len(names)) + names
        td = TensorDict(values, batch_size=size, device=self._device, names=names)
        return td if self.data_cls is None else self.data_cls.from_tensordict(td)

    def error_report(self, val: Value, key: NestedKey | None = None, batch_ndim: int = 0) -> Exception | None:
        """Return the error of the first entry that is absent or not in its spec, if any is.

        Entries without a spec are welcome.
        """
        error = self._type_error(val, key)
        for name, spec in self._specs.items():
            if error is not None:
                break
            if spec is not None:
                error = self._entry_error(name, spec, val, key, batch_ndim)
        return error

    def _entry_error(
        self, name: str, spec: TensorSpec, val: Value, key: NestedKey | None, batch_ndim: int
    ) -> Exception | None:
        found = val.get(name, None)
        if found is None:
            return self._missing(name, spec, val, key)
        path = _below(key, name)
        return spec.error_report(found, path, max(batch_ndim, len(self.shape)))

    def _missing(self, name: str, spec: TensorSpec, val: Value, key: NestedKey | None) -> MissingKeyError:
        present = sorted(map(str, val.keys()))
        return MissingKeyError(
            describe(
                self,
                "is absent",
                key=_below(key, name),
                expected=f"{type(spec).__name__} {list(spec.shape)}",
                found=present,
                hint=nearest(name, present) or "Write that entry, or drop its spec.",
            )
        )

    def _type_error(self, val: Value, key: NestedKey | None) -> Exception | None:
        if isinstance(val, Mapping) or is_tensor_collection(val):
            return None
        return DTypeError(
            describe(
                self,
                "is no tensordict",
                key=key,
                expected=f"a tensordict with entries {list(self._specs)}",
                found=type(val).__name__,
                hint="Pass the tensordict itself.",
            )
        )

    def type_check(self, value: Value, key: NestedKey | None = None) -> None:
        """Raise :class:`DTypeError` unless every entry has its spec's dtype.

        Args:
            value: A tensordict; or one entry of it, if ``key`` names it.
            key: Name of the entry.
        """
        if key is not None:
            self.get(key).type_check(value, None)
            return
        for name, spec in self.items(True, True):
            if spec is not None and value.get(name, None) is not None:
                error = spec._type_error(value.get(name), name)
                if error is not None:
                    raise error

    def project(self, val: Value, batch_ndim: int = 0) -> Value:
        """Bring every entry of a tensordict that has a spec into it, in place; return the tensordict.

        Raises:
            MissingKeyError: if an entry is absent.
        """
        for name, spec in self._specs.items():
            if spec is not None:
                found = val.get(name, None)
                if found is None:
                    raise self._missing(name, spec, val, None)
                projected = spec.project(found, max(batch_ndim, len(self.shape)))
                if projected is not found:
                    val.set(name, projected)
        return val

    def encode(self, val: Value, *, ignore_device: bool = False) -> Value:
        """Return a mapping of arrays, numbers and lists as a tensordict ``[*L, *B]``."""
        values, size = {}, self.shape
        for name, spec in self._specs.items():
            if spec is not None:
                if name not in val.keys():  # noqa: SIM118 - a tensordict has no other test
                    raise self._missing(name, spec, val, None)
                value = values[name] = spec.encode(val[name], ignore_device=ignore_device)
                size = torch.Size((*value.shape[: value.ndim - len(spec.shape)], *self.shape))
        device = None if ignore_device else self._device
        return TensorDict(values, batch_size=size, device=device, names=self._names)

    def _to_numpy(self, val: Value) -> dict[str, Value]:
        return {name: spec.to_numpy(val.get(name)) for name, spec in self._specs.items() if spec is not None}

    def memoize_encode(self, mode: bool = True) -> None:
        """Let every spec remember what its :meth:`encode` returned."""
        for spec in self._present():
            spec.memoize_encode(mode)

    def _present(self) -> list[TensorSpec]:
        return [spec for spec in self._specs.values() if spec is not None]

    def cardinality(self) -> float:
        """Return how many tensordicts there are: the product over the entries."""
        return math.prod(spec.cardinality() for spec in self._present())

    def enumerate(self, use_mask: bool = False) -> Value:
        """Return every combination of values, a tensordict ``[N, *B]``."""
        values = {name: spec.enumerate(use_mask) for name, spec in self._specs.items() if spec is not None}
        ranges = [range(len(value)) for value in values.values()]
        index = all_combinations(ranges, torch.int64, self._device)  # [N, entries]
        chosen = {name: value[index[:, i]] for i, (name, value) in enumerate(values.items())}
        return self._wrap(chosen, torch.Size((index.shape[0], *self.shape)))

    def _reshape(self: C, op: Op) -> C:
        shape = op(self._blank()).shape
        specs = {k: None if s is None else s._reshape(op) for k, s in self._specs.items()}
        names = self._names if len(shape) == len(self.shape) else None
        return self._with(_shape=shape, _draw_shape=shape, _specs=specs, _names=names, _locked=False, _held=None)

    def to(self: C, dest: Dest) -> C:
        """Return the composite on another device; with a dtype, all its specs of that dtype."""
        if not isinstance(dest, torch.dtype):
            check_devices(self, dest=dest)
        device = self._device if isinstance(dest, torch.dtype) else as_device(dest)
        if device == self._device and not isinstance(dest, torch.dtype):
            return self
        specs = {k: None if s is None else s.to(dest) for k, s in self._specs.items()}
        return self._with(_device=device, _specs=specs, _locked=False, _held=None)

    def clear_device_(self: C) -> C:
        """Forget the device, in place and in every spec."""
        self._device = None
        for spec in self._present():
            spec.clear_device_()
        return self

    def clone(self: C) -> C:
        """Return an unlocked composite of its own that shares nothing with this one."""
        specs = {k: None if s is None else s.clone() for k, s in self._specs.items()}
        return self._with(_specs=specs, _locked=False, _held=None)

    def _same(self, other: Self) -> bool:
        mine = (self._specs, self.data_cls, self.step_mdp_static)
        return mine == (other._specs, other.data_cls, other.step_mdp_static)

    def _fields(self) -> dict[str, object]:
        fields: dict[str, object] = dict(self._specs)
        fields.update(device=self._device, shape=self.shape)
        if self.data_cls is not None:
            fields["data_cls"] = self.data_cls.__name__
        if self._names is not None:
            fields["names"] = self._names
        return fields


class _Keys(KeysView[NestedKey]):
    """Names of entries; a name is found in any spelling, ``("a",)`` or ``("a", ("b",))``."""

    def __init__(self, entries: dict[NestedKey, Any]) -> None:
        super().__init__(entries)
        self._entries = entries

    def __contains__(self, key: object) -> bool:
        return is_key(key) and unravel_key(key) in self._entries

    def __repr__(self) -> str:
        return f"keys({list(self)})"


def _below(key: NestedKey | None, name: str) -> NestedKey:
    """Return the path of the entry ``name`` of the composite at ``key``."""
    if key is None:
        return name
    return (key, name) if isinstance(key, str) else (*key, name)


def is_key(key: object) -> TypeGuard[NestedKey]:
    """Tell a (nested) name from an index."""
    return isinstance(key, str) or (
        isinstance(key, tuple) and bool(key) and all(isinstance(k, str | tuple) and is_key(k) for k in key)
    )


def _check_begins(who: TensorSpec, key: NestedKey, spec: TensorSpec, size: torch.Size) -> None:
    if spec.shape[: len(size)] != size:
        raise ShapeError(
            describe(
                who,
                "does not start with the batch size",
                key=key,
                expected=[*size, "..."],
                found=list(spec.shape),
                hint="Expand the spec, or fix the shape of the composite.",
            )
        )
