"""Methods of :class:`EnvBase` that build on other environments and on transforms.

:mod:`torchrl.envs.base` is below transforms and batched environments and cannot import them. What
needs them is written here and set on the class at the end of this file, which
``torchrl/envs/__init__.py`` imports.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torchrl.envs.base import EnvBase
from torchrl.envs.batched import ParallelEnv
from torchrl.envs.check import check_env_specs
from torchrl.envs.libs.gym.register import register_gym
from torchrl.envs.policy_needs import transforms_for
from torchrl.envs.transforms import AutoResetEnv, AutoResetTransform, Compose, TransformedEnv


def _append_transform(self: EnvBase, transform: Any) -> EnvBase:
    """Return this environment wrapped in ``transform``."""
    return TransformedEnv(self, transform)


def _check_env_specs(self: EnvBase, *args: Any, **kwargs: Any) -> None:
    """Compare what the environment does with its specs; see :func:`~.check_env_specs`."""
    check_env_specs(self, *args, **kwargs)


def _make_parallel(cls: type[EnvBase], create_env_fn: Any, *, num_envs: int = 1, **parallel_kwargs: Any) -> ParallelEnv:
    """Return a :class:`~torchrl.envs.ParallelEnv` of ``num_envs`` environments.

    Args:
        cls: Any class of environments.
        create_env_fn: Builds one.
        num_envs: How many, each in a worker.
        parallel_kwargs: Those of :class:`~torchrl.envs.ParallelEnv`.
    """
    return ParallelEnv(num_envs, create_env_fn, **parallel_kwargs)


def _register_gym(
    cls: type[EnvBase], id: str, *, entry_point: Callable[..., EnvBase] | None = None, **options: Any
) -> None:
    """Register this class under a name of gymnasium.

    Args:
        cls: The class.
        id: The name.
        entry_point: Builds the environment; the class does if ``None``.
        options: As in :func:`torchrl.envs.libs.gym.register_gym`: ``transform``, ``info_keys``,
            ``max_episode_steps`` and so on; all others are keywords of the environment.
    """
    register_gym(cls if entry_point is None else entry_point, id, **options)


def _apply_options(
    self: EnvBase,
    *,
    spec_locked: bool | None = None,
    auto_reset: bool = False,
    auto_reset_replace: bool = True,
    compile: bool | dict[str, Any] = False,
    policy: Any = None,
) -> None:
    """Change an environment in place.

    Args:
        self: The environment.
        spec_locked: Refuse edits inside the specs.
        auto_reset: As in :class:`EnvBase`; here only for a :class:`TransformedEnv`.
        auto_reset_replace: As in :class:`EnvBase`.
        compile: Compile its steps and resets; keywords of :func:`torch.compile`, or ``True``.
        policy: Append the transforms that a recurrent policy needs, see :func:`transforms_for`;
            only for a :class:`TransformedEnv`.
    """
    if spec_locked is not None and spec_locked != self._spec_locked:
        self.set_spec_lock_(spec_locked)
    if auto_reset:
        self.append_transform(AutoResetTransform(replace=auto_reset_replace))
    if compile:
        self.compile(**(compile if isinstance(compile, dict) else {}))
    for transform in () if policy is None else transforms_for(policy, self):
        self.append_transform(transform)


def _with_needs_of(self: EnvBase, policy: Any) -> EnvBase:
    """Return this environment wrapped in the transforms that a policy needs."""
    return TransformedEnv(self, Compose(*transforms_for(policy, self)), auto_unwrap=False)


def _resetting_itself(self: EnvBase, replace: bool) -> EnvBase:
    """Return this environment, which resets itself within a step, as one that ``reset()`` resets."""
    return AutoResetEnv(self, replace=replace)


# Set here: these need what is built on EnvBase.
METHODS: dict[str, Any] = {
    "append_transform": _append_transform,
    "check_env_specs": _check_env_specs,
    "make_parallel": classmethod(_make_parallel),
    "register_gym": classmethod(_register_gym),
    "_apply_options": _apply_options,
    "_with_needs_of": _with_needs_of,
    "_resetting_itself": _resetting_itself,
}
for _name, _method in METHODS.items():
    setattr(EnvBase, _name, _method)
