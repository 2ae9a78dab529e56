"""A tensordict of specs.

Shapes: ``*B`` the batch dimensions of a composite, which every spec in it begins with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from tensordict import TensorDict, TensorDictBase, is_tensor_collection

from torchrl._core.devices import check_devices
from torchrl._core.errors import DTypeError, MissingKeyError, describe, nearest
from torchrl.data.tensor_specs.base import TensorSpec
from torchrl.data.tensor_specs.combinations import all_combinations
from torchrl.data.tensor_specs.shaping import Op
from torchrl.data.tensor_specs.tools import DeviceLike, as_device
from torchrl.data.tensor_specs.tree import Entry, Tree

C = TypeVar("C", bound="Composite")


class Composite(Tree):
    """Specs by name, some of them composites themselves: the spec of a tensordict.

    Args:
        *args: Mappings from (nested) key to spec; a mapping in place of a spec becomes a composite,
            and ``None`` reserves a name that nothing is drawn for or asked of.
        shape: Batch size ``[*B]``; the shape of every spec begins with it.
        device: Where every value lives; each spec keeps its own if ``None``.
        data_cls: Tensorclass that drawn values are handed out as.
        step_mdp_static: Say that these entries stay at the root from step to step and are not
            repeated under ``"next"``.
        names: Name of each batch dimension, passed on to drawn tensordicts; lost when an operation
            changes the number of dimensions.
        **kwargs: More specs by name.

    Raises:
        ShapeError: if the shape of a spec does not begin with ``shape``.

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
        *args: Mapping[Any, Entry] | Composite,
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

    def empty(self) -> Composite:
        """Return a composite of the same shape and device that holds nothing."""
        return Composite(
            shape=self.shape,
            device=self.device,
            data_cls=self.data_cls,
            step_mdp_static=self.step_mdp_static,
            names=self.names,
        )

    def _child(self) -> Composite:
        return Composite(shape=self.shape, device=self.device)

    def rand_update(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write random values into ``tensordict [*L, *B]`` and return it."""
        return tensordict.update(self.rand(self._leading(tensordict)))

    def zeros_update(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write zeros into ``tensordict [*L, *B]`` and return it."""
        return tensordict.update(self.zero(self._leading(tensordict)))

    def _leading(self, tensordict: TensorDictBase) -> torch.Size:
        return tensordict.batch_size[: len(tensordict.batch_size) - len(self.shape)]

    def _build(self, method: str, shape: Sequence[int] | int) -> Any:
        size = self._size(shape)
        values = {
            name: getattr(spec, method)(shape)
            for name, spec in self._specs.items()
            if spec is not None
        }
        return self._wrap(values, size)

    def _wrap(self, values: dict[str, Any], size: torch.Size) -> Any:
        names = self._names
        if names is not None:
            names = [None] * (len(size) - len(names)) + names
        td = TensorDict(values, batch_size=size, device=self.device, names=names)
        return td if self.data_cls is None else self.data_cls.from_tensordict(td)

    def complaint(self, val: Any, key: Any = None, batch_ndim: int = 0) -> Exception | None:
        """Return the error of the first entry that is absent or not in its spec, if any is.

        Entries without a spec are welcome.
        """
        error = self._type_complaint(val, key)
        for name, spec in self._specs.items():
            if error is not None:
                break
            if spec is not None:
                error = self._entry_complaint(name, spec, val, key, batch_ndim)
        return error

    def _entry_complaint(
        self, name: str, spec: TensorSpec, val: Any, key: Any, batch_ndim: int
    ) -> Exception | None:
        found = val.get(name, None)
        if found is None:
            return self._missing(name, spec, val, key)
        path = _below(key, name)
        return spec.complaint(found, path, max(batch_ndim, len(self.shape)))

    def _missing(self, name: str, spec: TensorSpec, val: Any, key: Any) -> MissingKeyError:
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

    def _type_complaint(self, val: Any, key: Any) -> Exception | None:
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

    def type_check(self, value: Any, key: Any = None) -> None:
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
                error = spec._type_complaint(value.get(name), name)
                if error is not None:
                    raise error

    def project(self, val: Any, batch_ndim: int = 0) -> Any:
        """Return a copy of a tensordict in which every entry that has a spec is in it.

        Raises:
            MissingKeyError: if an entry is absent.
        """
        out = val.copy()
        for name, spec in self._specs.items():
            if spec is not None:
                found = val.get(name, None)
                if found is None:
                    raise self._missing(name, spec, val, None)
                out.set(name, spec.project(found, max(batch_ndim, len(self.shape))))
        return out

    def encode(self, val: Any, *, ignore_device: bool = False) -> Any:
        """Return a mapping of arrays, numbers and lists as a tensordict ``[*L, *B]``."""
        values, size = {}, self.shape
        for name, spec in self._specs.items():
            if spec is not None:
                if name not in val.keys():  # noqa: SIM118 - a tensordict has no other test
                    raise self._missing(name, spec, val, None)
                value = values[name] = spec.encode(val[name], ignore_device=ignore_device)
                size = torch.Size((*value.shape[: value.ndim - len(spec.shape)], *self.shape))
        device = None if ignore_device else self.device
        return TensorDict(values, batch_size=size, device=device, names=self._names)

    def _to_numpy(self, val: Any) -> dict[str, Any]:
        return {
            name: spec.to_numpy(val.get(name))
            for name, spec in self._specs.items()
            if spec is not None
        }

    def memoize_encode(self, mode: bool = True) -> None:
        """Let every spec remember what its :meth:`encode` returned."""
        for spec in self._present():
            spec.memoize_encode(mode)

    def _present(self) -> list[TensorSpec]:
        return [spec for spec in self._specs.values() if spec is not None]

    def cardinality(self) -> float:
        """Return how many tensordicts there are: the product over the entries."""
        return math.prod(spec.cardinality() for spec in self._present())

    def enumerate(self, use_mask: bool = False) -> Any:
        """Return every combination of values, a tensordict ``[N, *B]``."""
        values = {
            name: spec.enumerate(use_mask) for name, spec in self._specs.items() if spec is not None
        }
        ranges = [range(len(value)) for value in values.values()]
        index = all_combinations(ranges, torch.int64, self.device)  # [N, entries]
        chosen = {name: value[index[:, i]] for i, (name, value) in enumerate(values.items())}
        return self._wrap(chosen, torch.Size((index.shape[0], *self.shape)))

    def _reshape(self: C, op: Op) -> C:
        shape = op(self._blank()).shape
        specs = {k: None if s is None else s._reshape(op) for k, s in self._specs.items()}
        names = self._names if len(shape) == len(self.shape) else None
        return self._with(
            _shape=shape, _draw_shape=shape, _specs=specs, _names=names, _locked=False
        )

    def to(self: C, dest: Any) -> C:
        """Return the composite on another device; with a dtype, all its specs of that dtype."""
        if not isinstance(dest, torch.dtype):
            check_devices(self, dest=dest)
        device = self.device if isinstance(dest, torch.dtype) else as_device(dest)
        if device == self.device and not isinstance(dest, torch.dtype):
            return self
        specs = {k: None if s is None else s.to(dest) for k, s in self._specs.items()}
        return self._with(device=device, _specs=specs, _locked=False)

    def clear_device_(self: C) -> C:
        """Forget the device, in place and in every spec."""
        self.device = None
        for spec in self._present():
            spec.clear_device_()
        return self

    def clone(self: C) -> C:
        """Return an unlocked composite of its own that shares nothing with this one."""
        specs = {k: None if s is None else s.clone() for k, s in self._specs.items()}
        return self._with(_specs=specs, _locked=False)

    def _same(self, other: Any) -> bool:
        mine = (self._specs, self.data_cls, self.step_mdp_static)
        return mine == (other._specs, other.data_cls, other.step_mdp_static)

    def _fields(self) -> dict[str, object]:
        fields: dict[str, object] = dict(self._specs)
        fields.update(device=self.device, shape=self.shape)
        if self.data_cls is not None:
            fields["data_cls"] = self.data_cls.__name__
        if self._names is not None:
            fields["names"] = self._names
        return fields


def _below(key: Any, name: str) -> Any:
    """Return the path of an entry ``name`` of what stands at ``key``."""
    if key is None:
        return name
    return (key, name) if isinstance(key, str) else (*key, name)
