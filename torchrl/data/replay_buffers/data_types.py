"""Types of the data of replay buffers: items and rows, indices, info, state dicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from tensordict import NestedKey

Data: TypeAlias = Any  # tensordict, tensorclass, tensor, containers of tensors, or any object
Index: TypeAlias = Any  # whatever a tensor can be indexed with
Info: TypeAlias = dict[NestedKey, Any]  # tensors [B, *] that tell about the items of a sample
State: TypeAlias = dict[str, Any]  # of state_dict()
Key: TypeAlias = Any  # of one entry of a container: a text or a number
Convert: TypeAlias = Callable[[Data], Data]


def made(part: Any, kind: type, default: Callable[[], Any]) -> Any:
    """Return a part of a buffer, or make it by calling it, or ``default`` if it is ``None``."""
    if part is None:
        return default()
    if not isinstance(part, kind) and not callable(part):
        what = kind.__name__
        raise TypeError(f"ReplayBuffer: expected a {what} or a function that makes one, found {part!r}.")
    return part if isinstance(part, kind) else part()
