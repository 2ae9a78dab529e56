"""Whether recurrent modules take whole sequences or one step at a time."""

from __future__ import annotations

import threading
from functools import wraps
from typing import Any

import torch

from torchrl._core.errors import describe

_MODES = {"recurrent": True, "sequential": False}


class _Mode(threading.local):
    """The modes that were entered and not left yet, in each thread."""

    def __init__(self) -> None:
        self.stack: list[bool | None] = [None]
        self.branches: list[str | None] = [None]


_mode = _Mode()
_last_branch: list[str | None] = [None]
_last_mode: list[bool | None] = [None]  # of any thread: what a compiled graph can guard on


def recurrent_mode() -> bool | None:
    """Return whether recurrent modules take whole sequences now; ``None``: each its own default."""
    return _last_mode[0] if torch.compiler.is_compiling() else _mode.stack[-1]


class set_recurrent_mode:  # noqa: N801 - reads like the verb that it is
    """Make recurrent modules take whole sequences, in a ``with`` block or a decorated function.

    Args:
        mode: True or ``"recurrent"``: sequences ``[*B, T]``; false or ``"sequential"``: one step.

    Raises:
        ValueError: if the mode is unknown.

    >>> with set_recurrent_mode():
    ...     recurrent_mode()
    True
    """

    def __init__(self, mode: bool | str = True) -> None:
        if not isinstance(mode, bool) and mode not in _MODES:
            raise ValueError(
                describe(self, "has no such mode", expected=[True, False, *_MODES], found=mode)
            )
        self.mode = mode if isinstance(mode, bool) else _MODES[mode]

    def __enter__(self) -> None:
        _mode.stack.append(self.mode)
        _last_mode[0] = self.mode

    def __exit__(self, *error: object) -> None:
        _mode.stack.pop()
        _last_mode[0] = _mode.stack[-1]

    def __call__(self, function: Any) -> Any:
        """Decorate a function."""

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return call


def branch_mode() -> str | None:
    """Say where the second half of a sequence departs from the first; ``None``: it goes on."""
    return _last_branch[0] if torch.compiler.is_compiling() else _mode.branches[-1]


class branches:  # noqa: N801 - reads like the noun that it is
    """Give sequences ``[*B, 2 T]`` another meaning, in a ``with`` block: steps and alternatives.

    The first ``T`` rows are a sequence. Each of the others is a single step of its own, with the
    memory that the sequence has after (or before) the row of the same number, and no row follows
    it. So a critic values what follows each step, or another action there, with the memory of
    what happened. Modules with ``takes_branches`` understand this.

    Args:
        where: ``"after"`` or ``"before"`` the step of the same number.

    >>> with branches("after"):
    ...     branch_mode()
    'after'
    """

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None:
        _mode.branches.append(self.where)
        _last_branch[0] = self.where

    def __exit__(self, *error: object) -> None:
        _mode.branches.pop()
        _last_branch[0] = _mode.branches[-1]
