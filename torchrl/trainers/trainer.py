"""`Trainer`: collect, store, sample, optimise, with hooks between."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from torchrl._core.errors import describe
from torchrl._core.timing import timeit
from torchrl.checkpoint import GlobalRNGState
from torchrl.collectors import BaseCollector
from torchrl.data import ReplayBuffer
from torchrl.objectives.targets import TargetNetUpdater
from torchrl.record import Logger
from torchrl.trainers.hooks.base import TrainerHookBase
from torchrl.trainers.hooks.logging import LogTiming
from torchrl.trainers.hooks.optimization import OptimizationStepper, OptimizerHook
from torchrl.trainers.hooks.replay import ReplayBufferTrainer
from torchrl.trainers.hooks.subsample import BatchSubSampler
from torchrl.trainers.hooks.weights import TargetNetUpdaterHook
from torchrl.trainers.metrics import Means, Metrics
from torchrl.trainers.progress import Progress
from torchrl.trainers.saving import Modules, save_whole
from torchrl.trainers.source import Source
from torchrl.trainers.stages import Stages

NEED_BATCHES = ("batch_process", "pre_steps_log", "pre_epoch")


class Trainer:
    """Runs the loop of training: collect, store, sample, optimise.

    What happens between is up to hooks, see :meth:`register_op`, which run in this order, those of
    one stage in the order of their registration::

        setup
        for batch in collector:
            batch_process, pre_steps_log
            unless actions are random still:
                pre_optim_steps
                for each epoch:
                    pre_epoch_log, pre_epoch
                    for each optimisation step:
                        process_optim_batch, the loss, post_loss, process_loss
                        optimizer, optimizer_step, post_optim, post_optim_log
                    post_epoch_log, post_epoch
                post_optim_complete_log
            post_steps, post_steps_log, the progress bar, a save if it is due
        shutdown

    Args:
        collector: Where batches come from.
        total_frames: Stop after this many frames.
        frame_skip: How many frames of the simulator a step is; frames are counted so.
        optim_steps_per_batch: Optimisation steps of an epoch; until a hook of
            ``"process_optim_batch"`` says that the epoch is over if ``None``.
        loss_module: Gives the losses; all entries called ``loss*`` are minimised.
        optimizer: What minimises them; registered as an :class:`OptimizerHook`, unless an
            ``optimization_stepper`` uses it.
        optimization_stepper: Does optimisation steps in place of the hooks of ``"optimizer"``.
        replay_buffer: Stores steps and gives samples; registered as a
            :class:`ReplayBufferTrainer`.
        target_net_updater: Moves the target networks after each optimisation step.
        batch_size: Size of the samples; without a buffer, of the part of the batch that each
            optimisation step draws.
        logger: Where numbers go.
        clip_grad_norm: Limit the norm of gradients, rather than each of their values.
        clip_norm: The limit; none if ``None``.
        progress_bar: Show how far training has come.
        seed: Of torch and of the environments.
        save_trainer_interval: Save after this many frames.
        log_interval: Hand a number to the logger once in this many frames, at most.
        save_trainer_file: Where to save, at the end too; nowhere if ``None``.
        num_epochs: Epochs of a batch.
        async_collection: Collect in the background, into the buffer that collector and trainer
            share, while this optimises.
        log_timings: Log how long collecting and optimising take.
        auto_log_optim_steps: Log the mean losses of a batch and the number of optimisation steps.

    Attributes:
        collected_frames: Frames so far.
        num_optim_steps: Optimisation steps so far.

    A collector that fills a buffer itself hands no batches over: hooks are handed ``None``, and
    those of ``"batch_process"``, ``"pre_steps_log"`` and ``"pre_epoch"`` are refused.

    Raises:
        ValueError: if the parts do not go together; see the message.

    >>> from torchrl.collectors import Collector
    >>> from torchrl.envs import GymEnv
    >>> from torchrl.modules import QValueActor
    >>> from torchrl.objectives import DQNLoss
    >>> env = GymEnv("CartPole-v1")
    >>> policy = QValueActor(nn.Linear(4, 2), spec=env.action_spec)
    >>> loss = DQNLoss(policy)
    >>> trainer = Trainer(
    ...     collector=Collector(env, policy, frames_per_batch=50, total_frames=100),
    ...     total_frames=100,
    ...     loss_module=loss,
    ...     optimizer=torch.optim.Adam(loss.parameters()),
    ...     progress_bar=False,
    ... )
    >>> trainer.train()
    >>> trainer.collected_frames, trainer.num_optim_steps
    (100, 2)
    """

    def __init__(
        self,
        *,
        collector: BaseCollector,
        total_frames: int,
        frame_skip: int = 1,
        optim_steps_per_batch: int | None = 1,
        loss_module: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        optimization_stepper: OptimizationStepper | None = None,
        replay_buffer: ReplayBuffer | None = None,
        target_net_updater: TargetNetUpdater | None = None,
        batch_size: int | None = None,
        logger: Logger | None = None,
        clip_grad_norm: bool = True,
        clip_norm: float | None = None,
        progress_bar: bool = True,
        seed: int | None = None,
        save_trainer_interval: int = 10_000,
        log_interval: int = 10_000,
        save_trainer_file: str | Path | None = None,
        num_epochs: int = 1,
        async_collection: bool = False,
        log_timings: bool = False,
        auto_log_optim_steps: bool = True,
    ) -> None:
        self.collector, self.total_frames, self.frame_skip = collector, total_frames, frame_skip
        self.optim_steps_per_batch, self.num_epochs = optim_steps_per_batch, num_epochs
        self.loss_module, self.optimizer = loss_module, optimizer
        self.optimization_stepper = optimization_stepper
        self.logger, self.progress_bar = logger, progress_bar
        self.clip_grad_norm, self.clip_norm = clip_grad_norm, clip_norm
        self.save_trainer_file = None if save_trainer_file is None else Path(save_trainer_file)
        self.save_trainer_interval, self.seed = save_trainer_interval, seed
        self.log_timings, self.auto_log_optim_steps = log_timings, auto_log_optim_steps

        self.collected_frames = self.num_optim_steps = 0
        self._saved_at, self._stop_requested = 0, False
        self._stages = Stages()
        self._modules, self._metrics = Modules(), Metrics(logger, log_interval)
        self._source = Source(
            collector, replay_buffer, frame_skip=frame_skip, in_background=async_collection
        )
        if seed is not None:
            torch.manual_seed(seed)
            collector.set_seed(seed)
        self._register_parts(replay_buffer, batch_size, target_net_updater)

    def _register_parts(
        self,
        replay_buffer: ReplayBuffer | None,
        batch_size: int | None,
        target_net_updater: TargetNetUpdater | None,
    ) -> None:
        if replay_buffer is not None:
            buffer = ReplayBufferTrainer(replay_buffer, batch_size, flatten_tensordicts=True)
            buffer.register(self)
        elif batch_size is not None:
            BatchSubSampler(batch_size).register(self)
        if self.optimization_stepper is None and self.optimizer is not None:
            OptimizerHook(self.optimizer).register(self)
        elif self.optimizer is not None:
            self.register_module("optimizer", self.optimizer)
        if target_net_updater is not None:
            TargetNetUpdaterHook(target_net_updater).register(self)
        if self.log_timings:
            LogTiming().register(self)

    @property
    def sees_batches(self) -> bool:
        """Whether the collector hands its batches over, rather than filling a buffer itself."""
        return self._source.hands_over

    # --- hooks -----------------------------------------------------------------------------------

    def register_op(self, dest: str, op: Callable[..., Any], **kwargs: Any) -> None:
        """Let something happen at a stage of the loop.

        Args:
            dest: The stage, one of :data:`~torchrl.trainers.stages.STAGES`. A batch is handed to
                those of ``*_log``, which return numbers by name or nothing, with ``log_pbar=True``
                among them to show them beside the progress bar. A batch, or sub-batch, is handed to
                those of ``batch_process``, ``pre_epoch``, ``process_optim_batch`` and
                ``post_loss``, which return it, changed or not. ``process_loss`` gets ``(sub_batch,
                losses)`` and returns losses; ``optimizer`` gets ``(losses, clip_grad_norm,
                clip_norm, index)``, the index that of the hook, and returns losses. The others get
                nothing.
            op: What happens.
            **kwargs: Handed to it at each call.

        Raises:
            ValueError: if there is no such stage.
            TypeError: if ``op`` cannot be called.
        """
        self._stages.add(dest, op, **kwargs)

    def register_module(self, module_name: str, module: Any) -> None:
        """Save something with the trainer, and restore it: whatever has a state dict.

        Raises:
            ValueError: if the name is taken.
            TypeError: if it has no state dict.
        """
        self._modules.add(module_name, module)

    def free_name(self, name: str) -> str:
        """Return a name for a module: this one, with a number behind it if it is taken."""
        return self._modules.free_name(name)

    # --- the loop --------------------------------------------------------------------------------

    def train(self) -> None:
        """Run the loop, until ``total_frames`` or :meth:`request_stop`; then shut down.

        Raises:
            ValueError: if nothing would be optimised, an epoch would never end, or a hook needs
                batches that nobody hands over.
        """
        self._check()
        self._stop_requested = False
        self._stages.act("setup")
        shown = self.progress_bar
        with Progress(self.total_frames, self.collected_frames, shown=shown) as progress:
            try:
                for batch in self._batches():
                    self._steps(batch)
                    progress.show(self.collected_frames, self._metrics.on_bar)
                    self.save_trainer()
                self.save_trainer(force_save=True)
                self._source.remember()
            finally:
                self.shutdown()

    def _check(self) -> None:
        optimizes = self._stages["optimizer"] or self.optimization_stepper is not None
        if self.optim_steps_per_batch != 0 and not optimizes:
            hint = "Pass optimizer or optimization_stepper, or register an OptimizerHook."
            raise ValueError(describe(self, "nothing would be optimised", hint=hint))
        if self.optim_steps_per_batch is None and not self._epochs_end():
            hint = "Pass optim_steps_per_batch, or register ReplayBufferTrainer(iterate=True)."
            raise ValueError(describe(self, "no epoch would ever end", hint=hint))
        if not self.sees_batches:
            for stage in NEED_BATCHES:
                if self._stages[stage]:
                    hint = "Register it at 'post_optim_log', or let the trainer fill the buffer."
                    fact = f"hooks of {stage!r} need batches, which the collector keeps to itself"
                    raise ValueError(describe(self, fact, hint=hint))

    def _epochs_end(self) -> bool:
        """Return whether some hook may end an epoch; what users wrote may."""
        ops = self._stages["process_optim_batch"]
        hooks = [getattr(op, "__self__", op) for op in ops]
        return any(not isinstance(hook, TrainerHookBase) or hook.ends_epochs for hook in hooks)

    def _batches(self) -> Iterator[TensorDictBase | None]:
        batches = iter(self._source)
        while self.collected_frames < self.total_frames and not self._stop_requested:
            with self._timed("collect"):
                try:
                    batch = next(batches)
                except StopIteration:
                    return
            yield batch

    def _steps(self, batch: TensorDictBase | None) -> None:
        """Do all that one batch is for."""
        self.collected_frames = self._source.frames(batch, self.collected_frames)
        if batch is not None:
            batch = self._stages.change("batch_process", batch)
            self._log_stage("pre_steps_log", batch)
        if self.collected_frames >= self._source.random_frames:
            with self._timed("optimise"):
                self.optim_steps(batch)
        self._stages.act("post_steps")
        self._log_stage("post_steps_log", batch)

    def optim_steps(self, batch: TensorDictBase | None) -> None:
        """Learn from one batch."""
        self._stages.act("pre_optim_steps")
        means = Means()
        for _ in range(self.num_epochs):
            self._log_stage("pre_epoch_log", batch)
            if batch is not None:
                batch = self._stages.change("pre_epoch", batch)
            self._epoch(batch, means)
            self._log_stage("post_epoch_log", batch)
            self._stages.act("post_epoch")
        self._log_stage("post_optim_complete_log", batch)
        if self.auto_log_optim_steps:
            self.log({"optim_steps": self.num_optim_steps, **means.values()})

    def _epoch(self, batch: TensorDictBase | None, means: Means) -> None:
        limit = self.optim_steps_per_batch
        for _ in itertools.count() if limit is None else range(limit):
            try:
                sub_batch = self._sub_batch(batch)
            except StopIteration:
                return
            means.add(self._optim_step(sub_batch))
            self.num_optim_steps += 1
            self._stages.act("post_optim")
            self._log_stage("post_optim_log", sub_batch)

    def _sub_batch(self, batch: TensorDictBase | None) -> Any:
        ops = self._stages["process_optim_batch"]
        if batch is None and not ops:
            hint = "Pass replay_buffer, or register a ReplayBufferTrainer."
            raise ValueError(describe(self, "there is nothing to learn from", hint=hint))
        return self._stages.change("process_optim_batch", batch)

    def _optim_step(self, sub_batch: TensorDictBase) -> TensorDictBase:
        if self.optimization_stepper is not None:
            return self.optimization_stepper.step(self, sub_batch).detach()
        losses = self.compute_losses(sub_batch)
        for index, op in enumerate(self._stages["optimizer"]):
            losses = op(losses, self.clip_grad_norm, self.clip_norm, index)
        self._stages.act("optimizer_step")
        return losses.detach()

    def compute_losses(self, sub_batch: TensorDictBase) -> TensorDictBase:
        """Return the losses of a sub-batch, as the hooks around the loss module leave them."""
        losses = self.loss_module(sub_batch)
        sub_batch = self._stages.change("post_loss", sub_batch)
        return self._stages.change("process_loss", losses, before=(sub_batch,))

    def request_stop(self) -> None:
        """End training after the batch at hand."""
        self._stop_requested = True

    def shutdown(self) -> None:
        """Run the hooks of ``"shutdown"`` and shut the collector down."""
        self._stages.act("shutdown")
        if self.logger is not None:
            self.logger.flush()
        self._source.shutdown()

    def _timed(self, name: str) -> AbstractContextManager[Any]:
        return timeit(name) if self.log_timings else nullcontext()

    # --- numbers ---------------------------------------------------------------------------------

    def _log_stage(self, stage: str, batch: Any) -> None:
        for values in self._stages.log(stage, batch):
            self.log(values, log_pbar=bool(values.pop("log_pbar", False)))

    def log(self, values: Mapping[str, float | Tensor], log_pbar: bool = False) -> None:
        """Take note of numbers by name; hand those on to the logger that are due.

        Args:
            values: The numbers.
            log_pbar: Show them beside the progress bar.
        """
        self._metrics.take(values, self.collected_frames, on_bar=log_pbar)

    @property
    def metrics(self) -> dict[str, Any]:
        """The latest of each number that hooks gave."""
        return self._metrics.latest

    # --- saving ----------------------------------------------------------------------------------

    def save_trainer(self, force_save: bool = False) -> None:
        """Write everything to ``save_trainer_file``, if it is due or ``force_save`` says so.

        A save that is cut short leaves the last one in place.
        """
        due = self.collected_frames - self._saved_at >= self.save_trainer_interval
        if self.save_trainer_file is not None and (due or force_save):
            self._saved_at = self.collected_frames
            save_whole(self.state_dict(), self.save_trainer_file)

    def load_from_file(self, file: str | Path, **kwargs: Any) -> Trainer:
        """Go on from a file that :meth:`save_trainer` wrote. Load only what you have saved.

        Args:
            file: Its path.
            **kwargs: For :func:`torch.load`, such as ``map_location``.

        Returns: this trainer.
        """
        self.load_state_dict(torch.load(file, **{"weights_only": False, **kwargs}))
        return self

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on: weights, optimizers, buffers, counts, randomness.

        What is not part of it is the inside of simulators: episodes begin anew.
        """
        with self.collector.pause():
            return {
                "collector": self._source.state_dict(),
                "loss_module": self.loss_module.state_dict(),
                "modules": self._modules.state_dict(),
                "metrics": self._metrics.state_dict(),
                "counts": (self.collected_frames, self.num_optim_steps),
                "random": GlobalRNGState().state_dict(),
            }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what the state dict of a trainer with the same parts says.

        Environments are seeded by ``seed`` and the number of frames, so that they do not repeat
        what they showed at the beginning; the generators of Python, numpy and torch are set.

        Raises:
            MissingKeyError, UnexpectedKeyError: if the registered modules are not the same.
        """
        self._modules.load_state_dict(state_dict["modules"])
        self.collector.load_state_dict(state_dict["collector"])
        self.loss_module.load_state_dict(state_dict["loss_module"])
        self._metrics.load_state_dict(state_dict["metrics"])
        self.collected_frames, self.num_optim_steps = state_dict["counts"]
        self._saved_at = self.collected_frames
        if self.seed is not None:
            self.collector.set_seed(self.seed + self.collected_frames)
        GlobalRNGState().load_state_dict(state_dict["random"])
