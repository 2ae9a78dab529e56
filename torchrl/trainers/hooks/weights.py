"""Where new weights go: to the policy that collects, to the target networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torchrl._core.errors import nearest
from torchrl.collectors import BaseCollector
from torchrl.objectives.targets import TargetNetUpdater
from torchrl.trainers.hooks.base import TrainerHookBase

if TYPE_CHECKING:
    from torchrl.trainers.trainer import Trainer

UNITS = {"batches": "post_steps", "optim_steps": "post_optim"}


class UpdateWeights(TrainerHookBase):
    """Sends the weights to the policies that collect, where those are copies.

    Args:
        collector: Whose policies; the trainer's collector if ``None``.
        update_weights_interval: Once in this many units.
        policy_weights_getter: Returns what is sent: a module, its parameters as a tensordict, or a
            state dict; the weights of the collector's own policy if ``None``.
        interval_unit: ``"batches"`` or ``"optim_steps"``.

    Raises:
        ValueError: if the interval is less than one, or the unit unknown.
    """

    name, saved = "update_weights", ("_count",)

    def __init__(
        self,
        collector: BaseCollector | None = None,
        update_weights_interval: int = 1,
        policy_weights_getter: Callable[[], Any] | None = None,
        *,
        interval_unit: str = "batches",
    ) -> None:
        if update_weights_interval < 1:
            raise ValueError(
                "UpdateWeights: update_weights_interval must be at least 1, found "
                f"{update_weights_interval}."
            )
        if interval_unit not in UNITS:
            raise ValueError(
                f"UpdateWeights: expected interval_unit to be one of {list(UNITS)}, found "
                f"{interval_unit!r}. {nearest(interval_unit, UNITS)}".rstrip()
            )
        self.collector, self.update_weights_interval = collector, update_weights_interval
        self.policy_weights_getter, self.interval_unit = policy_weights_getter, interval_unit
        self._count = 0

    def __call__(self) -> None:
        self._count += 1
        if self._count % self.update_weights_interval == 0:
            assert self.collector is not None
            getter = self.policy_weights_getter
            self.collector.update_policy_weights_(None if getter is None else getter())

    def register(self, trainer: Trainer, name: str | None = None) -> None:
        """Join a trainer."""
        if self.collector is None:
            self.collector = trainer.collector
        trainer.register_op(UNITS[self.interval_unit], self)
        self._save_with(trainer, name)


class TargetNetUpdaterHook(TrainerHookBase):
    """Moves the target networks after each optimisation step.

    Args:
        target_params_updater: A :class:`~torchrl.objectives.SoftUpdate` or its like.
    """

    stage, name = "post_optim", "target_net_updater"
    saved = ("target_params_updater",)

    def __init__(self, target_params_updater: TargetNetUpdater) -> None:
        self.target_params_updater = target_params_updater

    def __call__(self) -> None:
        self.target_params_updater.step()
