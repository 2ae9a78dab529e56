"""Names of tensordict entries: how a component declares what it reads, and what if it is absent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import field, fields
from typing import Any

from tensordict import NestedKey, TensorDictBase, unravel_key

from torchrl._core.errors import MissingKeyError, describe, nearest


def read(name: NestedKey) -> Any:
    """Declare an entry read at the root: ``td[name]``."""
    return field(default=name, metadata={"at": "root"})


def read_next(name: NestedKey) -> Any:
    """Declare an entry read under ``"next"``: ``td["next", name]``."""
    return field(default=name, metadata={"at": "next"})


def write(name: NestedKey) -> Any:
    """Declare an entry that the component writes or uses inside."""
    return field(default=name, metadata={"at": None})


def inputs(accepted: Any) -> list[NestedKey]:
    """Return the entries that an instance of ``_AcceptedKeys`` declares as read."""
    at = [(getattr(accepted, f.name), f.metadata.get("at")) for f in fields(accepted)]
    return [
        next_key(key) if place == "next" else key
        for keys, place in at
        if place
        for key in (keys if isinstance(keys, list) else [keys])
    ]


def next_key(key: NestedKey) -> NestedKey:
    """Return where ``key`` stands after the step.

    >>> next_key("reward"), next_key(("agents", "reward"))
    (('next', 'reward'), ('next', 'agents', 'reward'))
    """
    return ("next", key) if isinstance(key, str) else ("next", *key)


def sibling(key: NestedKey, name: str) -> NestedKey:
    """Return the entry called ``name`` beside ``key``.

    >>> sibling("done", "terminated"), sibling(("agents", "done"), "_reset")
    ('terminated', ('agents', '_reset'))
    """
    return name if isinstance(key, str) else (*key[:-1], name)


def as_keys(keys: NestedKey | Sequence[NestedKey] | None) -> list[NestedKey]:
    """Return a list of keys from one key, several or none; a tuple is always one nested key.

    >>> as_keys("a"), as_keys(("b", "c")), as_keys(["a", ("b", "c")]), as_keys(None)
    (['a'], [('b', 'c')], ['a', ('b', 'c')], [])
    """
    if keys is None:
        return []
    if isinstance(keys, str | tuple):
        return [unravel_key(keys)]
    return [unravel_key(key) for key in keys]


def groups_of(keys: Iterable[NestedKey]) -> set[NestedKey]:
    """Return every group that holds one of the keys.

    >>> sorted(groups_of(["a", ("b", "c"), ("d", "e", "f")]), key=str)
    [('d', 'e'), 'b', 'd']
    """
    nested = (key for key in keys if isinstance(key, tuple))
    return {key[0] if depth == 1 else key[:depth] for key in nested for depth in range(1, len(key))}


def leaf_keys(tensordict: TensorDictBase | dict[NestedKey, Any]) -> list[NestedKey]:
    """Return the keys of every leaf, sorted by their text; those of a flat record are all."""
    keys: Any = tensordict if isinstance(tensordict, dict) else tensordict.keys(True, True)
    return sorted(keys, key=str)


def require(
    tensordict: TensorDictBase | dict[NestedKey, Any],
    keys: Iterable[NestedKey],
    reader: object,
    hint: str = "Collect that entry, or name yours with set_keys().",
) -> None:
    """Raise :class:`MissingKeyError`, with reader, key and remedy, unless every key is present."""
    for key in keys:
        if tensordict.get(key, None) is None:
            present = leaf_keys(tensordict)
            raise MissingKeyError(
                describe(
                    reader,
                    "is read but absent",
                    key=key,
                    expected="one of the entries at hand",
                    found=present,
                    hint=f"{nearest(key, present)} {hint}".strip(),
                )
            )
