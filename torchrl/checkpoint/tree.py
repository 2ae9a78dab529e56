"""Nested states as text and tensors, which can be read without running anybody's code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import NonTensorData, TensorDict, TensorDictBase, is_non_tensor
from torch import Tensor

from torchrl._core.errors import describe
from torchrl._core.files import damaged
from torchrl._core.safe_load import find_dtype, load_file

KIND = "is"  # marks, in the text, what is no plain JSON
TEXT, TENSORS = "state.json", "tensors.pt"


def write_tree(state: Any, folder: Path) -> None:
    """Write a state to files of a folder: its text, and its tensors if there are any.

    Raises:
        TypeError: if something in it is neither.
    """
    tensors: list[Tensor] = []
    text = json.dumps(encode(state, tensors), indent=1)
    (folder / TEXT).write_text(text + "\n")
    if tensors:
        torch.save(tensors, folder / TENSORS)


def read_tree(folder: Path, map_location: Any = None) -> Any:
    """Return what :func:`write_tree` wrote, with tensors where ``map_location`` says.

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


def encode(value: Any, tensors: list[Tensor], path: tuple[Any, ...] = ()) -> Any:
    """Return a value as JSON, in which tensors are numbers.

    Args:
        value: Numbers, texts, tensors, arrays, devices, dtypes, and what holds them: mappings,
            lists, tuples, tensordicts.
        tensors: Where the tensors go.
        path: Where the value stands, for messages.

    >>> tensors = []
    >>> encode({"lr": 0.1, "betas": (0.9, torch.ones(1))}, tensors)
    {'lr': 0.1, 'betas': {'is': 'tuple', 'items': [0.9, {'is': 'tensor', 'at': 0}]}}
    """

    def inner(part: Any, name: Any) -> Any:
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
        return {KIND: "object", "value": inner(value.data, "data")}
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


def decode(node: Any, tensors: list[Tensor]) -> Any:
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
    return tuple(items) if kind == "tuple" else dict(items)
