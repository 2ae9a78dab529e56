"""Helpers of training scripts: devices, versions, environment variables, compilation, seeds."""

from __future__ import annotations

import importlib
import math
import os
import re
from collections.abc import Callable, Iterable
from contextlib import ContextDecorator
from functools import partial, wraps
from types import ModuleType
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch

from torchrl._core.errors import describe
from torchrl._core.log import logger
from torchrl._core.timing import set_profiling_enabled, timeit

F = TypeVar("F", bound=Callable[..., Any])
torchrl_logger = logger

__all__ = [
    "RL_WARNINGS",
    "VERBOSE",
    "auto_unwrap_transformed_env",
    "compile_with_warmup",
    "get_available_device",
    "get_binary_env_var",
    "implement_for",
    "logger",
    "prod",
    "seed_generator",
    "set_auto_unwrap_transformed_env",
    "set_profiling_enabled",
    "strtobool",
    "timeit",
    "torchrl_logger",
]


# --- environment variables -----------------------------------------------------------------------

_WORDS = {
    **dict.fromkeys(("y", "yes", "t", "true", "on", "1"), True),
    **dict.fromkeys(("n", "no", "f", "false", "off", "0", ""), False),
}


def strtobool(text: str | bool) -> bool:
    """Return the truth value of a word: yes, true, on, 1 or no, false, off, 0, in any case.

    Raises:
        ValueError: for any other word.

    >>> strtobool("Yes"), strtobool("0")
    (True, False)
    """
    word = str(text).strip().lower()
    if word not in _WORDS:
        raise ValueError(describe("strtobool", "is not a truth value", key=text, expected=f"one of {list(_WORDS)}"))
    return _WORDS[word]


def get_binary_env_var(name: str, default: bool = False) -> bool:
    """Return the truth value of an environment variable; ``default`` if it is not set.

    Raises:
        ValueError: if it holds a word that is no truth value.

    >>> get_binary_env_var("A_VARIABLE_THAT_IS_NOT_SET")
    False
    """
    return strtobool(os.environ.get(name, default))


VERBOSE = get_binary_env_var("VERBOSE")
RL_WARNINGS = get_binary_env_var("RL_WARNINGS", True)


# --- nested transformed environments -------------------------------------------------------------

_VARIABLE = "AUTO_UNWRAP_TRANSFORMED_ENV"
_auto_unwrap: list[bool | None] = [get_binary_env_var(_VARIABLE) if _VARIABLE in os.environ else None]


def auto_unwrap_transformed_env(allow_none: bool = False) -> bool | None:
    """Return whether a ``TransformedEnv`` around another one was set to be built as one with all transforms.

    They are, too, if nothing has set it.

    Args:
        allow_none: Return ``None``, rather than false, if nothing has set it.

    >>> auto_unwrap_transformed_env(), auto_unwrap_transformed_env(allow_none=True)
    (False, None)
    """
    mode = _auto_unwrap[-1]
    return mode if allow_none or mode is not None else False


class set_auto_unwrap_transformed_env(ContextDecorator):  # noqa: N801 - used like a function
    """Set :func:`auto_unwrap_transformed_env` in a ``with`` block or a decorated function.

    ``.set()`` sets it until the next change. Without it, environments are unwrapped unless the
    environment variable ``AUTO_UNWRAP_TRANSFORMED_ENV`` says otherwise.

    Args:
        mode: Whether environments are unwrapped.

    >>> with set_auto_unwrap_transformed_env(True):
    ...     auto_unwrap_transformed_env()
    True
    """

    def __init__(self, mode: bool) -> None:
        self.mode = bool(mode)

    def __enter__(self) -> set_auto_unwrap_transformed_env:
        _auto_unwrap.append(self.mode)
        return self

    def __exit__(self, *error: object) -> None:
        _auto_unwrap.pop()

    def set(self) -> None:
        """Set the mode until the next change."""
        _auto_unwrap[-1] = self.mode


# --- devices and compilation ---------------------------------------------------------------------


def get_available_device(return_str: bool = False) -> torch.device | str:
    """Return the accelerator of this machine, the first of several, or the CPU.

    Args:
        return_str: Return its name.

    >>> get_available_device(return_str=True) == str(get_available_device())
    True
    """
    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device = torch.device("cpu") if kind is None else torch.device(kind.type, 0)
    return str(device) if return_str else device


def compile_with_warmup(model: F | None = None, *, warmup: int = 1, **kwargs: Any) -> F | Callable[[F], F]:
    """Return ``torch.compile(model)``, whose first calls run without compilation.

    Shapes and caches of the first calls, such as those of lazy layers, thus cause no compilation.

    Args:
        model: A function or module; without it, a decorator is returned.
        warmup: Number of calls before the compilation.
        **kwargs: Of :func:`torch.compile`.

    Raises:
        ValueError: if ``warmup`` is negative.

    >>> double = compile_with_warmup(lambda x: 2 * x, warmup=2)
    >>> double(torch.ones(1))
    tensor([2.])
    """
    if warmup < 0:
        raise ValueError(describe("compile_with_warmup", "counts calls", expected="warmup >= 0", found=warmup))
    if model is None:
        return partial(compile_with_warmup, warmup=warmup, **kwargs)  # type: ignore[return-value]
    calls, compiled = 0, None

    @wraps(model)
    def call(*args: object, **arguments: Any) -> Any:
        nonlocal calls, compiled
        if calls < warmup:
            calls += 1
            return model(*args, **arguments)
        if compiled is None:
            compiled = torch.compile(model, **kwargs)
        return compiled(*args, **arguments)

    return call


# --- versions ------------------------------------------------------------------------------------


def _release(version: str) -> list[int]:
    """Return the numbers of a version without trailing zeros: ``"2.10.0+cpu"`` is ``[2, 10]``."""
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return numbers


class implement_for:  # noqa: N801 - used like a function
    """Keep, of several functions of one name, the one for the installed version of a package.

    Args:
        module_name: Name of the package, or a function that imports and returns it.
        from_version: Lowest version, included; any if ``None``.
        to_version: Highest version, excluded; any if ``None``.
        class_method: Whether the function becomes a class method.
        compilable: Accepted for scripts that give it: the choice is made at the first call, and
            :func:`torch.compile` traces the function that was chosen.

    Raises:
        ModuleNotFoundError: at a call, if the package or a version of it is not installed.

    >>> @implement_for("torch", None, "1.0")
    ... def greet():
    ...     return "old"
    >>> @implement_for("torch", "1.0")
    ... def greet():
    ...     return "new"
    >>> greet()
    'new'
    """

    _known: ClassVar[dict[str, list[tuple[implement_for, Callable[..., Any]]]]] = {}
    _chosen: ClassVar[dict[str, Callable[..., Any]]] = {}

    def __init__(
        self,
        module_name: str | Callable[[], ModuleType],
        from_version: str | None = None,
        to_version: str | None = None,
        *,
        class_method: bool = False,
        compilable: bool = False,
    ) -> None:
        self.module_name, self.from_version, self.to_version = module_name, from_version, to_version
        self.class_method, self.compilable = class_method, compilable

    def __call__(self, function: Callable[..., Any]) -> Any:
        """Register an implementation; return the function that calls the chosen one."""
        self.name = name = self.get_func_name(function)
        self._known.setdefault(name, []).append((self, function))
        self._chosen.pop(name, None)

        @wraps(function)
        def call(*args: object, **kwargs: Any) -> Any:
            return (self._chosen.get(name) or self._choose(name))(*args, **kwargs)

        return classmethod(call) if self.class_method else call

    @classmethod
    def _choose(cls, name: str) -> Callable[..., Any]:
        for each, function in reversed(cls._known[name]):
            if each.fits():
                cls._chosen[name] = function
                return function
        names = sorted({str(each.module_name) for each, _ in cls._known[name]})
        fact = f"{name} has no implementation for the installed version of {', '.join(names)}"
        raise ModuleNotFoundError(describe(cls.__name__, fact))

    def fits(self) -> bool:
        """Return whether the package is installed in one of the versions."""
        try:
            version = self.import_module(self.module_name)
        except ImportError:
            return False
        return self.check_version(version, self.from_version, self.to_version)

    def module_set(self) -> None:
        """Use this implementation whatever version is installed, until :meth:`reset`."""
        self._chosen[self.name] = next(function for each, function in self._known[self.name] if each is self)

    @classmethod
    def reset(cls) -> None:
        """Choose again, at the next call of each function."""
        cls._chosen.clear()

    @staticmethod
    def get_func_name(function: Callable[..., Any]) -> str:
        """Return the name that all implementations of a function share."""
        return f"{function.__module__}.{function.__qualname__}"

    @staticmethod
    def import_module(module_name: str | Callable[[], ModuleType]) -> str:
        """Import a package and return its version."""
        module = importlib.import_module(module_name) if isinstance(module_name, str) else module_name()
        return str(module.__version__)

    @staticmethod
    def check_version(version: str, from_version: str | None = None, to_version: str | None = None) -> bool:
        """Return whether ``from_version <= version < to_version``.

        >>> implement_for.check_version("0.9", "0.10"), implement_for.check_version("1.2", "1.2", "2")
        (False, True)
        """
        number = _release(version)
        above = from_version is None or number >= _release(from_version)
        return above and (to_version is None or number < _release(to_version))


# --- numbers -------------------------------------------------------------------------------------


def prod(sequence: Iterable[float]) -> float:
    """Return the product of numbers, 1 if there are none.

    >>> prod([2, 3, 4])
    24
    """
    return math.prod(sequence)


def seed_generator(seed: int) -> int:
    """Return another seed, in [0, 2^32), that follows from ``seed`` alone.

    >>> seed_generator(7) == seed_generator(7) != 7
    True
    """
    return int(np.random.default_rng(seed).integers(2**32))
