"""Deterministic actions brought into their range."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tensordict import NestedKey

from torchrl._core.errors import SpecError, describe
from torchrl._core.keys import as_keys, require
from torchrl._core.plan import Record
from torchrl.data import Bounded, Composite, TensorSpec
from torchrl.modules.distributions.continuous import Bound, check_range, keep_inside, same_kind
from torchrl.modules.tensordict_module.actors import agree, simplest
from torchrl.modules.tensordict_module.calls import RecordModule


class TanhModule(RecordModule):
    """Squashes entries into their range by a hyperbolic tangent.

    Args:
        in_keys: Entries to squash.
        out_keys: Where the results go; in place by default.
        spec: Spec of the results, or a composite: tells the ranges.
        low: Lower end of the range of all entries, where there is no spec; -1 by default.
        high: Upper end; 1 by default.
        clamp: Keep results off the bounds by one machine precision.

    Reads: ``in_keys [*B, A]``. Writes: ``out_keys [*B, A]``.

    Raises:
        SpecError: if the spec is not bounded, or ``low`` or ``high`` contradicts it.
        ValueError: if the range is empty.

    >>> import torch
    >>> from tensordict import TensorDict
    >>> module = TanhModule(["action"], low=0, high=4)
    >>> module(TensorDict(action=torch.tensor([0.0, 99.0])))["action"]
    tensor([2., 4.])
    """

    entrywise = True

    def __init__(
        self,
        in_keys: Sequence[NestedKey] | NestedKey,
        out_keys: Sequence[NestedKey] | NestedKey | None = None,
        *,
        spec: TensorSpec | None = None,
        low: Bound | None = None,
        high: Bound | None = None,
        clamp: bool = False,
    ) -> None:
        super().__init__()
        reads: Any = as_keys(in_keys)
        writes: Any = reads if out_keys is None else as_keys(out_keys)
        self.in_keys, self.out_keys = reads, writes
        self.clamp = clamp
        self._ranges = [self._range(key, spec, low, high) for key in self.out_keys]

    def _range(
        self, key: NestedKey, spec: TensorSpec | None, low: Bound | None, high: Bound | None
    ) -> tuple[Bound, Bound]:
        leaf = spec.get(key, None) if isinstance(spec, Composite) else spec
        if leaf is None:
            ends = (-1.0 if low is None else low), (1.0 if high is None else high)
            check_range(self, *ends)
            return ends
        if not isinstance(leaf, Bounded):
            raise SpecError(
                describe(self, "has no range", key=key, expected="a Bounded spec", found=leaf)
            )
        for name, given, bound in (("low", low, leaf.low), ("high", high, leaf.high)):
            if given is not None and not agree(given, bound):
                raise SpecError(
                    describe(
                        self,
                        "has another range than its spec",
                        key=key,
                        expected=f"{name}={simplest(bound)}",
                        found=f"{name}={given}",
                        hint="Leave out low and high, or the spec.",
                    )
                )
        return simplest(leaf.low), simplest(leaf.high)

    def _run(self, td: Record) -> None:
        """Squash each entry."""
        for read, written, (low, high) in zip(
            self.in_keys, self.out_keys_source, self._ranges, strict=True
        ):
            value = td.get(read)
            if value is None:
                require(td, [read], self, "Put the network before this module.")
            low, high = same_kind(low, value), same_kind(high, value)
            squashed = value.tanh() * ((high - low) / 2) + (high + low) / 2
            td.set(written, keep_inside(squashed, low, high) if self.clamp else squashed)
