"""`RayCollector`: collectors in the actors of a Ray cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from torchrl._core.errors import describe
from torchrl._core.workers.ray_session import RaySession, import_ray
from torchrl.collectors.distributed.ray_pool import RayPool
from torchrl.collectors.env_factories import Factory, one_each
from torchrl.collectors.multi import MultiAsyncCollector, MultiCollector, MultiSyncCollector
from torchrl.collectors.worker import WorkerConfig
from torchrl.envs import ParallelEnv
from torchrl.weight_update import Weights

ON_FAILURE = ("raise", "restart")
Options = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None


class RayCollector(MultiCollector):
    """Collectors in Ray actors, on this machine or on the nodes of a cluster.

    Each batch is one object in Ray's store, which this process maps. Weights are one object for all actors; they are
    sent while actors collect and hold from the next action on, and a request of a batch carries the newest.

    Args:
        create_env_fn: The environment, or a function that builds it; or a list with one for each actor.
        policy: Writes the action; actions are random if ``None``. Weights on a CUDA device are sent by way of the
            CPU: pass ``policy_device`` for actors that act on one.
        num_collectors: Number of actors; that of the environments if ``None``.
        num_workers_per_collector: Copies of its environment that each actor steps in parallel, in processes of its
            own; the batch size of its batches.
        sync: Whether all actors contribute to each batch, as those of a
            :class:`~torchrl.collectors.MultiSyncCollector` do; else each batch comes from one, as with a
            :class:`~torchrl.collectors.MultiAsyncCollector`.
        ray_init_config: Arguments of ``ray.init``, which is called unless Ray runs, and ended with the last that
            needed it; ``{"address": "auto"}`` joins a cluster.
        remote_configs: Arguments of ``ray.remote`` for the actors, such as ``{"num_cpus": 1}``, or a list with those
            of each. Actors are spread over the nodes.
        collector_kwargs: More arguments of the collector in each actor, or a list with those of each.
        update_after_each_batch: Once the caller has used a batch and asks for the next, send the weights of
            ``policy`` to all actors.
        max_weight_update_interval: Send the weights of ``policy`` before an actor is asked for another batch, if so
            many were asked of it since weights were sent last; never if ``None`` or -1.
        max_pending_batches: Without ``sync``: how many batches are collected or finished at a time and not yet
            used, which bounds the object store; the number of actors if ``None``. With more, an actor goes on while
            its last batch waits.
        on_failure: ``"raise"`` ends all actors once one of them fails or is lost. ``"restart"`` starts another in its
            place, when the cluster has room; meanwhile the others collect its batches, so that batches are whole
            and frames are counted once. The collection ends with the last error if there were three failures for
            each actor without a batch in between.
        start_timeout: Seconds in which actors must have been placed by the cluster and imported torchrl; one of
            them if none is left.
        kwargs: All other arguments are those of :class:`~torchrl.collectors.MultiSyncCollector` or
            :class:`~torchrl.collectors.MultiAsyncCollector`. Actors write to the replay buffer themselves if it is a
            :class:`~torchrl.data.RayReplayBuffer`.

    Writes: as :class:`~torchrl.collectors.MultiCollector`; with one seed the same as a ``MultiSyncCollector``, bit for
        bit, if ``sync``.

    Raises:
        ImportError: if Ray is not installed.
        ValueError: for arguments that contradict each other.
        WorkerError: at any use, if an actor failed or was lost; with node, actor and environment.

    >>> from torchrl.envs import GymEnv
    >>> with RayCollector(
    ...     lambda: GymEnv("CartPole-v1"), num_collectors=2, frames_per_batch=20, total_frames=40
    ... ) as collector:  # doctest: +SKIP
    ...     [batch.shape for batch in collector]
    [torch.Size([2, 10]), torch.Size([2, 10])]
    """

    if TYPE_CHECKING:  # what it makes is one of the two classes below, which have these
        _frames_of: Any
        _full_batch: Any
        _gather: Any

    def __new__(cls, *args: object, sync: bool = True, **kwargs: object) -> Any:
        """Make a collector of the kind that ``sync`` chooses."""
        if cls is RayCollector:
            cls = RaySyncCollector if sync else RayAsyncCollector
        return super().__new__(cls)

    def __init__(
        self,
        create_env_fn: Factory | Sequence[Factory],
        policy: Callable[..., object] | None = None,
        *,
        num_collectors: int | None = None,
        num_workers_per_collector: int = 1,
        sync: bool = True,
        ray_init_config: Mapping[str, Any] | None = None,
        remote_configs: Options = None,
        collector_kwargs: Options = None,
        update_after_each_batch: bool = False,
        max_weight_update_interval: int | None = None,
        max_pending_batches: int | None = None,
        on_failure: str = "raise",
        start_timeout: float = 300.0,
        **kwargs: Any,
    ) -> None:
        import_ray(self._name())
        self._check(sync, on_failure, max_pending_batches, num_workers_per_collector)
        recipes = one_each(self._name(), create_env_fn, num_collectors)
        self._ray_config, self._remote_configs, self._extra = ray_init_config, remote_configs, collector_kwargs
        self.on_failure, self.start_timeout = on_failure, start_timeout
        self.update_after_each_batch = update_after_each_batch
        self.max_pending_batches = len(recipes) if max_pending_batches is None else max_pending_batches
        interval = -1 if max_weight_update_interval is None else max_weight_update_interval
        self.max_weight_update_interval = interval
        self._since_update: Counter[int] = Counter()
        self._is_used = False  # whether there is a batch whose use may have changed the weights
        if num_workers_per_collector > 1:
            recipes, kwargs = _grouped(recipes, num_workers_per_collector, kwargs)
        kwargs.setdefault("num_threads", torch.get_num_threads())  # the workers need none of this process
        super().__init__(recipes, policy, **kwargs)

    def _name(self) -> str:
        return "RayCollector"

    def _check(self, sync: bool, on_failure: str, pending: int | None, copies: int) -> None:
        name = self._name()
        if on_failure not in ON_FAILURE:
            raise ValueError(describe(name, "on_failure is unknown", expected=ON_FAILURE, found=on_failure))
        if sync and pending is not None:
            raise ValueError(f"{name}: max_pending_batches is an argument of sync=False: a batch has all its shares.")
        if pending is not None and pending < 1:
            raise ValueError(f"{name}: max_pending_batches must be at least 1, found {pending}.")
        if copies < 1:
            raise ValueError(f"{name}: num_workers_per_collector must be at least 1, found {copies}.")

    def _configs(self, config: WorkerConfig, recipes: list[Factory], options: dict[str, Any]) -> list[WorkerConfig]:
        each = super()._configs(config, recipes, options)
        extra = self._spread("collector_kwargs", self._extra)
        return [replace(own, options={**own.options, **(more or {})}) for own, more in zip(each, extra, strict=True)]

    def _workers_write(self) -> bool:
        return super()._workers_write() and bool(getattr(self.replay_buffer, "writes_from_any_node", False))

    def _start(self, configs: list[WorkerConfig], **options: Any) -> RayPool:
        remote = [each or {} for each in self._spread("remote_configs", self._remote_configs)]
        return RayPool(
            self._name(),
            configs,
            RaySession(self._name(), self._ray_config),
            remote,
            on_failure=self.on_failure,
            start_timeout=self.start_timeout,
            **{name: value for name, value in options.items() if name != "mp_start_method"},
        )

    # --- weights ---------------------------------------------------------------------------------

    def _next_batch(self) -> tuple[object, int]:
        if self.update_after_each_batch and self._is_used:
            self.update_policy_weights_()
        self._is_used = True
        return super()._next_batch()

    def _request(self, worker: int) -> None:
        if 0 < self.max_weight_update_interval <= self._since_update[worker]:
            self.update_policy_weights_()
            self._since_update.clear()
        self._since_update[worker] += 1
        super()._request(worker)

    def _renew(self, weights: Weights | None, worker_ids: Sequence[int] | None) -> None:
        super()._renew(weights, worker_ids)
        for worker in range(self.num_workers) if worker_ids is None else worker_ids:
            self._since_update.pop(worker, None)


class RaySyncCollector(RayCollector, MultiSyncCollector):
    """A :class:`RayCollector` whose actors all contribute to each batch."""


class RayAsyncCollector(RayCollector, MultiAsyncCollector):
    """A :class:`RayCollector` whose batches each come from one actor."""

    _pool: RayPool

    def _gather(self) -> tuple[object, int]:
        self._request_more()
        worker, found = self._pool.wait()
        frames = self._pool.worker_info[worker].frames
        batch = self._own(worker, found)
        self._request_more()
        return batch, frames

    def _request_more(self) -> None:
        while self._pool.num_requested < self.max_pending_batches:
            before = self._requested
            self._request_if_wanted(self._pool.least_requested())
            if self._requested == before:
                return  # enough for total_frames


def _grouped(recipes: list[Factory], copies: int, kwargs: dict[str, Any]) -> tuple[list[Factory], dict[str, Any]]:
    """Return recipes that step several copies of an environment, and the other arguments."""
    own = kwargs.pop("create_env_kwargs", None)
    each = list(own) if isinstance(own, Sequence) else [own] * len(recipes)
    bound: list[Any] = [partial(recipe, **more) if more else recipe for recipe, more in zip(recipes, each, strict=True)]
    return [partial(ParallelEnv, copies, recipe) for recipe in bound], kwargs
