"""Examples that need a library are skipped where it is not installed."""

import importlib.util
from pathlib import Path

import pytest

NEEDED = {
    "brax": "brax",
    "dm_control": "dm_control",
    "array_specs": "dm_env",
    "envpool": "envpool",
    "jumanji": "jumanji",
    "openspiel": "pyspiel",
    "pettingzoo": "pettingzoo",
    "vmas": "vmas",
}


def pytest_collection_modifyitems(items):
    """Skip the doctests of wrappers whose library is absent."""
    for item in items:
        path = Path(item.path)
        if not isinstance(item, pytest.DoctestItem) or "libs" not in path.parts:
            continue
        module = NEEDED.get(path.parent.name) or NEEDED.get(path.stem)
        if module and importlib.util.find_spec(module) is None:
            item.add_marker(pytest.mark.skip(reason=f"{module} is not installed"))
