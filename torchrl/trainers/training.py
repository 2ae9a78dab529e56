"""`train`: an agent in one line; `resume`: go on with a run."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from torchrl._core.errors import UnexpectedKeyError, describe, nearest
from torchrl._core.log import logger as log
from torchrl.checkpoint import Checkpoint
from torchrl.data import ReplayBuffer
from torchrl.envs import EnvBase, ReturnNorm, SignTransform, TransformedEnv
from torchrl.trainers.agent import Agent
from torchrl.trainers.algorithms import ALGORITHMS, AlgorithmConfig, AlgorithmTrainer, tuned_settings, with_settings
from torchrl.trainers.algorithms.config import typed
from torchrl.trainers.algorithms.environments import Task, render_offscreen
from torchrl.trainers.hooks.base import TrainerHookBase
from torchrl.trainers.run_folder import BEST, CHECKPOINT, LAST, RunConfig, RunFolder

Callback = Callable[[AlgorithmTrainer], object]


def train(
    algorithm: str,
    env: Task,
    *,
    dataset: ReplayBuffer | str = "",
    eval_env: Task | None = None,
    callbacks: Iterable[Callback] | Callback = (),
    **settings: Any,
) -> Agent:
    """Train an agent.

    Settings that are not given are those of the table for a task of this name, if there are
    any, and the defaults of the algorithm, see :mod:`torchrl.trainers.algorithms`. The numbers of a run are
    in its folder, see :class:`~torchrl.trainers.RunFolder`.

    Args:
        algorithm: Its name, one of :data:`torchrl.trainers.algorithms.ALGORITHMS`.
        env: Name of a gymnasium task, function that builds an environment, or an environment. One that is
            given as such is not copied: without ``eval_env`` there are no evaluations.
        dataset: What an offline algorithm learns from: a replay buffer, or a path or name for
            :func:`~torchrl.data.datasets.load_dataset`.
        eval_env: What the agent is evaluated in, if not in another copy of ``env``.
        callbacks: Functions that are called with the trainer after each batch, or one; one that returns
            ``False`` ends training.
        **settings: Settings of the algorithm, and of the run, see :class:`~torchrl.trainers.RunConfig`.

    Returns: the agent as it is at the end; the best is in the folder of the run.

    Raises:
        ValueError: for an unknown algorithm; the nearest is named.
        UnexpectedKeyError: for an unknown setting; the nearest is named.
        DTypeError: for a setting of another type.
        SpecError: if the algorithm does not fit the action space.
        KeyboardInterrupt: after Ctrl-C, when the state is saved.

    >>> import torchrl
    >>> agent = torchrl.train("dqn", "CartPole-v1", total_frames=768, log_dir="", progress_bar=False)
    >>> agent.evaluate(2).returns.shape
    torch.Size([2])
    """
    if isinstance(dataset, str) and dataset:
        settings["dataset"] = dataset
    config, options = split_settings(algorithm, env, settings)
    name = env if isinstance(env, str) else getattr(env, "__name__", type(env).__name__)
    run = RunFolder.create(algorithm, name, config, options) if options.log_dir else None
    return _train(algorithm, env, config, options, run, eval_env, callbacks, dataset=dataset)


def resume(
    folder: str | Path,
    env: Task | None = None,
    *,
    dataset: ReplayBuffer | None = None,
    eval_env: Task | None = None,
    callbacks: Iterable[Callback] | Callback = (),
    total_frames: int | None = None,
    **changes: Any,
) -> Agent:
    """Go on with a run from its last checkpoint, also beyond the frames that it had.

    With other ``total_frames``, the run goes on as one that had them from the start would from there: what
    depends on them, such as learning rates that fall to zero and the intervals of logs, evaluations and saves,
    is that of the longer run. A learning rate that has fallen to zero jumps up again: after 100,000 frames of
    200,000 to half of its first value.

    Args:
        folder: The folder of the run.
        env: The environment, for one that is not known by its name.
        dataset: Of an offline algorithm, if it was given as a replay buffer.
        eval_env: As for :func:`train`.
        callbacks: As for :func:`train`.
        total_frames: Frames in all, those until now among them, in place of the setting that the run had.
        **changes: Settings of the run in place of those that it had, such as ``progress_bar``.

    Raises:
        FileNotFoundError: if it is not the folder of a run, or has no checkpoint.
        ValueError: if the run already has ``total_frames`` or more; it stays as it is.

    >>> import tempfile
    >>> import torchrl
    >>> options = {"log_dir": tempfile.mkdtemp(), "progress_bar": False, "video": False, "final_episodes": 0}
    >>> agent = torchrl.train("dqn", "CartPole-v1", total_frames=256, **options)
    >>> agent = torchrl.resume(f"{options['log_dir']}/dqn_CartPole-v1_seed0", total_frames=512)
    >>> agent.config.total_frames
    512
    """
    run = RunFolder.open(folder, **changes)
    if not (run.folder / CHECKPOINT).exists():
        raise FileNotFoundError(describe("resume", f"{folder} has no checkpoint", hint="Train again from the start."))
    task, extends = run.task if env is None else env, total_frames is not None
    if extends:
        run.config = with_settings(run.config, {"total_frames": total_frames})
    parts = (run.algorithm, task, run.config, run.options, run, eval_env, callbacks)
    return _train(*parts, dataset=dataset, resumed=True, extends=extends)


def split_settings(algorithm: str, env: Task, settings: dict[str, Any]) -> tuple[AlgorithmConfig, RunConfig]:
    """Return the settings of the algorithm and those of the run, checked.

    >>> config, options = split_settings("ppo", "CartPole-v1", {"lr": 1e-4, "video": False})
    >>> config.lr, config.num_envs, options.video
    (0.0001, 8, False)
    """
    if algorithm not in ALGORITHMS:
        hint = nearest(algorithm, ALGORITHMS)
        raise ValueError(
            describe("train", "no such algorithm", expected=sorted(ALGORITHMS), found=algorithm, hint=hint)
        )
    kind = ALGORITHMS[algorithm].config_class
    ours = {field.name for field in fields(RunConfig)}
    theirs = {field.name for field in fields(kind)}
    for name in settings:
        if name not in ours | theirs:
            hint = nearest(name, ours | theirs) or f"Settings: {sorted(ours | theirs)}."
            raise UnexpectedKeyError(describe(algorithm, "has no such setting", key=name, hint=hint))
    options = RunConfig(**typed(RunConfig, {name: value for name, value in settings.items() if name in ours}))
    chosen = {name: value for name, value in settings.items() if name in theirs}
    return with_settings(kind(), {**tuned_settings(algorithm, env), **chosen}), options


def _train(
    algorithm: str,
    env: Task,
    config: AlgorithmConfig,
    options: RunConfig,
    run: RunFolder | None,
    eval_env: Task | None,
    callbacks: Iterable[Callback] | Callback,
    *,
    dataset: ReplayBuffer | str | None = None,
    resumed: bool = False,
    extends: bool = False,
) -> Agent:
    if options.num_threads:
        torch.set_num_threads(options.num_threads)
    render_offscreen()
    if (starts := getattr(config, "learning_starts", 0)) > config.rounded_frames:
        fact = "nothing will be learned: learning_starts=%d is beyond total_frames=%d"
        log.warning(f"train: {fact}; lower it or train for longer", starts, config.total_frames)
    saves: dict[str, Any] = {"dataset": dataset} if isinstance(dataset, ReplayBuffer) else {}
    if run is not None:
        saves |= {
            "logger": run,
            "checkpoint": Checkpoint(),
            "save_trainer_file": run.folder / CHECKPOINT,
            "save_trainer_interval": options.save_interval or max(1, config.total_frames // 10),
        }
    try:
        trainer = ALGORITHMS[algorithm].from_env(
            env, config, progress_bar=options.progress_bar, log_interval=max(1, config.total_frames // 500), **saves
        )
    except Exception:
        if run is not None and not resumed:
            shutil.rmtree(run.folder)
        raise
    task = eval_env if eval_env is not None else None if isinstance(env, EnvBase) else env
    if task is not None:
        EvaluateAgent(trainer, config, options, task, run).register(trainer)
    for callback in [callbacks] if callable(callbacks) else callbacks:
        trainer.register_op("post_steps", partial(_call, callback, trainer))
    if resumed:
        assert run is not None
        _load(trainer, run, extends)
    try:
        trainer.train()
    except KeyboardInterrupt:
        if run is not None:
            log.warning("train: stopped; go on with torchrl resume %s", run.folder)
        raise
    agent = Agent.from_trainer(trainer, config, None if isinstance(env, EnvBase) else env)
    _finish(agent, trainer.collected_frames, options, task, run)
    return agent


def _load(trainer: AlgorithmTrainer, run: RunFolder, extends: bool) -> None:
    """Load the checkpoint of a run, into a trainer that may have other ``total_frames``."""
    scheduler = trainer.lr_scheduler if extends else None
    with nullcontext() if scheduler is None else _own_schedule(scheduler):
        trainer.load_from_file(run.folder / CHECKPOINT)
    frames = trainer.collected_frames
    if extends and frames >= trainer.total_frames:
        trainer.shutdown()
        fact, found = f"{run.folder} already has {frames} frames", f"total_frames={trainer.total_frames}"
        raise ValueError(describe("resume", fact, found=found, hint="Pass more total_frames."))
    if extends:
        run.write_settings()
    run.forget_after(frames)


@contextmanager
def _own_schedule(scheduler: LRScheduler) -> Iterator[None]:
    """Let a scheduler keep its schedule when another one's state is loaded in the block, whose step it takes over."""
    schedule = deepcopy(scheduler.state_dict())
    rates = [group["lr"] for group in scheduler.optimizer.param_groups]
    yield
    steps = scheduler.last_epoch
    scheduler.load_state_dict(schedule)
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the optimizer took its steps in the run that is resumed
        for _ in range(steps):
            scheduler.step()


def _call(callback: Callback, trainer: AlgorithmTrainer) -> None:
    answer = callback(trainer)  # a comparison of metrics gives one of numpy or torch
    is_flag = isinstance(answer, bool | np.bool_) or (isinstance(answer, Tensor) and answer.dtype == torch.bool)
    if is_flag and not answer:
        trainer.request_stop(f"{getattr(callback, '__name__', callback)} returned False")


def _finish(agent: Agent, frames: int, options: RunConfig, task: Task | None, run: RunFolder | None) -> None:
    """Evaluate the agent and write what belongs into the folder of its run."""
    result = None
    if task is not None and options.final_episodes:
        result = agent.evaluate(options.final_episodes, task)
    if run is None:
        return
    agent.save(run.folder / LAST)
    if result is not None:
        run.log("eval", {"final_return": result.mean, "final_return_std": result.std}, frames)
        log.info("train: %s: %s", run.folder, result)
    run.flush()
    run.plot()
    if options.video and isinstance(task, str):
        try:
            agent.record(run.folder / "video.gif", task)
        except Exception as error:  # a machine that cannot render has trained the agent
            log.warning("train: no video: %s", error)


class EvaluateAgent(TrainerHookBase):
    """Evaluate the agent at intervals, keep the best, end training at a return.

    Training goes on as if there were no evaluations: random generators are left as they were.

    Args:
        trainer: The trainer.
        config: Settings of the algorithm.
        options: ``eval_interval``, ``eval_episodes`` and ``target_return`` are used.
        task: What the agent is evaluated in.
        run: Where results are logged and the best agent is saved, if anywhere.

    Logs: under ``eval``, ``return``, ``return_std`` and ``length``; if the algorithm has a discount, and learns from
        the task's own rewards, ``discounted_return``, see :attr:`Evaluation.discounted_mean
        <torchrl.trainers.Evaluation.discounted_mean>`.
    """

    stage, name, saved = "post_steps", "evaluate_agent", ("best", "_due")

    def __init__(
        self, trainer: AlgorithmTrainer, config: AlgorithmConfig, options: RunConfig, task: Task, run: RunFolder | None
    ) -> None:
        self.trainer, self.config, self.options, self.task, self.run = trainer, config, options, task, run
        self.interval = options.eval_interval or max(1, config.total_frames // 20)
        self.best, self._due = -float("inf"), self.interval
        parts = trainer.env.transform if isinstance(trainer.env, TransformedEnv) else ()
        self.rescales = any(isinstance(part, ReturnNorm | SignTransform) for part in parts)  # the rewards of training

    def __call__(self) -> None:
        frames = self.trainer.collected_frames
        if frames < self._due:
            return
        self._due = frames - frames % self.interval + self.interval
        agent = Agent.from_trainer(self.trainer, self.config, self.task if isinstance(self.task, str) else None)
        result = agent.evaluate(self.options.eval_episodes, self.task)
        numbers = {"return": result.mean, "return_std": result.std, "length": result.lengths.float().mean().item()}
        if result.discounted_mean is not None and not self.rescales:
            numbers["discounted_return"] = result.discounted_mean
        self.trainer.log({"eval_return": result.mean}, log_pbar=True)
        if self.run is not None:
            self.run.log("eval", numbers, frames)
            if result.mean > self.best:
                agent.save(self.run.folder / BEST)
        self.best = max(self.best, result.mean)
        if self.options.target_return is not None and result.mean >= self.options.target_return:
            self.trainer.request_stop(f"the evaluation reached a return of {result.mean:.1f}")
