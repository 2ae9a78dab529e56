"""Specs made of several specs, which draw, judge and project as one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from torchrl.data.tensor_specs.base import TensorSpec


class Whole(TensorSpec):
    """A spec made of specs: what it draws, accepts and projects is up to them.

    Hooks:
        _build: ``"rand" | "zero" | "one", shape -> value [*shape, *S]``.
        complaint, project: as of :class:`TensorSpec`, for any value.
    """

    def rand(self, shape: Sequence[int] | int = ()) -> Any:
        """Return a random value ``[*shape, *S]``, which every spec draws its part of."""
        return self._build("rand", shape)

    def zero(self, shape: Sequence[int] | int = ()) -> Any:
        """Return a value of zeros ``[*shape, *S]``."""
        return self._build("zero", shape)

    def one(self, shape: Sequence[int] | int = ()) -> Any:
        """Return a value of ones ``[*shape, *S]``."""
        return self._build("one", shape)

    def _rand(self, size: torch.Size) -> Any:
        return self.rand(size[: len(size) - len(self.shape)])

    def _contains(self, val: Any) -> bool:
        return self.complaint(val) is None

    def _project(self, val: Any) -> Any:
        return self.project(val)

    @abstractmethod
    def _build(self, method: str, shape: Sequence[int] | int) -> Any: ...
