"""Keywords that every environment understands, whatever its own constructor takes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torchrl.envs.hook_wrappers import AutoReset

OPTIONS = ("spec_locked", "auto_reset", "auto_reset_replace", "compile", "policy")


class EnvOptions:
    """Lets every subclass answer to :data:`OPTIONS`; mixed into ``EnvBase``."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = accept_options(cls.__init__)  # type: ignore[method-assign]  # decorated

    def __new__(cls, *args: Any, policy: Any = None, **kwargs: Any) -> Any:
        """Make an environment, seen through the transforms that ``policy`` needs."""
        if policy is None or _names(cls.__init__, "policy"):
            return super().__new__(cls)
        from torchrl.envs.transforms import Compose, TransformedEnv  # noqa: PLC0415 - derives from us

        if issubclass(cls, TransformedEnv):  # it has a place for them
            return super().__new__(cls)
        env = cls(*args, **kwargs)
        return TransformedEnv(env, Compose(*transforms_for(policy, env)))


def _names(function: Callable[..., Any], argument: str) -> bool:
    return argument in inspect.signature(function).parameters


def accept_options(init: Callable[..., None]) -> Callable[..., None]:
    """Let a constructor answer to :data:`OPTIONS` that it does not name, when all else is done."""
    foreign = [name for name in OPTIONS if not _names(init, name)]

    @functools.wraps(init)
    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in foreign if name in kwargs}
        init(self, *args, **kwargs)
        if options:
            apply_options(self, **options)

    return construct


def apply_options(
    env: Any,
    *,
    spec_locked: bool | None = None,
    auto_reset: bool = False,
    auto_reset_replace: bool = True,
    compile: bool | dict[str, Any] = False,
    policy: Any = None,
) -> None:
    """Change an environment in place.

    Args:
        env: The environment.
        spec_locked: Refuse edits inside the specs.
        auto_reset: The environment begins anew within the step that ends an episode.
        auto_reset_replace: Fill the last observation of an episode, which such an environment does
            not show, with NaN; otherwise the first of the next one stands in for it.
        compile: Compile its steps and resets; keywords of :func:`torch.compile`, or ``True``.
        policy: Append what a recurrent policy needs, see :func:`transforms_for`; only for an
            environment that is seen through transforms already.
    """
    if spec_locked is not None and spec_locked != env._spec_locked:
        env.set_spec_lock_(spec_locked)
    if auto_reset:
        AutoReset(env, replace=auto_reset_replace).install()
    if compile:
        env.compile(**(compile if isinstance(compile, dict) else {}))
    for transform in () if policy is None else transforms_for(policy, env):
        env.append_transform(transform)


def transforms_for(policy: Any, env: Any) -> list[Any]:
    """Return what an environment must show to a recurrent policy: first steps, initial states.

    That is an ``InitTracker`` for each flag of first steps that the policy reads (``is_init``, or
    what a part of it names as its ``init_key``), and a primer for each part of the policy that has
    a state; without those that the environment has already.
    """
    from torchrl.envs.transforms import InitTracker  # noqa: PLC0415 - it derives from us

    known = set(env.observation_keys)
    reads = getattr(policy, "in_keys", ())
    parts = list(policy.modules()) if hasattr(policy, "modules") else []
    flags = dict.fromkeys(["is_init", *(getattr(part, "init_key", None) for part in parts)])
    found: list[Any] = [
        InitTracker(init_key=flag)
        for flag in flags
        if isinstance(flag, str) and flag in reads and flag not in known
    ]
    for part in parts:
        if (make := getattr(part, "make_tensordict_primer", None)) is not None:
            primer = make()
            states = set(primer.primers.keys(True, True))
            if not states <= known:
                found.append(primer)
                known |= states
    return found
