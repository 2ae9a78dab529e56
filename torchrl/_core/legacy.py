"""Old names, paths and keywords: the mechanism; their tables are in the subpackages."""

from __future__ import annotations

import importlib
import importlib.abc
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from importlib.machinery import ModuleSpec
from types import FunctionType, ModuleType
from typing import Any, TypeVar, cast

from torchrl._core.errors import describe, nearest

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)


def old_names(module: str, table: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a module that supports old names.

    Args:
        module: Name of the module that has the ``__getattr__``.
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


class _OldPaths(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Importer of old module paths: an empty module that takes each name from the current one."""

    def __init__(self, root: str, table: Mapping[str, str]) -> None:
        self.table = {f"{root}.{old}": f"{root}.{new}".rstrip(".") for old, new in table.items()}

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if fullname not in self.table:
            return None
        return ModuleSpec(fullname, self, origin=self.table[fullname], is_package=True)

    def exec_module(self, module: ModuleType) -> None:
        new = self.table[module.__name__]

        def __getattr__(name: str) -> Any:  # noqa: N807 - becomes that of the old path
            if name.startswith("__") and name != "__all__":  # its own spec, path and the like
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            return getattr(importlib.import_module(new), name)

        vars(module).update(__doc__=f"Old path of ``{new}``.", __getattr__=__getattr__)


def old_paths(root: str, table: Mapping[str, str]) -> None:
    """Make old module paths importable; the current module is imported at the first use.

    Args:
        root: Name of the package that all paths are below.
        table: Old path to new, both below ``root``; ``""`` is ``root`` itself.

    >>> old_paths("json", {"reading": "decoder"})
    >>> from json.reading import JSONDecoder
    >>> JSONDecoder.__module__
    'json.decoder'
    """
    sys.meta_path.append(_OldPaths(root, table))


def old_attributes(table: Mapping[str, str]) -> Callable[[C], C]:
    """Give a class, and its subclasses, old names of attributes and methods.

    Args:
        table: Old name to new.

    >>> @old_attributes({"minimum": "low"})
    ... class Range:
    ...     low = 0
    >>> Range().minimum
    0
    """

    def decorate(cls: C) -> C:
        for old, new in table.items():
            setattr(cls, old, vars(cls)[new])
        cls.old_attributes = dict(table)  # type: ignore[attr-defined]  # for the page that lists them
        return cls

    return decorate


_UNKNOWN = re.compile(r"(\S+)\(\) got an unexpected keyword argument '(\w+)'")


def _arguments_of(cls: type, name: str) -> list[str]:
    """Return the keywords of a method, and those of base classes that it passes on."""
    methods = [vars(base)[name] for base in cls.__mro__ if name in vars(base)]
    functions = [method for method in methods if isinstance(method, FunctionType)]
    keywords = [key for f in functions for key in inspect.signature(f).parameters]
    return [key for key in dict.fromkeys(keywords) if key not in ("self", "args", "kwargs", "options")]


def old_keywords(**table: str | None) -> Callable[[F], F]:
    """Make a function accept old keywords: ``@old_keywords(entropy_coef="entropy_coeff")``.

    A keyword with ``None`` is accepted and ignored, since it does not change the result. An unknown
    argument is an error that names the class and the nearest argument.

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
        def call(*args: object, **kwargs: Any) -> Any:
            for old in table.keys() & kwargs.keys():
                new = table[old]
                if new is None:
                    kwargs.pop(old)
                    continue
                if new in kwargs:
                    raise TypeError(f"{function.__name__}() got both {new!r} and its old name {old!r}")
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
