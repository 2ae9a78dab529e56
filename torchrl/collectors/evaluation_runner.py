"""What an :class:`~torchrl.collectors.Evaluator` runs, wherever it runs: whole episodes, and their metrics."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn

from torchrl._core.exploration import ExplorationType, set_exploration_type
from torchrl.collectors.env_factories import Device, Factory, build_env
from torchrl.record import VideoRecorder
from torchrl.weight_update import weights_of

Metrics = dict[str, Any]
NUMBER = 1 << 20  # of the worker: no collector has so many, so its random seeds differ


@dataclass
class EvaluationConfig:
    """The arguments of :class:`Evaluator` that say what to run."""

    env: Factory
    policy: Callable[..., object] | None = None
    policy_factory: Callable[[], Callable[..., object]] | None = None
    num_trajectories: int = 10
    max_steps: int | None = None
    log_prefix: str = "eval"
    reward_keys: NestedKey = ("next", "reward")
    done_keys: NestedKey = ("next", "done")
    device: Device = None
    exploration_type: ExplorationType | str = ExplorationType.DETERMINISTIC
    metrics_fn: Callable[[list[TensorDictBase]], Metrics] | None = None
    dump_video: bool = True
    init_fn: Callable[[], object] | None = None


class EvaluationRunner:
    """Runs evaluations in this process, with a copy of the policy.

    Args:
        config: What to run.

    >>> from torchrl.envs import GymEnv
    >>> config = EvaluationConfig(GymEnv("Pendulum-v1"), num_trajectories=2, max_steps=20)
    >>> runner = EvaluationRunner(config)
    >>> runner.run(weights=None, step=7)["eval/episode_length"]
    20.0
    >>> runner.close()
    """

    def __init__(self, config: EvaluationConfig) -> None:
        if config.init_fn is not None:
            config.init_fn()
        self.config = config
        self.env = build_env(config.env, None, config.device)
        make = config.policy_factory
        self._given: Any = config.policy if make is None else make()
        self.policy = self._given
        if isinstance(self._given, nn.Module):
            self.policy = copy.deepcopy(self._given)
            if config.device is not None:
                self.policy.to(torch.device(config.device))

    def weight_names(self) -> frozenset[str] | None:
        """Return the names of the policy's weights; ``None`` if it is no module."""
        return frozenset(weights_of(self.policy)) if isinstance(self.policy, nn.Module) else None

    @torch.no_grad()
    def run(self, weights: dict[str, Tensor] | None, step: int | None) -> Metrics:
        """Run the episodes; return their metrics.

        Args:
            weights: Weights of the policy; those with which it was passed if ``None``.
            step: Frames or updates so far, for the log and the video.
        """
        config = self.config
        if isinstance(self.policy, nn.Module):
            wanted = weights_of(self._given) if weights is None else weights
            self.policy.load_state_dict(wanted, strict=False)
        start = time.perf_counter()
        rounds = -(-config.num_trajectories // self.env.batch_size.numel())
        with set_exploration_type(config.exploration_type, thread_local=True):
            rollouts = [
                self.env.rollout(
                    config.max_steps or 2**62, self.policy, auto_cast_to_device=True, break_when_all_done=True
                )
                for _ in range(rounds)
            ]
        seconds = time.perf_counter() - start
        metrics = self._metrics(rollouts, seconds)
        if step is not None:
            metrics[f"{config.log_prefix}/step"] = step
        if config.metrics_fn is not None:
            metrics |= config.metrics_fn(rollouts)
        if config.dump_video:
            for part in self.env.modules():
                if isinstance(part, VideoRecorder):
                    part.dump(step=step)
        return metrics

    def _metrics(self, rollouts: list[TensorDictBase], seconds: float) -> Metrics:
        config = self.config
        found = [returns_and_lengths(r, config.reward_keys, config.done_keys) for r in rollouts]
        returns = torch.cat([r for r, _ in found])[: config.num_trajectories]  # [N]
        lengths = torch.cat([n for _, n in found])[: config.num_trajectories]  # [N]
        frames = sum(int(n.sum()) for _, n in found)
        numbers = {
            "reward": returns.mean().item(),
            "reward_std": returns.std(correction=0).item(),
            "episode_length": lengths.double().mean().item(),
            "fps": frames / seconds,
        }
        return {f"{config.log_prefix}/{name}": number for name, number in numbers.items()}

    def close(self) -> None:
        """Close the environment; calling it again is fine."""
        if not self.env.is_closed:
            self.env.close()


def returns_and_lengths(rollout: TensorDictBase, reward: NestedKey, done: NestedKey) -> tuple[Tensor, Tensor]:
    """Return the sums of rewards and the lengths ``[N]`` of the first episode in each row.

    Args:
        rollout: Steps ``[*B, T]``; several rewards of a step are averaged.
        reward: Key of the reward ``[*B, T, *F]``.
        done: Key of the end ``[*B, T, *G]``; an episode ends with its first flag.

    >>> from tensordict import TensorDict
    >>> steps = TensorDict(r=torch.ones(3, 1), d=torch.tensor([[0], [1], [1]]) > 0, batch_size=[3])
    >>> returns_and_lengths(steps, "r", "d")
    (tensor([2.]), tensor([2]))
    """
    rows = rollout.reshape(-1, rollout.shape[-1])  # [N, T]
    ended = rows[done].flatten(2).any(-1)  # [N, T]
    before = ended.cumsum(-1) - ended.long()  # [N, T]
    alive = before == 0
    rewards = rows[reward].flatten(2).mean(-1)  # [N, T]
    return torch.where(alive, rewards, 0.0).sum(-1), alive.sum(-1)  # later rewards may be NaN
