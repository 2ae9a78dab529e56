"""Distributions over several choices at once, each drawn on its own.

``*B`` batch dimensions, ``G`` choices, the ``i``-th among ``nvec[i]``, ``K`` the sum of ``nvec``, ``N`` its maximum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral
from typing import Any

import torch
from torch import Size, Tensor
from torch import distributions as d

from torchrl._core.errors import ShapeError, describe
from torchrl.modules.distributions.continuous import Shape
from torchrl.modules.distributions.discrete import OneHotCategorical, index_of, probs_to_logits, require_choice

Counts = Sequence[int] | Sequence[Sequence[int]] | Tensor


@dataclass(frozen=True)
class Layout:
    """Where the ``K`` numbers of several choices are in a table with one row for each choice.

    Args:
        counts: Number of values of each choice, ``nvec`` in one list.
        grid: Shape of ``nvec``.
        index: Which of the ``K`` numbers is at each place of the table, ``[G, N]``; 0 in padding.
        exists: False in padding, ``[G, N]``.
        offsets: First of the ``K`` numbers of each choice, ``[G]``.
        is_full: Whether there is no padding.
    """

    counts: tuple[int, ...]
    grid: Size
    index: Tensor
    exists: Tensor
    offsets: Tensor
    is_full: bool

    def rows(self, value: Tensor, padding: float) -> Tensor:
        """Return numbers ``[*B, K]`` as a table ``[*B, G, N]``."""
        table = value[..., self.index]
        return table if self.is_full else table.masked_fill(~self.exists, padding)


def layout_of(nvec: Counts, device: torch.device) -> Layout:
    """Return the layout of choices; outside compiled code, the same object for the same ``nvec`` and device.

    Raises:
        ValueError: if a choice has no value.

    >>> layout_of([2, 3], torch.device("cpu")).index
    tensor([[0, 1, 0],
            [2, 3, 4]])
    """
    key = _as_tuple(nvec.tolist() if isinstance(nvec, Tensor) else nvec)
    return _layout(key, device) if torch.compiler.is_compiling() else _kept_layout(key, device)


def _as_tuple(values: Any) -> tuple:
    return tuple(int(value) if isinstance(value, int | Integral) else _as_tuple(value) for value in values)


def _layout(nvec: tuple, device: torch.device) -> Layout:
    grid, counts = [], nvec
    while counts and isinstance(counts[0], tuple):
        grid.append(len(counts))
        counts = tuple(count for row in counts for count in row)
    if not counts or min(counts) < 1:
        raise ValueError(
            describe("FactorizedCategorical", "has at least one value for each choice", key="nvec", found=nvec)
        )
    grid.append(len(counts) // math.prod(grid))
    offsets = [sum(counts[:i]) for i in range(len(counts))]
    exists = [[place < count for place in range(max(counts))] for count in counts]
    index = [
        [offset + place if place < count else 0 for place in range(max(counts))]
        for offset, count in zip(offsets, counts, strict=True)
    ]
    return Layout(
        counts,
        Size(grid),
        torch.tensor(index, device=device),
        torch.tensor(exists, device=device),
        torch.tensor(offsets, device=device),
        min(counts) == max(counts),
    )


_kept_layout = lru_cache(maxsize=256)(_layout)


class _Factorized(d.Distribution):
    """What both encodings share: a categorical distribution for each choice.

    Hooks:
        _encoded: From the index of each choice to a value.
        _decoded: The inverse.
    """

    has_rsample = False
    num_params = 1
    arg_constraints: dict[str, d.constraints.Constraint] = {}

    def __init__(
        self,
        logits: Tensor | None = None,
        probs: Tensor | None = None,
        *,
        nvec: Counts,
        mask: Tensor | None = None,
        dtype: torch.dtype = torch.int64,
    ) -> None:
        if (logits is None) == (probs is None):
            raise ValueError(describe(self, "needs exactly one of 'logits' and 'probs'"))
        if logits is None:
            assert probs is not None
            logits = probs_to_logits(probs)
        layout = layout_of(nvec, logits.device)
        if logits.shape[-1:] != (sum(layout.counts),):
            raise ShapeError(
                describe(
                    self,
                    "has one number for each value of each choice",
                    expected=f"[*B, {sum(layout.counts)}], the sum of nvec={layout.counts}",
                    found=list(logits.shape),
                )
            )
        rows = layout.rows(logits, -torch.inf)  # [*B, G, N]
        self._has_choice: Tensor | None = None
        if mask is not None:
            allowed = layout.rows(mask.bool(), False)
            some = allowed.any(-1, keepdim=True)  # [*B, G, 1]
            rows = rows.masked_fill(~(allowed | ~some) & layout.exists, -torch.inf)
            self._has_choice = some.all(-2)  # [*B, 1]
        self.mask = mask
        self._set(OneHotCategorical(rows), layout, dtype)

    def _set(self, choices: OneHotCategorical, layout: Layout, dtype: torch.dtype) -> None:
        self._choices, self._layout, self.dtype = choices, layout, dtype
        super().__init__(choices.batch_shape[:-1], self._event_shape_of(layout), validate_args=False)

    def _event_shape_of(self, layout: Layout) -> Size:
        raise NotImplementedError

    def _encoded(self, index: Tensor) -> Tensor:
        raise NotImplementedError

    def _decoded(self, value: Tensor) -> Tensor:
        raise NotImplementedError

    @property
    def logits(self) -> Tensor:
        """Log-probabilities ``[*B, K]``; those of each choice sum to one."""
        return self._side_by_side(self._choices.logits)

    @property
    def probs(self) -> Tensor:
        """Probabilities ``[*B, K]``; those of each choice sum to one."""
        return self._side_by_side(self._choices.probs)

    def _side_by_side(self, rows: Tensor) -> Tensor:
        return rows.flatten(-2) if self._layout.is_full else rows[..., self._layout.exists]

    def expand(self, batch_shape: Shape, _instance: object = None) -> _Factorized:
        """Return the distribution with the batch shape ``batch_shape``."""
        new = type(self).__new__(type(self))
        new.mask = None if self.mask is None else self.mask.expand((*batch_shape, self.mask.shape[-1]))
        new._has_choice = None if self._has_choice is None else self._has_choice.expand((*batch_shape, 1))
        choices = self._choices.expand((*batch_shape, len(self._layout.counts)))
        new._set(choices, self._layout, self.dtype)
        return new

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Draw values, after the shape ``sample_shape``."""
        return self._encoded(self._draw_index(sample_shape))

    def sample_and_log_prob(self, sample_shape: Shape = ()) -> tuple[Tensor, Tensor]:
        """Return samples and their log-probabilities."""
        index = self._draw_index(sample_shape)
        return self._encoded(index), self._choices._log_prob_of(index.unsqueeze(-1)).sum(-1)

    def _draw_index(self, sample_shape: Shape) -> Tensor:
        if self._has_choice is not None:
            require_choice(self, self._has_choice)
        return self._choices._draw_index(sample_shape).squeeze(-1)  # [*L, *B, G]

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability ``[*B]``, the sum over the choices."""
        return self._choices._log_prob_of(self._decoded(value).unsqueeze(-1)).sum(-1)

    def entropy(self) -> Tensor:
        """Return the entropy ``[*B]``, the sum over the choices."""
        return self._choices.entropy().sum(-1)

    @property
    def mode(self) -> Tensor:
        """The most likely value of each choice; the first of several."""
        if self._has_choice is not None:
            require_choice(self, self._has_choice)
        return self._encoded(self._choices._param.argmax(-1))

    deterministic_sample = mode


class FactorizedCategorical(_Factorized):
    """Several independent choices, as numbers: of actions with a ``MultiCategorical`` spec.

    Args:
        logits: Unnormalised log-probabilities of all choices side by side, ``[*B, K]``.
        probs: Probabilities ``[*B, K]``, those of each choice up to a factor, instead.
        nvec: Number of values of each choice ``[G]``, or of each place of a grid.
        mask: True where a value is allowed, ``[*B, K]``.
        dtype: Dtype of the numbers.

    A value is ``[*B, G]``, or has the shape of the grid after ``*B``. There is no ``rsample``.

    Raises:
        ShapeError: if there is not one logit for each value of each choice.
        ValueError: unless exactly one of ``logits`` and ``probs`` is given; when it draws, if the mask of
            a choice allows nothing. Log-probabilities of such a choice are those without a mask.

    >>> dist = FactorizedCategorical(torch.tensor([0.0, 9.0, 0.0, 0.0, 9.0]), nvec=[2, 3])
    >>> dist.mode, dist.log_prob(torch.tensor([1, 2])).exp().round(decimals=2)
    (tensor([1, 2]), tensor(1.))
    """

    @property
    def support(self) -> d.constraints.Constraint:
        """Whole numbers."""
        return d.constraints.independent(d.constraints.nonnegative_integer, len(self._layout.grid))

    def _event_shape_of(self, layout: Layout) -> Size:
        return layout.grid

    def _encoded(self, index: Tensor) -> Tensor:
        index = index.to(self.dtype)
        grid = self._layout.grid
        return index if len(grid) == 1 else index.unflatten(-1, grid)

    def _decoded(self, value: Tensor) -> Tensor:
        return value.long().flatten(-len(self._layout.grid))


class FactorizedOneHotCategorical(_Factorized):
    """Several independent choices, as one-hot vectors side by side: of actions with a ``MultiOneHot`` spec.

    Args:
        logits: Unnormalised log-probabilities of all choices side by side, ``[*B, K]``.
        probs: Probabilities ``[*B, K]``, those of each choice up to a factor, instead.
        nvec: Number of values of each choice ``[G]``.
        mask: True where a value is allowed, ``[*B, K]``.
        dtype: Dtype of the vectors.

    A value is ``[*B, K]``. There is no ``rsample``.

    Raises:
        ShapeError: if there is not one logit for each value of each choice.
        ValueError: as :class:`FactorizedCategorical`.

    >>> FactorizedOneHotCategorical(torch.tensor([0.0, 9.0, 0.0, 0.0, 9.0]), nvec=[2, 3]).mode
    tensor([0, 1, 0, 0, 1])
    """

    @property
    def support(self) -> d.constraints.Constraint:
        """Vectors of zeros and ones."""
        return d.constraints.independent(d.constraints.boolean, 1)

    @property
    def mean(self) -> Tensor:
        """The probabilities ``[*B, K]``."""
        return self.probs

    @property
    def variance(self) -> Tensor:
        """The variance ``[*B, K]`` of each component."""
        return self.probs * (1 - self.probs)

    def _event_shape_of(self, layout: Layout) -> Size:
        return Size([sum(layout.counts)])

    def _encoded(self, index: Tensor) -> Tensor:
        zeros = index.new_zeros((*index.shape[:-1], sum(self._layout.counts)), dtype=self.dtype)
        return zeros.scatter(-1, index + self._layout.offsets, 1)

    def _decoded(self, value: Tensor) -> Tensor:
        value = value.byte() if value.dtype is torch.bool else value
        return index_of(self._layout.rows(value, 0)).squeeze(-1)


class IndependentBernoulli(d.Independent):
    """Several independent yes-or-no choices: of actions with a ``Binary`` spec.

    Args:
        logits: Log-odds ``[*B, N]``.
        probs: Probabilities of one ``[*B, N]``, instead.
        event_dim: Number of the last dimensions that are one value.
        dtype: Dtype of values.

    Raises:
        ValueError: unless exactly one of ``logits`` and ``probs`` is given.

    >>> dist = IndependentBernoulli(torch.tensor([9.0, -9.0]))
    >>> dist.mode, dist.log_prob(torch.tensor([1, 0])).exp().round(decimals=2)
    (tensor([1, 0]), tensor(1.))
    """

    num_params = 1

    def __init__(
        self,
        logits: Tensor | None = None,
        probs: Tensor | None = None,
        *,
        event_dim: int = 1,
        dtype: torch.dtype = torch.int64,
    ) -> None:
        if (logits is None) == (probs is None):
            raise ValueError(describe(self, "needs exactly one of 'logits' and 'probs'"))
        self.dtype = dtype
        super().__init__(d.Bernoulli(probs, logits, validate_args=False), event_dim, validate_args=False)

    @property
    def logits(self) -> Tensor:
        """Log-odds ``[*B, N]``."""
        return self.base_dist.logits

    @property
    def probs(self) -> Tensor:
        """Probabilities of one ``[*B, N]``."""
        return self.base_dist.probs

    def expand(self, batch_shape: Shape, _instance: object = None) -> IndependentBernoulli:
        """Return the distribution with the batch shape ``batch_shape``."""
        new = super().expand(Size(batch_shape), IndependentBernoulli.__new__(IndependentBernoulli))
        new.dtype = self.dtype
        return new

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Draw ``[*sample_shape, *B, N]``."""
        return super().sample(Size(sample_shape)).to(self.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability ``[*B]``, the sum over the choices."""
        return super().log_prob(value.to(self.logits.dtype))

    @property
    def mode(self) -> Tensor:
        """Ones where they are more likely than zeros."""
        return (self.probs > 0.5).to(self.dtype)

    deterministic_sample = mode


@d.register_kl(_Factorized, _Factorized)
def _kl_factorized(p: _Factorized, q: _Factorized) -> Tensor:
    before, after = p._choices, q._choices
    ratio = (before.logits - after.logits).masked_fill(before.probs == 0, 0.0)  # no infinity less infinity
    return (before.probs * ratio).sum((-1, -2))
