"""Numbers out of the loop: what the data hold, how much there is, how long it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl._core.errors import nearest
from torchrl._core.keys import require
from torchrl._core.legacy import old_keywords
from torchrl._core.timing import timeit
from torchrl.trainers.hooks.base import TrainerHookBase
from torchrl.trainers.hooks.batch import entry_name, num_frames, rows

if TYPE_CHECKING:
    from torchrl.trainers.trainer import Trainer

REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "min": torch.min,
    "max": torch.max,
    "median": torch.median,
}


class LogScalar(TrainerHookBase):
    """Logs one number that stands for an entry of the batch; padding is left out.

    Args:
        key: The entry.
        logname: Name of the number; that of the entry if ``None``.
        log_pbar: Show it beside the progress bar.
        include_std: Log the standard deviation too, as ``<logname>_std``.
        reduction: ``"mean"``, ``"sum"``, ``"min"``, ``"max"`` or ``"median"``.

    Raises:
        ValueError: if there is no such reduction.
        MissingKeyError: if the entry is absent.

    >>> from tensordict import TensorDict
    >>> batch = TensorDict({("next", "reward"): torch.tensor([[1.0], [3.0]])}, [2])
    >>> LogScalar(include_std=False)(batch)
    {'reward': tensor(2.), 'log_pbar': False}
    """

    stage, name = "pre_steps_log", "log_scalar"

    @old_keywords(reward_key="key")
    def __init__(
        self,
        key: NestedKey = ("next", "reward"),
        logname: str | None = None,
        log_pbar: bool = False,
        include_std: bool = True,
        reduction: str = "mean",
    ) -> None:
        if reduction not in REDUCTIONS:
            raise ValueError(
                f"LogScalar: expected reduction to be one of {list(REDUCTIONS)}, found "
                f"{reduction!r}. {nearest(reduction, REDUCTIONS)}".rstrip()
            )
        self.key, self.logname = key, logname or entry_name(key)
        self.log_pbar, self.include_std, self.reduction = log_pbar, include_std, reduction

    def __call__(self, batch: TensorDictBase) -> dict[str, Tensor | bool]:
        require(batch, [self.key], self, "Name yours: key=...")
        value, mask = batch.get(self.key), rows(batch)
        value = (value if mask is None else value[mask]).float()
        numbers: dict[str, Tensor | bool] = {self.logname: REDUCTIONS[self.reduction](value)}
        if self.include_std and value.numel() > 1:
            numbers[f"{self.logname}_std"] = value.std()
        return {**numbers, "log_pbar": self.log_pbar}


class CountFramesLog(TrainerHookBase):
    """Logs the number of frames so far, as ``n_frames``; padding does not count.

    Args:
        frame_skip: How many frames of the simulator a step is.
        log_pbar: Show it beside the progress bar.

    >>> from tensordict import TensorDict
    >>> CountFramesLog(frame_skip=4)(TensorDict(batch_size=[10]))
    {'n_frames': 40, 'log_pbar': False}
    """

    stage, name, saved = "pre_steps_log", "count_frames_log", ("frame_count",)

    def __init__(self, frame_skip: int, log_pbar: bool = False) -> None:
        self.frame_skip, self.log_pbar, self.frame_count = frame_skip, log_pbar, 0

    def __call__(self, batch: TensorDictBase) -> dict[str, int | bool]:
        self.frame_count += num_frames(batch) * self.frame_skip
        return {"n_frames": self.frame_count, "log_pbar": self.log_pbar}


class UTDRHook(TrainerHookBase):
    """Logs how many optimisation steps were taken for each step collected, as ``utd_ratio``.

    Args:
        trainer: Whose.
    """

    stage, name = "post_steps_log", "utd_ratio"

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def __call__(self, batch: TensorDictBase | None) -> dict[str, float]:
        collected = self.trainer.collected_frames / self.trainer.frame_skip
        return {"utd_ratio": self.trainer.num_optim_steps / max(collected, 1)}


class LogTiming(TrainerHookBase):
    """Logs what every :class:`~torchrl.timeit` of the process has measured, in seconds.

    Args:
        prefix: Put before the name of each timer, with a slash.
        percall: The mean of a call, rather than the sum of all.
        erase: Measure anew after each batch.

    >>> timeit.erase()
    >>> with timeit("think"):
    ...     pass
    >>> list(LogTiming()(None))
    ['time/think']
    """

    stage, name = "post_steps_log", "log_timing"

    def __init__(self, prefix: str = "time", percall: bool = True, erase: bool = False) -> None:
        self.prefix, self.percall, self.erase = prefix, percall, erase

    def __call__(self, batch: TensorDictBase | None) -> dict[str, float]:
        seconds = timeit.todict(self.percall, self.prefix)
        if self.erase:
            timeit.erase()
        return seconds
