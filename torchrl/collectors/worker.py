"""The worker's side of multi-process collectors: a collector that answers requests.

A :class:`CollectorWorker` builds and runs one collector, :func:`serve` lets it answer the requests
of a :class:`~torchrl.collectors.collector_pool.CollectorPool`; batches are returned in a
:class:`~torchrl._core.workers.shared_batch.SharedBatch`.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import tensordict
import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from torchrl._core.generators import GlobalRNGState
from torchrl._core.workers.pool import RequestHandler
from torchrl._core.workers.protocol import (
    BATCH,
    BATCH_IN_MEMORY,
    CALL,
    COLLECT,
    COLLECT_RANDOM,
    MEMORY,
    QUIT,
    QUIT_OPEN,
    WRITTEN,
    Channel,
)
from torchrl._core.workers.shared_batch import BatchLayout, SharedBatch
from torchrl._core.workers.shared_memory import Memory
from torchrl.collectors.base import extend
from torchrl.collectors.env_factories import in_a_worker
from torchrl.collectors.interrupt import Interruptor
from torchrl.collectors.single import Collector
from torchrl.weight_update import SharedMemReceiver, layout_of, weights_of
from torchrl.weight_update.scheme import Layout as WeightLayout


@dataclass
class WorkerConfig:
    """What a worker builds, and how it returns batches.

    Args:
        create_env_fn: An environment, or a function that builds it.
        policy: Writes the action.
        options: Other arguments of :class:`~torchrl.collectors.Collector`.
        number: Number of the worker.
        num_workers: Number of workers.
        pads: Pad batches that were interrupted, and mask the padding.
        replay_buffer: Batches are written into it instead of being returned.
        use_buffers: Return batches in shared memory, those that fit into it.
        collector_class: Class of the collector.
        init_fn: Called before anything is built.
    """

    create_env_fn: Any = None
    policy: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    number: int = 0
    num_workers: int = 1
    pads: bool = False
    replay_buffer: Any = None
    use_buffers: bool | None = None
    collector_class: type[Collector] = Collector
    init_fn: Callable[[], object] | None = None


@dataclass
class WorkerInfo:
    """What a worker reports once it is built.

    Args:
        frames: Frames of a full batch.
        rows: Batch size of the environment.
        weights: Layout of the weights of its policy.
    """

    frames: int
    rows: torch.Size
    weights: WeightLayout


class CollectorWorker:
    """One of several collectors.

    Args:
        config: What to build.
        interruptor: Ends a batch early.
    """

    def __init__(self, config: WorkerConfig, interruptor: Interruptor) -> None:
        self.config = config
        if config.init_fn is not None:
            config.init_fn()
        policy = config.policy
        if isinstance(policy, nn.Module) and any(weight.is_shared() for weight in weights_of(policy).values()):
            policy = copy.deepcopy(policy)  # with weights that no other process sees
        self.collector = config.collector_class(
            in_a_worker(config.create_env_fn),
            policy,
            interruptor=interruptor,
            worker_idx=config.number,
            **config.options,
        )
        ids = self.collector._numbers
        assert ids is not None
        ids.stride, ids.offset = config.num_workers, config.number

    def worker_info(self) -> WorkerInfo:
        """Return what the pool needs to know of this worker."""
        collector = self.collector
        rows = collector.env.batch_size
        return WorkerInfo(collector.frames_per_batch, rows, layout_of(collector._acting.module))

    def follow(self, layout: WeightLayout, file: int) -> None:
        """Update the weights of the policy, before each action, from a shared memory."""
        try:
            self.collector._acting.follow(lambda policy: SharedMemReceiver(policy, layout, file))
        finally:
            os.close(file)

    def collect(self, random: bool) -> TensorDictBase | int:
        """Return the next batch, or the number of frames that went into the replay buffer."""
        collector, config = self.collector, self.config
        batch, frames = collector._collect(random=random)
        if config.replay_buffer is None:
            return pad_time(batch, collector._steps) if config.pads else batch
        if frames < collector.frames_per_batch and not config.pads:
            return 0  # interrupted by a shutdown: the frames are not counted any more
        extend(config.replay_buffer, batch)
        return frames

    def weights(self) -> dict[str, Tensor]:
        """Return the weights of the policy."""
        acting = self.collector._acting.module
        found = weights_of(acting) if isinstance(acting, nn.Module) else {}
        return {name: value.cpu() for name, value in found.items()}

    def take(self, weights: dict[str, Tensor], version: int) -> None:
        """Set the weights of the policy, until newer ones are received."""
        self.collector._acting.take(weights, version)

    def attribute(self, name: str) -> Any:
        """Return an attribute of the collector, by its dotted name."""
        return self.collector.get_distant_attr(name)

    def map(self, name: str, args: tuple[object, ...], kwargs: dict[str, Any]) -> Any:
        """Call a method of the collector, by its dotted name."""
        return self.collector.map_fn(name, *args, **kwargs)

    def state_dict(self) -> dict[str, object]:
        """Return the state of the collector, and of the random generators of this process."""
        return {**self.collector.state_dict(), "generators": GlobalRNGState().state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the state of another worker."""
        self.collector.load_state_dict(state_dict)
        if "generators" in state_dict:
            GlobalRNGState().load_state_dict(state_dict["generators"])

    def start_profile(self) -> None:
        """Start to measure where the time is spent."""
        self._measuring = ExitStack()
        self._profile = self._measuring.enter_context(self.collector.profile())

    def stop_profile(self) -> dict[str, float]:
        """Return the seconds of each part since the start."""
        self._measuring.close()
        return self._profile.seconds

    def close(self, close_env: bool = True) -> None:
        """Shut the collector down."""
        self.collector.shutdown(close_env=close_env)


def pad_time(batch: TensorDictBase, steps: int) -> TensorDictBase:
    """Pad a batch ``[*B, T]`` with zeros up to ``[*B, steps]``; mask the padding.

    Writes: ``("collector", "mask") [*B, steps]``.

    >>> batch = tensordict.TensorDict(a=torch.ones(2), batch_size=[2])
    >>> pad_time(batch, 3)["collector", "mask"]
    tensor([ True,  True, False])
    """
    missing = steps - batch.batch_size[-1]
    mask = torch.ones(batch.shape, dtype=torch.bool)
    batch.set(("collector", "mask"), mask)
    if missing:
        batch = tensordict.pad(batch, [0, 0] * (batch.ndim - 1) + [0, missing])
    return batch


class _BatchWriter:
    """Returns the batches of a worker to the pool.

    Args:
        channel: Leads to the pool.
        handler: Handles the requests of the pool.
        worker: Collects.
    """

    def __init__(self, channel: Channel, handler: RequestHandler, worker: CollectorWorker) -> None:
        self.channel, self.handler, self.worker = channel, handler, worker
        self.shared: SharedBatch | None = None

    def message(self, random: bool) -> bytes:
        """Collect; return the message with the batch."""
        batch = self.worker.collect(random)
        if isinstance(batch, int):
            return Channel.message(WRITTEN, batch)
        if batch.device is not None and batch.device.type != "cpu":
            batch = batch.cpu()
        layout = None if self.worker.config.use_buffers is False else BatchLayout.of(batch)
        if layout is None:
            return Channel.message(BATCH, batch)
        if self.shared is None:
            self.shared = SharedBatch(layout)
            memory = self.shared.memory
            self.channel.send(MEMORY, layout, self.handler.tick, memory.file)
            memory.close()
        if layout != self.shared.layout:
            return Channel.message(BATCH, batch)
        self.shared.write(batch)
        return BATCH_IN_MEMORY


def serve(channel: Channel, config: WorkerConfig) -> None:
    """Build a collector in a worker process and answer requests, until the pool ends the worker.

    The first message is the memory of the interruptor.
    """
    handler = RequestHandler(channel)
    _, (_, file) = channel.receive(handler.tick)
    interruptor = Interruptor(Memory(1, file=file).view(0, [1], torch.bool))
    os.close(file)
    workers: list[CollectorWorker] = []
    code = QUIT

    def build() -> WorkerInfo:
        workers.append(CollectorWorker(config, interruptor))
        return workers[0].worker_info()

    try:
        if not handler.answer(build):
            return
        worker = workers[0]
        batches = _BatchWriter(channel, handler, worker)
        while True:
            code, payload = channel.receive(handler.tick)
            if code in (COLLECT, COLLECT_RANDOM):
                handler.reply(partial(batches.message, code == COLLECT_RANDOM))
            elif code == CALL:
                handler.call(worker, *payload)
            elif code == MEMORY:
                handler.answer(worker.follow, *payload)
            else:
                return
    finally:
        for worker in workers:
            worker.close(close_env=code != QUIT_OPEN)
