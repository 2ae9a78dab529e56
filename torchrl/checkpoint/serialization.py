"""Components as files of text and tensors, which are read without running code from them."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import NonTensorData, NonTensorStack, TensorDict, TensorDictBase, is_non_tensor
from torch import Tensor

from torchrl._core.errors import DamagedFileError, describe
from torchrl._core.files import damaged
from torchrl._core.safe_load import find_dtype, load_file
from torchrl.data.replay_buffers.checkpointers import CURRENT, current

MapLocation = str | torch.device | dict[str, str] | Callable[..., object] | None

KIND = "is"  # key, in the JSON text, of values that are not plain JSON
STATE, FOLDER, VALUE = "state", "folder", "value"  # kinds of components
TEXT, TENSORS = "state.json", "tensors.pt"


def write_tree(state: object, folder: Path) -> None:
    """Write a state to files of a folder: a JSON text, and its tensors if there are any.

    Raises:
        TypeError: for a value that :func:`encode` does not support.
    """
    tensors: list[Tensor] = []
    text = json.dumps(encode(state, tensors), indent=1)
    (folder / TEXT).write_text(text + "\n")
    if tensors:
        torch.save(tensors, folder / TENSORS)


def read_tree(folder: Path, map_location: MapLocation = None) -> Any:
    """Return what :func:`write_tree` wrote, with tensors on ``map_location``.

    Raises:
        DamagedFileError, UntrustedFileError: if a file holds something else; it is named.
    """
    tensors: list[Tensor] = []
    if (folder / TENSORS).exists():
        tensors = load_file(folder / TENSORS, map_location=map_location)
    try:
        return decode(json.loads((folder / TEXT).read_text()), tensors)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise damaged(folder / TEXT, found=f"{type(error).__name__}: {error}") from error


def encode(value: Any, tensors: list[Tensor], path: tuple[object, ...] = ()) -> object:
    """Return a value as JSON, with the indices of its tensors in place of them.

    Args:
        value: Numbers, texts, tensors, arrays, devices, dtypes, and containers of them: mappings,
            lists, tuples, tensordicts.
        tensors: The tensors are appended to this list.
        path: Path of the value, for messages.

    >>> tensors = []
    >>> encode({"lr": 0.1, "betas": (0.9, torch.ones(1))}, tensors)
    {'lr': 0.1, 'betas': {'is': 'tuple', 'items': [0.9, {'is': 'tensor', 'at': 0}]}}
    """

    def inner(part: object, name: object) -> object:
        return encode(part, tensors, (*path, name))

    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        tensors.append(value.detach())
        return {KIND: "tensor", "at": len(tensors) - 1}
    if isinstance(value, np.generic):
        return encode(value.item(), tensors, path)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        tensors.append(torch.from_numpy(np.array(value)))
        return {KIND: "array", "at": len(tensors) - 1}
    if isinstance(value, torch.device | torch.dtype):
        return {KIND: type(value).__name__, "name": str(value).removeprefix("torch.")}
    if is_non_tensor(value):
        return _encode_object(value, inner)
    if isinstance(value, TensorDictBase):
        entries = {name: inner(value.get(name), name) for name in value.keys()}  # noqa: SIM118 - else rows
        return {KIND: "tensordict", "batch_size": list(value.batch_size), "entries": entries}
    if isinstance(value, Mapping):
        if KIND not in value and all(isinstance(name, str) for name in value):
            return {name: inner(part, name) for name, part in value.items()}
        pairs = [[inner(name, name), inner(part, name)] for name, part in value.items()]
        return {KIND: "mapping", "items": pairs}
    if isinstance(value, list | tuple):
        items = [inner(part, i) for i, part in enumerate(value)]
        return items if isinstance(value, list) else {KIND: "tuple", "items": items}
    raise TypeError(
        describe(
            "Checkpoint",
            "cannot be written as text and tensors",
            key="/".join(map(str, path)),
            expected="numbers, texts, tensors, and what holds them",
            found=type(value).__name__,
            hint="Leave it out of state_dict(), or write it there as one of these.",
        )
    )


def _encode_object(value: Any, inner: Callable[[object, object], object]) -> object:
    if isinstance(value, NonTensorStack):
        parts = [inner(part, i) for i, part in enumerate(value.tensordicts)]
        return {KIND: "objects", "dim": value.stack_dim, "items": parts}
    return {KIND: "object", "value": inner(value.data, "data")}


def decode(node: object, tensors: list[Tensor]) -> Any:
    """Undo :func:`encode`."""
    if isinstance(node, list):
        return [decode(part, tensors) for part in node]
    if not isinstance(node, dict):
        return node
    kind = node.get(KIND)
    if kind is None:
        return {name: decode(part, tensors) for name, part in node.items()}
    if kind in ("tensor", "array"):
        tensor = tensors[node["at"]]
        return tensor if kind == "tensor" else tensor.cpu().numpy()
    if kind in ("device", "dtype"):
        if kind == "dtype":
            return find_dtype(node["name"], "Checkpoint")
        return torch.device(node["name"])
    if kind == "object":
        return NonTensorData(decode(node["value"], tensors))
    if kind == "tensordict":
        entries = {name: decode(part, tensors) for name, part in node["entries"].items()}
        return TensorDict(entries, node["batch_size"])
    items = [decode(part, tensors) for part in node["items"]]
    if kind == "objects":
        return NonTensorStack(*items, stack_dim=node["dim"])
    return tuple(items) if kind == "tuple" else dict(items)


def kind_of(component: Any) -> str:
    """Return how a component is saved.

    A component with ``dumps`` and ``loads``, as replay buffers have, writes a folder itself; one
    with ``state_dict`` and ``load_state_dict`` is saved by its state; any other is a value.

    >>> import torch
    >>> kind_of(torch.nn.Linear(1, 1)), kind_of({"frames": 3})
    ('state', 'value')
    """
    if hasattr(component, "dumps") and hasattr(component, "loads"):
        return FOLDER
    if hasattr(component, "state_dict") and hasattr(component, "load_state_dict"):
        return STATE
    return VALUE


def write_component(component: Any, folder: Path, base: Path | None = None) -> str:
    """Write a component to a new folder; return its kind.

    Args:
        component: The component.
        folder: The folder.
        base: Folder of an earlier save of it, whose unchanged rows a replay buffer takes over.
    """
    folder.mkdir(parents=True)
    kind = kind_of(component)
    if kind == FOLDER:
        if base is not None and loading_of(component) is Loading.CHECKED:
            # The buffer finds the earlier save in its folder, as hard links, and replaces it.
            with contextlib.suppress(OSError, DamagedFileError):
                shutil.copytree(current(base), folder / current(base).name, copy_function=os.link)
                shutil.copy(base / CURRENT, folder)
        component.dumps(folder)
    else:
        write_tree(component.state_dict() if kind == STATE else component, folder)
    return kind


class Loading(Enum):
    """How a component is loaded from what was read."""

    VALUE = "value"  # it is returned
    CHECKED = "checked"  # check_state() raises before anything changes
    UNDONE = "undone"  # load_state_dict(), undone by loading the earlier state
    ALONE = "alone"  # loads() reads the folder itself


def loading_of(component: Any) -> Loading:
    """Return how a component is loaded."""
    kind = kind_of(component)
    if kind == FOLDER:
        return Loading.CHECKED if hasattr(component, "read_save") else Loading.ALONE
    return Loading.VALUE if kind == VALUE else Loading.UNDONE


def read_component(component: Any, folder: Path, map_location: MapLocation = None, trust: bool = False) -> Any:
    """Return what :func:`write_component` wrote; the component is unchanged.

    Of a component that reads its folder itself, this is the folder.
    """
    loading = loading_of(component)
    if loading is Loading.CHECKED:
        return component.read_save(current(folder), trust=trust)
    return folder if loading is Loading.ALONE else read_tree(folder, map_location)


def load_component(component: Any, found: object) -> Callable[[], None]:
    """Load what :func:`read_component` returned; return a function that undoes it.

    If loading fails, a component with a state dict is unchanged.
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
