"""Picklable constructors of environments."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import cloudpickle

from torchrl.envs.base import EnvBase
from torchrl.envs.metadata import EnvMeta, build, meta_of
from torchrl.envs.shared_statistics import SharedStatistics


class EnvCreator:
    """A constructor and its arguments, callable and picklable, lambdas and closures included.

    Args:
        create_env_fn: Builds an environment.
        create_env_kwargs: Its keyword arguments.
        share_memory: Whether all environments of this constructor, its variants, and their copies
            in other processes share the running statistics of transforms such as
            :class:`~torchrl.envs.VecNorm`.
        kwargs: More of its keyword arguments.

    >>> from torchrl.envs import GymEnv
    >>> creator = EnvCreator(lambda **kw: GymEnv("CartPole-v1", **kw))
    >>> creator.make_variant(num_envs=2)().batch_size
    torch.Size([2])
    """

    def __init__(
        self,
        create_env_fn: Callable[..., EnvBase],
        create_env_kwargs: dict[str, object] | None = None,
        share_memory: bool = True,
        **kwargs: Any,
    ) -> None:
        statistics: SharedStatistics | None = None
        if isinstance(create_env_fn, EnvCreator):
            statistics = create_env_fn._statistics
            create_env_kwargs = {**create_env_fn.create_env_kwargs, **(create_env_kwargs or {})}
            share_memory &= create_env_fn.share_memory
            create_env_fn = create_env_fn.create_env_fn
        if isinstance(create_env_fn, EnvBase) or not callable(create_env_fn):
            raise TypeError(
                "EnvCreator: expected a function that builds an environment, found "
                f"{type(create_env_fn).__name__}. Write EnvCreator(lambda: env)."
            )
        self.create_env_fn: Callable[..., EnvBase] = create_env_fn
        self.create_env_kwargs: dict[str, object] = {**(create_env_kwargs or {}), **kwargs}
        self.share_memory: bool = share_memory
        self._meta: EnvMeta | None = None
        # Created before any environment, so that copies of the constructor share it.
        self._statistics: SharedStatistics | None = (statistics or SharedStatistics()) if share_memory else None

    def make_variant(self, **kwargs: Any) -> EnvCreator:
        """Return a constructor with some arguments replaced."""
        return EnvCreator(self, kwargs, share_memory=self.share_memory)

    def __call__(self, **kwargs: Any) -> Any:
        """Build an environment."""
        env = self.create_env_fn(**{**self.create_env_kwargs, **kwargs})
        if self._statistics is not None:
            self._statistics.bind(env)
        return env

    @property
    def meta_data(self) -> EnvMeta:
        """Specs, batch size and device of the environment, read from one that is built and closed.

        It is built once; copies keep the result.

        Raises:
            TypeError: if something else than an environment is built.
        """
        if self._meta is None:
            env = build(partial(self.create_env_fn, **self.create_env_kwargs))
            try:
                self._meta = meta_of(env)
            finally:
                env.close()
        return self._meta

    def __getstate__(self) -> bytes:
        made_of = (self.create_env_fn, self.create_env_kwargs, self.share_memory)
        return cloudpickle.dumps((*made_of, self._meta, self._statistics))

    def __setstate__(self, state: bytes) -> None:
        self.create_env_fn, self.create_env_kwargs, self.share_memory, *known = cloudpickle.loads(state)
        self._meta, self._statistics = known

    def __repr__(self) -> str:
        return f"EnvCreator({self.create_env_fn}, {self.create_env_kwargs})"


def env_creator(function: Callable[..., EnvBase]) -> EnvCreator:
    """Return an :class:`EnvCreator` of a function; its decorator form.

    Args:
        function: Builds an environment.

    >>> from torchrl.envs import GymEnv
    >>> @env_creator
    ... def cartpole():
    ...     return GymEnv("CartPole-v1")
    >>> type(cartpole).__name__, cartpole().batch_size
    ('EnvCreator', torch.Size([]))
    """
    return EnvCreator(function)
