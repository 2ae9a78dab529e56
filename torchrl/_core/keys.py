"""Names of tensordict entries: how a component declares what it reads, and what if it is absent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import field, fields
from typing import Any

from tensordict import NestedKey, TensorDictBase, unravel_key

from torchrl._core.errors import MissingKeyError, describe, nearest
from torchrl._core.records.flat_record import Record


def read(name: NestedKey) -> Any:
    """Declare an entry read at the root: ``td[name]``.

    Args:
        name: Default name of the entry.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Keys:
    ...     action: NestedKey = read("action")
    >>> Keys().action, Keys(action=("agents", "action")).action
    ('action', ('agents', 'action'))
    """
    return field(default=name, metadata={"at": "root"})


def read_next(name: NestedKey) -> Any:
    """Declare an entry read under ``"next"``: ``td["next", name]``.

    Args:
        name: Default name of the entry, without ``"next"``.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Keys:
    ...     reward: NestedKey = read_next("reward")
    >>> inputs(Keys())
    [('next', 'reward')]
    """
    return field(default=name, metadata={"at": "next"})


def write(name: NestedKey) -> Any:
    """Declare an entry that the component writes or uses inside.

    Args:
        name: Default name of the entry.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Keys:
    ...     action: NestedKey = read("action")
    ...     priority: NestedKey = write("td_error")
    >>> inputs(Keys())  # what is written is no input
    ['action']
    """
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
    """Return the key of the entry ``key`` after the step.

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


def is_private(key: NestedKey) -> bool:
    """Return whether a name in ``key`` starts with an underscore: such entries are not recorded by collectors.

    >>> is_private("_reset"), is_private(("next", "reward"))
    (True, False)
    """
    return any(str(name).startswith("_") for name in ((key,) if isinstance(key, str) else key))


def as_keys(keys: NestedKey | Sequence[NestedKey] | None) -> list[NestedKey]:
    """Return a list of keys from one key, several or none; a tuple is one nested key, or none if empty.

    >>> as_keys("a"), as_keys(("b", "c")), as_keys(["a", ("b", "c")]), as_keys(None)
    (['a'], [('b', 'c')], ['a', ('b', 'c')], [])
    """
    if keys is None:
        return []
    if isinstance(keys, str | tuple):
        return [unravel_key(keys)] if keys else []
    return [unravel_key(key) for key in keys]


def groups_of(keys: Iterable[NestedKey]) -> set[NestedKey]:
    """Return every group that holds one of the keys.

    >>> sorted(groups_of(["a", ("b", "c"), ("d", "e", "f")]), key=str)
    [('d', 'e'), 'b', 'd']
    """
    groups: set[NestedKey] = set()
    for key in keys:
        if isinstance(key, tuple) and len(key) > 1:
            groups.add(key[0])
            for depth in range(2, len(key)):
                groups.add(key[:depth])
    return groups


def leaf_keys(record: Record) -> list[NestedKey]:
    """Return the keys of every leaf, sorted by their text; those of a flat record are all."""
    keys = record.keys(True, True) if isinstance(record, TensorDictBase) else record.keys()
    return sorted(keys, key=str)


def require(
    tensordict: Record,
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


class kept_keys:  # noqa: N801 - a decorator, like ``functools.cached_property``
    """A property that is computed once; unlike ``cached_property`` without a lock, for dynamo."""

    def __init__(self, collect: Callable[[Any], list[NestedKey]]) -> None:
        self.collect, self.__doc__ = collect, collect.__doc__

    def __get__(self, loss: Any, owner: type | None = None) -> Any:
        if loss is None:
            return self
        keys = loss.__dict__[self.collect.__name__] = self.collect(loss)
        return keys
