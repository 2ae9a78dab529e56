"""`BatchSubSampler`: parts of the batch that was just collected, for learning on policy.

``N`` trajectories, ``T`` their longest, ``L`` steps of a part.
"""

from __future__ import annotations

import torch
from tensordict import TensorDictBase

from torchrl._core.errors import ShapeError, describe
from torchrl.data.trajectories import split_trajectories
from torchrl.trainers.hooks.base import TrainerHookBase
from torchrl.trainers.hooks.batch import mask_batch, rows


class BatchSubSampler(TrainerHookBase):
    """Draws a part of the batch for each optimisation step.

    Args:
        batch_size: Steps of a part ``[batch_size]``, drawn without replacement; all of them if the
            batch has fewer.
        sub_traj_len: Draw pieces of trajectories instead: ``[batch_size // L, L]``, where ``L`` is
            this or, if that is shorter, the length of the shortest trajectory that is used. Every
            piece of that length is equally likely.
        min_sub_traj_len: Trajectories shorter than this are not used; with 0, those shorter than
            ``sub_traj_len`` are not.

    Raises:
        ValueError: if a part has no room for one piece.
        ShapeError: if no trajectory is long enough.

    >>> from tensordict import TensorDict
    >>> batch = TensorDict(step=torch.arange(10).expand(2, 10), batch_size=[2, 10])
    >>> BatchSubSampler(batch_size=8)(batch).shape
    torch.Size([8])
    """

    stage, name = "process_optim_batch", "batch_subsampler"

    def __init__(self, batch_size: int, sub_traj_len: int = 0, min_sub_traj_len: int = 0) -> None:
        if batch_size < max(1, sub_traj_len):
            raise ValueError(
                f"BatchSubSampler: batch_size={batch_size} has no room for a piece of "
                f"{max(1, sub_traj_len)} steps."
            )
        self.batch_size, self.sub_traj_len = batch_size, sub_traj_len
        self.min_sub_traj_len = min_sub_traj_len

    def __call__(self, batch: TensorDictBase) -> TensorDictBase:
        return self._pieces(batch) if self.sub_traj_len > 0 else self._steps(batch)

    def _steps(self, batch: TensorDictBase) -> TensorDictBase:
        flat = mask_batch(batch).reshape(-1)
        return flat[torch.randperm(flat.shape[0], device=flat.device)[: self.batch_size]]

    def _pieces(self, batch: TensorDictBase) -> TensorDictBase:
        if rows(batch) is None:
            batch = split_trajectories(batch, prefix="collector")
        lengths = batch.get(("collector", "mask")).sum(-1)  # [N]
        least = self.min_sub_traj_len or self.sub_traj_len
        long_enough = lengths >= least
        if not long_enough.any():
            raise ShapeError(
                describe(
                    self,
                    "no trajectory is long enough",
                    expected=f"at least {least} steps",
                    found=f"at most {int(lengths.max())}",
                    hint="Collect larger batches, or ask for shorter pieces.",
                )
            )
        length = min(self.sub_traj_len, int(lengths[long_enough].min()))
        starts = ((lengths - length + 1) * long_enough).to(torch.float)  # [N] places to begin at
        row = torch.multinomial(starts, self.batch_size // length, replacement=True)
        start = (torch.rand(row.shape, device=row.device) * starts[row]).long()
        steps = start.unsqueeze(-1) + torch.arange(length, device=row.device)  # [batch // L, L]
        return batch[row.unsqueeze(-1), steps]
