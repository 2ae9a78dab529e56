"""What every collector is: an iterator of batches, with a policy whose weights can be renewed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from tensordict import TensorDictBase
from torch import nn


class BaseCollector(ABC):
    """Iterates over batches of transitions.

    Hooks:
        rollout: return the next batch.
        shutdown: release what the collector holds; calling it twice is fine.
        update_policy_weights_: renew the weights of the policy that acts.
        state_dict, load_state_dict: where the collector stands.
        set_seed: seed the environments; return the seed for the next.
    """

    frames_per_batch: int
    total_frames: int
    _frames: int
    _iter: int

    @abstractmethod
    def rollout(self) -> TensorDictBase: ...

    @abstractmethod
    def iterator(self) -> Iterator[Any]: ...

    @abstractmethod
    def shutdown(self, *, close_env: bool = True) -> None: ...

    @abstractmethod
    def update_policy_weights_(
        self, policy_or_weights: nn.Module | TensorDictBase | dict | None = None
    ) -> None: ...

    @abstractmethod
    def state_dict(self) -> dict[str, Any]: ...

    @abstractmethod
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...

    @abstractmethod
    def set_seed(self, seed: int, static_seed: bool = False) -> int | None: ...

    def __iter__(self) -> Iterator[Any]:
        return self.iterator()

    def next(self) -> Any:
        """Return the next batch, or ``None`` when all frames have been collected."""
        return next(self.iterator(), None)

    def __enter__(self) -> BaseCollector:
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown()

    def __len__(self) -> int:
        """Return the number of batches until ``total_frames``.

        Raises:
            TypeError: if the collector never ends.
        """
        if self.total_frames < 0:
            raise TypeError(f"{type(self).__name__} never ends: total_frames is negative.")
        return -(-self.total_frames // self.frames_per_batch)
