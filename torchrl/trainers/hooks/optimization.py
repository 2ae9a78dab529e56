"""From losses to weights: gradients, their limits, optimizers and learning rates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from torchrl._core.errors import describe, nearest
from torchrl._core.keys import require
from torchrl.trainers.hooks.base import TrainerHookBase

if TYPE_CHECKING:
    from torchrl.trainers.trainer import Trainer

INTERVALS = {"batch": "post_steps", "epoch": "post_epoch", "optim": "post_optim"}


def total_loss(losses: TensorDictBase, components: Sequence[str] | None = None) -> Tensor:
    """Return the sum of the terms of a loss: of those named, or of all that are called ``loss*``.

    Raises:
        MissingKeyError: if a term is absent.
        ValueError: if there are none.

    >>> from tensordict import TensorDict
    >>> total_loss(TensorDict(loss_a=torch.tensor(1.0), loss_b=torch.tensor(2.0), entropy=9.0))
    tensor(3.)
    """
    if components is None:
        names = [name for name in losses.keys() if name.startswith("loss")]  # noqa: SIM118 - else rows
        if not names:
            raise ValueError(
                describe(
                    "OptimizerHook",
                    "the loss module returned nothing to minimise",
                    expected="entries whose names begin with 'loss'",
                    found=sorted(losses.keys()),
                )
            )
    else:
        names = list(components)
        require(losses, names, "OptimizerHook", "Name what there is in loss_components.")
    terms = [losses.get(name) for name in names]
    return torch.stack(terms).sum() if len(terms) > 1 else terms[0]


def clip_gradients(parameters: list[Tensor], by_norm: bool, limit: float) -> Tensor | None:
    """Limit gradients in place: their norm, returned as it was before, or each of their values."""
    if by_norm:
        return torch.nn.utils.clip_grad_norm_(parameters, limit)
    torch.nn.utils.clip_grad_value_(parameters, limit)
    return None


class OptimizerHook(TrainerHookBase):
    """Moves the parameters of an optimizer down the gradient of the loss.

    Several of them may take a part of the loss each. All gradients are taken before anything moves,
    so their order does not matter.

    Args:
        optimizer: What moves.
        loss_components: Names of the terms of the loss; all that are called ``loss*`` if ``None``.

    Writes: ``grad_norm_<index> []``, the norm before it was limited, if the trainer limits it.

    >>> from tensordict import TensorDict
    >>> weight = torch.nn.Parameter(torch.ones(()))
    >>> hook = OptimizerHook(torch.optim.SGD([weight], lr=0.1))
    >>> _ = hook(TensorDict(loss=weight**2))
    >>> weight.item()
    0.800000011920929
    """

    name, saved = "optimizer", ("optimizer",)

    def __init__(
        self, optimizer: torch.optim.Optimizer, loss_components: Sequence[str] | None = None
    ) -> None:
        if loss_components is not None and not loss_components:
            raise ValueError("OptimizerHook: loss_components is empty; leave it out to take all.")
        self.optimizer, self.loss_components = optimizer, loss_components

    def __call__(self, losses: TensorDictBase, *args: Any, **kwargs: Any) -> TensorDictBase:
        losses = self.take_gradients(losses, *args, **kwargs)
        self.step()
        return losses

    def take_gradients(
        self,
        losses: TensorDictBase,
        clip_grad_norm: bool = True,
        clip_norm: float | None = None,
        index: int = 0,
    ) -> TensorDictBase:
        """Take the gradients of the loss in the parameters of the optimizer, and limit them."""
        self.optimizer.zero_grad()
        parameters = self._parameters()
        # other hooks may need the same graph for their terms
        keep = self.loss_components is not None
        total_loss(losses, self.loss_components).backward(inputs=parameters, retain_graph=keep)
        if clip_norm is not None:
            norm = clip_gradients(parameters, clip_grad_norm, clip_norm)
            if norm is not None:
                losses.set(f"grad_norm_{index}", norm)
        return losses

    def step(self) -> None:
        """Move."""
        self.optimizer.step()

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def register(self, trainer: Trainer, name: str | None = None) -> None:
        """Join a trainer: take gradients when it is time, move when all have been taken."""
        trainer.register_op("optimizer", self.take_gradients)
        trainer.register_op("optimizer_step", self.step)
        self._save_with(trainer, name)


class OptimizationStepper(ABC):
    """Does all of an optimisation step, in place of the hooks of ``"optimizer"``.

    Hooks:
        step: ``(trainer, sub_batch) -> losses``, the losses by name, which are logged.
            ``trainer.compute_losses(sub_batch)`` runs the loss module and the hooks around it.
    """

    @abstractmethod
    def step(self, trainer: Trainer, sub_batch: TensorDictBase) -> TensorDictBase: ...


class DefaultOptimizationStepper(OptimizationStepper):
    """Sums the terms of the loss, and moves the trainer's optimizer down their gradient.

    Args:
        loss_components: Names of the terms; all that are called ``loss*`` if ``None``.

    >>> DefaultOptimizationStepper(["loss_actor"]).loss_components
    ['loss_actor']
    """

    def __init__(self, loss_components: Sequence[str] | None = None) -> None:
        self.loss_components = loss_components

    def step(self, trainer: Trainer, sub_batch: TensorDictBase) -> TensorDictBase:
        """Compute the losses of a sample and move once."""
        if trainer.optimizer is None:
            raise ValueError(describe(self, "the trainer has no optimizer", hint="Give it one."))
        hook = OptimizerHook(trainer.optimizer, self.loss_components)
        losses = trainer.compute_losses(sub_batch)
        return hook(losses, trainer.clip_grad_norm, trainer.clip_norm)


class LRSchedulerHook(TrainerHookBase):
    """Steps a scheduler of learning rates, and logs the first rate.

    With a trainer, rates hold until it has learned something: a batch of random actions that only
    fills the buffer is no step of the schedule.

    Args:
        scheduler: From :mod:`torch.optim.lr_scheduler`.
        interval: When: after each ``"batch"``, ``"epoch"`` or optimisation step, ``"optim"``.

    Raises:
        ValueError: if ``interval`` is none of these.

    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    >>> hook = LRSchedulerHook(torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5))
    >>> optimizer.step(), hook(), hook.log(None)
    (None, None, {'lr': 0.5})
    """

    name, saved = "lr_scheduler", ("scheduler",)

    def __init__(self, scheduler: Any, interval: str = "batch") -> None:
        if interval not in INTERVALS:
            raise ValueError(
                f"LRSchedulerHook: expected interval to be one of {list(INTERVALS)}, found "
                f"{interval!r}. {nearest(interval, INTERVALS)}".rstrip()
            )
        self.scheduler, self.interval = scheduler, interval
        self._trainer: Trainer | None = None

    def __call__(self) -> None:
        if self._trainer is None or self._trainer.num_optim_steps:
            self.scheduler.step()

    def log(self, batch: TensorDictBase | None) -> dict[str, float]:
        """Return the learning rate of the first group of parameters."""
        return {"lr": self.scheduler.get_last_lr()[0]}

    def register(self, trainer: Trainer, name: str | None = None) -> None:
        """Join a trainer: step when it is time, log after each batch."""
        self._trainer = trainer
        trainer.register_op(INTERVALS[self.interval], self)
        trainer.register_op("post_steps_log", self.log)
        self._save_with(trainer, name)
