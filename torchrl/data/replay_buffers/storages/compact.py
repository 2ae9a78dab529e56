"""`CompactStorage`: ``"next"`` entries are stored once, as the root entries of the next step.

Legend: ``R`` slots, ``*W`` further dimensions, ``N`` rows, ``B`` items, ``P`` places of the pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tensordict import NestedKey, is_tensor_collection
from torch import Tensor

from torchrl._core.errors import DTypeError, ShapeError, describe
from torchrl._core.keys import next_key
from torchrl.data.replay_buffers.data_types import Data, Index, State
from torchrl.data.replay_buffers.storages.base import Place, Storage
from torchrl.data.replay_buffers.storages.schema import Schema, lead_shape, stack_rows
from torchrl.data.replay_buffers.storages.tensor import LazyTensorStorage, TensorStorage
from torchrl.data.replay_buffers.ted_layouts import equal_bits

DERIVED, UNSET = -1, -2  # places of items that are not in the pool


class CompactStorage(Storage):
    """Store steps without ``"next"`` entries that equal the root entries of the next row.

    The entry ``("next", key)`` of a row is dropped if the row in the next slot has the same bits in
    ``key``; samples get it back from there. Where it is different, at the end of an episode,
    between columns that were flattened, and in the newest row, it is kept in a pool, and so it is
    before the row in the next slot changes. What comes out is what went in, bit for bit.

    Args:
        storage: Keeps the rows, without what can be derived.
        keys: Entries of the root to derive ``("next", key)`` from; all that have the same shape and
            dtype at both places if ``None``.
        compilable: As for :class:`Storage`.

    Raises:
        DTypeError: if rows are no tensordicts.
        ShapeError: if no entry is present at both places.

    >>> from tensordict import TensorDict
    >>> from torchrl.data import LazyTensorStorage, ReplayBuffer
    >>> observation = torch.arange(5.0)
    >>> steps = TensorDict(observation=observation[:-1], batch_size=[4])
    >>> steps["next", "observation"] = observation[1:]
    >>> storage = CompactStorage(LazyTensorStorage(100))
    >>> buffer = ReplayBuffer(storage=storage)
    >>> _ = buffer.extend(steps)
    >>> buffer[:]["next", "observation"], storage.pooled
    (tensor([1., 2., 3., 4.]), 1)
    """

    def __init__(
        self, storage: LazyTensorStorage, keys: Sequence[NestedKey] | None = None, *, compilable: bool = False
    ) -> None:
        super().__init__(storage.max_size, storage.ndim, compilable=compilable)
        self._inner, self._keys = storage, keys
        self._count_with(storage)
        self._schema: Schema | None = None

    def _count_with(self, storage: LazyTensorStorage) -> None:
        """Use the counts of the storage of the rows, which may move with the first rows."""
        self._marks, self._counts = storage._marks, storage._counts

    def lock(self) -> Any:
        """Return the lock of the storage of the rows."""
        return self._inner.lock()

    @property
    def device(self) -> Any:
        """Where samples go."""
        return self._inner.device

    @property
    def pooled(self) -> int:
        """Number of items whose ``"next"`` entries are stored, since they cannot be derived."""
        return 0 if self._schema is None else int((self._place_of >= 0).sum())

    def prepare(self, data: Data, many: bool) -> tuple[list[Tensor], int]:
        """Return the entries of ``data`` in the order of the full rows, and the number of rows."""
        if many and isinstance(data, list):
            data = stack_rows(data)
        if not is_tensor_collection(data):
            raise DTypeError(
                describe(self, "keeps tensordicts only", found=type(data).__name__, hint="Nothing was written.")
            )
        ndim = self.ndim if many else self.ndim - 1
        lead = lead_shape(data, ndim, self)
        if self._schema is None:
            self._learn(data, ndim, lead[1:] if many else lead)
        assert self._schema is not None
        expected = (lead[0], *self.row_shape) if many else tuple(self.row_shape)
        return self._schema.read(data, expected), lead[0] if many else 1

    def _learn(self, data: Data, ndim: int, row_shape: torch.Size) -> None:
        """Learn from the first rows what they look like, and what can be derived."""
        schema = Schema(type(self).__name__, data, ndim)
        if schema.objects:
            raise DTypeError(
                describe(
                    self,
                    "is no tensor",
                    key=schema.objects[0].name,
                    hint="Nothing was written. LazyTensorStorage and ListStorage keep texts.",
                )
            )
        pairs = [(leaf, schema.numbers.get(("next", *leaf.key))) for leaf in schema.leaves]
        wanted = None if self._keys is None else [next_key(key) for key in self._keys]
        derived = {
            number: schema.numbers[leaf.key]
            for leaf, number in pairs
            if number is not None
            and all(isinstance(part, str) for part in leaf.key)
            and schema.leaves[number][1:] == leaf[1:]
            and (wanted is None or schema.leaves[number].name in wanted)
        }
        if not derived or (wanted is not None and len(derived) < len(wanted)):
            raise ShapeError(
                describe(
                    self,
                    "finds no entry at both places with one shape and dtype",
                    expected="of ('next', key), and key" if wanted is None else wanted,
                    found=[leaf.name for leaf in schema.leaves],
                    hint="Nothing was written. LazyTensorStorage keeps any row.",
                )
            )
        self._set_row_shape(row_shape)
        kept = data.exclude(*(schema.leaves[number].name for number in derived))
        self._inner._allocate(kept, ndim, row_shape)
        self._count_with(self._inner)
        self._lay_out(schema, derived)

    def _lay_out(self, schema: Schema, derived: dict[int, int]) -> None:
        """Note where the entries of full rows are, and make an empty pool.

        Args:
            schema: The full rows.
            derived: For each entry that is derived, the one that it is derived from.
        """
        numbers = self._inner._known("store").numbers
        self._schema, self._derived = schema, derived
        kept = [n for n in range(len(schema.leaves)) if n not in derived]
        self._inner_of = {n: numbers[schema.leaves[n].key] for n in kept}
        self._forget()

    def _forget(self) -> None:
        """Make an empty pool."""
        self._place_of = torch.full((self.capacity * self.width,), UNSET)
        self._free = torch.empty(0, dtype=torch.long)
        self._pool = {n: self._beginnings(n)[:0].clone() for n in self._derived}  # [P, *F]

    def _beginnings(self, number: int) -> Tensor:
        """Return the items ``[R * W, *F]`` that entry ``number`` is derived from."""
        return self._inner._items[self._inner_of[self._derived[number]]]

    def _put(self, place: Place, rows: list[Tensor], part: slice | None) -> None:
        if isinstance(place, int):
            rows, place = [leaf.unsqueeze(0) for leaf in rows], slice(place, place + 1)
        elif part is not None:
            rows = [leaf[part] for leaf in rows]
        slots = place if isinstance(place, Tensor) else torch.arange(place.start, place.stop)
        if len(slots.unique()) < len(slots):  # of doubles, the last one counts
            for i, slot in enumerate(slots.tolist()):
                self._put(slot, [leaf[i] for leaf in rows], None)
            return
        before = (slots - 1) % self.capacity
        before = self.items_of(before[~torch.isin(before, slots)])
        before = before[self._place_of[before] != UNSET]
        after_before = self._following(before)
        inner: list[Data] = [None] * len(self._inner_of)
        for number, where in self._inner_of.items():
            inner[where] = rows[number]
        self._inner._put(place, inner, None)
        self._keep(before, after_before)
        next_root = {n: rows[n].detach().flatten(0, self.ndim - 1) for n in self._pool}
        self._keep(self.items_of(slots), next_root)

    def _keep(self, items: Tensor, values: dict[int, Tensor]) -> None:
        """Store the next entries of ``items [N]`` in the pool, unless the next slots have them."""
        after, same = self._after(items), torch.ones(len(items), dtype=torch.bool)
        for number, value in values.items():
            same &= equal_bits(self._beginnings(number)[after], value).cpu()
        places = self._place_of[items]
        self._free = torch.cat([self._free, places[same & (places >= 0)]])
        places[same] = DERIVED
        homeless = (~same & (places < 0)).nonzero().squeeze(-1)
        places[homeless] = self._free_places(len(homeless))
        self._place_of[items] = places
        for number, value in values.items():
            self._pool[number][places[~same]] = value[~same].to(self._pool[number].device)

    def _free_places(self, count: int) -> Tensor:
        """Return ``count`` places of the pool that nothing is in; it grows if need be."""
        missing = count - len(self._free)
        if missing > 0:
            size = len(next(iter(self._pool.values())))
            more = max(missing, size)
            for number, values in self._pool.items():
                self._pool[number] = torch.cat([values, values.new_zeros(more, *values.shape[1:])])
            self._free = torch.cat([self._free, torch.arange(size, size + more)])
        taken, self._free = self._free[:count], self._free[count:]
        return taken

    def _following(self, items: Tensor) -> dict[int, Tensor]:
        """Return what follows ``items [N]``, by the number of its entry."""
        places = self._place_of.numpy().take(items.numpy(force=True))
        after, values = self._after(items), dict[int, Tensor]()
        for number in self._derived:
            column = self._beginnings(number)
            values[number] = self._inner._send(column.index_select(0, after.to(column.device)))
        pooled = np.flatnonzero(places >= 0)
        if len(pooled):
            rows, spots = torch.from_numpy(pooled), torch.from_numpy(places[pooled])
            for number, value in values.items():
                value[rows] = self._pool[number][spots].to(value.device)
        return values

    def _after(self, items: Tensor) -> Tensor:
        """Return the items of the same column in the next slots."""
        return (items + self.width) % len(self._place_of)

    def _take(self, positions: Tensor) -> Data:
        schema = self._schema
        if schema is None:
            return self._inner._take(positions)  # says that nothing was written yet
        inner = self._inner._gather(positions)
        next_root = self._following(positions)
        leaves = [next_root[n] if n in next_root else inner[self._inner_of[n]] for n in range(len(schema.leaves))]
        return schema.build(leaves, positions.shape, self.device)

    def set_items(self, positions: Tensor, data: Data) -> None:
        """Replace the items at ``positions [*I]`` by those of a tensordict ``[*I]``.

        Raises:
            MissingKeyError, UnexpectedKeyError, ShapeError, DTypeError: if they do not fit
                the stored rows; nothing is written then.
        """
        if self._schema is not None:
            self._schema.read(data, positions.shape)
        super().set_items(positions, data)

    def _positions_at(self, place: Index) -> Tensor:
        grid = torch.arange(len(self._place_of)).view(self.capacity, *self.row_shape)
        return grid[place]  # [*I]

    def _get(self, place: Index) -> Data:
        if self._schema is None:
            return self._inner._get(place)  # says that nothing was written yet
        positions = self._positions_at(place)
        return self._take(positions.flatten()).reshape(positions.shape)

    def entry(self, key: NestedKey, place: Index = slice(None)) -> Tensor:
        """Return one entry of the rows in the slots ``place``.

        Raises:
            MissingKeyError: if rows have no such entry.
        """
        number = self._number_derived(key)
        if number is None:
            return self._inner.entry(key, place)
        positions = self._positions_at(place)
        values = self._following(positions.flatten())[number]
        return values.unflatten(0, positions.shape)

    def take_entry(self, key: NestedKey, positions: Tensor) -> Tensor:
        """Return one entry ``[B, *F]`` of the items at positions ``[B]``.

        Raises:
            MissingKeyError: if items have no such entry.
        """
        number = self._number_derived(key)
        if number is None:
            return self._inner.take_entry(key, positions)
        return self._following(positions)[number]

    def _number_derived(self, key: NestedKey) -> int | None:
        if self._schema is None:
            return None
        number = self._schema.numbers.get((key,) if isinstance(key, str) else tuple(key))
        return number if number in self._derived else None

    def has_entry(self, key: NestedKey) -> bool:
        """Whether rows have this entry."""
        return self.rows > 0 and (self._number_derived(key) is not None or self._inner.has_entry(key))

    def flatten(self) -> Storage:
        """Return a storage ``[N]`` of copies of the items, if this one has several dimensions."""
        return self if self.ndim == 1 else TensorStorage(self.get(...).reshape(-1))

    def empty(self) -> None:
        """Forget all rows; keep the memory and what a row looks like."""
        super().empty()
        if self._schema is not None:
            self._forget()

    def state_dict(self) -> State:
        """Return the rows, as they are stored, and the pool."""
        state: State = {"rows": self._inner.state_dict()}
        if self._schema is not None:
            state["schema"] = self._schema.state()
            state["derived"] = list(self._derived.items())
            state["place_of"], state["free"] = self._place_of.clone(), self._free.clone()
            state["pool"] = {n: values.clone() for n, values in self._pool.items()}
        return state

    def load_state_dict(self, state_dict: State) -> None:
        """Take over the rows of a :meth:`state_dict`.

        Raises:
            ShapeError: if they are more than fit, or look different from the rows at hand.
        """
        self.check_state(state_dict)
        self._inner.load_state_dict(state_dict["rows"])
        self._count_with(self._inner)
        self._set_row_shape(self._inner.row_shape)
        if "schema" not in state_dict:
            return
        schema = Schema.from_state(type(self).__name__, state_dict["schema"])
        self._lay_out(schema, dict(state_dict["derived"]))
        self._place_of, self._free = state_dict["place_of"].clone(), state_dict["free"].clone()
        self._pool = {n: values.to(self._pool[n].device) for n, values in state_dict["pool"].items()}

    def check_state(self, state_dict: State) -> None:
        """Raise what :meth:`load_state_dict` would raise, and change nothing."""
        rows = state_dict["rows"]
        self._inner.check_state(rows)
        if "schema" not in state_dict:
            return
        schema = Schema.from_state(type(self).__name__, state_dict["schema"])
        width = torch.Size(rows["row_shape"]).numel()
        items = int(self.max_size) // max(width, 1) * width
        if len(state_dict["place_of"]) != items:
            raise ShapeError(
                describe(
                    self,
                    "the saved rows come from another size",
                    expected=f"{items} items",
                    found=len(state_dict["place_of"]),
                    hint="Load them into a buffer built like the saved one.",
                )
            )
        derived, keys = dict(state_dict["derived"]), [leaf.key for leaf in schema.leaves]
        if list(state_dict["pool"]) != list(derived) or max([*derived, 0]) >= len(keys):
            raise ShapeError(describe(self, "the saved pool differs from the note on the rows"))
        if self._schema is not None and (schema, derived) != (self._schema, self._derived):
            raise ShapeError(
                describe(
                    self,
                    "the saved rows do not fit",
                    expected=[leaf.name for leaf in self._schema.leaves],
                    found=[leaf.name for leaf in schema.leaves],
                    hint="Load them into a buffer built like the saved one.",
                )
            )

    def blank(self) -> Storage:
        """Return an empty storage in memory that takes the same rows."""
        return CompactStorage(self._inner.blank(), self._keys)
