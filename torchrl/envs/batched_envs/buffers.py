"""Where the numbers of many environments lie: one block an entry, one row an environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey
from torch import Tensor

from torchrl._core import memory as _core
from torchrl.data import Composite
from torchrl.envs.spec_access import INPUTS, OUTPUTS, leaf_names

INPUT, OUTCOME, ROOT, SIGNAL = "input", "outcome", "root", "signal"


@dataclass(frozen=True)
class EnvMeta:
    """What is known of an environment without holding it.

    Args:
        specs: The five groups of specs.
        batch_size: Its batch size.
        device: Where it lives.
        reads_action_only: Whether a step reads nothing of the record but the action, and a reset
            nothing at all.
        allow_done_after_reset: Whether its episodes may be over when they begin.
    """

    specs: dict[str, Composite]
    batch_size: torch.Size
    device: torch.device | None
    reads_action_only: bool
    allow_done_after_reset: bool

    def names(self, *groups: str) -> list[NestedKey]:
        """Return the entries of some groups of specs, each once."""
        return list(dict.fromkeys(key for group in groups for key in leaf_names(self.specs[group])))

    @property
    def input_names(self) -> list[NestedKey]:
        """The entries that a step may read."""
        return self.names("action") if self.reads_action_only else self.names(*INPUTS, *ROOTS)

    @property
    def outcome_names(self) -> list[NestedKey]:
        """The entries that a step may write; what is only a state need not be among them."""
        return self.names(*OUTPUTS, "state")

    @property
    def root_names(self) -> list[NestedKey]:
        """The entries that a reset may write; what is only a state need not be among them."""
        return self.names(*ROOTS, "state")

    @property
    def optional_names(self) -> list[NestedKey]:
        """The entries that are only a state: a step or a reset may leave them out."""
        known = self.names(*OUTPUTS)
        return [key for key in self.names("state") if key not in known]

    def spec_of(self, key: NestedKey) -> Any:
        """Return the spec of an entry."""
        for spec in self.specs.values():
            if key in leaf_names(spec):
                return spec[key]
        raise KeyError(key)

    def is_fixed(self) -> bool:
        """Say whether every entry is a tensor of one shape, so that it can have a row."""
        leaves = [spec[key] for spec in self.specs.values() for key in leaf_names(spec)]
        return all(
            leaf is not None and leaf.dtype is not None and -1 not in leaf.shape for leaf in leaves
        )


ROOTS = ("observation", "done")


@dataclass(frozen=True)
class Block:
    """Consecutive rows of one entry.

    Args:
        part: Which way it goes: ``input`` to the environments; ``outcome`` of a step, ``root`` of
            the next and ``signal`` from them.
        key: The entry.
        first: Number of the environment that has the first row.
        count: Number of rows.
        shape: Of a row.
        dtype: Of its numbers.
        offset: Where it begins, in bytes.
    """

    part: str
    key: NestedKey
    first: int
    count: int
    shape: torch.Size
    dtype: torch.dtype
    offset: int

    @property
    def num_bytes(self) -> int:
        """Its size."""
        return self.count * self.shape.numel() * self.dtype.itemsize


def lay_out(metas: Sequence[EnvMeta], *, individual: bool) -> list[Block]:
    """Return the blocks for all environments.

    Args:
        metas: One an environment.
        individual: Give each environment blocks of its own rather than rows of common ones.
    """
    blocks: list[Block] = []
    end = 0

    def add(part: str, key: NestedKey, first: int, count: int, shape: Any, dtype: Any) -> None:
        nonlocal end
        block = Block(part, key, first, count, torch.Size(shape), dtype, end)
        blocks.append(block)
        end += _core.aligned(block.num_bytes)

    groups = [(i, 1) for i in range(len(metas))] if individual else [(0, len(metas))]
    for first, count in groups:
        meta = metas[first]
        parts = ((INPUT, meta.input_names), (OUTCOME, meta.outcome_names), (ROOT, meta.root_names))
        for part, names in parts:
            for key in names:
                spec = meta.spec_of(key)
                add(part, key, first, count, spec.shape, spec.dtype)
        add(INPUT, "_step", first, count, (*meta.batch_size, 1), torch.bool)
    add(SIGNAL, "ended", 0, len(metas), (), torch.bool)
    add(SIGNAL, "at", 0, len(metas), (), torch.int64)  # which one a worker is busy with
    return blocks


class Memory(_core.Memory):
    """Bytes with blocks in them; arguments are those of :class:`torchrl._core.memory.Memory`."""

    def rows(self, block: Block) -> Tensor:
        """Return a block ``[count, *shape]``; writing to it writes to the memory."""
        return self.view(block.offset, (block.count, *block.shape), block.dtype)


def num_bytes(blocks: Sequence[Block]) -> int:
    """Return the size of the memory that holds the blocks."""
    return max(block.offset + block.num_bytes for block in blocks)


def rows_of(
    blocks: Sequence[Block], memory: Memory, env: int, part: str
) -> dict[NestedKey, Tensor]:
    """Return the rows of one environment, by entry."""
    return {
        block.key: memory.rows(block)[env - block.first]
        for block in blocks
        if block.part == part and block.first <= env < block.first + block.count
    }
