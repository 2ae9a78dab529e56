"""The collector of one process: batches of steps, postprocessed, with trajectory numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from torchrl._core.devices import check_devices
from torchrl._core.errors import SimulatorStateError, describe
from torchrl._core.exploration import ExplorationType, set_exploration_type
from torchrl._core.keys import next_key
from torchrl._core.records.policy_output import with_output
from torchrl.collectors.base import BaseCollector
from torchrl.collectors.env_factories import Device, Factory, build_env, layers, with_limit, with_needs_of
from torchrl.collectors.interrupt import Interruptor
from torchrl.collectors.policy_runner import ActingPolicy, Options, check_one_policy, moved
from torchrl.collectors.profile import Profile, ProfileConfig, RolloutProfiler, profiled
from torchrl.data.trajectories import split_trajectories
from torchrl.envs.base import EnvBase
from torchrl.envs.stepping.rollout import Stepper, truncate_last
from torchrl.weight_update import Weights, WeightSyncScheme
from torchrl.weight_update.sync_schemes import Updater

POLICY_VERSION = "policy_version"
BACKENDS = ("direct", "process", "ray", "distributed")


@dataclass
class BatchPostprocessor:
    """What is done to the steps ``[*B, T]`` of each batch, in this order.

    Args:
        env: The environment.
        set_truncated: Mark the last step as truncated.
        compact_obs: Leave out the observations after each step.
        device: Where the batch is kept; where it was made if ``None``.
        waits: Whether a move to a CUDA device is waited for.
        split_trajs: Give each piece of a trajectory a row of its own.
        postproc: Applied last.
        in_place: Write each batch over the one before, and return that.

    Entries whose name starts with an underscore are left out first of all.
    """

    env: EnvBase
    set_truncated: bool = False
    compact_obs: bool = False
    device: Device = None
    waits: bool = True
    split_trajs: bool = False
    postproc: Callable[[TensorDictBase], TensorDictBase] | None = None
    in_place: bool = False
    _last: TensorDictBase | None = None

    def __call__(self, batch: TensorDictBase) -> TensorDictBase:
        left_out: list[Any] = []
        for key in batch.keys(True):
            for name in (key,) if isinstance(key, str) else key:
                if name.startswith("_"):
                    left_out.append(key)
                    break
        left_out += map(next_key, self.env.omitted_next)
        if self.compact_obs:
            left_out += [next_key(key) for key in self.env.observation_keys]
        if left_out:
            batch = batch.exclude(*left_out)
        if self.set_truncated:
            truncate_last(self.env, batch)
        if self.device is not None:
            batch = moved(batch, torch.device(self.device), self.waits)
        if self.split_trajs:
            batch = split_trajectories(batch, prefix="collector")
        if self.postproc is not None:
            batch = self.postproc(batch)
        if not self.in_place:
            return batch
        if self._last is None or self._last.batch_size != batch.batch_size:
            self._last = batch
            return batch
        return self._last.update_(batch)


class TrajectoryIds:
    """Numbers the trajectories of an environment.

    Args:
        env: The environment.

    Attributes:
        next_free: Smallest number that is above all given out so far.
        stride, offset: What each number is multiplied by, and what is added then, so that several
            collectors share no number.

    Writes: ``("collector", "traj_ids") [*B, T]``.
    """

    def __init__(self, env: EnvBase) -> None:
        self.env, self.next_free = env, 0
        self.stride, self.offset = 1, 0
        self._first = torch.empty(0, dtype=torch.int64)

    def restart(self) -> None:
        """Start a new trajectory in all rows."""
        count = self.env.batch_size.numel()
        self._first = torch.arange(self.next_free, self.next_free + count)
        self._first = self._first.reshape(self.env.batch_size)  # [*B]
        self.next_free += count

    def state_dict(self) -> dict[str, object]:
        """Return the numbers of the trajectories in progress."""
        return {"first": self._first.clone(), "next_free": self.next_free}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with these trajectories."""
        self._first, self.next_free = state_dict["first"].clone(), state_dict["next_free"]

    def write(self, batch: TensorDictBase) -> None:
        """Number the steps of a batch ``[*B, T]`` that follows the last one."""
        over = self.env.compiled_specs.rows_over(batch.get("next"), every=False)  # [*B, T, 1]
        ids, self._first, self.next_free = traj_ids(over.cpu(), self._first, self.next_free)
        ids = (ids * self.stride + self.offset).to(over.device)
        batch.set("collector", TensorDict({"traj_ids": ids}, batch.batch_size, batch.device))


def traj_ids(done: Tensor, first: Tensor, next_free: int) -> tuple[Tensor, Tensor, int]:
    """Number the trajectories of a batch; a new number follows each end, in order of time.

    Args:
        done: Ends of trajectories ``[*B, T, 1]``, bool: a reset follows.
        first: Number ``[*B]`` of the trajectory that each row starts in.
        next_free: The smallest number that is above every number given out so far.

    Returns: the numbers ``[*B, T]`` of the steps, the numbers ``[*B]`` that the next batch starts
    with, and its ``next_free``.

    >>> done = torch.tensor([[0, 1, 0], [0, 0, 1]], dtype=torch.bool).unsqueeze(-1)
    >>> ids, first, next_free = traj_ids(done, torch.tensor([0, 1]), 2)
    >>> ids.tolist(), first.tolist(), next_free
    ([[0, 0, 2], [1, 1, 1]], [2, 3], 4)
    """
    ended = done.any(-1)  # [*B, T]
    by_time = ended.movedim(-1, 0)  # [T, *B]
    rank = by_time.flatten().cumsum(0).view(by_time.shape).movedim(0, -1)  # [*B, T], from 1
    current = first.unsqueeze(-1)  # [*B, 1]
    # Numbers only grow along a row, so the largest so far is the one that holds.
    after = torch.where(ended, next_free - 1 + rank, current).cummax(-1).values  # [*B, T]
    ids = torch.cat([current, after[..., :-1]], -1)
    return ids, after[..., -1], next_free + int(ended.sum())


class Collector(BaseCollector):
    """Iterates over batches of transitions ``[*B, T]``, ``B`` the batch size of the environment.

    Episodes run on across batches, and rows that end are reset on the way. No gradients are
    recorded.

    Args:
        create_env_fn: The environment, or a function that builds it.
        policy: Writes the action; acts at random if ``None``.
        policy_factory: Builds the policy, instead of ``policy``.
        frames_per_batch: Frames in a batch, ``B * T``; rounded up to whole steps of the
            environment.
        total_frames: Stop after this many frames; never if negative.
        device: Default of the three devices below.
        storing_device: Where batches are kept.
        policy_device: Where the policy acts; a copy acts if it lives elsewhere, and
            :meth:`update_policy_weights_` renews it.
        env_device: Where the environment lives.
        create_env_kwargs: Keyword arguments for ``create_env_fn``.
        max_frames_per_traj: Truncate an episode after this many frames.
        init_random_frames: Act at random for this many frames first; what else the policy writes is
            that of the action it would have taken.
        reset_at_each_iter: Reset before each batch.
        postproc: Applied to each batch, ``td -> td``.
        split_trajs: Give each piece of a trajectory a row of its own, zero-padded, with the mask
            ``("collector", "mask")``.
        track_traj_ids: Whether to number the trajectories.
        exploration_type: How the policy acts.
        return_same_td: Write each batch over the one before and yield that again, for those who are
            done with a batch when they ask for the next.
        interruptor: Ends a batch early, after any step.
        set_truncated: Mark the last step of each batch as truncated.
        use_buffers: ``True`` refuses steps that differ in shape, which no buffer could hold; else
            these give lazy stacks.
        replay_buffer: Filled with each batch; iterating then yields ``None``. Steps are flattened
            unless the storage has as many dimensions as a batch, and padding is left out.
        extend_buffer: If ``False``, iterating yields the batches and the buffer is left alone.
        trust_policy: Call the policy with the record, whatever its signature.
        compile_policy: Compile the policy with ``torch.compile``; a dictionary holds its arguments.
        cudagraph_policy: Capture the policy in a CUDA graph, as it explores at its first calls; a
            dictionary holds the arguments of ``tensordict.nn.CudaGraphModule``.
        no_cuda_sync: Do not wait for moves to CUDA devices.
        track_policy_version: Write which weights acted: the number of updates before.
        worker_idx: Which worker this collector is in; kept as an attribute.
        trajs_per_batch: Yield this many whole trajectories at a time, rather than steps; fewer at
            the end. Those that have not ended when all frames are collected are left out.
        traj_format: ``"padded"``, ``[N, L]`` with the mask ``("collector", "mask")``, or ``"cat"``,
            one after the other; padded if ``None``.
        trajs_per_write: Write into the replay buffer whole trajectories only, so many at a time;
            iterating still yields ``None`` for each batch of steps.
        auto_register_policy_transforms: Append to the environment what the policy reads and the
            environment lacks: the flag of first steps, recurrent states.
        pre_collect_hook: Called without arguments before each batch.
        post_collect_hook: Called with each batch.
        compact_obs: Leave out the observations after each step, which the next step holds too.
        reset_when_done: Rows that end are reset; ``False`` is refused, as
            ``env.rollout(break_when_all_done=True)`` takes steps without resets.
        update_at_each_batch: Call :meth:`update_policy_weights_` before each batch.
        weight_sync_schemes: ``{"policy": scheme}``, see
            :class:`~torchrl.weight_update.WeightSyncScheme`; weights are sent if ``None``.
        weight_updater: Sends the weights in its own way, or a function that builds it; see
            :class:`~torchrl.weight_update.WeightUpdaterBase`.
        num_collectors: Build so many collectors in workers instead: :func:`make_collector`, which takes all other
            arguments.
        sync: With ``False`` each batch comes from one worker.
        backend: ``None`` or ``"direct"`` for this process; else where workers run: ``"process"``, ``"ray"`` or
            ``"distributed"``.

    Writes: what a step holds (see the data layout), ``("collector", "traj_ids") [*B, T]``, unique
        for each trajectory, and ``policy_version [*B, T]`` on demand, -1 for random actions.
        Entries whose name starts with an underscore are left out.

    Raises:
        TypeError: for both a policy and a factory, or what is no environment.
        ValueError: for arguments that contradict each other, or a CUDA graph without a CUDA device.

    >>> from torchrl.envs import GymEnv
    >>> collector = Collector(GymEnv("CartPole-v1"), frames_per_batch=50, total_frames=100)
    >>> [batch.shape for batch in collector]
    [torch.Size([50]), torch.Size([50])]
    """

    is_closed = False
    _profiler: RolloutProfiler | None = None
    _seed: tuple[int, bool] | None = None  # of the episodes that start with the next batch
    _several: Callable[..., BaseCollector]  # builds collectors in workers; set by factory.py

    @classmethod
    def _built_instead(cls, args: tuple, kwargs: dict[str, Any]) -> BaseCollector | None:
        count, sync, backend = (kwargs.pop(name, None) for name in ("num_collectors", "sync", "backend"))
        if backend is not None and backend not in BACKENDS:
            raise ValueError(describe(cls.__name__, "has no such backend", expected=BACKENDS, found=backend))
        if count is None and sync is None and backend in (None, "direct"):
            return None
        if backend == "direct":
            raise ValueError(f"{cls.__name__}: backend='direct' is one collector; leave num_collectors and sync out.")
        if cls is not Collector:
            kwargs.setdefault("collector_class", cls)
        options = {"num_collectors": count or 1, "sync": sync is not False, "backend": backend or "process"}
        return cls._several(*args, **options, **kwargs)

    def __init__(
        self,
        create_env_fn: Factory,
        policy: Callable[..., object] | None = None,
        *,
        policy_factory: Callable[[], Callable[..., object]] | None = None,
        frames_per_batch: int,
        total_frames: int = -1,
        device: Device = None,
        storing_device: Device = None,
        policy_device: Device = None,
        env_device: Device = None,
        create_env_kwargs: dict[str, object] | None = None,
        max_frames_per_traj: int | None = None,
        init_random_frames: int | None = None,
        reset_at_each_iter: bool = False,
        postproc: Callable[[TensorDictBase], TensorDictBase] | None = None,
        split_trajs: bool | None = None,
        track_traj_ids: bool = True,
        exploration_type: ExplorationType | str | None = ExplorationType.RANDOM,
        return_same_td: bool = False,
        interruptor: Interruptor | None = None,
        set_truncated: bool = False,
        use_buffers: bool | None = None,
        replay_buffer: Any = None,
        extend_buffer: bool = True,
        trust_policy: bool | None = None,
        compile_policy: Options = None,
        cudagraph_policy: Options = None,
        no_cuda_sync: bool = False,
        track_policy_version: bool = False,
        worker_idx: int | None = None,
        trajs_per_batch: int | None = None,
        traj_format: str | None = None,
        trajs_per_write: int | None = None,
        auto_register_policy_transforms: bool | None = None,
        pre_collect_hook: Callable[[], object] | None = None,
        post_collect_hook: Callable[[TensorDictBase | None], object] | None = None,
        compact_obs: bool = False,
        reset_when_done: bool = True,
        update_at_each_batch: bool = False,
        weight_sync_schemes: Mapping[str, WeightSyncScheme] | None = None,
        weight_updater: Updater = None,
        num_collectors: None = None,
        sync: None = None,
        backend: str | None = None,
    ) -> None:
        check_devices(self, **{n: v for n, v in locals().items() if n.endswith("device")})
        super().__init__(pre_collect_hook=pre_collect_hook, post_collect_hook=post_collect_hook)
        check_one_policy(self, policy, policy_factory)
        self._set_options(reset_when_done, weight_sync_schemes, weight_updater, compile_policy, cudagraph_policy)
        self.update_at_each_batch = update_at_each_batch
        self.policy = policy if policy_factory is None else policy_factory()
        env = build_env(create_env_fn, create_env_kwargs, env_device or device)
        self.env = with_limit(env, max_frames_per_traj)
        if auto_register_policy_transforms:
            self.env = with_needs_of(self.policy, self.env)
        self.use_buffers, self.interruptor, self.worker_idx = use_buffers, interruptor, worker_idx
        self._set_frames(frames_per_batch, total_frames)
        self._acting = ActingPolicy(  # of env: what was added is no observation for a plain function
            env, self.policy, device=policy_device or device, trust=bool(trust_policy), waits=not no_cuda_sync,
            compile_policy=compile_policy, cudagraph_policy=cudagraph_policy, tracks_version=track_policy_version,
        )  # fmt: skip
        self._stepper, self._random = Stepper(self.env), self._acting.at_random(self.env)
        self.init_random_frames, self.exploration_type = init_random_frames or 0, exploration_type
        self.extend_buffer, self.reset_at_each_iter = extend_buffer, reset_at_each_iter
        self.postproc, self.replay_buffer = postproc, replay_buffer
        self._set_trajectories(trajs_per_batch, traj_format, trajs_per_write, split_trajs, track_traj_ids)
        self._finish = BatchPostprocessor(
            self.env, set_truncated=set_truncated, compact_obs=compact_obs, device=storing_device or device,
            waits=not no_cuda_sync, split_trajs=bool(split_trajs), in_place=return_same_td,
            postproc=postproc if self._whole is None else None,
        )  # fmt: skip
        self._numbers = TrajectoryIds(self.env) if track_traj_ids else None
        for layer in layers(self.env):
            layer.register_collector(self)

    def _set_frames(self, frames_per_batch: int, total_frames: int) -> None:
        if frames_per_batch < 1:
            raise ValueError(f"Collector: frames_per_batch must be at least 1, found {frames_per_batch}.")
        width = self.env.batch_size.numel()
        self._steps = -(-frames_per_batch // width)
        self.requested_frames_per_batch = frames_per_batch
        self.frames_per_batch = self._steps * width
        self.total_frames = total_frames
        if self.worker_idx is None:  # else the collector that has the workers says it
            asked, found = frames_per_batch, self.frames_per_batch
            self._warn_of_rounding(asked, found, f"{width} environments", stacklevel=3)
        self._warn_of_overshoot(stacklevel=3)

    # --- collecting ------------------------------------------------------------------------------

    def _next_batch(self) -> tuple[TensorDictBase, int]:
        if self.update_at_each_batch:
            self.update_policy_weights_()
        return self._collect(random=self._frames < self.init_random_frames)

    @torch.no_grad()
    def _collect(self, *, random: bool) -> tuple[TensorDictBase, int]:
        if self.is_closed:
            raise RuntimeError("Collector: it was shut down; build a new one.")
        if self.reset_at_each_iter or self._stepper.root is None or self._stepper.is_stale():
            self._stepper.reset()
            if self._numbers is not None:
                self._numbers.restart()
        self._seed = None
        if (profiler := self._profiler) is not None:
            profiler.before_batch()
        policy = self._random if random else self._acting.prepared
        stopped = None if self.interruptor is None else self.interruptor.collection_stopped
        with self._exploring:
            batch = self._stepper.run(policy, self._steps, interrupted=stopped, dense=bool(self.use_buffers))
        if self._numbers is not None:
            self._numbers.write(batch)
        if self._acting.tracks_version:
            versions = self._acting.take_versions()
            versions = versions.new_full(batch.shape[-1:], -1) if random else versions  # [T]
            batch.set(POLICY_VERSION, versions.expand(batch.shape).clone())
        frames, batch = batch.numel(), self._finish(batch)
        if profiler is not None and profiler.after_batch():
            self._profiler = None
        return batch, frames

    def reset(self) -> None:
        """Start new episodes with the next batch."""
        with self._between_batches():
            self._stepper.root = None
            self._forget_trajectories()

    # --- the rest --------------------------------------------------------------------------------

    def _renew(self, weights: Weights | None, worker_ids: Sequence[int] | None) -> None:
        if worker_ids is not None:
            raise ValueError("Collector: it has no workers to choose from; leave worker_ids out.")
        with self._between_batches():
            self._acting.update(weights)

    @property
    def exploration_type(self) -> ExplorationType | None:
        """How the policy acts; its name can be assigned, too."""
        return self._exploring.type

    @exploration_type.setter
    def exploration_type(self, value: ExplorationType | str | None) -> None:
        self._exploring = set_exploration_type(value, thread_local=True)

    @property
    def policy_version(self) -> int:
        """Number of times that the weights were renewed."""
        return self._acting.version

    def increment_version(self) -> None:
        """Count an update of the weights that was made elsewhere."""
        with self._between_batches():
            self._acting.count_version()

    @property
    def acting_policy(self) -> object:
        """The policy that acts: that of the constructor, or its copy on ``policy_device``."""
        return self._acting.module

    def _first_attribute(self, name: str) -> object:
        return self.get_distant_attr(name)

    @torch.no_grad()
    def fake_tensordict(self) -> TensorDictBase:
        """Return a batch of zeros, with every entry that one has before ``postproc``."""
        with self._between_batches(), torch.random.fork_rng(devices=[]):
            step = self.env.fake_tensordict()
            acting = self._acting
            policy = acting.at_random(self.env) if acting.module is None else acting.plain
            root = with_output(step.copy(), policy.on_tensordict(step.exclude("next")), acting.module)
        batch = root.unsqueeze(-1).expand(*root.shape, self._steps).clone().zero_()
        if self._numbers is not None:
            ids = torch.zeros(batch.shape, dtype=torch.int64, device=batch.device)
            batch.set("collector", TensorDict({"traj_ids": ids}, batch.batch_size, batch.device))
        if self._acting.tracks_version:
            batch.set(POLICY_VERSION, torch.zeros(batch.shape, dtype=torch.int64, device=batch.device))
        batch.names = [*[None] * root.ndim, "time"]
        return batch

    def enable_profile(self, config: ProfileConfig | None = None, **options: Any) -> None:
        """Record the next batches with :mod:`torch.profiler`, and save the trace.

        Args:
            config: What to record.
            options: The arguments of a :class:`~torchrl.collectors.ProfileConfig`, instead of one.

        Raises:
            RuntimeError: if batches are being recorded already.
        """
        if self._profiler is not None:
            raise RuntimeError("Collector: batches are being recorded already.")
        self._profiler = RolloutProfiler(config or ProfileConfig(**options), self.worker_idx)

    def get_distant_attr(self, name: str) -> Any:
        """Return an attribute, ``"env.batch_size"`` for instance, as it is where collection is."""
        with self._between_batches():
            return attrgetter(name)(self)

    def map_fn(self, name: str, *args: object, **kwargs: object) -> Any:
        """Call a method, ``"env.set_seed"`` for instance, where collection is."""
        with self._between_batches():
            return attrgetter(name)(self)(*args, **kwargs)

    def profile(self) -> AbstractContextManager[Profile]:
        """Measure, for the length of a ``with`` block, where the time goes.

        Returns: the :class:`~torchrl.collectors.profile.Profile`, filled at the end of the block.
        """
        return profiled(self)

    def set_seed(self, seed: int, static_seed: bool = False) -> int | None:
        """Seed the environment and start new episodes; return the seed for the next one."""
        with self._between_batches():
            self.reset()
            self._seed = seed, static_seed
            return self.env.set_seed(seed, static_seed=static_seed)

    def state_dict(self) -> dict[str, object]:
        """Return the policy, the environment with its episodes in progress, and how far collection has come.

        ``"episodes"`` holds what the simulator is in the middle of an episode, or, as ``"missing"``, why it cannot be
        saved; see :meth:`EnvBase.simulator_state <torchrl.envs.EnvBase.simulator_state>`.
        """
        acting = self._acting.module
        with self._between_batches():
            self._acting.poll()
            policy = acting.state_dict() if isinstance(acting, nn.Module) else {}
            return {
                "policy_state_dict": policy,
                "policy_version": self._acting.version,
                "env_state_dict": self.env.state_dict(),
                "episodes": self._episodes(),
                "frames": self._frames,
                "iter": self._iter,
                "traj_pool": 0 if self._numbers is None else self._numbers.next_free,
            }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the state of another collector; with new episodes, if those in progress were not saved."""
        with self._between_batches():
            self._acting.set_version(state_dict.get("policy_version", 0))
            if isinstance(self._acting.module, nn.Module):
                self._acting.module.load_state_dict(state_dict["policy_state_dict"])
            self.reset()
            episodes = state_dict.get("episodes", {})
            if "simulator" in episodes:
                self.env.load_simulator_state(episodes["simulator"])
            elif "seed" in episodes:
                self.set_seed(*episodes["seed"])
            self.env.load_state_dict(state_dict["env_state_dict"])
            self._frames, self._iter = state_dict["frames"], state_dict["iter"]
            if self._numbers is not None:
                self._numbers.next_free = state_dict["traj_pool"]
            if "root" in episodes:
                self._stepper.resume(episodes["root"].clone())
                if self._numbers is not None:
                    self._numbers.load_state_dict(episodes["numbers"])
                self._keep_trajectories(episodes["trajectories"])

    def _episodes(self) -> dict[str, object]:
        """Return the state of the episodes in progress."""
        stepper = self._stepper
        is_new = stepper.root is None or stepper.is_stale()  # the next batch starts with a reset
        try:
            simulator = self.env.simulator_state()
        except SimulatorStateError as error:
            missing: dict[str, object] = {"missing": str(error)}
            return missing if self._seed is None else {"seed": self._seed, "reason": str(error)}
        if is_new:
            return {"simulator": simulator}
        found: dict[str, object] = {"simulator": simulator, "root": stepper.root_tensordict().clone()}
        if self._numbers is not None:
            found["numbers"] = self._numbers.state_dict()
        return found | {"trajectories": self._kept_trajectories()}

    def shutdown(self, timeout: float | None = None, close_env: bool = True) -> None:
        """Close the environment; calling it again is fine.

        Args:
            timeout: Seconds that a batch in the making, in the background, may take.
            close_env: Whether to close the environment.
        """
        if not self.is_closed:
            self._stop_background(timeout)
            self.is_closed = True
            if self._profiler is not None:
                self._profiler.close()
            self._stepper.root = None
            if close_env and not self.env.is_closed:
                self.env.close()

    def __repr__(self) -> str:
        return (
            f"Collector(env={self.env}, policy={type(self.policy).__name__}, "
            f"frames_per_batch={self.frames_per_batch}, total_frames={self.total_frames})"
        )
