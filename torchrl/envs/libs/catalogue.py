"""What there is to build: the environment libraries at hand, and the environments of each."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

# The module that each library is imported as.
LIBRARIES = {
    "gymnasium": "gymnasium",
    "ale_py": "ale_py",
    "minigrid": "minigrid",
    "dm_control": "dm_control",
    "pettingzoo": "pettingzoo",
    "vmas": "vmas",
    "envpool": "envpool",
    "brax": "brax",
    "jumanji": "jumanji",
    "open_spiel": "pyspiel",
}


def get_available_libraries() -> list[str]:
    """Return the names of the environment libraries that are installed.

    >>> "gymnasium" in get_available_libraries()
    True
    """
    return [name for name, module in LIBRARIES.items() if is_installed(module)]


def is_installed(module: str) -> bool:
    """Return whether a module can be imported, without importing it.

    >>> is_installed("no_such_package")
    False
    """
    return importlib.util.find_spec(module) is not None


class Catalogue:
    """Descriptor: the environments of a library, looked up whenever they are asked for.

    Args:
        names: Returns them.

    >>> class Env:
    ...     available_envs = Catalogue(lambda: ["Walk-v0"])
    >>> Env.available_envs
    ['Walk-v0']
    """

    def __init__(self, names: Callable[[], list[Any]]) -> None:
        self.names = names

    def __get__(self, env: Any, owner: type | None = None) -> list[Any]:
        return self.names()
