"""How the ranks of a distributed collector are started, and what is known of their processes."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist

from torchrl._core.errors import describe
from torchrl._core.optional import require_package
from torchrl._core.workers.process import Launcher, WorkerProcess, check_parent, start_method, stop_all
from torchrl._core.workers.protocol import RESULT, TICK, Channel
from torchrl._core.workers.rank_link import FOREVER, pair_group
from torchrl.collectors.distributed.rank_worker import RankServer
from torchrl.collectors.worker import WorkerConfig

LOOPBACK = "127.0.0.1"
GRACE = 10.0  # seconds in which a rank may end by itself once rank 0 is gone


def _store(host: str, port: int, is_master: bool = False, **options: Any) -> dist.Store:
    return dist.TCPStore(host, port, is_master=is_master, wait_for_workers=False, timeout=FOREVER, **options)


class RankLauncher(ABC):
    """Starts ranks, or finds those that were started.

    Attributes:
        max_silence: Seconds without a sign of life after which a rank counts as lost.

    Hooks:
        start: ``[config], num_threads``; start the ranks.
        connect: ``worker -> process group``; connect with a rank; called in a thread.
        sends_configs: whether ranks receive what they build.
        ending: ``worker -> text | None``; how a process ended, ``None`` while it may run.
        is_stopped: ``worker -> bool | None``; ``None`` where the system does not tell.
        where: ``worker -> text``; what is known of a rank before it reports.
        end: ``timeout``; wait for the ends of all processes, then kill those that run.
        kill: kill them at once.
    """

    sends_configs = True
    max_silence = 30.0
    _store: Any = None  # of the process of rank 0

    @abstractmethod
    def start(self, configs: Sequence[WorkerConfig], num_threads: int) -> None: ...

    def connect(self, worker: int, host: str | None = None) -> dist.ProcessGroup:
        return pair_group(self._store.clone(), f"rank {worker + 1}", 0, host)

    def ending(self, worker: int) -> str | None:
        return None

    def is_stopped(self, worker: int) -> bool | None:
        return None

    def where(self, worker: int) -> str:
        return ""

    def end(self, timeout: float) -> None:
        # A later fork might collect it, and its destructor waits for a thread that a fork does not have.
        self._store = None

    def kill(self) -> None: ...


class ProcessLauncher(RankLauncher):
    """Starts processes on this machine, which are reached by its loopback address only.

    Args:
        mp_start_method: ``"fork"`` or ``"spawn"``; fork where that is safe if ``None``.
        port: Port of the store; any that is free if ``None``.
    """

    sends_configs = False
    max_silence = 5.0

    def __init__(self, mp_start_method: str | None, port: int | None) -> None:
        self._launcher = Launcher(start_method(mp_start_method), "torchrl.collectors.distributed")
        self._port = port or 0
        self._workers: list[WorkerProcess] = []

    def start(self, configs: Sequence[WorkerConfig], num_threads: int) -> None:
        with socket.create_server((LOOPBACK, self._port)) as server:
            port = server.getsockname()[1]
            for number, config in enumerate(configs):
                worker = WorkerProcess(_serve, (config,), self._launcher, number=number, num_threads=num_threads)
                self._workers.append(worker)
            self._store = _store(LOOPBACK, port, is_master=True, master_listen_fd=server.detach())
        for worker in self._workers:
            with contextlib.suppress(OSError):  # it has died, which is found soon
                worker.channel.send(RESULT, port)

    def connect(self, worker: int, host: str | None = LOOPBACK) -> dist.ProcessGroup:
        return super().connect(worker, host)

    def ending(self, worker: int) -> str | None:
        process = self._workers[worker]
        return None if process.is_alive() else process.ending()

    def is_stopped(self, worker: int) -> bool | None:
        try:
            with open(f"/proc/{self._workers[worker].pid}/stat") as file:
                return file.read().rpartition(")")[2].split()[0] == "T"
        except OSError:
            return None

    def where(self, worker: int) -> str:
        return f"host {socket.gethostname()}, pid {self._workers[worker].pid}, "

    def end(self, timeout: float) -> None:
        try:
            stop_all(self._workers, timeout)
        finally:
            super().end(timeout)
            self._launcher.close()

    def kill(self) -> None:
        for worker in self._workers:
            worker.kill()


def _serve(channel: Channel, config: WorkerConfig) -> None:
    """Run a rank in a process that :class:`ProcessLauncher` started."""
    _, port = channel.receive(check_parent())
    connect = lambda: pair_group(_store(LOOPBACK, port), f"rank {config.number + 1}", 1, LOOPBACK)  # noqa: E731
    RankServer(connect, config).run()


class TorchrunLauncher(RankLauncher):
    """Uses the ranks that ``torchrun`` has started, all of which run the same script.

    Args:
        owner: Name of the collector, for error messages.

    Raises:
        RuntimeError: if the script does not run under ``torchrun``.
    """

    _count = 0  # of collectors in this process, as in all others

    def __init__(self, owner: str) -> None:
        missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            hint = "Start the script as: torchrun --nproc-per-node 3 script.py"
            raise RuntimeError(describe(owner, f"{', '.join(missing)} not set in the environment", hint=hint))
        store, self.rank, self.world_size = next(iter(dist.rendezvous("env://")))
        TorchrunLauncher._count += 1
        self._store = dist.PrefixStore(f"collector {TorchrunLauncher._count}", store)
        self._store.set_timeout(FOREVER)
        if self.world_size < 2:
            hint = "One more process than there are environments: torchrun --nproc-per-node 3 script.py"
            raise RuntimeError(describe(owner, "rank 0 learns, and there is no other rank to collect", hint=hint))

    def serve(self) -> None:
        """Answer the requests of rank 0 until it ends this rank; then end the script.

        Raises:
            SystemExit: always; with code 0 if rank 0 ended this rank.
        """
        served = RankServer(lambda: pair_group(self._store, f"rank {self.rank}", 1)).run()
        raise SystemExit(0 if served else 1)

    def start(self, configs: Sequence[WorkerConfig], num_threads: int) -> None: ...


class SubmititLauncher(RankLauncher):
    """Submits a job for each rank, to SLURM or what else submitit knows.

    Args:
        owner: Name of the collector, for error messages.
        options: Parameters of the jobs, those of ``submitit.AutoExecutor.update_parameters``;
            ``folder`` is that of their logs, ``cluster`` is ``"slurm"``, ``"local"`` or found if left out.
        port: Port of the store on this machine; any that is free if ``None``.

    Raises:
        ImportError: if submitit is not installed.
        ValueError: if submitit refuses the options, or finds no SLURM that they ask for.
    """

    def __init__(self, owner: str, options: dict[str, Any] | None, port: int | None) -> None:
        submitit = require_package("submitit", needed_by=owner, extra="distributed")
        options = {"folder": "submitit_logs", **(options or {})}
        self._cluster = options.pop("cluster", None)
        try:
            self._executor = submitit.AutoExecutor(folder=options.pop("folder"), cluster=self._cluster)
            self._executor.update_parameters(**{"name": "torchrl_collector", **options})
        except (AssertionError, NameError, RuntimeError, TypeError, ValueError) as error:
            fact = f"submitit refuses slurm_kwargs: {str(error).partition(chr(10))[0].rstrip('.')}"
            hint = "Pass parameters of submitit's AutoExecutor; cluster='local' needs no SLURM."
            raise ValueError(describe(owner, fact, hint=hint)) from error
        self._port = port or 0
        self._jobs: list[Any] = []

    def start(self, configs: Sequence[WorkerConfig], num_threads: int) -> None:
        is_local = self._cluster in ("local", "debug")
        host = LOOPBACK if is_local else socket.gethostname()
        store: Any = _store(host, self._port, is_master=True)
        self._store = store
        with self._executor.batch():
            for number in range(len(configs)):
                self._jobs.append(self._executor.submit(run_job, host, store.port, number + 1))

    def ending(self, worker: int) -> str | None:
        job = self._jobs[worker]
        return f"ended: its job {job.job_id} is {job.state}" if job.done() else None

    def where(self, worker: int) -> str:
        return f"job {self._jobs[worker].job_id}, "

    def end(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and not all(job.done() for job in self._jobs):
            time.sleep(min(TICK, 0.1))
        super().end(timeout)
        self.kill()

    def kill(self) -> None:
        for job in self._jobs:
            if not job.done():
                job.cancel(check=False)


def run_job(host: str, port: int, rank: int) -> None:
    """Run a rank in a job of its own.

    Args:
        host: Name of the machine of rank 0.
        port: Port of its store.
        rank: Number of this rank.
    """
    RankServer(lambda: pair_group(_store(host, port), f"rank {rank}", 1), grace=GRACE).run()
