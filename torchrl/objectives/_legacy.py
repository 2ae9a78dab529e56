"""Old names of losses and their helpers."""

from typing import Any

OLD = {
    "DoubleREDQLoss_deprecated": "REDQLoss",
    "REDQLoss_deprecated": "REDQLoss",
    "add_random_module": "torchrl.objectives._legacy:add_random_module",
}


def add_random_module(module: Any) -> None:
    """Do nothing: networks are called as they are, and each of an ensemble draws for itself."""
