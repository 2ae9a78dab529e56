"""Recipes for environments that travel to other processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cloudpickle

from torchrl.envs.common import EnvBase
from torchrl.envs.metadata import EnvMeta, build, meta_of


class EnvCreator:
    """A constructor and its arguments, callable and picklable, lambdas and closures included.

    Args:
        create_env_fn: Builds an environment.
        create_env_kwargs: Its keyword arguments.
        kwargs: More of them.

    >>> from torchrl.envs import GymEnv
    >>> creator = EnvCreator(lambda **kw: GymEnv("CartPole-v1", **kw))
    >>> creator.make_variant(num_envs=2)().batch_size
    torch.Size([2])
    """

    def __init__(
        self,
        create_env_fn: Callable[..., Any],
        create_env_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(create_env_fn, EnvCreator):
            kwargs = {**create_env_fn.create_env_kwargs, **kwargs}
            create_env_fn = create_env_fn.create_env_fn
        if isinstance(create_env_fn, EnvBase) or not callable(create_env_fn):
            raise TypeError(
                "EnvCreator: expected a function that builds an environment, found "
                f"{type(create_env_fn).__name__}. Write EnvCreator(lambda: env)."
            )
        self.create_env_fn: Callable[..., Any] = create_env_fn
        self.create_env_kwargs: dict[str, Any] = {**(create_env_kwargs or {}), **kwargs}
        self._meta: EnvMeta | None = None

    def make_variant(self, **kwargs: Any) -> EnvCreator:
        """Return a recipe with some arguments replaced."""
        return EnvCreator(self.create_env_fn, {**self.create_env_kwargs, **kwargs})

    def __call__(self, **kwargs: Any) -> Any:
        """Build an environment."""
        return self.create_env_fn(**{**self.create_env_kwargs, **kwargs})

    @property
    def meta_data(self) -> EnvMeta:
        """Specs, batch size and device of the environment; one is built, and closed, to find out.

        It is built once, and what was found travels along.

        Raises:
            TypeError: if something else than an environment is built.
        """
        if self._meta is None:
            env = build(self)
            try:
                self._meta = meta_of(env)
            finally:
                env.close()
        return self._meta

    def __getstate__(self) -> bytes:
        return cloudpickle.dumps((self.create_env_fn, self.create_env_kwargs, self._meta))

    def __setstate__(self, state: bytes) -> None:
        self.create_env_fn, self.create_env_kwargs, self._meta = cloudpickle.loads(state)

    def __repr__(self) -> str:
        return f"EnvCreator({self.create_env_fn}, {self.create_env_kwargs})"


def env_creator(function: Callable[..., Any]) -> EnvCreator:
    """Turn a constructor into a recipe; the decorator form of :class:`EnvCreator`."""
    return EnvCreator(function)
