"""Collectors whose workers each step several environments at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torchrl._core.errors import describe
from torchrl.collectors.multi import MultiAsyncCollector, MultiSyncCollector
from torchrl.envs import EnvBase, ParallelEnv

Factory = Callable[..., EnvBase]
Kwargs = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None


def _groups(
    owner: str, env_fns: Factory | Sequence[Factory], env_kwargs: Kwargs, size: int | None, count: int | None
) -> list[Factory]:
    """Return what each collector builds its environments from.

    Raises:
        ValueError: if the numbers do not fit.
    """
    if callable(env_fns):
        size, count = size or 1, count or 1
        fns = [env_fns] * (size * count)
    else:
        fns = list(env_fns)
        if size is None and count is None:
            size, count = 1, len(fns)
        size = size or -(-len(fns) // int(count or 1))
        count = count or -(-len(fns) // size)
    is_shared = env_kwargs is None or isinstance(env_kwargs, Mapping)
    kwargs: Any = [env_kwargs or {}] * len(fns) if is_shared else list(env_kwargs or ())
    if not fns or size * count != len(fns) or len(kwargs) != len(fns):
        expected = f"{size} x {count} environments, each with its arguments"
        raise ValueError(describe(owner, "cannot form its groups", expected=expected, found=(len(fns), len(kwargs))))
    made = [partial(fn, **each) for fn, each in zip(fns, kwargs, strict=True)]
    if size == 1:
        return list(made)
    return [partial(ParallelEnv, size, made[i : i + size]) for i in range(0, len(made), size)]


def sync_async_collector(
    env_fns: Factory | Sequence[Factory],
    env_kwargs: Kwargs = None,
    num_env_per_collector: int | None = None,
    num_collectors: int | None = None,
    **kwargs: Any,
) -> MultiAsyncCollector:
    """Return a :class:`MultiAsyncCollector` whose workers each step several environments in parallel.

    Args:
        env_fns: Function that builds an environment, or one for each of them.
        env_kwargs: Its arguments, or those of each.
        num_env_per_collector: Environments of each worker.
        num_collectors: Number of workers.
        **kwargs: Of the collector.

    Raises:
        ValueError: if the number of functions is not that of the environments.
    """
    fns = _groups("sync_async_collector", env_fns, env_kwargs, num_env_per_collector, num_collectors)
    return MultiAsyncCollector(fns, **kwargs)


def sync_sync_collector(
    env_fns: Factory | Sequence[Factory],
    env_kwargs: Kwargs = None,
    num_env_per_collector: int | None = None,
    num_collectors: int | None = None,
    **kwargs: Any,
) -> MultiSyncCollector:
    """Return a :class:`MultiSyncCollector` whose workers each step several environments in parallel.

    The arguments are those of :func:`sync_async_collector`.
    """
    fns = _groups("sync_sync_collector", env_fns, env_kwargs, num_env_per_collector, num_collectors)
    return MultiSyncCollector(fns, **kwargs)
