"""`Prefetcher`: batches made ready by threads before they are asked for."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any


@dataclass
class Batch:
    """A sample, what the sampler says about it, and whether it ended a pass."""

    data: Any
    info: dict[Any, Any]
    ran_out: bool


class Prefetcher:
    """A queue of batches in the making.

    Who changes rows holds :attr:`lock` and calls :meth:`settle` first.

    Items are drawn in the calling thread, one batch after the other, so that a seed gives the same
    batches whatever the threads do; threads gather, collate and transform.

    Args:
        depth: Number of batches made ahead.
        draw: ``batch_size -> drawn``.
        make: ``drawn -> Batch``.
    """

    def __init__(
        self, depth: int, draw: Callable[[int], Any], make: Callable[[Any], Batch]
    ) -> None:
        self.depth, self._draw, self._make = depth, draw, make
        self._queue: deque[Future[Batch]] = deque()
        self._size: int | None = None
        self._pool: ThreadPoolExecutor | None = None
        self.lock = threading.RLock()  # taken before the lock of the buffer, never after it

    def next(self, batch_size: int) -> Batch:
        """Return the oldest batch; batches of another size are dropped."""
        with self.lock:
            if batch_size != self._size:
                self.clear()
                self._size = batch_size
            while len(self._queue) <= self.depth:
                self._queue.append(self._submit(self._draw(batch_size)))
            oldest = self._queue.popleft()
        return oldest.result()

    def _submit(self, drawn: Any) -> Future[Batch]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(min(self.depth, 4), "replay-prefetch")
        return self._pool.submit(self._make, drawn)

    def settle(self) -> None:
        """Wait until every batch in the queue is ready, so that no writer changes its rows."""
        if self._queue:
            wait(self._queue)

    def clear(self) -> None:
        """Drop all batches."""
        self.settle()
        self._queue.clear()
        self._size = None

    def state_dict(self) -> dict[str, Any]:
        """Return the batches in the queue."""
        batches = [future.result() for future in self._queue]
        ready = [(batch.data, batch.info, batch.ran_out) for batch in batches]
        return {"size": self._size, "batches": ready}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the batches of a :meth:`state_dict`."""
        self.clear()
        self._size = state_dict["size"]
        for parts in state_dict["batches"]:
            ready: Future[Batch] = Future()
            ready.set_result(Batch(*parts))
            self._queue.append(ready)

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_queue": deque(), "_size": None, "_pool": None}
        del state["lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, lock=threading.RLock())
