"""Run a list of contract checks and report which hold and which do not.

Every ``check_<kind>(make)`` of :mod:`torchrl.testing` is one call of :func:`run_checks`:

>>> def is_positive(make):
...     assert make() > 0, f"{make()} is not positive"
>>> def is_even(make):
...     assert make() % 2 == 0
>>> run_checks([is_positive, is_even], lambda: 4)
['is_positive', 'is_even']
>>> run_checks([is_positive, is_even], lambda: 3, name="three")
Traceback (most recent call last):
torchrl.testing.report.ContractError: three: 1 of 2 contract checks failed; held: is_positive
  is_even: ...
"""

from __future__ import annotations

import linecache
import re
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager


class ContractError(AssertionError):
    """Some contract checks failed.

    Args:
        name: Of the component.
        held: Names of the checks that passed.
        failed: The exception of each check that failed, by name.

    Attributes:
        held: Names of the checks that passed.
        failed: The exception of each check that failed, by name.

    >>> def check_is_positive(make):
    ...     assert make() > 0, "it is not positive"
    >>> try:
    ...     run_checks([check_is_positive], lambda: -1, name="number")
    ... except ContractError as error:
    ...     print(list(error.failed))
    ['is_positive']
    """

    def __init__(self, name: str, held: Sequence[str], failed: dict[str, Exception]) -> None:
        self.held, self.failed = list(held), failed
        total = len(held) + len(failed)
        lines = [f"{name}: {len(failed)} of {total} contract checks failed; held: {', '.join(held) or 'none'}"]
        lines += [f"  {check}: {_describe(error)}" for check, error in failed.items()]
        super().__init__("\n".join(lines))


def run_checks(
    checks: Sequence[Callable[..., None]],
    make: Callable[..., object],
    *args: object,
    skip: Collection[str] = (),
    name: str = "",
) -> list[str]:
    """Run all checks, also after one failed, and return the names of those that ran.

    Args:
        checks: Functions ``check(make, *args)`` that raise where the contract is broken.
        make: Builds the component under test, a new one at each call.
        *args: Passed to every check after ``make``.
        skip: Names of checks to leave out; a name that is no check's raises ``ValueError``.
        name: Of the component, for the message; by default the name of ``make``.

    Raises:
        ContractError: After the last check, if any failed, with the message of each.

    The name of a check is the name of its function, without a leading ``check_``.

    >>> def check_is_positive(make):
    ...     assert make() > 0
    >>> def check_is_even(make):
    ...     assert make() % 2 == 0
    >>> run_checks([check_is_positive, check_is_even], lambda: 4)
    ['is_positive', 'is_even']
    """
    names = [check_name(check) for check in checks]
    if unknown := sorted(set(skip) - set(names)):
        raise ValueError(f"skip names no contract check: {unknown}; there are {names}")
    held: list[str] = []
    failed: dict[str, Exception] = {}
    for check_as, check in zip(names, checks, strict=True):
        if check_as in skip:
            continue
        try:
            check(make, *args)
        except Exception as error:
            failed[check_as] = error
        else:
            held.append(check_as)
    if failed:
        name = name or getattr(make, "__qualname__", repr(make))
        raise ContractError(name, held, failed) from next(iter(failed.values()))
    return held


def check_name(check: Callable[..., object]) -> str:
    """Return the name under which a check is reported and skipped."""
    return check.__name__.removeprefix("check_")


@contextmanager
def raises(error: type[Exception] | tuple[type[Exception], ...], match: str = "") -> Iterator[None]:
    """Assert that the block raises ``error`` with a message in which ``match`` is found.

    The part of ``pytest.raises`` that contract checks need.

    >>> with raises(ValueError, match="no number"):
    ...     raise ValueError("'a' is no number")
    """
    message = None
    try:
        yield
    except error as found:
        message = str(found)
    kinds = error if isinstance(error, tuple) else (error,)
    assert message is not None, f"{' or '.join(kind.__name__ for kind in kinds)} was not raised"
    assert re.search(match, message), f"expected {match!r} in the message {message!r}"


@contextmanager
def remedy(text: str, *errors: type[Exception]) -> Iterator[None]:
    """Add a text, such as what to change, to the message of an error of the block.

    Args:
        text: The text.
        *errors: Classes of errors that become an ``AssertionError`` as well.

    >>> with remedy("register it as a buffer"):
    ...     raise AssertionError("'sum' differs")
    Traceback (most recent call last):
    AssertionError: 'sum' differs: register it as a buffer
    """
    kinds: tuple[type[Exception], ...] = (AssertionError, *errors)
    try:
        yield
    except kinds as error:
        kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        raise AssertionError(f"{kind}{str(error).strip()}: {text}") from error


def _describe(error: Exception) -> str:
    """Return class and message of an error and the line that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    line = (frame.line or linecache.getline(frame.filename, frame.lineno or 0)).strip()
    text = str(error).strip().replace("\n", "\n    ")
    return f"{type(error).__name__}: {text}\n    at {frame.filename}:{frame.lineno}: {line}"
