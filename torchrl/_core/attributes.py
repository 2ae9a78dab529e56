"""Attributes that are looked up in several places, without hiding the errors of properties.

Python calls ``__getattr__`` also where a property of the class has raised an AttributeError. Where
``__getattr__`` then looks elsewhere, or raises an error of its own, the cause is lost.
"""

from __future__ import annotations

from typing import Any

from torch import nn


def is_class_attribute(owner: object, name: str) -> bool:
    """Return whether the class of an object defines an attribute: if ``__getattr__`` runs, its getter raised.

    >>> is_class_attribute(1, "real"), is_class_attribute(1, "length")
    (True, False)
    """
    return any(name in vars(kind) for kind in type(owner).__mro__)


def module_attribute(module: nn.Module, name: str) -> Any:
    """Return a submodule, a parameter or a buffer: for use as ``__getattr__`` of a class.

    Raises:
        AttributeError: the one that a property of that name raised, or that there is none.

    >>> class Net(nn.Module):
    ...     __getattr__ = module_attribute
    ...
    ...     @property
    ...     def size(self):
    ...         return self.weight.shape
    >>> Net().size
    Traceback (most recent call last):
    AttributeError: 'Net' object has no attribute 'weight'
    """
    try:
        return nn.Module.__getattr__(module, name)
    except AttributeError:
        if not is_class_attribute(module, name):
            raise
    return object.__getattribute__(module, name)
