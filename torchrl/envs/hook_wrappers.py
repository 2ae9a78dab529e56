"""What takes the place of the hooks of one environment, and calls them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from torchrl._core.entries import Entries, nested_tensordict


class Compiled:
    """A hook of an environment, compiled at its first call; a copy is compiled anew.

    Args:
        env: The environment.
        hook: Name of the hook.
        options: Those of :func:`torch.compile`.
    """

    def __init__(self, env: Any, hook: str, options: dict[str, Any]) -> None:
        self.env, self.hook, self.options = env, hook, options
        self.before: Callable[..., Any] | None = env.__dict__.get(hook)
        self._compiled: Callable[..., Any] | None = None

    def __call__(self, record: Any, **kwargs: Any) -> Any:
        if self._compiled is None:
            eager = self.before or partial(getattr(type(self.env), self.hook), self.env)
            self._compiled = torch.compile(eager, **self.options)
        if not isinstance(record, Entries):
            return self._compiled(record, **kwargs)
        env = self.env
        nested = nested_tensordict(record, env.batch_size, env.device, env.plan.nested)
        return Entries(self._compiled(nested, **kwargs).items(True, True))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": None}


class AutoReset:
    """Both hooks of an environment that begins anew within the step that ends an episode.

    From outside it then waits to be told, as others do: see
    :class:`~torchrl.envs.AutoResetTransform`.

    Args:
        env: The environment.
        replace: Fill the last observation of an episode, which is not shown.
    """

    def __init__(self, env: Any, *, replace: bool) -> None:
        self.env, self.replace = env, replace
        self._transform: Any = None

    def install(self) -> None:
        """Take the place of the hooks."""
        self.env.__dict__.update(_step=self.step, _reset=self.reset)

    def _seen(self) -> Any:
        """Return what tells the episodes apart; it learns the specs when they are known."""
        if self._transform is None:
            from torchrl.envs.transforms import AutoResetTransform  # noqa: PLC0415 - above us

            self._transform = AutoResetTransform(replace=self.replace)
            self._transform.transform_specs(dict(self.env._get_specs()))
        return self._transform

    def step(self, record: Any) -> Any:
        """Step; keep the beginning of the next episode where one has ended."""
        env = self.env
        following = env.plan.complete_step(type(env)._step(env, record))
        return self._seen()._step(record, following)

    def reset(self, record: Any, **kwargs: Any) -> Any:
        """Return the beginnings that were kept; reset the other rows."""
        env = self.env

        def reset(asked: Any) -> Any:
            return env.plan.complete_reset(type(env)._reset(env, asked, **kwargs))

        return self._seen()._around_reset(reset, None, record)
