"""The base of wrappers of foreign environments, and which libraries are installed."""

from __future__ import annotations

import importlib.util
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch

from torchrl._core.attributes import is_class_attribute
from torchrl._core.devices import check_devices
from torchrl._core.errors import describe, nearest
from torchrl.envs.base import EnvBase

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


class EnvWrapper(EnvBase):
    """Wraps a foreign environment, ``_env``; attributes that it lacks are looked up there.

    Args:
        env: The foreign environment; passed to ``_build_env``.
        device: Device of what the environment returns.
        batch_size: Number of processes run at once; the foreign environment's own if ``None``.
        allow_done_after_reset: Accept an episode that is over after a reset.
        spec_locked: Refuse edits inside the specs.
        kwargs: Passed to ``_build_env``.

    Hooks:
        _build_env: ``**kwargs -> env``, the foreign environment.
        _make_specs: ``env -> None``; assign the specs.
    """

    git_url: str = ""
    libname: str = ""
    configuration: Collection[str] = ("_constructor_kwargs",)

    def __init__(
        self,
        env: Any = None,
        *,
        device: torch.device | str | int | None = None,
        batch_size: torch.Size | tuple[int, ...] | None = None,
        allow_done_after_reset: bool = False,
        spec_locked: bool = True,
        **kwargs: Any,
    ) -> None:
        check_devices(self, device=device)
        super().__init__(
            device=device, batch_size=batch_size, allow_done_after_reset=allow_done_after_reset, spec_locked=spec_locked
        )
        if env is not None:
            kwargs["env"] = env
        self._constructor_kwargs = kwargs
        self._env = self._build_env(**kwargs)
        self._make_specs(self._env)

    @abstractmethod
    def _build_env(self, *args: Any, **kwargs: Any) -> Any: ...

    @abstractmethod
    def _make_specs(self, env: Any) -> None: ...

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError as error:
            foreign = self.__dict__.get("_env")
            if is_class_attribute(self, name):
                raise
            if (
                foreign is None
                or name.startswith("_")
                or not (hasattr(foreign, name) or is_class_attribute(foreign, name))
            ):
                raise AttributeError(f"neither {type(self).__name__} nor what it wraps has {name!r}") from (
                    error if foreign is None else None
                )
            return getattr(foreign, name)

    def close(self, *, raise_if_closed: bool = False) -> None:
        """Close the foreign environment."""
        was_closed = self.is_closed
        super().close(raise_if_closed=raise_if_closed)
        if not was_closed and (close := getattr(self._env, "close", None)) is not None:
            close()

    def __repr__(self) -> str:
        env = self.__dict__.get("env_name", self._env)
        return f"{type(self).__name__}(env={env}, batch_size={self.batch_size}, device={self.device})"


def take_options(kwargs: dict[str, Any], *more: str) -> dict[str, Any]:
    """Take the options of :class:`EnvWrapper`, and some more, out of keywords; return them.

    >>> kwargs = {"device": "cpu", "size": 3}
    >>> take_options(kwargs), kwargs
    ({'device': 'cpu'}, {'size': 3})
    """
    names = ("device", "batch_size", "allow_done_after_reset", "spec_locked", *more)
    return {name: kwargs.pop(name) for name in names if name in kwargs}


def wrong_kind(wrapper: object, env: object, expected: str, builder: str) -> TypeError:
    """Return the error of a wrapper that was given something else than it wraps.

    Args:
        wrapper: The wrapper.
        env: What it was given.
        expected: What it wraps.
        builder: The class that builds environments from their names.
    """
    return TypeError(
        describe(
            wrapper,
            "cannot present that",
            expected=expected,
            found=type(env).__name__,
            hint=f"To build an environment from its name use {builder}.",
        )
    )


def unknown_name(wrapper: object, what: str, name: str, known: Iterable[str]) -> ValueError:
    """Return the error of a wrapper that was asked for something that its library does not have.

    Args:
        wrapper: The wrapper.
        what: What was asked for, such as ``"environment"``.
        name: Its name.
        known: The names that there are.
    """
    hint = f"{nearest(name, known)} available_envs lists them all.".lstrip()
    return ValueError(describe(wrapper, f"knows no {what} {name!r}", hint=hint))


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
    """Descriptor: the names of the environments of a library, looked up at each access.

    There are none where the library is not installed.

    Args:
        names: Returns them.
        module: The module that the library is imported as; always there if empty.

    >>> class Env:
    ...     available_envs = Catalogue(lambda: ["Walk-v0"])
    >>> Env.available_envs
    ['Walk-v0']
    """

    def __init__(self, names: Callable[[], list[Any]], module: str = "") -> None:
        self.names, self.module = names, module

    def __get__(self, env: Any, owner: type | None = None) -> list[Any]:
        return self.names() if not self.module or is_installed(self.module) else []
