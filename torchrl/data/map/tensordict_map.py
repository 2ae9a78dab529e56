"""`TensorDictMap`: from some entries to others, as a dictionary of tensordicts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl._core.errors import MissingKeyError, ShapeError, describe
from torchrl.data.map.query import Hash, QueryModule
from torchrl.data.replay_buffers.data_types import Convert
from torchrl.data.replay_buffers.storages.base import Storage
from torchrl.data.replay_buffers.storages.list import ListStorage

K = TypeVar("K")
V = TypeVar("V")


class TensorMap(ABC, Generic[K, V]):
    """A map from keys to values, several at once.

    Hooks:
        __getitem__, __setitem__, __len__, clear: As of a dictionary.
        contains: ``keys [B] -> bool [B]``.

    >>> import torch
    >>> class Counts(TensorMap):
    ...     def __init__(self):
    ...         self.counts = {}
    ...
    ...     def __getitem__(self, keys):
    ...         return torch.tensor([self.counts.get(key, 0) for key in keys.tolist()])
    ...
    ...     def __setitem__(self, keys, values):
    ...         self.counts.update(zip(keys.tolist(), values.tolist()))
    ...
    ...     def contains(self, keys):
    ...         return torch.tensor([key in self.counts for key in keys.tolist()])
    ...
    ...     def __len__(self):
    ...         return len(self.counts)
    ...
    ...     def clear(self):
    ...         self.counts.clear()
    >>> counts = Counts()
    >>> counts[torch.tensor([3, 5])] = torch.tensor([1, 2])
    >>> counts.contains(torch.tensor([3, 4])), counts[torch.tensor([5])]
    (tensor([ True, False]), tensor([2]))
    """

    @abstractmethod
    def __getitem__(self, item: K) -> V: ...

    @abstractmethod
    def __setitem__(self, item: K, value: V) -> None: ...

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def clear(self) -> None: ...

    @abstractmethod
    def contains(self, item: K) -> Tensor: ...

    def __contains__(self, item: K) -> bool:
        return bool(self.contains(item).all())


class TensorDictMap(TensorMap[TensorDictBase, TensorDictBase]):
    """Map the entries ``in_keys`` of a tensordict to other entries.

    Args:
        query_module: Numbers the combinations of ``in_keys``.
        storage: Keeps the values.
        collate_fn: Makes the result of what the storage returns; as it is if ``None``.
        out_keys: Entries that are kept; all of the first value if ``None``.
        write_fn: What is written in place of the new values: ``(new [n], old [n]) -> values``
            for keys that are there already, ``new -> values`` for others.

    Raises:
        MissingKeyError: when a key is read that is not in the map.

    >>> import torch
    >>> from tensordict import TensorDict
    >>> table = TensorDictMap(query_module=QueryModule(["state"]), storage=ListStorage(10))
    >>> states = TensorDict(state=torch.tensor([[0.0], [1.0]]), batch_size=[2])
    >>> table[states] = TensorDict(value=torch.tensor([3.0, 4.0]), batch_size=[2])
    >>> table[states[1]]["value"], len(table)
    (tensor(4.), 2)
    """

    def __init__(
        self,
        *,
        query_module: QueryModule,
        storage: Storage,
        collate_fn: Convert | None = None,
        out_keys: Sequence[NestedKey] | None = None,
        write_fn: Callable[..., TensorDictBase] | None = None,
    ) -> None:
        self.query_module, self.storage = query_module, storage
        self.collate_fn, self.write_fn = collate_fn, write_fn
        self.out_keys = None if out_keys is None else list(out_keys)

    @classmethod
    def from_tensordict_pair(
        cls,
        source: TensorDictBase,
        dest: TensorDictBase,
        in_keys: Iterable[NestedKey] | None = None,
        out_keys: Iterable[NestedKey] | None = None,
        *,
        max_size: int | None = None,
        storage_constructor: Callable[..., Storage] = ListStorage,
        hash_module: Hash | Sequence[Hash] | None = None,
        collate_fn: Convert | None = None,
        write_fn: Callable[..., TensorDictBase] | None = None,
    ) -> TensorDictMap:
        """Return an empty map for keys like ``source`` and values like ``dest``.

        Args:
            source: An example of keys.
            dest: An example of values.
            in_keys: Entries of ``source`` that matter; all, in the order of their names, if ``None``.
            out_keys: Entries of ``dest`` that are kept; all if ``None``.
            max_size: Number of keys; as many as come if ``None``.
            storage_constructor: ``max_size -> storage``.
            hash_module: As for :class:`QueryModule`.
            collate_fn: As for the class.
            write_fn: As for the class.
        """
        keys = sorted(source.keys(True, True), key=str) if in_keys is None else list(in_keys)
        return cls(
            query_module=QueryModule(keys, hash_module=hash_module),
            storage=storage_constructor(max_size),
            collate_fn=collate_fn,
            out_keys=list(dest.keys(True, True)) if out_keys is None else list(out_keys),
            write_fn=write_fn,
        )

    @property
    def in_keys(self) -> list[NestedKey]:
        """Entries that make a key."""
        return self.query_module.in_keys

    @property
    def max_size(self) -> int | float:
        """Number of keys that the map can hold."""
        return self.storage.max_size

    def numbers(self, item: TensorDictBase, extend: bool = False) -> Tensor:
        """Return the numbers ``[B]`` of keys ``[*B]``, their places in the storage.

        Args:
            item: Keys.
            extend: Number keys that are new; otherwise they get -1.
        """
        query = item.select(*self.in_keys, strict=False)
        return self.query_module(query, extend=extend, write_hash=False).get(self.query_module.index_key).reshape(-1)

    def contains(self, item: TensorDictBase) -> Tensor:
        """Return which of the keys ``[*B]`` are in the map, bool ``[*B]``."""
        numbers = self.numbers(item)
        return ((numbers >= 0) & (numbers < len(self))).view(item.batch_size)

    def __getitem__(self, item: TensorDictBase) -> TensorDictBase:
        known = self.contains(item)
        if not known.all():
            raise MissingKeyError(
                describe(
                    self,
                    "does not hold every key",
                    found=f"{int(known.sum())} of {known.numel()}",
                    hint="See contains().",
                )
            )
        values = self.storage.get(self.numbers(item))
        if self.collate_fn is not None:
            values = self.collate_fn(values)
        return values.reshape(item.batch_size)

    def __setitem__(self, item: TensorDictBase, value: TensorDictBase) -> None:
        if value.batch_size[: item.ndim] != item.batch_size:
            raise ShapeError(
                describe(self, "as many values as keys are needed", expected=item.batch_size, found=value.batch_size)
            )
        item = item.reshape(-1) if item.ndim != 1 else item
        value = value.reshape(len(item), *value.batch_size[value.ndim and item.ndim :]) if value.ndim != 1 else value
        if self.out_keys is None:
            self.out_keys = list(value.keys(True, True))
        value = value.select(*self.out_keys)
        numbers = self.numbers(item, extend=True)
        if self.write_fn is None:
            last = {number: row for row, number in enumerate(numbers.tolist())}
            rows = list(last.values())  # of equal keys the last counts
            self._write(numbers[rows], value[rows])
        elif len(numbers.unique()) < len(numbers):  # one after the other
            for row in range(len(numbers)):
                self._merge(numbers[row : row + 1], value[row : row + 1])
        else:
            self._merge(numbers, value)

    def _merge(self, numbers: Tensor, value: TensorDictBase) -> None:
        """Write what :attr:`write_fn` makes of new values, and of old ones where there are some."""
        assert self.write_fn is not None
        old = numbers < len(self)
        if (~old).any():
            self._write(numbers[~old], self.write_fn(value[~old]))
        if old.any():
            self._write(numbers[old], self.write_fn(value[old], self.storage.get(numbers[old])))

    def _write(self, numbers: Tensor, value: TensorDictBase) -> None:
        order = numbers.argsort()  # a storage is filled without gaps
        self.storage.set(numbers[order], value[order])

    def __len__(self) -> int:
        return len(self.storage)

    def clear(self) -> None:
        """Forget all keys and values."""
        self.storage.empty()
        self.query_module.hash_to_int.clear()
