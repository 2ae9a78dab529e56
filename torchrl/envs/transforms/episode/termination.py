"""Termination and truncation: conditions, random horizons, lives of Atari games."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl._core.errors import ShapeError, describe
from torchrl._core.keys import as_keys, sibling
from torchrl._core.mdp import DONE, TERMINATED, TRUNCATED
from torchrl._core.records.flat_record import Record
from torchrl._core.records.rows import expand_right
from torchrl.data import Composite, Unbounded
from torchrl.envs.specs import flag_spec, leaf_names
from torchrl.envs.transforms.base import R, State, Transform
from torchrl.envs.transforms.episode.resets import numbered
from torchrl.envs.transforms.inner_env_info import Reset, Step, clear_events, step_rows, where_rows


class RandomTruncationTransform(Transform):
    """Truncates episodes at random, so that the rows of a batch do not end together.

    Append it after a :class:`StepCounter`.

    Args:
        min_horizon: Smallest number of steps of an episode that is truncated.
        max_horizon: Largest number of steps of it.
        prob: Probability that an episode is truncated.
        first_episode_prob: The same for the first episode of each row; 1 if ``None``.
        step_count_key: The count of steps that is read.
        truncated_key: The flag that is set.
        done_key: The flag that is set with it.

    Raises:
        ValueError: if ``1 <= min_horizon <= max_horizon`` does not hold.

    >>> from torchrl.envs import GymEnv, StepCounter, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), StepCounter())
    >>> env = env.append_transform(RandomTruncationTransform(2, 4))
    >>> 2 <= env.rollout(10).shape[0] <= 4
    True
    """

    supports_flat_records = True
    follows_steps = True
    _horizon: Tensor | None
    _is_first: Tensor | None

    def __init__(
        self,
        min_horizon: int,
        max_horizon: int,
        prob: float = 0.0,
        first_episode_prob: float | None = None,
        *,
        step_count_key: NestedKey = "step_count",
        truncated_key: NestedKey = TRUNCATED,
        done_key: NestedKey = DONE,
    ) -> None:
        super().__init__()
        if not 1 <= min_horizon <= max_horizon:
            raise ValueError(
                "RandomTruncationTransform: expected 1 <= min_horizon <= max_horizon, found "
                f"{min_horizon} and {max_horizon}."
            )
        self.min_horizon, self.max_horizon, self.prob = min_horizon, max_horizon, prob
        self.first_episode_prob = 1.0 if first_episode_prob is None else first_episode_prob
        self.step_count_key = as_keys(step_count_key)[0]
        self.truncated_key, self.done_key = as_keys(truncated_key)[0], as_keys(done_key)[0]
        self.__dict__.update(_horizon=None, _is_first=None)

    def _reset(self, tensordict: Record | None, tensordict_reset: R) -> R:
        done = tensordict_reset.get(self.done_key)  # [*B, 1]
        rows = self.inner.reset_rows(tensordict)
        rows = torch.ones_like(done) if rows is None or self._horizon is None else rows
        is_first = torch.ones_like(done) if self._is_first is None else self._is_first
        share = torch.where(is_first, self.first_episode_prob, self.prob)
        drawn = torch.randint(self.min_horizon, self.max_horizon + 1, done.shape).to(done.device)
        never = torch.iinfo(torch.int64).max
        drawn = torch.where(torch.rand(done.shape, device=done.device) < share, drawn, never)
        before = drawn if self._horizon is None else self._horizon
        self.__dict__["_horizon"] = torch.where(rows, drawn, before)
        self.__dict__["_is_first"] = is_first & ~rows
        if tensordict_reset.get(self.truncated_key, None) is None:
            tensordict_reset.set(self.truncated_key, torch.zeros_like(done))
        return tensordict_reset

    def _step(self, tensordict: Record, next_tensordict: R) -> R:
        if self._horizon is None:
            raise RuntimeError("RandomTruncationTransform: reset the environment first.")
        truncated = next_tensordict.get(self.step_count_key) >= self._horizon
        if (earlier := next_tensordict.get(self.truncated_key, None)) is not None:
            truncated = truncated | earlier
        next_tensordict.set(self.truncated_key, truncated)
        next_tensordict.set(self.done_key, truncated | next_tensordict.get(self.done_key))
        return next_tensordict

    def get_extra_state(self) -> State:
        """Return the horizons of the current episodes."""
        return {"horizon": self._horizon, "is_first": self._is_first}

    def set_extra_state(self, state: State) -> None:
        """Restore the horizons of the current episodes."""
        self.__dict__.update(_horizon=state["horizon"], _is_first=state["is_first"])

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Add ``truncated`` if it is missing."""
        known = leaf_names(specs["observation"])
        if self.step_count_key not in known:
            raise self._missing(self.step_count_key, known)
        done = specs["done"][self.done_key]
        specs["done"][self.truncated_key] = flag_spec(done.shape, done.device)
        return specs


class TerminateTransform(Transform):
    """Ends an episode where a condition holds.

    Args:
        stop: ``next_td -> [*B, 1]`` (bool), what is under ``"next"``.
        write_done: Set ``done`` with ``terminated``.

    Reads, writes: ``terminated`` and ``done [*B, 1]`` of the root level.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> stop = TerminateTransform(lambda td: td["observation"][..., :1] < 2)
    >>> TransformedEnv(GymEnv("Pendulum-v1"), stop).rollout(10).shape
    torch.Size([1])
    """

    def __init__(self, stop: Callable[[TensorDictBase], Tensor], *, write_done: bool = True) -> None:
        super().__init__()
        self.stop, self.write_done = stop, write_done

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        done = next_tensordict.get(DONE)
        stop = torch.as_tensor(self.stop(next_tensordict), device=done.device)
        stop = stop.expand(done.shape) if stop.numel() == 1 else stop.reshape(done.shape)
        next_tensordict.set(TERMINATED, stop | next_tensordict.get(sibling(DONE, TERMINATED)))
        return next_tensordict.set(DONE, stop | done) if self.write_done else next_tensordict

    def _reset(self, tensordict: Record | None, tensordict_reset: R) -> R:
        return tensordict_reset

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Apply to the record under ``"next"``."""
        next_root = tensordict.get("next")
        tensordict.set("next", self._step(tensordict, next_root))
        return tensordict


class EndOfLifeTransform(Transform):
    """Writes how many lives are left and whether one was lost.

    Each game of a batch has lives of its own, in a :class:`~torchrl.envs.SerialEnv` or
    :class:`~torchrl.envs.ParallelEnv`, a vector environment, or a pool.

    ``done`` stays as it is: give ``end-of-life`` to a loss as its end, or append
    :class:`EpisodicLife`.

    Args:
        eol_key: Name of the flag that a life was lost.
        lives_key: Name of the number of lives.
        done_key: End of the game.
        eol_attribute: Attribute or method of the environment that returns the number of lives.
            Where games have no attributes of their own, the entry of their infos with its last
            name.

    Reads: ``done [*B, 1]`` and the lives of the step before.
    Writes: ``lives [*B, 1]`` (int64) and ``end-of-life [*B, 1]`` (bool), which is also true where
        the game ends.

    Raises:
        AttributeError: if the environment has no lives.
        ShapeError: if it returns one number of lives for several games.

    >>> EndOfLifeTransform().out_keys
    ['end-of-life', 'lives']
    """

    supports_flat_records = True
    follows_steps = True
    asks_environment = True
    _base: Any
    _batch_size = torch.Size()

    def __init__(
        self,
        eol_key: NestedKey = "end-of-life",
        lives_key: NestedKey = "lives",
        done_key: NestedKey = DONE,
        eol_attribute: str = "unwrapped.ale.lives",
    ) -> None:
        super().__init__()
        self.out_keys = [*as_keys(eol_key), *as_keys(lives_key)]
        self.done_key, self.eol_attribute = as_keys(done_key)[0], eol_attribute
        self.__dict__["_base"] = None

    def _lives(self, like: Tensor) -> Tensor:
        """Return the lives ``[*B, 1]`` of the environment."""
        if self._base is None:
            self.__dict__["_base"] = self._environment()
        found = self._base.read_attribute(self.eol_attribute)
        lives = torch.as_tensor(found, device=like.device).to(torch.int64)
        if lives.numel() not in (self._batch_size.numel(), like.numel()):
            raise ShapeError(
                describe(
                    self,
                    "needs the lives of each game",
                    key=self.eol_attribute,
                    expected=f"numbers {tuple(self._batch_size)}",
                    found=f"numbers {tuple(lives.shape)}",
                    hint="Give eol_attribute, or append the transform to each game.",
                )
            )
        if lives.numel() == like.numel():
            return lives.reshape(like.shape)
        return expand_right(lives.reshape(*self._batch_size, 1), like.shape)

    def event_flags(self) -> dict[NestedKey, bool]:
        """Return the flag that a life was lost."""
        return {self.out_keys[0]: False}

    def _step(self, tensordict: Record, next_tensordict: R) -> R:
        eol_key, lives_key = self.out_keys
        before, done = tensordict.get(lives_key, None), next_tensordict.get(self.done_key)
        if before is None:
            raise self._missing(lives_key, tensordict)
        lives = self._lives(done)
        if (moving := tensordict.get("_step", None)) is not None:
            lives = torch.where(moving, lives, before)
        next_tensordict.set(lives_key, lives)
        next_tensordict.set(eol_key, (lives < before) | done)
        return next_tensordict

    def _reset(self, tensordict: Record | None, tensordict_reset: R) -> R:
        eol_key, lives_key = self.out_keys
        done = tensordict_reset.get(self.done_key)
        tensordict_reset.set(eol_key, torch.zeros_like(done))
        tensordict_reset.set(lives_key, self._lives(done))
        return tensordict_reset

    def reset_parent(self) -> None:
        """Unset the environment."""
        super().reset_parent()
        self.__dict__["_base"] = None

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Add the lives and the flag."""
        self._batch_size = specs["done"].shape
        done = specs["done"][self.done_key]
        eol_key, lives_key = self.out_keys
        specs["observation"][eol_key] = flag_spec(done.shape, done.device)
        specs["observation"][lives_key] = Unbounded(done.shape, dtype=torch.int64, device=done.device)
        return specs


class EpisodicLife(Transform):
    """Ends an episode where a life is lost; the game is reset only when it has ended.

    Between two lives of a game, a reset is one step with an action that does nothing. Append it
    after :class:`EndOfLifeTransform`.

    Args:
        eol_key: The flag that a life was lost.
        noop_action: Number of the action that does nothing.

    Reads: ``end-of-life [*B, 1]``.
    Writes: ``terminated`` and ``done``, true where a life is lost.

    Source: the environment wrappers of https://github.com/openai/baselines.

    >>> EpisodicLife().eol_key
    'end-of-life'
    """

    supports_flat_records = True
    _over: Tensor | None
    _last: Any = None  # result of the inner environment: later transforms may change entries

    def __init__(self, eol_key: NestedKey = "end-of-life", noop_action: int = 0) -> None:
        super().__init__()
        self.eol_key, self.noop_action = as_keys(eol_key)[0], noop_action
        self.__dict__["_over"] = None

    def _step(self, tensordict: Record, next_tensordict: R) -> R:
        lost, over = next_tensordict.get(self.eol_key, None), next_tensordict.get(DONE)
        if lost is None:
            raise self._missing(self.eol_key, next_tensordict)
        last = next_tensordict.copy()
        if (moving := tensordict.get("_step", None)) is not None and self._over is not None:
            over = torch.where(moving, over, self._over)
            last = last if self._last is None else where_rows(last, self._last, moving)
        self.__dict__.update(_over=over, _last=last)
        next_tensordict.set(TERMINATED, lost | next_tensordict.get(TERMINATED))
        next_tensordict.set(DONE, lost | next_tensordict.get(DONE))
        return next_tensordict

    def _around_reset(self, reset: Reset, step: Step, tensordict: R | None) -> R:
        """Reset the games that have ended or are not continued; step the others once."""
        inside, over, last = self.inner, self._over, self._last
        rows = inside.reset_rows(tensordict)
        if tensordict is None or over is None or last is None:
            root = reset(tensordict)
            self.__dict__["_over"] = torch.zeros_like(inside.ended(root))
            return root
        rows = torch.ones_like(over) if rows is None else rows
        lost = last.get(self.eol_key) & rows & ~over
        root, fresh = last.copy(), rows & ~lost
        for key in inside.rewards:
            root.pop(key)
        if bool(lost.any()):
            root, ended = self._step_once(step, inside.next_root(tensordict, root), root, lost)
            fresh = fresh | ended
        if bool(fresh.any()):
            whole = bool(fresh.all())
            started = reset(None if whole else inside.select_reset(tensordict, fresh))
            root = started if whole else where_rows(started, root, fresh)
        self.__dict__["_over"] = over & ~rows
        for key in (DONE, TERMINATED, self.eol_key):
            root.set(key, root.get(key) & ~rows)
        return clear_events(root, step, rows)

    def _step_once(self, step: Step, acting: R, root: R, rows: Tensor) -> tuple[R, Tensor]:
        for key, spec in self.inner.actions.items():
            acting.set(key, numbered(spec, self.inner.free_dims(rows), self.noop_action))
        next_root = where_rows(step_rows(step, acting, rows), root, rows)
        for key in self.inner.rewards:
            next_root.pop(key)
        return next_root, self.inner.ended(next_root) & rows

    def get_extra_state(self) -> State:
        """Return which games have ended, and their last results."""
        return {"over": self._over, "last": self._last}

    def set_extra_state(self, state: State) -> None:
        """Restore them."""
        self.__dict__.update(_over=state["over"], _last=state["last"])

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Check the keys; the specs do not change."""
        inside = self.inner
        if inside.dones != [DONE]:
            raise ValueError(describe(self, "needs one end flag, at the root", expected=[DONE], found=inside.dones))
        if self.eol_key not in list(specs["observation"].keys(True, True)):
            raise self._missing(self.eol_key, list(specs["observation"].keys(True, True)))
        return specs
