"""One evaluation: episodes from first step to last, as numbers and videos."""

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
from torchrl.collectors.recipes import Device, Factory, build_env
from torchrl.record import VideoRecorder
from torchrl.weight_update import weights_of

Metrics = dict[str, Any]


@dataclass
class EvaluationPlan:
    """What is evaluated, and how; each field is an argument of ``Evaluator``."""

    env: Factory
    policy: Callable[..., Any] | None = None
    policy_factory: Callable[[], Callable[..., Any]] | None = None
    num_trajectories: int = 10
    max_steps: int | None = None
    log_prefix: str = "eval"
    reward_keys: NestedKey = ("next", "reward")
    done_keys: NestedKey = ("next", "done")
    device: Device = None
    exploration_type: ExplorationType | str = ExplorationType.DETERMINISTIC
    metrics_fn: Callable[[list[TensorDictBase]], Metrics] | None = None
    dump_video: bool = True
    init_fn: Callable[[], Any] | None = None


class EvaluationRunner:
    """Runs evaluations, one after the other, with a copy of the policy.

    Args:
        plan: What to run.

    >>> from torchrl.envs import GymEnv
    >>> plan = EvaluationPlan(GymEnv("Pendulum-v1"), num_trajectories=2, max_steps=20)
    >>> runner = EvaluationRunner(plan)
    >>> runner.run(weights=None, step=7)["eval/episode_length"]
    20.0
    >>> runner.close()
    """

    def __init__(self, plan: EvaluationPlan) -> None:
        if plan.init_fn is not None:
            plan.init_fn()
        self.plan = plan
        self.env = build_env(plan.env, None, plan.device)
        make = plan.policy_factory
        self._given: Any = plan.policy if make is None else make()
        self.policy = self._given
        if isinstance(self._given, nn.Module):
            self.policy = copy.deepcopy(self._given)
            if plan.device is not None:
                self.policy.to(torch.device(plan.device))

    def weight_names(self) -> frozenset[str] | None:
        """Return the names of the weights that the policy has; ``None`` if it is no module."""
        return frozenset(weights_of(self.policy)) if isinstance(self.policy, nn.Module) else None

    @torch.no_grad()
    def run(self, weights: dict[str, Tensor] | None, step: int | None) -> Metrics:
        """Return what came of the episodes.

        Args:
            weights: Those of the policy; as it was given if ``None``.
            step: Frames or updates so far, for the log and the video.
        """
        plan = self.plan
        if isinstance(self.policy, nn.Module):
            wanted = weights_of(self._given) if weights is None else weights
            self.policy.load_state_dict(wanted, strict=False)
        start = time.perf_counter()
        rounds = -(-plan.num_trajectories // self.env.batch_size.numel())
        with set_exploration_type(plan.exploration_type, thread_local=True):
            rollouts = [
                self.env.rollout(
                    plan.max_steps or 2**62,
                    self.policy,
                    auto_cast_to_device=True,
                    break_when_all_done=True,
                )
                for _ in range(rounds)
            ]
        seconds = time.perf_counter() - start
        metrics = self._numbers(rollouts, seconds)
        if step is not None:
            metrics[f"{plan.log_prefix}/step"] = step
        if plan.metrics_fn is not None:
            metrics |= plan.metrics_fn(rollouts)
        if plan.dump_video:
            self._dump(step)
        return metrics

    def _numbers(self, rollouts: list[TensorDictBase], seconds: float) -> Metrics:
        plan = self.plan
        found = [returns_and_lengths(r, plan.reward_keys, plan.done_keys) for r in rollouts]
        returns = torch.cat([r for r, _ in found])[: plan.num_trajectories]  # [N]
        lengths = torch.cat([n for _, n in found])[: plan.num_trajectories]  # [N]
        frames = sum(int(n.sum()) for _, n in found)
        numbers = {
            "reward": returns.mean().item(),
            "reward_std": returns.std(correction=0).item(),
            "episode_length": lengths.double().mean().item(),
            "fps": frames / seconds,
        }
        return {f"{plan.log_prefix}/{name}": number for name, number in numbers.items()}

    def _dump(self, step: int | None) -> None:
        for part in self.env.modules():
            if isinstance(part, VideoRecorder):
                part.dump(step=step)

    def close(self) -> None:
        """Close the environment; calling it again is fine."""
        if not self.env.is_closed:
            self.env.close()


def returns_and_lengths(
    rollout: TensorDictBase, reward: NestedKey, done: NestedKey
) -> tuple[Tensor, Tensor]:
    """Return sum of rewards and number of steps ``[N]`` of the first episode in each row.

    Args:
        rollout: Steps ``[*B, T]``; several rewards of a step count by their mean.
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
    return torch.where(alive, rewards, 0.0).sum(-1), alive.sum(-1)  # what follows may be NaN
