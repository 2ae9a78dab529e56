"""What the constructors of all environments have in common, and descriptors of their classes."""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from torchrl._core.errors import describe

if TYPE_CHECKING:
    from torchrl.envs.base import EnvBase

# Keywords that every environment takes, also where its constructor does not name them.
OPTIONS = ("spec_locked", "auto_reset", "auto_reset_replace", "compile", "policy")


def names_argument(function: Callable[..., object], argument: str) -> bool:
    """Return whether a function has an argument of that name."""
    return argument in inspect.signature(function).parameters


def accept_options(init: Callable[..., None]) -> Callable[..., None]:
    """Let a constructor take the keywords of :data:`OPTIONS` that it does not name.

    They are applied after everything else. The outermost constructor then completes and locks the
    specs, which can be edited in place until then.
    """
    foreign = [name for name in OPTIONS if not names_argument(init, name)]

    @functools.wraps(init)
    def construct(self: EnvBase, *args: object, **kwargs: object) -> None:
        options = {name: kwargs.pop(name) for name in foreign if name in kwargs}
        depth = self.__dict__.get("_constructors", 0)
        self.__dict__["_constructors"] = depth + 1
        try:
            init(self, *args, **kwargs)
        finally:
            self.__dict__["_constructors"] = depth
        if not depth:
            self._close_specs()
        if options:
            self._apply_options(**options)

    return construct


class Reference(weakref.ref):
    """A reference that a copy of its holder, here or in another process, does not share."""

    def __reduce__(self) -> tuple:
        return type(None), ()


class ReadOnly:
    """Descriptor: a value of a class that cannot be assigned to its instances."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __get__(self, env: object, owner: type | None = None) -> object:
        return self.value

    def __set__(self, env: object, value: object) -> None:
        self.refuse(env)

    @staticmethod
    def refuse(env: object) -> NoReturn:
        """Raise the error of an assignment."""
        raise RuntimeError(describe(env, "cannot be assigned batch_locked", hint="Set it in the body of the class."))
