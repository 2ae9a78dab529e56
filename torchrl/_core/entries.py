"""A flat record of one step: what a TensorDict offers to a step, at the price of a dict.

The public path carries a ``TensorDict`` through policy, transforms and environment; the fast path
carries :class:`Entries` through the same code. Code that touches its record only through ``get``,
``set``, ``[key]``, ``pop``, ``update`` and ``copy`` serves both, and says so with ``entrywise``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase


class Entries(dict[NestedKey, Any]):
    """Tensors by key; nested keys are tuples, and there are no sub-records.

    >>> entries = Entries({"a": 1}).set(("agents", "b"), 2)
    >>> entries["agents", "b"], entries.get("c")
    (2, None)
    """

    __slots__ = ()

    def set(self, key: NestedKey, value: Any) -> Entries:
        """Write one entry and return the record."""
        self[key] = value
        return self

    def copy(self) -> Entries:
        """Return a record of the same tensors."""
        return Entries(self)


def vouches(component: object, name: str) -> bool:
    """Say whether the class of a component vouches for something about its hooks.

    Only the class that writes ``name = True`` in its own body vouches: a subclass may override a
    hook. A container writes a property instead, and vouches if its parts do.
    """
    word = type(component).__dict__.get(name, False)
    return word.__get__(component) if isinstance(word, property) else word is True


def is_entrywise(component: object) -> bool:
    """Say whether a component vouches for :class:`Entries`, with ``entrywise = True``."""
    return vouches(component, "entrywise")


def stack_entries(
    records: Sequence[Entries], batch_size: torch.Size, device: torch.device | None
) -> TensorDictBase:
    """Stack records of steps along a new last batch dimension, time.

    Args:
        records: One a step, all with the same keys; values ``[*batch_size, *feature]``.
        batch_size: Batch size ``[*B]`` of each record.
        device: Device of the result.

    Returns: a tensordict ``[*B, T]``.
    """
    dim = len(batch_size)
    stacked = TensorDict({}, [*batch_size, len(records)], device=device)
    for key in records[0]:
        stacked.set(key, torch.stack([record[key] for record in records], dim))
    return stacked
