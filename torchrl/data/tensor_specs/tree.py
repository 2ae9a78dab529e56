"""Specs by name: get and set them, also nested ones; the batch size they share; locks.

Shapes: ``*B`` the batch dimensions of a composite, which every spec in it begins with.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from typing import Any, TypeGuard

import torch
from tensordict import NestedKey, unravel_key

from torchrl._core.errors import MissingKeyError, ShapeError, describe, nearest
from torchrl.data.tensor_specs.base import TensorSpec
from torchrl.data.tensor_specs.tools import as_size
from torchrl.data.tensor_specs.whole import Whole

Entry = TensorSpec | Mapping | None
_MISSING, _ABSENT = object(), object()


class Tree(Whole):
    """A mapping from names to specs, trees among them, all of one batch size.

    Hooks:
        empty: ``-> tree`` of the same kind that holds nothing.
        _child: ``-> tree`` that is to hold what is nested.
        _has_entry, _entry: look up a name of this level.
    """

    _specs: dict[str, TensorSpec | None]
    _locked: bool
    _names: list[Any] | None
    _shape: torch.Size

    @property
    def shape(self) -> torch.Size:
        """Batch size ``[*B]``; setting it checks every spec, and nested composites follow."""
        return self._shape

    @shape.setter
    def shape(self, shape: Sequence[int] | int) -> None:
        self._check_unlocked()
        size = as_size(shape)
        for key, spec in self._specs.items():
            if isinstance(spec, Tree):
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
            if isinstance(spec, Tree) and spec.shape[: len(size)] != size:
                spec._set_shape(size)

    @property
    def names(self) -> list[Any] | None:
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

    def set(self, name: NestedKey, spec: Entry) -> Any:
        """Set a (nested) entry, making composites on the way; return this composite."""
        self._check_unlocked()
        key: Any = unravel_key(name)
        if isinstance(key, tuple):
            first, rest = key[0], key[1:]
            child = self._specs.get(first)
            if not isinstance(child, Tree):
                child = self._specs[first] = self._child()
            child.set(rest if len(rest) > 1 else rest[0], spec)
            return self
        self._specs[key] = None if spec is None else self._fitting(key, spec)
        return self

    def _fitting(self, key: str, entry: TensorSpec | Mapping) -> TensorSpec:
        """Return an entry as a spec with this tree's device and batch size."""
        spec = entry if isinstance(entry, TensorSpec) else self._child().update(entry)
        if self.device is not None:
            spec = spec.to(self.device)
        if isinstance(spec, Tree) and spec.shape[: len(self.shape)] != self.shape:
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
            if not isinstance(spec, Tree) or not spec._has_entry(part):
                if default is not _MISSING:
                    return default
                names = list(self.keys(True))
                other = spec._elsewhere(part) if isinstance(spec, Tree) else ""
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

    def update(self, other: Mapping[NestedKey, Entry] | Tree) -> Any:
        """Set every entry of ``other``; composites on both sides are merged. Return this one."""
        for key, spec in other.items():
            mine = self.get(key, None)
            if isinstance(mine, Tree) and isinstance(spec, Tree | Mapping):
                mine.update(spec)
            else:
                self.set(key, spec)
        return self

    def is_empty(self, recurse: bool = False) -> bool:
        """Return whether there are no entries; with ``recurse``, none but empty composites."""
        if not recurse:
            return not self._specs
        return all(isinstance(spec, Tree) and spec.is_empty(True) for spec in self._specs.values())

    def separates(self, *keys: NestedKey, default: Any = None) -> tuple[Any, Any]:
        """Return two composites: the entries named, and the rest.

        Args:
            *keys: Entries, each of which may be absent.
            default: What stands for a side that holds nothing.
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
        return self._flat(include_nested, leaves_only).keys()

    def values(self, include_nested: bool = False, leaves_only: bool = False) -> ValuesView[Any]:
        """Return the specs, in the order of :meth:`keys`."""
        return self._flat(include_nested, leaves_only).values()

    def items(
        self, include_nested: bool = False, leaves_only: bool = False
    ) -> ItemsView[NestedKey, Any]:
        """Return names and specs, in the order of :meth:`keys`."""
        return self._flat(include_nested, leaves_only).items()

    def _flat(self, include_nested: bool, leaves_only: bool) -> dict[NestedKey, Any]:
        flat: dict[NestedKey, Any] = {}
        for name, spec in self._specs.items():
            nested = isinstance(spec, Tree)
            if not (leaves_only and nested):
                flat[name] = spec
            if isinstance(spec, Tree) and include_nested:
                for key, inner in spec.items(True, leaves_only):
                    flat[(name, key) if isinstance(key, str) else (name, *key)] = inner
        return flat

    def __getitem__(self, index: Any) -> Any:
        if _is_key(index):
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
        if not _is_key(key):
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

    def lock_(self, recurse: bool = True) -> Any:
        """Forbid changes from now on; also in nested composites, with ``recurse``."""
        return self._set_lock(True, recurse)

    def unlock_(self, recurse: bool = True) -> Any:
        """Allow changes again; also in nested composites, with ``recurse``."""
        return self._set_lock(False, recurse)

    def _set_lock(self, locked: bool, recurse: bool) -> Any:
        self._locked = locked
        if recurse:
            for spec in self._specs.values():
                if isinstance(spec, Tree):
                    spec._set_lock(locked, True)
        return self

    def _check_unlocked(self) -> None:
        if self._locked:
            raise RuntimeError(
                describe(self, "is locked", hint="Call unlock_() first, or change a clone().")
            )

    @abstractmethod
    def empty(self) -> Any: ...

    @abstractmethod
    def _child(self) -> Any: ...


def _is_key(key: object) -> TypeGuard[NestedKey]:
    """Tell a (nested) name from an index."""
    return isinstance(key, str) or (
        isinstance(key, tuple)
        and bool(key)
        and all(isinstance(k, str | tuple) and _is_key(k) for k in key)
    )


def _check_begins(who: TensorSpec, key: NestedKey, spec: TensorSpec, size: torch.Size) -> None:
    if spec.shape[: len(size)] != size:
        raise ShapeError(
            describe(
                who,
                "does not begin with the batch size",
                key=key,
                expected=[*size, "..."],
                found=list(spec.shape),
                hint="Expand the spec, or fix the shape of the composite.",
            )
        )
