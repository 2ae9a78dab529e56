"""Typed errors, and how their messages are built: who, which entry, expected, found, hint."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from difflib import get_close_matches


class TorchRLError(Exception):
    """Base of the errors that this library defines, so that one ``except`` catches them all."""


class MissingKeyError(TorchRLError, KeyError):
    """A component did not find an entry that it reads."""

    __str__ = Exception.__str__  # KeyError would print the repr of the message


class UnexpectedKeyError(TorchRLError, KeyError):
    """A component was passed an entry that it does not accept."""

    __str__ = Exception.__str__


class ShapeError(TorchRLError, ValueError, RuntimeError):
    """An entry does not have the shape that is needed."""


class ShapeRuntimeError(ShapeError, RuntimeError):
    """A shape that only shows when data are read."""


class BatchSizeError(TorchRLError, ValueError, RuntimeError):
    """A batch size is missing, or is none."""


class CountError(TorchRLError, ValueError, RuntimeError):
    """There are not as many of something as there are workers or environments."""


class MissingFlagError(MissingKeyError, RuntimeError):
    """An end flag that should be written is not in the specs of the environment."""


class DTypeError(TorchRLError, TypeError):
    """An entry does not have the dtype that its spec promises."""


class SpecError(TorchRLError, ValueError, AssertionError):
    """A value lies outside its spec, or two specs contradict each other."""


class SpecShapeError(ShapeError, SpecError):
    """The shape of a value is not that of its spec."""


class SpecDTypeError(DTypeError, SpecError):
    """The dtype of a value is not that of its spec."""


class SpecKeyError(MissingKeyError, SpecError):
    """A value lacks an entry of its spec."""


class ShapeIndexError(ShapeError, IndexError):
    """An index leads into a dimension that cannot be indexed."""


class StackError(DTypeError, RuntimeError):
    """Specs of several dtypes cannot be stacked."""


class MissingSpecError(SpecError, RuntimeError):
    """A component needs a spec that it was not given."""


class DeviceError(TorchRLError, RuntimeError):
    """An argument that should be a device is none."""


class ResetError(TorchRLError, RuntimeError):
    """An environment was reset or stepped in an order that makes no sense."""


class SimulatorStateError(TorchRLError, RuntimeError):
    """The state of a simulator cannot be saved or restored in the middle of an episode."""


class WorkerError(TorchRLError, RuntimeError):
    """A worker process or thread failed; the message holds its own traceback."""


class DamagedFileError(TorchRLError, RuntimeError):
    """A file of a save is missing, or does not hold what was written."""


class UntrustedFileError(TorchRLError, RuntimeError):
    """A file can only be read by running code in it, and the caller did not declare it trusted."""


def describe(
    component: object, fact: str, *, key: object = None, expected: object = None, found: object = None, hint: str = ""
) -> str:
    """Build the message of an error from its parts; parts that are ``None`` are left out.

    Args:
        component: The object at fault (its class name is shown), or a name.
        fact: What is wrong, in one clause.
        key: The entry in question.
        expected: What should have been there.
        found: What was there.
        hint: What to do, as a sentence.

    >>> print(describe("GAE", "has the wrong shape", key="reward", expected=[3, 1], found=[3]))
    GAE: entry 'reward' has the wrong shape; expected [3, 1], found [3].
    """
    who = component if isinstance(component, str) else type(component).__name__
    text = f"{who}: " + (f"entry {key!r} {fact}" if key is not None else fact)
    if expected is not None:
        text += f"; expected {expected}"
    if found is not None:
        text += (", " if expected is not None else "; ") + f"found {found}"
    return f"{text}. {hint}".rstrip()


def summary(error: BaseException) -> tuple[str, str]:
    """Return an error in one line, and its traceback, even if its ``str()`` fails.

    >>> class Mute(Exception):
    ...     def __str__(self):
    ...         raise RuntimeError
    >>> summary(Mute())[0]
    'Mute: <exception str() failed>'
    """
    try:
        text = str(error)
    except BaseException:  # whatever it is: the original error is reported
        text = "<exception str() failed>"
    try:
        trace = "".join(traceback.format_exception(error))
    except Exception:
        trace = "".join(traceback.format_tb(error.__traceback__))
    return f"{type(error).__name__}: {text}", trace


def nearest(name: object, names: Iterable[object]) -> str:
    """Return a sentence that names the candidate closest to ``name``, or nothing.

    >>> nearest("acton", ["action", "observation"])
    "Did you mean 'action'?"
    """
    by_text = {str(candidate): candidate for candidate in names}
    close = get_close_matches(str(name), by_text, 1, 0.6)
    return f"Did you mean {by_text[close[0]]!r}?" if close else ""
