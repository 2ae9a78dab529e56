"""How good a policy is: evaluations when they are asked for, now or beside the learner."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl._core.devices import check_devices
from torchrl._core.errors import MissingKeyError, describe, nearest
from torchrl._core.exploration import ExplorationType
from torchrl.collectors.acting import check_one_policy
from torchrl.collectors.evaluation import EvaluationPlan, EvaluationRunner, Metrics
from torchrl.collectors.evaluation_process import EvaluationProcess
from torchrl.collectors.recipes import Device, Factory
from torchrl.weight_update import Weights, weights_of

BUSY_POLICIES, BACKENDS = ("skip", "wait", "error"), ("thread", "process")


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
        on_result: Called in this process, whatever the backend, with the numbers of each
            evaluation: by the thread if :meth:`trigger_eval` began it.
        busy_policy: What :meth:`trigger_eval` does while one runs: ``"skip"`` the new one,
            ``"wait"`` for the old one, or raise an ``"error"``.
        backend: Where the episodes run: a ``"thread"`` of this process shares its processor time
            with the learner; a ``"process"`` has its own. What builds environment and policy,
            ``metrics_fn`` and the videos run there too; what is given goes there as a copy, once,
            and weights go there with each evaluation.
        init_fn: Called before environment and policy are built, where they are built.
        mp_start_method: How the process starts: ``"fork"`` or ``"spawn"``, for which everything
            must be picklable; fork where that is safe if ``None``.
        timeout: Seconds that an evaluation in a process may take; unlimited if ``None``.
        shutdown_timeout: Seconds that an evaluation in a process that still runs, and then the
            closing of the environment, may take at :meth:`shutdown` before the process is killed;
            10 if ``None``. At the end of the program, too, but there an evaluation without
            ``on_result``, whose numbers reach no one any more, is ended at once. A thread is
            waited for.

    Returns: ``<prefix>/reward``, the mean return; ``/reward_std``, ``/episode_length``, ``/fps``,
        ``/step``, if one was given.

    Raises:
        WorkerError: from ``"process"``, with the traceback of what raised there; or if it was lost
            or took longer than ``timeout``.

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
        backend: str = "thread",
        init_fn: Callable[[], Any] | None = None,
        mp_start_method: str | None = None,
        timeout: float | None = None,
        shutdown_timeout: float | None = None,
    ) -> None:
        check_devices(self, device=device)
        check_one_policy(self, policy, policy_factory)
        _check(num_trajectories, busy_policy, backend)
        if backend == "thread":
            _refuse_for_threads(
                mp_start_method=mp_start_method, timeout=timeout, shutdown_timeout=shutdown_timeout
            )
        shutdown_timeout = 10.0 if shutdown_timeout is None else shutdown_timeout
        plan = EvaluationPlan(
            env,
            policy,
            policy_factory,
            num_trajectories=num_trajectories,
            max_steps=max_steps,
            log_prefix=log_prefix,
            reward_keys=reward_keys,
            done_keys=done_keys,
            device=device,
            exploration_type=exploration_type,
            metrics_fn=metrics_fn,
            dump_video=dump_video,
            init_fn=init_fn,
        )
        self._runner: EvaluationRunner | EvaluationProcess
        if backend == "thread":
            self._runner = EvaluationRunner(plan)
        else:
            self._runner = EvaluationProcess(
                plan,
                mp_start_method=mp_start_method,
                timeout=timeout,
                shutdown_timeout=shutdown_timeout,
            )
        self._policy, self.on_result, self.busy_policy = policy, on_result, busy_policy
        self._running: Future[Metrics] | None = None
        self._shutdown_timeout = shutdown_timeout
        # The thread that runs, if there is one, and the seconds that the end of the program waits.
        self._threads: list[tuple[threading.Thread, float]] = []
        self._finalizer = weakref.finalize(self, _end, self._runner, self._threads)

    def evaluate(self, weights: Weights | None = None, step: int | None = None) -> Metrics:
        """Return what came of the episodes.

        Args:
            weights: A module, its parameters as a tensordict, or a state dict. If ``None``, those
                of the policy that was given, as they are now, or that ``policy_factory`` made.
            step: Frames or updates so far, for the log and the video.
        """
        self.wait()
        return self._evaluate(self._snapshot(weights), step)

    def trigger_eval(self, weights: Weights | None = None, step: int | None = None) -> bool:
        """Evaluate beside this thread, with the weights of now; return whether it was begun.

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
        if not self._finalizer.alive:
            raise RuntimeError("Evaluator: it was shut down; build a new one.")
        future: Future[Metrics] = Future()
        self._running = future
        thread = threading.Thread(
            target=self._fulfil,
            args=(future, self._snapshot(weights), step),
            name="Evaluator",
            daemon=True,  # at the end of the program the finalizer waits for it
        )
        limit = 0.0 if self.on_result is None else self._shutdown_timeout
        self._threads[:] = [(thread, limit)]
        thread.start()
        return True

    def _fulfil(self, future: Future[Metrics], *request: Any) -> None:
        try:
            future.set_result(self._evaluate(*request))
        except BaseException as error:  # raised again by wait()
            future.set_exception(error)

    def poll(self) -> Metrics | None:
        """Return the result of what was triggered, once, if it has ended."""
        return self.wait() if self._running is not None and self._running.done() else None

    def wait(self, timeout: float | None = None) -> Metrics | None:
        """Wait for what was triggered and return its result, if there is any.

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
        """Wait for what runs, close the environment, end the process; calling it again is fine.

        An evaluation in a process that takes longer than ``shutdown_timeout`` is ended, with a
        warning; :meth:`wait` then raises the error that it ended with.
        """
        if self._finalizer.detach() is not None:
            _end(self._runner, [(thread, self._shutdown_timeout) for thread, _ in self._threads])

    def _snapshot(self, weights: Weights | None) -> dict[str, Tensor] | None:
        wanted = self._runner.weight_names()
        if wanted is None and weights is not None:
            raise TypeError(describe(self, "has a policy without weights to set"))
        source: Any = self._policy if weights is None else weights
        if wanted is None or source is None:
            return None
        found = weights_of(source)
        missing = wanted - found.keys()
        if missing:
            raise MissingKeyError(
                describe(
                    self,
                    "is missing among the weights",
                    key=min(missing),
                    hint=nearest(min(missing), found) or "Pass all weights of the policy.",
                )
            )
        return {name: value.clone() for name, value in found.items()}

    def _evaluate(self, weights: dict[str, Tensor] | None, step: int | None) -> Metrics:
        metrics = self._runner.run(weights, step)
        if self.on_result is not None:
            self.on_result(metrics)
        return metrics


def _end(
    runner: EvaluationRunner | EvaluationProcess,
    threads: list[tuple[threading.Thread, float]],
) -> None:
    try:
        for thread, limit in threads:
            if isinstance(runner, EvaluationRunner):
                thread.join()
                continue
            thread.join(limit)
            if thread.is_alive():
                if limit:
                    warnings.warn(
                        f"Evaluator: the running evaluation was ended after {limit} s; wait() for "
                        "it before shutdown(), or raise shutdown_timeout.",
                        stacklevel=3,
                    )
                runner.kill()
                thread.join()
    finally:
        runner.close()


def _check(num_trajectories: int, busy_policy: str, backend: str) -> None:
    if busy_policy not in BUSY_POLICIES or num_trajectories < 1:
        raise ValueError(
            f"Evaluator: num_trajectories must be positive and busy_policy one of "
            f"{BUSY_POLICIES}, found {num_trajectories}, {busy_policy!r}."
        )
    if backend not in BACKENDS:
        raise ValueError(f"Evaluator: backend must be one of {BACKENDS}, found {backend!r}.")


def _refuse_for_threads(**arguments: Any) -> None:
    """Refuse arguments that need a process, which can be ended."""
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(
                describe(
                    "Evaluator",
                    f"{name} is an argument of backend='process'",
                    found=f"{name}={value!r} with backend='thread'",
                    hint="A thread cannot be ended: leave it out, or evaluate in a process.",
                )
            )
