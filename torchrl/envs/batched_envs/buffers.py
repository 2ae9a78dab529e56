"""Where the numbers of many environments lie: one block an entry, one row an environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey
from torch import Tensor

from torchrl._core import memory as _core
from torchrl.envs.metadata import EnvMeta

INPUT, PRESET, OUTCOME, ROOT, SIGNAL = "input", "preset", "outcome", "root", "signal"


@dataclass(frozen=True)
class Block:
    """Consecutive rows of one entry.

    Args:
        part: Which way it goes: ``input`` to the environments, and ``preset``, what a policy wrote
            under ``"next"``; ``outcome`` of a step, ``root`` of the next and ``signal`` from them.
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
        parts = (
            (INPUT, meta.input_names),
            (PRESET, meta.preset_names),  # pages of memory that are never written take no room
            (OUTCOME, meta.outcome_names),
            (ROOT, meta.root_names),
        )
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
