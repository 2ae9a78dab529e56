"""Weights in Ray's object store, for the actors of a cluster."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from torchrl._core.workers.ray_session import import_ray
from torchrl._core.workers.shared_memory import SharedTensors, buffer_of
from torchrl.weight_update.scheme import Layout, WeightReceiver, WeightSender

Deliver = Callable[[int, Any], object]


class RayWeightSender(WeightSender):
    """Puts weights into Ray's object store, one object for all actors.

    Args:
        layout: Shapes and dtypes of the weights.
        deliver: ``version, reference -> None``; sends the reference of the object to the actors.

    Attributes:
        newest: Version and reference of the last weights; version -1 before the first.

    >>> from torch import nn
    >>> from torchrl.weight_update import layout_of
    >>> learner = nn.Linear(1, 1)
    >>> RayWeightSender(layout_of(learner), print).send(learner)  # doctest: +SKIP
    1 ObjectRef(...)
    1
    """

    def __init__(self, layout: Layout, deliver: Deliver) -> None:
        super().__init__(layout)
        self._ray: Any = import_ray(self)
        self._deliver, self._memory = deliver, SharedTensors(layout)
        self.newest: tuple[int, Any] = -1, None

    def _publish(self, weights: dict[str, Tensor], version: int) -> None:
        for name in self.layout:
            self._memory[name].copy_(weights[name])
        self.newest = version, self._ray.put(self._memory.bytes.numpy())
        self._deliver(*self.newest)

    def close(self) -> None:
        """Release the weights; calling it again is fine."""
        self.newest = -1, None


class RayWeightReceiver(WeightReceiver):
    """Takes the newest of the weights that a thread of its actor is sent.

    Args:
        policy: The policy that acts.
        layout: Shapes and dtypes of the weights.

    >>> from torch import nn
    >>> from torchrl.weight_update import layout_of
    >>> learner, actor = nn.Linear(1, 1), nn.Linear(1, 1)
    >>> sent = SharedTensors(layout_of(learner))
    >>> for name, value in learner.state_dict().items():
    ...     _ = sent[name].copy_(value)
    >>> receiver = RayWeightReceiver(actor, layout_of(actor))
    >>> receiver.put(2, sent.bytes.numpy()); receiver.put(1, sent.bytes.numpy())
    >>> receiver.poll(), receiver.version, bool(learner.weight == actor.weight)
    (True, 2, True)
    """

    def __init__(self, policy: object, layout: Layout) -> None:
        super().__init__(policy)
        self.layout = layout
        self._lock = threading.Lock()
        self._newest = -1  # version of what was put or taken last
        self._found: tuple[np.ndarray, int] | None = None

    def put(self, version: int, weights: np.ndarray) -> None:
        """Keep the bytes of weights for the next action, unless newer ones came before."""
        with self._lock:
            if version > self._newest:
                self._newest, self._found = version, (weights, version)

    def _is_new(self) -> bool:
        return self._found is not None

    def _fetch(self) -> tuple[dict[str, Tensor], int] | None:
        with self._lock:
            found, self._found = self._found, None
        if found is None:
            return None
        return SharedTensors(self.layout, buffer=buffer_of(found[0])).tensors, found[1]

    def take(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Set the weights."""
        with self._lock:
            self._newest = max(self._newest, version)
        super().take(weights, version)
