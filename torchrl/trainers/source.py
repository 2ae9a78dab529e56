"""The collector of a trainer: batches, frame counts, collection in the background."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from tensordict import TensorDictBase

from torchrl._core.errors import describe
from torchrl._core.log import logger as log
from torchrl.collectors import BaseCollector
from torchrl.data import ReplayBuffer
from torchrl.trainers.hooks.data import num_frames

POLL = 0.005  # seconds between two checks of a buffer that is filled in the background


def _episodes(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the state of a collector, or of each of its workers, says of the episodes in progress."""
    workers = [worker for name, worker in state.items() if name.startswith("worker")]
    return [worker.get("episodes", {}) for worker in workers or [state]]


def has_episodes(state: dict[str, Any]) -> bool:
    """Return whether the state of a collector has the episodes in progress.

    >>> has_episodes({"episodes": {"missing": "a simulator of C++"}, "frames": 10})
    False
    """
    return all(episodes and "missing" not in episodes for episodes in _episodes(state))


class Source:
    """Iterate over the batches of a collector; ``None`` for those that it stores in a buffer.

    Args:
        collector: The collector.
        replay_buffer: The buffer that the trainer samples from, if it was passed one.
        frame_skip: Frames of the simulator per step.
        in_background: Whether the collector fills the buffer in the background.
        poll_interval: Seconds between two checks of a buffer that is filled in the background.

    Attributes:
        yields_batches: Whether iterating yields batches rather than ``None``.

    Raises:
        ValueError: for collection in the background without a buffer.

    >>> from torchrl.collectors import Collector
    >>> from torchrl.envs import GymEnv
    >>> source = Source(Collector(GymEnv("CartPole-v1"), frames_per_batch=5, total_frames=10))
    >>> [source.frames(batch, before=0) for batch in source]
    [5, 5]
    """

    def __init__(
        self,
        collector: BaseCollector,
        replay_buffer: ReplayBuffer | None = None,
        *,
        frame_skip: int = 1,
        in_background: bool = False,
        poll_interval: float = POLL,
    ) -> None:
        shared = getattr(collector, "replay_buffer", None)
        self.collector, self.frame_skip, self.in_background = collector, frame_skip, in_background
        self.poll_interval = poll_interval
        self.buffer: Any = shared if replay_buffer is None else replay_buffer
        self.yields_batches = shared is None or not getattr(collector, "extend_buffer", True)
        random_steps = getattr(collector, "init_random_frames", None) or 0
        self.random_frames = random_steps * frame_skip
        if in_background and self.yields_batches:
            hint = "Give the collector the replay_buffer that this trainer samples from."
            fact = "async_collection needs a collector that fills a buffer"
            raise ValueError(describe("Trainer", fact, hint=hint))
        self._final_state: dict[str, Any] | None = None

    def __iter__(self) -> Iterator[TensorDictBase | None]:
        return self._background() if self.in_background else iter(self.collector)

    def _background(self) -> Iterator[None]:
        """Yield while the buffer is filled, and once more for the last steps."""
        seen, first = 0, max(1, self.random_frames)
        self.collector.start()
        while self.collector.is_running() or self._written() > seen:
            seen = self._written()
            if seen >= first:
                yield
            else:
                time.sleep(self.poll_interval)

    def frames(self, batch: TensorDictBase | None, before: int) -> int:
        """Return the frames collected so far, given those before this batch."""
        if batch is None:
            return self._written()
        count = getattr(self.collector, "num_frames", num_frames)  # the reader of a dataset counts batches
        return before + count(batch) * self.frame_skip

    def _written(self) -> int:
        return int(self.buffer.write_count) * self.frame_skip

    def end_unsaved_episodes(self, seed: int) -> None:
        """Start new episodes with a seed, if those in progress cannot be saved.

        So a run that goes on from the save, and the run that was saved, have the same episodes.
        """
        if self.in_background or self._final_state is not None:
            return
        missing = [each["missing"] for each in _episodes(self.collector.state_dict()) if "missing" in each]
        if missing:
            log.info("Trainer: new episodes start at each save. %s", missing[0])
            self.collector.set_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        """Return that of the collector; after a run, the one that :meth:`remember` kept."""
        return self.collector.state_dict() if self._final_state is None else self._final_state

    def remember(self) -> None:
        """Keep the collector's state, which workers cannot return after they are shut down."""
        with self.collector.pause():
            self._final_state = self.collector.state_dict()

    def shutdown(self) -> None:
        """Shut the collector down; may be called again.

        Raises:
            Exception: the error that ended collection in the background, if one did.
        """
        if self.in_background:
            self.collector.async_shutdown()
        else:
            self.collector.shutdown()
