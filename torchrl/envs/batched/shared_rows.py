"""Memory of batched environments: one block for each entry, one row for each environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tensordict import NestedKey
from torch import Tensor

from torchrl._core.workers.shared_memory import SharedTensors
from torchrl.envs.metadata import EnvMeta

INPUT, PRESET, RESULTS, ROOT, SIGNAL = "input", "preset", "result", "root", "signal"


@dataclass(frozen=True)
class Block:
    """Consecutive rows of one entry.

    Args:
        part: ``input``, what a step reads; ``preset``, what a policy wrote under ``"next"``;
            ``result``, what a step writes; ``root``, what a reset writes; ``signal``, what
            environments report besides.
        key: The entry.
        first: Number of the environment that has the first row.
        count: Number of rows.
        shape: Shape of a row.
        dtype: Dtype of the rows.
    """

    part: str
    key: NestedKey
    first: int
    count: int
    shape: torch.Size
    dtype: torch.dtype


Rows = SharedTensors[Block]  # blocks [count, *shape]


def plan_blocks(metas: Sequence[EnvMeta], *, individual: bool) -> list[Block]:
    """Return the blocks for all environments.

    Args:
        metas: One for each environment.
        individual: Give each environment blocks of its own rather than rows of common ones.
    """
    blocks: list[Block] = []
    groups = [(i, 1) for i in range(len(metas))] if individual else [(0, len(metas))]
    for first, count in groups:
        meta = metas[first]
        parts = (
            (INPUT, meta.input_names),
            (PRESET, meta.preset_names),  # memory pages that are never written take no space
            (RESULTS, meta.result_names),
            (ROOT, meta.root_names),
        )
        for part, names in parts:
            for key in names:
                spec = meta.spec_of(key)
                blocks.append(Block(part, key, first, count, torch.Size(spec.shape), spec.dtype))
        mask = torch.Size((*meta.batch_size, 1))
        blocks.append(Block(INPUT, "_step", first, count, mask, torch.bool))
    blocks.append(Block(SIGNAL, "ended", 0, len(metas), torch.Size(()), torch.bool))
    # The environment that a worker steps or resets now, in the row of its first environment.
    blocks.append(Block(SIGNAL, "at", 0, len(metas), torch.Size(()), torch.int64))
    return blocks


def make_rows(blocks: Sequence[Block], kind: str = "own", *, file: int | None = None) -> Rows:
    """Return the memory of blocks; arguments as for :class:`SharedTensors`."""
    layout = {block: ((block.count, *block.shape), block.dtype) for block in blocks}
    return SharedTensors(layout, kind, file=file)


def rows_of(rows: Rows, env: int, part: str) -> dict[NestedKey, Tensor]:
    """Return the rows of one environment in one part, by entry."""
    return {
        block.key: tensor[env - block.first]
        for block, tensor in rows.tensors.items()
        if block.part == part and block.first <= env < block.first + block.count
    }
