"""What is saved: parts by name; files that are whole or not there."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch

from torchrl._core.errors import MissingKeyError, UnexpectedKeyError, describe
from torchrl._core.files import replaced


class Modules:
    """Parts with a state dict, by name.

    >>> modules = Modules()
    >>> modules.add("net", torch.nn.Linear(1, 1))
    >>> modules.free_name("net")
    'net_1'
    """

    def __init__(self) -> None:
        self._parts: dict[str, Any] = {}

    def add(self, name: str, part: Any) -> None:
        """Add a part under a name that is not taken.

        Raises:
            ValueError: if the name is taken.
            TypeError: if the part has no state dict.
        """
        if name in self._parts:
            hint = "Register it under a name of its own."
            raise ValueError(describe("Trainer", f"the name {name!r} is taken", hint=hint))
        if not (hasattr(part, "state_dict") and hasattr(part, "load_state_dict")):
            raise TypeError(
                describe(
                    "Trainer",
                    f"cannot save {name!r}",
                    expected="state_dict() and load_state_dict()",
                    found=type(part).__name__,
                )
            )
        self._parts[name] = part

    def free_name(self, name: str) -> str:
        """Return the name, with a number behind it if it is taken."""
        numbered = (f"{name}_{n}" for n in itertools.count(1))
        candidates = itertools.chain([name], numbered)
        return next(each for each in candidates if each not in self._parts)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every part."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of every part.

        Raises:
            MissingKeyError, UnexpectedKeyError: if these are other parts; nothing is loaded then.
        """
        here, saved = sorted(self._parts), sorted(state_dict)
        hint = "Register the same hooks under the same names before loading."
        if missing := [name for name in here if name not in state_dict]:
            fact = f"the save lacks {missing}"
            raise MissingKeyError(describe("Trainer", fact, expected=here, found=saved, hint=hint))
        if unknown := [name for name in saved if name not in self._parts]:
            fact = f"the save holds {unknown}, which are not registered"
            raise UnexpectedKeyError(
                describe("Trainer", fact, expected=here, found=saved, hint=hint)
            )
        for name, part in self._parts.items():
            part.load_state_dict(state_dict[name])


def save_whole(state: Any, path: str | Path) -> None:
    """Write a file with :func:`torch.save`; a save that is cut short leaves the last one in place.

    What saves left that were killed is removed.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp(), "runs", "state.pt")
    >>> save_whole({"a": 1}, file)
    >>> torch.load(file)
    {'a': 1}
    """
    with replaced(path) as draft:
        torch.save(state, draft)
