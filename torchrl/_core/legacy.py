"""Old names. What is old is data: a table beside each subpackage; this is the one mechanism."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from types import FunctionType
from typing import Any, TypeVar, cast

from torchrl._core.errors import describe, nearest

F = TypeVar("F", bound=Callable[..., Any])


def old_names(module: str, table: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a module that still answers to old names.

    Args:
        module: Name of the module that gets the ``__getattr__``.
        table: Old name to new; the new one is looked up in ``module``, or, written
            ``"package.module:name"``, elsewhere.

    >>> import types, sys
    >>> zoo = sys.modules["zoo"] = types.ModuleType("zoo")
    >>> zoo.Composite, zoo.__getattr__ = dict, old_names("zoo", {"CompositeSpec": "Composite"})
    >>> zoo.CompositeSpec
    <class 'dict'>
    >>> zoo.Composit
    Traceback (most recent call last):
    AttributeError: module 'zoo' has no attribute 'Composit'. Did you mean 'Composite'?
    """

    def __getattr__(name: str) -> Any:  # noqa: N807 - becomes that of a module
        if name in table:
            home, _, new = table[name].rpartition(":")
            return getattr(importlib.import_module(home) if home else sys.modules[module], new)
        public = [n for n in (*vars(sys.modules[module]), *table) if not n.startswith("_")]
        hint = "" if name.startswith("_") else nearest(name, public)
        raise AttributeError(f"module {module!r} has no attribute {name!r}. {hint}".rstrip(". "))

    def exact(name: str) -> Any:
        try:
            return __getattr__(name)
        except AttributeError as error:
            raise AttributeError(*error.args, name=name, obj=sys.modules[module]) from None

    return exact


def moved(module: str, home: str) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of an old path, behind which stands all of another module.

    Args:
        module: Name of the module that gets the ``__getattr__``.
        home: Name of the module where its content lives now, old names included.

    >>> moved("torchrl.costs", "math")("pi")
    3.141592653589793
    """

    def __getattr__(name: str) -> Any:  # noqa: N807 - becomes that of a module
        if name.startswith("__") and name != "__all__":  # its own spec, path and the like
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return getattr(importlib.import_module(home), name)

    return __getattr__


_UNKNOWN = re.compile(r"(\S+)\(\) got an unexpected keyword argument '(\w+)'")


def _arguments_of(cls: type, name: str) -> list[str]:
    """Return the keywords that a method takes, those of base classes that it passes on too."""
    methods = [vars(base)[name] for base in cls.__mro__ if name in vars(base)]
    functions = [method for method in methods if isinstance(method, FunctionType)]
    keywords = [key for f in functions for key in inspect.signature(f).parameters]
    return [
        key for key in dict.fromkeys(keywords) if key not in ("self", "args", "kwargs", "options")
    ]


def old_keywords(**table: str | None) -> Callable[[F], F]:
    """Let a function answer to old keywords: ``@old_keywords(entropy_coef="entropy_coeff")``.

    ``None`` stands for a choice that is gone because any answer to it gives the same result. An
    argument that a method does not know is an error that names the class and the nearest argument.

    >>> @old_keywords(minimum="low")
    ... def bounded(*, low):
    ...     return low
    >>> bounded(minimum=1)
    1
    >>> bounded(minimum=1, low=2)
    Traceback (most recent call last):
    TypeError: bounded() got both 'low' and its old name 'minimum'
    """

    def decorate(function: F) -> F:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for old in table.keys() & kwargs.keys():
                new = table[old]
                if new is None:
                    kwargs.pop(old)
                    continue
                if new in kwargs:
                    raise TypeError(
                        f"{function.__name__}() got both {new!r} and its old name {old!r}"
                    )
                kwargs[new] = kwargs.pop(old)
            try:
                return function(*args, **kwargs)
            except TypeError as error:
                unknown = _UNKNOWN.match(str(error))
                if unknown is None or unknown[1] != function.__qualname__ or not args:
                    raise
                names = _arguments_of(type(args[0]), function.__name__)
                hint = nearest(unknown[2], names)
                fact = f"has no argument {unknown[2]!r}"
                raise TypeError(describe(args[0], fact, hint=hint)) from None

        vars(call)["old_keywords"] = table  # for the page that lists them
        return cast(F, call)

    return decorate
