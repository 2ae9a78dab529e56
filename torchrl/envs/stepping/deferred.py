"""Deferred entries: written into all steps at once, after the last one, since no step reads them.

A loop leaves such entries out (:meth:`EnvBase.defer`) and adds them to the stack of its steps;
the numbers are those that are written step by step, to the last bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl._core.records.flat_record import FlatRecord
from torchrl.envs.stepping.compiled_specs import CompiledSpecs


@dataclass(frozen=True)
class Deferred(ABC):
    """An entry that can be written after the steps.

    Args:
        key: The entry.
        source: The entry that it is made from; ``None`` if from none.

    Hooks:
        write: ``steps [*B, T], first, root, reset_at_end``; write the entry into ``steps``, which
            lack it, and into the next root. ``first`` holds what the first root had of it: nothing,
            if roots do not have it. Rows that ended were reset after each step; after the last one
            only if ``reset_at_end``.
        fits: ``compiled -> bool``; whether that is so in an environment. Always, by default.
    """

    key: NestedKey
    source: NestedKey | None
    follows_itself = False  # whether a step reads what the one before wrote there

    @abstractmethod
    def write(self, steps: TensorDictBase, first: FlatRecord, root: FlatRecord, *, reset_at_end: bool) -> None: ...

    def fits(self, compiled: CompiledSpecs) -> bool:
        """Return whether it can be written so in an environment of these keys and shapes."""
        return True


@dataclass(frozen=True)
class ElementwiseDeferred(Deferred):
    """An entry of which each number follows from the one at its place in another entry.

    Args:
        function: ``[*B, *S] -> [*B, *S]``, with any batch dimensions.
    """

    function: Callable[[Tensor], Tensor]

    def write(self, steps: TensorDictBase, first: FlatRecord, root: FlatRecord, *, reset_at_end: bool) -> None:
        """Write the results of all steps and of the next root."""
        time = steps.ndim - 1
        self._write_into(steps.get("next"), time)
        if self.key in first:
            self._write_into(steps, time)
            steps.get(self.key).select(time, 0).copy_(first[self.key])
            self._write_into(root, 0)

    def _write_into(self, record: Any, time: int) -> None:
        source = record.get(self.source, None)
        if source is None:  # a step skips it, too
            return
        # Time goes first, so that constants of the shape [*B, *S] meet the dimensions they are for.
        rows = source.movedim(time, 0)  # [T, *B, *S]
        written = self.function(rows)
        if written is rows and self.key != self.source:
            written = rows.clone()
        record.set(self.key, written.movedim(0, time).contiguous())
