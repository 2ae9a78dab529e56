"""Collectors with environments and policies in ranks of torch.distributed, on any number of machines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torchrl._core.errors import describe
from torchrl.collectors.distributed.launchers import ProcessLauncher, RankLauncher, SubmititLauncher, TorchrunLauncher
from torchrl.collectors.distributed.rank_pool import RankPool
from torchrl.collectors.env_factories import Factory
from torchrl.collectors.multi import MultiAsyncCollector, MultiCollector, MultiSyncCollector
from torchrl.collectors.pool import Pool
from torchrl.collectors.worker import WorkerConfig
from torchrl.data import RemoteReplayBuffer
from torchrl.envs import ParallelEnv
from torchrl.weight_update import DistributedWeightSyncScheme, Weights, WeightSyncScheme
from torchrl.weight_update.distributed import check_backend

LAUNCHERS = ("mp", "torchrun", "submitit")


class DistributedCollector(MultiCollector):
    """Collectors in ranks of torch.distributed, whose batches arrive here, in rank 0.

    ``sync=False`` yields the batches of single ranks, as
    :class:`~torchrl.collectors.MultiAsyncCollector` does; ``sync=True`` makes a
    :class:`DistributedSyncCollector`. Ranks are connected by process groups of their own: a default
    group that was initialised before stays as it is. A batch of dense tensors is sent as its bytes.

    Under ``launcher="torchrun"`` all processes run one script. That of rank 0 goes on; in the others
    the constructor serves rank 0 until its collector is shut down, then raises ``SystemExit(0)``.
    Build the collector before anything that should exist once.

    Args:
        create_env_fn: As in :class:`~torchrl.collectors.MultiCollector`, with one rank in the place
            of a worker.
        policy: Writes the action; actions are random if ``None``.
        num_workers: Number of ranks that collect; that of the environments if ``None``, and that of
            the other processes under ``torchrun``.
        sync: Whether all ranks contribute to each batch.
        launcher: ``"mp"`` starts processes on this machine, reached by its loopback address only;
            ``"torchrun"`` uses those that it started; ``"submitit"`` submits jobs.
        backend: ``"gloo"``.
        collector_kwargs: More arguments of the collector of each rank, for all or a list.
        num_workers_per_collector: Copies of the environment in each rank, as a
            :class:`~torchrl.envs.ParallelEnv`.
        slurm_kwargs: Parameters of submitted jobs, those of submitit's ``AutoExecutor`` and its
            ``update_parameters``: ``folder``, ``cluster``, ``timeout_min``, ``slurm_partition``, ...
        tcp_port: Port of the store of ``"mp"`` and ``"submitit"``; any that is free if ``None``.
        update_after_each_batch: Send the weights of ``policy`` once the caller is done with a
            batch, before the next one is gathered.
        max_weight_update_interval: Send the weights of ``policy`` before the next batch once this
            many batches were yielded since the last update of all ranks; never if not positive.
        max_silence: Seconds without a sign of life after which a rank that is waited for counts as
            lost: 5 if ``None`` for processes of this machine, of which the system tells whether
            they are stopped, else 30. The end of a process is noticed at once.
        weight_sync_schemes: ``{"policy": DistributedWeightSyncScheme(...)}``; without, weights are
            sent as with ``sync=False``.
        replay_buffer: Ranks of this machine write into one that is shared, ranks elsewhere into none.
        kwargs: Other arguments of :class:`~torchrl.collectors.MultiCollector`.

    Raises:
        WorkerError: at any use, if a rank raised, ended, or did not answer in time; it names the
            rank, its machine, its process and its environment.
        SystemExit: see above.

    Source: the interface of ``torch.distributed``, https://docs.pytorch.org/docs/stable/distributed.html.

    >>> from torchrl.envs import GymEnv
    >>> with DistributedCollector(
    ...     [lambda: GymEnv("CartPole-v1")] * 2, frames_per_batch=20, total_frames=60
    ... ) as collector:
    ...     [batch.shape for batch in collector]
    [torch.Size([20]), torch.Size([20]), torch.Size([20])]
    """

    def __new__(cls, *args: Any, sync: bool = False, **kwargs: Any) -> Any:
        """Make a collector, of the class that ``sync`` chooses."""
        if cls is DistributedCollector:
            cls = DistributedSyncCollector if sync else DistributedAsyncCollector
        return super().__new__(cls, *args, **kwargs)

    def __init__(
        self,
        create_env_fn: Factory | Sequence[Factory],
        policy: Callable[..., object] | None = None,
        *,
        num_workers: int | None = None,
        sync: bool | None = None,
        launcher: str = "mp",
        backend: str = "gloo",
        collector_kwargs: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
        num_workers_per_collector: int = 1,
        slurm_kwargs: dict[str, Any] | None = None,
        tcp_port: int | None = None,
        update_after_each_batch: bool = False,
        max_weight_update_interval: int = -1,
        max_silence: float | None = None,
        weight_sync_schemes: Mapping[str, WeightSyncScheme] | None = None,
        mp_start_method: str | None = None,
        **kwargs: Any,
    ) -> None:
        if sync is not None and sync != isinstance(self, MultiSyncCollector):
            raise ValueError(describe(self, "has its own way to gather batches", found=f"sync={sync}"))
        check_backend(self, backend)
        if launcher not in LAUNCHERS:
            hint = "Submit the script that trains as a job with launcher='torchrun'." if "delayed" in launcher else ""
            raise ValueError(describe(self, "has no such launcher", expected=LAUNCHERS, found=launcher, hint=hint))
        self.launcher, self.backend = launcher, backend
        self.max_weight_update_interval, self._batches_since = max_weight_update_interval, 0
        self._collector_kwargs, self._envs_per_rank = collector_kwargs or {}, num_workers_per_collector
        self._max_silence = max_silence
        scheme = (weight_sync_schemes or {}).get("policy")
        self._weight_timeout = None
        if isinstance(scheme, DistributedWeightSyncScheme) and scheme.sync:
            self._weight_timeout = scheme.timeout
        ranks: RankLauncher
        if launcher == "mp":
            ranks = ProcessLauncher(mp_start_method, tcp_port)
        elif launcher == "submitit":
            ranks = SubmititLauncher(self._name(), slurm_kwargs, tcp_port)
        else:
            ranks = started = TorchrunLauncher(self._name())
            if started.rank > 0:
                started.serve()
            num_workers = started.world_size - 1 if num_workers is None else num_workers
        self._ranks = ranks
        super().__init__(
            create_env_fn,
            policy,
            num_workers=num_workers,
            update_at_each_batch=update_after_each_batch,
            weight_sync_schemes=weight_sync_schemes,
            **kwargs,
        )

    def _start(self, configs: list[WorkerConfig], **options: Any) -> Pool:
        del options["mp_start_method"]  # the launcher has it
        for config, more in zip(configs, self._spread("collector_kwargs", self._collector_kwargs), strict=True):
            config.options |= more
            if self._envs_per_rank > 1:
                build, kwargs = config.create_env_fn, config.options.pop("create_env_kwargs", None) or {}
                config.create_env_fn = partial(ParallelEnv, self._envs_per_rank, build, create_env_kwargs=kwargs)
        more = {"max_silence": self._max_silence, "weight_timeout": self._weight_timeout}
        return RankPool(self._name(), configs, self._ranks, **options, **more)

    def _workers_write(self) -> bool:
        is_near = self.launcher == "mp" or isinstance(self.replay_buffer, RemoteReplayBuffer)
        return is_near and super()._workers_write()

    def _next_batch(self) -> tuple[object, int]:
        if 0 < self.max_weight_update_interval <= self._batches_since:
            self.update_policy_weights_()
        found = super()._next_batch()
        self._batches_since += 1
        return found

    def _renew(self, weights: Weights | None, worker_ids: Sequence[int] | None) -> None:
        if worker_ids is None:
            self._batches_since = 0
        super()._renew(weights, worker_ids)


class DistributedSyncCollector(DistributedCollector, MultiSyncCollector):
    """Yields batches to which every rank contributes its share.

    The last weights that were sent before a batch hold for all of its steps, unless newer ones are
    sent meanwhile.

    Args:
        create_env_fn: As in :class:`DistributedCollector`, with its other arguments.
        policy: Writes the action.
        kwargs: Arguments of :class:`DistributedCollector`, and of
            :class:`~torchrl.collectors.MultiSyncCollector`.

    >>> from torchrl.envs import GymEnv
    >>> with DistributedSyncCollector(
    ...     [lambda: GymEnv("CartPole-v1")] * 2, frames_per_batch=20, total_frames=40
    ... ) as collector:
    ...     [batch.shape for batch in collector]
    [torch.Size([2, 10]), torch.Size([2, 10])]
    """


class DistributedAsyncCollector(DistributedCollector, MultiAsyncCollector):
    """What :class:`DistributedCollector` makes unless ``sync=True``; its arguments are the same."""


class RPCCollector:
    """Not there: torch's RPC is no longer developed.

    Raises:
        NotImplementedError: always; the message names the two engines.

    >>> RPCCollector()
    Traceback (most recent call last):
    NotImplementedError: RPCCollector: torch's RPC is no longer developed. ...
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        hint = "Use DistributedCollector (torch.distributed) or RayCollector (Ray)."
        raise NotImplementedError(describe(self, "torch's RPC is no longer developed", hint=hint))
