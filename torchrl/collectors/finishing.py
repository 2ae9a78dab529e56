"""From the steps that were taken to the batch that is handed out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase

from torchrl._core.keys import next_key
from torchrl.collectors.recipes import Device
from torchrl.data.trajectories import split_trajectories, traj_ids
from torchrl.envs.common import EnvBase
from torchrl.envs.rollout import truncate_last


@dataclass
class Finishing:
    """What is done to the steps ``[*B, T]`` of each batch, in this order.

    Args:
        env: The environment.
        set_truncated: Mark the last step as truncated.
        compact_obs: Leave out the observations after each step.
        device: Where the batch is kept; where it was made if ``None``.
        waits: Whether a move to a CUDA device is waited for.
        split_trajs: Give each piece of a trajectory a row of its own.
        postproc: Applied last.
        in_place: Write each batch over the one before, and return that.

    Entries whose name begins with an underscore are left out first of all.
    """

    env: EnvBase
    set_truncated: bool = False
    compact_obs: bool = False
    device: Device = None
    waits: bool = True
    split_trajs: bool = False
    postproc: Callable[[TensorDictBase], TensorDictBase] | None = None
    in_place: bool = False
    _last: TensorDictBase | None = None

    def __call__(self, batch: TensorDictBase) -> TensorDictBase:
        left_out: list[NestedKey] = [key for key in batch.keys(True) if _is_private(key)]
        if self.compact_obs:
            left_out += [next_key(key) for key in self.env.observation_keys]
        if left_out:
            batch = batch.exclude(*left_out)
        if self.set_truncated:
            truncate_last(self.env, batch)
        if self.device is not None:
            batch = moved(batch, torch.device(self.device), self.waits)
        if self.split_trajs:
            batch = split_trajectories(batch, prefix="collector")
        if self.postproc is not None:
            batch = self.postproc(batch)
        if not self.in_place:
            return batch
        if self._last is None or self._last.batch_size != batch.batch_size:
            self._last = batch
            return batch
        return self._last.update_(batch)


class Numbers:
    """Numbers the trajectories of an environment.

    Args:
        env: The environment.

    Attributes:
        next_free: Smallest number that is above all given out so far.
        times, plus: What each number is multiplied by, and what is added then, so that several
            collectors share no number.

    Writes: ``("collector", "traj_ids") [*B, T]``.
    """

    def __init__(self, env: EnvBase) -> None:
        self.env, self.next_free = env, 0
        self.times, self.plus = 1, 0
        self._first = torch.empty(0, dtype=torch.int64)

    def begin(self) -> None:
        """Let all rows begin a new trajectory."""
        count = self.env.batch_size.numel()
        self._first = torch.arange(self.next_free, self.next_free + count)
        self._first = self._first.reshape(self.env.batch_size)  # [*B]
        self.next_free += count

    def write(self, batch: TensorDictBase) -> None:
        """Number the steps of a batch ``[*B, T]`` that follows the last one."""
        over = self.env.plan.rows_over(batch.get("next"), every=False)  # [*B, T, 1]
        ids, self._first, self.next_free = traj_ids(over.cpu(), self._first, self.next_free)
        ids = (ids * self.times + self.plus).to(over.device)
        batch.set("collector", TensorDict({"traj_ids": ids}, batch.batch_size, batch.device))


def moved(record: TensorDictBase, device: torch.device, waits: bool) -> TensorDictBase:
    """Return a record on ``device``, where the program need not wait for a CUDA device to fill.

    A move to the CPU is always waited for: its numbers may be read at once.
    """
    if waits or device.type != "cuda":
        return record.to(device)
    return record.to(device, non_blocking=True)


def _is_private(key: Any) -> bool:
    return any(part.startswith("_") for part in ((key,) if isinstance(key, str) else key))
