"""`make_collector`: a collector in this process, or several in workers, by its arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torchrl._core.errors import describe
from torchrl.collectors.base import BaseCollector
from torchrl.collectors.distributed import DistributedSyncCollector, RayCollector
from torchrl.collectors.distributed.ranks import DistributedAsyncCollector
from torchrl.collectors.env_factories import Factory
from torchrl.collectors.multi import MultiAsyncCollector, MultiSyncCollector
from torchrl.collectors.single import BACKENDS, Collector

# Of a backend: the collector whose batches have the shares of all workers, that whose batches are of single workers,
# and what they call the number of workers.
ENGINES: dict[str, tuple[Callable[..., BaseCollector], Callable[..., BaseCollector], str]] = {
    "process": (MultiSyncCollector, MultiAsyncCollector, "num_workers"),
    "ray": (partial(RayCollector, sync=True), partial(RayCollector, sync=False), "num_collectors"),
    "distributed": (DistributedSyncCollector, DistributedAsyncCollector, "num_workers"),
}


def make_collector(
    create_env_fn: Factory | Sequence[Factory],
    policy: Callable[..., object] | None = None,
    *,
    num_collectors: int | None = None,
    sync: bool = True,
    backend: str | None = None,
    **kwargs: Any,
) -> BaseCollector:
    """Return a collector in this process, or several in workers.

    Args:
        create_env_fn: The environment, or a function that builds it; a list starts a worker
            for each.
        policy: Writes the action; actions are random if ``None``.
        num_collectors: Number of workers; without it, without a list and a backend, the collector runs in this
            process.
        sync: Whether all workers contribute to each batch, or each batch comes from one worker.
        backend: What workers are: ``"process"``, processes of this machine, the default; ``"ray"``, actors, see
            :class:`~torchrl.collectors.distributed.RayCollector`; ``"distributed"``, ranks, see
            :class:`~torchrl.collectors.distributed.DistributedCollector`.
            ``"direct"`` is this process.
        kwargs: Other arguments of the collector.

    Raises:
        ValueError: for another backend, or workers in this process.

    >>> from torchrl.envs import GymEnv
    >>> make_collector(lambda: GymEnv("CartPole-v1"), frames_per_batch=10).next().shape
    torch.Size([10])
    """
    is_one = sync and num_collectors is None and not isinstance(create_env_fn, Sequence)
    if backend == "direct" or (backend is None and is_one):
        if not is_one or isinstance(create_env_fn, Sequence):
            raise ValueError("make_collector: backend='direct' is one collector; leave num_collectors and sync out.")
        return Collector(create_env_fn, policy, **kwargs)
    if (backend or "process") not in ENGINES:
        raise ValueError(describe("make_collector", "has no such backend", expected=BACKENDS, found=backend))
    together, in_turn, count = ENGINES[backend or "process"]
    build = together if sync else in_turn
    return build(create_env_fn, policy, **{count: num_collectors}, **kwargs)


Collector._several = staticmethod(make_collector)  # which single.py cannot import
