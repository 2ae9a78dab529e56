"""Which gym-like package builds the environments."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from torchrl._core.optional import require_package

_BACKENDS = ("gymnasium",)
_active: list[str] = ["gymnasium"]


def gym_backend(submodule: str | None = None) -> ModuleType:
    """Return the active gym-like package, or one of its submodules.

    >>> gym_backend("spaces").__name__
    'gymnasium.spaces'
    """
    package = require_package(_active[-1], needed_by="GymEnv")
    return package if submodule is None else importlib.import_module(f"{_active[-1]}.{submodule}")


class set_gym_backend:  # noqa: N801 - a public name
    """Choose the gym-like package; a context manager and a decorator, with ``set()`` for good.

    Args:
        backend: The package, or its name; ``"gymnasium"`` is the one there is.

    Raises:
        ValueError: for another package.

    >>> with set_gym_backend("gymnasium"):
    ...     gym_backend().__name__
    'gymnasium'
    """

    def __init__(self, backend: str | ModuleType) -> None:
        name = backend if isinstance(backend, str) else backend.__name__
        if name not in _BACKENDS:
            raise ValueError(
                f"set_gym_backend: expected one of {list(_BACKENDS)}, found {name!r}. Environments "
                "of the old gym package run through gymnasium's GymV26Environment-v0."
            )
        self.backend = name

    def set(self) -> None:
        """Make it hold until further notice."""
        _active[-1] = self.backend

    def __enter__(self) -> set_gym_backend:
        _active.append(self.backend)
        return self

    def __exit__(self, *exc: object) -> None:
        _active.pop()

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with set_gym_backend(self.backend):
                return function(*args, **kwargs)

        return call
