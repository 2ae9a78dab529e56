"""Whether recurrent modules take whole sequences or one step at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Any, TypeVar, cast

import torch

from torchrl._core.errors import describe

F = TypeVar("F", bound=Callable[..., Any])
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
    """Return whether recurrent modules take whole sequences now; ``None``: each its own default.

    >>> print(recurrent_mode())
    None
    >>> with set_recurrent_mode(True):
    ...     recurrent_mode()
    True
    """
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
            raise ValueError(describe(self, "has no such mode", expected=[True, False, *_MODES], found=mode))
        self.mode = mode if isinstance(mode, bool) else _MODES[mode]

    def __enter__(self) -> None:
        _mode.stack.append(self.mode)
        _last_mode[0] = self.mode

    def __exit__(self, *error: object) -> None:
        _mode.stack.pop()
        _last_mode[0] = _mode.stack[-1]

    def __call__(self, function: F) -> F:
        """Decorate a function."""

        @wraps(function)
        def call(*args: object, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return cast(F, call)


PRECISIONS = ("ieee", "tf32", "tf32x3")
_precision: list[str | None] = [None]


def check_precision(owner: object, precision: str | None) -> None:
    """Raise ValueError unless ``precision`` is known or ``None``."""
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(describe(owner, "has no such precision", expected=list(PRECISIONS), found=precision))


def set_recurrent_matmul_precision(precision: str | None) -> None:
    """Set how recurrent modules compute float32 products in sequences on a GPU, where they are not told otherwise.

    Args:
        precision: ``"ieee"`` (all digits), ``"tf32"`` (fast, ten bits) or ``"tf32x3"``, which is computed as
            ``"ieee"``; ``None`` leaves it to :mod:`torch.backends`.

    Raises:
        ValueError: if it is none of these.

    >>> set_recurrent_matmul_precision("ieee")
    >>> get_recurrent_matmul_precision()
    'ieee'
    >>> set_recurrent_matmul_precision(None)
    """
    check_precision("set_recurrent_matmul_precision", precision)
    _precision[0] = precision


def get_recurrent_matmul_precision() -> str | None:
    """Return what :func:`set_recurrent_matmul_precision` set; ``None`` if nothing.

    >>> get_recurrent_matmul_precision() is None
    True
    """
    return _precision[0]


def matmul_precision(precision: str | None, device: torch.device) -> AbstractContextManager[None]:
    """Return a context with a precision of products, or the one that is set for all, on a device."""
    precision = precision or _precision[0]
    return nullcontext() if precision is None or device.type != "cuda" else _with_precision(precision)


@contextmanager
def _with_precision(precision: str) -> Iterator[None]:
    value = "tf32" if precision == "tf32" else "ieee"
    places: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn.rnn]
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = value
        yield
    finally:
        for place, old in zip(places, before, strict=True):
            place.fp32_precision = old


def branch_mode() -> str | None:
    """Return where the second half of a sequence branches off the first; ``None``: it continues it."""
    return _last_branch[0] if torch.compiler.is_compiling() else _mode.branches[-1]


class branches:  # noqa: N801 - reads like the noun that it is
    """Give sequences ``[*B, 2 T]`` another meaning, in a ``with`` block: steps and alternatives.

    The first ``T`` rows are a sequence. Each of the others is a single step of its own, with the
    state that the sequence has after (or before) the row of the same number. A critic thus values
    the next step of each row, or another action in it, given the history. Modules with ``takes_branches`` support this.

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
