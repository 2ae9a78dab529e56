"""`LogValidationReward`: how the policy does where nothing is learned from what it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn

from torchrl._core.errors import describe
from torchrl._core.exploration import ExplorationType, set_exploration_type
from torchrl._core.keys import require
from torchrl._core.legacy import old_keywords
from torchrl.envs import EnvBase, Transform, TransformedEnv
from torchrl.record import TensorDictRecorder, VideoRecorder
from torchrl.trainers.hooks.base import TrainerHookBase
from torchrl.trainers.hooks.batch import entry_name

if TYPE_CHECKING:
    from torchrl.trainers.trainer import Trainer

REWARD = ("next", "reward")
Number = Tensor | float | bool


class LogValidationReward(TrainerHookBase):
    """Runs one episode in an environment of its own, once in a while, and logs what came of it.

    An environment of several rows runs one episode in each. Recorders among its transforms write
    what they hold afterwards: a video of each evaluation costs a
    :class:`~torchrl.record.VideoRecorder` there.

    Args:
        record_interval: Evaluate once in this many batches, beginning with the first.
        record_frames: Most steps of an episode.
        frame_skip: How many frames of the simulator a step is; means are of one frame.
        policy_exploration: The policy; it acts at random if ``None``.
        environment: The environment.
        exploration_type: How the policy acts.
        log_keys: Entries that are logged; the reward if ``None``.
        out_keys: What their means are called; ``r_evaluation`` for the reward, the entry's own name
            else. Their sums over an episode are called ``total_<name>``.
        suffix: Put behind every name, with an underscore.
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
        policy_exploration: Callable[..., Any] | None,
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
        episode = self._episode()
        self._dump()
        return {**self._numbers(episode), "log_pbar": self.log_pbar}

    @torch.no_grad()
    def _episode(self) -> TensorDictBase:
        with set_exploration_type(self.exploration_type), _evaluating(self.policy_exploration):
            return self.environment.rollout(
                self.record_frames,
                self.policy_exploration,
                auto_cast_to_device=True,
                break_when_all_done=True,
            )

    def _numbers(self, episode: TensorDictBase) -> dict[str, Number]:
        """Return means and sums over the steps ``[*B, T]`` that are not past the end of a row."""
        require(episode, self.log_keys, self, "Name what there is in log_keys.")
        ended = episode.get(("next", "done"))[..., 0].long()
        alive = ended.cumsum(-1) - ended == 0  # [*B, T] up to and with the first end
        found: dict[str, Number] = {}
        for key in self.log_keys:
            name = self.out_keys[key] + (f"_{self.suffix}" if self.suffix else "")
            values = episode.get(key)[alive].float()  # [N, ...]
            found[name] = values.mean() / self.frame_skip
            rows = alive[..., 0].numel()
            found[f"total_{name}"] = values.sum() / (rows * values[0].numel())
        return found

    def _dump(self) -> None:
        """Let recorders write what they have seen."""
        step = None if self._trainer is None else self._trainer.collected_frames
        env: Any = self.environment
        while isinstance(env, TransformedEnv):
            for transform in _leaves(env.transform):
                if isinstance(transform, VideoRecorder):
                    transform.dump(suffix=self.suffix, step=step)
                elif isinstance(transform, TensorDictRecorder):
                    transform.dump(suffix="_".join(str(s) for s in (self.suffix, step) if s))
            env = env.base_env

    def register(self, trainer: Trainer, name: str | None = None) -> None:
        """Join a trainer, whose frames count the videos."""
        self._trainer = trainer
        super().register(trainer, name)


def _leaves(transform: Transform) -> Iterator[Transform]:
    if isinstance(transform, Iterable):
        for part in transform:
            yield from _leaves(part)
    else:
        yield transform


@contextmanager
def _evaluating(policy: Any) -> Iterator[None]:
    """Hold the modules of a policy in evaluation mode for the length of a ``with`` block."""
    modules = list(policy.modules()) if isinstance(policy, nn.Module) else []
    training = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, mode in zip(modules, training, strict=True):
            module.training = mode
