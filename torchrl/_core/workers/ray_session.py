"""What everything that runs on Ray shares: starting Ray, where an actor is, which versions it has."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from types import ModuleType
from typing import Any

import torch

from torchrl._core.optional import require_package

_lock = threading.Lock()
# Sessions that are open since Ray was started; whether the first of them did that; how often one did.
_state = {"users": 0, "is_ours": 0, "start": 0}


def import_ray(needed_by: object) -> ModuleType:
    """Return the package of Ray; raise an ImportError with the command that installs it."""
    return require_package("ray", needed_by=needed_by, extra="distributed")


class RaySession:
    """A use of Ray, which is started if it does not run; the last session that is closed ends it then.

    Args:
        owner: What needs Ray, for error messages.
        config: Arguments of ``ray.init``, if it is called.
    """

    def __init__(self, owner: object, config: Mapping[str, Any] | None = None) -> None:
        self.ray: Any = import_ray(owner)
        self._is_open = True
        with _lock:
            if not self.ray.is_initialized():
                self.ray.init(**(config or {}))
                _state.update(users=0, is_ours=1, start=_state["start"] + 1)
            self._start = _state["start"]
            _state["users"] += 1

    def runs(self) -> bool:
        """Return whether Ray can still be asked for something."""
        return self._is_open and self.ray.is_initialized()

    def close(self) -> None:
        """End this use; calling it again is fine."""
        with _lock:
            if not self._is_open:
                return
            self._is_open = False
            if self._start != _state["start"]:
                return  # that Ray was ended by others, and another one started
            _state["users"] -= 1
            if not _state["users"] and _state["is_ours"]:
                _state["is_ours"] = 0
                if self.ray.is_initialized():
                    self.ray.shutdown()


def versions() -> dict[str, str]:
    """Return the versions of the packages that all nodes need in the same version.

    >>> sorted(versions())
    ['tensordict', 'torch', 'torchrl']
    """
    return {"torchrl": version("torchrl"), "torch": torch.__version__, "tensordict": version("tensordict")}


@dataclass(frozen=True)
class Place:
    """Where an actor runs, and the versions that it found there.

    Args:
        node_ip: Address of the node.
        node: Identifier of the node.
        actor: Identifier of the actor.
        pid: Number of the process.
        versions: As :func:`versions` returned them.
    """

    node_ip: str
    node: str
    actor: str
    pid: int
    versions: dict[str, str]

    @staticmethod
    def here() -> Place:
        """Return the place of the actor that calls this."""
        ray: Any = import_ray("Place")
        context = ray.get_runtime_context()
        address = ray.util.get_node_ip_address()
        return Place(address, context.get_node_id(), context.get_actor_id(), os.getpid(), versions())

    def difference(self) -> str:
        """Return how the versions differ from those here, as the end of a sentence; nothing if they are equal.

        >>> Place("10.0.0.2", "node", "actor", 1, {**versions(), "torch": "1.0"}).difference()
        'torch 1.0 there and torch ... here'
        """
        ours = versions()
        return ", ".join(
            f"{name} {there} there and {name} {ours.get(name)} here"
            for name, there in self.versions.items()
            if there != ours.get(name)
        )

    def __str__(self) -> str:
        return f"actor {self.actor}, process {self.pid} on node {self.node_ip} ({self.node})"
