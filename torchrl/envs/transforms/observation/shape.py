"""Shapes of entries: flatten, squeeze, permute, concatenate, stack, expand."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from torch import Tensor

from torchrl._core.errors import ShapeError, SpecError, describe
from torchrl._core.keys import as_keys, leaf_keys
from torchrl._core.records.flat_record import FlatRecord, Record
from torchrl.data import Bounded, Composite, TensorSpec, Unbounded
from torchrl.envs.specs import OUTPUTS, leaf_names
from torchrl.envs.transforms.base import Keys, R, Transform
from torchrl.envs.transforms.derived_specs import rearranged
from torchrl.envs.transforms.observation.pixels import PIXELS


class Rearrangement(Transform):
    """Base of transforms that rearrange elements; the inverse pass restores them.

    Args:
        in_keys: Entries rearranged in the forward pass.
        out_keys: Where to write them; in place if ``None``.
        in_keys_inv: Entries restored in the inverse pass.
        out_keys_inv: Their names outside.

    Hooks: ``_apply_transform`` and ``_inv_apply_transform``.
    """

    def _transform_spec(self, spec: TensorSpec) -> TensorSpec:
        return rearranged(spec, self._apply_transform)

    _inv_transform_spec = _transform_spec

    def _dim(self, dim: int) -> int:
        return dim if dim < 0 else dim + self._env_dims


class FlattenObservation(Rearrangement):
    """Flattens neighbouring dimensions.

    Args:
        first_dim: First of them.
        last_dim: Last of them.
        in_keys: Entries to flatten; ``pixels`` if ``None``.
        out_keys: Where to write them; in place if ``None``.
        allow_positive_dim: Accept dimensions that are not negative; in an environment they count
            without its batch, otherwise from the first dimension of the tensor.

    Raises:
        ValueError: for a dimension that is not negative, without ``allow_positive_dim``.

    >>> from tensordict import TensorDict
    >>> FlattenObservation(-3, -1)(TensorDict(pixels=torch.zeros(3, 2, 2)))["pixels"].shape
    torch.Size([12])
    """

    supports_flat_records = True

    def __init__(
        self,
        first_dim: int,
        last_dim: int,
        in_keys: Keys = None,
        out_keys: Keys = None,
        allow_positive_dim: bool = False,
    ) -> None:
        super().__init__(PIXELS if in_keys is None else in_keys, out_keys)
        _check_negative(self, allow_positive_dim, first_dim, last_dim)
        self.first_dim, self.last_dim = first_dim, last_dim

    def _apply_transform(self, value: Tensor) -> Tensor:
        return value.flatten(self._dim(self.first_dim), self._dim(self.last_dim))

    def _inv_apply_transform(self, value: Tensor) -> Tensor:
        raise TypeError("FlattenObservation has no inverse; FlattenAction has one.")


class UnsqueezeTransform(Rearrangement):
    """Inserts a dimension of size 1; the inverse pass removes it.

    Args:
        dim: Position of the dimension, counted in the result if negative.
        allow_positive_dim: Accept a dimension that is not negative; in an environment it counts
            without its batch, otherwise from the first dimension of the tensor.
        in_keys: Entries to unsqueeze in the forward pass; ``observation`` if neither these nor
            ``in_keys_inv`` are given.
        out_keys: Where to write them; in place if ``None``.
        in_keys_inv: Entries to squeeze in the inverse pass.
        out_keys_inv: Their names outside.

    Raises:
        ValueError: for a dimension that is not negative, without ``allow_positive_dim``.

    >>> from tensordict import TensorDict
    >>> UnsqueezeTransform(-2, in_keys=["a"])(TensorDict(a=torch.zeros(3)))["a"].shape
    torch.Size([1, 3])
    """

    supports_flat_records = True

    def __init__(
        self,
        dim: int,
        *,
        allow_positive_dim: bool = False,
        in_keys: Keys = None,
        out_keys: Keys = None,
        in_keys_inv: Keys = None,
        out_keys_inv: Keys = None,
    ) -> None:
        super().__init__(_or_observation(in_keys, in_keys_inv), out_keys, in_keys_inv, out_keys_inv)
        _check_negative(self, allow_positive_dim, dim)
        self.dim = dim

    def _apply_transform(self, value: Tensor) -> Tensor:
        return value.unsqueeze(self._dim(self.dim))

    def _inv_apply_transform(self, value: Tensor) -> Tensor:
        return _squeezed(self, value, self._dim(self.dim))


class SqueezeTransform(Rearrangement):
    """Removes a dimension of size 1; the inverse pass inserts it.

    Args:
        dim: Which one.
        allow_positive_dim: Accept a dimension that is not negative; in an environment it counts
            without its batch, otherwise from the first dimension of the tensor.
        in_keys: Entries to squeeze in the forward pass; ``observation`` if neither these nor
            ``in_keys_inv`` are given.
        out_keys: Where to write them; in place if ``None``.
        in_keys_inv: Entries to unsqueeze in the inverse pass.
        out_keys_inv: Their names outside.

    Raises:
        ValueError: for a dimension that is not negative, without ``allow_positive_dim``.
        ShapeError: if the dimension has another size.

    >>> from tensordict import TensorDict
    >>> SqueezeTransform(-2, in_keys=["a"])(TensorDict(a=torch.zeros(1, 3)))["a"].shape
    torch.Size([3])
    """

    supports_flat_records = True

    def __init__(
        self,
        dim: int,
        in_keys: Keys = None,
        out_keys: Keys = None,
        in_keys_inv: Keys = None,
        out_keys_inv: Keys = None,
        *,
        allow_positive_dim: bool = False,
    ) -> None:
        super().__init__(_or_observation(in_keys, in_keys_inv), out_keys, in_keys_inv, out_keys_inv)
        _check_negative(self, allow_positive_dim, dim)
        self.dim = dim

    def _apply_transform(self, value: Tensor) -> Tensor:
        return _squeezed(self, value, self._dim(self.dim))

    def _inv_apply_transform(self, value: Tensor) -> Tensor:
        return value.unsqueeze(self._dim(self.dim))


class PermuteTransform(Rearrangement):
    """Permutes the last dimensions; the inverse pass restores their order.

    Args:
        dims: The new order of the last ``len(dims)`` dimensions, negative numbers.
        in_keys: Entries to permute in the forward pass; ``observation`` if neither these nor
            ``in_keys_inv`` are given.
        out_keys: Where to write them; in place if ``None``.
        in_keys_inv: Entries to permute back in the inverse pass.
        out_keys_inv: Their names outside.

    Raises:
        ValueError: if ``dims`` is not a permutation of ``-1, ..., -n``.

    >>> from tensordict import TensorDict
    >>> permute = PermuteTransform((-1, -3, -2), in_keys=["a"])
    >>> permute(TensorDict(a=torch.zeros(5, 6, 3)))["a"].shape
    torch.Size([3, 5, 6])
    """

    supports_flat_records = True

    def __init__(
        self,
        dims: Sequence[int],
        in_keys: Keys = None,
        out_keys: Keys = None,
        in_keys_inv: Keys = None,
        out_keys_inv: Keys = None,
    ) -> None:
        super().__init__(_or_observation(in_keys, in_keys_inv), out_keys, in_keys_inv, out_keys_inv)
        self.dims = list(dims)
        if sorted(self.dims) != list(range(-len(self.dims), 0)):
            raise ValueError(
                f"PermuteTransform: dims must be a permutation of {[*range(-len(dims), 0)]}, found "
                f"{self.dims}; only dimensions after the batch can move."
            )
        self._order = [d + len(self.dims) for d in self.dims]

    def _apply_transform(self, value: Tensor) -> Tensor:
        return _permuted(value, self._order)

    def _inv_apply_transform(self, value: Tensor) -> Tensor:
        return _permuted(value, [self._order.index(d) for d in range(len(self._order))])


class CatTensors(Transform):
    """Concatenates entries.

    Args:
        in_keys: Entries to concatenate; every observation if ``None``.
        out_key: Where to write the result.
        dim: Dimension to concatenate along, as in :func:`torch.cat`: one that is not negative
            counts the dimensions of the batch.
        del_keys: Drop the entries that were concatenated.
        unsqueeze_if_oor: Give entries that lack ``dim`` a last dimension of size 1 first.
        sort: Concatenate in the order of the names.

    >>> from tensordict import TensorDict
    >>> cat = CatTensors(["b", "a"], out_key="c")
    >>> cat(TensorDict(a=torch.zeros(1), b=torch.ones(2)))["c"]
    tensor([0., 1., 1.])
    """

    supports_flat_records = True

    def __init__(
        self,
        in_keys: Keys = None,
        out_key: NestedKey = "observation_vector",
        dim: int = -1,
        *,
        del_keys: bool = True,
        unsqueeze_if_oor: bool = False,
        sort: bool = True,
    ) -> None:
        super().__init__()
        self.dim, self.del_keys, self.unsqueeze_if_oor = dim, del_keys, unsqueeze_if_oor
        self.sort = sort
        self._all_keys = in_keys is None
        self._set_keys(as_keys(in_keys))
        self.out_keys = as_keys(out_key)

    def _set_keys(self, keys: list[NestedKey]) -> None:
        self.in_keys = sorted(keys, key=str) if self.sort else keys

    def _call(self, tensordict: R) -> R:
        values = []
        for key in self.in_keys:
            value = tensordict.get(key, None)
            if value is None:
                if self.missing_tolerance:
                    continue
                raise self._missing(key, tensordict)
            values.append(value)
        if values:
            for key in self._dropped():
                drop(tensordict, key)
            tensordict.set(self.out_keys[0], self._join(values))
        return tensordict

    def entries_touched(self) -> set[NestedKey]:
        """Return the entries and what they become."""
        return {*self.in_keys, *self.out_keys}

    def _dropped(self) -> list[NestedKey]:
        return [key for key in self.in_keys if key != self.out_keys[0]] if self.del_keys else []

    def _join(self, values: list[Tensor]) -> Tensor:
        if self.unsqueeze_if_oor:
            most = max(-self.dim, *(value.ndim for value in values))
            values = [value if value.ndim == most else value.unsqueeze(-1) for value in values]
        try:
            return torch.cat(values, self.dim)
        except RuntimeError as error:
            shapes = {key: tuple(v.shape) for key, v in zip(self.in_keys, values, strict=False)}
            raise ShapeError(
                describe(
                    self,
                    f"cannot concatenate along {self.dim}",
                    expected="shapes that differ in that dimension alone",
                    found=shapes,
                    hint="Append UnsqueezeTransform or FlattenObservation before.",
                )
            ) from error

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Concatenate the entries named, or all at the root."""
        if self._all_keys and not self.in_keys:
            self._set_keys([key for key in leaf_keys(tensordict) if isinstance(key, str)])
        return super().forward(tensordict)

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Replace the specs of the entries by that of the result."""
        observation = specs["observation"]
        if self._all_keys:
            batch = len(observation.shape)
            every = leaf_names(observation)
            self._set_keys([key for key in every if len(observation[key].shape) > batch])
        self._check_keys(specs)
        parts = [observation[key] for key in self.in_keys if key in leaf_names(observation)]
        if parts:
            for key in self._dropped():
                del observation[key]
            observation[self.out_keys[0]] = self._joined(parts)
        return specs

    def _joined(self, parts: list[Any]) -> TensorSpec:
        zero = self._join([part.zero() for part in parts])
        if all(isinstance(part, Bounded) for part in parts):
            low = self._join([part.low for part in parts])
            high = self._join([part.high for part in parts])
            return Bounded(low, high, shape=zero.shape, dtype=zero.dtype, device=zero.device)
        return Unbounded(zero.shape, dtype=zero.dtype, device=parts[0].device)


class Stack(Transform):
    """Stacks entries; the inverse pass unstacks them.

    Args:
        in_keys: Entries to stack, of one shape; or nested tensordicts, whose entries are stacked
            along a dimension of the batch.
        out_key: Where to write the result.
        in_key_inv: The stacked entry outside, unstacked in the inverse pass.
        out_keys_inv: The entries of the environment that it is unstacked to.
        dim: Position of the new dimension.
        allow_positive_dim: Accept a dimension that is not negative; in an environment it counts
            without its batch, otherwise from the first dimension of the tensor.
        del_keys: Drop the entries that were stacked.

    >>> from tensordict import TensorDict
    >>> stack = Stack(["left", "right"], out_key="both", dim=-2)
    >>> stack(TensorDict(left=torch.zeros(3), right=torch.ones(3)))["both"].shape
    torch.Size([2, 3])
    """

    supports_flat_records = True

    def __init__(
        self,
        in_keys: Sequence[NestedKey],
        out_key: NestedKey,
        in_key_inv: NestedKey | None = None,
        out_keys_inv: Keys = None,
        dim: int = -1,
        allow_positive_dim: bool = False,
        *,
        del_keys: bool = True,
    ) -> None:
        super().__init__()
        _check_negative(self, allow_positive_dim, dim)
        if (in_key_inv is None) != (out_keys_inv is None):
            raise ValueError("Stack: give both in_key_inv and out_keys_inv, or neither.")
        self.in_keys, self.out_keys = as_keys(in_keys), as_keys(out_key)
        self.in_key_inv, self.inner_keys = in_key_inv, as_keys(out_keys_inv)
        self.dim, self.del_keys = dim, del_keys
        self.__dict__["_leaves"] = {}

    _leaves: dict[NestedKey, tuple[list[NestedKey], int]]  # sources and axis of each entry of nested tensordicts

    @property
    def _axis(self) -> int:
        return self.dim if self.dim < 0 else self.dim + self._env_dims

    def _call(self, tensordict: R) -> R:
        if self._leaves and isinstance(tensordict, FlatRecord):
            for destination, (sources, axis) in self._leaves.items():
                if all(key in tensordict for key in sources):
                    found = [tensordict.pop(key) if self.del_keys else tensordict[key] for key in sources]
                    tensordict[destination] = torch.stack(found, axis)
            return tensordict
        values = [tensordict.get(key, None) for key in self.in_keys]
        absent = [key for key, value in zip(self.in_keys, values, strict=True) if value is None]
        if absent:
            if self.missing_tolerance:
                return tensordict
            raise self._missing(absent[0], tensordict)
        if self.del_keys:
            for key in self.in_keys:
                drop(tensordict, key)
        tensordict.set(self.out_keys[0], torch.stack(values, self._axis))
        return tensordict

    def _inv_call(self, tensordict: R) -> R:
        if self.in_key_inv is not None:
            value = tensordict.get(self.in_key_inv, None)
            if value is None:
                if self.missing_tolerance:
                    return tensordict
                raise self._missing(self.in_key_inv, tensordict)
            if self.del_keys:
                drop(tensordict, self.in_key_inv)
            parts = value.unbind(self._axis)
            for key, part in zip(self.inner_keys, parts, strict=True):
                tensordict.set(key, part)
        return tensordict

    def inverts_at_reset(self, actions: Collection[NestedKey]) -> bool:
        """Return whether entries that are no actions are unstacked in the inverse pass."""
        return self.in_key_inv is not None and any(key not in actions for key in self.inner_keys)

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Replace the specs of the entries by that of the stack."""
        self.__dict__["_leaves"] = {}
        for group in OUTPUTS:
            inner = specs[group]
            if all(isinstance(inner.get(key, None), Composite) for key in self.in_keys):
                self._stack_nested(inner)
        if not self._leaves:
            self._check_keys(specs)
        for group in ("observation", "reward"):
            if all(key in leaf_names(specs[group]) for key in self.in_keys):
                self._stack_specs(specs[group], self.in_keys, self.out_keys[0])
        for group in ("action", "state"):
            names = leaf_names(specs[group])
            if self.in_key_inv is not None and all(key in names for key in self.inner_keys):
                self._stack_specs(specs[group], self.inner_keys, self.in_key_inv)
        return specs

    def _stack_nested(self, group: Composite) -> None:
        """Stack the specs of whole nested tensordicts, entry by entry."""
        parts = [group[key] for key in self.in_keys]
        shape = [*parts[0].shape]
        axis = self._axis if self._axis >= 0 else len(shape) + 1 + self._axis
        shape.insert(axis, len(parts))
        names = [leaf_names(part) for part in parts]
        if any(set(each) != set(names[0]) for each in names):
            raise SpecError(describe(self, "stacks nested tensordicts of the same entries", found=names))
        stacked = Composite(shape=parts[0].shape)
        for leaf in names[0]:
            each = Composite({str(i): part[leaf] for i, part in enumerate(parts)})
            self._stack_specs(each, [*each.keys()], "out", axis)
            stacked[leaf] = each["out"]
            sources = [unravel_key((key, leaf)) for key in self.in_keys]
            self._leaves[unravel_key((self.out_keys[0], leaf))] = (sources, axis)
        if self.del_keys:
            for key in self.in_keys:
                del group[key]
        group[self.out_keys[0]] = Composite(dict(stacked.items(True, True)), shape=shape, device=group.device)

    def _stack_specs(
        self, group: Composite, keys: list[NestedKey], out_key: NestedKey, axis: int | None = None
    ) -> None:
        parts = [group[key] for key in keys]
        if self.del_keys:
            for key in keys:
                del group[key]
        axis = self._axis if axis is None else axis
        spec = parts[0].unsqueeze(axis)
        shape = list(spec.shape)
        shape[axis] = len(parts)
        if all(part == parts[0] for part in parts):
            spec = spec.expand(*shape)
        elif all(isinstance(part, Bounded) for part in parts):
            low = torch.stack([part.low for part in parts], axis)
            high = torch.stack([part.high for part in parts], axis)
            spec = Bounded(low, high, shape=shape, dtype=low.dtype, device=spec.device)
        else:
            spec = Unbounded(shape, dtype=spec.dtype, device=spec.device)
        group[out_key] = spec


class ExpandAs(Transform):
    """Expands an entry to the right until it has the shape of another.

    Args:
        in_key: Entry to expand ``[*S]``.
        ref_key: Entry ``[*S, *R]`` whose shape it takes.
        out_key: Where to write it; in place if ``None``.

    >>> from tensordict import TensorDict
    >>> record = TensorDict(done=torch.zeros(2, 1), x=torch.zeros(2, 3, 4), batch_size=[2])
    >>> ExpandAs("done", "x")(record)["done"].shape
    torch.Size([2, 3, 4])
    """

    supports_flat_records = True

    def __init__(self, in_key: NestedKey, ref_key: NestedKey, out_key: NestedKey | None = None) -> None:
        super().__init__(as_keys(in_key), None if out_key is None else as_keys(out_key))
        self.ref_key = as_keys(ref_key)[0]

    def _call(self, tensordict: R) -> R:
        value, like = tensordict.get(self.in_keys[0], None), tensordict.get(self.ref_key, None)
        for key, found in ((self.in_keys[0], value), (self.ref_key, like)):
            if found is None:
                if self.missing_tolerance:
                    return tensordict
                raise self._missing(key, tensordict)
        tensordict.set(self.out_keys[0], _expand_right(value, like.shape))
        return tensordict

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Expand the spec."""
        self._check_keys(specs)
        shapes = {k: s[k].shape for s in specs.values() for k in leaf_names(s)}
        if self.ref_key not in shapes:
            raise self._missing(self.ref_key, shapes)
        for group in ("observation", "reward", "done"):
            if self.in_keys[0] in leaf_names(specs[group]):
                spec = specs[group][self.in_keys[0]]
                wide = rearranged(spec, lambda x: _expand_right(x, shapes[self.ref_key]))
                specs[group][self.out_keys[0]] = wide
        return specs


def _expand_right(value: Tensor, shape: torch.Size) -> Tensor:
    while value.ndim > 1 and value.shape[-1] == 1 and value.shape != shape[: value.ndim]:
        value = value.squeeze(-1)
    return value.reshape(*value.shape, *(1,) * (len(shape) - value.ndim)).expand(shape)


def _permuted(value: Tensor, order: list[int]) -> Tensor:
    lead = value.ndim - len(order)
    return value.permute(*range(lead), *(lead + d for d in order))


def _squeezed(who: object, value: Tensor, dim: int) -> Tensor:
    if value.shape[dim] != 1:
        raise ShapeError(describe(who, f"cannot squeeze dimension {dim}", expected="size 1", found=tuple(value.shape)))
    return value.squeeze(dim)


def _or_observation(in_keys: Keys, in_keys_inv: Keys) -> Keys:
    return ["observation"] if in_keys is None and in_keys_inv is None else in_keys


def _check_negative(who: object, allowed: bool, *dims: int) -> None:
    for dim in dims:
        if dim >= 0 and not allowed:
            raise ValueError(
                f"{type(who).__name__}: expected a negative dimension, counted from the end so "
                f"that it holds for any batch size, found {dim}."
            )


def drop(record: Record, key: NestedKey) -> None:
    """Remove an entry, and sub-records that are empty then."""
    if not isinstance(record, TensorDictBase):
        record.pop(key, None)
        return
    record.pop(key, None)
    while isinstance(key, tuple) and len(key) > 1:
        key = key[:-1] if len(key) > 2 else key[0]
        inner = record.get(key, None)
        if inner is None or len(inner.keys()):
            return
        record.pop(key)
