"""What the hooks of an environment do to tensors that others hold, as they do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from tensordict import LazyStackedTensorDict, NestedKey
from torch import Tensor

from torchrl._core.errors import describe
from torchrl._core.keys import next_key
from torchrl.envs.reused_memory import key_of, layers, leaf_tensors, records_in, same_content

if TYPE_CHECKING:
    from torchrl.envs.common import EnvBase


class HookWatch:
    """Looks at what ``_step`` and ``_reset`` return, take and change, while it is open.

    Rollouts copy what is overwritten and complete what contradicts itself; a loop of one's own over
    ``env.step`` is not protected so. An environment is looked at with all that it wraps, and the
    innermost that is at fault is named.

    Args:
        env: The environment.

    Its ``problems`` are sentences by entry: memory that was returned and written again, records
    that were returned twice, inputs that were edited, flags that contradict each other.

    >>> from torchrl.envs import CartPoleEnv
    >>> with HookWatch(CartPoleEnv()) as watch:
    ...     _ = watch.env.rollout(3)
    >>> watch.problems
    {}
    """

    def __init__(self, env: EnvBase) -> None:
        self.env = env
        self.problems: dict[Any, str] = {}
        self._levels: list[_Level] = []

    def __enter__(self) -> HookWatch:
        self._levels = [_Level(env) for env in layers(self.env)]
        return self

    def __exit__(self, *_: Any) -> None:
        while self._levels:
            level = self._levels.pop()
            level.restore()
            for what, text in level.problems.items():
                self.problems.setdefault(what, text)


class _Level:
    """The hooks of one environment."""

    def __init__(self, env: EnvBase) -> None:
        self.env = env
        self.problems: dict[Any, str] = {}
        self._held: list[tuple[NestedKey, Tensor]] = []
        self._records: list[Any] = []  # that were returned
        self._before = {name: env.__dict__.get(name) for name in ("_step", "_reset")}
        env.__dict__.update(_step=self._around("_step"), _reset=self._around("_reset"))

    def restore(self) -> None:
        for name, hook in self._before.items():
            self.env.__dict__.pop(name)
            if hook is not None:
                self.env.__dict__[name] = hook

    def _around(self, name: str) -> Callable[..., Any]:
        hook = getattr(self.env, name)
        side = ("next",) if name == "_step" else ()

        def watched(record: Any, *args: Any, **kwargs: Any) -> Any:
            held = [(key, value, *_state(value)) for key, value in self._held]
            records = [(record, _parts(record)) for record in self._records]
            given = (
                {}
                if record is None
                else {path: (x, *_state(x)) for path, _, _, x in leaf_tensors(record)}
            )
            outcome = hook(record, *args, **kwargs)
            self._look_at_held(held)
            self._look_at_records(name, records)
            if record is not None:
                self._look_at_given(name, record, given)
            self._look_at_outcome(name, side, outcome)
            return outcome

        return watched

    def _look_at_held(self, held: list[tuple[NestedKey, Tensor, Tensor, int]]) -> None:
        for key, value, copy, version in held:
            if _is_written(value, copy, version):
                self._tell(
                    key,
                    "lies in memory that is written again: an earlier step changes with it",
                    expected="a tensor of its own for each step",
                    hint="Return a clone() of it. Rollouts copy it; a loop over env.step() does "
                    "not.",
                )

    def _look_at_records(self, name: str, records: list[tuple[Any, dict[Any, Any]]]) -> None:
        for record, before in records:
            now = _parts(record)
            if now.keys() != before.keys() or any(now[key] is not before[key] for key in now):
                self._tell(
                    None,
                    f"writes in {name}() into a tensordict that it returned earlier",
                    expected="a new one for each step",
                    hint="Build it in each call, or return a copy(). Rollouts copy it; a loop over "
                    "env.step() does not.",
                )

    def _look_at_given(self, name: str, record: Any, given: dict[Any, Any]) -> None:
        after = {path: value for path, _, _, value in leaf_tensors(record)}
        actions = {k if isinstance(k, tuple) else (k,) for k in self.env.plan.action_keys}
        for path, (value, copy, version) in given.items():
            is_edited = _is_written(value, copy, version)
            if tuple(part for part in path if isinstance(part, str)) in actions:
                now = after.get(path)
                is_edited = is_edited or now is None or not same_content(now, copy)
            if is_edited:
                self._tell(
                    key_of(path),
                    f"is edited by {name}(), which was given it to read",
                    hint="Compute a new tensor, or edit a clone(). Rollouts put it back.",
                )

    def _look_at_outcome(self, name: str, side: tuple[str, ...], outcome: Any) -> None:
        if outcome is None or not hasattr(outcome, "items"):
            return
        self._records += records_in(outcome)
        for path, _, _, value in leaf_tensors(outcome):
            key = key_of(path)
            names = (*side, *((key,) if isinstance(key, str) else key))
            self._held.append((names[0] if len(names) == 1 else names, value))
        if side:
            self._look_at_flags(outcome)

    def _look_at_flags(self, outcome: Any) -> None:
        for group in self.env.plan.groups:
            done, terminated, truncated = (
                flag if isinstance(flag, Tensor) and flag.dtype == torch.bool else None
                for flag in (
                    outcome.get(key, None)
                    for key in (group.done, group.terminated, group.truncated)
                )
            )
            if done is None:
                continue
            causes = [flag for flag in (terminated, truncated) if flag is not None]
            raised = [flag.reshape(done.shape) for flag in causes if flag.numel() == done.numel()]
            if any(bool((flag & ~done).any()) for flag in raised):
                self._tell(
                    next_key(group.done),
                    "is false where the episode was terminated or truncated",
                    expected="done = terminated | truncated",
                    hint="Leave 'done' out of what _step() returns: it follows from the others.",
                )
            elif len(raised) == 2 and bool((done & ~raised[0] & ~raised[1]).any()):
                self._tell(
                    next_key(group.done),
                    "is true where the episode was neither terminated nor truncated",
                    expected="done = terminated | truncated",
                    hint="Leave 'done' out of what _step() returns: it follows from the others.",
                )

    def _tell(self, key: Any, fact: str, **facts: Any) -> None:
        self.problems.setdefault((key, fact), describe(self.env, fact, key=key, **facts))


def _state(value: Tensor) -> tuple[Tensor, int]:
    return value.clone(), 0 if value.is_inference() else value._version


def _parts(record: Any) -> dict[Any, Any]:
    lazy = isinstance(record, LazyStackedTensorDict)
    return dict(enumerate(record.tensordicts)) if lazy else dict(record.items())


def _is_written(value: Tensor, copy: Tensor, version: int) -> bool:
    now = 0 if value.is_inference() else value._version
    return now != version or not same_content(value, copy)
