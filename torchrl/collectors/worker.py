"""What collects in a worker process, and what it understands.

A :class:`CollectorWorker` is one collector that answers requests. It does not know how they arrive:
:func:`serve` brings them over a channel, and another transport may bring them otherwise.
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

from torchrl._core.errors import summary
from torchrl._core.memory import Memory
from torchrl._core.processes import Channel, check_parent
from torchrl.collectors.base import extend
from torchrl.collectors.interrupt import Interruptor
from torchrl.collectors.recipes import in_a_worker
from torchrl.collectors.single import Collector
from torchrl.collectors.slab import Layout, Slab
from torchrl.weight_update import SharedMemReceiver, WeightReceiver, weights_of
from torchrl.weight_update.scheme import Layout as WeightLayout
from torchrl.weight_update.scheme import layout_of

# To a worker.
COLLECT, COLLECT_RANDOM, CALL, WEIGHTS, QUIT = b"c", b"x", b"C", b"W", b"q"
# From a worker.
DONE, RESULT, FAILED = b"k", b"R", b"E"
BATCH_IN_SLAB, BATCH, SLAB, WRITTEN = b"b", b"B", b"M", b"N"


@dataclass
class Job:
    """What a worker needs to know to build its collector.

    Args:
        create_env_fn: An environment, or a function that builds it.
        policy: Acts.
        options: Other arguments of :class:`~torchrl.collectors.Collector`.
        number: Which of the workers this one is.
        num_workers: Number of workers.
        pads: Fill up batches that were interrupted, and mark what is filled.
        replay_buffer: Written to in place of handing batches over.
        use_buffers: Hand batches over in shared memory; found out if ``None``.
        collector_class: What collects.
        init_fn: Called first of all.
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
    init_fn: Callable[[], Any] | None = None


@dataclass
class Facts:
    """What a worker tells about itself once it is built.

    Args:
        frames: Frames of a full batch.
        rows: Batch size of the environment.
        weights: What the weights of its policy look like.
    """

    frames: int
    rows: torch.Size
    weights: WeightLayout


class CollectorWorker:
    """One of several collectors, which collects when it is asked to.

    Args:
        job: What to build.
        interruptor: Ends a batch early.
    """

    def __init__(self, job: Job, interruptor: Interruptor) -> None:
        self.job = job
        if job.init_fn is not None:
            job.init_fn()
        self.collector = job.collector_class(
            in_a_worker(job.create_env_fn),
            _own_policy(job.policy),
            interruptor=interruptor,
            worker_idx=job.number,
            **job.options,
        )
        numbers = self.collector._numbers
        assert numbers is not None
        numbers.times, numbers.plus = job.num_workers, job.number

    def facts(self) -> Facts:
        """Return what others need to know."""
        collector = self.collector
        rows = collector.env.batch_size
        return Facts(collector.frames_per_batch, rows, layout_of(collector._acting.module))

    def follow(self, make_receiver: Callable[[object], WeightReceiver]) -> None:
        """Take the newest weights before each action."""
        self.collector._acting.follow(make_receiver)

    def collect(self, random: bool) -> TensorDictBase | int:
        """Return the next batch, or the number of frames that went into the replay buffer."""
        collector, job = self.collector, self.job
        batch, frames = collector._collect(random=random)
        if job.replay_buffer is None:
            return pad_time(batch, collector._steps) if job.pads else batch
        if frames < collector.frames_per_batch and not job.pads:
            return 0  # we are being shut down: nobody counts these any more
        extend(job.replay_buffer, batch)
        return frames

    def weights(self) -> dict[str, Tensor]:
        """Return the weights of the policy."""
        acting = self.collector._acting.module
        found = weights_of(acting) if isinstance(acting, nn.Module) else {}
        return {name: value.cpu() for name, value in found.items()}

    def take(self, weights: dict[str, Tensor], version: int) -> None:
        """Act with these weights until newer ones are found."""
        self.collector._acting.take(weights, version)

    def attribute(self, name: str) -> Any:
        """Return an attribute of the collector, or of what it holds."""
        return self.collector.get_distant_attr(name)

    def map(self, name: str, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Call a method of the collector, or of what it holds."""
        return self.collector.map_fn(name, *args, **kwargs)

    def start_profile(self) -> None:
        """Begin to measure where the time goes."""
        self._measuring = ExitStack()
        self._profile = self._measuring.enter_context(self.collector.profile())

    def stop_profile(self) -> dict[str, float]:
        """Return where the time went."""
        self._measuring.close()
        return self._profile.seconds

    def close(self) -> None:
        """Close the environment."""
        self.collector.shutdown()


def pad_time(batch: TensorDictBase, steps: int) -> TensorDictBase:
    """Fill a batch ``[*B, T]`` with zeros up to ``[*B, steps]``; mark the steps it has.

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


def _own_policy(policy: Any) -> Any:
    """Return a policy whose weights no other process sees."""
    if isinstance(policy, nn.Module) and any(w.is_shared() for w in weights_of(policy).values()):
        return copy.deepcopy(policy)
    return policy


def failure(error: BaseException) -> bytes:
    """Return the message that tells of an error: in brief, and its traceback."""
    return Channel.message(FAILED, summary(error))


class _Desk:
    """Carries requests from a channel to a worker, and the answers back."""

    def __init__(self, channel: Channel) -> None:
        self.channel, self.tick = channel, check_parent(os.getppid())
        self.slab: Slab | None = None

    def answer(self, work: Callable[[], bytes]) -> None:
        """Send what ``work`` returns, or the error that it raises."""
        try:
            message = work()
        except BaseException as error:
            message = failure(error)
        try:
            self.channel.send_message(message, self.tick)
        except OSError:
            raise EOFError("nobody waits for the answer any more") from None

    def batch(self, worker: CollectorWorker, random: bool) -> bytes:
        """Collect; hand the batch over."""
        found = worker.collect(random)
        if isinstance(found, int):
            return Channel.message(WRITTEN, found)
        if found.device is not None and found.device.type != "cpu":
            found = found.cpu()
        use_buffers = worker.job.use_buffers
        layout = None if use_buffers is False else Layout.of(found)
        if layout is None:
            if use_buffers:
                raise ValueError(
                    "use_buffers=True: batches with other things than dense tensors have no place "
                    "in buffers; leave use_buffers out."
                )
            return Channel.message(BATCH, found)
        if self.slab is None:
            self.slab = Slab(layout)
            memory = self.slab.memory
            assert memory.file is not None
            self.channel.send(SLAB, layout, self.tick)
            self.channel.send_file(memory.file)
            memory.close()
        if layout != self.slab.layout:
            return Channel.message(BATCH, found)
        self.slab.write(found)
        return BATCH_IN_SLAB

    @staticmethod
    def call(method: Callable[..., Any], args: tuple) -> bytes:
        """Call a method of the worker."""
        result = method(*args)
        return DONE if result is None else Channel.message(RESULT, result)

    def follow(self, worker: CollectorWorker, layout: WeightLayout) -> bytes:
        """Let the worker follow the weights in a memory."""
        file = self.channel.receive_file()
        try:
            worker.follow(lambda policy: SharedMemReceiver(policy, layout, file))
        finally:
            os.close(file)
        return DONE


def serve(channel: Channel, job: Job) -> None:
    """Build a collector and do what the channel says, until it says :data:`QUIT` or closes."""
    desk = _Desk(channel)
    file = channel.receive_file()
    interruptor = Interruptor(Memory(1, file=file).view(0, [1], torch.bool))
    os.close(file)
    workers: list[CollectorWorker] = []

    def build() -> bytes:
        workers.append(CollectorWorker(job, interruptor))
        return Channel.message(RESULT, workers[0].facts())

    try:
        desk.answer(build)
        while True:
            code, payload = channel.receive(desk.tick)
            if code in (COLLECT, COLLECT_RANDOM):
                desk.answer(partial(desk.batch, workers[0], code == COLLECT_RANDOM))
            elif code == CALL:
                name, args = payload
                desk.answer(partial(desk.call, getattr(workers[0], name), args))
            elif code == WEIGHTS:
                desk.answer(partial(desk.follow, workers[0], payload))
            else:
                return
    finally:
        for worker in workers:
            worker.close()
