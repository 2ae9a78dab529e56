"""`Schema`: keys, shapes and dtypes of the entries of a row, against which all rows are checked.

Legend: ``N`` rows, ``*I`` the shape of an index, ``*F`` the feature shape of an entry.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from tensordict import (
    LazyStackedTensorDict,
    NestedKey,
    NonTensorData,
    NonTensorStack,
    TensorDict,
    TensorDictBase,
    is_tensor_collection,
)
from torch import Tensor

from torchrl._core.errors import DTypeError, MissingKeyError, ShapeError, UnexpectedKeyError, describe, nearest
from torchrl._core.safe_load import container_name, find_container, find_dtype
from torchrl.data.replay_buffers.data_types import Data, Key, State

# Values that are known to fit need no checks, which would take half of the time of a sample.
_trusted: Any = getattr(TensorDict, "_new_unsafe", TensorDict)
Path: TypeAlias = tuple[Key, ...]  # of an entry in containers of containers
_UNCHANGED = "Nothing was written."
_SAME_ENTRIES = f"{_UNCHANGED} All rows of a storage have the same entries."


class Leaf(NamedTuple):
    """One entry of a row: its key, feature shape ``[*F]`` and dtype, ``object`` for objects."""

    key: Path
    shape: torch.Size
    dtype: Any

    @property
    def name(self) -> Key | Path:
        """The key as users write it."""
        return self.key[0] if len(self.key) == 1 else self.key


@dataclass
class Node:
    """A container of entries; a child is another node, or the number of a leaf.

    Leaves that are objects, such as texts, have negative numbers, from -1 down. A lazy stack whose
    elements differ has them as its children; ``dim`` is where they are stacked, after the leading
    dimensions.
    """

    kind: type
    extra: torch.Size = field(default_factory=torch.Size)
    children: dict[Key, Node | int] = field(default_factory=dict)
    dim: int = 0


class Schema:
    """The entries of a row, whatever holds them: tensordict, tensorclass, tensor, dict or tuple.

    Args:
        owner: The component that errors name.
        rows: The first rows, of shape ``[*lead, *F]``.
        lead: Number of leading dimensions that are not part of a row.
    """

    def __init__(self, owner: object, rows: Data, lead: int) -> None:
        self.owner, self.leaves, self.objects = owner, list[Leaf](), list[Leaf]()
        self._root = self._learn(rows, lead, ())
        self._index()

    @property
    def kind(self) -> type:
        """The class of rows; ``Tensor`` where they have no entries."""
        return Tensor if isinstance(self._root, int) else self._root.kind

    @property
    def extra(self) -> torch.Size:
        """Batch size of an item: what follows the leading dimensions in that of the rows."""
        return torch.Size() if isinstance(self._root, int) else self._root.extra

    def _index(self) -> None:
        self._expected: tuple[tuple[int, ...] | None, list[tuple[int, ...]]] = (None, [])  # of the last lead
        self._dtypes = [leaf.dtype for leaf in self.leaves]
        self.numbers = {leaf.key: i for i, leaf in enumerate(self.leaves)}
        self.numbers |= {leaf.key: ~i for i, leaf in enumerate(self.objects)}

    def _learn(self, rows: Data, lead: int, path: Path) -> Node | int:
        if is_non_tensor(rows):
            self.objects.append(Leaf(path, rows.batch_size[lead:], object))
            return ~(len(self.objects) - 1)
        children = _children(rows)
        if children is None:
            if not isinstance(rows, Tensor):
                raise _not_a_tensor(self.owner, path, rows)
            self.leaves.append(Leaf(path, rows.shape[lead:], rows.dtype))
            return len(self.leaves) - 1
        extra = rows.batch_size[lead:] if is_tensor_collection(rows) else torch.Size()
        dim = ragged_dim(rows)
        if dim is not None and dim < lead:
            raise _differing_rows(self.owner, path, rows)
        node = Node(_kind(rows) if dim is None else LazyStackedTensorDict, extra)
        node.dim = 0 if dim is None else dim - lead
        for name, value in children:
            node.children[name] = self._learn(value, lead, (*path, name))
        return node

    def read(self, rows: Data, lead: Sequence[int]) -> list[Data]:
        """Return the leaves ``[*lead, *F]`` of ``rows``, in order; raise if a row does not match.

        After them come the objects, the last one first, as arrays ``[*lead, *F]``.

        Raises:
            MissingKeyError, UnexpectedKeyError, ShapeError, DTypeError: naming the entry.
        """
        lead = tuple(lead)
        shapes, root = self._shapes_after(lead), self._root
        if isinstance(root, int):
            if root < 0:
                self._check_entry(rows, self.objects[~root], lead)
                return [_array_of(rows, shapes[root])]
            self._check_entry(rows, self.leaves[root], lead)
            return [rows]
        out: list[Data] = [None] * (len(self.leaves) + len(self.objects))
        if not self._read(rows, root, shapes, out):
            self._refuse(rows, root, lead, ())
        if self.objects:
            first = len(self.leaves)
            out[first:] = [_array_of(value, shape) for value, shape in zip(out[first:], shapes[first:], strict=True)]
        return out

    def _shapes_after(self, lead: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Return the shapes ``[*lead, *F]`` of all leaves."""
        known, shapes = self._expected
        if known != lead:
            leaves = (*self.leaves, *reversed(self.objects))
            shapes = [lead + tuple(leaf.shape) for leaf in leaves]
            self._expected = lead, shapes
        return shapes

    def _read(self, rows: Data, node: Node, shapes: list[tuple[int, ...]], out: list[Data]) -> bool:
        """Put the leaves into ``out``; return whether all of them match."""
        children, known, dtypes = _children(rows), node.children, self._dtypes
        if children is None or len(children) != len(known):
            return False
        for name, value in children:
            child = known.get(name)
            if type(child) is int:
                if child < 0:
                    if not is_non_tensor(value) or value.batch_size != shapes[child]:
                        return False
                    out[child] = value
                elif not isinstance(value, Tensor) or value.dtype is not dtypes[child] or value.shape != shapes[child]:
                    return False
                out[child] = value
            elif child is None or not self._read(value, child, shapes, out):  # type: ignore[arg-type]  # a node
                return False
        return True

    def _refuse(self, rows: Data, node: Node | int, lead: tuple[int, ...], path: Path) -> None:
        """Raise the error for the entry that does not match."""
        if isinstance(node, int):
            leaf = self.leaves[node] if node >= 0 else self.objects[~node]
            self._check_entry(rows, leaf, lead)
            return
        children = _children(rows)
        if children is None:
            raise ShapeError(
                describe(
                    self.owner,
                    "is not a container of entries",
                    key=_name(path),
                    expected=f"a {node.kind.__name__} of {_names(node.children)}",
                    found=type(rows).__name__,
                    hint=_SAME_ENTRIES,
                )
            )
        values = dict(children)
        absent = [name for name in node.children if name not in values]
        if absent:
            hint = nearest(absent[0], (name for name in values if name not in node.children))
            raise MissingKeyError(
                describe(
                    self.owner,
                    "is missing from the rows",
                    key=_name((*path, absent[0])),
                    expected=_names(node.children),
                    found=_names(values),
                    hint=f"{hint} {_SAME_ENTRIES}".strip(),
                )
            )
        surplus = [name for name in values if name not in node.children]
        if surplus:
            raise UnexpectedKeyError(
                describe(
                    self.owner,
                    "has no place in the storage",
                    key=_name((*path, surplus[0])),
                    expected=_names(node.children),
                    found=_names(values),
                    hint=f"{_UNCHANGED} Exclude it, or write to a new buffer.",
                )
            )
        for name, child in node.children.items():
            self._refuse(values[name], child, lead, (*path, name))

    def _check_entry(self, value: Data, leaf: Leaf, lead: tuple[int, ...]) -> None:
        """Raise an error if an entry ``[*lead, *F]`` has another dtype or shape than ``leaf``."""
        is_object, is_tensor = leaf.dtype is object, isinstance(value, Tensor)
        if not (is_non_tensor(value) if is_object else is_tensor and value.dtype is leaf.dtype):
            raise DTypeError(
                describe(
                    self.owner,
                    "has the wrong dtype",
                    key=_name(leaf.key),
                    expected="objects that are no tensors, such as texts" if is_object else leaf.dtype,
                    found=value.dtype if is_tensor else type(value).__name__,
                    hint=_UNCHANGED if is_object else f"{_UNCHANGED} Cast it before it is stored.",
                )
            )
        shape = value.batch_size if is_object else value.shape
        if shape != lead + leaf.shape:
            raise ShapeError(
                describe(
                    self.owner,
                    "has the wrong shape",
                    key=_name(leaf.key),
                    expected=list(lead + leaf.shape),
                    found=list(shape),
                    hint=_SAME_ENTRIES,
                )
            )

    def build(self, leaves: Sequence[Data], lead: Sequence[int], device: torch.device | None = None) -> Data:
        """Return rows ``[*lead, *F]`` made of ``leaves``: the inverse of :meth:`read`."""
        return self._build(self._root, leaves, tuple(lead), device)

    def _build(
        self, node: Node | int, leaves: Sequence[Data], lead: tuple[int, ...], device: torch.device | None
    ) -> Data:
        if isinstance(node, int):
            return leaves[node] if node >= 0 else non_tensor(leaves[node])
        values = {
            name: (leaves[child] if child >= 0 else non_tensor(leaves[child]))
            if isinstance(child, int)
            else self._build(child, leaves, lead, device)
            for name, child in node.children.items()
        }
        kind: Any = node.kind
        if kind is dict:
            return values
        if kind is list or kind is tuple:
            return kind(values.values())
        if issubclass(kind, tuple):
            return kind(*values.values())
        if kind is LazyStackedTensorDict:
            return LazyStackedTensorDict(*values.values(), stack_dim=len(lead) + node.dim)
        size = torch.Size(lead + node.extra)
        td = _trusted(values, size, device=device, nested=False)
        return td if kind is TensorDict else kind.from_tensordict(td)

    def state(self) -> State:
        """Return the schema as numbers, names and lists, fit for JSON."""
        leaves = [(list(leaf.shape), str(leaf.dtype).removeprefix("torch.")) for leaf in self.leaves]
        state: State = {"leaves": leaves, "tree": _tree_state(self._root)}
        if self.objects:
            state["objects"] = [list(leaf.shape) for leaf in self.objects]
        return state

    @classmethod
    def from_state(cls, owner: object, state: State) -> Schema:
        """Return the schema whose :meth:`state` was taken.

        Raises:
            UntrustedFileError: if it names a container that is not known: see
                :func:`~torchrl._core.safe_load.find_container`.
        """
        schema = cls.__new__(cls)
        schema.owner, keys = owner, dict[int, Path]()
        schema._root = _tree_from_state(state["tree"], (), keys, owner)
        schema.leaves = [
            Leaf(keys[i], torch.Size(shape), find_dtype(dtype, owner))
            for i, (shape, dtype) in enumerate(state["leaves"])
        ]
        schema.objects = [Leaf(keys[~i], torch.Size(shape), object) for i, shape in enumerate(state.get("objects", []))]
        schema._index()
        return schema

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and self.state() == other.state()

    __hash__ = None  # type: ignore[assignment]  # as Python has it


def is_non_tensor(value: object) -> bool:
    """Whether an entry of a tensordict holds objects in place of tensors, such as texts."""
    return type(value) is not Tensor and isinstance(value, NonTensorData | NonTensorStack)


def _array_of(value: Data, shape: Sequence[int]) -> np.ndarray:
    """Return the objects of an entry as an array of this shape."""
    if isinstance(value, NonTensorData):
        array = np.empty(tuple(shape), dtype=object)
        for place in np.ndindex(*array.shape):
            array[place] = value.data
        return array
    return array_of_lists(value.tolist(), shape)


def array_of_lists(values: Data, shape: Sequence[int]) -> np.ndarray:
    """Return an array of this shape of the objects in nested lists."""
    array = np.empty(tuple(shape), dtype=object)
    for place in np.ndindex(*array.shape):
        item = values
        for number in place:
            item = item[number]
        array[place] = item
    return array


def non_tensor(values: np.ndarray) -> Data:
    """Return the entry of a tensordict that holds an array of objects."""
    if not values.ndim:
        return NonTensorData(values.item())
    if not values.size:
        return NonTensorData(None, batch_size=list(values.shape))
    if values.ndim == 1:
        return NonTensorStack(*(NonTensorData(value) for value in values.tolist()))
    return NonTensorStack(*(non_tensor(part) for part in values))


def _differing_rows(owner: object, path: Path, rows: Data) -> ShapeError:
    first, *others = [set(row.keys(True, True)) for row in rows.unbind(0)]
    odd = sorted({key for other in others for key in first ^ other}, key=str)
    return ShapeError(
        describe(
            owner,
            f"differs from row to row, in the entries {odd}" if odd else "differs from row to row",
            key=_name(path),
            hint=f"{_UNCHANGED} ListStorage and LazyStackStorage keep rows that differ.",
        )
    )


def ragged_dim(rows: Data) -> int | None:
    """Return the dimension along which the elements of a lazy stack differ, if they do."""
    if not isinstance(rows, LazyStackedTensorDict) or isinstance(rows, NonTensorStack):
        return None
    parts = rows.tensordicts
    first = _layout(parts[0])
    if any(_layout(part) != first for part in parts[1:]):
        return rows.stack_dim
    within = ragged_dim(parts[0])
    return None if within is None else within + (within >= rows.stack_dim)


def _layout(rows: Data) -> object:
    """Return names, shapes and dtypes of entries, what two elements of a dense stack share."""
    if is_non_tensor(rows):
        return "objects"
    if isinstance(rows, Tensor):
        return rows.shape, rows.dtype
    if not is_tensor_collection(rows):
        return type(rows)
    if (dim := ragged_dim(rows)) is not None:
        return rows.batch_size, dim, [_layout(part) for part in rows.unbind(dim)]
    return rows.batch_size, {name: _layout(value) for name, value in rows.items()}


def _not_a_tensor(owner: object, path: Path, value: object) -> DTypeError:
    return DTypeError(
        describe(
            owner,
            "is not a tensor",
            key=_name(path),
            expected="a tensor",
            found=type(value).__name__,
            hint="ListStorage and LazyStackStorage keep any object.",
        )
    )


def lead_shape(rows: Data, ndim: int, owner: object) -> torch.Size:
    """Return the first ``ndim`` sizes that the entries of ``rows`` share.

    Raises:
        ShapeError: if they have fewer dimensions, or no entries.
    """
    if type(rows) is TensorDict and len(rows.batch_size) >= ndim:
        return rows.batch_size[:ndim]
    value, path = rows, Path()
    while type(value) is not TensorDict and not is_tensor_collection(value):
        if isinstance(value, Tensor):
            break
        children = _children(value)
        if children is None:
            raise _not_a_tensor(owner, path, value)
        if not children:
            raise ShapeError(describe(owner, "rows without entries have no length", found=rows))
        name, value = next(iter(children))
        path = (*path, name)
    if value.ndim < ndim:
        raise ShapeError(
            describe(
                owner,
                "the rows have too few dimensions",
                expected=f"at least {ndim} leading dimensions",
                found=list(value.shape),
                hint=f"{_UNCHANGED} add() takes one row, extend() takes rows along dimension 0.",
            )
        )
    return value.shape[:ndim]


def _children(rows: Data) -> Collection[tuple[Key, Data]] | None:
    """Return names and values of a container, ``None`` for a leaf."""
    if type(rows) is TensorDict or isinstance(rows, dict):
        return rows.items()  # type: ignore[return-value]  # sized
    if is_tensor_collection(rows):
        if is_non_tensor(rows):
            return None
        dim = ragged_dim(rows)
        return list(rows.items()) if dim is None else list(enumerate(rows.unbind(dim)))
    if isinstance(rows, list | tuple):
        return list(enumerate(rows))
    return None


def _kind(rows: Data) -> type:
    if isinstance(rows, TensorDictBase):
        return TensorDict
    for kind in (dict, list):
        if isinstance(rows, kind):
            return kind
    return type(rows)


def _name(path: Path) -> Key | Path:
    return path[0] if len(path) == 1 else path


def _names(children: Iterable[Key]) -> list[Key]:
    return sorted(children, key=str)


def _tree_state(node: Node | int) -> State | int:
    if isinstance(node, int):
        return node
    children = [[name, _tree_state(child)] for name, child in node.children.items()]
    kind = container_name(node.kind)
    state = {"kind": kind, "extra": list(node.extra), "children": children}
    return {**state, "dim": node.dim} if node.kind is LazyStackedTensorDict else state


def _tree_from_state(state: State | int, path: Path, keys: dict[int, Path], owner: object) -> Node | int:
    if isinstance(state, int):
        keys[state] = path
        return state
    kind = find_container(state["kind"], owner)
    node = Node(kind, torch.Size(state["extra"]), dim=state.get("dim", 0))
    for child, value in state["children"]:
        node.children[child] = _tree_from_state(value, (*path, child), keys, owner)
    return node


def as_tensors(rows: Data) -> Data:
    """Turn the numbers and arrays in plain containers into tensors; leave the rest as it is."""
    if isinstance(rows, bool | int | float | np.ndarray | np.generic):
        return torch.as_tensor(rows)
    if is_tensor_collection(rows) or isinstance(rows, Tensor):
        return rows
    if isinstance(rows, dict):
        return {name: as_tensors(value) for name, value in rows.items()}
    if isinstance(rows, list):
        return [as_tensors(value) for value in rows]
    if isinstance(rows, tuple):
        values = [as_tensors(value) for value in rows]
        return type(rows)(*values) if hasattr(rows, "_fields") else tuple(values)
    return rows


def stack_rows(items: Sequence[Data]) -> Data:
    """Stack items ``[*F]`` to rows ``[N, *F]``; what cannot be stacked stays a list.

    Tensordicts of different shapes become a lazy stack.

    >>> stack_rows([{"a": torch.ones(2)}, {"a": torch.zeros(2)}])["a"].shape
    torch.Size([2, 2])
    >>> stack_rows(["a", "b"])
    ['a', 'b']
    """
    first = items[0]
    if is_tensor_collection(first):
        if all(_same_layout(first, item) for item in items):
            return torch.stack(list(items))
        return _stack_ragged(items)
    if isinstance(first, Tensor):
        same = all(isinstance(x, Tensor) and x.shape == first.shape for x in items)
        return torch.stack(list(items)) if same else list(items)
    same_type = all(type(item) is type(first) for item in items)
    if isinstance(first, list) and same_type and _holds_tensors(first) and all(len(x) == len(first) for x in items):
        return [stack_rows(list(column)) for column in zip(*items, strict=True)]
    if isinstance(first, dict) and same_type and all(x.keys() == first.keys() for x in items):
        return {name: stack_rows([item[name] for item in items]) for name in first}
    if isinstance(first, tuple) and same_type and all(len(x) == len(first) for x in items):
        values = [stack_rows(list(column)) for column in zip(*items, strict=True)]
        return type(first)(*values) if hasattr(first, "_fields") else tuple(values)
    return list(items)


def _holds_tensors(row: list[Data]) -> bool:
    """Whether a list holds nothing but tensors, and containers of them."""
    return bool(row) and all(
        isinstance(x, Tensor | dict | tuple) or is_tensor_collection(x) or (isinstance(x, list) and _holds_tensors(x))
        for x in row
    )


def expand_items(value: Tensor, lead: int, batch_size: torch.Size) -> Tensor:
    """Expand ``[*lead, *F]``, known of items, to ``[*batch_size, *F]`` where items are batches.

    >>> expand_items(torch.arange(2), 1, torch.Size([2, 3])).tolist()
    [[0, 0, 0], [1, 1, 1]]
    """
    extra, features = len(batch_size) - lead, value.shape[lead:]
    if extra < 1 or value.shape[: len(batch_size)] == batch_size:
        return value
    return value.view(*value.shape[:lead], *(1,) * extra, *features).expand(*batch_size, *features)


def _same_layout(first: Data, item: Data) -> bool:
    """Whether two rows make a dense stack."""
    if type(first) is not TensorDict or type(item) is not TensorDict:
        return _is_dense(first) and _is_dense(item) and _layout(first) == _layout(item)
    if item.batch_size != first.batch_size:
        return False
    mine, other = dict(first.items()), dict(item.items())
    if mine.keys() != other.keys():
        return False
    for name, value in mine.items():
        against = other[name]
        if type(value) is Tensor:
            if not isinstance(against, Tensor) or value.shape != against.shape:
                return False
        elif is_tensor_collection(value) and not (is_tensor_collection(against) and _same_layout(value, against)):
            return False
    return True


def _is_dense(rows: Data) -> bool:
    """Whether no lazy stack of elements that differ is in it."""
    if not is_tensor_collection(rows) or is_non_tensor(rows):
        return is_tensor_collection(rows) or isinstance(rows, Tensor)
    if ragged_dim(rows) is not None:
        return False
    return all(_is_dense(value) for _, value in rows.items() if is_tensor_collection(value))


def _stack_ragged(items: Sequence[Data]) -> Data:
    """Stack rows in which lazy stacks differ within, part by part; else the rows, lazily."""
    first = items[0]
    alike = all(is_tensor_collection(item) and _layout(item) == _layout(first) for item in items)
    dim = ragged_dim(first)
    if not alike or (dim is None and type(first) is not TensorDict):
        return TensorDict.lazy_stack(list(items))
    if dim is not None:
        columns = zip(*(item.unbind(dim) for item in items), strict=True)
        parts = [stack_rows(list(column)) for column in columns]
        return LazyStackedTensorDict(*parts, stack_dim=dim + 1)
    values = {name: stack_rows([item.get(name) for item in items]) for name in first.keys()}  # noqa: SIM118 - a tensordict iterates over its rows
    return TensorDict(values, [len(items), *first.batch_size])


def fitting(owner: object, key: NestedKey, old: Tensor, value: object) -> Tensor:
    """Return a value that is to take the place of ``old``.

    Raises:
        ShapeError, DTypeError: if it does not look like it.
    """
    value = torch.as_tensor(value)
    if value.dtype is not old.dtype:
        raise DTypeError(_misfit(owner, "dtype", key, old.dtype, value.dtype))
    if value.shape != old.shape:
        raise ShapeError(_misfit(owner, "shape", key, list(old.shape), list(value.shape)))
    return value


def _misfit(owner: object, what: str, key: NestedKey, expected: object, found: object) -> str:
    return describe(owner, f"has the wrong {what}", key=key, expected=expected, found=found, hint=_UNCHANGED)


def transpose_entries(data: Data, dim: int) -> Data:
    """Put dimension ``dim`` of every entry first."""
    if is_tensor_collection(data) or isinstance(data, Tensor):
        return data.transpose(0, dim)
    if isinstance(data, dict):
        return {name: transpose_entries(value, dim) for name, value in data.items()}
    return type(data)(transpose_entries(value, dim) for value in data)
