"""`TED2Flat`, `TED2Nested` and their inverses: layouts that store each state once.

A *piece* is a run of rows, each of which has at the root the ``"next"`` entries of the row before,
bit for bit. A piece of ``T`` rows has ``T + 1`` states: entries that are present at the root and
under ``"next"``, with one shape and dtype. All other entries are those of its ``T`` steps.

Legend: ``R`` rows, ``*W`` further dimensions, ``N`` items, ``E`` pieces.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import NestedKey, NonTensorData, NonTensorStack, TensorDict, TensorDictBase
from torch import Tensor

from torchrl._core.errors import DTypeError, MissingKeyError, describe
from torchrl._core.keys import as_keys, next_key


def equal_bits(left: Tensor, right: Tensor) -> Tensor:
    """Return for each row ``[N, *F]`` whether all bits are equal.

    >>> equal_bits(torch.tensor([0.0, float("nan")]), torch.tensor([-0.0, float("nan")]))
    tensor([False,  True])
    """
    count, right = len(left), right.to(left.device)
    if not left.numel():
        return torch.ones(count, dtype=torch.bool, device=left.device)
    mine, theirs = (side.contiguous().view(count, -1).view(torch.uint8) for side in (left, right))
    return (mine == theirs).all(1)


class TED2Flat:
    """Concatenate pieces: all states, then all steps.

    Reads: rows ``[R, *W]`` with entries under ``"next"``.
    Returns: a tensordict ``[]`` of ``states [N + E]``, ``steps [N]``, ``lengths [E]``, the steps of
    each piece, and ``shape``, the batch size of the rows.

    Raises:
        MissingKeyError: if rows have no ``"next"``.

    >>> observation = torch.arange(4.0)
    >>> rows = TensorDict(observation=observation[:-1], action=torch.ones(3), batch_size=[3])
    >>> rows["next", "observation"] = observation[1:]
    >>> flat = TED2Flat()(rows)
    >>> flat["states", "observation"], flat["lengths"]
    (tensor([0., 1., 2., 3.]), tensor([3]))
    >>> (Flat2TED()(flat) == rows).all()
    True
    """

    def __call__(self, rows: TensorDictBase) -> TensorDict:
        """Return the flat layout of ``rows``."""
        if "next" not in rows.keys():  # noqa: SIM118 - a tensordict iterates over its rows
            raise MissingKeyError(
                describe(
                    self,
                    "is read but absent",
                    key="next",
                    found=as_keys(list(rows.keys())),
                    hint="Rows without it have no layout but their own.",
                )
            )
        objects = NonTensorData | NonTensorStack
        texts = [key for key, value in rows.items(True) if isinstance(value, objects)]
        if texts:
            raise DTypeError(
                describe(
                    self,
                    "is no tensor",
                    key=texts[0],
                    hint="Save the buffer without a checkpointer of its own, or exclude the entry.",
                )
            )
        dims = range(1, rows.ndim)
        items = rows.permute(*dims, 0).reshape(-1)  # [N], column after column
        both = _keys_of_both(items)
        last = torch.ones(len(items), dtype=torch.bool)
        for key in both:
            last[:-1] &= equal_bits(items.get(next_key(key))[:-1], items.get(key)[1:]).cpu()
        last[:-1] = ~last[:-1]
        stops = last.nonzero().squeeze(-1)  # [E]
        piece = last.cumsum(0) - last.long()  # [N]
        state = torch.arange(len(items)) + piece
        states = TensorDict(batch_size=[len(items) + len(stops)])
        for key in both:
            value, after = items.get(key), items.get(next_key(key))
            column = value.new_empty(len(states), *value.shape[1:])
            column[state], column[state[stops] + 1] = value, after[stops]
            states.set(key, column)
        return TensorDict(
            states=states,
            steps=items.exclude(*both, *(next_key(key) for key in both)),
            lengths=stops.diff(prepend=torch.tensor([-1])),
            shape=torch.tensor(rows.batch_size),
        )


class Flat2TED:
    """Undoes :class:`TED2Flat`.

    >>> rows = TensorDict(x=torch.arange(3.0), batch_size=[3])
    >>> rows["next", "x"] = rows["x"] + 1
    >>> Flat2TED()(TED2Flat()(rows))["next", "x"]
    tensor([1., 2., 3.])
    """

    def __call__(self, flat: TensorDictBase) -> TensorDict:
        """Return the rows ``[R, *W]``."""
        lengths, shape = flat["lengths"], torch.Size(flat["shape"].tolist())
        state = torch.arange(int(lengths.sum()))
        state = state + torch.arange(len(lengths)).repeat_interleave(lengths)
        items, states = flat["steps"].copy(), flat["states"]
        for key in states.keys(True, True):
            items.set(key, states.get(key)[state])
            items.set(next_key(key), states.get(key)[state + 1])
        dims = [*shape[1:], shape[0]]
        return items.reshape(dims).permute(-1, *range(len(shape) - 1))


class TED2Nested:
    """Gives each piece a row of its own, as nested tensors of the jagged layout.

    Returns: a tensordict ``[]`` of ``states [E, T + 1]``, ``steps [E, T]``, ``lengths [E]`` and
    ``shape``.

    >>> rows = TensorDict(x=torch.tensor([0.0, 1.0, 5.0]), batch_size=[3])  # the first episode ends at 2
    >>> rows["next", "x"] = torch.tensor([1.0, 2.0, 6.0])
    >>> nested = TED2Nested()(rows)
    >>> nested["lengths"], [states.tolist() for states in nested["states", "x"]]
    (tensor([2, 1]), [[0.0, 1.0, 2.0], [5.0, 6.0]])
    """

    def __call__(self, rows: TensorDictBase) -> TensorDict:
        """Return the nested layout of ``rows``."""
        flat = TED2Flat()(rows)
        lengths = flat["lengths"]
        for name, extra in (("states", 1), ("steps", 0)):
            offsets = torch.cat([lengths.new_zeros(1), (lengths + extra).cumsum(0)])
            values = flat[name]
            nested = TensorDict(batch_size=[len(lengths)])
            for key in values.keys(True, True):
                jagged = torch.nested.nested_tensor_from_jagged(values.get(key), offsets)
                nested.set(key, jagged)
            flat[name] = nested
        return flat


class Nested2TED:
    """Undoes :class:`TED2Nested`.

    >>> rows = TensorDict(x=torch.arange(3.0), batch_size=[3])
    >>> rows["next", "x"] = rows["x"] + 1
    >>> Nested2TED()(TED2Nested()(rows))["next", "x"]
    tensor([1., 2., 3.])
    """

    def __call__(self, nested: TensorDictBase) -> TensorDict:
        """Return the rows ``[R, *W]``."""
        flat = TensorDict(shape=nested["shape"], lengths=nested["lengths"])
        steps, pieces = int(flat["lengths"].sum()), len(flat["lengths"])
        for name, size in (("states", steps + pieces), ("steps", steps)):
            parts, values = nested[name], TensorDict(batch_size=[size])
            for key in parts.keys(True, True):
                values.set(key, parts.get(key).values())
            flat[name] = values
        return Flat2TED()(flat)


class H5Split:
    """Gives each piece a record of its own, ``piece_<i>``, fit for groups of an HDF5 file.

    Returns: a tensordict ``[]`` of records, each with ``states [T + 1]`` and ``steps [T]``, and
    ``shape``.

    >>> rows = TensorDict(x=torch.tensor([0.0, 1.0, 5.0]), batch_size=[3])  # the first episode ends at 2
    >>> rows["next", "x"] = torch.tensor([1.0, 2.0, 6.0])
    >>> pieces = H5Split()(rows)
    >>> pieces["piece_0", "states", "x"], pieces["piece_1", "states", "x"]
    (tensor([0., 1., 2.]), tensor([5., 6.]))
    """

    def __call__(self, rows: TensorDictBase) -> TensorDict:
        """Return the records of ``rows``."""
        flat = TED2Flat()(rows)
        lengths = flat["lengths"]
        states = flat["states"].split((lengths + 1).tolist())
        steps = flat["steps"].split(lengths.tolist())
        pieces: dict[str, Any] = {
            f"piece_{i}": TensorDict(states=before, steps=during)
            for i, (before, during) in enumerate(zip(states, steps, strict=True))
        }
        return TensorDict({**pieces, "shape": flat["shape"]})


class H5Combine:
    """Undoes :class:`H5Split`.

    >>> rows = TensorDict(x=torch.arange(3.0), batch_size=[3])
    >>> rows["next", "x"] = rows["x"] + 1
    >>> H5Combine()(H5Split()(rows))["next", "x"]
    tensor([1., 2., 3.])
    """

    def __call__(self, pieces: TensorDictBase) -> TensorDict:
        """Return the rows ``[R, *W]``."""
        records = [pieces[f"piece_{i}"] for i in range(len(list(pieces.keys())) - 1)]
        flat = TensorDict(
            states=torch.cat([record["states"] for record in records]),
            steps=torch.cat([record["steps"] for record in records]),
            lengths=torch.tensor([len(record["steps"]) for record in records]),
            shape=pieces["shape"],
        )
        return Flat2TED()(flat)


def _keys_of_both(items: TensorDictBase) -> list[NestedKey]:
    """Return the entries that are present at the root and under ``"next"`` alike."""
    own = items.exclude("next")
    both = []
    for key in own.keys(True, True):
        here, there = own.get(key), items.get(next_key(key), None)
        if there is not None and (here.shape, here.dtype) == (there.shape, there.dtype):
            both.append(key)
    return both
