"""Hooks of an environment under ``torch.compile``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from torchrl._core.records.flat_record import FlatRecord, Record, nested_tensordict

if TYPE_CHECKING:
    from torchrl.envs.base import EnvBase


class Compiled:
    """A hook of an environment, compiled at its first call; a copy is compiled again.

    Args:
        env: The environment.
        hook: Name of the hook.
        options: Those of :func:`torch.compile`.
    """

    def __init__(self, env: EnvBase, hook: str, options: dict[str, Any]) -> None:
        self.env, self.hook, self.options = env, hook, options
        self.before: Callable[..., Any] | None = env.__dict__.get(hook)
        self._compiled: Callable[..., Any] | None = None

    def __call__(self, record: Record, **kwargs: Any) -> Any:
        if self._compiled is None:
            eager = self.before or partial(getattr(type(self.env), self.hook), self.env)
            self._compiled = torch.compile(eager, **self.options)
        if not isinstance(record, FlatRecord):
            return self._compiled(record, **kwargs)
        env = self.env
        nested = nested_tensordict(record, env.batch_size, env.device, env.compiled_specs.nested)
        return FlatRecord(self._compiled(nested, **kwargs).items(True, True))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": None}


def compile_hooks(env: EnvBase, options: dict[str, Any]) -> None:
    """Compile what an environment computes in a step and a reset.

    Args:
        env: The environment.
        options: Those of :func:`torch.compile`.
    """
    for hook in ("_step", "_reset"):
        env.__dict__[hook] = Compiled(env, hook, options)


def restore_hooks(env: EnvBase) -> None:
    """Undo :func:`compile_hooks`."""
    for hook in ("_step", "_reset"):
        if isinstance(compiled := env.__dict__.get(hook), Compiled):
            env.__dict__.pop(hook)
            if compiled.before is not None:
                env.__dict__[hook] = compiled.before
