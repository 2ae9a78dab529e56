"""Optional packages: import one, or raise an ImportError with the command that installs it."""

from __future__ import annotations

import importlib
from types import ModuleType


def require_package(name: str, *, needed_by: object, extra: str | None = None) -> ModuleType:
    """Import and return the module ``name``.

    Args:
        name: Module to import.
        needed_by: The component that needs it, for the message.
        extra: The extra of this library that installs it.

    Raises:
        ImportError: if it is not installed, with the command that installs it.

    >>> require_package("no_such_package", needed_by="PNGWriter", extra="rendering")
    Traceback (most recent call last):
    ImportError: PNGWriter needs no_such_package: pip install "torchrl[rendering]"
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        root = name.partition(".")[0]
        if error.name is not None and error.name.partition(".")[0] != root:
            raise  # it is installed, and a package that it needs is not
        who = needed_by if isinstance(needed_by, str) else type(needed_by).__name__
        target = f'"torchrl[{extra}]"' if extra else root
        raise ImportError(f"{who} needs {root}: pip install {target}", name=name) from None
