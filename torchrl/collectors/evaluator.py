"""How good a policy is: episodes from first step to last, now or beside the learner."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn

from torchrl._core.errors import MissingKeyError, describe, nearest
from torchrl._core.exploration import ExplorationType, set_exploration_type
from torchrl.collectors.acting import check_one_policy
from torchrl.collectors.recipes import Device, Factory, build_env
from torchrl.record import VideoRecorder
from torchrl.weight_update import Weights, weights_of

Metrics = dict[str, Any]
BUSY_POLICIES = ("skip", "wait", "error")


class Evaluator:
    """Runs whole episodes with a copy of a policy and tells what came of them.

    Rows of a batched environment begin together and each counts with its first episode, so that
    short episodes do not count more than long ones.

    Args:
        env: The environment, which nobody else steps, or a function that builds it.
        policy: Writes the action; a copy acts. Acts at random if ``None``.
        policy_factory: Builds the policy, instead of ``policy``.
        num_trajectories: Number of episodes.
        max_steps: Steps after which an episode is given up; never if ``None``.
        log_prefix: Begins the name of each number.
        reward_keys: The reward that is added up.
        done_keys: The flag that ends an episode.
        device: Where environment and policy live; where they are if ``None``.
        exploration_type: How the policy acts.
        metrics_fn: More numbers, from the rollouts ``[*B, T]``; steps after the end of a row repeat
            its last.
        dump_video: Write the videos of the recorders among the transforms of ``env``.
        on_result: Called with the numbers of each evaluation, where it ran.
        busy_policy: What :meth:`trigger_eval` does while one runs: ``"skip"`` the new one,
            ``"wait"`` for the old one, or raise an ``"error"``.

    Returns: ``<prefix>/reward``, the mean return; ``/reward_std``, ``/episode_length``, ``/fps``,
        ``/step``, if one was given.

    >>> from torchrl.envs import GymEnv
    >>> evaluator = Evaluator(GymEnv("Pendulum-v1"), num_trajectories=2, max_steps=20)
    >>> evaluator.evaluate(step=7)["eval/episode_length"]
    20.0
    >>> evaluator.shutdown()
    """

    def __init__(
        self,
        env: Factory,
        policy: Callable[..., Any] | None = None,
        *,
        policy_factory: Callable[[], Callable[..., Any]] | None = None,
        num_trajectories: int = 10,
        max_steps: int | None = None,
        log_prefix: str = "eval",
        reward_keys: NestedKey = ("next", "reward"),
        done_keys: NestedKey = ("next", "done"),
        device: Device = None,
        exploration_type: ExplorationType | str = ExplorationType.DETERMINISTIC,
        metrics_fn: Callable[[list[TensorDictBase]], Metrics] | None = None,
        dump_video: bool = True,
        on_result: Callable[[Metrics], Any] | None = None,
        busy_policy: str = "skip",
    ) -> None:
        check_one_policy(self, policy, policy_factory)
        if busy_policy not in BUSY_POLICIES or num_trajectories < 1:
            raise ValueError(
                f"Evaluator: num_trajectories must be positive and busy_policy one of "
                f"{BUSY_POLICIES}, found {num_trajectories}, {busy_policy!r}."
            )
        self.env = build_env(env, None, device)
        self._given = policy if policy_factory is None else policy_factory()
        self.policy = self._given
        if isinstance(self._given, nn.Module):
            self.policy = copy.deepcopy(self._given)
            if device is not None:
                self.policy.to(torch.device(device))
        self.num_trajectories, self.max_steps = num_trajectories, max_steps
        self.log_prefix, self.reward_keys, self.done_keys = log_prefix, reward_keys, done_keys
        self.exploration_type, self.metrics_fn = exploration_type, metrics_fn
        self.dump_video, self.on_result, self.busy_policy = dump_video, on_result, busy_policy
        self._thread = ThreadPoolExecutor(1, "Evaluator")
        self._running: Future[Metrics] | None = None

    def evaluate(self, weights: Weights | None = None, step: int | None = None) -> Metrics:
        """Return what came of the episodes.

        Args:
            weights: A module, its parameters as a tensordict, or a state dict; those of the policy
                that was given, as they are now, if ``None``.
            step: Frames or updates so far, for the log and the video.
        """
        self.wait()
        return self._evaluate(self._snapshot(weights), step)

    def trigger_eval(self, weights: Weights | None = None, step: int | None = None) -> bool:
        """Evaluate in a thread, with the weights as they are now; say whether it was begun.

        Raises:
            RuntimeError: if one is running and ``busy_policy`` is ``"error"``.
            Exception: the error that ended an evaluation of which nobody has asked the result.
        """
        if self._running is not None and not self._running.done():
            if self.busy_policy == "skip":
                return False
            if self.busy_policy == "error":
                raise RuntimeError("Evaluator: it is busy; wait() for it, or let it skip or wait.")
        self.wait()
        self._running = self._thread.submit(self._evaluate, self._snapshot(weights), step)
        return True

    def poll(self) -> Metrics | None:
        """Return the result of the evaluation in the thread, once, if it has ended."""
        return self.wait() if self._running is not None and self._running.done() else None

    def wait(self, timeout: float | None = None) -> Metrics | None:
        """Wait for the evaluation in the thread and return its result, if one was begun.

        Raises:
            TimeoutError: if it takes longer than ``timeout`` seconds.
            Exception: the error that ended it.
        """
        if self._running is None:
            return None
        error = self._running.exception(timeout)
        running, self._running = self._running, None
        if error is not None:
            raise error
        return running.result()

    def shutdown(self) -> None:
        """Wait for what runs and close the environment; calling it again is fine."""
        self._thread.shutdown()
        if not self.env.is_closed:
            self.env.close()

    # --- an evaluation ---------------------------------------------------------------------------

    def _snapshot(self, weights: Weights | None) -> dict[str, Tensor] | None:
        source: Any = self._given if weights is None else weights
        if not isinstance(self.policy, nn.Module):
            if weights is not None:
                raise TypeError(
                    describe(
                        self,
                        "has a policy without weights to set",
                        found=type(self.policy).__name__,
                    )
                )
            return None
        found = weights_of(source)
        missing = weights_of(self.policy).keys() - found.keys()
        if missing:
            raise MissingKeyError(
                describe(
                    self,
                    "is missing among the weights",
                    key=min(missing),
                    mend=nearest(min(missing), found) or "Pass all weights of the policy.",
                )
            )
        return {name: value.clone() for name, value in found.items()}

    @torch.no_grad()
    def _evaluate(self, weights: dict[str, Tensor] | None, step: int | None) -> Metrics:
        if weights is not None:
            assert isinstance(self.policy, nn.Module)
            self.policy.load_state_dict(weights, strict=False)
        start = time.perf_counter()
        rounds = -(-self.num_trajectories // self.env.batch_size.numel())
        with set_exploration_type(self.exploration_type, thread_local=True):
            rollouts = [
                self.env.rollout(
                    self.max_steps or 2**62,
                    self.policy,
                    auto_cast_to_device=True,
                    break_when_all_done=True,
                )
                for _ in range(rounds)
            ]
        seconds = time.perf_counter() - start
        metrics = self._numbers(rollouts, seconds)
        if step is not None:
            metrics[f"{self.log_prefix}/step"] = step
        if self.metrics_fn is not None:
            metrics |= self.metrics_fn(rollouts)
        if self.dump_video:
            self._dump(step)
        if self.on_result is not None:
            self.on_result(metrics)
        return metrics

    def _numbers(self, rollouts: list[TensorDictBase], seconds: float) -> Metrics:
        found = [returns_and_lengths(r, self.reward_keys, self.done_keys) for r in rollouts]
        returns = torch.cat([r for r, _ in found])[: self.num_trajectories]  # [N]
        lengths = torch.cat([n for _, n in found])[: self.num_trajectories]  # [N]
        frames = sum(int(n.sum()) for _, n in found)
        numbers = {
            "reward": returns.mean().item(),
            "reward_std": returns.std(correction=0).item(),
            "episode_length": lengths.double().mean().item(),
            "fps": frames / seconds,
        }
        return {f"{self.log_prefix}/{name}": number for name, number in numbers.items()}

    def _dump(self, step: int | None) -> None:
        for part in self.env.modules():
            if isinstance(part, VideoRecorder):
                part.dump(step=step)


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
    return (rewards * alive).sum(-1), alive.sum(-1)
