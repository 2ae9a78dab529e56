"""Where batches come from, and how many frames that makes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from tensordict import TensorDictBase

from torchrl._core.errors import describe
from torchrl.collectors import BaseCollector
from torchrl.trainers.hooks.batch import num_frames

POLL = 0.005  # seconds between two looks at a buffer that is filled in the background


class Source:
    """The batches of a collector; ``None`` for those that it puts into a buffer itself.

    Args:
        collector: Where batches come from.
        replay_buffer: The buffer that the trainer samples from, if it was given one.
        frame_skip: How many frames of the simulator a step is.
        in_background: Collect into the buffer while the caller does other things.

    Raises:
        ValueError: if the background has no buffer to fill.

    >>> from torchrl.collectors import Collector
    >>> from torchrl.envs import GymEnv
    >>> source = Source(Collector(GymEnv("CartPole-v1"), frames_per_batch=5, total_frames=10))
    >>> [source.frames(batch, before=0) for batch in source]
    [5, 5]
    """

    def __init__(
        self,
        collector: BaseCollector,
        replay_buffer: Any = None,
        *,
        frame_skip: int = 1,
        in_background: bool = False,
    ) -> None:
        shared = getattr(collector, "replay_buffer", None)
        self.collector, self.frame_skip, self.in_background = collector, frame_skip, in_background
        self.buffer: Any = shared if replay_buffer is None else replay_buffer
        self.hands_over = shared is None or not getattr(collector, "extend_buffer", True)
        random_steps = getattr(collector, "init_random_frames", None) or 0
        self.random_frames = random_steps * frame_skip
        if in_background and self.hands_over:
            hint = "Give the collector the replay_buffer that this trainer samples from."
            fact = "async_collection needs a collector that fills a buffer"
            raise ValueError(describe("Trainer", fact, hint=hint))
        self._at_the_end: dict[str, Any] | None = None

    def __iter__(self) -> Iterator[TensorDictBase | None]:
        return self._beside() if self.in_background else iter(self.collector)

    def _beside(self) -> Iterator[None]:
        """Yield while the buffer is filled, and once more for what came last."""
        seen, first = 0, max(1, self.random_frames)
        self.collector.start()
        while self.collector.is_running() or self._written() > seen:
            seen = self._written()
            if seen >= first:
                yield
            else:
                time.sleep(POLL)

    def frames(self, batch: TensorDictBase | None, before: int) -> int:
        """Return the frames collected so far, given those before this batch."""
        return self._written() if batch is None else before + num_frames(batch) * self.frame_skip

    def _written(self) -> int:
        return int(self.buffer.write_count) * self.frame_skip

    def state_dict(self) -> dict[str, Any]:
        """Return that of the collector; at the end of a run, what :meth:`remember` took note of."""
        return self.collector.state_dict() if self._at_the_end is None else self._at_the_end

    def remember(self) -> None:
        """Take note of where the collector stands: workers that were shut down do not answer."""
        with self.collector.pause():
            self._at_the_end = self.collector.state_dict()

    def shutdown(self) -> None:
        """End collection; calling it again is fine.

        Raises:
            Exception: the error that ended collection in the background, if one did.
        """
        if self.in_background:
            self.collector.async_shutdown()
        else:
            self.collector.shutdown()
