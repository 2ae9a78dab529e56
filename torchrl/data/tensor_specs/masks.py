"""What the discrete specs share: masks of legal categories, and the checks of their sizes.

Shapes: ``*B`` the batch dimensions of a spec, ``*L`` leading dimensions of a value, ``n``
categories. A mask ``[*B, n]`` is true where a category is legal.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from torchrl._core.errors import ShapeError, SpecError, describe
from torchrl.data.tensor_specs.base import TensorSpec
from torchrl.data.tensor_specs.shaping import Op


class Masked(TensorSpec):
    """A discrete spec whose categories may be forbidden by a mask.

    Its values are numbers of categories or one-hot vectors, and can be had in either form.

    Hooks:
        _mask_shape: ``-> size``, what a mask is broadcast to.
        _as_numbers, _as_one_hot: ``value -> value`` in that form; as it is by default.
        to_categorical_spec, to_one_hot_spec: may be overridden likewise.
    """

    mask: Tensor | None = None

    def update_mask(self, mask: Tensor | None) -> None:
        """Say which categories are legal from now on, in place.

        Args:
            mask: True where legal; broadcast to the batch dimensions, then the categories.
                ``None`` allows all.

        Raises:
            ShapeError: if it cannot be broadcast.
        """
        if mask is None:
            self.mask = None
            return
        mask = torch.as_tensor(mask, dtype=torch.bool, device=self.device)
        size = self._mask_shape()
        try:
            self.mask = mask.expand(size)
        except RuntimeError:
            raise ShapeError(
                describe(
                    self,
                    "cannot use a mask of this shape",
                    expected=list(size),
                    found=list(mask.shape),
                    hint="Give a mask its spec's batch dimensions, then the categories.",
                )
            ) from None

    def to_categorical(self, val: Tensor, safe: bool = False) -> Tensor:
        """Return a value as numbers of categories.

        Args:
            val: A value ``[*L, *S]``.
            safe: Check first that it is in the set.
        """
        if safe:
            self.assert_is_in(val)
        return self._as_numbers(val)

    def to_one_hot(self, val: Tensor, safe: bool = False) -> Tensor:
        """Return a value as one-hot vectors.

        Args:
            val: A value ``[*L, *S]``.
            safe: Check first that it is in the set.
        """
        if safe:
            self.assert_is_in(val)
        return self._as_one_hot(val)

    def to_categorical_spec(self) -> Any:
        """Return the spec of the same choices as numbers of categories."""
        return self

    def to_one_hot_spec(self) -> Any:
        """Return the spec of the same choices as one-hot vectors."""
        return self

    def _as_numbers(self, val: Tensor) -> Tensor:
        return val

    def _as_one_hot(self, val: Tensor) -> Tensor:
        return val

    def _mask_for(self, val: Tensor) -> Tensor | None:
        if self.mask is None or self.mask.device == val.device:
            return self.mask
        return self.mask.to(val.device)

    def _draw_legal(self, mask: Tensor, lead: torch.Size) -> Tensor:
        """Draw one legal category for each element, uniformly.

        Args:
            mask: True where legal ``[*B, n]``.
            lead: Shape ``[*L, *B]`` of the result.

        Raises:
            SpecError: if nothing is legal for some element.
        """
        score = torch.rand(*lead, mask.shape[-1], device=mask.device)  # [*L, *B, n]
        best = score.masked_fill_(~mask, -1.0).max(-1)
        if bool((best.values < 0).any()):
            raise self._no_legal_value()
        return best.indices

    def _no_legal_value(self) -> SpecError:
        return SpecError(
            describe(
                self,
                "has a mask that forbids every value",
                expected="at least one legal category wherever a value is drawn or projected",
                hint="Pass update_mask() a mask with a true entry in each row.",
            )
        )

    def _expected(self) -> str:
        masked = "" if self.mask is None else ", where the mask is true"
        return f"{self.space}{masked}"

    def _same(self, other: Any) -> bool:
        if self.mask is None or other.mask is None:
            return self.mask is other.mask
        return torch.equal(self.mask, other.mask)

    @abstractmethod
    def _mask_shape(self) -> torch.Size: ...


def nearest_legal(index: Tensor, mask: Tensor) -> Tensor:
    """Return for each category the closest legal one; the lower of two.

    Args:
        index: Categories ``[*L, *B]``.
        mask: True where legal ``[*B, n]``.
    """
    n = mask.shape[-1]
    distance = (torch.arange(n, device=mask.device) - index.unsqueeze(-1)).abs()  # [*L, *B, n]
    return distance.masked_fill(~mask, n).argmin(-1)


def best_legal(score: Tensor, mask: Tensor | None) -> Tensor:
    """Return the legal category ``[*L]`` of the greatest score ``[*L, n]``, the first of several.

    NaN counts as the least score.
    """
    if score.is_floating_point():
        score = score.nan_to_num(-torch.inf, torch.inf, -torch.inf)
    if mask is None:
        return (score.to(torch.uint8) if score.dtype == torch.bool else score).argmax(-1)
    # A legal -inf must still beat what is forbidden.
    score = score.double().clamp_min(torch.finfo(torch.float64).min)
    return score.masked_fill(~mask, -torch.inf).argmax(-1)


def pick(index: Tensor, tensor: Tensor) -> Tensor:
    """Return the entries ``[*L, 1]`` of ``tensor [*L, n]`` that ``index [*L]`` names."""
    index = index.unsqueeze(-1).expand(*tensor.shape[:-1], 1)
    return tensor.gather(-1, index)


def keep_legal(spec: TensorSpec, values: Tensor) -> Tensor:
    """Return the rows of ``values [N, *S]`` that are in ``spec``."""
    return values[[spec.is_in(value) for value in values]]


def check_n(who: TensorSpec, n: int, provisional: bool = True) -> None:
    """Raise :class:`SpecError` unless ``n`` is a number of categories."""
    if n < 1 and not (provisional and n == -1):
        raise SpecError(
            describe(
                who,
                "needs a number of categories",
                expected="n >= 1",
                found=n,
                hint="Give n a value of at least 1.",
            )
        )


def check_last(who: TensorSpec, shape: torch.Size, n: int) -> None:
    """Raise :class:`ShapeError` unless the last size is ``n``."""
    if not shape or shape[-1] != n:
        raise ShapeError(
            describe(
                who,
                "has the wrong last size",
                expected=f"a shape that ends with {n}",
                found=list(shape),
                hint="Append that size, or leave the shape out.",
            )
        )


def check_categories(who: TensorSpec, index: Tensor, n: int | Tensor) -> None:
    """Raise :class:`SpecError` unless every number names a category."""
    if bool(((index < 0) | (index >= n)).any()):
        raise SpecError(
            describe(
                who,
                "cannot encode a category that it does not have",
                expected=f"numbers from 0 to below {n if isinstance(n, int) else n.tolist()}",
                found=index.tolist() if index.numel() <= 8 else "others among them",
                hint="Raise n, or let use_register=True number the values.",
            )
        )


def check_feature_kept(spec: TensorSpec, op: Op) -> None:
    """Raise :class:`ShapeError` if ``op`` touches the last dimension, which belongs together."""
    last = spec.shape[-1]
    mark = torch.arange(last)
    kept = op(mark.expand(spec.shape))  # [*B', n] unless a dimension was mixed up
    if not kept.ndim or kept.shape[-1] != last or not bool((kept == mark).all()):
        raise ShapeError(
            describe(
                spec,
                "cannot give up its last dimension, which holds one value",
                expected=f"a shape that ends with the same {last} entries",
                found=list(kept.shape),
                hint="Change the dimensions before it.",
            )
        )
