"""Where in its episode a step stands."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase

from torchrl._core.errors import SpecError, describe
from torchrl._core.keys import sibling
from torchrl._core.mdp import DONE, TRUNCATED, last_name
from torchrl.data import Bounded, Composite, TensorSpec, Unbounded
from torchrl.envs.postponed import Postponed
from torchrl.envs.running_sums import RunningSum
from torchrl.envs.spec_access import flag_spec, leaf_names
from torchrl.envs.transforms.base import Transform


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
        truncated_key: Name of the flag that is raised then.
        step_count_key: Name of the count.
        update_done: Raise ``done`` as well.

    Reads: ``done [*B, 1]`` and the count of the step before.
    Writes: ``step_count [*B, 1]`` (int64), 0 at a reset, beside every ``done``; with ``max_steps``
        also ``truncated`` and ``done``. ``terminated`` stays as it is.

    Raises:
        ValueError: if ``max_steps`` is not positive.
        SpecError: if the environment has an entry of the name of the count that is no count.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), StepCounter(max_steps=3))
    >>> env.rollout(10)["step_count"].squeeze(-1)
    tensor([0, 1, 2])
    """

    entrywise = True
    resets_rows_alone = True
    postponable = True

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

    def _set_levels(self, dones: list[NestedKey]) -> None:
        self._levels = [
            (done, sibling(done, self.step_count_key), sibling(done, self.truncated_key))
            for done in dones
        ]

    def _step(self, tensordict: Any, next_tensordict: Any) -> Any:
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

    def _reset(self, tensordict: Any, tensordict_reset: Any) -> Any:
        for done_key, count_key, truncated_key in self._levels:
            done = tensordict_reset.get(done_key)
            rows = None if tensordict is None else tensordict.get(sibling(done_key, "_reset"), None)
            before = None if rows is None else tensordict.get(count_key, None)
            if before is None:
                count = torch.zeros_like(done, dtype=torch.int64)
            else:
                count = before.masked_fill(rows, 0)
            tensordict_reset.set(count_key, count)
            if self.max_steps is not None and tensordict_reset.get(truncated_key, None) is None:
                tensordict_reset.set(truncated_key, torch.zeros_like(done))
        return tensordict_reset

    def entries_touched(self) -> set[NestedKey]:
        """Return the counts, and where they cut episodes the flags beside them."""
        if self.max_steps is None:
            return {count for _, count, _ in self._levels}
        return {key for level in self._levels for key in level}

    def postponed(self) -> list[Postponed]:
        """Return the counts, unless they cut episodes."""
        return [] if self.max_steps else [RunningSum(count, None) for _, count, _ in self._levels]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Refuse: a count needs the step before, which a lone record does not have."""
        raise RuntimeError(
            "StepCounter counts as an environment steps and cannot be applied to a lone record; "
            "append it to the environment that collects the data."
        )

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Add the count, and ``truncated`` where episodes are cut."""
        self._set_levels(done_keys(specs))
        for done_key, count_key, truncated_key in self._levels:
            done = specs["done"][done_key]
            self._refuse_other_entry(specs["observation"], count_key, done.shape)
            count: TensorSpec
            if self.max_steps is not None and self.update_done:
                count = Bounded(
                    0, self.max_steps, shape=done.shape, dtype=torch.int64, device=done.device
                )
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
                    "is an observation of the environment that counts no steps",
                    key=key,
                    expected=f"no such entry, or a count: int64 {tuple(shape)}",
                    found=f"{found.dtype or type(found).__name__} {tuple(found.shape)}",
                    hint="Name the count otherwise: StepCounter(step_count_key=...).",
                )
            )


class InitTracker(Transform):
    """Marks the first step of each episode.

    Args:
        init_key: Name of the mark.

    Reads: ``done [*B, 1]``.
    Writes: ``is_init [*B, 1]`` (bool) beside every ``done``: true right after a reset.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), InitTracker())
    >>> env.rollout(3)["is_init"].squeeze(-1)
    tensor([ True, False, False])
    """

    entrywise = True

    def __init__(self, init_key: str = "is_init") -> None:
        super().__init__()
        self.init_key = init_key
        self._levels: list[tuple[NestedKey, NestedKey]] = [(DONE, init_key)]

    def _step(self, tensordict: Any, next_tensordict: Any) -> Any:
        for done_key, init_key in self._levels:
            done = next_tensordict.get(done_key)
            next_tensordict.set(init_key, torch.zeros_like(done))
        return next_tensordict

    def _reset(self, tensordict: Any, tensordict_reset: Any) -> Any:
        for done_key, init_key in self._levels:
            tensordict_reset.set(init_key, torch.ones_like(tensordict_reset.get(done_key)))
        return tensordict_reset

    def event_flags(self) -> dict[NestedKey, bool]:
        """Return the marks: true after a reset."""
        return {init_key: True for _, init_key in self._levels}

    def entries_touched(self) -> set[NestedKey]:
        """Return the flags and the marks beside them."""
        return {key for level in self._levels for key in level}

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Refuse: whether a lone record begins an episode cannot be seen."""
        raise RuntimeError(
            "InitTracker marks as an environment resets and cannot be applied to a lone record; "
            "append it to the environment that collects the data."
        )

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Add the mark."""
        self._levels = [(done, sibling(done, self.init_key)) for done in done_keys(specs)]
        for done_key, init_key in self._levels:
            done = specs["done"][done_key]
            specs["observation"][init_key] = flag_spec(done.shape, done.device)
        return specs
