"""`Sampler`: select the items of a sample.

Legend: ``B`` items of a sample, ``N`` items written; a position is the row-major number of an item.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import is_tensor_collection
from torch import Tensor

from torchrl._core.errors import DTypeError, ShapeError, TorchRLError, describe
from torchrl.data.replay_buffers.checkpointers import dump_state, load_state
from torchrl.data.replay_buffers.conditional_update import ITEM_INFO
from torchrl.data.replay_buffers.data_types import Info, State
from torchrl.data.replay_buffers.storages.base import Storage

FILE = "sampler.pt"


class Sampler(ABC):
    """Selects the items of a sample by their positions.

    The storage has ``R`` slots, each with a row of ``width`` items: one item, or ``[*W]`` items if
    the storage has several dimensions. The *position* of an item is ``slot * width + its index in
    the row``; see :class:`Storage` for a picture. All positions below ``len(storage)`` hold an
    item, and no others. The newest row is in slot ``(storage.written - 1) % storage.capacity``.

    Hooks:
        sample: ``(storage, batch_size) -> (positions [B], info)``; ``info`` has entries
            ``[B, *F]``, tensors or arrays, that are added to the sample. Raises ``RuntimeError`` if
            the storage is empty.
        extend: ``positions [N] -> None``; called after items were written.
        update_priority: ``(positions [N], priority [N] or []) -> None``.
        mark_update: ``positions [N] -> None``; called by :meth:`ReplayBuffer.mark_update`.
        can_sample: ``(storage, batch_size) -> bool``, of a storage that is not empty.
        default_priority: Priority of new items.
        settings: ``-> dict`` of the parameters that may be set from outside.
        _empty: Called after all items were deleted; resets what depends on them, and the place in a
            pass over them.
        state_dict, load_state_dict: The state that a sampler needs to continue exactly.
        pass_state, restore_pass: The state that :meth:`sample` changes, so that a buffer that
            prefetches can undo draws that are not used; by default a copy of the state dict.

    The pair that ``sample`` returns is checked in the first 100 calls of a buffer: a fault raises
    :class:`~torchrl._core.errors.DTypeError`, :class:`~torchrl._core.errors.ShapeError`,
    :class:`PositionError` or :class:`InfoKeyError`.

    Attributes:
        generator: Random generator, that of the buffer; torch's default one if ``None``.
        ran_out: Whether the last sample ended a pass over the items.
        catches_up: Whether :meth:`sample` itself finds the items that other processes have written.
        replaces_entries: Whether entries of ``info`` may replace stored ones in the sample; otherwise
            info of the name of a stored entry is an error.

    >>> from torchrl.data import ReplayBuffer
    >>> class Newest(Sampler):
    ...     def sample(self, storage, batch_size):
    ...         last = storage.written * storage.width - 1
    ...         age = torch.arange(min(batch_size, len(storage)))
    ...         return (last - age) % (storage.capacity * storage.width), {"age": age}
    >>> buffer = ReplayBuffer(sampler=Newest(), batch_size=3)
    >>> _ = buffer.extend(list("abcd"))
    >>> buffer.sample()
    ['d', 'c', 'b']
    """

    generator: torch.Generator | None = None
    ran_out: bool = False
    catches_up: bool = False
    replaces_entries: bool = False

    _chances = torch.empty(0, dtype=torch.float64)  # reused by samples of the same size

    @abstractmethod
    def sample(self, storage: Storage, batch_size: int) -> tuple[Tensor, Info]: ...

    def _uniform(self, count: int) -> np.ndarray:
        """Draw numbers ``[N]`` in ``[0, 1)``, float64, valid until the next call."""
        if self._chances.shape[0] != count:  # len() of a tensor is slow
            self._chances = torch.empty(count, dtype=torch.float64)
        return self._chances.uniform_(generator=self.generator).numpy()

    def extend(self, index: Tensor) -> None:
        """Update the sampler after items at positions ``index [N]`` were written."""

    def add(self, index: int | Tensor) -> None:
        """Update the sampler after the item at a position was written."""
        self.extend(torch.as_tensor(index).reshape(1))

    def mark_update(self, index: int | Tensor, *, storage: Storage | None = None) -> None:
        """Treat items as new after they were changed: give them the default priority.

        Args:
            index: Positions ``[N]``, or an index of the storage.
            storage: Tells positions, if it has several dimensions.
        """
        self.update_priority(index, self.default_priority, storage=storage)

    def can_sample(self, storage: Storage, batch_size: int) -> bool:
        """Return whether there is something to sample in a storage that is not empty."""
        return True

    @property
    def listens(self) -> bool:
        """Whether :meth:`extend` is overridden, and must be called after each write."""
        return type(self).extend is not Sampler.extend

    def update_priority(self, index: int | Tensor, priority: float | Tensor, *, storage: Storage | None = None) -> None:
        """Set the priorities of items; only prioritized samplers use them."""

    def dumps(self, path: str | Path) -> None:
        """Write the state of the sampler to a folder, which may hold other files."""
        dump_state(self, path, FILE)

    def loads(self, path: str | Path) -> None:
        """Load what :meth:`dumps` wrote."""
        load_state(self, path, FILE)

    @property
    def default_priority(self) -> float:
        """Priority of new items."""
        return 1.0

    def _empty(self) -> None:
        pass

    def state_dict(self) -> State:
        """Return the state that a sampler needs to continue exactly as this one."""
        return {}

    def load_state_dict(self, state_dict: State) -> None:
        """Load the state of a :meth:`state_dict`."""

    def pass_state(self) -> object:
        """Return the state that :meth:`sample` changes: tensors, numbers and containers of them.

        If it has no priorities in it, these may be updated while batches are prefetched.
        """
        return copy.deepcopy(self.state_dict()), self.ran_out

    def restore_pass(self, state: Any) -> None:
        """Load the state of :meth:`pass_state`."""
        saved, self.ran_out = state
        self.load_state_dict(saved)

    def settings(self) -> State:
        """Return the parameters that may be set from outside, by name."""
        return {name: value for name, value in vars(self).items() if name[0] != "_" and name != "ran_out"}

    @property
    def rates_apart(self) -> bool:
        """Whether :meth:`update_priority` changes nothing that :meth:`restore_pass` would undo."""
        kind = type(self)
        return kind.update_priority is Sampler.update_priority or kind.pass_state is not Sampler.pass_state

    def __getstate__(self) -> State:
        state = self.__dict__.copy()
        generator = state.pop("generator", None)
        if generator is not None:
            state["_generator_state"] = (str(generator.device), generator.get_state())
        return state

    def __setstate__(self, state: State) -> None:
        saved = state.pop("_generator_state", None)
        self.__dict__.update(state)
        if saved is not None:
            self.generator = torch.Generator(saved[0])
            self.generator.set_state(saved[1])


class SamplerEnsemble:
    """The samplers of several buffers, and a random choice among the buffers.

    Args:
        *samplers: One for each buffer.
        p: Relative probability of each buffer; uniform if ``None``.
        sample_from_all: Take the same number of items from every buffer.
        num_buffer_sampled: Number of draws of a buffer for a sample; the number of buffers if
            ``None``.

    Raises:
        TypeError: if ``sample_from_all`` comes with ``p`` or ``num_buffer_sampled``.
        ValueError: if ``p`` is not one number, zero or more, for each buffer.

    >>> from torchrl.data import RandomSampler
    >>> SamplerEnsemble(RandomSampler(), RandomSampler(), sample_from_all=True).choose()
    tensor([0, 1])
    """

    generator: torch.Generator | None = None

    def __init__(
        self,
        *samplers: Sampler,
        p: Sequence[float] | Tensor | None = None,
        sample_from_all: bool = False,
        num_buffer_sampled: int | None = None,
    ) -> None:
        if sample_from_all and (p is not None or num_buffer_sampled is not None):
            raise TypeError(describe(self, "sample_from_all leaves no choice, so it takes no p and no number"))
        self.samplers, self.sample_from_all = list(samplers), sample_from_all
        self.num_buffer_sampled = num_buffer_sampled or len(samplers)
        odds = torch.ones(len(samplers)) if p is None else torch.as_tensor(p, dtype=torch.float64)
        if odds.shape != (len(samplers),) or not (odds >= 0).all() or not 0 < odds.sum() < torch.inf:
            raise ValueError(
                describe(
                    self,
                    "p must give odds for each buffer",
                    expected=f"{len(samplers)} numbers, zero or more",
                    found=odds.tolist(),
                )
            )
        self.p = odds / odds.sum()

    def choose(self) -> Tensor:
        """Return the numbers ``[n]`` of the buffers that a sample is made of."""
        if self.sample_from_all:
            return torch.arange(len(self.samplers))
        return torch.multinomial(self.p, self.num_buffer_sampled, replacement=True, generator=self.generator)

    def dumps(self, path: str | Path) -> None:
        """Write the state to a folder, which may hold other files."""
        dump_state(self, path, FILE)

    def loads(self, path: str | Path) -> None:
        """Load what :meth:`dumps` wrote."""
        load_state(self, path, FILE)

    def state_dict(self) -> State:
        """Return the odds and the state of the generator; samplers belong to their buffers."""
        generator = None if self.generator is None else self.generator.get_state()
        return {"p": self.p.clone(), "generator": generator}

    def load_state_dict(self, state_dict: State) -> None:
        """Load the state of a :meth:`state_dict`."""
        self.p = state_dict["p"].clone()
        if state_dict["generator"] is not None:
            generator = self.generator or torch.Generator()
            self.generator = generator.set_state(state_dict["generator"])


class PositionError(TorchRLError, IndexError):
    """A sampler returned a position at which no item is stored."""


class InfoKeyError(TorchRLError, ValueError):
    """An entry of the info of a sampler has the name of another entry of the sample."""


def check_drawn(sampler: Sampler, drawn: object, storage: Storage) -> None:
    """Check what ``sampler.sample(storage, batch_size)`` returned.

    Raises:
        DTypeError: if it is not a pair of an int64 tensor and a dict of tensors or arrays.
        ShapeError: if positions are not ``[B]``, or an entry of the dict is not ``[B, *]``.
        InfoKeyError: if an entry of the dict has the name ``index``, or that of a stored entry.
        PositionError: if a position is not one of a stored item.
    """
    if not isinstance(drawn, tuple) or len(drawn) != 2 or not isinstance(drawn[1], dict):
        raise DTypeError(
            describe(
                sampler,
                "sample() must return a pair",
                expected="(positions [B], info dict)",
                found=_type_of(drawn),
                hint="Return positions, {} if nothing else is known about the items.",
            )
        )
    positions, info = drawn
    if not isinstance(positions, Tensor) or positions.dtype is not torch.int64:
        raise DTypeError(
            describe(
                sampler, "sample() must return positions as a tensor", expected="torch.int64", found=_type_of(positions)
            )
        )
    if positions.ndim != 1:
        raise ShapeError(
            describe(
                sampler,
                "sample() must return one position for each item",
                expected="[B]",
                found=list(positions.shape),
                hint="A position is the row-major number of an item, see Storage.",
            )
        )
    if info:
        _check_info(sampler, info, len(positions), storage)
    items = len(storage)
    if len(positions) and (int(positions.min()) < 0 or int(positions.max()) >= items):
        raise PositionError(
            describe(
                sampler,
                "sample() returned a position at which no item is stored",
                expected=f"[0, {items})",
                found=positions[(positions < 0) | (positions >= items)][:3].tolist(),
            )
        )


def _check_info(sampler: Sampler, info: Info, count: int, storage: Storage) -> None:
    """Check the entries of the info about ``count`` items."""
    for key, value in info.items():
        if not isinstance(value, Tensor | np.ndarray) and not is_tensor_collection(value):
            raise DTypeError(
                describe(
                    sampler,
                    "of info must be a tensor",
                    key=key,
                    expected=f"a tensor or an array [{count}, *], one element for each position",
                    found=_type_of(value),
                    hint="Repeat one value for all items: torch.full((batch_size,), value).",
                )
            )
        if tuple(value.shape[:1]) != (count,):
            raise ShapeError(
                describe(
                    sampler,
                    "of info must have as many elements as positions",
                    key=key,
                    expected=f"[{count}, *]",
                    found=list(value.shape),
                )
            )
        known = key not in ITEM_INFO and not sampler.replaces_entries and storage.has_entry(key)
        if key == "index" or known:
            raise InfoKeyError(
                describe(
                    sampler,
                    "of info has the name of " + ("a stored entry" if known else "the index that the buffer writes"),
                    key=key,
                    hint="Return it under another name. A sampler that replaces stored entries on purpose sets "
                    "replaces_entries = True."
                    if known
                    else "Return it under another name.",
                )
            )


def _type_of(value: object) -> str:
    """Return the class of a value; of a tensor its dtype, of a tuple those of its elements."""
    if isinstance(value, Tensor):
        return str(value.dtype)
    if isinstance(value, tuple):
        return f"({', '.join(map(_type_of, value))})"
    return type(value).__name__


def require_items(storage: Storage, sampler: Sampler) -> int:
    """Return the number of stored items.

    Raises:
        RuntimeError: if there are none.
    """
    items = len(storage)
    if not items:
        raise RuntimeError(describe(sampler, "the replay buffer is empty", hint="Call extend() or add() first."))
    return items


def finite_number(owner: object, name: str, value: float | Tensor) -> float:
    """Return ``value`` as a float.

    Raises:
        ValueError: if it is negative, infinite or not a number.
    """
    number = float(value)
    if not 0 <= number < math.inf:
        raise ValueError(describe(owner, f"{name} must be a finite number, zero or more", found=value))
    return number


def whole_number(owner: object, name: str, value: float | Tensor, least: int) -> int:
    """Return ``value``.

    Raises:
        ValueError: if it is not a whole number, or less than ``least``.
    """
    number = float(value)
    if not least <= number < math.inf or number != int(number):
        raise ValueError(describe(owner, f"{name} must be a whole number, {least} or more", found=value))
    return int(value)
