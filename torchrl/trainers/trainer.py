"""`Trainer`: the training loop, with hooks at each stage, and its saves."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from torchrl._core.errors import MissingKeyError, UnexpectedKeyError, describe
from torchrl._core.files import replaced
from torchrl._core.log import logger as log
from torchrl._core.safe_load import load_file
from torchrl._core.timing import timeit
from torchrl.checkpoint import Checkpoint, CheckpointRotation, GlobalRNGState
from torchrl.collectors import BaseCollector
from torchrl.data import ReplayBuffer
from torchrl.objectives.networks import TargetNetUpdater
from torchrl.record import Logger
from torchrl.trainers.data_parallel import SEEDS_PER_RANK, DataParallel
from torchrl.trainers.hooks.base import TrainerHookBase
from torchrl.trainers.hooks.data import BatchSubSampler, ReplayBufferTrainer
from torchrl.trainers.hooks.logging import LogTiming
from torchrl.trainers.hooks.optimization import OptimizationStepper, OptimizerHook, TargetNetUpdaterHook
from torchrl.trainers.interruption import on_interrupt
from torchrl.trainers.metrics import Means, Metrics, Progress
from torchrl.trainers.source import POLL, Source, has_episodes
from torchrl.trainers.stages import Stages

NEED_BATCHES = ("batch_process", "pre_steps_log", "pre_epoch")

# Entries of the state dict that are no modules.
RESERVED = ("collector", "loss_module", "metrics", "state", "random")
Metadata = Mapping[str, object] | Callable[["Trainer"], Mapping[str, object]] | None


class Trainer:
    """The training loop: collect, store, sample, optimise.

    Hooks, see :meth:`register_op`, run at its stages in this order, those of one stage in the order
    of their registration::

        setup
        for batch in collector:
            batch_process, pre_steps_log
            unless init_random_frames of the collector are not yet reached:
                pre_optim_steps
                for each epoch:
                    pre_epoch_log, pre_epoch
                    for each optimisation step:
                        process_optim_batch, the loss, post_loss, process_loss
                        optimizer, optimizer_step, post_optim, post_optim_log
                    post_epoch_log, post_epoch
                post_optim_complete_log
            post_steps, post_steps_log, the progress bar, a save if one is due
        shutdown

    Args:
        collector: The collector.
        total_frames: Stop after this many frames.
        frame_skip: Frames of the simulator per step; frames are counted so.
        optim_steps_per_batch: Optimisation steps of an epoch. With ``None`` an epoch ends when a
            hook of ``"process_optim_batch"`` raises ``StopIteration``.
        num_epochs: Epochs of a batch.
        loss_module: Returns the losses; all entries called ``loss*`` are minimised.
        optimizer: Registered as an :class:`OptimizerHook`, unless there is an
            ``optimization_stepper``, which uses it.
        optimization_stepper: Does optimisation steps in place of the hooks of ``"optimizer"``.
        replay_buffer: Stores steps and is sampled from; registered as a
            :class:`ReplayBufferTrainer`.
        target_net_updater: Updates the target networks after each optimisation step.
        batch_size: Size of the samples; without a buffer, of the part of the batch that each
            optimisation step draws.
        logger: The logger of all metrics.
        clip_grad_norm: Clip the norm of gradients, rather than each of their values.
        clip_norm: The limit; no clipping if ``None``.
        progress_bar: Show a progress bar.
        seed: Of torch and of the environments.
        save_trainer_interval: Save after this many frames.
        log_interval: Fewest frames between two logged values of one metric.
        save_trainer_file: Where to save, at the end too; no saves if ``None``.
        checkpoint: Save through this :class:`~torchrl.checkpoint.Checkpoint`, as its component ``"trainer"``
            beside those that it has: without code, with checksums. ``save_trainer_file`` is its path.
        checkpoint_rotation: Save into the folder of this :class:`~torchrl.checkpoint.CheckpointRotation`,
            at the number of frames, and delete old saves.
        checkpoint_metadata: JSON for the manifest, or a function of the trainer that returns it.
        learner_backend: ``"local"``: optimisation runs in this process. ``"ddp"``: so it does in each rank of
            the default process group, with gradients averaged over all; each rank has its own collector
            and buffer, to which all numbers here refer, and rank 0 alone logs and saves.
        learner_backend_options: For ``"ddp"``, arguments of
            :class:`torch.nn.parallel.DistributedDataParallel`.
        learner_poll_interval: Seconds between two checks of a buffer that is filled in the background.
        async_collection: Collect in the background, into the buffer that collector and trainer
            share, during optimisation.
        log_timings: Log how long collecting and optimising take.
        auto_log_optim_steps: Log the mean losses of a batch and the number of optimisation steps.

    Attributes:
        collected_frames: Frames so far.
        num_optim_steps: Optimisation steps so far.

    With a collector that fills a buffer itself, hooks get ``None`` in place of the batch, and hooks
    of ``"batch_process"``, ``"pre_steps_log"`` and ``"pre_epoch"`` are an error.

    Raises:
        ValueError: for collection in the background without a buffer, another ``learner_backend``, or a
            rotation or metadata without a checkpoint.

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
        checkpoint: Checkpoint | None = None,
        checkpoint_rotation: CheckpointRotation | None = None,
        checkpoint_metadata: Metadata = None,
        learner_backend: str = "local",
        learner_backend_options: Mapping[str, object] | None = None,
        learner_poll_interval: float = POLL,
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

        self.checkpoint, self.checkpoint_rotation = checkpoint, checkpoint_rotation
        self.checkpoint_metadata = checkpoint_metadata
        if checkpoint is None and (checkpoint_rotation is not None or checkpoint_metadata is not None):
            raise ValueError(describe(self, "has no checkpoint to rotate or describe", hint="Pass checkpoint."))
        if checkpoint is not None:
            checkpoint.register("trainer", self)
        self._parallel = None
        if learner_backend == "ddp":
            self._parallel = DataParallel(loss_module, learner_backend_options or {})
            if self._parallel.rank:  # rank 0 logs and saves
                self.logger = logger = self.save_trainer_file = self.checkpoint_rotation = None
                self.progress_bar = False
        elif learner_backend != "local" or learner_backend_options:
            found, expected = (learner_backend, learner_backend_options), "'local', no options, or 'ddp'"
            raise ValueError(describe(self, "has no such learner_backend", expected=expected, found=found))

        self.stop_reason: str | None = None
        self.collected_frames = self.num_optim_steps = 0
        self._saved_at, self._stop_requested = 0, False
        self._stages = Stages()
        self._modules, self._metrics = Modules(), Metrics(logger, log_interval)
        self._source = Source(
            collector,
            replay_buffer,
            frame_skip=frame_skip,
            in_background=async_collection,
            poll_interval=learner_poll_interval,
        )
        self.set_seed()
        self._register_parts(replay_buffer, batch_size, target_net_updater)

    def _register_parts(
        self, replay_buffer: ReplayBuffer | None, batch_size: int | None, target_net_updater: TargetNetUpdater | None
    ) -> None:
        if replay_buffer is not None:
            buffer = ReplayBufferTrainer(replay_buffer, batch_size, flatten_tensordicts=True)
            buffer.register(self)
        elif batch_size is not None:
            BatchSubSampler(batch_size).register(self)
        if self.optimization_stepper is None and self.optimizer is not None:
            OptimizerHook(self.optimizer).register(self)
        else:
            optimizer = self.optimizer or getattr(self.optimization_stepper, "optimizer", None)
            if optimizer is not None:
                self.register_module("optimizer", optimizer)
        if target_net_updater is not None:
            TargetNetUpdaterHook(target_net_updater).register(self)
        if self.log_timings:
            LogTiming().register(self)

    def set_seed(self) -> None:
        """Seed torch and the environments with ``seed``, if there is one; each rank differently."""
        if self.seed is not None:
            seed = self.seed + SEEDS_PER_RANK * (self._parallel.rank if self._parallel else 0)
            torch.manual_seed(seed)
            self.collector.set_seed(seed)

    @property
    def sees_batches(self) -> bool:
        """Whether the collector yields its batches, rather than filling a buffer itself."""
        return self._source.yields_batches

    # --- hooks -----------------------------------------------------------------------------------

    def register_op(self, dest: str, op: Callable[..., Any], **kwargs: object) -> None:
        """Add an operation to a stage of the loop.

        Args:
            dest: The stage, one of :data:`~torchrl.trainers.stages.STAGES`. Operations of ``*_log``
                get a batch and return metrics by name or ``None``; ``log_pbar=True`` among the
                metrics shows them beside the progress bar. Those of ``batch_process``,
                ``pre_epoch``, ``process_optim_batch`` and ``post_loss`` get a batch, or sub-batch,
                and return it, changed or not. ``process_loss`` gets ``(sub_batch, losses)`` and
                returns losses; ``optimizer`` gets ``(losses, clip_grad_norm, clip_norm, index)``,
                with the index of the operation, and returns losses. The others get no argument.
            op: The operation.
            **kwargs: Passed to it at each call.

        Raises:
            ValueError: if there is no such stage.
            TypeError: if ``op`` is not callable.
        """
        self._stages.add(dest, op, **kwargs)

    def register_module(self, module_name: str, module: object) -> None:
        """Save and load the state dict of a module together with the trainer.

        Raises:
            ValueError: if the name is taken.
            TypeError: if it has no state dict.
        """
        self._modules.add(module_name, module)

    def free_name(self, name: str) -> str:
        """Return a free name for a module: this one, followed by a number if it is taken."""
        return self._modules.free_name(name)

    # --- the loop --------------------------------------------------------------------------------

    def train(self) -> None:
        """Run the loop, until ``total_frames`` or :meth:`request_stop`; then shut down.

        If a save is configured, Ctrl-C ends training after the batch at hand, whose state is saved.

        Raises:
            ValueError: if nothing would be optimised, an epoch would never end, or a hook needs
                batches that the collector does not yield.
            KeyboardInterrupt: after Ctrl-C.
        """
        self._check()
        self._stop_requested = False
        self._stages.act("setup")
        shown = self.progress_bar
        saves = self.save_trainer_file is not None or self.checkpoint_rotation is not None
        stopping = on_interrupt(partial(self.request_stop, "Ctrl-C")) if saves else nullcontext(bool)
        with stopping as interrupted, Progress(self.total_frames, self.collected_frames, shown=shown) as progress:
            try:
                for batch in self._batches():
                    self._steps(batch)
                    progress.show(self.collected_frames, self._metrics.on_bar)
                    self.save_trainer()
                self.save_trainer(force_save=True)
                self._source.remember()
            finally:
                self.shutdown()
            if interrupted():
                raise KeyboardInterrupt(f"saved after {self.collected_frames} frames")

    def _check(self) -> None:
        optimizes = self._stages["optimizer"] or self.optimization_stepper is not None
        if self.optim_steps_per_batch != 0 and not optimizes:
            hint = "Pass optimizer or optimization_stepper, or register an OptimizerHook."
            raise ValueError(describe(self, "nothing would be optimised", hint=hint))
        # Operations that are no hooks of this library may end an epoch.
        hooks = [getattr(op, "__self__", op) for op in self._stages["process_optim_batch"]]
        ends = any(not isinstance(hook, TrainerHookBase) or hook.ends_epochs for hook in hooks)
        if self.optim_steps_per_batch is None and not ends:
            hint = "Pass optim_steps_per_batch, or register ReplayBufferTrainer(iterate=True)."
            raise ValueError(describe(self, "no epoch would ever end", hint=hint))
        if not self.sees_batches:
            for stage in NEED_BATCHES:
                if self._stages[stage]:
                    hint = "Register it at 'post_optim_log', or let the trainer fill the buffer."
                    fact = f"hooks of {stage!r} need batches, which the collector keeps to itself"
                    raise ValueError(describe(self, fact, hint=hint))

    def _batches(self) -> Iterator[TensorDictBase | None]:
        batches = iter(self._source)
        any_stops = bool if self._parallel is None else self._parallel.any_stops
        while self.collected_frames < self.total_frames and not any_stops(self._stop_requested):
            with self._timed("collect"):
                try:
                    batch = next(batches)
                except StopIteration:
                    return
            yield batch

    def _steps(self, batch: TensorDictBase | None) -> None:
        """Count, process, learn from and log one batch."""
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
        """Run the optimisation steps of one batch."""
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

    def _sub_batch(self, batch: TensorDictBase | None) -> TensorDictBase:
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
        """Return the losses of a sub-batch after the hooks ``post_loss`` and ``process_loss``."""
        losses = self.compute_loss(sub_batch)
        sub_batch = self._stages.change("post_loss", sub_batch)
        return self._stages.change("process_loss", losses, before=(sub_batch,))

    def compute_loss(self, sub_batch: TensorDictBase) -> TensorDictBase:
        """Return the losses of a sub-batch, without hooks."""
        return self.loss_module(sub_batch) if self._parallel is None else self._parallel(sub_batch)

    def request_stop(self, reason: str | None = None) -> None:
        """End training after the current batch.

        Args:
            reason: Logged, and kept as ``stop_reason``.
        """
        self._stop_requested, self.stop_reason = True, reason
        if reason is not None:
            log.info("Trainer: stops after %d frames: %s", self.collected_frames, reason)

    def shutdown(self) -> None:
        """Run the hooks of ``"shutdown"`` and shut the collector down."""
        self._stages.act("shutdown")
        if self.logger is not None:
            self.logger.flush()
        self._source.shutdown()

    def _timed(self, name: str) -> AbstractContextManager[object]:
        return timeit(name) if self.log_timings else nullcontext()

    # --- metrics ---------------------------------------------------------------------------------

    def _log_stage(self, stage: str, batch: TensorDictBase | None) -> None:
        for values in self._stages.log(stage, batch):
            self.log(values, log_pbar=bool(values.pop("log_pbar", False)))

    def log(self, values: Mapping[str, float | Tensor], log_pbar: bool = False) -> None:
        """Record metrics by name, and log those last logged ``log_interval`` frames ago.

        Args:
            values: The metrics.
            log_pbar: Show them beside the progress bar.
        """
        self._metrics.take(values, self.collected_frames, on_bar=log_pbar)

    def is_due(self, name: str) -> bool:
        """Return whether :meth:`log` would log a metric now, for hooks that compute it only then."""
        return self._metrics.is_due(name, self.collected_frames)

    @property
    def metrics(self) -> dict[str, float | Tensor]:
        """The latest value of each metric."""
        return self._metrics.latest

    # --- saving ----------------------------------------------------------------------------------

    def save_trainer(self, force_save: bool = False) -> None:
        """Write the state to ``save_trainer_file``, and the rotation, if a save is due or ``force_save``.

        A save that is interrupted leaves the last one in place.
        """
        due = self.collected_frames - self._saved_at >= self.save_trainer_interval
        file, rotation = self.save_trainer_file, self.checkpoint_rotation
        if (file is None and rotation is None) or not (due or force_save):
            return
        self._saved_at = self.collected_frames
        self._source.end_unsaved_episodes(self._restart_seed())
        if self.checkpoint is None:
            assert file is not None
            save_whole(self.state_dict(), file)
            return
        metadata = self.checkpoint_metadata
        noted = metadata(self) if callable(metadata) else metadata
        if file is not None:
            self.checkpoint.save(file, metadata=noted)
        if rotation is not None:
            rotation.save(self.checkpoint, self.collected_frames, metadata=noted)

    def _restart_seed(self) -> int:
        """Return the seed of episodes that start where training was saved: not that of the first ones."""
        seed = torch.initial_seed() % 2**31 if self.seed is None else self.seed
        return seed + self.collected_frames

    def load_from_file(self, file: str | Path, *, trust: bool = False, **kwargs: Any) -> Trainer:
        """Load what :meth:`save_trainer` wrote.

        Args:
            file: Its path.
            trust: Unpickle what can only be unpickled, which runs whatever code the file holds.
            **kwargs: ``map_location``, as for :func:`torch.load`; of a checkpoint, all arguments of
                :meth:`Checkpoint.load <torchrl.checkpoint.Checkpoint.load>`.

        Returns: this trainer.

        Raises:
            UntrustedFileError: if the file holds more than data, and ``trust`` is false.
            DamagedFileError: if it cannot be read.
        """
        if Path(file).is_dir() or Checkpoint.is_checkpoint(file):  # a folder is one, or a damaged one
            checkpoint = self.checkpoint or Checkpoint(trainer=self)
            checkpoint.load(file, trust=trust, **kwargs)
            return self
        self.load_state_dict(load_file(Path(file), trust=trust, **kwargs))
        return self

    def state_dict(self) -> dict[str, Any]:
        """Return the state of training: weights, optimizers, buffers, counts, random generators.

        There is an entry for each hook and module, by its name, and ``"state"`` with the counts; that of the
        collector has the episodes in progress, where the simulator can be saved.
        """
        with self.collector.pause():
            return {
                **self._modules.state_dict(),
                "collector": self._source.state_dict(),
                "loss_module": self.loss_module.state_dict(),
                "metrics": self._metrics.state_dict(),
                "state": {"collected_frames": self.collected_frames, "num_optim_steps": self.num_optim_steps},
                "random": GlobalRNGState().state_dict(),
            }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state dict of a trainer with the same modules.

        Where the episodes in progress were not saved, environments are seeded with ``seed`` plus the number of
        frames, so that they do not repeat the first episodes; the generators of Python, numpy and torch are set.

        Raises:
            MissingKeyError, UnexpectedKeyError: if the registered modules are not the same.
        """
        if "modules" in state_dict and "counts" in state_dict:  # of an earlier release
            frames, steps = state_dict["counts"]
            counts = {"collected_frames": frames, "num_optim_steps": steps}
            state_dict = {**state_dict, **state_dict["modules"], "state": counts}
            del state_dict["modules"], state_dict["counts"]
        self._modules.load_state_dict({name: each for name, each in state_dict.items() if name not in RESERVED})
        self.collector.load_state_dict(state_dict["collector"])
        self.loss_module.load_state_dict(state_dict["loss_module"])
        self._metrics.load_state_dict(state_dict["metrics"])
        counts = state_dict["state"]
        self.collected_frames, self.num_optim_steps = counts["collected_frames"], counts["num_optim_steps"]
        self._saved_at = self.collected_frames
        if self.seed is not None and not has_episodes(state_dict["collector"]):
            self.collector.set_seed(self._restart_seed())
        GlobalRNGState().load_state_dict(state_dict["random"])


def save_whole(state: object, path: str | Path) -> None:
    """Write a file with :func:`torch.save`; an interrupted save leaves the last one in place.

    Files that killed saves left are removed.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp(), "runs", "state.pt")
    >>> save_whole({"a": 1}, file)
    >>> torch.load(file)
    {'a': 1}
    """
    with replaced(path) as draft:
        torch.save(state, draft)


class Modules:
    """Modules with a state dict, by name.

    >>> modules = Modules()
    >>> modules.add("net", torch.nn.Linear(1, 1))
    >>> modules.free_name("net")
    'net_1'
    """

    def __init__(self) -> None:
        self._modules: dict[str, Any] = {}

    def add(self, name: str, module: object) -> None:
        """Add a module.

        Raises:
            ValueError: if the name is taken.
            TypeError: if the module has no state dict.
        """
        if name in self._modules or name in RESERVED:
            hint = "Register it under another name."
            raise ValueError(describe("Trainer", f"the name {name!r} is taken", hint=hint))
        if not (hasattr(module, "state_dict") and hasattr(module, "load_state_dict")):
            raise TypeError(
                describe(
                    "Trainer",
                    f"cannot save {name!r}",
                    expected="state_dict() and load_state_dict()",
                    found=type(module).__name__,
                )
            )
        self._modules[name] = module

    def free_name(self, name: str) -> str:
        """Return the name, followed by a number if it is taken."""
        free, n = name, 0
        while free in self._modules or free in RESERVED:
            n += 1
            free = f"{name}_{n}"
        return free

    def state_dict(self) -> dict[str, Any]:
        """Return the state dict of every module."""
        return {name: module.state_dict() for name, module in self._modules.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state dict of every module.

        Raises:
            MissingKeyError, UnexpectedKeyError: for those of other modules; nothing is loaded then.
        """
        here = sorted(name for name, module in self._modules.items() if module.state_dict())
        saved = sorted(name for name, state in state_dict.items() if state)
        hint = "Register the same hooks under the same names before loading."
        if missing := [name for name in here if name not in state_dict]:
            fact = f"the save lacks {missing}"
            raise MissingKeyError(describe("Trainer", fact, expected=here, found=saved, hint=hint))
        if unknown := [name for name in saved if name not in self._modules]:
            fact = f"the save holds {unknown}, which are not registered"
            raise UnexpectedKeyError(describe("Trainer", fact, expected=here, found=saved, hint=hint))
        for name, module in self._modules.items():
            if name in state_dict:  # else it has no state
                module.load_state_dict(state_dict[name])
