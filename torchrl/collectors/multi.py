"""Collectors with environments and policies in worker processes."""

from __future__ import annotations

import weakref
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
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
from torchrl.collectors.base import BaseCollector
from torchrl.collectors.collector_pool import CollectorPool
from torchrl.collectors.env_factories import Device, Factory, materialize, one_each
from torchrl.collectors.policy_runner import Options, check_one_policy
from torchrl.collectors.pool import Found, Pool
from torchrl.collectors.profile import Profile, ProfileConfig, profiled_workers
from torchrl.collectors.single import Collector
from torchrl.collectors.worker import WorkerConfig
from torchrl.data.trajectories import split_trajectories
from torchrl.weight_update import Weights, WeightSender, WeightSyncScheme
from torchrl.weight_update.sync_schemes import Updater

Devices = Device | Sequence[Device]


class MultiCollector(BaseCollector):
    """Collectors in worker processes, each with an environment and a policy of its own.

    Workers use one torch thread each and this process keeps the rest. Weights are sent through
    shared memory and hold from the next action on. If a worker raises or dies, all of them are
    ended and the error shows its traceback.

    Args:
        create_env_fn: A list with an environment, or a function that builds it, for each worker; or
            one for all ``num_workers``. Environments are copied: a batched one that was not started
            is a recipe and may be in the list several times.
        policy: Writes the action; actions are random if ``None``.
        num_workers: Number of workers; that of the environments if ``None``.
        policy_factory: Builds the policy in the worker, instead of ``policy``; or a list with one
            for each worker. Workers of one factory start with the same weights.
        frames_per_batch: Frames in a batch; or a list with the share of each worker.
        total_frames: Stop after this many frames; never if negative.
        device: Default of the three devices below. All devices may be lists, one for each worker.
        storing_device: Device of the batches.
        env_device: Device of the environments.
        policy_device: Device of the policies.
        create_env_kwargs: Keyword arguments for ``create_env_fn``, for all, or a list.
        collector_class: Class of the collector in each worker, a subclass of
            :class:`~torchrl.collectors.Collector`, which is the default.
        update_at_each_batch: Send the weights of ``policy`` before each batch.
        num_threads: Torch threads of this process while the workers run; those that the workers do
            not use if ``None``.
        num_sub_threads: Torch threads of each worker.
        use_buffers: Return batches of dense tensors in shared memory; others, and all if ``False``,
            are pickled. ``None`` is the same as ``True``.
        replay_buffer: Filled with each batch; iterating then yields ``None``. Workers write to it
            themselves if it is shared.
        extend_buffer: If ``False``, iterating yields the batches and the buffer is not changed.
        init_fn: Called in each worker before anything is built, to register environments, say.
        pre_collect_hook: Called here, without arguments, before each batch.
        post_collect_hook: Called here with each batch; with ``None`` if the workers wrote it into
            the buffer.
        mp_start_method: ``"fork"`` or ``"spawn"``; fork where that is safe if ``None``.
        timeout: Seconds that a worker may take for a batch; unlimited if ``None``.
        shutdown_timeout: Seconds that workers get to close their environments before they are
            killed.

    All other arguments are those of :class:`~torchrl.collectors.Collector`. ``init_random_frames``
    counts those of all workers; the last step of each worker's share is ``set_truncated``.

    Hooks:
        _frames_of: ``frames_per_batch -> frames``; frames of a batch of each worker, one or a list.
        _full_batch: ``[frames] -> frames``; frames of a batch, from those of the workers.
        _gather: ``-> (batch, frames)``; the next batch, an ``int`` if workers wrote it themselves.
        _start: ``[config], **options -> pool``; start the workers; processes of this machine.

    Writes: as :class:`~torchrl.collectors.Collector`; trajectory ids are unique among workers.

    Raises:
        WorkerError: at any use, if a worker raised, was killed, or did not answer in time.

    >>> from torchrl.collectors import MultiSyncCollector
    >>> from torchrl.envs import GymEnv
    >>> collector = MultiSyncCollector([lambda: GymEnv("CartPole-v1")] * 2, frames_per_batch=20, total_frames=20)
    >>> [batch.shape for batch in collector]
    [torch.Size([2, 10])]
    >>> collector.shutdown()
    """

    @old_keywords(
        devices="device", storing_devices="storing_device", env_devices="env_device", policy_devices="policy_device"
    )
    def __init__(
        self,
        create_env_fn: Factory | Sequence[Factory],
        policy: Callable[..., object] | None = None,
        *,
        num_workers: int | None = None,
        policy_factory: Callable[[], object] | Sequence[Callable[[], object]] | None = None,
        frames_per_batch: int | Sequence[int],
        total_frames: int = -1,
        device: Devices = None,
        storing_device: Devices = None,
        env_device: Devices = None,
        policy_device: Devices = None,
        create_env_kwargs: dict[str, object] | Sequence[dict[str, object]] | None = None,
        collector_class: type[Collector] | None = None,
        max_frames_per_traj: int | None = None,
        init_random_frames: int | None = None,
        reset_at_each_iter: bool = False,
        postproc: Callable[[TensorDictBase], TensorDictBase] | None = None,
        split_trajs: bool | None = None,
        exploration_type: ExplorationType | str | None = ExplorationType.RANDOM,
        reset_when_done: bool = True,
        update_at_each_batch: bool = False,
        weight_sync_schemes: Mapping[str, WeightSyncScheme] | None = None,
        weight_updater: Updater = None,
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
        init_fn: Callable[[], object] | None = None,
        auto_register_policy_transforms: bool | None = None,
        pre_collect_hook: Callable[[], object] | None = None,
        post_collect_hook: Callable[[TensorDictBase | None], object] | None = None,
        compact_obs: bool = False,
        mp_start_method: str | None = None,
        timeout: float | None = None,
        shutdown_timeout: float = 10.0,
    ) -> None:
        check_devices(
            self, device=device, storing_device=storing_device, env_device=env_device, policy_device=policy_device
        )
        super().__init__(pre_collect_hook=pre_collect_hook, post_collect_hook=post_collect_hook)
        check_one_policy(self, policy, policy_factory)
        self._set_options(reset_when_done, weight_sync_schemes, weight_updater, compile_policy, cudagraph_policy)
        self.policy, self.total_frames = policy, total_frames
        self.init_random_frames, self._requested = init_random_frames or 0, 0
        self.update_at_each_batch, self.postproc = update_at_each_batch, postproc
        self.split_trajs, self.reset_at_each_iter = bool(split_trajs), reset_at_each_iter
        self.replay_buffer, self.extend_buffer = replay_buffer, extend_buffer
        self._set_trajectories(trajs_per_batch, traj_format, trajs_per_write, split_trajs)
        self.num_workers = len(recipes := one_each(self._name(), create_env_fn, num_workers))
        self._stored = self._spread("storing_device", storing_device or device)
        options = {
            "policy_factory": policy_factory, "frames_per_batch": self._frames_of(frames_per_batch),
            "env_device": env_device or device, "policy_device": policy_device or device,
            "create_env_kwargs": create_env_kwargs, "max_frames_per_traj": max_frames_per_traj,
            "reset_at_each_iter": reset_at_each_iter, "exploration_type": exploration_type,
            "set_truncated": set_truncated, "trust_policy": trust_policy,
            "compile_policy": compile_policy, "cudagraph_policy": cudagraph_policy,
            "no_cuda_sync": no_cuda_sync, "track_policy_version": track_policy_version, "compact_obs": compact_obs,
            "auto_register_policy_transforms": auto_register_policy_transforms,
        }  # fmt: skip
        kind = collector_class or Collector
        config = WorkerConfig(pads=self._pads, use_buffers=use_buffers, init_fn=init_fn, collector_class=kind)
        self._pool = self._start(
            self._configs(config, recipes, options),
            mp_start_method=mp_start_method, num_threads=num_sub_threads,
            timeout=timeout, shutdown_timeout=shutdown_timeout,
        )  # fmt: skip
        self._finish(frames_per_batch, policy_factory, num_threads, num_sub_threads)

    def _finish(self, asked: Any, factory: object, num_threads: int | None, num_subs: int) -> None:
        """Set what depends on the reports of the workers; warn where frames were rounded."""
        self._finalizer = weakref.finalize(self, self._pool.close)
        self._sender = self._connect(factory)
        self._threads_before = self._share_threads(num_threads, num_subs)
        frames: Any = [info.frames for info in self._pool.worker_info]
        self.frames_per_batch = self._full_batch(frames)
        if isinstance(asked, int):
            self.requested_frames_per_batch, frames = asked, self.frames_per_batch
        else:
            asked = list(asked)
            self.requested_frames_per_batch = self._full_batch(asked)
        sharers = f"{self.num_workers} workers and the environments of each"
        self._warn_of_rounding(asked, frames, sharers, stacklevel=5)
        self._warn_of_overshoot(stacklevel=5)

    _pads = False
    _version = 0  # where no weights are sent

    def _name(self) -> str:
        return type(self).__name__

    def _spread(self, name: str, value: object) -> list[Any]:
        """Return a value for each worker: the same for all, or from a list."""
        if not isinstance(value, (list, tuple)):
            return [value] * self.num_workers
        if len(value) != self.num_workers:
            raise ValueError(
                f"{self._name()}: expected one {name} for each of {self.num_workers} workers, found {len(value)}."
            )
        return list(value)

    def _configs(self, config: WorkerConfig, recipes: list[Factory], options: dict[str, Any]) -> list[WorkerConfig]:
        """Return the configuration of each worker.

        Args:
            config: What is the same for all workers.
            recipes: Builds the environment of each.
            options: Arguments of :class:`~torchrl.collectors.Collector`, one value or a list.
        """
        if self._workers_write():
            config = replace(config, replay_buffer=self.replay_buffer)
            options |= {"postproc": self.postproc, "split_trajs": self.split_trajs}
        each = {name: self._spread(name, value) for name, value in options.items()}
        if isinstance(self.policy, nn.Module):
            materialize(self.policy, recipes[0], each["create_env_kwargs"][0])
        return [
            replace(
                config,
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

    def _start(self, configs: list[WorkerConfig], **options: Any) -> Pool:
        return CollectorPool(self._name(), configs, **options)

    def _connect(self, policy_factory: object) -> WeightSender | None:
        """Connect the weights here with those of the workers, if all have the same layout."""
        layout = self._pool.worker_info[0].weights
        if not layout or any(info.weights != layout for info in self._pool.worker_info):
            return None
        sender = self._pool.connect(layout)
        if callable(policy_factory):
            sender.start(self._pool.call(0, "weights"))
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

    def _next_batch(self) -> tuple[object, int]:
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
        """Request a batch of a worker, with random actions for the first frames."""
        random = self._requested < self.init_random_frames
        self._pool.request(worker, random=random)
        self._requested += self._pool.worker_info[worker].frames

    def _own(self, worker: int, found: Found) -> object:
        """Return a batch that the next one of the worker does not overwrite."""
        if isinstance(found, int):
            return found
        device = self._stored[worker]
        batch = found if device is None else found.to(device)
        is_copy = device is not None and torch.device(device).type != "cpu"
        return name_time(batch if is_copy else batch.clone())

    # --- the rest --------------------------------------------------------------------------------

    def _renew(self, weights: Weights | None, worker_ids: Sequence[int] | None) -> None:
        source: Any = self.policy if weights is None else weights
        if source is None and not any(info.weights for info in self._pool.worker_info):
            return  # random actions have no weights
        if self._sender is None:
            raise TypeError(
                describe(
                    self,
                    "cannot send weights: the policies of the workers have none, or other ones",
                    hint="Give all workers the same module, or factories of equal modules.",
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
        self._check_workers(worker_ids)
        picked = {name: value.cpu() for name, value in self._sender.pick(source).items()}
        with self._between_batches():
            for worker in worker_ids:
                self._pool.call(worker, "take", picked, self._sender.version)

    def _check_workers(self, workers: Sequence[int]) -> None:
        unknown = set(workers) - set(range(self.num_workers))
        if unknown:
            raise ValueError(
                describe(
                    self,
                    "has no such workers",
                    expected=f"numbers from 0 to {self.num_workers - 1}",
                    found=sorted(unknown),
                )
            )

    @property
    def policy_version(self) -> int:
        """Number of weights sent so far."""
        return self._version if self._sender is None else self._sender.version

    def profile(self) -> AbstractContextManager[Profile]:
        """Measure, for the length of a ``with`` block, where time is spent, here and in workers.

        Returns: the :class:`~torchrl.collectors.profile.Profile`, filled at the end of the block.
        """
        return profiled_workers(self)

    def set_seed(self, seed: int, static_seed: bool = False) -> int | None:
        """Seed the environments, one after the other, and start new episodes.

        Returns: the seed that follows that of the last environment.
        """
        next_seed: int | None = seed
        with self._between_batches():
            for worker in range(self.num_workers):
                next_seed = self._pool.call(worker, "map", "set_seed", (next_seed, static_seed), {})
        return next_seed

    def reset(self) -> None:
        """Start new episodes with the next batch of each worker."""
        with self._between_batches():
            self._forget_trajectories()
            self.map_fn("reset")

    def increment_version(self) -> None:
        """Count an update of the weights that was made elsewhere, here and in the workers."""
        with self._between_batches():
            self.map_fn("increment_version")
            if self._sender is None:
                self._version += 1
            else:
                self._sender.version += 1

    def _first_attribute(self, name: str) -> object:
        with self._between_batches():
            return self._pool.call(0, "attribute", name)

    def fake_tensordict(self) -> TensorDictBase:
        """Return a batch of zeros of the first worker, with every entry that one has before ``postproc``."""
        with self._between_batches():
            return self._pool.call(0, "map", "fake_tensordict", (), {})

    def enable_profile(self, config: ProfileConfig | None = None, **options: Any) -> None:
        """Record the next batches of some workers with :mod:`torch.profiler`, and save the traces.

        Args:
            config: What to record.
            options: The arguments of a :class:`~torchrl.collectors.ProfileConfig`, instead of one.

        Raises:
            ValueError: for workers that there are not.
        """
        config = config or ProfileConfig(**options)
        workers = [0] if config.workers is None else list(config.workers)
        self._check_workers(workers)
        with self._between_batches():
            for worker in workers:
                self._pool.call(worker, "map", "enable_profile", (config,), {})

    def get_distant_attr(self, name: str) -> list[Any]:
        """Return an attribute, ``"env.batch_size"`` for instance, of the collector in each worker.

        Workers answer between two batches.
        """
        with self._between_batches():
            return self._pool.call_all("attribute", name)

    def map_fn(self, name: str, *args: object, **kwargs: object) -> list[object]:
        """Call a method, ``"env.close"`` for instance, of the collector in each worker."""
        with self._between_batches():
            return self._pool.call_all("map", name, args, kwargs)

    def state_dict(self) -> dict[str, object]:
        """Return the state of each worker, and the numbers of frames and batches."""
        with self._between_batches():
            states = self._pool.call_all("state_dict")
            workers = {f"worker{i}": state for i, state in enumerate(states)}
            own = {"policy_version": self.policy_version, "trajectories": self._kept_trajectories()}
            return {**workers, **own, "frames": self._frames, "iter": self._iter}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the state of another collector; see :class:`~torchrl.collectors.Collector`."""
        with self._between_batches():
            for i in range(self.num_workers):
                self._pool.call(i, "load_state_dict", state_dict[f"worker{i}"])
            self._frames = self._requested = state_dict["frames"]
            self._iter = state_dict["iter"]
            self._keep_trajectories(state_dict.get("trajectories", [None, None]))
            self._version = state_dict.get("policy_version", 0)
            if self._sender is not None:
                self._sender.version = self._version

    def shutdown(self, timeout: float | None = None, close_env: bool = True) -> None:
        """End the workers; calling it again is fine.

        Args:
            timeout: Seconds that a batch in the background, and then the closing of the
                environments, may take before the workers are killed; ``shutdown_timeout`` if
                ``None``.
            close_env: Whether workers close their environments before they end.
        """
        self._stop_background(self._pool.shutdown_timeout if timeout is None else timeout)
        if not self._pool.is_closed:
            self._pool.end(timeout, close_env)
        self._finalizer.detach()
        if self._threads_before:
            torch.set_num_threads(self._threads_before)
            self._threads_before = 0

    def _stop_background(self, timeout: float | None = None) -> None:
        background = self._background
        super()._stop_background(timeout)
        if background is not None and background.is_running() and not background.is_current():
            self._pool.kill()  # its batch took too long, and now ends with an error
            background.stop()
            background.error = None

    def __repr__(self) -> str:
        return (
            f"{self._name()}(num_workers={self.num_workers}, policy={type(self.policy).__name__}, "
            f"frames_per_batch={self.frames_per_batch}, total_frames={self.total_frames})"
        )


class MultiSyncCollector(MultiCollector):
    """Yields batches to which every worker contributes its share.

    Workers collect at the same time, once a batch is requested: all steps of a batch follow the
    last update of the weights.

    Args:
        create_env_fn: As in :class:`MultiCollector`, with the other arguments.
        policy: Writes the action.
        cat_results: How the shares ``[*B, T]`` become a batch: ``"stack"`` gives ``[N, *B, T]``, a
            dimension concatenates along it. ``None`` keeps time last and joins the rows: ``[N, T]``
            where environments have no batch size, else ``[N * B, T]``.
        preemptive_threshold: Once this fraction of the workers is done, the others end their share
            early. All are then padded with zeros, and ``("collector", "mask")`` marks the steps;
            only those count as frames.
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
        policy: Callable[..., object] | None = None,
        *,
        cat_results: str | int | None = None,
        preemptive_threshold: float | None = None,
        **kwargs: Any,
    ) -> None:
        if cat_results not in (None, "stack", 0, -1):
            raise ValueError(f"MultiSyncCollector: cat_results must be 'stack', 0, -1 or None, found {cat_results!r}.")
        self.cat_results, self.preemptive_threshold = cat_results, preemptive_threshold
        self._pads = preemptive_threshold is not None
        super().__init__(create_env_fn, policy, **kwargs)

    def _frames_of(self, frames_per_batch: int | Sequence[int]) -> int | Sequence[int]:
        if isinstance(frames_per_batch, int):
            return -(-frames_per_batch // self.num_workers)
        return frames_per_batch

    def _full_batch(self, frames: list[int]) -> int:
        return sum(frames)

    def _gather(self) -> tuple[object, int]:
        pool, count = self._pool, self.num_workers
        pool.start_collection()
        self._requested = self._frames  # fewer than asked for, where shares ended early
        for worker in range(count):
            self._request(worker)
        enough = count if self.preemptive_threshold is None else self.preemptive_threshold * count
        shares: list[Any] = [None] * count
        for done in range(1, count + 1):
            worker, share = pool.wait()
            shares[worker] = share
            if done >= enough:
                pool.stop_collection()
        if isinstance(shares[0], int):
            return 0, sum(shares)
        frames = sum(int(share["collector", "mask"].sum()) for share in shares) if self._pads else self.frames_per_batch
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


class MultiAsyncCollector(MultiCollector):
    """Yields the batches of single workers, in the order in which they are done.

    A worker collects its next batch while the caller learns. Updated weights hold from its next
    action on; with ``track_policy_version`` each step has the version of the weights that acted.

    Args:
        create_env_fn: As in :class:`MultiCollector`, like the arguments that are not listed here.
        policy: Writes the action.
        frames_per_batch: Frames of each batch, which is that of one worker.

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

    def _gather(self) -> tuple[object, int]:
        for worker in range(self.num_workers):
            if not self._pool.is_requested(worker):
                self._request_if_wanted(worker)
        worker, found = self._pool.wait()
        frames = self._pool.worker_info[worker].frames
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

    def __init__(self, create_env_fn: Factory, policy: Callable[..., object] | None = None, **kwargs: Any) -> None:
        super().__init__([create_env_fn], policy, **kwargs)


def name_time(batch: TensorDictBase) -> TensorDictBase:
    """Name the last batch dimension "time"."""
    batch.names = [*[None] * (batch.ndim - 1), "time"]
    return batch
