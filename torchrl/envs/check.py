"""What an environment promises against what it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl._core.errors import (
    DTypeError,
    MissingKeyError,
    ShapeError,
    SpecError,
    describe,
    nearest,
)
from torchrl._core.keys import next_key
from torchrl._core.log import logger
from torchrl.envs.hook_watch import HookWatch
from torchrl.envs.partial_reset import entry_names
from torchrl.envs.spec_access import leaf_names
from torchrl.envs.step_plan import differs_within

if TYPE_CHECKING:
    from torchrl.data import TensorSpec
    from torchrl.envs.common import EnvBase


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
        return_contiguous: Handed to ``rollout``; by default a lazy stack is accepted.
        check_dtype: Compare dtypes as well as shapes.
        seed: Seeds the environment first, if given.
        tensordict: Handed to the first reset.
        break_when_any_done: Handed to ``rollout``; ``"both"`` tries both.

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
                    3,
                    break_when_any_done=mode,
                    return_contiguous=bool(return_contiguous),
                    tensordict=tensordict,
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
        raise SpecCheckError(
            f"{type(env).__name__} does not keep to its specs:\n- " + "\n- ".join(problems.values())
        )
    logger.info("check_env_specs succeeded!")


def _deviations(env: EnvBase, step: TensorDictBase, check_dtype: bool) -> list[str]:
    promised, present = set(entry_names(env.fake_tensordict())), set(entry_names(step))
    states = {next_key(key) for key in env.state_keys}  # a step may hand over the next state
    found = [_absent(key, present - promised) for key in sorted(promised - present, key=str)]
    found += [
        _unpromised(key, promised - present)
        for key in sorted(present - promised - states, key=str)
        if not _is_private(key)
    ]
    specs, following = env._get_specs(), step.get("next")
    sides = (
        ((), step, ("action", "state", "observation", "done")),
        (("next",), following, ("observation", "reward", "done")),
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


def _is_private(key: NestedKey) -> bool:
    return any(str(part).startswith("_") for part in ((key,) if isinstance(key, str) else key))


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
        "name that begins with '_' is private.".lstrip(),
    )


def _differs(
    env: EnvBase, entry: NestedKey, group: str, spec: TensorSpec, value: Tensor, check_dtype: bool
) -> list[str]:
    """Return how a value differs from its spec, at most one way."""

    def told(fact: str, expected: Any, found: Any, hint: str) -> list[str]:
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
    complaint = _without_mask(spec).complaint(value)
    if complaint is None:
        return []
    expected, found = _told(str(complaint))
    hint = f"Widen {group}_spec, or keep to it; spec.project(value) brings values back."
    return told("lies outside of its spec", expected, found, hint)


def _without_mask(spec: TensorSpec) -> TensorSpec:
    """Return a spec that any step of the rollout obeys: a mask is that of the last one."""
    if getattr(spec, "mask", None) is None:
        return spec
    free: Any = spec.clone()
    free.update_mask(None)
    return free


def _told(complaint: str) -> tuple[str, str]:
    """Return what a spec's complaint says was expected and found."""
    _, _, facts = complaint.partition("; expected ")
    expected, _, found = facts.partition(", found ")
    return expected, found.split(". ")[0]
