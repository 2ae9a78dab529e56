"""Batches to which every worker contributes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tensordict import TensorDictBase

from torchrl._core.errors import describe
from torchrl.collectors.multi import MultiCollector, name_time
from torchrl.collectors.recipes import Factory


class MultiSyncCollector(MultiCollector):
    """Yields batches to which every worker contributes its share.

    Workers collect at the same time, and not before the batch is asked for: all steps of a batch
    follow the last update of the weights.

    Args:
        create_env_fn: As in :class:`MultiCollector`, with the other arguments.
        policy: Writes the action.
        cat_results: How the shares ``[*B, T]`` become a batch: ``"stack"`` gives ``[N, *B, T]``, a
            dimension concatenates along it. ``None`` keeps time last and puts rows beside each
            other: ``[N, T]`` where environments have no batch size, else ``[N * B, T]``.
        preemptive_threshold: Once this fraction of the workers is done, the others end their share
            early. All are then filled up with zeros, and ``("collector", "mask")`` tells the
            steps; only those count as frames.
        kwargs: Other arguments of :class:`MultiCollector`.

    >>> from torchrl.envs import GymEnv
    >>> with MultiSyncCollector(
    ...     [lambda: GymEnv("CartPole-v1")] * 2, frames_per_batch=20, total_frames=40
    ... ) as collector:
    ...     [batch.shape for batch in collector]
    [torch.Size([2, 10]), torch.Size([2, 10])]
    """

    def __init__(
        self,
        create_env_fn: Factory | Sequence[Factory],
        policy: Callable[..., Any] | None = None,
        *,
        cat_results: str | int | None = None,
        preemptive_threshold: float | None = None,
        **kwargs: Any,
    ) -> None:
        if cat_results not in (None, "stack", 0, -1):
            raise ValueError(
                f"MultiSyncCollector: cat_results must be 'stack', 0, -1 or None, found "
                f"{cat_results!r}."
            )
        self.cat_results, self.preemptive_threshold = cat_results, preemptive_threshold
        self._pads = preemptive_threshold is not None
        super().__init__(create_env_fn, policy, **kwargs)

    def _frames_of(self, frames_per_batch: int | Sequence[int]) -> int | Sequence[int]:
        if isinstance(frames_per_batch, int):
            return -(-frames_per_batch // self.num_workers)
        return frames_per_batch

    def _full_batch(self, frames: list[int]) -> int:
        return sum(frames)

    def _gather(self) -> tuple[Any, int]:
        crew, count = self._crew, self.num_workers
        crew.interruptor.start_collection()
        self._requested = self._frames  # fewer than asked for, where shares ended early
        for worker in range(count):
            self._request(worker)
        enough = count if self.preemptive_threshold is None else self.preemptive_threshold * count
        shares: list[Any] = [None] * count
        for done in range(1, count + 1):
            worker, share = crew.wait()
            shares[worker] = share
            if done >= enough:
                crew.interruptor.stop_collection()
        if isinstance(shares[0], int):
            return 0, sum(shares)
        if self._pads:
            frames = sum(int(share["collector", "mask"].sum()) for share in shares)
        else:
            frames = self.frames_per_batch
        return self._joined(shares), frames

    def _joined(self, shares: Any) -> TensorDictBase:
        devices = self._stored
        if any(device is not None for device in devices):
            shares = [share.to(devices[0]) for share in shares]
        how = self.cat_results
        try:
            if how == "stack" or (how is None and shares[0].ndim == 1):
                batch: Any = torch.stack(shares, 0)
            else:
                batch = torch.cat(shares, -1 if how == -1 else 0)
        except RuntimeError as error:
            raise ValueError(
                describe(
                    self,
                    "cannot join the shares of the workers",
                    found=[tuple(share.batch_size) for share in shares],
                    hint=f"Give them equal shares, or another cat_results than {how!r}. ({error})",
                )
            ) from None
        return name_time(batch)
