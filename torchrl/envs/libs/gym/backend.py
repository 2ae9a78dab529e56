"""The package that builds gym environments."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from torchrl._core.optional import require_package

BACKENDS = ("gymnasium", "gym")
_active: list[str] = ["gymnasium"]


def gym_backend(submodule: str | None = None) -> ModuleType:
    """Return the active gym-like package, or one of its submodules.

    Args:
        submodule: Its name, such as ``"spaces"``; the package itself if ``None``.

    >>> gym_backend("spaces").__name__
    'gymnasium.spaces'
    """
    package = require_package(_active[-1], needed_by="GymEnv")
    return package if submodule is None else importlib.import_module(f"{_active[-1]}.{submodule}")


class set_gym_backend:  # noqa: N801 - a public name
    """Choose the gym-like package; a context manager and a decorator, with ``set()`` permanently.

    Args:
        backend: The package, or its name: ``"gymnasium"`` or, from version 0.26 on, ``"gym"``. It
            is imported when an environment is built.

    Raises:
        ValueError: for another package.

    >>> with set_gym_backend("gymnasium"):
    ...     gym_backend().__name__
    'gymnasium'
    """

    def __init__(self, backend: str | ModuleType) -> None:
        name = backend if isinstance(backend, str) else backend.__name__
        if name not in BACKENDS:
            raise ValueError(
                f"set_gym_backend: expected one of {list(BACKENDS)}, found {name!r}. Environments "
                "of an older gym run through gymnasium's GymV21Environment-v0."
            )
        self.backend = name

    def set(self) -> None:
        """Use it until the next call."""
        _active[-1] = self.backend

    def __enter__(self) -> set_gym_backend:
        _active.append(self.backend)
        return self

    def __exit__(self, *exc: object) -> None:
        _active.pop()

    def __call__(self, function: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(function)
        def call(*args: object, **kwargs: object) -> Any:
            with set_gym_backend(self.backend):
                return function(*args, **kwargs)

        return call
