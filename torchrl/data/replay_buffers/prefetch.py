"""`Prefetcher`: batches that threads prepare ahead of `sample`."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from torchrl.data.replay_buffers.data_types import Data, Info, State
from torchrl.data.replay_buffers.samplers.base import Sampler

Drawn = tuple[Tensor, Info, bool]  # positions, info, whether the pass ended


@dataclass
class Batch:
    """A sample, the info of its items, and whether it ended a pass."""

    data: Data
    info: Info
    ran_out: bool


@dataclass
class Prepared:
    """A batch that is being prepared.

    Attributes:
        drawn: What the sampler drew.
        version: State of the buffer at that time, as ``version_of`` gives it.
        pass_state: ``sampler.pass_state()`` before the draw.
        random: State of the sampler's generator before the draw; ``None`` for the default one.
        future: The batch; ``None`` while no thread works on it. Its result is ``None`` if the
            buffer had changed by the time its rows were read.
    """

    drawn: Drawn
    version: object
    pass_state: object
    random: Tensor | None
    future: Future[Batch | None] | None = None


class Prefetcher:
    """A queue of batches that are prepared ahead, and dropped when the buffer changes.

    Items are drawn in the calling thread, one batch after the other; threads gather, collate and
    transform them. A batch is returned only if the buffer and the parameters of its sampler are as
    they were when it was drawn. Otherwise all batches of the queue are dropped, the sampler returns
    to its state before the first of them, and the batch is drawn again: it equals that of a buffer
    without prefetching.

    At most as many batches are prepared as were taken between the last two changes, so that a loop
    that writes before every sample prepares none.

    A caller that changes the buffer holds :attr:`lock` and calls :meth:`note_change` first.

    Args:
        depth: Number of batches prepared ahead at most.
        draw: ``batch_size -> drawn``.
        make: ``(drawn, version) -> Batch``, or ``None`` if the version is another one by now.
        version_of: Returns a value that differs after each change of stored rows or transforms.
        sampler_of: Returns the sampler.
    """

    def __init__(
        self,
        depth: int,
        draw: Callable[[int], Drawn],
        make: Callable[[Drawn, object], Batch | None],
        version_of: Callable[[], object],
        sampler_of: Callable[[], Sampler],
    ) -> None:
        self.depth, self._draw, self._make = depth, draw, make
        self._version_of, self._sampler_of = version_of, sampler_of
        self._taken, self._usual = 0, depth + 1  # batches since the last change, and before it
        self._start()

    def _start(self) -> None:
        """Set up an empty queue, and a lock and threads of this process."""
        self._queue: deque[Prepared] = deque()
        self._size: int | None = None
        self._version: object = None  # of the buffer at the last draw
        self._settings: State = {}  # of the sampler after the last draw
        self._random: Tensor | None = None  # of its generator after the last draw
        self._pool: ThreadPoolExecutor | None = None
        self._process = os.getpid()
        self.lock = threading.RLock()  # taken before the lock of the buffer, never after it

    def next(self, batch_size: int) -> Batch:
        """Return the next batch, prepared or drawn now."""
        self.check_process()
        with self.lock:
            if batch_size != self._size or self._is_outdated():
                self.note_change()
            self._size = batch_size
            if not self._queue:
                self._queue.append(self._drawn(batch_size))
            first = self._queue[0]
            self._taken += 1
            self._prepare(batch_size)
            try:
                batch = first.future.result() if first.future else self._finish(first)
            except BaseException:
                self._remove(first)
                raise
            if batch is not None:
                self._remove(first)
                return batch
            self.note_change()
            return self._retry(batch_size)

    def _retry(self, batch_size: int) -> Batch:
        """Draw again until no other process writes between draw and read."""
        while True:
            drawn = self._drawn(batch_size)
            batch = self._finish(drawn)
            if batch is not None:
                return batch
            self._queue.append(drawn)
            self.discard()

    def _remove(self, batch: Prepared) -> None:
        if self._queue and self._queue[0] is batch:
            self._queue.popleft()

    def _finish(self, batch: Prepared) -> Batch | None:
        return self._make(batch.drawn, batch.version)

    def has(self, batch_size: int) -> bool:
        """Whether a batch of this size is prepared and fits; drop the queue if not."""
        self.check_process()
        with self.lock:
            if self._queue and batch_size == self._size and not self._is_outdated():
                return True
            self.discard()
            return False

    def _drawn(self, batch_size: int) -> Prepared:
        sampler = self._sampler_of()
        version, pass_state = self._version_of(), sampler.pass_state()
        random = None if sampler.generator is None else sampler.generator.get_state()
        try:
            drawn = self._draw(batch_size)
        except BaseException:
            _restore(sampler, pass_state, random)
            raise
        self._note(sampler, version)
        return Prepared(drawn, version, pass_state, random)

    def _note(self, sampler: Sampler, version: object) -> None:
        """Record the state under which prepared batches are valid."""
        self._version, self._settings = version, sampler.settings()
        generator = sampler.generator
        self._random = None if generator is None else generator.get_state()

    def _prepare(self, batch_size: int) -> None:
        """Draw batches ahead, and let threads make them."""
        left = self._usual - self._taken
        ahead = self.depth if left < 0 else min(self.depth, left)
        while len(self._queue) <= ahead:
            try:
                batch = self._drawn(batch_size)
            except Exception:  # is raised again if that batch is asked for
                return
            self._submit(batch)

    def _submit(self, batch: Prepared) -> None:
        """Let a thread make a batch."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(min(self.depth, 4), "replay-prefetch")
        batch.future = self._pool.submit(self._finish, batch)
        self._queue.append(batch)

    def _is_outdated(self) -> bool:
        """Whether anything has changed since the oldest batch of the queue was drawn."""
        sampler, known = self._sampler_of(), self._settings
        drawn_at = self._queue[0].version if self._queue else self._version
        if drawn_at != self._version_of():
            return True
        settings = sampler.settings()
        return (
            settings.keys() != known.keys()
            or any(value is not known[name] for name, value in settings.items())
            or (self._random is not None and not self._owns_generator(sampler))
        )

    def _owns_generator(self, sampler: Sampler) -> bool:
        """Whether the generator is the same, and in the same state, as after the last draw."""
        generator = sampler.generator
        if generator is None or self._random is None:
            return False
        same = self._settings.get("generator") is generator
        return same and torch.equal(generator.get_state(), self._random)

    def note_change(self) -> None:
        """Drop all batches before the buffer or its sampler changes."""
        self.discard()
        if self._taken:
            self._usual, self._taken = self._taken, 0

    def discard(self) -> None:
        """Drop all batches; restore the state of the sampler before they were drawn.

        Parameters and generator states that were set from outside since then stay.
        """
        if not self._queue:
            return
        sampler, first, known = self._sampler_of(), self._queue[0], self._settings
        for batch in self._queue:
            if batch.future is not None:
                batch.future.cancel()
        self._queue.clear()
        changed = {
            name: value
            for name, value in sampler.settings().items()
            if name in vars(sampler) and (name not in known or value is not known[name])
        }
        _restore(sampler, first.pass_state, first.random if self._owns_generator(sampler) else None)
        vars(sampler).update(changed)
        if sampler.generator is not None:
            self._random = sampler.generator.get_state()

    def check_process(self) -> None:
        """Drop all batches in a forked process, where the threads do not run."""
        if os.getpid() != self._process:
            for batch in self._queue:
                batch.future = None
            kept = self._queue, self._settings, self._random
            self._start()
            self._queue, self._settings, self._random = kept
            self.discard()

    def state_dict(self) -> State:
        """Return the draws of the batches in the queue, and the counts of taken batches."""
        drawn = [(*each.drawn, each.pass_state, each.random) for each in self._queue]
        return {"size": self._size, "drawn": drawn, "taken": self._taken, "usual": self._usual}

    def load_state_dict(self, state_dict: State) -> None:
        """Load the draws of a :meth:`state_dict`; rows and sampler must be loaded before."""
        self._queue.clear()
        self._size = state_dict["size"]
        self._taken, self._usual = state_dict["taken"], state_dict["usual"]
        version = self._version_of()
        self._note(self._sampler_of(), version)
        for positions, info, ran_out, pass_state, random in state_dict["drawn"]:
            self._submit(Prepared((positions, dict(info), ran_out), version, pass_state, random))

    def __getstate__(self) -> State:
        """Return the state without the queue, the lock and the threads of this process."""
        names = ("depth", "_draw", "_make", "_version_of", "_sampler_of", "_taken", "_usual")
        return {name: self.__dict__[name] for name in names}

    def __setstate__(self, state: State) -> None:
        self.__dict__.update(state)
        self._start()


def drop_prepared(sampler: Sampler, state: State) -> None:
    """Restore the state of a sampler before the draws in the ``state`` of a prefetcher."""
    if state["drawn"]:
        *_, pass_state, random = state["drawn"][0]
        _restore(sampler, pass_state, random)


def _restore(sampler: Sampler, pass_state: object, random: Tensor | None) -> None:
    sampler.restore_pass(pass_state)
    if random is not None and sampler.generator is not None:
        sampler.generator.set_state(random)
