"""The base class of collectors: iterators over batches, with a policy whose weights can change."""

from __future__ import annotations

import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tensordict import TensorDictBase
from torch.utils.data import IterableDataset

from torchrl._core.errors import describe
from torchrl._core.legacy import old_keywords
from torchrl.collectors.policy_runner import Options, arguments, is_wanted
from torchrl.collectors.profile import ProfileConfig
from torchrl.collectors.trajectory_assembler import TrajectoryAssembler
from torchrl.weight_update import Weights, WeightSyncScheme, WeightUpdaterBase
from torchrl.weight_update.sync_schemes import Updater, sends_weights, updater_of

_END = object()  # of an iterator


class BaseCollector(IterableDataset, ABC):
    """Iterates over batches of transitions.

    Args:
        pre_collect_hook: Called without arguments before each batch.
        post_collect_hook: Called with each batch; with ``None`` where workers wrote it into the
            replay buffer themselves.

    Hooks:
        _next_batch: ``-> (batch | None, frames)``; collect a batch; return it and its frames.
        _renew: ``weights | None, worker_ids | None``; set the weights of the policy.
        _first_attribute: ``name -> value``; an attribute of the (first) collector, by dotted name.
        increment_version: count an update of the weights that was not made here.
        fake_tensordict: return a batch of zeros.
        enable_profile: write a trace of the next batches.
        shutdown: release what the collector holds; calling it twice is fine.
        state_dict, load_state_dict: save and load the state of the collector.
        set_seed: seed the environments; return the seed that follows.

    >>> from torchrl.collectors import Collector
    >>> from torchrl.envs import GymEnv
    >>> collector = Collector(GymEnv("CartPole-v1"), frames_per_batch=20, total_frames=40)
    >>> [batch.shape for batch in collector]
    [torch.Size([20]), torch.Size([20])]
    """

    frames_per_batch: int
    requested_frames_per_batch: int
    total_frames: int = -1
    replay_buffer: Any = None
    weight_updater: WeightUpdaterBase | None = None
    _sends_weights = True
    _compile_policy: Options = None
    _cudagraph_policy: Options = None
    extend_buffer: bool = True
    reset_at_each_iter: bool = False
    postproc: Callable[[TensorDictBase], TensorDictBase] | None = None
    _background: Background | None = None
    _whole: TrajectoryAssembler | None = None
    _written: TrajectoryAssembler | None = None

    def __init__(
        self,
        *,
        pre_collect_hook: Callable[[], object] | None = None,
        post_collect_hook: Callable[[TensorDictBase | None], object] | None = None,
    ) -> None:
        self.pre_collect_hook, self.post_collect_hook = pre_collect_hook, post_collect_hook
        self._frames = self._iter = 0

    def __new__(cls, *args: object, **kwargs: object) -> Any:
        """Make a collector, perhaps one of another class."""
        other = cls._built_instead(args, kwargs)
        return super().__new__(cls) if other is None else other

    @classmethod
    def _built_instead(cls, args: tuple, kwargs: dict[str, Any]) -> BaseCollector | None:
        """Return a collector to build in place of one of this class."""
        return None

    @abstractmethod
    def _next_batch(self) -> tuple[Any, int]: ...

    @abstractmethod
    def _renew(self, weights: Weights | None, worker_ids: Sequence[int] | None) -> None: ...

    @abstractmethod
    def shutdown(self, timeout: float | None = None, close_env: bool = True) -> None: ...

    @abstractmethod
    def state_dict(self) -> dict[str, object]: ...

    @abstractmethod
    def load_state_dict(self, state_dict: dict[str, object]) -> None: ...

    @abstractmethod
    def set_seed(self, seed: int, static_seed: bool = False) -> int | None: ...

    @abstractmethod
    def _first_attribute(self, name: str) -> object: ...

    @abstractmethod
    def increment_version(self) -> None: ...

    @abstractmethod
    def fake_tensordict(self) -> TensorDictBase: ...

    @abstractmethod
    def enable_profile(self, config: ProfileConfig | None = None, **options: object) -> None: ...

    @property
    @abstractmethod
    def policy_version(self) -> int:
        """Number of updates of the weights of the policy that acts."""

    # --- batches ---------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Any]:
        return self.iterator()

    def iterator(self) -> Iterator[object]:
        """Yield batches until ``total_frames``; a later iterator continues from there."""
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

    def _batches(self) -> Iterator[TensorDictBase]:
        while self.total_frames < 0 or self._frames < self.total_frames:
            yield self.rollout()

    def _handed_over(self, batches: Iterator[TensorDictBase]) -> Iterator[object]:
        """Yield batches, of whole trajectories if wanted, or write them into the buffer."""
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
            raise TypeError(f"{type(self).__name__}: episodes end when they end; count the batches.")
        return -(-self.total_frames // self.frames_per_batch)

    def _warn_of_rounding(self, asked: object, found: object, sharers: str, stacklevel: int) -> None:
        """Warn where batches, of one or of each worker, have more frames than requested."""
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
        self, per_batch: int | None, form: str | None, per_write: int | None, splits: bool | None, numbered: bool = True
    ) -> None:
        """Assemble whole trajectories, for batches or for the replay buffer."""
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
            self._whole = TrajectoryAssembler(count, form, keeps_open=keeps_open)
            return
        if per_batch is not None or self.replay_buffer is None or not self.extend_buffer:
            raise ValueError(
                f"{type(self).__name__}: trajs_per_write needs a replay_buffer to write to, and no trajs_per_batch."
            )
        self._written = TrajectoryAssembler(count, "cat", keeps_open=keeps_open)

    def _forget_trajectories(self) -> None:
        """Drop the trajectories that have not ended, which a reset cuts."""
        for gathered in (self._whole, self._written):
            if gathered is not None:
                gathered.reset()

    def _kept_trajectories(self) -> list[object]:
        return [each and each.state_dict() for each in (self._whole, self._written)]

    def _keep_trajectories(self, states: Sequence[dict]) -> None:
        for each, state in zip((self._whole, self._written), states, strict=True):
            if each is not None and state is not None:
                each.load_state_dict(state)

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
        """Update the weights of the policy that acts; they hold from its next action on.

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
                raise ValueError(f"{type(self).__name__}: give either weights or a weights_dict, not both.")
            policy_or_weights = weights_dict.get("policy")
        named = {*(weights_dict or ()), *([] if model_id is None else [model_id])}
        if named - {"policy"}:
            raise ValueError(
                describe(self, "has one model whose weights can be updated", expected="'policy'", found=sorted(named))
            )
        chosen = [worker_ids] if isinstance(worker_ids, int) else worker_ids
        if self.weight_updater is not None:
            self.weight_updater.push_weights(policy_or_weights, chosen)
        elif self._sends_weights:
            self._renew(policy_or_weights, chosen)

    def send_weights(self, weights: Weights | None = None, worker_ids: Sequence[int] | None = None) -> None:
        """Update the weights as without a ``weight_updater``, which may call this itself."""
        self._renew(weights, worker_ids)

    def _set_options(
        self,
        reset_when_done: bool,
        schemes: Mapping[str, WeightSyncScheme] | None,
        updater: Updater,
        compile_policy: Options,
        cudagraph_policy: Options,
    ) -> None:
        if not reset_when_done:
            hint = "Take steps without resets by env.rollout(..., break_when_all_done=True)."
            raise ValueError(describe(self, "resets the rows that end", found="reset_when_done=False", hint=hint))
        self._compile_policy, self._cudagraph_policy = compile_policy, cudagraph_policy
        if schemes is not None and updater is not None:
            raise ValueError(f"{type(self).__name__}: give either weight_sync_schemes or a weight_updater, not both.")
        self._sends_weights = sends_weights(schemes, self)
        self.weight_updater = updater_of(updater, self)

    def get_policy_version(self) -> int:
        """Return :attr:`policy_version`."""
        return self.policy_version

    def getattr_env(self, name: str) -> object:
        """Return an attribute of the environment, of that of the first worker if there are workers."""
        return self._first_attribute(f"env.{name}")

    def getattr_policy(self, name: str) -> object:
        """Return an attribute of the policy that acts, of that of the first worker if there are workers."""
        return self._first_attribute(f"acting_policy.{name}")

    @property
    def compiled_policy_kwargs(self) -> dict[str, object]:
        """The arguments of ``torch.compile`` for the policy."""
        return arguments(self._compile_policy)

    @property
    def compiled_policy(self) -> bool:
        """Whether the policy is compiled."""
        return is_wanted(self._compile_policy)

    @property
    def cudagraphed_policy_kwargs(self) -> dict[str, object]:
        """The arguments of ``tensordict.nn.CudaGraphModule`` for the policy."""
        return arguments(self._cudagraph_policy)

    @property
    def cudagraphed_policy(self) -> bool:
        """Whether the policy is captured in a CUDA graph."""
        return is_wanted(self._cudagraph_policy)

    # --- background ------------------------------------------------------------------------------

    def start(self) -> None:
        """Fill the replay buffer in the background, until :meth:`async_shutdown`.

        Other methods may be called meanwhile: they wait for the current batch, as :meth:`pause`
        does. :meth:`update_policy_weights_` waits only where the weights of some workers, or of a
        policy in this process, are updated.

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
        """Hold background collection, between two batches, for the length of a ``with`` block.

        It has no effect in hooks that the background thread itself calls.
        """
        if self._background is None or self._background.is_current():
            yield
        else:
            with self.pause():
                yield

    def is_running(self) -> bool:
        """Return whether background collection runs; raise the error that ended it, if one did."""
        if self._background is None:
            return False
        self._background.check()
        return self._background.is_running()

    def async_shutdown(self, timeout: float | None = None, close_env: bool = True) -> None:
        """End background collection and shut down.

        Args:
            timeout: Seconds that the current batch may take; unlimited if ``None``.
            close_env: Whether to close the environments.

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

    def stats(self) -> dict[str, object]:
        """Return the progress of collection, for a log.

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


class Background:
    """Exhausts an iterator in a thread, which can be paused.

    Args:
        batches: The iterator.
        name: Name of the thread.

    >>> counted = []
    >>> background = Background(iter(map(counted.append, range(3))), "counting")
    >>> background.stop()
    >>> len(counted) <= 3
    True
    """

    def __init__(self, batches: Iterator[object], name: str) -> None:
        self._batches = batches
        self._condition = threading.Condition()
        self._pauses, self._stopping, self._busy = 0, False, False
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while self._wait_for_turn():
                item = next(self._batches, _END)
                self._set_idle()
                if item is _END:
                    return
        except BaseException as error:  # raised by check()
            self.error = error
        finally:
            self._set_idle()

    def _wait_for_turn(self) -> bool:
        """Wait until no pause is left; return whether to collect another batch."""
        with self._condition:
            self._condition.wait_for(lambda: self._stopping or not self._pauses)
            self._busy = not self._stopping
            return self._busy

    def _set_idle(self) -> None:
        with self._condition:
            self._busy = False
            self._condition.notify_all()

    def is_running(self) -> bool:
        """Return whether the thread runs, or would run without a pause."""
        return self._thread.is_alive()

    def is_current(self) -> bool:
        """Return whether the caller runs in the thread."""
        return self._thread is threading.current_thread()

    def check(self) -> None:
        """Raise what ended the thread, once, if it was an error."""
        error, self.error = self.error, None
        if error is not None:
            raise error

    def pause(self) -> None:
        """Wait for the current batch; collect no other until :meth:`resume`."""
        with self._condition:
            self._pauses += 1
            self._condition.wait_for(lambda: not self._busy)

    def resume(self) -> None:
        """End one pause."""
        with self._condition:
            self._pauses -= 1
            self._condition.notify_all()

    def stop(self, timeout: float | None = None) -> None:
        """End the thread after the current batch."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)


def extend(replay_buffer: Any, batch: TensorDictBase) -> None:
    """Write the steps of a batch ``[*B, T]`` into a buffer, without padding."""
    mask = batch.get(("collector", "mask"), None)
    if mask is not None:
        replay_buffer.extend(batch[mask])
    elif batch.ndim > 1 and replay_buffer.ndim == batch.ndim:
        replay_buffer.extend(batch)
    else:
        replay_buffer.extend(batch.reshape(-1))
