"""A rank's side of distributed collectors: a collector that answers the requests of rank 0."""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from tensordict import TensorDictBase
from torch import Tensor

from torchrl._core.workers.pool import RequestHandler
from torchrl._core.workers.process import seed_worker
from torchrl._core.workers.protocol import (
    BATCH,
    BATCH_IN_MEMORY,
    CALL,
    COLLECT,
    COLLECT_RANDOM,
    LAYOUT,
    LOST,
    QUIT_OPEN,
    START,
    STOP,
    WEIGHTS,
    WRITTEN,
)
from torchrl._core.workers.rank_link import RankLink, unpickled
from torchrl._core.workers.shared_batch import BatchLayout, SharedBatch
from torchrl.collectors.interrupt import Interruptor
from torchrl.collectors.worker import CollectorWorker, WorkerConfig, WorkerInfo
from torchrl.weight_update import DistributedReceiver
from torchrl.weight_update.scheme import Layout

_LONGEST = 80  # characters of an environment in an error message


@dataclass
class RankConfig:
    """What a rank builds that was not started by the process of rank 0.

    Args:
        config: What to build.
        seed: Seed of rank 0.
        num_threads: Torch threads.
    """

    config: WorkerConfig
    seed: int
    num_threads: int


@dataclass
class RankInfo(WorkerInfo):
    """What a rank reports once it is built.

    Args:
        host: Name of its machine.
        pid: Number of its process.
        environment: Its environment, in a few words.
    """

    host: str
    pid: int
    environment: str


class RankWorker(CollectorWorker):
    """The collector of a rank; its arguments are those of the base class."""

    receiver: DistributedReceiver | None = None

    def worker_info(self) -> RankInfo:
        info = super().worker_info()
        environment = " ".join(repr(self.collector.env).split())
        if len(environment) > _LONGEST:
            environment = f"{environment[:_LONGEST]}..."
        return RankInfo(info.frames, info.rows, info.weights, socket.gethostname(), os.getpid(), environment)

    def receive_weights(self, layout: Layout) -> None:
        """Update the weights of the policy, before each action, to the last that were received."""

        def receiver(policy: object) -> DistributedReceiver:
            self.receiver = DistributedReceiver(policy, layout)
            return self.receiver

        self.collector._acting.follow(receiver)


class _BatchSender:
    """Sends batches to rank 0: their layout once, then their bytes."""

    def __init__(self, link: RankLink, worker: RankWorker) -> None:
        self.link, self.worker = link, worker
        self.memory: SharedBatch | None = None

    def send(self, batch: TensorDictBase | int) -> None:
        """Send a batch; another layout than that of the first is pickled."""
        if isinstance(batch, int):
            self.link.send(WRITTEN, batch)
            return
        if batch.device is not None and batch.device.type != "cpu":
            batch = batch.cpu()
        layout = None if self.worker.config.use_buffers is False else BatchLayout.of(batch)
        if layout is not None and self.memory is None:
            self.memory = SharedBatch(layout, kind="own")
            self.link.send(LAYOUT, layout)
        if self.memory is None or layout != self.memory.layout:
            self.link.send(BATCH, batch)
            return
        self.memory.write(batch)
        self.link.send_bytes(BATCH_IN_MEMORY, self.memory.memory.bytes)


class RankServer:
    """Builds the collector of a rank and answers the requests of rank 0.

    Args:
        connect: Returns the process group of both; called in a thread.
        config: What to build; received from rank 0 if ``None``.
        grace: Seconds after which the process is ended if the connection was lost and the
            environment does not return; it is left alone if ``None``.
    """

    def __init__(
        self, connect: Callable[[], dist.ProcessGroup], config: WorkerConfig | None = None, grace: float | None = None
    ) -> None:
        self._config, self._grace = config, grace
        self._requests: queue.SimpleQueue[tuple[bytes, Tensor]] = queue.SimpleQueue()
        self._interruptor = Interruptor()
        self._worker: RankWorker | None = None
        self._link = RankLink(connect, 1, self._receive, beats=True)
        self._handler = RequestHandler(self._link)

    def _receive(self, code: bytes, data: Tensor, number: int) -> None:
        """Take a message, in the receiving thread, while the main thread may be collecting."""
        if code == WEIGHTS:
            assert self._worker is not None
            assert self._worker.receiver is not None
            self._worker.receiver.put(data, number)
        elif code == START:
            self._interruptor.start_collection()
        elif code == STOP:
            self._interruptor.stop_collection()
        else:
            if code == LOST:
                self._interruptor.stop_collection()
                if self._grace is not None:
                    timer = threading.Timer(self._grace, os._exit, (1,))
                    timer.daemon = True
                    timer.start()
            self._requests.put((code, data))

    def _build(self) -> RankInfo:
        config = self._config
        if config is None:
            code, data = self._requests.get()
            if code == LOST:
                raise EOFError("rank 0 is gone")
            received: RankConfig = unpickled(data)
            config = received.config
            torch.set_num_threads(received.num_threads)
            seed_worker(received.seed, config.number)
        self._worker = RankWorker(config, self._interruptor)
        return self._worker.worker_info()

    def run(self) -> bool:
        """Answer requests until rank 0 ends this rank; return whether it did, and was not lost."""
        code = LOST
        try:
            if not self._handler.answer(self._build):
                return False
            worker: Any = self._worker
            batches = _BatchSender(self._link, worker)
            while True:
                code, data = self._requests.get()
                if code in (COLLECT, COLLECT_RANDOM):
                    try:
                        batches.send(worker.collect(code == COLLECT_RANDOM))
                    except BaseException as error:
                        self._handler.fail(error)
                elif code == CALL:
                    self._handler.call(worker, *unpickled(data))
                else:
                    return code != LOST
        finally:
            if self._worker is not None:
                self._worker.close(close_env=code != QUIT_OPEN)
            self._link.close()
