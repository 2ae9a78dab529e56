"""A collector that runs in the calling process."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import nn

from torchrl._core.exploration import ExplorationType, set_exploration_type
from torchrl.collectors.acting import ActingPolicy, Device
from torchrl.collectors.base import BaseCollector
from torchrl.collectors.interrupt import Interruptor
from torchrl.collectors.profile import Profile, profiled
from torchrl.data.trajectories import split_trajectories, traj_ids
from torchrl.envs.common import EnvBase
from torchrl.envs.rollout import Stepper, truncate_last
from torchrl.envs.transforms import StepCounter, TransformedEnv

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
        exploration_type: How the policy acts.
        set_truncated: Mark the last step of each batch as truncated.
        trust_policy: Call the policy with the record, whatever its signature.
        replay_buffer: Filled with each batch; iterating then yields ``None``. Steps are flattened
            unless the storage has as many dimensions as a batch, and padding is left out.
        extend_buffer: If ``False``, iterating yields the batches and the buffer is left alone.
        interruptor: Ends a batch early, after any step.
        compile_policy: Compile the policy with ``torch.compile``; a dictionary holds its arguments.
        track_policy_version: Write which weights acted: the number of updates before.
        trajs_per_batch: Yield this many whole trajectories at a time, rather than steps; fewer at
            the end. Those that have not ended when all frames are collected are left out.
        traj_format: ``"padded"``, ``[N, L]`` with the mask ``("collector", "mask")``, or ``"cat"``,
            one after the other; padded if ``None``.

    Writes: what a step holds (see the data layout), ``("collector", "traj_ids") [*B, T]``, unique
        for each trajectory, and ``policy_version [*B, T]`` on demand, -1 for random actions.
        Entries whose name begins with an underscore are left out.

    >>> from torchrl.envs import GymEnv
    >>> collector = Collector(GymEnv("CartPole-v1"), frames_per_batch=50, total_frames=100)
    >>> [batch.shape for batch in collector]
    [torch.Size([50]), torch.Size([50])]
    """

    def __init__(
        self,
        create_env_fn: EnvBase | Callable[..., EnvBase],
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
        exploration_type: ExplorationType | str | None = ExplorationType.RANDOM,
        set_truncated: bool = False,
        trust_policy: bool = False,
        replay_buffer: Any = None,
        extend_buffer: bool = True,
        interruptor: Interruptor | None = None,
        compile_policy: bool | dict[str, Any] = False,
        track_policy_version: bool = False,
        trajs_per_batch: int | None = None,
        traj_format: str | None = None,
    ) -> None:
        if policy is not None and policy_factory is not None:
            raise TypeError("Collector: give either a policy or a policy_factory, not both.")
        self.env = _build_env(create_env_fn, create_env_kwargs, env_device or device)
        if max_frames_per_traj is not None and max_frames_per_traj > 0:
            self.env = _limit(self.env, max_frames_per_traj)
        self._set_frames(frames_per_batch, total_frames)
        self.policy = policy if policy_factory is None else policy_factory()
        self._acting = ActingPolicy(
            self.env,
            self.policy,
            device=policy_device or device,
            trust=trust_policy,
            compile_policy=compile_policy,
            tracks_version=track_policy_version,
        )
        self._random = self._acting.at_random(self.env)
        self._stepper = Stepper(self.env)
        self.storing_device = storing_device or device
        self.init_random_frames = init_random_frames or 0
        self.reset_at_each_iter, self.set_truncated = reset_at_each_iter, set_truncated
        self.postproc, self.split_trajs = postproc, bool(split_trajs)
        self.exploration_type = exploration_type
        self.replay_buffer, self.extend_buffer = replay_buffer, extend_buffer
        self._set_trajectories(
            trajs_per_batch, traj_format, splits=self.split_trajs, resets=reset_at_each_iter
        )
        self.interruptor = interruptor
        self._frames = self._iter = self._collected = 0
        self._next_traj = 0
        self._numbering = (1, 0)  # times, plus: so that several collectors share no number
        self._first_ids = torch.empty(0, dtype=torch.int64)
        self.is_closed = False

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
        if total_frames > 0 and total_frames % self.frames_per_batch:
            warnings.warn(
                f"Collector: total_frames={total_frames} is not a multiple of the "
                f"{self.frames_per_batch} frames of a batch; the last batch overshoots it by "
                f"{-total_frames % self.frames_per_batch}.",
                stacklevel=3,
            )

    # --- collecting ------------------------------------------------------------------------------

    def iterator(self) -> Iterator[Any]:
        """Yield batches until ``total_frames``; going on later goes on from there."""
        yield from self._handed_over(self._batches())

    def _batches(self) -> Iterator[TensorDictBase]:
        while self.total_frames < 0 or self._frames < self.total_frames:
            batch = self.rollout()
            self._frames += self._collected
            self._iter += 1
            yield batch

    def rollout(self) -> TensorDictBase:
        """Take the steps of one batch from where the last one ended."""
        return self._collect(random=self._frames < self.init_random_frames)

    @torch.no_grad()
    def _collect(self, *, random: bool) -> TensorDictBase:
        if self.is_closed:
            raise RuntimeError("Collector: it was shut down; build a new one.")
        if self.reset_at_each_iter or self._stepper.root is None or self._stepper.is_displaced():
            self._begin()
        policy = self._random if random else self._acting.prepared
        stopped = None if self.interruptor is None else self.interruptor.collection_stopped
        with set_exploration_type(self.exploration_type, thread_local=True):
            batch = self._stepper.run(policy, self._steps, interrupted=stopped)
        self._collected = batch.numel()
        self._number(batch)
        versions = self._acting.take_versions()
        if versions is not None:
            versions = versions.new_full(batch.shape[-1:], -1) if random else versions  # [T]
            batch.set(POLICY_VERSION, versions.expand(batch.shape).clone())
        return self._finish(batch)

    def _begin(self) -> None:
        self._stepper.begin()
        count = self.env.batch_size.numel()
        self._first_ids = torch.arange(self._next_traj, self._next_traj + count)
        self._first_ids = self._first_ids.reshape(self.env.batch_size)  # [*B]
        self._next_traj += count

    def _number(self, batch: TensorDictBase) -> None:
        over = self.env.plan.rows_over(batch.get("next"), every=False)  # [*B, T, 1]
        ids, self._first_ids, self._next_traj = traj_ids(
            over.cpu(), self._first_ids, self._next_traj
        )
        times, plus = self._numbering
        ids = (ids * times + plus).to(over.device)
        batch.set("collector", TensorDict({"traj_ids": ids}, batch.batch_size, batch.device))

    def _finish(self, batch: TensorDictBase) -> TensorDictBase:
        private = [key for key in batch.keys(True) if _is_private(key)]
        if private:
            batch = batch.exclude(*private)
        if self.set_truncated:
            truncate_last(self.env, batch)
        if self.storing_device is not None:
            batch = batch.to(self.storing_device)
        if self.split_trajs:
            batch = split_trajectories(batch, prefix="collector")
        if self.postproc is None or self._whole is not None:
            return batch
        return self.postproc(batch)

    def reset(self) -> None:
        """Begin new episodes with the next batch."""
        self._stepper.root = None
        if self._whole is not None:
            self._whole.reset()

    # --- the rest --------------------------------------------------------------------------------

    def update_policy_weights_(
        self, policy_or_weights: nn.Module | TensorDictBase | dict | None = None
    ) -> None:
        """Renew the weights of the policy that acts.

        Args:
            policy_or_weights: A module, its parameters as a tensordict, or a state dict; the policy
                that the collector was given if ``None``.
        """
        self._acting.update(policy_or_weights)

    def profile(self) -> AbstractContextManager[Profile]:
        """Measure, for the length of a ``with`` block, where the time goes.

        Returns: the :class:`~torchrl.collectors.profile.Profile`, filled at the end of the block.
        """
        return profiled(self)

    def set_seed(self, seed: int, static_seed: bool = False) -> int | None:
        """Seed the environment and begin new episodes; return the seed for the next one."""
        self.reset()
        return self.env.set_seed(seed, static_seed=static_seed)

    def state_dict(self) -> dict[str, Any]:
        """Return the policy, the environment's buffers, and how far collection has come."""
        acting = self._acting.module
        policy = acting.state_dict() if isinstance(acting, nn.Module) else {}
        return {
            "policy_state_dict": policy,
            "env_state_dict": self.env.state_dict(),
            "frames": self._frames,
            "iter": self._iter,
            "traj_pool": self._next_traj,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from where another collector stood, with new episodes."""
        if isinstance(self._acting.module, nn.Module):
            self._acting.module.load_state_dict(state_dict["policy_state_dict"])
        self.env.load_state_dict(state_dict["env_state_dict"])
        self._frames, self._iter = state_dict["frames"], state_dict["iter"]
        self._next_traj = state_dict["traj_pool"]
        self.reset()

    def shutdown(self, *, close_env: bool = True) -> None:
        """Close the environment; calling it again is fine."""
        if not self.is_closed:
            self._stop_background()
            self.is_closed = True
            self._stepper.root = None
            if close_env and not self.env.is_closed:
                self.env.close()

    def __repr__(self) -> str:
        return (
            f"Collector(env={self.env}, policy={type(self.policy).__name__}, "
            f"frames_per_batch={self.frames_per_batch}, total_frames={self.total_frames})"
        )


def _build_env(
    create_env_fn: EnvBase | Callable[..., EnvBase], kwargs: dict[str, Any] | None, device: Device
) -> EnvBase:
    env = create_env_fn if isinstance(create_env_fn, EnvBase) else create_env_fn(**(kwargs or {}))
    if not isinstance(env, EnvBase):
        raise TypeError(
            f"Collector: expected create_env_fn to be or to build an EnvBase, found "
            f"{type(env).__name__}. Wrap a gymnasium environment in GymWrapper."
        )
    return env if device is None else env.to(device)


def _limit(env: EnvBase, max_steps: int) -> EnvBase:
    if any(key == "step_count" or key[-1] == "step_count" for key in env.observation_keys):
        raise ValueError(
            "Collector: max_frames_per_traj counts steps under 'step_count', which the environment "
            "has already; give its StepCounter max_steps instead."
        )
    return TransformedEnv(env, StepCounter(max_steps=max_steps))


def _is_private(key: Any) -> bool:
    return any(part.startswith("_") for part in ((key,) if isinstance(key, str) else key))
