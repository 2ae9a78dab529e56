"""What is noted about episodes, and what cuts them short: numbers, times, horizons, conditions."""

from __future__ import annotations

import copy
import multiprocessing
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl._core.keys import as_keys, sibling
from torchrl._core.mdp import DONE, TERMINATED, TRUNCATED
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs.spec_access import flag_spec, leaf_names
from torchrl.envs.transforms.base import Transform
from torchrl.envs.transforms.inside import Inside, Reset, Step


class SharedCounter:
    """A number in shared memory that processes count up together.

    Args:
        first: The first number.
    """

    def __init__(self, first: int = 0) -> None:
        self.value = torch.tensor(first, dtype=torch.int64).share_memory_()
        self.lock = multiprocessing.get_context("spawn").Lock()

    def take(self, count: int) -> int:
        """Count up by ``count``; return the first of the numbers taken."""
        with self.lock:
            first = int(self.value)
            self.value += count
        return first

    def __deepcopy__(self, memo: dict) -> SharedCounter:
        return SharedCounter(int(self.value))


class TrajCounter(Transform):
    """Numbers episodes, across all processes that got this transform.

    Args:
        out_key: Where to write the number.
        repeats: How many episodes in a row share a number; 1 if ``None``.

    Writes: ``traj_count [*B, 1]`` (int64): the next free number at each reset, the same until the
        next.

    Raises:
        ValueError: if ``repeats`` is not positive.

    >>> from torchrl.envs import GymEnv, StepCounter, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), StepCounter(2)).append_transform(TrajCounter())
    >>> env.rollout(5, break_when_any_done=False)["traj_count"].squeeze(-1)
    tensor([0, 0, 1, 1, 2])
    """

    entrywise = True
    _inside: Inside

    def __init__(self, out_key: NestedKey = "traj_count", *, repeats: int | None = None) -> None:
        super().__init__()
        self.out_key = as_keys(out_key)[0]
        self.repeats = 1 if repeats is None else repeats
        if self.repeats < 1:
            raise ValueError(f"TrajCounter: repeats must be at least 1, found {repeats}.")
        self.counter = SharedCounter()

    def _reset(self, tensordict: Any, tensordict_reset: Any) -> Any:
        rows = self._inside.being_reset(tensordict)
        if rows is None:
            rows = torch.ones_like(self._inside.over(tensordict_reset))
        first = self.counter.take(int(rows.sum()))
        episode = first + rows.reshape(-1).cumsum(0).reshape(rows.shape) - 1  # [*B, 1]
        number = episode // self.repeats
        return tensordict_reset.set(self.out_key, torch.where(rows, number, -1))

    def _step(self, tensordict: Any, next_tensordict: Any) -> Any:
        number = tensordict.get(self.out_key, None)
        if number is None:
            raise self._missing(self.out_key, tensordict)
        return next_tensordict.set(self.out_key, number)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Refuse: the beginning of an episode cannot be seen in a lone record."""
        raise RuntimeError(
            "TrajCounter counts as an environment resets and cannot be applied to a lone record; "
            "append it to the environment that collects the data."
        )

    def clone(self) -> TrajCounter:
        """Return a copy without a place, which counts on together with this one."""
        memo: dict[int, Any] = {id(self.counter): self.counter, id(self._container): None}
        return copy.deepcopy(self, memo)

    def get_extra_state(self) -> Any:
        """Return the number of episodes so far."""
        return {"count": int(self.counter.value)}

    def set_extra_state(self, state: Any) -> None:
        """Count on from there."""
        self.counter.value.fill_(state["count"])

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Add the number."""
        self.__dict__["_inside"] = Inside(specs)
        shape = (*specs["done"].shape, 1)
        specs["observation"][self.out_key] = Unbounded(
            shape, dtype=torch.int64, device=specs["done"].device
        )
        return specs


class Timer(Transform):
    """Measures how long the environment and the policy take.

    Args:
        out_keys: Names of the three durations, of a step, the policy and a reset; if ``None``,
            ``<time_key>_step`` and so on.
        time_key: Beginning of those names.

    Writes: ``time_step``, ``time_policy``, ``time_reset [*B, 1]`` in seconds; what did not happen
        took 0.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), Timer())
    >>> bool((env.rollout(3)["next", "time_step"] > 0).all())
    True
    """

    entrywise = True
    _inside: Inside
    _since: float | None

    def __init__(self, out_keys: Sequence[NestedKey] | None = None, time_key: str = "time") -> None:
        super().__init__()
        names = [f"{time_key}_{part}" for part in ("step", "policy", "reset")]
        self.out_keys = as_keys(names if out_keys is None else out_keys)
        if len(self.out_keys) != 3:
            raise ValueError(f"Timer: expected three out_keys, found {self.out_keys}.")
        self.__dict__["_since"] = None

    def _around_step(self, step: Step, tensordict: Any) -> Any:
        start = time.perf_counter()
        thinking = 0.0 if self._since is None else start - self._since
        following = step(tensordict)
        self.__dict__["_since"] = now = time.perf_counter()
        return self._write(following, now - start, thinking, 0.0)

    def _around_reset(self, reset: Reset, step: Step, tensordict: Any) -> Any:
        start = time.perf_counter()
        root = reset(tensordict)
        self.__dict__["_since"] = now = time.perf_counter()
        return self._write(root, 0.0, 0.0, now - start)

    def _write(self, record: Any, *durations: float) -> Any:
        like = self._inside.over(record)
        for key, duration in zip(self.out_keys, durations, strict=True):
            record.set(key, torch.full_like(like, duration, dtype=torch.float32))
        return record

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Add the durations."""
        self.__dict__["_inside"] = Inside(specs)
        shape = (*specs["done"].shape, 1)
        for key in self.out_keys:
            spec = Bounded(0.0, torch.inf, shape=shape, device=specs["done"].device)
            specs["observation"][key] = spec
        return specs


class RandomTruncationTransform(Transform):
    """Truncates episodes at random, so that rows that began together drift apart.

    Append it after a :class:`StepCounter`.

    Args:
        min_horizon: Least number of steps of an episode that is truncated.
        max_horizon: Largest.
        prob: Probability that an episode is given a horizon.
        first_episode_prob: The same for the first episode of each row; 1 if ``None``.
        step_count_key: The count of steps that is read.
        truncated_key: The flag that is raised.
        done_key: The flag that is raised with it.

    Raises:
        ValueError: if ``1 <= min_horizon <= max_horizon`` does not hold.

    >>> from torchrl.envs import GymEnv, StepCounter, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), StepCounter())
    >>> env = env.append_transform(RandomTruncationTransform(2, 4))
    >>> 2 <= env.rollout(10).shape[0] <= 4
    True
    """

    entrywise = True
    _inside: Inside
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

    def _reset(self, tensordict: Any, tensordict_reset: Any) -> Any:
        done = tensordict_reset.get(self.done_key)  # [*B, 1]
        rows = self._inside.being_reset(tensordict)
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

    def _step(self, tensordict: Any, next_tensordict: Any) -> Any:
        if self._horizon is None:
            raise RuntimeError("RandomTruncationTransform: reset the environment first.")
        truncated = next_tensordict.get(self.step_count_key) >= self._horizon
        if (earlier := next_tensordict.get(self.truncated_key, None)) is not None:
            truncated = truncated | earlier
        next_tensordict.set(self.truncated_key, truncated)
        return next_tensordict.set(self.done_key, truncated | next_tensordict.get(self.done_key))

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Refuse: a lone record has no horizon."""
        raise RuntimeError(
            "RandomTruncationTransform acts as an environment steps and cannot be applied to a "
            "lone record; append it to the environment that collects the data."
        )

    def get_extra_state(self) -> Any:
        """Return the horizons of the episodes that are under way."""
        return {"horizon": self._horizon, "is_first": self._is_first}

    def set_extra_state(self, state: Any) -> None:
        """Go on with the horizons of another."""
        self.__dict__.update(_horizon=state["horizon"], _is_first=state["is_first"])

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Add ``truncated`` if it is missing."""
        self.__dict__["_inside"] = Inside(specs)
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
        write_done: Raise ``done`` with ``terminated``.

    Reads, writes: ``terminated`` and ``done [*B, 1]`` of the root level.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> stop = TerminateTransform(lambda td: td["observation"][..., :1] < 2)
    >>> TransformedEnv(GymEnv("Pendulum-v1"), stop).rollout(10).shape
    torch.Size([1])
    """

    def __init__(
        self, stop: Callable[[TensorDictBase], Tensor], *, write_done: bool = True
    ) -> None:
        super().__init__()
        self.stop, self.write_done = stop, write_done

    def _step(self, tensordict: Any, next_tensordict: Any) -> Any:
        done = next_tensordict.get(DONE)
        stop = torch.as_tensor(self.stop(next_tensordict), device=done.device)
        stop = stop.expand(done.shape) if stop.numel() == 1 else stop.reshape(done.shape)
        next_tensordict.set(TERMINATED, stop | next_tensordict.get(sibling(DONE, TERMINATED)))
        return next_tensordict.set(DONE, stop | done) if self.write_done else next_tensordict

    def _reset(self, tensordict: Any, tensordict_reset: Any) -> Any:
        return tensordict_reset

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Apply to what stands under ``"next"`` in a record."""
        following = tensordict.get("next")
        return tensordict.set("next", self._step(tensordict, following))
