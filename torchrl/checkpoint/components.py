"""How each kind of component goes to a folder and comes back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

from torchrl.checkpoint.tree import read_tree, write_tree
from torchrl.data.replay_buffers.checkpointers import current

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


class Loading(Enum):
    """How a component takes what was read."""

    VALUE = "value"  # it is returned
    CHECKED = "checked"  # it looks first: what it cannot take changes nothing
    UNDONE = "undone"  # its state of before can be loaded again
    ALONE = "alone"  # it reads its folder itself


def loading_of(component: Any) -> Loading:
    """Return how a component takes what was read."""
    kind = kind_of(component)
    if kind == FOLDER:
        return Loading.CHECKED if hasattr(component, "read_save") else Loading.ALONE
    return Loading.VALUE if kind == VALUE else Loading.UNDONE


def read_component(
    component: Any, folder: Path, map_location: Any = None, trust: bool = False
) -> Any:
    """Return what :func:`write_component` wrote; the component stays as it is.

    Of a component that reads its folder itself, this is the folder.
    """
    loading = loading_of(component)
    if loading is Loading.CHECKED:
        return component.read_save(current(folder), trust=trust)
    return folder if loading is Loading.ALONE else read_tree(folder, map_location)


def load_component(component: Any, found: Any) -> Callable[[], None]:
    """Hand a component what :func:`read_component` found; return what undoes it.

    If it fails, a component with a state is as it was before.
    """
    if isinstance(found, Path):
        component.loads(found)
        return lambda: None
    before = copy.deepcopy(component.state_dict())
    try:
        component.load_state_dict(found)
    except BaseException:
        component.load_state_dict(before)
        raise
    return lambda: component.load_state_dict(before)
