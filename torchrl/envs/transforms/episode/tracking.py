"""Step counts, episode returns, first-step flags, episode numbers and durations."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from torch import Tensor

from torchrl._core.errors import SpecError, describe
from torchrl._core.keys import as_keys, leaf_keys, sibling
from torchrl._core.mdp import DONE, TRUNCATED, last_name
from torchrl._core.records.flat_record import FlatRecord, Record
from torchrl._core.records.rows import expand_right
from torchrl.data import Bounded, Composite, TensorSpec, Unbounded
from torchrl.envs.specs import flag_spec, leaf_names
from torchrl.envs.stepping.compiled_specs import CompiledSpecs
from torchrl.envs.stepping.deferred import Deferred
from torchrl.envs.transforms.base import R, State, Transform, free_dims, time_dim
from torchrl.envs.transforms.inner_env_info import Reset, Step

_IN_NUMPY = (torch.float32, torch.float64, torch.int64)


def done_keys(specs: dict[str, Composite]) -> list[NestedKey]:
    """Return the name of ``done`` at each nesting level that has one."""
    return [key for key in leaf_names(specs["done"]) if last_name(key) == DONE]


def dones_around(key: NestedKey, dones: list[NestedKey]) -> list[NestedKey]:
    """Return the end flags of the levels around an entry, the outermost first.

    >>> dones_around(("agents", "reward"), [("agents", "done"), "done", ("others", "done")])
    ['done', ('agents', 'done')]
    """
    path = key[:-1] if isinstance(key, tuple) else ()
    around = [d for d in dones if isinstance(d, str) or d[:-1] == path[: len(d) - 1]]
    return sorted(around, key=lambda done: 1 if isinstance(done, str) else len(done))


def nearest_reset(key: NestedKey, dones: list[NestedKey]) -> NestedKey:
    """Return the ``_reset`` mask of the innermost level of flags around an entry.

    >>> nearest_reset(("agents", "reward"), ["done", ("agents", "done"), ("others", "done")])
    ('agents', '_reset')
    """
    return sibling([DONE, *dones_around(key, dones)][-1], "_reset")


class StepCounter(Transform):
    """Counts the steps of each episode, and can truncate it.

    Args:
        max_steps: Truncate an episode after this many steps.
        truncated_key: Name of the flag that is set then.
        step_count_key: Name of the count.
        update_done: Set ``done`` as well.

    Reads: ``done [*B, 1]`` and the count of the step before.
    Writes: ``step_count [*B, 1]`` (int64), 0 at a reset, beside every ``done``; with ``max_steps``
        also ``truncated`` and ``done``. ``terminated`` stays as it is.

    Raises:
        ValueError: if ``max_steps`` is not positive.
        SpecError: if the environment has another entry of that name.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), StepCounter(max_steps=3))
    >>> env.rollout(10)["step_count"].squeeze(-1)
    tensor([0, 1, 2])
    """

    supports_flat_records = True
    follows_steps = True
    partial_reset_safe = True
    deferrable = True

    def __init__(
        self,
        max_steps: int | None = None,
        truncated_key: str = TRUNCATED,
        step_count_key: str = "step_count",
        update_done: bool = True,
    ) -> None:
        super().__init__()
        if max_steps is not None and max_steps < 1:
            raise ValueError(f"StepCounter: max_steps must be at least 1, found {max_steps}.")
        self.max_steps, self.update_done = max_steps, update_done
        self.truncated_key, self.step_count_key = truncated_key, step_count_key
        self._set_levels([DONE])

    @property
    def step_count_keys(self) -> list[NestedKey]:
        """The count of each level of end flags."""
        return list(self._counts)

    @property
    def done_keys(self) -> list[NestedKey]:
        """The end flag of each level."""
        return [done for done, _, _ in self._levels]

    @property
    def truncated_keys(self) -> list[NestedKey]:
        """The flag of truncations of each level."""
        return [truncated for _, _, truncated in self._levels]

    @property
    def reset_keys(self) -> list[NestedKey]:
        """The mask of rows that are reset of each level."""
        return [sibling(done, "_reset") for done in self.done_keys]

    def _set_levels(self, dones: list[NestedKey]) -> None:
        self._levels = [(done, sibling(done, self.step_count_key), sibling(done, self.truncated_key)) for done in dones]
        self._counts = [count for _, count, _ in self._levels]

    def _step(self, tensordict: Record, next_tensordict: R) -> R:
        for done_key, count_key, truncated_key in self._levels:
            count = tensordict.get(count_key, None)
            if count is None:
                raise self._missing(count_key, tensordict)
            count = count + 1  # [*B, 1]
            next_tensordict.set(count_key, count)
            if self.max_steps is not None:
                truncated = count >= self.max_steps
                if (earlier := next_tensordict.get(truncated_key, None)) is not None:
                    truncated = truncated | earlier
                next_tensordict.set(truncated_key, truncated)
                if self.update_done:
                    next_tensordict.set(done_key, truncated | next_tensordict.get(done_key))
        return next_tensordict

    def _reset(self, tensordict: Record | None, tensordict_reset: R) -> R:
        for done_key, count_key, truncated_key in self._levels:
            done = tensordict_reset.get(done_key)
            rows = before = None
            if tensordict is not None and (rows := tensordict.get(sibling(done_key, "_reset"), None)) is not None:
                before = tensordict.get(count_key, None)
            count = torch.zeros_like(done, dtype=torch.int64) if before is None else before.masked_fill(rows, 0)
            tensordict_reset.set(count_key, count)
            if self.max_steps is not None and tensordict_reset.get(truncated_key, None) is None:
                tensordict_reset.set(truncated_key, torch.zeros_like(done))
        return tensordict_reset

    def entries_touched(self) -> set[NestedKey]:
        """Return the counts; with ``max_steps`` also the flags beside them."""
        if self.max_steps is None:
            return set(self._counts)
        return set().union(*self._levels)

    def deferred(self) -> list[Deferred]:
        """Return the counts, unless they truncate episodes."""
        return [] if self.max_steps else list(map(RunningSum, self._counts, repeat(None)))

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Add the count, and ``truncated`` with ``max_steps``."""
        self._set_levels(done_keys(specs))
        for done_key, count_key, truncated_key in self._levels:
            done = specs["done"][done_key]
            self._refuse_other_entry(specs["observation"], count_key, done.shape)
            count: TensorSpec
            if self.max_steps is not None and self.update_done:
                count = Bounded(0, self.max_steps, shape=done.shape, dtype=torch.int64, device=done.device)
            else:
                count = Unbounded(done.shape, dtype=torch.int64, device=done.device)
            if self.max_steps is not None:
                specs["done"][truncated_key] = flag_spec(done.shape, done.device)
            specs["observation"][count_key] = count
        return specs

    def _refuse_other_entry(self, observation: Composite, key: NestedKey, shape: Any) -> None:
        found = observation[key] if key in observation.keys(True) else None
        if found is not None and (found.dtype, found.shape) != (torch.int64, shape):
            raise SpecError(
                describe(
                    self,
                    "is another observation of the environment",
                    key=key,
                    expected=f"no such entry, or a count: int64 {tuple(shape)}",
                    found=f"{found.dtype or type(found).__name__} {tuple(found.shape)}",
                    hint="Choose another name: StepCounter(step_count_key=...).",
                )
            )


class InitTracker(Transform):
    """Marks the first step of each episode.

    Args:
        init_key: Name of the flag.

    Reads: ``done [*B, 1]``.
    Writes: ``is_init [*B, 1]`` (bool) beside every ``done``: true right after a reset.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), InitTracker())
    >>> env.rollout(3)["is_init"].squeeze(-1)
    tensor([ True, False, False])
    """

    supports_flat_records = True
    follows_steps = True

    def __init__(self, init_key: str = "is_init") -> None:
        super().__init__()
        self.init_key = init_key
        self._levels: list[tuple[NestedKey, NestedKey]] = [(DONE, init_key)]

    @property
    def init_keys(self) -> list[NestedKey]:
        """The flag of each level of end flags."""
        return [init_key for _, init_key in self._levels]

    @property
    def reset_keys(self) -> list[NestedKey]:
        """The mask of rows that are reset of each level."""
        return [sibling(done, "_reset") for done, _ in self._levels]

    def _step(self, tensordict: Record, next_tensordict: R) -> R:
        for done_key, init_key in self._levels:
            done = next_tensordict.get(done_key)
            next_tensordict.set(init_key, torch.zeros_like(done))
        return next_tensordict

    def _reset(self, tensordict: Record | None, tensordict_reset: R) -> R:
        for done_key, init_key in self._levels:
            tensordict_reset.set(init_key, torch.ones_like(tensordict_reset.get(done_key)))
        return tensordict_reset

    def event_flags(self) -> dict[NestedKey, bool]:
        """Return the flags: true after a reset."""
        return {init_key: True for _, init_key in self._levels}

    def entries_touched(self) -> set[NestedKey]:
        """Return the end flags and the flags beside them."""
        return {key for level in self._levels for key in level}

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Add the flag."""
        self._levels = [(done, sibling(done, self.init_key)) for done in done_keys(specs)]
        for done_key, init_key in self._levels:
            done = specs["done"][done_key]
            specs["observation"][init_key] = flag_spec(done.shape, done.device)
        return specs


class RewardSum(Transform):
    """Sums the rewards of an episode: its return so far.

    Args:
        in_keys: The rewards; every reward of the environment if ``None``.
        out_keys: Where their sums are written; ``episode_<name>`` beside each if ``None``.
        reset_keys: Names of the masks of rows that are reset, one for each reward; that of the
            innermost level of flags around it if ``None``.
        reward_spec: Add the sums to the specs of rewards and states instead of observations.

    Reads: ``reward [*B, 1]`` under ``"next"``, and the sum of the step before.
    Writes: ``episode_reward [*B, 1]``, 0 at a reset; under ``"next"`` it includes the step's
    reward.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("CartPole-v1"), RewardSum())
    >>> env.rollout(3)["next", "episode_reward"].squeeze(-1)
    tensor([1., 2., 3.])
    """

    supports_flat_records = True
    partial_reset_safe = True
    deferrable = True

    def __init__(
        self,
        in_keys: Sequence[NestedKey] | None = None,
        out_keys: Sequence[NestedKey] | None = None,
        reset_keys: Sequence[NestedKey] | None = None,
        *,
        reward_spec: bool = False,
    ) -> None:
        self._in_keys_given = in_keys is not None
        keys = as_keys(["reward"] if in_keys is None else in_keys)
        super().__init__(keys, _sum_names(keys) if out_keys is None else out_keys)
        self._out_keys_given = out_keys is not None
        self._reset_keys = None if reset_keys is None else as_keys(reset_keys)
        self.reward_spec = reward_spec
        # Sum, mask of the rows that are reset, spec, zeros.
        self._sums: list[tuple[NestedKey, NestedKey, Any, Any]] = []
        self._batch = torch.Size([])

    def _step(self, tensordict: Record, next_tensordict: R) -> R:
        for source, destination in zip(self.in_keys, self.out_keys, strict=True):
            total = tensordict.get(destination, None)
            if total is None:
                raise self._missing(destination, tensordict)
            next_tensordict.set(destination, total + next_tensordict.get(source))
        return next_tensordict

    @property
    def reset_keys(self) -> list[NestedKey] | None:
        """Names of the masks of rows that are reset; by default known once there is an environment."""
        if self._reset_keys is None and self.parent is not None:
            return [reset_key for _, reset_key, _, _ in self._sums]
        return self._reset_keys

    def entries_touched(self) -> set[NestedKey]:
        """Return the rewards and their sums."""
        return {*self.in_keys, *self.out_keys}

    def deferred(self) -> list[Deferred]:
        """Return the sums, unless they are rewards or have reset masks of their own."""
        if self.reward_spec or self._reset_keys is not None:
            return []
        return list(map(RunningSum, self.out_keys, self.in_keys))

    def _reset(self, tensordict: Record | None, tensordict_reset: R) -> R:
        is_locked = getattr(tensordict_reset, "batch_size", self._batch) == self._batch
        for destination, reset_key, spec, zeros in self._sums:
            rows = before = None
            if tensordict is not None and (rows := tensordict.get(reset_key, None)) is not None:
                before = tensordict.get(destination, None)
            if before is None and is_locked:
                total = zeros.clone()
            elif before is None:
                total = spec.zero(free_dims(tensordict_reset, self._batch))
            else:
                assert rows is not None
                total = before.masked_fill(expand_right(rows, before.shape), 0)
            tensordict_reset.set(destination, total)
        return tensordict_reset

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Sum the rewards of each episode along time, the dimension of that name or the last one.

        Reads: ``("next", "reward")``, and under ``"next"`` the outermost ``done`` around it. A record
            without end flags is one episode if its time dimension is named.
        Writes: the sum under ``"next"``.
        """
        next_root, dim = tensordict.get("next"), time_dim(tensordict)
        dones = [key for key in leaf_keys(next_root) if last_name(key) == DONE]
        for source, destination in zip(self.in_keys, self.out_keys, strict=True):
            source, destination = (unravel_key(k[1:]) if k[0] == "next" else k for k in (source, destination))
            reward, ends = next_root.get(source, None), dones_around(source, dones)
            if reward is None or not (ends or "time" in tensordict.names):
                raise self._missing(source if reward is None else DONE, next_root)
            over: Sequence[Tensor | None] = [None] * reward.shape[dim]
            if ends:
                over = next_root.get(ends[0]).unbind(dim)
            carry, sums = torch.zeros_like(reward.select(dim, 0)), []
            for r, d in zip(reward.unbind(dim), over, strict=True):
                carry = carry + r
                sums.append(carry)
                carry = carry if d is None else carry.masked_fill(expand_right(d, carry.shape), 0)
            next_root.set(destination, torch.stack(sums, dim))
        return tensordict

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Add the sums to the observations, or to the rewards."""
        if not self._in_keys_given:
            self.in_keys = [*specs["reward"].keys(True, True)]
            self.out_keys = self.out_keys if self._out_keys_given else _sum_names(self.in_keys)
        self._check_keys(specs)
        # A reward that is a state too is carried from step to step.
        groups = ("reward", "state") if self.reward_spec else ("observation",)
        self._sums, self._batch, dones = [], specs["observation"].shape, done_keys(specs)
        reset_keys = self._reset_keys or [nearest_reset(key, dones) for key in self.in_keys]
        if len(reset_keys) != len(self.in_keys):
            raise ValueError(
                f"RewardSum: expected as many reset_keys as rewards, found {reset_keys} for {self.in_keys}."
            )
        for source, destination, reset_key in zip(self.in_keys, self.out_keys, reset_keys, strict=True):
            reward = specs["reward"][source]
            spec = Unbounded(reward.shape, dtype=reward.dtype, device=reward.device)
            for group in groups:
                specs[group][destination] = spec.clone()
            self._sums.append((destination, reset_key, spec, spec.zero()))
        return specs


def _sum_names(keys: Sequence[NestedKey]) -> list[NestedKey]:
    return [sibling(key, f"episode_{last_name(key)}") for key in keys]


class SharedCounter:
    """A counter in shared memory.

    Args:
        first: The first number.
    """

    def __init__(self, first: int = 0) -> None:
        self.value = torch.tensor(first, dtype=torch.int64).share_memory_()
        self.lock = multiprocessing.get_context("spawn").Lock()

    def take(self, count: int) -> int:
        """Increase the counter by ``count``; return its value before."""
        with self.lock:
            first = int(self.value)
            self.value += count
        return first

    def __deepcopy__(self, memo: dict) -> SharedCounter:
        return SharedCounter(int(self.value))


class TrajCounter(Transform):
    """Numbers episodes, across all processes that share this transform.

    Args:
        out_key: Where to write the number.
        repeats: Number of successive episodes with the same number; 1 if ``None``.

    Writes: ``traj_count [*B, 1]`` (int64): the next free number at each reset, the same until the
        next.

    Raises:
        ValueError: if ``repeats`` is not positive.

    >>> from torchrl.envs import GymEnv, StepCounter, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), StepCounter(2)).append_transform(TrajCounter())
    >>> env.rollout(5, break_when_any_done=False)["traj_count"].squeeze(-1)
    tensor([0, 0, 1, 1, 2])
    """

    supports_flat_records = True
    follows_steps = True

    def __init__(self, out_key: NestedKey = "traj_count", *, repeats: int | None = None) -> None:
        super().__init__()
        self.out_key = as_keys(out_key)[0]
        self.repeats = 1 if repeats is None else repeats
        if self.repeats < 1:
            raise ValueError(f"TrajCounter: repeats must be at least 1, found {repeats}.")
        self.counter = SharedCounter()
        # Where environments share statistics, this buffer is in their memory and counts instead.
        self.register_buffer("count", torch.zeros((), dtype=torch.int64), persistent=False)

    is_shared = False
    lock: AbstractContextManager | None = None
    count: Tensor

    def _take(self, number: int) -> int:
        """Reserve numbers of episodes; return the first one."""
        if not self.is_shared or self.lock is None:
            return self.counter.take(number)
        with self.lock:
            first = int(self.count)
            self.count += number
        return first

    def _reset(self, tensordict: Record | None, tensordict_reset: R) -> R:
        rows = self.inner.reset_rows(tensordict)
        if rows is None:
            rows = torch.ones_like(self.inner.ended(tensordict_reset))
        first = self._take(int(rows.sum()))
        episode = first + rows.reshape(-1).cumsum(0).reshape(rows.shape) - 1  # [*B, 1]
        number = episode // self.repeats
        tensordict_reset.set(self.out_key, torch.where(rows, number, -1))
        return tensordict_reset

    def _step(self, tensordict: Record, next_tensordict: R) -> R:
        number = tensordict.get(self.out_key, None)
        if number is None:
            raise self._missing(self.out_key, tensordict)
        next_tensordict.set(self.out_key, number)
        return next_tensordict

    def get_extra_state(self) -> State:
        """Return the number of episodes so far."""
        return {"count": int(self.counter.value)}

    def set_extra_state(self, state: State) -> None:
        """Restore the number of episodes."""
        self.counter.value.fill_(state["count"])

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Add the number."""
        shape = (*specs["done"].shape, 1)
        specs["observation"][self.out_key] = Unbounded(shape, dtype=torch.int64, device=specs["done"].device)
        return specs


class Timer(Transform):
    """Measures the time that the environment and the policy take.

    Args:
        out_keys: Names of the three durations, of a step, the policy and a reset; if ``None``,
            ``<time_key>_step`` and so on.
        time_key: Prefix of those names.

    Writes: ``time_step``, ``time_policy``, ``time_reset [*B, 1]`` in seconds; 0 for what did not
        happen.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), Timer())
    >>> bool((env.rollout(3)["next", "time_step"] > 0).all())
    True
    """

    supports_flat_records = True
    _since: float | None

    def __init__(self, out_keys: Sequence[NestedKey] | None = None, time_key: str = "time") -> None:
        super().__init__()
        names = [f"{time_key}_{part}" for part in ("step", "policy", "reset")]
        self.out_keys = as_keys(names if out_keys is None else out_keys)
        if len(self.out_keys) != 3:
            raise ValueError(f"Timer: expected three out_keys, found {self.out_keys}.")
        self.__dict__["_since"] = None

    def _around_step(self, step: Step, tensordict: R) -> R:
        start = time.perf_counter()
        acting = 0.0 if self._since is None else start - self._since
        next_root = step(tensordict)
        self.__dict__["_since"] = now = time.perf_counter()
        return self._write(next_root, now - start, acting, 0.0)

    def _around_reset(self, reset: Reset, step: Step, tensordict: R | None) -> R:
        start = time.perf_counter()
        root = reset(tensordict)
        self.__dict__["_since"] = now = time.perf_counter()
        return self._write(root, 0.0, 0.0, now - start)

    def _write(self, record: R, *durations: float) -> R:
        like = self.inner.ended(record)
        for key, duration in zip(self.out_keys, durations, strict=True):
            record.set(key, torch.full_like(like, duration, dtype=torch.float32))
        return record

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Add the durations."""
        shape = (*specs["done"].shape, 1)
        for key in self.out_keys:
            spec = Bounded(0.0, torch.inf, shape=shape, device=specs["done"].device)
            specs["observation"][key] = spec
        return specs


@dataclass(frozen=True)
class RunningSum(Deferred):
    """An entry ``[*B, 1]`` that is 0 at a reset and grows at each step: a length, a return.

    The ``source`` is the entry under ``"next"`` that is added; 1 if ``None``.
    """

    follows_itself = True

    def fits(self, compiled: CompiledSpecs) -> bool:
        """Return whether it is one number for each row, and ends when its row does."""
        groups, spec = compiled.groups, compiled.specs["observation"][self.key]
        return len(groups) == 1 and groups[0].done == DONE and groups[0].shape == spec.shape

    def write(self, steps: TensorDictBase, first: FlatRecord, root: FlatRecord, *, reset_at_end: bool) -> None:
        """Write the sums before and after each step, and that of the next root."""
        results = steps.get("next")
        ends = results.get(DONE)  # [*B, T, 1]
        added = torch.ones_like(ends, dtype=torch.int64) if self.source is None else results.get(self.source)
        before, after = running_sum(first[self.key], added, ends)
        steps.set(self.key, before)
        results.set(self.key, after)
        over = ends[..., -1, :] & reset_at_end
        root.set(self.key, after[..., -1, :].masked_fill(over, 0))


def running_sum(first: Tensor, added: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Return sums ``[*B, T, 1]`` before and after each step, which are 0 again after an end.

    Args:
        first: Their first values, ``[*B, 1]``.
        added: What each step adds, ``[*B, T, 1]``.
        ends: The steps after which they are 0 again, ``[*B, T, 1]``.

    >>> ends = torch.tensor([[False], [True], [False]])
    >>> before, after = running_sum(torch.tensor([5.0]), torch.ones(3, 1), ends)
    >>> before.squeeze(-1), after.squeeze(-1)
    (tensor([5., 6., 0.]), tensor([6., 7., 1.]))
    """
    num_steps, num_rows = added.shape[-2], first.numel()
    is_plain = added.device.type == "cpu" and not (added.requires_grad or first.requires_grad)
    # One call for each episode against two for each step.
    if is_plain and added.dtype in _IN_NUMPY and num_rows + int(ends.sum()) < 2 * num_steps:
        after = added.clone(memory_format=torch.contiguous_format)
        totals = after.view(-1, num_steps).numpy()
        totals[:, 0] += first.reshape(-1).numpy()
        for row, over in zip(totals, ends.reshape(-1, num_steps).numpy(), strict=True):
            start = 0
            for stop in (*(np.flatnonzero(over[:-1]) + 1), num_steps):
                np.add.accumulate(row[start:stop], out=row[start:stop])
                start = stop
    else:
        total, sums = first, []
        for value, over in zip(added.unbind(-2), ends.unbind(-2), strict=True):
            sums.append(total + value)
            total = sums[-1].masked_fill(over, 0)
        after = torch.stack(sums, -2)
    restarted = after[..., :-1, :].masked_fill(ends[..., :-1, :], 0)
    return torch.cat([first.unsqueeze(-2), restarted], -2), after
