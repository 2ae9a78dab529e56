"""A collector that runs in the calling process."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import nn

from torchrl._core.exploration import ExplorationType, set_exploration_type
from torchrl.collectors.base import BaseCollector
from torchrl.data.trajectories import split_trajectories, traj_ids
from torchrl.envs.common import EnvBase
from torchrl.envs.rollout import PreparedPolicy, Stepper, truncate_last
from torchrl.envs.transforms import StepCounter, TransformedEnv

Device = torch.device | str | int | None


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
        init_random_frames: Act at random for this many frames first.
        reset_at_each_iter: Begin each batch with a reset.
        postproc: Applied to each batch, ``td -> td``.
        split_trajs: Give each piece of a trajectory a row of its own, zero-padded, with the mask
            ``("collector", "mask")``.
        exploration_type: How the policy acts.
        set_truncated: Mark the last step of each batch as truncated.
        trust_policy: Call the policy with the record, whatever its signature.
        replay_buffer: Filled with each batch, flattened; iterating then yields ``None``.
        extend_buffer: If ``False``, iterating yields the batches and the buffer is left alone.

    Writes: what a step holds (see the data layout), and ``("collector", "traj_ids") [*B, T]``,
    unique
        for each trajectory. Entries whose name begins with an underscore are left out.

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
    ) -> None:
        if policy is not None and policy_factory is not None:
            raise TypeError("Collector: give either a policy or a policy_factory, not both.")
        self.env = _build_env(create_env_fn, create_env_kwargs, env_device or device)
        if max_frames_per_traj is not None and max_frames_per_traj > 0:
            self.env = _limit(self.env, max_frames_per_traj)
        self._set_frames(frames_per_batch, total_frames)
        self.policy = policy if policy_factory is None else policy_factory()
        self._set_policy(policy_device or device, trust_policy)
        self._random = PreparedPolicy(self.env, None)
        self._stepper = Stepper(self.env)
        self.storing_device = storing_device or device
        self.init_random_frames = init_random_frames or 0
        self.reset_at_each_iter, self.set_truncated = reset_at_each_iter, set_truncated
        self.postproc, self.split_trajs = postproc, bool(split_trajs)
        self.exploration_type = exploration_type
        self.replay_buffer, self.extend_buffer = replay_buffer, extend_buffer
        self._frames = self._iter = 0
        self._next_traj = 0
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

    def _set_policy(self, device: Device, trust: bool) -> None:
        self._acting = self.policy
        cast = False
        if device is not None and isinstance(self.policy, nn.Module):
            device = torch.device(device)
            elsewhere = any(p.device.type != device.type for p in self.policy.parameters())
            if elsewhere:
                self._acting = copy.deepcopy(self.policy).to(device)
            cast = elsewhere or self.env.device not in (None, device)
        self._trust, self._cast = trust, cast
        self._prepared = PreparedPolicy(self.env, self._acting, trust=trust, cast=cast)

    # --- collecting ------------------------------------------------------------------------------

    def iterator(self) -> Iterator[Any]:
        """Yield batches until ``total_frames``; going on later goes on from there."""
        while self.total_frames < 0 or self._frames < self.total_frames:
            batch = self.rollout()
            self._frames += self.frames_per_batch
            self._iter += 1
            if self.replay_buffer is not None and self.extend_buffer:
                self.replay_buffer.extend(batch.reshape(-1))
                yield None
            else:
                yield batch

    @torch.no_grad()
    def rollout(self) -> TensorDictBase:
        """Take the steps of one batch from where the last one ended."""
        if self.is_closed:
            raise RuntimeError("Collector: it was shut down; build a new one.")
        if self.reset_at_each_iter or self._stepper.root is None or self._stepper.is_displaced():
            self._begin()
        random = self._frames < self.init_random_frames
        with set_exploration_type(self.exploration_type):
            batch = self._stepper.run(self._random if random else self._prepared, self._steps)
        self._number(batch)
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
        ids = ids.to(over.device)
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
        return batch if self.postproc is None else self.postproc(batch)

    def reset(self) -> None:
        """Begin new episodes with the next batch."""
        self._stepper.root = None

    # --- the rest --------------------------------------------------------------------------------

    def update_policy_weights_(
        self, policy_or_weights: nn.Module | TensorDictBase | dict | None = None
    ) -> None:
        """Renew the weights of the policy that acts.

        Args:
            policy_or_weights: A module, its parameters as a tensordict, or a state dict; the policy
                that the collector was given if ``None``.
        """
        source: Any = self.policy if policy_or_weights is None else policy_or_weights
        if source is self._acting or self._acting is None:
            return
        if not isinstance(self._acting, nn.Module):
            raise TypeError(
                f"Collector: a policy without parameters ({type(self._acting).__name__}) has no "
                "weights to update."
            )
        if isinstance(source, TensorDictBase):
            TensorDict.from_module(self._acting).data.update_(source.data)
            return
        weights = source.state_dict() if isinstance(source, nn.Module) else source
        self._acting.load_state_dict(weights)

    def set_seed(self, seed: int, static_seed: bool = False) -> int | None:
        """Seed the environment and begin new episodes; return the seed for the next one."""
        self.reset()
        return self.env.set_seed(seed, static_seed=static_seed)

    def state_dict(self) -> dict[str, Any]:
        """Return the policy, the environment's buffers, and how far collection has come."""
        policy = self._acting.state_dict() if isinstance(self._acting, nn.Module) else {}
        return {
            "policy_state_dict": policy,
            "env_state_dict": self.env.state_dict(),
            "frames": self._frames,
            "iter": self._iter,
            "traj_pool": self._next_traj,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from where another collector stood, with new episodes."""
        if isinstance(self._acting, nn.Module):
            self._acting.load_state_dict(state_dict["policy_state_dict"])
        self.env.load_state_dict(state_dict["env_state_dict"])
        self._frames, self._iter = state_dict["frames"], state_dict["iter"]
        self._next_traj = state_dict["traj_pool"]
        self.reset()

    def shutdown(self, *, close_env: bool = True) -> None:
        """Close the environment; calling it again is fine."""
        if not self.is_closed:
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
