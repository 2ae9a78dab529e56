"""One function that chooses among the collectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torchrl.collectors.base import BaseCollector
from torchrl.collectors.multi_async import MultiAsyncCollector
from torchrl.collectors.multi_sync import MultiSyncCollector
from torchrl.collectors.recipes import Factory
from torchrl.collectors.single import Collector


def make_collector(
    create_env_fn: Factory | Sequence[Factory],
    policy: Callable[..., Any] | None = None,
    *,
    num_collectors: int | None = None,
    sync: bool = True,
    **kwargs: Any,
) -> BaseCollector:
    """Return a collector in this process, or several in worker processes.

    Args:
        create_env_fn: The environment, or a function that builds it; a list makes one worker each.
        policy: Writes the action; acts at random if ``None``.
        num_collectors: Number of worker processes; without it, and without a list, collection is in
            this process.
        sync: Whether all workers contribute to each batch, or batches come from one as it is done.
        kwargs: Other arguments of the collector.

    >>> from torchrl.envs import GymEnv
    >>> make_collector(lambda: GymEnv("CartPole-v1"), frames_per_batch=10).next().shape
    torch.Size([10])
    """
    if sync and num_collectors is None and not isinstance(create_env_fn, Sequence):
        return Collector(create_env_fn, policy, **kwargs)
    kind = MultiSyncCollector if sync else MultiAsyncCollector
    return kind(create_env_fn, policy, num_workers=num_collectors, **kwargs)
