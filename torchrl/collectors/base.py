"""What every collector is: an iterator of batches, with a policy whose weights can be renewed."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tensordict import TensorDictBase
from torch.utils.data import IterableDataset

from torchrl._core.errors import describe
from torchrl._core.legacy import old_keywords
from torchrl.collectors.background import Background
from torchrl.collectors.whole import WholeTrajectories
from torchrl.weight_update import Weights


class BaseCollector(IterableDataset, ABC):
    """Iterates over batches of transitions.

    Args:
        pre_collect_hook: Called without arguments before each batch.
        post_collect_hook: Called with each batch; with ``None`` where workers wrote it into the
            replay buffer themselves.

    Hooks:
        _next_batch: ``-> (batch or None, frames)``; collect, and say how much that was.
        _renew: ``weights or None, worker_ids or None``; let the policy act with these weights.
        shutdown: release what the collector holds; calling it twice is fine.
        state_dict, load_state_dict: where the collector stands.
        set_seed: seed the environments; return the seed for the next.
    """

    frames_per_batch: int
    requested_frames_per_batch: int
    total_frames: int = -1
    replay_buffer: Any = None
    extend_buffer: bool = True
    reset_at_each_iter: bool = False
    postproc: Callable[[TensorDictBase], TensorDictBase] | None = None
    _background: Background | None = None
    _whole: WholeTrajectories | None = None
    _written: WholeTrajectories | None = None

    def __init__(
        self,
        *,
        pre_collect_hook: Callable[[], Any] | None = None,
        post_collect_hook: Callable[[TensorDictBase | None], Any] | None = None,
    ) -> None:
        self.pre_collect_hook, self.post_collect_hook = pre_collect_hook, post_collect_hook
        self._frames = self._iter = 0

    @abstractmethod
    def _next_batch(self) -> tuple[Any, int]: ...

    @abstractmethod
    def _renew(self, weights: Weights | None, worker_ids: Sequence[int] | None) -> None: ...

    @abstractmethod
    def shutdown(self, timeout: float | None = None, close_env: bool = True) -> None: ...

    @abstractmethod
    def state_dict(self) -> dict[str, Any]: ...

    @abstractmethod
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...

    @abstractmethod
    def set_seed(self, seed: int, static_seed: bool = False) -> int | None: ...

    @property
    @abstractmethod
    def policy_version(self) -> int:
        """Number of times that weights were sent to the policy that acts."""

    # --- batches ---------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Any]:
        return self.iterator()

    def iterator(self) -> Iterator[Any]:
        """Yield batches until ``total_frames``; going on later goes on from there."""
        yield from self._handed_over(self._batches())

    def next(self) -> Any:
        """Return the next batch, or ``None`` when all frames have been collected."""
        return next(self.iterator(), None)

    def rollout(self) -> Any:
        """Collect the steps of one batch from where the last one ended, and count them.

        Returns: the batch; ``None`` where workers wrote it into the replay buffer themselves.
        """
        with self._between_batches():
            if self.pre_collect_hook is not None:
                self.pre_collect_hook()
            batch, frames = self._next_batch()
            self._frames += frames
            self._iter += 1
            if self.post_collect_hook is not None:
                self.post_collect_hook(batch)
            return batch

    def _batches(self) -> Iterator[Any]:
        while self.total_frames < 0 or self._frames < self.total_frames:
            yield self.rollout()

    def _handed_over(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield batches, of whole trajectories if wanted; or put them into the buffer."""
        whole = self._whole
        for batch in batches if whole is None else whole.gather(batches):
            if whole is not None and self.postproc is not None:
                batch = self.postproc(batch)
            if batch is not None and self.replay_buffer is not None and self.extend_buffer:
                for steps in [batch] if self._written is None else self._written.add(batch):
                    extend(self.replay_buffer, steps)
                yield None
            else:
                yield batch
        for steps in () if self._written is None else self._written.rest():
            extend(self.replay_buffer, steps)

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

    def _warn_of_rounding(self, asked: Any, found: Any, sharers: str, stacklevel: int) -> None:
        """Warn where batches have more frames than were asked for, one number or one a worker."""
        if asked != found:
            warnings.warn(
                f"{type(self).__name__}: frames_per_batch={asked} cannot be shared equally by "
                f"{sharers}; batches have {found} frames. Pass frames_per_batch={found}.",
                stacklevel=stacklevel + 1,
            )

    def _warn_of_overshoot(self, stacklevel: int) -> None:
        extra = -self.total_frames % self.frames_per_batch
        if self.total_frames > 0 and extra:
            warnings.warn(
                f"{type(self).__name__}: total_frames={self.total_frames} is not a multiple of the "
                f"{self.frames_per_batch} frames of a batch; the last batch overshoots it by "
                f"{extra}.",
                stacklevel=stacklevel + 1,
            )

    def _set_trajectories(
        self,
        per_batch: int | None,
        form: str | None,
        per_write: int | None,
        splits: bool | None,
        numbered: bool = True,
    ) -> None:
        """Let batches, or what is written into the buffer, be whole trajectories."""
        name, count = "trajs_per_write", per_write
        if count is None:
            name, count = "trajs_per_batch", per_batch
        if per_batch is None and form is not None:
            raise ValueError(f"{type(self).__name__}: traj_format needs trajs_per_batch.")
        if count is None:
            return
        if splits:
            raise ValueError(
                f"{type(self).__name__}: split_trajs cuts batches of steps, {name} makes "
                "batches of whole trajectories; pass one of them."
            )
        if not numbered:
            raise ValueError(f"{type(self).__name__}: {name} needs track_traj_ids.")
        keeps_open = not self.reset_at_each_iter
        if per_write is None:
            self._whole = WholeTrajectories(count, form, keeps_open=keeps_open)
            return
        if per_batch is not None or self.replay_buffer is None or not self.extend_buffer:
            raise ValueError(
                f"{type(self).__name__}: trajs_per_write needs a replay_buffer to write to, and no "
                "trajs_per_batch."
            )
        self._written = WholeTrajectories(count, "cat", keeps_open=keeps_open)

    def _forget_trajectories(self) -> None:
        """Leave out, from what is handed over, the trajectories that are cut here."""
        for gathered in (self._whole, self._written):
            if gathered is not None:
                gathered.reset()

    # --- weights ---------------------------------------------------------------------------------

    @old_keywords(policy_weights="policy_or_weights")
    def update_policy_weights_(
        self,
        policy_or_weights: Weights | None = None,
        *,
        worker_ids: int | Sequence[int] | None = None,
        model_id: str | None = None,
        weights_dict: Mapping[str, Weights] | None = None,
    ) -> None:
        """Renew the weights of the policy that acts; they hold from its next action on.

        Args:
            policy_or_weights: A module, its parameters as a tensordict, or a state dict; the policy
                that the collector was given if ``None``.
            worker_ids: The workers that get them; all if ``None``.
            model_id: Name of the model; ``"policy"`` is the only one.
            weights_dict: Weights by model, instead of ``policy_or_weights``.

        Raises:
            TypeError: if the policy that acts has no weights, or there are none to send.
            ValueError: for another model or worker than there are.
        """
        if weights_dict is not None:
            if policy_or_weights is not None:
                raise ValueError(
                    f"{type(self).__name__}: give either weights or a weights_dict, not both."
                )
            policy_or_weights = weights_dict.get("policy")
        named = {*(weights_dict or ()), *([] if model_id is None else [model_id])}
        if named - {"policy"}:
            raise ValueError(
                describe(
                    self,
                    "has one model whose weights can be updated",
                    expected="'policy'",
                    found=sorted(named),
                )
            )
        self._renew(policy_or_weights, [worker_ids] if isinstance(worker_ids, int) else worker_ids)

    # --- beside the learner ----------------------------------------------------------------------

    def start(self) -> None:
        """Fill the replay buffer in the background, until :meth:`async_shutdown`.

        Other methods may be called meanwhile: they wait for the batch in the making, as
        :meth:`pause` does. :meth:`update_policy_weights_` waits only where the weights of some
        workers, or of a policy in this process, are renewed.

        Raises:
            ValueError: if there is no replay buffer to fill.
            RuntimeError: if it was started before.
        """
        if self.replay_buffer is None:
            raise ValueError(
                describe(
                    self,
                    "has no replay buffer to fill in the background",
                    hint="Pass replay_buffer, or iterate over the batches.",
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

    @contextmanager
    def _between_batches(self) -> Iterator[None]:
        """Hold background collection while the caller speaks to what collects.

        Hooks that the background thread itself calls are between two batches, or part of one.
        """
        if self._background is None or self._background.is_current():
            yield
        else:
            with self.pause():
                yield

    def is_running(self) -> bool:
        """Return whether the background still collects; raise what ended it if it was an error."""
        if self._background is None:
            return False
        self._background.check()
        return self._background.is_running()

    def async_shutdown(self, timeout: float | None = None, close_env: bool = True) -> None:
        """End background collection and shut down.

        Args:
            timeout: Seconds that the batch in the making may take; unlimited if ``None``.
            close_env: Whether to close the environment of this process.

        Raises:
            Exception: the error that ended background collection, if one did.
        """
        background = self._background
        self._stop_background(timeout)
        self.shutdown(close_env=close_env)
        if background is not None:
            background.check()

    def _stop_background(self, timeout: float | None = None) -> None:
        background, self._background = self._background, None
        if background is not None:
            background.stop(timeout)

    # --- the rest --------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Return how far collection has come, for a log.

        >>> from torchrl.collectors import Collector
        >>> from torchrl.envs import GymEnv
        >>> collector = Collector(GymEnv("CartPole-v1"), frames_per_batch=5, total_frames=10)
        >>> _ = collector.next()
        >>> collector.stats()["frames"], collector.stats()["completed"]
        (5, False)
        """
        return {
            "frames": self._frames,
            "batches": self._iter,
            "total_frames": self.total_frames,
            "completed": 0 <= self.total_frames <= self._frames,
            "requested_frames_per_batch": self.requested_frames_per_batch,
            "policy_version": self.policy_version,
        }

    def __enter__(self) -> BaseCollector:
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown()


def extend(replay_buffer: Any, batch: TensorDictBase) -> None:
    """Put the steps of a batch ``[*B, T]`` into a buffer; leave padding out."""
    mask = batch.get(("collector", "mask"), None)
    if mask is not None:
        replay_buffer.extend(batch[mask])
    elif batch.ndim > 1 and replay_buffer.ndim == batch.ndim:
        replay_buffer.extend(batch)
    else:
        replay_buffer.extend(batch.reshape(-1))
