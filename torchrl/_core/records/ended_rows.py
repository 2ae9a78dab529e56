"""Rows of a batch that have ended, in which any action may be chosen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import torch
from torch import Tensor

ENDED_ROWS: ContextVar[Tensor | bool] = ContextVar("ended_rows", default=False)


@contextmanager
def ended_rows(flag: Tensor | bool) -> Iterator[None]:
    """Let policies choose anything in some rows, even where a mask allows no action.

    Args:
        flag: True ``[*B, 1]`` where the episode has ended; or ``True`` for every row, where what is
            chosen is evaluated rather than carried out.
    """
    token = ENDED_ROWS.set(flag)
    try:
        yield
    finally:
        ENDED_ROWS.reset(token)


def evaluating() -> AbstractContextManager[None]:
    """Let policies choose anything: terminal observations and padding are evaluated as well.

    Compiled code does not check masks.
    """
    return nullcontext() if torch.compiler.is_compiling() else ended_rows(True)


def without_choice(has_choice: Tensor) -> Tensor | None:
    """Return the rows ``[*B]`` that need a choice and have none; ``None`` if there are none.

    Args:
        has_choice: Whether a mask allows anything, ``[*B, 1]``.
    """
    ended = ENDED_ROWS.get()
    if ended is True or has_choice.all():
        return None
    stuck = ~has_choice
    if isinstance(ended, Tensor):
        lead = ended.shape[:-1]
        if stuck.shape[: len(lead)] == lead:  # the rows of an episode, and of agents within it
            stuck = stuck & ~ended.reshape(*lead, *(1,) * (stuck.ndim - len(lead)))
        if not stuck.any():
            return None
    return stuck.squeeze(-1)
