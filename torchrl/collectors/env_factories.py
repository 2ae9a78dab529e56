"""What collectors build their environments from: environments, functions, lists of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from torchrl._core.mdp import last_name
from torchrl.envs.base import EnvBase
from torchrl.envs.batched import BatchedEnvBase
from torchrl.envs.policy_needs import transforms_for
from torchrl.envs.transforms import Compose, StepCounter, TransformedEnv

Device = torch.device | str | int | None
Factory = EnvBase | Callable[..., EnvBase]


def build_env(recipe: Factory, kwargs: Mapping[str, Any] | None, device: Device) -> EnvBase:
    """Return the environment that ``recipe`` is or builds, where it should live.

    Raises:
        TypeError: if it is none.
    """
    is_function = not isinstance(recipe, EnvBase) and callable(recipe)
    env = recipe(**(kwargs or {})) if is_function else recipe
    if not isinstance(env, EnvBase):
        hint = "Wrap a gymnasium environment in GymWrapper."
        if isinstance(env, str):
            hint = f"GymEnv({env!r}) makes a gymnasium environment by its name."
        raise TypeError(
            f"Collector: expected create_env_fn to be or to build an EnvBase, found {type(env).__name__}. {hint}"
        )
    return env if device is None else env.to(device)


def with_limit(env: EnvBase, max_steps: int | None) -> EnvBase:
    """Return ``env`` with episodes of at most ``max_steps``, if that is a positive number.

    Raises:
        ValueError: if its steps are counted already.
    """
    if max_steps is None or max_steps <= 0:
        return env
    if any(last_name(key) == "step_count" for key in env.observation_keys):
        raise ValueError(
            "Collector: max_frames_per_traj counts steps under 'step_count', which the environment "
            "has already; give its StepCounter max_steps instead."
        )
    return TransformedEnv(env, StepCounter(max_steps=max_steps), auto_unwrap=False)


def with_needs_of(policy: Any, env: EnvBase) -> EnvBase:
    """Return ``env`` with what ``policy`` reads and no environment writes by itself.

    These are the flag of first steps and recurrent states; what is there already is left alone.

    >>> from torchrl.envs import GymEnv
    >>> from torchrl.modules import GRUModule
    >>> gru = GRUModule(3, 4, in_key="observation", out_key="hidden")
    >>> sorted(with_needs_of(gru, GymEnv("Pendulum-v1")).observation_keys)
    ['is_init', 'observation', 'recurrent_state']
    """
    needs = list(transforms_for(policy, env)) if isinstance(policy, nn.Module) else []
    return TransformedEnv(env, Compose(*needs), auto_unwrap=False) if needs else env


def one_each(owner: str, recipes: Factory | Sequence[Factory], count: int | None) -> list[Factory]:
    """Return what each of ``count`` workers builds its environment from.

    Raises:
        ValueError: if there are fewer or more recipes than workers, or no workers.
    """
    if count is not None and count < 1:
        raise ValueError(f"{owner}: num_workers must be at least 1, found {count}.")
    if isinstance(recipes, EnvBase) or callable(recipes):
        return [recipes] * (1 if count is None else count)
    each = list(recipes)
    if len(each) == 1 and count is not None:
        each = each * count
    if not each or count not in (None, len(each)):
        raise ValueError(f"{owner}: expected one create_env_fn for each of {count or 1} workers, found {len(each)}.")
    return each


def layers(env: EnvBase) -> Iterator[EnvBase]:
    """Yield an environment and those that it wraps; the innermost comes last."""
    inner: Any = env
    while isinstance(inner, EnvBase):
        yield inner
        if isinstance(inner, BatchedEnvBase):
            return  # it would ask its workers for theirs
        inner = getattr(inner, "base_env", None)


def without_workers(recipe: Factory) -> Factory:
    """Return a recipe that holds no workers of another process, whatever ``recipe`` holds."""
    if isinstance(recipe, EnvBase) and isinstance([*layers(recipe)][-1], BatchedEnvBase):
        return copy.deepcopy(recipe)  # a recipe itself
    return recipe


def in_a_worker(recipe: Factory) -> Factory:
    """Return a recipe for an environment that no other process steps."""
    own = without_workers(recipe)
    if own is recipe and isinstance(recipe, EnvBase):
        recipe.set_seed(int(torch.randint(2**31, ())))  # copies of one must differ
    return own


def materialize(policy: nn.Module, recipe: Factory, kwargs: Mapping[str, Any] | None) -> None:
    """Give lazy layers their shapes, so that all workers start with the same weights."""
    if not any(nn.parameter.is_lazy(p) for p in (*policy.parameters(), *policy.buffers())):
        return
    given = isinstance(recipe, EnvBase)
    env: Any = recipe if given else recipe(**(kwargs or {}))
    try:
        with torch.no_grad():
            policy(with_needs_of(policy, env).fake_tensordict().exclude("next"))
    finally:
        if not given:
            env.close()
