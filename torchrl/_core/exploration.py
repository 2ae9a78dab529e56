"""The exploration type: whether policies draw an action, or take the mode or mean."""

from __future__ import annotations

from tensordict.nn import InteractionType as ExplorationType
from tensordict.nn import set_interaction_type
from tensordict.nn.probabilistic import interaction_type as exploration_type

__all__ = [
    "ExplorationType",
    "exploration_mode",
    "exploration_type",
    "is_exploring",
    "set_exploration_mode",
    "set_exploration_type",
]


def is_exploring() -> bool:
    """Return whether noise is on: the exploration type is ``RANDOM`` or not set."""
    return exploration_type() in (ExplorationType.RANDOM, None)


class set_exploration_type(set_interaction_type):  # noqa: N801 - used like a function
    """Set how actions are chosen from their distribution; a context manager and a decorator.

    ``RANDOM`` draws a sample and explores; ``MODE``, ``MEAN``, ``MEDIAN`` and ``DETERMINISTIC``
    (the best of these that the distribution has) take that value and switch exploration off.

    Args:
        type: An :class:`ExplorationType`, its name in any case, or ``None`` for each module's own
            default. ``.set()`` sets it until the next change.
        thread_local: Set it for the calling thread only.

    Raises:
        ValueError: if ``type`` is not the name of an exploration type.

    >>> with set_exploration_type("mean"):
    ...     exploration_type()
    <InteractionType.MEAN: 'mean'>
    """

    def __init__(
        self, type: ExplorationType | str | None = ExplorationType.DETERMINISTIC, *, thread_local: bool = False
    ) -> None:
        super().__init__(_parse(type), thread_local=thread_local)

    def set(self) -> None:
        """Set the type until the next change."""
        self.__enter__()


def _parse(type: ExplorationType | str | None) -> ExplorationType | None:
    if type is None or isinstance(type, ExplorationType):
        return type
    names = [member.value for member in ExplorationType]
    if not isinstance(type, str) or type.lower() not in names:
        raise ValueError(f"set_exploration_type: expected one of {names} or None, found {type!r}.")
    return ExplorationType(type.lower())


set_exploration_mode = set_exploration_type


def exploration_mode() -> str | None:
    """Return the name of the exploration type, as in earlier releases.

    >>> with set_exploration_mode("mode"):
    ...     exploration_mode()
    'mode'
    """
    current = exploration_type()
    return None if current is None else current.value
