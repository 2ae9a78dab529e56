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
NEEDED_BY = {  # of the doctests of these objects
    "D4RLExperienceReplay": "h5py",
    "H5StorageCheckpointer": "h5py",
    "TableExperienceReplay": "pyarrow",
}


def pytest_collection_modifyitems(items):
    """Skip the doctests of parts whose library is absent."""
    for item in items:
        path = Path(item.path)
        if not isinstance(item, pytest.DoctestItem):
            continue
        module = NEEDED_BY.get(item.name.rpartition(".")[2])
        if "libs" in path.parts:
            module = NEEDED.get(path.parent.name) or NEEDED.get(path.stem)
        if module and importlib.util.find_spec(module) is None:
            item.add_marker(pytest.mark.skip(reason=f"{module} is not installed"))
