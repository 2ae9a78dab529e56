"""The base of environments that stand in front of a foreign one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import torch

from torchrl._core.devices import check_devices
from torchrl._core.errors import describe, nearest
from torchrl.envs.common import EnvBase


class EnvWrapper(EnvBase):
    """Presents a foreign environment, found under ``_env``; what we lack is looked up there.

    Args:
        device: Device of what the environment returns.
        batch_size: Number of processes run at once; the foreign environment's own if ``None``.
        allow_done_after_reset: Accept an episode that is over when it begins.
        spec_locked: Refuse edits inside the specs.
        kwargs: Handed to ``_build_env``.

    Hooks:
        _build_env: ``**kwargs -> env``, the foreign environment.
        _make_specs: ``env -> None``; assign the specs.
    """

    git_url: str = ""
    libname: str = ""

    def __init__(
        self,
        *,
        device: torch.device | str | int | None = None,
        batch_size: torch.Size | tuple[int, ...] | None = None,
        allow_done_after_reset: bool = False,
        spec_locked: bool = True,
        **kwargs: Any,
    ) -> None:
        check_devices(self, device=device)
        super().__init__(
            device=device,
            batch_size=batch_size,
            allow_done_after_reset=allow_done_after_reset,
            spec_locked=spec_locked,
        )
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
            if foreign is None or name.startswith("_") or not hasattr(foreign, name):
                raise AttributeError(
                    f"neither {type(self).__name__} nor what it wraps has {name!r}"
                ) from (error if foreign is None else None)
            return getattr(foreign, name)

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close the foreign environment."""
        super().close(raise_if_closed=raise_if_closed)
        if (close := getattr(self._env, "close", None)) is not None:
            close()

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(env={self._env}, batch_size={self.batch_size}, "
            f"device={self.device})"
        )


def take_options(kwargs: dict[str, Any], *more: str) -> dict[str, Any]:
    """Take the options of :class:`EnvWrapper`, and some more, out of keywords; return them.

    >>> kwargs = {"device": "cpu", "size": 3}
    >>> take_options(kwargs), kwargs
    ({'device': 'cpu'}, {'size': 3})
    """
    names = ("device", "batch_size", "allow_done_after_reset", "spec_locked", *more)
    return {name: kwargs.pop(name) for name in names if name in kwargs}


def wrong_kind(wrapper: object, env: object, expected: str, builder: str) -> TypeError:
    """Return the error of a wrapper that was handed something else than it wraps.

    Args:
        wrapper: The wrapper.
        env: What it was handed.
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
