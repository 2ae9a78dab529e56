"""Splitting trajectories that were collected one after the other.

``*B`` batch dimensions, ``T`` time, ``N`` pieces of trajectories, ``L`` steps of the longest piece.
"""

from __future__ import annotations

import torch
from tensordict import LazyStackedTensorDict, NestedKey, TensorDictBase
from torch import Tensor

from torchrl._core.errors import ShapeError, describe
from torchrl._core.keys import next_key, require


def split_trajectories(
    rollout_tensordict: TensorDictBase,
    *,
    prefix: NestedKey | None = None,
    trajectory_key: NestedKey | None = None,
    done_key: NestedKey | None = None,
    as_nested: bool | torch.layout = False,
) -> TensorDictBase:
    """Give each piece of a trajectory a row of its own.

    A piece is a run of steps of one row with one trajectory number or, in data without numbers, a
    run of steps up to an end or the edge of the batch. Steps that an earlier split marked as
    padding are left out.

    Args:
        rollout_tensordict: Steps ``[*B, T]``, time last.
        prefix: Where numbers are read and the mask is written; ``"collector"`` if there is such an
            entry, else the root.
        trajectory_key: The numbers ``[*B, T]``; ``(prefix, "traj_ids")`` if there is such an entry.
        done_key: The ends ``[*B, T, 1]``, for data without numbers; ``("next", "done")``.
        as_nested: Return nested tensors ``[N, -1]`` in place of padding, without a mask: ``True``
            for the jagged layout, or a layout.

    Reads: the numbers or the ends.
    Writes: ``(prefix, "mask") [N, L]`` bool, true for steps and false for padding.
    Returns: ``[N, L]``, in order of row and time; padding is zero, or the first value of the piece
    in entries that are no tensors.

    Raises:
        ShapeError: if there is no time dimension or no step.
        MissingKeyError: if neither numbers nor ends are at hand.
        ValueError: if both ``trajectory_key`` and ``done_key`` are given.

    >>> from tensordict import TensorDict
    >>> done = torch.tensor([False, True, False]).unsqueeze(-1)
    >>> steps = TensorDict(observation=torch.arange(1, 4), next=dict(done=done), batch_size=[3])
    >>> pieces = split_trajectories(steps)
    >>> pieces["observation"].tolist(), pieces["mask"].tolist()
    ([[1, 2], [3, 0]], [[True, True], [True, False]])
    """
    td = rollout_tensordict
    if td.ndim == 0 or td.batch_size.numel() == 0:
        raise ShapeError(
            describe(
                "split_trajectories",
                "got no steps to split",
                expected="a batch size [*B, T]",
                found=list(td.batch_size),
                hint="Pass a rollout or a collected batch, with time as its last dimension.",
            )
        )
    if prefix is None and "collector" in td:
        prefix = "collector"
    steps, starts = find_pieces(td, prefix, trajectory_key, done_key)
    lengths = starts.diff(append=starts.new_tensor([steps.numel()]))  # [N]
    if as_nested is not False:
        layout = torch.jagged if as_nested is True else as_nested
        pieces = steps.exclude(_under(prefix, "mask")).split(lengths.tolist())
        return LazyStackedTensorDict(*pieces).densify(layout=layout)
    offset = torch.arange(int(lengths.max()), device=starts.device)  # [L]
    mask = offset < lengths.unsqueeze(-1)  # [N, L]
    out = steps[starts.unsqueeze(-1) + offset * mask].masked_fill(~mask, 0)
    out.names = [None, "time"]
    return out.set(_under(prefix, "mask"), mask)


def find_pieces(
    td: TensorDictBase, prefix: NestedKey | None, trajectory_key: NestedKey | None, done_key: NestedKey | None
) -> tuple[TensorDictBase, Tensor]:
    """Return the steps ``[S]`` in order of row and time, and where pieces start among them."""
    row = torch.arange(td.batch_size.numel(), device=td.device) // td.batch_size[-1]  # [S]
    number = _number(td, prefix, trajectory_key, done_key)  # [S]
    steps = td.reshape(-1)
    kept = td.get(_under(prefix, "mask"), None)
    if kept is not None:
        kept = kept.reshape(-1)
        steps, row, number = steps[kept], row[kept], number[kept]
    changes = (row.diff() != 0) | (number.diff() != 0)
    return steps, torch.cat([changes.new_ones(1), changes]).nonzero().squeeze(-1)


def _number(
    td: TensorDictBase, prefix: NestedKey | None, trajectory_key: NestedKey | None, done_key: NestedKey | None
) -> Tensor:
    """Return a number ``[S]`` for each step that changes, within a row, where a trajectory does."""
    if trajectory_key is not None and done_key is not None:
        raise ValueError(
            "split_trajectories: trajectory_key and done_key are two ways to find the same cuts; pass one of them."
        )
    found = _under(prefix, "traj_ids")
    if trajectory_key is None and done_key is None and td.get(found, None) is not None:
        trajectory_key = found
    key = trajectory_key or done_key or next_key("done")
    require(td, [key], "split_trajectories", "Name yours with trajectory_key or done_key.")
    if trajectory_key is not None:
        return td.get(key).reshape(-1)
    ended = td.get(key).reshape(*td.batch_size, -1).any(-1).flatten()
    return ended.cumsum(0) - ended.long()  # the step that ends still belongs to what it ends


def _under(prefix: NestedKey | None, name: str) -> NestedKey:
    if prefix is None:
        return name
    return (prefix, name) if isinstance(prefix, str) else (*prefix, name)
