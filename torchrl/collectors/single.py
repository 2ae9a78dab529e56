"""A collector that runs in the calling process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from operator import attrgetter
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import nn

from torchrl._core.devices import check_devices
from torchrl._core.exploration import ExplorationType, set_exploration_type
from torchrl.collectors.acting import ActingPolicy, Options, check_one_policy
from torchrl.collectors.base import BaseCollector
from torchrl.collectors.finishing import Finishing, Numbers
from torchrl.collectors.interrupt import Interruptor
from torchrl.collectors.profile import Profile, profiled
from torchrl.collectors.recipes import (
    Device,
    Factory,
    build_env,
    layers,
    with_limit,
    with_needs_of,
)
from torchrl.envs.rollout import Stepper
from torchrl.weight_update import Weights

POLICY_VERSION = "policy_version"


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
        reset_at_each_iter: Begin each batch with a reset.
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

    Writes: what a step holds (see the data layout), ``("collector", "traj_ids") [*B, T]``, unique
        for each trajectory, and ``policy_version [*B, T]`` on demand, -1 for random actions.
        Entries whose name begins with an underscore are left out.

    Raises:
        TypeError: for both a policy and a factory, or what is no environment.
        ValueError: for arguments that contradict each other, or a CUDA graph without a CUDA device.

    >>> from torchrl.envs import GymEnv
    >>> collector = Collector(GymEnv("CartPole-v1"), frames_per_batch=50, total_frames=100)
    >>> [batch.shape for batch in collector]
    [torch.Size([50]), torch.Size([50])]
    """

    is_closed = False

    def __init__(
        self,
        create_env_fn: Factory,
        policy: Callable[..., Any] | None = None,
        *,
        policy_factory: Callable[[], Callable[..., Any]] | None = None,
        frames_per_batch: int,
        total_frames: int = -1,
        device: Device = None,
        storing_device: Device = None,
        policy_device: Device = None,
        env_device: Device = None,
        create_env_kwargs: dict[str, Any] | None = None,
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
        pre_collect_hook: Callable[[], Any] | None = None,
        post_collect_hook: Callable[[TensorDictBase | None], Any] | None = None,
        compact_obs: bool = False,
    ) -> None:
        check_devices(self, **{n: v for n, v in locals().items() if n.endswith("device")})
        super().__init__(pre_collect_hook=pre_collect_hook, post_collect_hook=post_collect_hook)
        check_one_policy(self, policy, policy_factory)
        self.policy = policy if policy_factory is None else policy_factory()
        env = build_env(create_env_fn, create_env_kwargs, env_device or device)
        self.env = with_limit(env, max_frames_per_traj)
        if auto_register_policy_transforms:
            self.env = with_needs_of(self.policy, self.env)
        self.use_buffers, self.interruptor, self.worker_idx = use_buffers, interruptor, worker_idx
        self._set_frames(frames_per_batch, total_frames)
        self._acting = ActingPolicy(
            env,  # what we added is no observation for a plain function
            self.policy,
            device=policy_device or device,
            trust=bool(trust_policy),
            compile_policy=compile_policy,
            cudagraph_policy=cudagraph_policy,
            waits=not no_cuda_sync,
            tracks_version=track_policy_version,
        )
        self._stepper, self._random = Stepper(self.env), self._acting.at_random(self.env)
        self.init_random_frames, self.exploration_type = init_random_frames or 0, exploration_type
        self.extend_buffer, self.reset_at_each_iter = extend_buffer, reset_at_each_iter
        self.postproc, self.replay_buffer = postproc, replay_buffer
        self._set_trajectories(
            trajs_per_batch, traj_format, trajs_per_write, split_trajs, track_traj_ids
        )
        self._finish = Finishing(
            self.env,
            set_truncated=set_truncated,
            compact_obs=compact_obs,
            device=storing_device or device,
            waits=not no_cuda_sync,
            split_trajs=bool(split_trajs),
            postproc=postproc if self._whole is None else None,
            in_place=return_same_td,
        )
        self._numbers = Numbers(self.env) if track_traj_ids else None
        for layer in layers(self.env):
            layer.register_collector(self)

    def _set_frames(self, frames_per_batch: int, total_frames: int) -> None:
        if frames_per_batch < 1:
            raise ValueError(
                f"Collector: frames_per_batch must be at least 1, found {frames_per_batch}."
            )
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
        return self._collect(random=self._frames < self.init_random_frames)

    @torch.no_grad()
    def _collect(self, *, random: bool) -> tuple[TensorDictBase, int]:
        if self.is_closed:
            raise RuntimeError("Collector: it was shut down; build a new one.")
        if self.reset_at_each_iter or self._stepper.root is None or self._stepper.is_displaced():
            self._stepper.begin()
            if self._numbers is not None:
                self._numbers.begin()
        policy = self._random if random else self._acting.prepared
        stopped = None if self.interruptor is None else self.interruptor.collection_stopped
        with set_exploration_type(self.exploration_type, thread_local=True):
            batch = self._stepper.run(
                policy, self._steps, interrupted=stopped, dense=bool(self.use_buffers)
            )
        if self._numbers is not None:
            self._numbers.write(batch)
        versions = self._acting.take_versions()
        if versions is not None:
            versions = versions.new_full(batch.shape[-1:], -1) if random else versions  # [T]
            batch.set(POLICY_VERSION, versions.expand(batch.shape).clone())
        return self._finish(batch), batch.numel()

    def reset(self) -> None:
        """Begin new episodes with the next batch."""
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
    def policy_version(self) -> int:
        """Number of times that the weights were renewed."""
        return self._acting.version

    def get_distant_attr(self, name: str) -> Any:
        """Return an attribute, ``"env.batch_size"`` for instance, as it is where collection is."""
        with self._between_batches():
            return attrgetter(name)(self)

    def map_fn(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method, ``"env.set_seed"`` for instance, where collection is."""
        with self._between_batches():
            return attrgetter(name)(self)(*args, **kwargs)

    def profile(self) -> AbstractContextManager[Profile]:
        """Measure, for the length of a ``with`` block, where the time goes.

        Returns: the :class:`~torchrl.collectors.profile.Profile`, filled at the end of the block.
        """
        return profiled(self)

    def set_seed(self, seed: int, static_seed: bool = False) -> int | None:
        """Seed the environment and begin new episodes; return the seed for the next one."""
        with self._between_batches():
            self.reset()
            return self.env.set_seed(seed, static_seed=static_seed)

    def state_dict(self) -> dict[str, Any]:
        """Return the policy, the environment's buffers, and how far collection has come."""
        acting = self._acting.module
        with self._between_batches():
            policy = acting.state_dict() if isinstance(acting, nn.Module) else {}
            return {
                "policy_state_dict": policy,
                "env_state_dict": self.env.state_dict(),
                "frames": self._frames,
                "iter": self._iter,
                "traj_pool": 0 if self._numbers is None else self._numbers.next_free,
            }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from where another collector stood, with new episodes."""
        with self._between_batches():
            if isinstance(self._acting.module, nn.Module):
                self._acting.module.load_state_dict(state_dict["policy_state_dict"])
            self.env.load_state_dict(state_dict["env_state_dict"])
            self._frames, self._iter = state_dict["frames"], state_dict["iter"]
            if self._numbers is not None:
                self._numbers.next_free = state_dict["traj_pool"]
            self.reset()

    def shutdown(self, timeout: float | None = None, close_env: bool = True) -> None:
        """Close the environment; calling it again is fine.

        Args:
            timeout: Seconds that a batch in the making, in the background, may take.
            close_env: Whether to close the environment.
        """
        if not self.is_closed:
            self._stop_background(timeout)
            self.is_closed = True
            self._stepper.root = None
            if close_env and not self.env.is_closed:
                self.env.close()

    def __repr__(self) -> str:
        return (
            f"Collector(env={self.env}, policy={type(self.policy).__name__}, "
            f"frames_per_batch={self.frames_per_batch}, total_frames={self.total_frames})"
        )
