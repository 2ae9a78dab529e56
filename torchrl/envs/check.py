"""The check of an environment: whether what it does is what its specs promise."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from tensordict import LazyStackedTensorDict, NestedKey, TensorDictBase
from torch import Tensor

from torchrl._core.errors import DTypeError, MissingKeyError, ShapeError, SpecError, describe, nearest
from torchrl._core.keys import is_private, next_key
from torchrl._core.log import logger
from torchrl._core.records.flat_record import Record
from torchrl._core.records.rows import entry_names
from torchrl._core.records.torch_private import version_of
from torchrl.envs.specs import leaf_names
from torchrl.envs.stepping.compiled_specs import differs_within
from torchrl.envs.stepping.reused_memory import key_of, layers, leaf_tensors, records_in, same_content

if TYPE_CHECKING:
    from torchrl.data import TensorSpec
    from torchrl.envs.base import EnvBase


LEAVE_DONE_OUT = (
    "Leave 'done' out of what _step() returns, as it follows from the others; in a transform that sets one of "
    'them, call next_td.pop("done").'
)


class SpecCheckError(SpecError, AssertionError):
    """An environment does not keep to its specs; the message lists every deviation."""


def check_env_specs(
    env: EnvBase,
    return_contiguous: bool | None = None,
    check_dtype: bool = True,
    seed: int | None = None,
    tensordict: TensorDictBase | None = None,
    break_when_any_done: bool | str | None = None,
) -> None:
    """Run a short random rollout and compare it with ``fake_tensordict`` and the specs.

    It also finds what rollouts protect their steps from and a loop over ``env.step`` does not:
    memory that is returned and written again, an action that is edited, flags that contradict
    each other.

    Args:
        env: The environment.
        return_contiguous: Passed to ``rollout``; by default a lazy stack is accepted.
        check_dtype: Compare dtypes as well as shapes.
        seed: Seeds the environment first, if given.
        tensordict: Passed to the first reset.
        break_when_any_done: Passed to ``rollout``; ``"both"`` tries both.

    Raises:
        SpecCheckError: (an ``AssertionError``) if they differ; it names each entry, what was
            expected, what was found and how to fix it.

    >>> from torchrl.envs import GymEnv
    >>> check_env_specs(GymEnv("CartPole-v1"))
    """
    if seed is not None:
        torch.manual_seed(seed)
        env.set_seed(seed)
    modes: list[Any] = [True, False] if break_when_any_done == "both" else [break_when_any_done]
    problems: dict[str, str] = {}
    for mode in modes:
        watch = HookWatch(env)
        try:
            with watch:
                steps = env.rollout(
                    3, break_when_any_done=mode, return_contiguous=bool(return_contiguous), tensordict=tensordict
                )
        except (DTypeError, MissingKeyError, ShapeError, SpecError) as error:
            problems[""] = str(error)
            break
        finally:
            for text in watch.problems.values():
                problems.setdefault(text.partition(";")[0], text)
        for step in steps.unbind(steps.ndim - 1):
            for text in _deviations(env, step, check_dtype):
                problems.setdefault(text.partition(";")[0], text)  # each entry once
    if problems:
        raise SpecCheckError(f"{type(env).__name__} does not keep to its specs:\n- " + "\n- ".join(problems.values()))
    logger.info("check_env_specs succeeded!")


def _deviations(env: EnvBase, step: TensorDictBase, check_dtype: bool) -> list[str]:
    promised, present = set(entry_names(env.fake_tensordict())), set(entry_names(step))
    states = {next_key(key) for key in env.state_keys}  # a step may return the next state
    found = [_absent(key, present - promised) for key in sorted(promised - present, key=str)]
    unpromised = sorted(present - promised - states, key=str)
    found += [_unpromised(key, promised - present) for key in unpromised if not is_private(key)]
    specs, next_root = env._get_specs(), step.get("next")
    sides = (
        ((), step, ("action", "state", "observation", "done")),
        (("next",), next_root, ("observation", "reward", "done")),
    )
    for path, record, groups in sides:
        for group in groups:
            for key in leaf_names(specs[group]):
                spec = specs[group][key]
                value = None if differs_within(record, key, spec) else record.get(key, None)
                if isinstance(value, Tensor):
                    name = (*path, *((key,) if isinstance(key, str) else key))
                    entry = name[0] if len(name) == 1 else name
                    found += _differs(env, entry, group, spec, value, check_dtype)
    return found


def _absent(key: NestedKey, others: set[NestedKey]) -> str:
    hook = "_step()" if key[0] == "next" else "_reset(), and carry it on"
    return describe(
        f"entry {key!r}",
        "is in the specs, but not in the data",
        expected="an entry of that name",
        found=sorted(others, key=str) or None,
        hint=f"{nearest(key, others)} Return it from {hook}, or take it out of its spec.".lstrip(),
    )


def _unpromised(key: NestedKey, others: set[NestedKey]) -> str:
    return describe(
        f"entry {key!r}",
        "is in the data, but not in the specs",
        expected=sorted(others, key=str) or "no such entry",
        hint=f"{nearest(key, others)} Add it to observation_spec or state_spec, or leave it out; a "
        "name with a leading '_' is private.".lstrip(),
    )


def _differs(
    env: EnvBase, entry: NestedKey, group: str, spec: TensorSpec, value: Tensor, check_dtype: bool
) -> list[str]:
    """Return how a value differs from its spec, at most one way."""

    def told(fact: str, expected: object, found: object, hint: str) -> list[str]:
        who = f"entry {entry!r} ({group}_spec)"
        return [describe(who, fact, expected=expected, found=found, hint=hint)]

    own = value.shape if env.batch_locked else value.shape[value.ndim - len(spec.shape) :]
    if own != spec.shape and -1 not in spec.shape:
        hint = f"Return that shape, or fix {group}_spec."
        if value.numel() == spec.shape.numel():
            hint = f"Call reshape{tuple(spec.shape)} before it is returned, or fix {group}_spec."
        return told("has another shape", tuple(spec.shape), tuple(value.shape), hint)
    if value.dtype != spec.dtype:
        hint = f"Call to({spec.dtype}) before it is returned, or fix {group}_spec."
        if (value.dtype, spec.dtype) == (torch.float64, torch.float32):
            hint += " DoubleToFloat() casts on the way out."
        return told("has another dtype", spec.dtype, value.dtype, hint) if check_dtype else []
    error_report = _without_mask(spec).error_report(value)
    if error_report is None:
        return []
    _, _, facts = str(error_report).partition("; expected ")
    expected, _, found = facts.partition(", found ")
    hint = f"Widen {group}_spec, or keep to it; spec.project(value) brings values back."
    return told("lies outside of its spec", expected, found.split(". ")[0], hint)


def _without_mask(spec: TensorSpec) -> TensorSpec:
    """Return a spec that any step of the rollout obeys: a mask is that of the last one."""
    if getattr(spec, "mask", None) is None:
        return spec
    free: Any = spec.clone()
    free.update_mask(None)
    return free


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
        self.problems: dict[object, str] = {}
        self._levels: list[_Level] = []

    def __enter__(self) -> HookWatch:
        self._levels = [_Level(env) for env in layers(self.env)]
        return self

    def __exit__(self, *_: object) -> None:
        while self._levels:
            level = self._levels.pop()
            level.restore()
            for what, text in level.problems.items():
                self.problems.setdefault(what, text)


class _Level:
    """The hooks of one environment."""

    def __init__(self, env: EnvBase) -> None:
        self.env = env
        self.problems: dict[object, str] = {}
        self._held: list[tuple[NestedKey, Tensor]] = []
        self._records: list[TensorDictBase] = []  # that were returned
        self._before = {name: env.__dict__.get(name) for name in ("_step", "_reset")}
        env.__dict__.update(_step=self._around("_step"), _reset=self._around("_reset"))

    def restore(self) -> None:
        for name, hook in self._before.items():
            self.env.__dict__.pop(name)
            if hook is not None:
                self.env.__dict__[name] = hook

    def _around(self, name: str) -> Callable[..., object]:
        hook = getattr(self.env, name)
        side = ("next",) if name == "_step" else ()

        def watched(record: Record, *args: object, **kwargs: object) -> Record:
            held = [(key, value, *_state(value)) for key, value in self._held]
            records = [(record, _parts(record)) for record in self._records]
            given = {} if record is None else {path: (x, *_state(x)) for path, _, _, x in leaf_tensors(record)}
            result = hook(record, *args, **kwargs)
            self._look_at_held(held)
            self._look_at_records(name, records, record)
            if record is not None:
                self._look_at_given(name, record, given)
            self._look_at_result(name, side, result)
            return result

        return watched

    def _look_at_held(self, held: list[tuple[NestedKey, Tensor, Tensor, int]]) -> None:
        for key, value, copy, version in held:
            if _is_written(value, copy, version):
                self._tell(
                    key,
                    "lies in memory that is written again: an earlier step changes with it",
                    expected="a tensor of its own for each step",
                    hint="Return a clone() of it. Rollouts copy it; a loop over env.step() does not.",
                )

    def _look_at_records(self, name: str, records: list[tuple[Any, dict[object, object]]], given: Record) -> None:
        for record, before in records:
            now = _parts(record)
            changed = {key for key in now.keys() | before.keys() if now.get(key) is not before.get(key)}
            if record is given:  # a transform may write state into the root, such as the action that was taken
                changed -= {
                    key if isinstance(key, str) else key[0] for key in self.env.full_state_spec.keys(True, True)
                }
            if changed:
                self._tell(
                    None,
                    f"writes in {name}() into a tensordict that it returned earlier",
                    expected="a new one for each step",
                    hint="Build it in each call, or return a copy(). Rollouts copy it; a loop over "
                    "env.step() does not.",
                )

    def _look_at_given(self, name: str, record: Any, given: dict[Any, Any]) -> None:
        after = {path: value for path, _, _, value in leaf_tensors(record)}
        actions = {k if isinstance(k, tuple) else (k,) for k in self.env.compiled_specs.action_keys}
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

    def _look_at_result(self, name: str, side: tuple[str, ...], result: Record) -> None:
        if result is None or not hasattr(result, "items"):
            return
        self._records += records_in(result)
        for path, _, _, value in leaf_tensors(result):
            key = key_of(path)
            names = (*side, *((key,) if isinstance(key, str) else key))
            self._held.append((names[0] if len(names) == 1 else names, value))
        if side:
            self._look_at_flags(result)

    def _look_at_flags(self, result: Record) -> None:
        for group in self.env.compiled_specs.groups:
            done, terminated, truncated = (
                flag if isinstance(flag, Tensor) and flag.dtype == torch.bool else None
                for flag in (result.get(key, None) for key in (group.done, group.terminated, group.truncated))
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
                    hint=LEAVE_DONE_OUT,
                )
            elif len(raised) == 2 and bool((done & ~raised[0] & ~raised[1]).any()):
                self._tell(
                    next_key(group.done),
                    "is true where the episode was neither terminated nor truncated",
                    expected="done = terminated | truncated",
                    hint=LEAVE_DONE_OUT,
                )

    def _tell(self, key: object, fact: str, **facts: Any) -> None:
        self.problems.setdefault((key, fact), describe(self.env, fact, key=key, **facts))


def _state(value: Tensor) -> tuple[Tensor, int]:
    return value.clone(), version_of(value)


def _parts(record: TensorDictBase) -> dict[object, object]:
    lazy = isinstance(record, LazyStackedTensorDict)
    return dict(enumerate(record.tensordicts)) if lazy else dict(record.items())


def _is_written(value: Tensor, copy: Tensor, version: int) -> bool:
    return version_of(value) != version or not same_content(value, copy)
