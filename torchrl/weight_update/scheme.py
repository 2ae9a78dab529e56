"""The base classes of weight senders and weight receivers.

A sender publishes weights; receivers look for new ones before each action, so that neither waits
for the other. Another medium is one file: a sender and a receiver with the hooks below.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from torchrl._core.errors import MissingKeyError, ShapeError, describe, nearest

#: What has weights: a module, its parameters as a tensordict, or a state dict.
Weights = nn.Module | TensorDictBase | Mapping[str, Any]
Layout = dict[str, tuple[torch.Size, torch.dtype]]


def weights_of(source: Weights) -> dict[str, Tensor]:
    """Return the weights that ``source`` holds, by the names of a state dict.

    Args:
        source: A module, its parameters as a tensordict, or a state dict.

    Raises:
        TypeError: for anything else.

    >>> sorted(weights_of(nn.Linear(2, 1)))
    ['bias', 'weight']
    """
    items: Any
    if isinstance(source, nn.Module):
        items = source.state_dict(keep_vars=True).items()
    elif isinstance(source, TensorDictBase):
        items = source.flatten_keys(".").items()
    elif isinstance(source, Mapping):
        items = source.items()
    else:
        raise TypeError(f"weights: expected a module, a tensordict or a state dict, found {type(source).__name__}.")
    return {name: value.detach() for name, value in items if isinstance(value, Tensor)}


def layout_of(policy: object) -> Layout:
    """Return names, shapes and dtypes of a policy's weights; nothing for a plain callable.

    Args:
        policy: A module, or any other callable.

    >>> layout_of(nn.Linear(2, 1, bias=False))
    {'weight': (torch.Size([1, 2]), torch.float32)}
    """
    if not isinstance(policy, nn.Module):
        return {}
    return {name: (value.shape, value.dtype) for name, value in weights_of(policy).items()}


class WeightSender(ABC):
    """Publishes weights to any number of receivers.

    Args:
        layout: Shapes and dtypes of the weights, see :func:`layout_of`.

    Hooks:
        _publish: ``{name: tensor}, version``; show these weights to the receivers.
        close: release what the sender holds.

    >>> class Mailbox(WeightSender):
    ...     def _publish(self, weights, version):
    ...         self.content = {name: value.clone() for name, value in weights.items()}, version
    ...
    ...     def close(self):
    ...         self.content = None
    >>> learner = nn.Linear(2, 1)
    >>> sender = Mailbox(layout_of(learner))
    >>> sender.send(learner), sorted(sender.content[0])
    (1, ['bias', 'weight'])
    """

    def __init__(self, layout: Layout) -> None:
        self.layout, self.version = layout, 0
        self._lock = threading.Lock()

    @abstractmethod
    def _publish(self, weights: dict[str, Tensor], version: int) -> None: ...

    @abstractmethod
    def close(self) -> None: ...

    def send(self, source: Weights) -> int:
        """Publish weights; return their version, the number of weights sent so far.

        Raises:
            MissingKeyError: if ``source`` lacks a weight of the layout.
            ShapeError: if one has another shape.
        """
        weights = self._select(weights_of(source))
        with self._lock:
            self.version += 1
            self._publish(weights, self.version)
            return self.version

    def pick(self, source: Weights) -> dict[str, Tensor]:
        """Count a version; return its weights, which only some receivers are sent."""
        weights = self._select(weights_of(source))
        with self._lock:
            self.version += 1
        return weights

    def start(self, source: Weights) -> None:
        """Publish the first weights, version 0."""
        with self._lock:
            self._publish(self._select(weights_of(source)), 0)

    def _select(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        for name, (shape, _) in self.layout.items():
            if name not in weights:
                hint = nearest(name, weights) or "Pass all weights of the policy that acts."
                raise MissingKeyError(describe(self, "is missing", key=name, hint=hint))
            if weights[name].shape != shape:
                raise ShapeError(
                    describe(
                        self,
                        "has another shape than in the policy that acts",
                        key=name,
                        expected=list(shape),
                        found=list(weights[name].shape),
                    )
                )
        return {name: weights[name] for name in self.layout}


class WeightReceiver(ABC):
    """Updates the weights of a policy to the last that were sent.

    Args:
        policy: The policy that acts; one without weights is not updated.

    Hooks:
        _is_new: ``-> bool``; whether there may be weights that were not fetched yet; called often.
        _fetch: ``-> ({name: tensor}, version)``, or ``None`` if they are being written.

    >>> class Reader(WeightReceiver):
    ...     def __init__(self, policy, mailbox):
    ...         super().__init__(policy)
    ...         self.mailbox = mailbox
    ...
    ...     def _is_new(self):
    ...         return bool(self.mailbox)
    ...
    ...     def _fetch(self):
    ...         return self.mailbox.pop()
    >>> learner, actor = nn.Linear(1, 1), nn.Linear(1, 1)
    >>> receiver = Reader(actor, [(learner.state_dict(), 1)])
    >>> receiver.poll(), receiver.poll(), torch.equal(actor.weight, learner.weight)
    (True, False, True)
    """

    def __init__(self, policy: object) -> None:
        self.version = 0
        state = policy.state_dict(keep_vars=True) if isinstance(policy, nn.Module) else {}
        self._targets = {name: t for name, t in state.items() if isinstance(t, Tensor)}

    @abstractmethod
    def _is_new(self) -> bool: ...

    @abstractmethod
    def _fetch(self) -> tuple[dict[str, Tensor], int] | None: ...

    @torch.no_grad()
    def take(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Set the weights."""
        self.version = version
        for name, target in self._targets.items():
            if target.device.type == "cpu":
                # A record of earlier steps may hold a view of the old weights.
                target.data = weights[name].clone()
            else:
                target.copy_(weights[name])

    def poll(self) -> bool:
        """Fetch the weights if newer ones were sent; return whether they were."""
        found = self._fetch() if self._is_new() else None
        if found is not None:
            self.take(*found)
        return found is not None
