"""What the class of a component promises of its methods, so that a faster path may be taken.

A class declares a capability with ``name = True`` in its body, or with a property. Subclasses
inherit it until one of them overrides a method or an attribute of the class that declares it: what
was promised of the old method need not hold for the new one. Such a class may declare it again.
Abstract methods are there to be filled, and ``__init__`` may be overridden.

=========================  =========================================================================
``supports_flat_records``  Touches its record only by ``get``, ``set``, ``[key]``, ``pop``,
                           ``update`` and ``copy``, so that the record may be a flat dictionary.
``deferrable``             What it writes can be written into many steps at once.
``partial_reset_safe``     A partial reset returns the rows that are not reset as they were.
``reads_action_only``      A step reads nothing but the action, and a reset nothing but its mask.
=========================  =========================================================================
"""

from __future__ import annotations

from functools import cache
from typing import Any

_OF_CALLS = {"__call__", "__new__", "__getattr__", "__getattribute__", "__setattr__"}


def supports(component: object, name: str) -> bool:
    """Return whether a component has a capability.

    An instance that lacks what its class promises sets the attribute to ``False``.

    Args:
        component: An environment, a transform, a module or another part.
        name: Name of the capability, an attribute of the class, such as ``"supports_flat_records"``.

    >>> class Reader:
    ...     supports_flat_records = True
    ...     def read(self): ...
    >>> class Same(Reader): ...
    >>> class Other(Reader):
    ...     def read(self): ...
    >>> supports(Same(), "supports_flat_records"), supports(Other(), "supports_flat_records")
    (True, False)
    """
    declared = _declared(type(component), name)  # type: ignore[arg-type]  # a class is hashable
    if isinstance(declared, property):
        return bool(declared.__get__(component))
    return declared is True and getattr(component, "__dict__", {}).get(name, True) is True


def is_unchanged(kind: type, owner: type) -> bool:
    """Return whether a class is ``owner``, or a subclass that overrides nothing of it."""
    order = kind.__mro__
    return owner in order and not _overrides(list(order[: order.index(owner)]), owner)


@cache
def _declared(kind: type, name: str) -> Any:
    """Return what a class declares, or inherits from one of which it overrides nothing."""
    below: list[type] = []
    for owner in kind.__mro__:
        if name in owner.__dict__:
            return owner.__dict__[name] if not _overrides(below, owner) else False
        below.append(owner)
    return False


def _overrides(classes: list[type], owner: type) -> bool:
    """Return whether classes redefine something that ``owner`` has and that is not abstract."""
    return any(
        hasattr(owner, attribute) and not getattr(getattr(owner, attribute), "__isabstractmethod__", False)
        for kind in classes
        for attribute in kind.__dict__
        if attribute in _OF_CALLS or not attribute.startswith(("__", "_abc_"))
    )
