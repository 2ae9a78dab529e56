"""Hooks for logging: entries of the data, frame counts, timers, evaluation, early stopping."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn

from torchrl._core.errors import describe, nearest
from torchrl._core.exploration import ExplorationType, set_exploration_type
from torchrl._core.keys import next_key, require
from torchrl._core.legacy import old_keywords
from torchrl._core.log import logger
from torchrl._core.timing import timeit
from torchrl.envs import Compose, EnvBase, Transform, TransformedEnv
from torchrl.record import TensorDictRecorder, VideoRecorder
from torchrl.trainers.hooks.base import TrainerHookBase
from torchrl.trainers.hooks.data import num_frames, rows

if TYPE_CHECKING:
    from torchrl.trainers.trainer import Trainer

REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "min": torch.min,
    "max": torch.max,
    "median": torch.median,
}
REWARD = ("next", "reward")
Number = Tensor | float | bool


def entry_name(key: NestedKey) -> str:
    """Return the name under which an entry is logged.

    >>> entry_name(("next", "reward")), entry_name(("agents", "speed"))
    ('reward', 'agents/speed')
    """
    parts: tuple[str, ...] = (key,) if isinstance(key, str) else key  # type: ignore[assignment]
    return "/".join(parts[parts[0] == "next" :])


class LogScalar(TrainerHookBase):
    """Log a statistic of an entry of the batch, without padding.

    Args:
        key: The entry.
        logname: Name in the log; that of the entry if ``None``.
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


class LogEpisodes(TrainerHookBase):
    """Log the mean return and length of the episodes that ended in a batch, and show them beside the progress bar.

    Args:
        episode_reward_key: Sum of rewards under ``next``, as :class:`~torchrl.envs.RewardSum` writes it.
        done_key: The end of an episode, under ``next``.
        step_count_key: Number of steps under ``next``, as :class:`~torchrl.envs.StepCounter` writes it.

    Reads: these, if present: a batch without the first is not logged.

    >>> from tensordict import TensorDict
    >>> steps = {"episode_reward": torch.tensor([[1.0], [3.0]]), "done": torch.tensor([[False], [True]])}
    >>> LogEpisodes()(TensorDict(next=TensorDict(steps, [2]), batch_size=[2]))
    {'episode_return': tensor(3.), 'log_pbar': True}
    """

    stage, name = "pre_steps_log", "log_episodes"

    def __init__(
        self,
        episode_reward_key: NestedKey = "episode_reward",
        done_key: NestedKey = "done",
        step_count_key: NestedKey = "step_count",
    ) -> None:
        self.keys = [next_key(key) for key in (episode_reward_key, done_key, step_count_key)]

    def __call__(self, batch: TensorDictBase) -> dict[str, Tensor | bool] | None:
        returns, done, lengths = (batch.get(key, None) for key in self.keys)
        if returns is None or done is None:
            return None
        mask = rows(batch)
        ended = done if mask is None else done & mask.reshape(*mask.shape, *[1] * (done.ndim - mask.ndim))
        ended = ended.flatten(batch.ndim).any(-1)  # [*B]
        if not ended.any():
            return None
        numbers: dict[str, Tensor | bool] = {"episode_return": returns[ended].float().mean()}
        if lengths is not None:
            numbers["episode_length"] = lengths[ended].float().mean()
        return {**numbers, "log_pbar": True}


class CountFramesLog(TrainerHookBase):
    """Log the number of frames so far, without padding, as ``n_frames``.

    Args:
        frame_skip: Frames of the simulator per step.
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
    """Log the number of optimisation steps per collected step, as ``utd_ratio``.

    Args:
        trainer: Counts both.

    >>> from torchrl.testing.hook import small_trainer
    >>> trainer = small_trainer()
    >>> hook = UTDRHook(trainer)
    >>> hook.register(trainer)
    >>> trainer.train()
    """

    stage, name = "post_steps_log", "utd_ratio"

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def __call__(self, batch: TensorDictBase | None) -> dict[str, float]:
        collected = self.trainer.collected_frames / self.trainer.frame_skip
        return {"utd_ratio": self.trainer.num_optim_steps / max(collected, 1)}


class LogTiming(TrainerHookBase):
    """Log the seconds that every :class:`~torchrl.timeit` of the process has measured.

    Args:
        prefix: Put before the name of each timer, with a slash.
        percall: The mean of a call, rather than the sum of all.
        erase: Reset all timers after each batch.

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


class LogValidationReward(TrainerHookBase):
    """Evaluate the policy in another environment at intervals, and log its rewards.

    An environment of several rows runs one episode in each. Recorders among its transforms are
    dumped afterwards: append a :class:`~torchrl.record.VideoRecorder` for a video of each
    evaluation.

    Args:
        record_interval: Number of batches from one evaluation to the next; the first batch is
            evaluated.
        record_frames: Most steps of an episode.
        frame_skip: Frames of the simulator per step; means are per frame.
        policy_exploration: The policy; random actions if ``None``.
        environment: The environment.
        exploration_type: How the policy acts.
        log_keys: Entries that are logged; the reward if ``None``.
        out_keys: Names of their means; by default ``r_evaluation`` for the reward, and the name of
            the entry for others. Their sums over an episode are logged as ``total_<name>``.
        suffix: Appended to every name, with an underscore.
        log_pbar: Show them beside the progress bar.

    Raises:
        TypeError: without an environment.
        ValueError: if ``record_interval`` or ``record_frames`` is less than one.

    >>> from torchrl.testing.mocks import CountingEnv
    >>> evaluate = LogValidationReward(
    ...     record_interval=2, record_frames=10, policy_exploration=None, environment=CountingEnv()
    ... )
    >>> sorted(evaluate(None))
    ['log_pbar', 'r_evaluation', 'total_r_evaluation']
    >>> evaluate(None) is None
    True
    """

    stage, name, saved = "post_steps_log", "log_validation_reward", ("_count",)

    @old_keywords(recorder="environment", exploration_mode="exploration_type")
    def __init__(
        self,
        *,
        record_interval: int,
        record_frames: int,
        frame_skip: int = 1,
        policy_exploration: Callable[..., object] | None,
        environment: EnvBase | None = None,
        exploration_type: ExplorationType | str = ExplorationType.RANDOM,
        log_keys: Sequence[NestedKey] | None = None,
        out_keys: Mapping[NestedKey, str] | None = None,
        suffix: str | None = None,
        log_pbar: bool = False,
    ) -> None:
        if environment is None:
            hint = "Pass environment, one that the collector does not use."
            raise TypeError(describe(self, "has nothing to evaluate in", hint=hint))
        for what, value in (("record_interval", record_interval), ("record_frames", record_frames)):
            if value < 1:
                raise ValueError(f"LogValidationReward: {what} must be at least 1, found {value}.")
        self.record_interval, self.record_frames = record_interval, record_frames
        self.frame_skip, self.policy_exploration = frame_skip, policy_exploration
        self.environment, self.exploration_type = environment, exploration_type
        self.log_keys = [REWARD] if log_keys is None else list(log_keys)
        names = {key: entry_name(key) for key in self.log_keys}
        self.out_keys = {**names, REWARD: "r_evaluation", **(out_keys or {})}
        self.suffix, self.log_pbar = suffix, log_pbar
        self._count = 0
        self._trainer: Trainer | None = None

    def __call__(self, batch: TensorDictBase | None = None) -> dict[str, Number] | None:
        due = self._count % self.record_interval == 0
        self._count += 1
        if not due:
            return None
        policy = self.policy_exploration
        with torch.no_grad(), set_exploration_type(self.exploration_type), _eval_mode(policy):
            episode = self.environment.rollout(
                self.record_frames, policy, auto_cast_to_device=True, break_when_all_done=True
            )
        self._dump()
        return {**self._numbers(episode), "log_pbar": self.log_pbar}

    def _numbers(self, episode: TensorDictBase) -> dict[str, Number]:
        """Return means and sums over the steps ``[*B, T]`` up to the end of each row's episode."""
        require(episode, self.log_keys, self, "Choose log_keys among the entries.")
        ended = episode.get(("next", "done"))[..., 0].long()
        alive = ended.cumsum(-1) - ended == 0  # [*B, T] up to and including the first end
        found: dict[str, Number] = {}
        for key in self.log_keys:
            name = self.out_keys[key] + (f"_{self.suffix}" if self.suffix else "")
            values = episode.get(key)[alive].float()  # [N, ...]
            found[name] = values.mean() / self.frame_skip
            num_rows = alive[..., 0].numel()
            found[f"total_{name}"] = values.sum() / (num_rows * values[0].numel())
        return found

    def _dump(self) -> None:
        """Write the records of all recorders among the transforms."""
        step = None if self._trainer is None else self._trainer.collected_frames
        env: EnvBase = self.environment
        while isinstance(env, TransformedEnv):
            for transform in _leaves(env.transform):
                if isinstance(transform, VideoRecorder):
                    transform.dump(suffix=self.suffix, step=step)
                elif isinstance(transform, TensorDictRecorder):
                    transform.dump(suffix="_".join(str(s) for s in (self.suffix, step) if s))
            env = env.base_env

    def register(self, trainer: Trainer, name: str | None = None) -> None:
        """Register with a trainer, whose number of frames is the step of each video."""
        self._trainer = trainer
        super().register(trainer, name)


def _leaves(transform: Transform) -> Iterator[Transform]:
    if isinstance(transform, Compose):
        for part in transform:
            yield from _leaves(part)
    else:
        yield transform


@contextmanager
def _eval_mode(policy: object) -> Iterator[None]:
    """Set the modules of a policy to evaluation mode for the length of a ``with`` block."""
    modules = list(policy.modules()) if isinstance(policy, nn.Module) else []
    training = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, mode in zip(modules, training, strict=True):
            module.training = mode


class EarlyStopping(TrainerHookBase):
    """End training when a logged metric has stopped improving.

    Args:
        monitor: Name of the metric; nothing happens before it is first logged.
        mode: ``"max"`` if larger is better, ``"min"`` if smaller is.
        min_delta: Smallest change that counts as an improvement.
        patience: Frames without an improvement after which training ends.
        wait_for: Frames before which training does not end.
        check_finite: End training at once if the metric is infinite or NaN.

    Raises:
        ValueError: if ``mode`` is neither.

    >>> from torchrl.testing.hook import small_trainer
    >>> stop = EarlyStopping(monitor="loss", mode="min", patience=10, wait_for=0)
    >>> trainer = small_trainer(stop)
    >>> trainer.train()
    >>> trainer.collected_frames  # ends early if the loss does not fall for 10 frames
    40
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
            return
        gain = math.inf
        if self.best is not None:
            gain = value - self.best if self.mode == "max" else self.best - value
        if gain > self.min_delta:
            self.best, self._since = value, frames
        elif frames >= self.wait_for and frames - self._since >= self.patience:
            logger.info(
                "EarlyStopping: %s has been no better than %s for %d frames.",
                self.monitor,
                self.best,
                frames - self._since,
            )
            trainer.request_stop()

    def register(self, trainer: Trainer, name: str | None = None) -> None:
        """Register with a trainer, after the hooks that log the metric."""
        self._trainer = trainer
        super().register(trainer, name)
