"""`Sampler`: which items a replay buffer hands out.

Legend: ``B`` items of a sample, ``N`` items written; a position is the row-major number of an item.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchrl._core.errors import describe
from torchrl.data.replay_buffers.storages.base import Storage


class Sampler(ABC):
    """Picks items.

    Attributes:
        generator: Where randomness comes from; the default one of torch if ``None``. The buffer
            sets it to its own.
        ran_out: Whether the last sample ended a pass over the items.
        catches_up: Whether it finds out by itself what other processes have written.

    Hooks:
        sample: ``(storage, batch_size) -> (positions [B], info)``; ``info`` joins the sample.
        extend: ``positions [N] -> None``; told which items were just written.
        update_priority: ``(positions [N], priority [N] or []) -> None``.
        can_sample: ``(storage, batch_size) -> bool``.
        _empty: told that the storage was emptied.
        state_dict, load_state_dict: what a sampler must know to go on where it stopped.
        pass_state, restore_pass: what :meth:`sample` changes, so that a buffer that prepares
            batches ahead can take back those that it does not hand out; the whole state dict, in a
            copy, by default.
    """

    generator: torch.Generator | None = None
    ran_out: bool = False
    catches_up: bool = False

    _chances = torch.empty(0, dtype=torch.float64)  # filled anew for each sample of its size

    @abstractmethod
    def sample(self, storage: Storage, batch_size: int) -> tuple[Tensor, dict[Any, Any]]: ...

    def _uniform(self, count: int) -> np.ndarray:
        """Draw numbers ``[N]`` in ``[0, 1)``, float64, that stand until the next call."""
        if self._chances.shape[0] != count:  # len() of a tensor is slow
            self._chances = torch.empty(count, dtype=torch.float64)
        return self._chances.uniform_(generator=self.generator).numpy()

    def extend(self, positions: Tensor) -> None:
        """Take note of items that were just written."""

    def can_sample(self, storage: Storage, batch_size: int) -> bool:
        """Return whether there is something to sample in a storage that is not empty."""
        return True

    @property
    def listens(self) -> bool:
        """Whether this sampler wants to be told what was written."""
        return type(self).extend is not Sampler.extend

    def update_priority(self, index: Tensor, priority: Tensor) -> None:
        """Take note of how surprising items were; only prioritized samplers care."""

    @property
    def default_priority(self) -> float:
        """Priority of items that nobody has rated yet."""
        return 1.0

    def _empty(self) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed to go on where this sampler stands."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the sampler stood whose :meth:`state_dict` this is."""

    def pass_state(self) -> Any:
        """Return, in tensors, numbers and containers of them, what :meth:`sample` changes here.

        Where it holds no priorities, those may change while batches are prepared ahead.
        """
        return copy.deepcopy(self.state_dict()), self.ran_out

    def restore_pass(self, state: Any) -> None:
        """Go back to where :meth:`pass_state` was taken."""
        saved, self.ran_out = state
        self.load_state_dict(saved)

    def settings(self) -> dict[str, Any]:
        """Return the parameters that may be set from outside, by name."""
        return {
            name: value
            for name, value in vars(self).items()
            if name[0] != "_" and name != "ran_out"
        }

    @property
    def rates_apart(self) -> bool:
        """Whether :meth:`update_priority` changes nothing that :meth:`restore_pass` would undo."""
        kind = type(self)
        return (
            kind.update_priority is Sampler.update_priority
            or kind.pass_state is not Sampler.pass_state
        )

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        generator = state.pop("generator", None)
        if generator is not None:
            state["_generator_state"] = (str(generator.device), generator.get_state())
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        saved = state.pop("_generator_state", None)
        self.__dict__.update(state)
        if saved is not None:
            self.generator = torch.Generator(saved[0])
            self.generator.set_state(saved[1])


def require_items(storage: Storage, sampler: Sampler) -> int:
    """Return how many items there are.

    Raises:
        RuntimeError: if there are none.
    """
    items = len(storage)
    if not items:
        raise RuntimeError(
            describe(sampler, "the replay buffer is empty", hint="Call extend() or add() first.")
        )
    return items


def finite_number(owner: object, name: str, value: Any) -> float:
    """Return ``value`` as a float.

    Raises:
        ValueError: if it is negative, infinite or not a number.
    """
    number = float(value)
    if not 0 <= number < math.inf:
        raise ValueError(
            describe(owner, f"{name} must be a finite number, zero or more", found=value)
        )
    return number


def whole_number(owner: object, name: str, value: Any, least: int) -> int:
    """Return ``value``.

    Raises:
        ValueError: if it is not a whole number, or less than ``least``.
    """
    number = float(value)
    if not least <= number < math.inf or number != int(number):
        raise ValueError(
            describe(owner, f"{name} must be a whole number, {least} or more", found=value)
        )
    return int(value)
