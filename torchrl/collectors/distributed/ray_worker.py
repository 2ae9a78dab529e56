"""The worker's side of Ray collectors: an actor with a collector that answers requests.

Its methods run in three groups of one thread each, which do not wait for each other: batches and calls, what may
arrive during a batch (``"news"``), and a call that ends with the actor (``"life"``).
"""

from __future__ import annotations

import pickle
import threading
from dataclasses import replace
from typing import Any

import cloudpickle
import numpy as np
import torch
from tensordict import TensorDictBase

from torchrl._core.errors import summary
from torchrl._core.workers.process import seed_worker
from torchrl._core.workers.ray_session import Place
from torchrl._core.workers.shared_batch import BatchLayout, SharedBatch
from torchrl.collectors.env_factories import layers
from torchrl.collectors.interrupt import Interruptor
from torchrl.collectors.worker import CollectorWorker, WorkerInfo
from torchrl.data import RayReplayBuffer
from torchrl.envs import EnvBase
from torchrl.weight_update.ray import RayWeightReceiver
from torchrl.weight_update.scheme import Layout

GROUPS = {"news": 1, "life": 1}
DONE, TENSORS, PICKLED, FRAMES, FAILED = "done", "tensors", "pickled", "frames", "failed"
FIRST_ID_BITS = 40  # an actor that was restarted numbers its trajectories from a multiple of 2 ** 40
Reply = tuple[Any, ...]  # one of the five names above, and what belongs to it


class RayWorker:
    """A collector in a Ray actor. Nothing is built before :meth:`build`, whose errors are replies, too."""

    def __init__(self) -> None:
        self._forever = threading.Event()
        self._lock = threading.Lock()
        self._interruptor = Interruptor()
        self._batch, self._stopped = 0, -1  # number of the batch; of the last one that is to end early
        self._receiver: RayWeightReceiver | None = None
        self._memory: SharedBatch | None = None
        self._worker: CollectorWorker | None = None
        self._buffer: RayReplayBuffer | None = None
        self._writer = ""

    def where(self) -> Place:
        """Return where this actor is."""
        return Place.here()

    def stay(self) -> None:
        """Wait until the actor ends."""
        self._forever.wait()

    def build(
        self,
        config: bytes,
        policy: bytes,
        buffer: RayReplayBuffer | None,
        seed: tuple[int, ...],
        options: dict[str, Any],
    ) -> Reply:
        """Build the collector.

        Args:
            config: The pickled configuration.
            policy: The pickled policy.
            buffer: The replay buffer that it writes to, if it does.
            seed: What the random numbers of this actor follow from.
            options: ``num_threads``, ``attempt`` (how often the worker was started before) and ``layout`` (of the
                weights that it follows, if it does).
        """

        def work() -> tuple[WorkerInfo, str]:
            torch.set_num_threads(options["num_threads"])
            seed_worker(*seed)
            self._buffer, self._writer = buffer, Place.here().actor
            built = replace(pickle.loads(config), policy=pickle.loads(policy), replay_buffer=buffer)
            self._worker = worker = CollectorWorker(built, self._interruptor)
            ids = worker.collector._numbers
            assert ids is not None
            ids.next_free = options["attempt"] << FIRST_ID_BITS
            if options["layout"] is not None:
                self._follow(options["layout"])
            return worker.worker_info(), name_of(worker.collector.env)

        return _reply(work)

    def follow(self, layout: Layout) -> Reply:
        """Update the weights of the policy, before each action, from those that :meth:`deliver` is sent."""
        return _reply(self._follow, layout)

    def _follow(self, layout: Layout) -> None:
        assert self._worker is not None

        def make(policy: object) -> RayWeightReceiver:
            self._receiver = RayWeightReceiver(policy, layout)
            return self._receiver

        self._worker.collector._acting.follow(make)

    def deliver(self, version: int, weights: np.ndarray) -> None:
        """Keep new weights for the next action."""
        if self._receiver is not None:
            self._receiver.put(version, weights)

    def stop(self, batch: int) -> None:
        """End a batch, and those before it, after the next step."""
        with self._lock:
            self._stopped = max(self._stopped, batch)
            if self._batch <= self._stopped:
                self._interruptor.stop_collection()

    def collect(
        self, number: int, batch: int, random: bool, version: int = -1, weights: np.ndarray | None = None
    ) -> Reply:
        """Collect a batch.

        Args:
            number: How many requests this actor was sent, with this one.
            batch: Number of the batch, for :meth:`stop`.
            random: Whether actions are random.
            version: Version of the weights.
            weights: The newest weights, if they may not have arrived yet.

        Returns: its layout, if that is another than before, and its bytes; or the pickled batch; or the number of
            frames that went into the replay buffer.
        """
        if weights is not None:
            self.deliver(version, weights)
        with self._lock:
            self._batch = batch
            if batch > self._stopped:
                self._interruptor.start_collection()
        try:
            assert self._worker is not None
            if self._buffer is not None:
                self._buffer.write_as(self._writer, number)
            found = self._worker.collect(random)
            return (FRAMES, found) if isinstance(found, int) else self._packed(found)
        except BaseException as error:
            return (FAILED, *summary(error))

    def _packed(self, batch: TensorDictBase) -> Reply:
        assert self._worker is not None
        if batch.device is not None and batch.device.type != "cpu":
            batch = batch.cpu()
        layout = None if self._worker.config.use_buffers is False else BatchLayout.of(batch)
        if layout is None:
            return PICKLED, cloudpickle.dumps(batch)
        is_new = self._memory is None or self._memory.layout != layout
        if self._memory is None or is_new:
            self._memory = SharedBatch(layout, kind="own")
        self._memory.write(batch)
        # Ray copies it into its store before the next batch is collected.
        return TENSORS, layout if is_new else None, self._memory.memory.bytes.numpy()

    def call(self, request: bytes) -> Reply:
        """Call a method of the :class:`~torchrl.collectors.worker.CollectorWorker`; reply its pickled value."""
        name, args = pickle.loads(request)
        return _reply(lambda: cloudpickle.dumps(getattr(self._worker, name)(*args)))

    def close(self, close_env: bool) -> None:
        """Shut the collector down."""
        if self._worker is not None:
            self._worker.close(close_env)


def name_of(env: EnvBase) -> str:
    """Return the name of an environment, for error messages.

    >>> from torchrl.envs import GymEnv
    >>> name_of(GymEnv("CartPole-v1"))
    "GymEnv('CartPole-v1')"
    """
    *_, innermost = layers(env)
    task = getattr(innermost, "env_name", None)
    return type(innermost).__name__ + (f"({task!r})" if isinstance(task, str) else "")


def _reply(work: Any, *args: object) -> Reply:
    try:
        return DONE, work(*args)
    except BaseException as error:  # a reply like any other, so that its text is the same as that of processes
        return (FAILED, *summary(error))
