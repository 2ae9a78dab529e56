"""What every collector is: an iterator of batches, with a policy whose weights can be renewed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tensordict import TensorDictBase
from torch import nn

from torchrl._core.errors import describe
from torchrl.collectors.background import Background
from torchrl.collectors.whole import WholeTrajectories


class BaseCollector(ABC):
    """Iterates over batches of transitions.

    Hooks:
        rollout: return the next batch.
        shutdown: release what the collector holds; calling it twice is fine.
        update_policy_weights_: renew the weights of the policy that acts.
        state_dict, load_state_dict: where the collector stands.
        set_seed: seed the environments; return the seed for the next.
    """

    frames_per_batch: int
    total_frames: int
    replay_buffer: Any
    extend_buffer: bool
    postproc: Callable[[TensorDictBase], TensorDictBase] | None
    _frames: int
    _iter: int
    _background: Background | None = None
    _whole: WholeTrajectories | None = None

    @abstractmethod
    def rollout(self) -> TensorDictBase: ...

    @abstractmethod
    def iterator(self) -> Iterator[Any]: ...

    @abstractmethod
    def shutdown(self, *, close_env: bool = True) -> None: ...

    @abstractmethod
    def update_policy_weights_(
        self, policy_or_weights: nn.Module | TensorDictBase | dict | None = None
    ) -> None: ...

    @abstractmethod
    def state_dict(self) -> dict[str, Any]: ...

    @abstractmethod
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...

    @abstractmethod
    def set_seed(self, seed: int, static_seed: bool = False) -> int | None: ...

    def __iter__(self) -> Iterator[Any]:
        return self.iterator()

    def next(self) -> Any:
        """Return the next batch, or ``None`` when all frames have been collected."""
        return next(self.iterator(), None)

    def __enter__(self) -> BaseCollector:
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown()

    def _set_trajectories(
        self, count: int | None, form: str | None, *, splits: bool, resets: bool
    ) -> None:
        if count is None:
            if form is not None:
                raise ValueError(f"{type(self).__name__}: traj_format needs trajs_per_batch.")
            return
        if splits:
            raise ValueError(
                f"{type(self).__name__}: split_trajs cuts batches of steps, trajs_per_batch makes "
                "batches of whole trajectories; pass one of them."
            )
        self._whole = WholeTrajectories(count, form, keeps_open=not resets)

    def _handed_over(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield batches, of whole trajectories if wanted; or put them into the buffer."""
        whole = self._whole
        for batch in batches if whole is None else whole.gather(batches):
            if whole is not None and self.postproc is not None:
                batch = self.postproc(batch)
            if batch is not None and self.replay_buffer is not None and self.extend_buffer:
                extend(self.replay_buffer, batch)
                yield None
            else:
                yield batch

    # --- beside the learner ----------------------------------------------------------------------

    def start(self) -> None:
        """Fill the replay buffer in the background, until :meth:`async_shutdown`.

        Raises:
            ValueError: if there is no replay buffer to fill.
            RuntimeError: if it was started before.
        """
        if self.replay_buffer is None:
            raise ValueError(
                describe(
                    self,
                    "has no replay buffer to fill in the background",
                    mend="Pass replay_buffer, or iterate over the batches.",
                )
            )
        if self._background is not None:
            raise RuntimeError(f"{type(self).__name__}: it was started already.")
        self._background = Background(self.iterator(), type(self).__name__)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Hold background collection, between two batches, for the length of a ``with`` block.

        Raises:
            Exception: the error that ended background collection, if one did.
        """
        if self._background is None:
            yield
            return
        self._background.pause()
        try:
            self._background.check()
            yield
        finally:
            self._background.resume()

    def is_running(self) -> bool:
        """Say whether the background still collects; raise what ended it if it was an error."""
        if self._background is None:
            return False
        self._background.check()
        return self._background.is_running()

    def async_shutdown(self, timeout: float | None = None) -> None:
        """End background collection and shut down.

        Args:
            timeout: Seconds that the batch in the making may take; unlimited if ``None``.

        Raises:
            Exception: the error that ended background collection, if one did.
        """
        background = self._background
        self._stop_background(timeout)
        self.shutdown()
        if background is not None:
            background.check()

    def _stop_background(self, timeout: float | None = None) -> None:
        background, self._background = self._background, None
        if background is not None:
            background.stop(timeout)

    def __len__(self) -> int:
        """Return the number of batches until ``total_frames``.

        Raises:
            TypeError: if the collector never ends.
        """
        if self.total_frames < 0:
            raise TypeError(f"{type(self).__name__} never ends: total_frames is negative.")
        if self._whole is not None:
            raise TypeError(
                f"{type(self).__name__}: episodes end when they end; count the batches."
            )
        return -(-self.total_frames // self.frames_per_batch)


def extend(replay_buffer: Any, batch: TensorDictBase) -> None:
    """Put the steps of a batch ``[*B, T]`` into a buffer; leave padding out."""
    mask = batch.get(("collector", "mask"), None)
    if mask is not None:
        replay_buffer.extend(batch[mask])
    elif batch.ndim > 1 and replay_buffer.storage.ndim == batch.ndim:
        replay_buffer.extend(batch)
    else:
        replay_buffer.extend(batch.reshape(-1))
