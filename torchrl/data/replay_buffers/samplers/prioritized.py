"""`PrioritizedSampler`: proportional prioritized sampling with importance weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchrl._core.errors import describe
from torchrl.data.replay_buffers.data_types import Info, State
from torchrl.data.replay_buffers.samplers.base import Sampler, finite_number, require_items, whole_number
from torchrl.data.replay_buffers.segment_tree import Extreme, SumTree
from torchrl.data.replay_buffers.storages.base import Storage

REDUCTIONS = ("max", "min", "mean", "median")

# np.power has instructions so wide that the processor slows down for all that follows.
_power = np.float_power


class PrioritizedSampler(Sampler):
    r"""Sample items in proportion to their priority, with importance weights.

    .. math:: P_i = q_i / \sum_j q_j, \quad q_i = (p_i + \epsilon)^\alpha, \quad
        w_i = (q_i / \min_j q_j)^{-\beta}

    New items get the highest priority so far, so that each is sampled soon. :attr:`alpha` and
    :attr:`beta` can be set at any time; a new ``alpha`` applies to all priorities. If processes
    share a buffer, the priorities are those of the process that samples; it finds the rows that the
    others have written.

    Args:
        max_capacity: Number of items that the storage holds.
        alpha: Exponent of the priorities; 0 is uniform.
        beta: Exponent of the importance weights; 1 is the full correction.
        eps: Added to priorities, so that each item can be sampled.
        dtype: dtype of the weights. Priorities are kept in float64.
        reduction: Reduces the priorities of an item that has several: ``"max"``, ``"min"``,
            ``"mean"`` or ``"median"``.
        max_priority_within_buffer: Give new items the highest priority now in the buffer, rather
            than the highest ever.

    Writes: ``priority_weight [B]``; 1 for the item with the least priority of all, less for others.

    Raises:
        ValueError: if ``alpha``, ``beta`` or ``eps`` is negative, infinite or not a number, then
            or when it is set later; or if ``reduction`` is unknown.

    Source: Schaul et al., 2016, https://arxiv.org/abs/1511.05952, section 3. Differs: weights are
    normalised by the largest in the buffer, not in the batch.

    >>> from torchrl.data import ReplayBuffer
    >>> buffer = ReplayBuffer(sampler=PrioritizedSampler(10, alpha=1.0, beta=1.0), batch_size=3)
    >>> _ = buffer.extend(["dull", "startling"])
    >>> buffer.update_priority(torch.tensor([0, 1]), torch.tensor([0.0, 5.0]))
    >>> buffer.sample()
    ['startling', 'startling', 'startling']
    """

    catches_up = True

    def __init__(
        self,
        max_capacity: int,
        alpha: float,
        beta: float,
        eps: float = 1e-8,
        dtype: torch.dtype = torch.float32,
        reduction: str = "max",
        max_priority_within_buffer: bool = False,
    ) -> None:
        if reduction not in REDUCTIONS:
            raise ValueError(describe(self, "unknown reduction", expected=REDUCTIONS, found=reduction))
        whole_number(self, "max_capacity", max_capacity, 1)
        self._alpha = finite_number(self, "alpha", alpha)
        self._beta, self._eps = (finite_number(self, name, value) for name, value in (("beta", beta), ("eps", eps)))
        self.dtype, self.reduction = dtype, reduction
        self.max_priority_within_buffer = max_priority_within_buffer
        self.max_capacity = max_capacity
        self._empty()

    def _empty(self) -> None:
        self._raw = np.full(self.max_capacity, -1.0)  # p_i; -1 where nothing is stored
        self._sum_tree = SumTree(self.max_capacity)
        self._watch()
        self._max_priority, self._told, self._stale = 1.0, 0, False

    def _watch(self) -> None:
        """Keep the lowest mass of all items, and, if required, the highest priority."""
        self._min = Extreme(self._sum_tree.leaves, np.minimum, absent=0.0, neutral=np.inf)
        self._max = Extreme(self._raw, np.maximum, absent=-1.0, neutral=-1.0)

    def __setstate__(self, state: State) -> None:
        super().__setstate__(state)
        self._watch()  # of the arrays of this copy

    @property
    def alpha(self) -> float:
        """Exponent of the priorities."""
        return self._alpha

    @alpha.setter
    def alpha(self, value: float) -> None:
        alpha = finite_number(self, "alpha", value)
        self._stale = self._stale or alpha != self._alpha
        self._alpha = alpha

    @property
    def beta(self) -> float:
        """Exponent of the importance weights."""
        return self._beta

    @beta.setter
    def beta(self, value: float) -> None:
        self._beta = finite_number(self, "beta", value)

    @property
    def eps(self) -> float:
        """Number added to priorities."""
        return self._eps

    @eps.setter
    def eps(self, value: float) -> None:
        eps = finite_number(self, "eps", value)
        self._stale = self._stale or eps != self._eps
        self._eps = eps

    @property
    def default_priority(self) -> float:
        """Priority of new items."""
        if not self.max_priority_within_buffer:
            return self._max_priority
        highest = float(self._max.total)
        return highest if highest >= 0 else 1.0

    def sample(self, storage: Storage, batch_size: int) -> tuple[Tensor, Info]:
        """Return positions ``[B]`` and their weights."""
        require_items(storage, self)
        self._catch_up(storage)
        index, mass = self._draw(batch_size)
        return torch.from_numpy(index), {"priority_weight": self._weights(mass)}

    def _draw(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return positions ``[N]``, each drawn in proportion to its mass, and their masses."""
        return self._sum_tree.find(self._uniform(count))

    def _weights(self, mass: np.ndarray) -> Tensor:
        """Return the importance weights of items of mass ``[N]``."""
        weights = _power(mass / self._min.total, -self._beta)
        if self.dtype is torch.float32:  # numpy rounds faster than torch
            return torch.from_numpy(weights.astype(np.float32))
        return torch.from_numpy(weights).to(self.dtype)

    def _catch_up(self, storage: Storage) -> None:
        """Apply a new alpha, and add the items that other processes have written."""
        if self._stale:
            self._stale, stored = False, self._raw >= 0
            self._sum_tree.fill(np.where(stored, self._mass(np.maximum(self._raw, 0.0)), 0.0))
            self._min.refresh()
        written, width = storage.written, storage.width
        if written * width > self._told:
            first = max(self._told // width, written - storage.capacity)
            slots = torch.arange(first, written) % storage.capacity
            told, self._told = written * width, 0
            self.extend(storage.items_of(slots))
            self._told = told

    def _mass(self, priority: np.ndarray) -> np.ndarray:
        return _power(priority + self._eps, self._alpha)

    def extend(self, index: Tensor) -> None:
        """Give items that were just written the default priority."""
        index = index[index >= 0]
        self._told += len(index)
        if len(index) > self.max_capacity:
            index = index[-self.max_capacity :]
        self._write(index.numpy(), np.full(len(index), self.default_priority))

    def _write(self, index: np.ndarray, priority: np.ndarray) -> None:
        if not len(index):
            return
        mass = self._mass(priority)
        try:
            self._raw[index] = priority
        except IndexError:
            raise IndexError(
                describe(
                    self,
                    "max_capacity is smaller than the storage",
                    expected=f"at least {int(index.max()) + 1}",
                    found=self.max_capacity,
                    hint="Build it with the storage's number of items.",
                )
            ) from None
        self._sum_tree.set(index, mass)
        self._min.update(index, mass)
        if self.max_priority_within_buffer:
            self._max.update(index, priority)

    def update_priority(self, index: int | Tensor, priority: float | Tensor, *, storage: Storage | None = None) -> None:
        """Set the priorities of items; positions without an item are ignored.

        Args:
            index: Positions ``[N]``.
            priority: ``[N]``, one number for all, or ``[N, *]``, which is reduced.
            storage: If it has several dimensions, ``index`` is ``[N, ndim]``, as ``extend`` of a
                buffer returns it.

        Raises:
            ValueError: if a priority is negative, infinite or not a number.
            IndexError: if a position lies outside the storage.
        """
        if storage is not None and storage.ndim > 1:
            index = storage.positions(index)
        slots = torch.as_tensor(index).numpy(force=True).reshape(-1)
        if not len(slots):
            return
        values = self._reduced(priority, len(slots))
        known = self._known(slots)
        highest = float(values[values.argmax()])  # NaN if there is one
        signs = slots | known.view(np.int64) | values.view(np.int64)  # negative if one of them is
        if signs[signs.argmin()] < 0 or not highest < np.inf:  # nor is NaN
            valid = np.isfinite(values) & (values >= 0)
            if not valid.all():
                raise ValueError(
                    describe(
                        self,
                        "priorities must be finite and not negative",
                        found=values[~valid][:3].tolist(),
                        hint="Pass the absolute error.",
                    )
                )
            stored = (known >= 0) & (slots >= 0)
            slots, values = slots[stored], values[stored]
            if not len(slots):
                return
            highest = float(values.max())
        self._max_priority = max(self._max_priority, highest)
        self._write(slots, values)

    def _known(self, slots: np.ndarray) -> np.ndarray:
        """Return the priorities of ``slots [N]``, -1 where nothing is stored."""
        try:
            return self._raw.take(slots)
        except IndexError:
            raise IndexError(
                describe(
                    self, "position out of range", expected=f"[0, {self.max_capacity})", found=int(np.abs(slots).max())
                )
            ) from None

    def _reduced(self, priority: float | Tensor, count: int) -> np.ndarray:
        if not isinstance(priority, Tensor):
            priority = torch.as_tensor(priority)
        if priority.dtype is torch.bfloat16:  # unknown to numpy
            priority = priority.float()
        given = priority.numpy(force=True).astype(np.float64)
        if given.size == 1:
            return np.full(count, given.item())
        values = given.reshape(count, -1)  # [N, *]
        if values.shape[1] == 1:
            return values[:, 0]
        return np.asarray(getattr(np, self.reduction)(values, axis=1))

    def settings(self) -> State:
        """Return the parameters that may be set from outside, by name."""
        exponents = {"alpha": self._alpha, "beta": self._beta, "eps": self._eps}
        return {**super().settings(), **exponents}

    def pass_state(self) -> object:
        """Return ``None``: draws are independent, and priorities are not part of a pass."""

    def restore_pass(self, state: Any) -> None:
        """Do nothing."""

    def state_dict(self) -> State:
        """Return priorities, exponents and the highest priority so far."""
        return {
            "priorities": torch.from_numpy(self._raw.copy()),
            "max_priority": self._max_priority,
            "alpha": self._alpha,
            "beta": self._beta,
            "told": self._told,
        }

    def load_state_dict(self, state_dict: State) -> None:
        """Load the priorities of a :meth:`state_dict`."""
        saved = state_dict["priorities"].numpy()[: self.max_capacity]
        self._raw = np.full(self.max_capacity, -1.0)
        self._raw[: len(saved)] = saved
        self._max_priority, self._told = state_dict["max_priority"], state_dict["told"]
        self._alpha, self._beta = state_dict["alpha"], state_dict["beta"]
        self._watch()
        self._stale = True
