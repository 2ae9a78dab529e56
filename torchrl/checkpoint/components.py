"""How each kind of component goes to a folder and comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchrl.checkpoint.tree import read_tree, write_tree

STATE, FOLDER, VALUE = "state", "folder", "value"


def kind_of(component: Any) -> str:
    """Say how a component is saved.

    What has ``dumps`` and ``loads``, as replay buffers, fills a folder itself; what has a
    ``state_dict`` and a ``load_state_dict`` is saved by its state; all else is a value.

    >>> import torch
    >>> kind_of(torch.nn.Linear(1, 1)), kind_of({"frames": 3})
    ('state', 'value')
    """
    if hasattr(component, "dumps") and hasattr(component, "loads"):
        return FOLDER
    if hasattr(component, "state_dict") and hasattr(component, "load_state_dict"):
        return STATE
    return VALUE


def write_component(component: Any, folder: Path) -> str:
    """Write a component to a folder of its own; return its kind."""
    folder.mkdir(parents=True)
    kind = kind_of(component)
    if kind == FOLDER:
        component.dumps(folder)
    else:
        write_tree(component.state_dict() if kind == STATE else component, folder)
    return kind


def read_component(component: Any, folder: Path, map_location: Any = None) -> Any:
    """Load a component from its folder; return what was written, if it is a value."""
    kind = kind_of(component)
    if kind == FOLDER:
        component.loads(folder)
        return None
    found = read_tree(folder, map_location)
    if kind == VALUE:
        return found
    component.load_state_dict(found)
    return None
