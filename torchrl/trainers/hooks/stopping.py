"""`EarlyStopping`: no longer than it helps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tensordict import TensorDictBase

from torchrl._core.log import logger
from torchrl.trainers.hooks.base import TrainerHookBase

if TYPE_CHECKING:
    from torchrl.trainers.trainer import Trainer


class EarlyStopping(TrainerHookBase):
    """Ends training when a number that is logged has not improved for a while.

    Args:
        monitor: Name of the number; nothing happens before it is first logged.
        mode: ``"max"`` if more is better, ``"min"`` if less is.
        min_delta: Least change that counts as better.
        patience: Frames without a better value after which training ends.
        wait_for: Frames before which it never ends.
        check_finite: End at once if the number is infinite or none at all.

    Raises:
        ValueError: if ``mode`` is neither.
    """

    stage, name, saved = "post_steps_log", "early_stopping", ("best", "_since")

    def __init__(
        self,
        *,
        monitor: str = "r_evaluation",
        mode: str = "max",
        min_delta: float = 0.0,
        patience: int = 100_000,
        wait_for: int = 1_000_000,
        check_finite: bool = True,
    ) -> None:
        if mode not in ("max", "min"):
            raise ValueError(f"EarlyStopping: expected mode 'max' or 'min', found {mode!r}.")
        self.monitor, self.mode, self.min_delta = monitor, mode, min_delta
        self.patience, self.wait_for, self.check_finite = patience, wait_for, check_finite
        self.best: float | None = None
        self._since = 0  # frames at the best value
        self._trainer: Trainer | None = None

    def __call__(self, batch: TensorDictBase | None = None) -> None:
        trainer = self._trainer
        assert trainer is not None
        if self.monitor not in trainer.metrics:
            return
        value, frames = float(trainer.metrics[self.monitor]), trainer.collected_frames
        if self.check_finite and not math.isfinite(value):
            logger.info("EarlyStopping: %s is %s after %d frames.", self.monitor, value, frames)
            trainer.request_stop()
        elif self._is_better(value):
            self.best, self._since = value, frames
        elif frames >= self.wait_for and frames - self._since >= self.patience:
            logger.info(
                "EarlyStopping: %s has been no better than %s for %d frames.",
                self.monitor,
                self.best,
                frames - self._since,
            )
            trainer.request_stop()

    def _is_better(self, value: float) -> bool:
        if self.best is None:
            return True
        gain = value - self.best if self.mode == "max" else self.best - value
        return gain > self.min_delta

    def register(self, trainer: Trainer, name: str | None = None) -> None:
        """Join a trainer, which it ends; after the hooks that log the number."""
        self._trainer = trainer
        super().register(trainer, name)
