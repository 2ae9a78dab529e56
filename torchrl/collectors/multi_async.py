"""Batches of single workers, as they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torchrl.collectors.multi import MultiCollector
from torchrl.collectors.recipes import Factory


class MultiAsyncCollector(MultiCollector):
    """Yields the batches of single workers, as they come.

    A worker goes on as soon as its batch was taken, while the caller learns. Updated weights hold
    from its next action on; with ``track_policy_version`` each step tells which ones acted.

    Args:
        create_env_fn: As in :class:`MultiCollector`, with the other arguments.
        policy: Writes the action.
        kwargs: Other arguments of :class:`MultiCollector`. Each batch has all
            ``frames_per_batch``.

    >>> from torchrl.envs import GymEnv
    >>> with MultiAsyncCollector(
    ...     [lambda: GymEnv("CartPole-v1")] * 2, frames_per_batch=20, total_frames=60
    ... ) as collector:
    ...     [batch.shape for batch in collector]
    [torch.Size([20]), torch.Size([20]), torch.Size([20])]
    """

    def _frames_of(self, frames_per_batch: int | Sequence[int]) -> int | Sequence[int]:
        return frames_per_batch

    def _full_batch(self, frames: list[int]) -> int:
        return max(frames)

    def _gather(self) -> tuple[Any, int]:
        for worker in range(self.num_workers):
            if not self._crew.is_asked(worker):
                self._request_if_wanted(worker)
        worker, found = self._crew.wait()
        frames = self._crew.facts[worker].frames
        batch = self._own(worker, found)
        self._request_if_wanted(worker)
        return batch, frames

    def _request_if_wanted(self, worker: int) -> None:
        if self.total_frames < 0 or self._requested < self.total_frames:
            self._request(worker)


class AsyncCollector(MultiAsyncCollector):
    """Collects in one worker process while the caller learns.

    Args:
        create_env_fn: The environment, or a function that builds it.
        policy: Writes the action.
        kwargs: Other arguments of :class:`MultiCollector`.

    >>> from torchrl.envs import GymEnv
    >>> with AsyncCollector(
    ...     lambda: GymEnv("CartPole-v1"), frames_per_batch=20, total_frames=40
    ... ) as collector:
    ...     [batch.shape for batch in collector]
    [torch.Size([20]), torch.Size([20])]
    """

    def __init__(
        self, create_env_fn: Factory, policy: Callable[..., Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__([create_env_fn], policy, **kwargs)
