"""Hooks for parameters: optimizers, learning rates, target networks, weights of collectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from torchrl._core.errors import describe, nearest
from torchrl._core.keys import require
from torchrl.collectors import BaseCollector
from torchrl.objectives.networks import TargetNetUpdater
from torchrl.trainers.hooks.base import TrainerHookBase
from torchrl.weight_update import Weights, WeightSender

if TYPE_CHECKING:
    from torchrl.trainers.trainer import Trainer

INTERVALS = {"batch": "post_steps", "epoch": "post_epoch", "optim": "post_optim"}
UNITS = {"batches": "post_steps", "optim_steps": "post_optim"}


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
                    expected="entries whose names start with 'loss'",
                    found=sorted(losses.keys()),
                )
            )
    else:
        names = list(components)
        require(losses, names, "OptimizerHook", "Choose loss_components among the entries.")
    terms = [losses.get(name) for name in names]
    return torch.stack(terms).sum() if len(terms) > 1 else terms[0]


def trained(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the parameters of an optimizer that are not frozen now.

    >>> a, b = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3), requires_grad=False)
    >>> [len(parameter) for parameter in trained(torch.optim.SGD([a, b]))]
    [2]
    """
    return [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]


class OptimizerHook(TrainerHookBase):
    """Update the parameters of an optimizer with the gradient of the loss.

    Several hooks may each minimise a part of the loss. All gradients are computed before any
    parameter is updated, so their order does not matter. Parameters that were frozen stay as they are.

    Args:
        optimizer: The optimizer.
        loss_components: Names of the terms of the loss; all that are called ``loss*`` if ``None``.

    Writes: ``grad_norm_<index> []``, the norm before clipping, if the trainer clips it.

    >>> from tensordict import TensorDict
    >>> weight = torch.nn.Parameter(torch.ones(()))
    >>> hook = OptimizerHook(torch.optim.SGD([weight], lr=0.1))
    >>> _ = hook(TensorDict(loss=weight**2))
    >>> weight.item()
    0.800000011920929
    """

    name, saved = "optimizer", ("optimizer",)

    def __init__(self, optimizer: torch.optim.Optimizer, loss_components: Sequence[str] | None = None) -> None:
        if loss_components is not None and not loss_components:
            raise ValueError("OptimizerHook: loss_components is empty; leave it out to take all.")
        self.optimizer, self.loss_components = optimizer, loss_components

    def __call__(self, losses: TensorDictBase, *args: Any, **kwargs: Any) -> TensorDictBase:
        losses = self.take_gradients(losses, *args, **kwargs)
        self.step()
        return losses

    def take_gradients(
        self, losses: TensorDictBase, clip_grad_norm: bool = True, clip_norm: float | None = None, index: int = 0
    ) -> TensorDictBase:
        """Compute the gradients of the optimizer's parameters, and clip them."""
        self.optimizer.zero_grad()
        parameters = trained(self.optimizer)
        # other hooks may need the same graph for their terms
        keep = self.loss_components is not None
        total_loss(losses, self.loss_components).backward(inputs=parameters, retain_graph=keep)
        if clip_norm is not None:
            if clip_grad_norm:
                norm = torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
                losses.set(f"grad_norm_{index}", norm)
            else:
                torch.nn.utils.clip_grad_value_(parameters, clip_norm)
        return losses

    def step(self) -> None:
        """Update the parameters."""
        self.optimizer.step()

    def register(self, trainer: Trainer, name: str | None = None) -> None:
        """Register with a trainer: all gradients first, then all updates."""
        trainer.register_op("optimizer", self.take_gradients)
        trainer.register_op("optimizer_step", self.step)
        self._save_with(trainer, name)


class OptimizationStepper(ABC):
    """One optimisation step, in place of the hooks of ``"optimizer"``.

    Hooks:
        step: ``(trainer, sub_batch) -> losses``, the losses by name, which are logged.
            ``trainer.compute_losses(sub_batch)`` runs the loss module and the hooks around it.

    >>> from torchrl.testing.hook import small_trainer
    >>> class SignStepper(OptimizationStepper):
    ...     def step(self, trainer, sub_batch):
    ...         losses = trainer.compute_losses(sub_batch)
    ...         parameters = list(trainer.loss_module.parameters())
    ...         for parameter, grad in zip(parameters, torch.autograd.grad(losses["loss"], parameters)):
    ...             parameter.data -= 1e-3 * grad.sign()
    ...         return losses.detach()
    >>> trainer = small_trainer()
    >>> trainer.optimization_stepper = SignStepper()
    """

    @abstractmethod
    def step(self, trainer: Trainer, sub_batch: TensorDictBase) -> TensorDictBase: ...


class DefaultOptimizationStepper(OptimizationStepper):
    """One step of the trainer's optimizer on the sum of the terms of the loss.

    Args:
        loss_components: Names of the terms; all that are called ``loss*`` if ``None``.

    >>> DefaultOptimizationStepper(["loss_actor"]).loss_components
    ['loss_actor']
    """

    def __init__(self, loss_components: Sequence[str] | None = None) -> None:
        self.loss_components = loss_components

    def step(self, trainer: Trainer, sub_batch: TensorDictBase) -> TensorDictBase:
        """Compute the losses of a sample and update the parameters once."""
        if trainer.optimizer is None:
            raise ValueError(describe(self, "the trainer has no optimizer", hint="Give it one."))
        hook = OptimizerHook(trainer.optimizer, self.loss_components)
        losses = trainer.compute_losses(sub_batch)
        return hook(losses, trainer.clip_grad_norm, trainer.clip_norm)


class MixedPrecisionOptimizationStepper(OptimizationStepper):
    """Optimisation steps with a forward pass in a lower precision, on gradients of several samples.

    Args:
        optimizer: The optimizer.
        mixed_precision: Compute losses under :class:`torch.autocast`; with float16 they are scaled, so that
            small gradients are not lost.
        autocast_dtype: Dtype of these computations.
        gradient_accumulation_steps: Number of samples, the mean of whose gradients makes an update.
        clip_norm: Largest norm of the gradients of an update; no clipping if ``None``.
        device_type: Of the computations, such as ``"cuda"``; that of the first parameter if ``None``.

    Raises:
        ValueError: if ``gradient_accumulation_steps`` is less than one.

    Source: Micikevicius et al., 2018, https://arxiv.org/abs/1710.03740.

    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    >>> stepper = MixedPrecisionOptimizationStepper(optimizer, gradient_accumulation_steps=2)
    >>> stepper.clip_norm
    1.0
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        mixed_precision: bool = False,
        autocast_dtype: torch.dtype = torch.bfloat16,
        gradient_accumulation_steps: int = 1,
        clip_norm: float | None = 1.0,
        device_type: str | None = None,
    ) -> None:
        if gradient_accumulation_steps < 1:
            found = gradient_accumulation_steps
            raise ValueError(describe(self, "counts samples", expected="gradient_accumulation_steps >= 1", found=found))
        self.optimizer, self.clip_norm = optimizer, clip_norm
        self.mixed_precision, self.autocast_dtype = mixed_precision, autocast_dtype
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.device_type = device_type or optimizer.param_groups[0]["params"][0].device.type
        needs_scale = mixed_precision and autocast_dtype is torch.float16
        self._scaler = torch.amp.GradScaler(self.device_type, enabled=needs_scale)
        self._count = 0

    def step(self, trainer: Trainer, sub_batch: TensorDictBase) -> TensorDictBase:
        """Add the gradients of a sample; update the parameters if it is the last of an update."""
        with torch.autocast(self.device_type, self.autocast_dtype, enabled=self.mixed_precision):
            losses = trainer.compute_losses(sub_batch)
        if self._count % self.gradient_accumulation_steps == 0:
            self.optimizer.zero_grad()
        total = total_loss(losses) / self.gradient_accumulation_steps
        self._scaler.scale(total).backward(inputs=trained(self.optimizer))
        self._count += 1
        if self._count % self.gradient_accumulation_steps == 0:
            self._scaler.unscale_(self.optimizer)
            if self.clip_norm is not None:
                losses.set("grad_norm", torch.nn.utils.clip_grad_norm_(trained(self.optimizer), self.clip_norm))
            self._scaler.step(self.optimizer)
            self._scaler.update()
        return losses


class LRSchedulerHook(TrainerHookBase):
    """Step a learning-rate scheduler, and log the rate of the first group of parameters.

    The schedule starts with the first optimisation step of the trainer: batches of random actions
    that only fill the buffer do not count.

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

    def __init__(self, scheduler: LRScheduler, interval: str = "batch") -> None:
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

    def log(self, batch: TensorDictBase | None) -> dict[str, float | Tensor]:
        """Return the learning rate of the first group of parameters."""
        return {"lr": self.scheduler.get_last_lr()[0]}

    def register(self, trainer: Trainer, name: str | None = None) -> None:
        """Register with a trainer: step after each interval, log after each batch."""
        self._trainer = trainer
        trainer.register_op(INTERVALS[self.interval], self)
        trainer.register_op("post_steps_log", self.log)
        self._save_with(trainer, name)


class UpdateWeights(TrainerHookBase):
    """Send the weights to the collector, if it holds copies of the policy.

    Args:
        collector: The collector; that of the trainer if ``None``.
        update_weights_interval: Number of units between two updates.
        policy_weights_getter: Returns the weights: a module, its parameters as a tensordict, or a
            state dict; those of the collector's own policy if ``None``.
        weight_update_map: The same as paths: ``{"policy": "loss_module.actor_network"}`` sends the weights of
            that attribute of the trainer to the policy of the collector.
        trainer: The trainer, for the map; the one that this is registered with if ``None``.
        sender: Send weights through this :class:`~torchrl.weight_update.WeightSender` in place of the collector.
        interval_unit: ``"batches"`` or ``"optim_steps"``.

    Raises:
        ValueError: if the interval is less than one, the unit unknown, the map names another receiver than
            ``"policy"``, there are both a getter and a map, or a sender and neither.
        AttributeError: at an update, if the trainer has no attribute of that path.

    >>> from torchrl.testing.hook import small_trainer
    >>> trainer = small_trainer()
    >>> UpdateWeights(trainer.collector, update_weights_interval=2).register(trainer)
    """

    name, saved = "update_weights", ("_count",)

    def __init__(
        self,
        collector: BaseCollector | None = None,
        update_weights_interval: int = 1,
        policy_weights_getter: Callable[[], Weights] | None = None,
        weight_update_map: Mapping[str, str] | None = None,
        trainer: Trainer | None = None,
        *,
        sender: WeightSender | None = None,
        interval_unit: str = "batches",
    ) -> None:
        if update_weights_interval < 1:
            raise ValueError(
                f"UpdateWeights: update_weights_interval must be at least 1, found {update_weights_interval}."
            )
        if interval_unit not in UNITS:
            raise ValueError(
                f"UpdateWeights: expected interval_unit to be one of {list(UNITS)}, found "
                f"{interval_unit!r}. {nearest(interval_unit, UNITS)}".rstrip()
            )
        self.collector, self.update_weights_interval = collector, update_weights_interval
        if weight_update_map is not None:
            if list(weight_update_map) != ["policy"]:
                found = list(weight_update_map)
                raise ValueError(describe(self, "sends weights to the policy", expected=["policy"], found=found))
            if policy_weights_getter is not None:
                raise ValueError(describe(self, "got policy_weights_getter and weight_update_map", hint="Give one."))
        if sender is not None and policy_weights_getter is None and weight_update_map is None:
            raise ValueError(describe(self, "has no weights to send", hint="Pass policy_weights_getter."))
        self.policy_weights_getter, self.interval_unit = policy_weights_getter, interval_unit
        self.weight_update_map, self.trainer, self.sender = weight_update_map, trainer, sender
        self._count = 0

    def __call__(self) -> None:
        self._count += 1
        if self._count % self.update_weights_interval == 0:
            assert self.collector is not None
            weights = None if self.policy_weights_getter is None else self.policy_weights_getter()
            if self.weight_update_map is not None:
                weights = attrgetter(self.weight_update_map["policy"])(self.trainer)
            if self.sender is None:
                self.collector.update_policy_weights_(weights)
            else:
                assert weights is not None
                self.sender.send(weights)

    def register(self, trainer: Trainer, name: str | None = None) -> None:
        """Register with a trainer."""
        if self.collector is None:
            self.collector = trainer.collector
        if self.trainer is None:
            self.trainer = trainer
        trainer.register_op(UNITS[self.interval_unit], self)
        self._save_with(trainer, name)


class TargetNetUpdaterHook(TrainerHookBase):
    """Update the target networks after each optimisation step.

    Args:
        target_params_updater: :class:`~torchrl.objectives.SoftUpdate`,
            :class:`~torchrl.objectives.HardUpdate` or another updater.
        interval: Optimisation steps between two updates.

    >>> from torchrl.objectives import SoftUpdate
    >>> from torchrl.testing.hook import small_trainer
    >>> trainer = small_trainer()
    >>> TargetNetUpdaterHook(SoftUpdate(trainer.loss_module, tau=0.01), interval=2).register(trainer)
    >>> trainer.train()
    """

    stage, name = "post_optim", "target_net_updater"
    saved = ("target_params_updater", "_count")

    def __init__(self, target_params_updater: TargetNetUpdater, interval: int = 1) -> None:
        self.target_params_updater, self.interval, self._count = target_params_updater, interval, 0

    def __call__(self) -> None:
        self._count += 1
        if self._count % self.interval == 0:
            self.target_params_updater.step()

    def state_dict(self) -> dict[str, object]:
        """Return the state of the updater, and with an interval the number of steps."""
        state = super().state_dict()
        if self.interval == 1:
            del state["_count"]
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned, here or in a release that had no interval."""
        super().load_state_dict({"_count": 0, **state_dict})


class ClearCudaCache(TrainerHookBase):
    """Empty torch's cache of CUDA memory before the optimisation steps of a batch.

    Args:
        interval: Number of batches between two times.

    Raises:
        ValueError: if that is less than one.

    >>> hook = ClearCudaCache(interval=10)
    >>> hook()
    """

    stage, name, saved = "pre_optim_steps", "clear_cuda_cache", ("count",)

    def __init__(self, interval: int) -> None:
        if interval < 1:
            raise ValueError(f"ClearCudaCache: interval must be at least 1, found {interval}.")
        self.interval, self.count = interval, 0

    def __call__(self) -> None:
        self.count += 1
        if self.count % self.interval == 0:
            torch.cuda.empty_cache()
