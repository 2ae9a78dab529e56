"""Collectors whose environments and policies act in worker processes."""

from __future__ import annotations

import weakref
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import nn

from torchrl._core.devices import check_devices
from torchrl._core.errors import describe
from torchrl._core.exploration import ExplorationType
from torchrl._core.legacy import old_keywords
from torchrl._core.log import logger
from torchrl._core.processes import Launcher, start_method
from torchrl.collectors.acting import Options, check_one_policy
from torchrl.collectors.base import BaseCollector
from torchrl.collectors.crew import CollectorCrew, Found
from torchrl.collectors.profile import Profile, profiled_workers
from torchrl.collectors.recipes import Device, Factory, materialize, one_each
from torchrl.collectors.single import Collector
from torchrl.collectors.worker import Job
from torchrl.data.trajectories import split_trajectories
from torchrl.weight_update import SharedMemSender, Weights

Devices = Device | Sequence[Device]
FOR_WORKERS = (  # arguments that go on to the collectors in the workers as they are
    "auto_register_policy_transforms",
    "compact_obs",
    "compile_policy",
    "create_env_kwargs",
    "cudagraph_policy",
    "exploration_type",
    "max_frames_per_traj",
    "no_cuda_sync",
    "policy_factory",
    "reset_at_each_iter",
    "set_truncated",
    "track_policy_version",
    "trust_policy",
)


class MultiCollector(BaseCollector):
    """Collectors in worker processes, each with an environment and a policy of its own.

    Workers use one torch thread each and this process keeps the rest. Weights travel through shared
    memory and hold from the next action on. If a worker raises or dies, all of them are ended and
    the error shows its traceback.

    Args:
        create_env_fn: A list with one environment, or one function that builds it, a worker; or one
            for all ``num_workers``. Environments are copied: a batched one that was not started is
            a recipe and may stand in the list several times.
        policy: Writes the action; acts at random if ``None``.
        num_workers: Number of workers; one an environment if ``None``.
        policy_factory: Builds the policy in the worker, instead of ``policy``; or a list with one
            an environment. Workers of one factory begin with the same weights.
        frames_per_batch: Frames in a batch; or a list with the share of each worker.
        total_frames: Stop after this many frames; never if negative.
        device: Default of the three devices below. All devices may be lists, one a worker.
        storing_device: Where batches are put.
        env_device: Where the environments live.
        policy_device: Where the policies act.
        create_env_kwargs: Keyword arguments for ``create_env_fn``, for all or one a worker.
        collector_class: What collects in a worker; a subclass of
            :class:`~torchrl.collectors.Collector`, which is the default.
        max_frames_per_traj: Truncate an episode after this many frames.
        init_random_frames: Act at random for this many frames first, of all workers together.
        reset_at_each_iter: Begin each batch with a reset.
        postproc: Applied to each batch, ``td -> td``.
        split_trajs: Give each piece of a trajectory a row of its own, zero-padded, with the mask
            ``("collector", "mask")``.
        exploration_type: How the policy acts.
        update_at_each_batch: Send the weights of ``policy`` before each batch.
        num_threads: Torch threads of this process while the workers run; what they leave if
            ``None``.
        num_sub_threads: Torch threads of each worker.
        set_truncated: Mark the last step of each worker's batch as truncated.
        use_buffers: Hand batches over in shared memory; else they are pickled. Found out if
            ``None``.
        replay_buffer: Filled with each batch; iterating then yields ``None``. Workers write to it
            themselves if it is shared.
        extend_buffer: If ``False``, iterating yields the batches and the buffer is left alone.
        trust_policy: Call the policy with the record, whatever its signature.
        compile_policy: Compile the policy with ``torch.compile``; a dictionary holds its arguments.
        cudagraph_policy: Capture the policy in a CUDA graph, as in
            :class:`~torchrl.collectors.Collector`.
        no_cuda_sync: Do not wait for moves to CUDA devices.
        track_policy_version: Write which weights acted, ``policy_version``.
        trajs_per_batch: Yield this many whole trajectories at a time, rather than steps; fewer at
            the end.
        traj_format: ``"padded"`` or ``"cat"``, as in :class:`~torchrl.collectors.Collector`.
        trajs_per_write: Write whole trajectories only, as in that class.
        init_fn: Called first of all in each worker, for instance to register environments.
        auto_register_policy_transforms: Append to the environments what the policy reads and they
            lack: the flag of first steps, recurrent states.
        pre_collect_hook: Called here, without arguments, before each batch.
        post_collect_hook: Called here with each batch; with ``None`` if the workers wrote it into
            the buffer.
        compact_obs: Leave out the observations after each step, which the next step holds too.
        mp_start_method: ``"fork"`` or ``"spawn"``; fork where that is safe if ``None``.
        timeout: Seconds that a worker may take for a batch; unlimited if ``None``.
        shutdown_timeout: Seconds that workers get to close their environments before they are
            killed.

    Hooks:
        _frames_of: ``frames_per_batch -> frames``; what each worker collects.
        _full_batch: frames of a batch, from those of the workers.
        _gather: ``-> (batch, frames)``; a number for the batch if workers wrote it themselves.

    Writes: as :class:`~torchrl.collectors.Collector`; trajectory numbers are unique among workers.

    Raises:
        WorkerError: at any use, if a worker raised, was killed, or did not answer in time.
    """

    @old_keywords(
        devices="device",
        storing_devices="storing_device",
        env_devices="env_device",
        policy_devices="policy_device",
    )
    def __init__(
        self,
        create_env_fn: Factory | Sequence[Factory],
        policy: Callable[..., Any] | None = None,
        *,
        num_workers: int | None = None,
        policy_factory: Callable[[], Any] | Sequence[Callable[[], Any]] | None = None,
        frames_per_batch: int | Sequence[int],
        total_frames: int = -1,
        device: Devices = None,
        storing_device: Devices = None,
        env_device: Devices = None,
        policy_device: Devices = None,
        create_env_kwargs: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
        collector_class: type[Collector] | None = None,
        max_frames_per_traj: int | None = None,
        init_random_frames: int | None = None,
        reset_at_each_iter: bool = False,
        postproc: Callable[[TensorDictBase], TensorDictBase] | None = None,
        split_trajs: bool | None = None,
        exploration_type: ExplorationType | str | None = ExplorationType.RANDOM,
        update_at_each_batch: bool = False,
        num_threads: int | None = None,
        num_sub_threads: int = 1,
        set_truncated: bool = False,
        use_buffers: bool | None = None,
        replay_buffer: Any = None,
        extend_buffer: bool = True,
        trust_policy: bool | None = None,
        compile_policy: Options = None,
        cudagraph_policy: Options = None,
        no_cuda_sync: bool = False,
        track_policy_version: bool = False,
        trajs_per_batch: int | None = None,
        traj_format: str | None = None,
        trajs_per_write: int | None = None,
        init_fn: Callable[[], Any] | None = None,
        auto_register_policy_transforms: bool | None = None,
        pre_collect_hook: Callable[[], Any] | None = None,
        post_collect_hook: Callable[[TensorDictBase | None], Any] | None = None,
        compact_obs: bool = False,
        mp_start_method: str | None = None,
        timeout: float | None = None,
        shutdown_timeout: float = 10.0,
    ) -> None:
        check_devices(self, **{n: v for n, v in locals().items() if n.endswith("device")})
        options = {name: value for name, value in locals().items() if name in FOR_WORKERS}
        super().__init__(pre_collect_hook=pre_collect_hook, post_collect_hook=post_collect_hook)
        check_one_policy(self, policy, policy_factory)
        self.policy, self.total_frames = policy, total_frames
        self.init_random_frames, self._requested = init_random_frames or 0, 0
        self.update_at_each_batch, self.postproc = update_at_each_batch, postproc
        self.split_trajs, self.reset_at_each_iter = bool(split_trajs), reset_at_each_iter
        self.replay_buffer, self.extend_buffer = replay_buffer, extend_buffer
        self._set_trajectories(trajs_per_batch, traj_format, trajs_per_write, split_trajs)
        recipes = one_each(self._name(), create_env_fn, num_workers)
        self.num_workers = len(recipes)
        self._stored = self._spread("storing_device", storing_device or device)
        options["policy_device"] = policy_device or device
        options["env_device"] = env_device or device
        options["frames_per_batch"] = self._frames_of(frames_per_batch)
        job = Job(
            pads=self._pads,
            use_buffers=use_buffers,
            collector_class=collector_class or Collector,
            init_fn=init_fn,
        )
        launcher = Launcher(start_method(mp_start_method), preload="torchrl.collectors")
        self._crew = CollectorCrew(
            self._name(),
            self._jobs(job, recipes, options),
            launcher=launcher,
            num_threads=num_sub_threads,
            timeout=timeout,
            shutdown_timeout=shutdown_timeout,
        )
        self._settle(frames_per_batch, policy_factory, num_threads, num_sub_threads)

    def _settle(self, asked: Any, factory: Any, num_threads: int | None, num_subs: int) -> None:
        """Do what needs the facts that the workers told."""
        self._finalizer = weakref.finalize(self, self._crew.close)
        self._sender = self._connect(factory)
        self._threads_before = self._share_threads(num_threads, num_subs)
        self.frames_per_batch = self._full_batch([fact.frames for fact in self._crew.facts])
        whole = isinstance(asked, int)
        self.requested_frames_per_batch = asked if whole else self._full_batch(list(asked))
        self._warn_of_rounding(
            asked if whole else list(asked),
            self.frames_per_batch if whole else [fact.frames for fact in self._crew.facts],
            f"{self.num_workers} workers and the environments of each",
            stacklevel=5,
        )
        self._warn_of_overshoot(stacklevel=5)

    _pads = False

    def _name(self) -> str:
        return type(self).__name__

    def _spread(self, name: str, value: Any) -> list[Any]:
        """Return a value for each worker: the same for all, or from a list."""
        if not isinstance(value, (list, tuple)):
            return [value] * self.num_workers
        if len(value) != self.num_workers:
            raise ValueError(
                f"{self._name()}: expected one {name} for each of {self.num_workers} workers, "
                f"found {len(value)}."
            )
        return list(value)

    def _jobs(self, job: Job, recipes: list[Factory], options: dict[str, Any]) -> list[Job]:
        """Return what each worker does: ``job``, with what is its own."""
        if self._workers_write():
            job = replace(job, replay_buffer=self.replay_buffer)
            options |= {"postproc": self.postproc, "split_trajs": self.split_trajs}
        each = {name: self._spread(name, value) for name, value in options.items()}
        if isinstance(self.policy, nn.Module):
            materialize(self.policy, recipes[0], each["create_env_kwargs"][0])
        return [
            replace(
                job,
                create_env_fn=recipe,
                policy=self.policy,
                options={name: values[i] for name, values in each.items()},
                number=i,
                num_workers=self.num_workers,
            )
            for i, recipe in enumerate(recipes)
        ]

    def _workers_write(self) -> bool:
        buffer = self.replay_buffer
        return (
            buffer is not None
            and self.extend_buffer
            and self._whole is self._written is None
            and bool(getattr(buffer, "writes_from_anywhere", False))
        )

    def _connect(self, policy_factory: Any) -> SharedMemSender | None:
        """Connect the weights here with those of the workers, if all of them look the same."""
        layout = self._crew.facts[0].weights
        if not layout or any(fact.weights != layout for fact in self._crew.facts):
            return None
        sender = SharedMemSender(layout)
        try:
            self._crew.follow(sender)
        finally:
            sender.close()
        if callable(policy_factory):
            sender.begin(self._crew.call(0, "weights"))
        return sender

    def _share_threads(self, num_threads: int | None, num_sub_threads: int) -> int:
        before = torch.get_num_threads()
        if num_threads is None:
            num_threads = max(1, before - self.num_workers * num_sub_threads)
        torch.set_num_threads(num_threads)
        logger.info(
            "%s: %d workers with %d torch thread(s) each; this process keeps %d of %d",
            self._name(),
            self.num_workers,
            num_sub_threads,
            num_threads,
            before,
        )
        return before

    # --- hooks -----------------------------------------------------------------------------------

    @abstractmethod
    def _frames_of(self, frames_per_batch: int | Sequence[int]) -> int | Sequence[int]: ...

    @abstractmethod
    def _full_batch(self, frames: list[int]) -> int: ...

    @abstractmethod
    def _gather(self) -> tuple[Any, int]: ...

    # --- collecting ------------------------------------------------------------------------------

    def _next_batch(self) -> tuple[Any, int]:
        if self.update_at_each_batch:
            self.update_policy_weights_()
        batch, frames = self._gather()
        if isinstance(batch, int):
            return None, frames
        if self.split_trajs:
            batch = split_trajectories(batch, prefix="collector")
        if self.postproc is not None and self._whole is None:
            batch = self.postproc(batch)
        return batch, frames

    def _request(self, worker: int) -> None:
        """Ask a worker for a batch, at random while all frames asked for so far are few."""
        random = self._requested < self.init_random_frames
        self._crew.request(worker, random=random)
        self._requested += self._crew.facts[worker].frames

    def _own(self, worker: int, found: Found) -> Any:
        """Return a batch that stays as it is when the worker goes on."""
        if isinstance(found, int):
            return found
        device = self._stored[worker]
        batch = found if device is None else found.to(device)
        is_copy = device is not None and torch.device(device).type != "cpu"
        return name_time(batch if is_copy else batch.clone())

    # --- the rest --------------------------------------------------------------------------------

    def _renew(self, weights: Weights | None, worker_ids: Sequence[int] | None) -> None:
        source: Any = self.policy if weights is None else weights
        if source is None and not any(fact.weights for fact in self._crew.facts):
            return  # random actions have no weights
        if self._sender is None:
            raise TypeError(
                describe(
                    self,
                    "cannot send weights: the policies of the workers have none, or other ones",
                    hint="Give all workers the same module, or factories of alike ones.",
                )
            )
        if source is None:
            raise TypeError(
                describe(
                    self,
                    "has no policy here whose weights it could send: workers built their own",
                    hint="Call update_policy_weights_(policy).",
                )
            )
        if worker_ids is None:
            self._sender.send(source)
            return
        strangers = set(worker_ids) - set(range(self.num_workers))
        if strangers:
            raise ValueError(
                describe(
                    self,
                    "has no such workers",
                    expected=f"numbers from 0 to {self.num_workers - 1}",
                    found=sorted(strangers),
                )
            )
        picked = {name: value.cpu() for name, value in self._sender.pick(source).items()}
        with self._between_batches():
            for worker in worker_ids:
                self._crew.call(worker, "take", picked, self._sender.version)

    @property
    def policy_version(self) -> int:
        """Number of weights sent so far."""
        return 0 if self._sender is None else self._sender.version

    def profile(self) -> AbstractContextManager[Profile]:
        """Measure, for the length of a ``with`` block, where the time goes, here and in workers.

        Returns: the :class:`~torchrl.collectors.profile.Profile`, filled at the end of the block.
        """
        return profiled_workers(self)

    def set_seed(self, seed: int, static_seed: bool = False) -> int | None:
        """Seed the environments, one after the other, and begin new episodes.

        Returns: the seed for the next one.
        """
        following: int | None = seed
        with self._between_batches():
            for worker in range(self.num_workers):
                following = self._crew.call(worker, "map", "set_seed", (following, static_seed), {})
        return following

    def reset(self) -> None:
        """Begin new episodes with the next batch of each worker."""
        with self._between_batches():
            self._forget_trajectories()
            self.map_fn("reset")

    def get_distant_attr(self, name: str) -> list[Any]:
        """Return an attribute, ``"env.batch_size"`` for instance, of the collector in each worker.

        Workers answer between two batches.
        """
        with self._between_batches():
            return self._crew.call_all("attribute", name)

    def map_fn(self, name: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Call a method, ``"env.close"`` for instance, of the collector in each worker."""
        with self._between_batches():
            return self._crew.call_all("map", name, args, kwargs)

    def state_dict(self) -> dict[str, Any]:
        """Return where each worker stands, and how far collection has come."""
        with self._between_batches():
            states = self.map_fn("state_dict")
            workers = {f"worker{i}": state for i, state in enumerate(states)}
            return {**workers, "frames": self._frames, "iter": self._iter}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from where another collector stood, with new episodes."""
        with self._between_batches():
            for i in range(self.num_workers):
                self._crew.call(i, "map", "load_state_dict", (state_dict[f"worker{i}"],), {})
            self._frames = self._requested = state_dict["frames"]
            self._iter = state_dict["iter"]

    def shutdown(self, timeout: float | None = None, close_env: bool = True) -> None:
        """End the workers and close their environments; calling it again is fine.

        Args:
            timeout: Seconds that a batch in the making, in the background, and then the closing of
                the environments may take before the workers are killed; ``shutdown_timeout`` if
                ``None``.
            close_env: The environments of workers are theirs, and closed in any case.
        """
        self._stop_background(self._crew.shutdown_timeout if timeout is None else timeout)
        if not self._crew.is_closed:
            self._crew.close(timeout)
        self._finalizer.detach()
        if self._threads_before:
            torch.set_num_threads(self._threads_before)
            self._threads_before = 0

    def _stop_background(self, timeout: float | None = None) -> None:
        background = self._background
        super()._stop_background(timeout)
        if background is not None and background.is_running() and not background.is_current():
            self._crew.kill()  # the batch in the making took too long; now it ends with an error
            background.stop()
            background.error = None

    def __repr__(self) -> str:
        return (
            f"{self._name()}(num_workers={self.num_workers}, policy={type(self.policy).__name__}, "
            f"frames_per_batch={self.frames_per_batch}, total_frames={self.total_frames})"
        )


def name_time(batch: TensorDictBase) -> TensorDictBase:
    """Name the last batch dimension "time"."""
    batch.names = [*[None] * (batch.ndim - 1), "time"]
    return batch
