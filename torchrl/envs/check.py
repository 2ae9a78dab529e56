"""What an environment promises against what it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl._core.errors import DTypeError, MissingKeyError, ShapeError, SpecError
from torchrl._core.log import logger
from torchrl.envs.partial_reset import entry_names
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

    Args:
        env: The environment.
        return_contiguous: Handed to ``rollout``; by default a lazy stack is accepted.
        check_dtype: Compare dtypes as well as shapes.
        seed: Seeds the environment first, if given.
        tensordict: Handed to the first reset.
        break_when_any_done: Handed to ``rollout``; ``"both"`` tries both.

    Raises:
        SpecCheckError: (an ``AssertionError``) if they differ; it names each entry, what was
            expected and what was found.

    >>> from torchrl.envs import GymEnv
    >>> check_env_specs(GymEnv("CartPole-v1"))
    """
    if seed is not None:
        torch.manual_seed(seed)
        env.set_seed(seed)
    modes = [True, False] if break_when_any_done == "both" else [break_when_any_done]
    problems: dict[str, None] = {}
    for mode in modes:
        try:
            steps = env.rollout(
                3,
                break_when_any_done=mode,  # type: ignore[arg-type]
                return_contiguous=bool(return_contiguous),
                tensordict=tensordict,
            )
        except (DTypeError, MissingKeyError, ShapeError) as error:
            problems[str(error)] = None
            break
        for step in steps.unbind(steps.ndim - 1):
            problems |= dict.fromkeys(_deviations(env, step, check_dtype))
    if problems:
        raise SpecCheckError(
            f"{type(env).__name__} does not keep to its specs:\n- " + "\n- ".join(problems)
        )
    logger.info("check_env_specs succeeded!")


def _deviations(env: EnvBase, step: TensorDictBase, check_dtype: bool) -> list[str]:
    found = []
    expected_keys, keys = set(entry_names(env.fake_tensordict())), set(entry_names(step))
    found += [
        f"entry {key!r}: in the specs, but not in the data; expected among {_texts(keys)}"
        for key in sorted(expected_keys - keys, key=str)
    ]
    found += [
        f"entry {key!r}: in the data, but not in the specs; add it to a spec or leave it out"
        for key in sorted(keys - expected_keys, key=str)
        if not _is_private(key)
    ]
    following = step.get("next")
    specs = env._get_specs()
    for group in ("action", "state", "observation", "done"):
        found += _compare(step, (), specs[group], group, check_dtype, env.batch_locked)
    for group in ("observation", "reward", "done"):
        found += _compare(following, ("next",), specs[group], group, check_dtype, env.batch_locked)
    return found


def _is_private(key: NestedKey) -> bool:
    return any(str(part).startswith("_") for part in ((key,) if isinstance(key, str) else key))


def _texts(keys: set[NestedKey]) -> list[str]:
    return sorted(map(str, keys))


def _compare(
    record: Any, path: tuple[str, ...], specs: Any, group: str, check_dtype: bool, locked: bool
) -> list[str]:
    found = []
    for key in specs.keys(True, True):
        spec = specs[key]
        value = None if differs_within(record, key, spec) else record.get(key, None)
        if isinstance(value, Tensor):
            name = (*path, *((key,) if isinstance(key, str) else key))
            fact = _differs(value, spec, check_dtype, locked)
            if fact:
                found.append(
                    f"entry {(name[0] if len(name) == 1 else name)!r} ({group}_spec): {fact}"
                )
    return found


def _differs(value: Tensor, spec: TensorSpec, check_dtype: bool, locked: bool) -> str:
    shape = value.shape if locked else value.shape[value.ndim - len(spec.shape) :]
    if shape != spec.shape and -1 not in spec.shape:
        return f"expected shape {tuple(spec.shape)}, found {tuple(value.shape)}"
    if value.dtype != spec.dtype:
        return f"expected dtype {spec.dtype}, found {value.dtype}" if check_dtype else ""
    if not _without_mask(spec).is_in(value):
        return f"found a value outside of its spec {spec}: {value}"
    return ""


def _without_mask(spec: TensorSpec) -> TensorSpec:
    """Return a spec that any step of the rollout obeys: a mask is that of the last one."""
    if getattr(spec, "mask", None) is None:
        return spec
    free: Any = spec.clone()
    free.update_mask(None)
    return free
