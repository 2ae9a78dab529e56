"""Evaluation of policies: whole episodes, in this thread, in another, in another process or on a cluster.

:class:`Evaluator` is the public class, :class:`~.evaluation_runner.EvaluationRunner` runs the episodes,
:class:`EvaluationProcess` runs them in a worker process and
:class:`~.distributed.ray_evaluation.RayEvaluation` in a Ray actor.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace
from functools import partial
from typing import Any

from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl._core.devices import check_devices
from torchrl._core.errors import MissingKeyError, describe, nearest, summary
from torchrl._core.exploration import ExplorationType
from torchrl._core.workers.pool import RequestHandler, WorkerPool
from torchrl._core.workers.protocol import CALL, RESULT, Channel
from torchrl.collectors.distributed.ray_evaluation import RayEvaluation
from torchrl.collectors.env_factories import Device, Factory, without_workers
from torchrl.collectors.evaluation_runner import NUMBER, EvaluationConfig, EvaluationRunner, Metrics
from torchrl.collectors.policy_runner import check_one_policy
from torchrl.weight_update import Weights, weights_of

BUSY_POLICIES, BACKENDS = ("skip", "wait", "error"), ("thread", "process", "ray")
DELAY = 0.1  # seconds before a process starts with an evaluation whose result is not waited for yet


class _EvaluationPool(WorkerPool):
    def _name(self, worker: int) -> str:
        return "its process"


class EvaluationProcess:
    """Runs evaluations in another process, which ends with this object.

    Args:
        config: What to run. Under ``"spawn"`` it is pickled, functions by value.
        mp_start_method: ``"fork"`` or ``"spawn"``; fork where that is safe if ``None``.
        timeout: Seconds that an answer may take; unlimited if ``None``.
        shutdown_timeout: Seconds in which the environment may close before the process is killed.

    Raises:
        WorkerError: from each method, if something raised there, with its traceback, or if the
            process died or did not answer in time. It can be used again after an error of
            :meth:`run`, unless the process has ended.

    >>> from torchrl.envs import GymEnv
    >>> config = EvaluationConfig(lambda: GymEnv("CartPole-v1"), max_steps=1)
    >>> process = EvaluationProcess(config)
    >>> process.run(weights=None, step=None)["eval/reward"]
    1.0
    >>> process.close()
    """

    def __init__(
        self,
        config: EvaluationConfig,
        *,
        mp_start_method: str | None = None,
        timeout: float | None = None,
        shutdown_timeout: float = 10.0,
    ) -> None:
        self.pool = _EvaluationPool(
            "Evaluator",
            _serve,
            [(config,)],
            mp_start_method=mp_start_method,
            preload="torchrl.collectors",
            first_number=NUMBER,
            timeout=timeout,
            shutdown_timeout=shutdown_timeout,
        )
        self._finalizer = weakref.finalize(self, self.pool.close)
        self._weight_names: frozenset[str] | None = self.pool.answer(0)

    def weight_names(self) -> frozenset[str] | None:
        """Return the names of the policy's weights; ``None`` if it is no module."""
        return self._weight_names

    def run(self, weights: dict[str, Tensor] | None, step: int | None) -> Metrics:
        """Run the episodes; return their metrics; see :meth:`EvaluationRunner.run`."""
        if self.pool.is_closed:
            raise RuntimeError("Evaluator: its process has ended; build a new one.")
        if weights is not None:
            weights = {name: value.cpu() for name, value in weights.items()}
        metrics, error = self.pool.call(0, "run", weights, step)
        if error is not None:
            raise self.pool.failure(0, "", *error)
        return metrics

    def kill(self) -> None:
        """Kill the process; another thread that waits for its answer raises then."""
        self.pool.kill()

    def close(self) -> None:
        """Close the environment and end the process; calling it again is fine."""
        self._finalizer()


def _serve(channel: Channel, config: EvaluationConfig) -> None:
    """Build a runner in a worker process and run it on request, until the pool ends the worker."""
    handler = RequestHandler(channel)
    runners: list[EvaluationRunner] = []

    def build() -> frozenset[str] | None:
        runners.append(EvaluationRunner(replace(config, env=without_workers(config.env))))
        return runners[0].weight_names()

    def evaluate(request: tuple[Any, ...]) -> bytes:
        try:
            return Channel.message(RESULT, (runners[0].run(*request), None))
        except BaseException as error:  # a result for the pool, which goes on then
            return Channel.message(RESULT, (None, summary(error)))

    try:
        if handler.answer(build):
            while (message := channel.receive(handler.tick))[0] == CALL:
                _, request = message[1]
                handler.reply(partial(evaluate, request))
    finally:
        for runner in runners:
            runner.close()


class Evaluator:
    """Runs whole episodes with a copy of a policy and returns their metrics.

    Rows of a batched environment start together, and the first episode of each row counts, so that
    short episodes do not count more than long ones.

    Args:
        env: The environment, for the evaluator alone, or a function that builds it.
        policy: Writes the action; a copy of it acts. Actions are random if ``None``.
        policy_factory: Builds the policy, instead of ``policy``.
        num_trajectories: Number of episodes.
        max_steps: Steps after which an episode is cut; unlimited if ``None``.
        log_prefix: First part of the name of each metric.
        reward_keys: The reward that is summed.
        done_keys: The flag that ends an episode.
        device: Device of environment and policy; unchanged if ``None``.
        exploration_type: How the policy acts.
        metrics_fn: Returns more metrics of the rollouts ``[*B, T]``; steps after the end of a row
            repeat its last.
        dump_video: Write the videos of the recorders among the transforms of ``env``.
        on_result: Called with the metrics of each evaluation, in this process, whatever the
            backend; by another thread if :meth:`trigger_eval` started it.
        busy_policy: What :meth:`trigger_eval` does while an evaluation runs: ``"skip"`` the new
            one, ``"wait"`` for the old one, or raise an ``"error"``.
        backend: Where the episodes run: a ``"thread"`` of this process shares its processor time
            with the learner; a ``"process"`` has its own. The functions that build environment and
            policy, ``metrics_fn`` and the videos run there, too; the arguments are copied there
            once, and the weights for each evaluation. ``"ray"`` is an actor on a node of a Ray cluster, which is
            started here unless it runs.
        init_fn: Called before environment and policy are built, where they are built.
        num_gpus: GPUs that the actor of ``"ray"`` gets.
        ray_kwargs: Other arguments of ``ray.remote`` for it.
        mp_start_method: How the process starts: ``"fork"`` or ``"spawn"``, for which everything
            must be picklable; fork where that is safe if ``None``.
        timeout: Seconds that an evaluation in a process may take; unlimited if ``None``.
        shutdown_timeout: Seconds that an evaluation in a process that still runs, and then the
            closing of the environment, may take at :meth:`shutdown` before the process is killed;
            10 if ``None``. It also holds at the end of the program, where an evaluation without
            ``on_result`` is ended at once. A thread is always waited for.

    Returns: ``<prefix>/reward``, the mean return; ``/reward_std``, ``/episode_length``, ``/fps``,
        ``/step``, if one was given.

    Raises:
        WorkerError: from ``"process"`` and ``"ray"``, with its traceback, if something raised there, it died, or
            it took longer than ``timeout``.

    >>> from torchrl.envs import GymEnv
    >>> evaluator = Evaluator(GymEnv("Pendulum-v1"), num_trajectories=2, max_steps=20)
    >>> evaluator.evaluate(step=7)["eval/episode_length"]
    20.0
    >>> evaluator.shutdown()
    """

    def __init__(
        self,
        env: Factory,
        policy: Callable[..., object] | None = None,
        *,
        policy_factory: Callable[[], Callable[..., object]] | None = None,
        num_trajectories: int = 10,
        max_steps: int | None = None,
        log_prefix: str = "eval",
        reward_keys: NestedKey = ("next", "reward"),
        done_keys: NestedKey = ("next", "done"),
        device: Device = None,
        exploration_type: ExplorationType | str = ExplorationType.DETERMINISTIC,
        metrics_fn: Callable[[list[TensorDictBase]], Metrics] | None = None,
        dump_video: bool = True,
        on_result: Callable[[Metrics], object] | None = None,
        busy_policy: str = "skip",
        backend: str = "thread",
        init_fn: Callable[[], object] | None = None,
        num_gpus: float | None = None,
        ray_kwargs: Mapping[str, Any] | None = None,
        mp_start_method: str | None = None,
        timeout: float | None = None,
        shutdown_timeout: float | None = None,
    ) -> None:
        check_devices(self, device=device)
        check_one_policy(self, policy, policy_factory)
        _check(num_trajectories, busy_policy, backend)
        process = {"mp_start_method": mp_start_method}
        limits = {"timeout": timeout, "shutdown_timeout": shutdown_timeout}
        actor = {"num_gpus": num_gpus, "ray_kwargs": ray_kwargs}
        _refuse(backend, "process", **({} if backend == "process" else process))
        _refuse(backend, "process", **(limits if backend == "thread" else {}))
        _refuse(backend, "ray", **({} if backend == "ray" else actor))
        shutdown_timeout = 10.0 if shutdown_timeout is None else shutdown_timeout
        config = EvaluationConfig(
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
        self._runner: EvaluationRunner | EvaluationProcess | RayEvaluation
        if backend == "thread":
            self._runner = EvaluationRunner(config)
        elif backend == "ray":
            self._runner = RayEvaluation(config, num_gpus, ray_kwargs, timeout, shutdown_timeout)
        else:
            self._runner = EvaluationProcess(
                config, mp_start_method=mp_start_method, timeout=timeout, shutdown_timeout=shutdown_timeout
            )
        self._policy, self.on_result, self.busy_policy = policy, on_result, busy_policy
        self._running: Future[Metrics] | None = None
        self._shutdown_timeout = shutdown_timeout
        # The thread that runs, if there is one, what starts its evaluation, and how many seconds the end of
        # the program waits for it.
        self._start_event = threading.Event()
        self._threads: list[tuple[threading.Thread, threading.Event, float]] = []
        self._finalizer = weakref.finalize(self, _end, self._runner, self._threads)

    def evaluate(self, weights: Weights | None = None, step: int | None = None) -> Metrics:
        """Run the episodes; return their metrics.

        Args:
            weights: A module, its parameters as a tensordict, or a state dict. If ``None``, the
                current weights of ``policy``, or those of the policy of ``policy_factory``.
            step: Frames or updates so far, for the log and the video.
        """
        self.wait()
        return self._evaluate(self._snapshot(weights), step)

    def trigger_eval(self, weights: Weights | None = None, step: int | None = None) -> bool:
        """Evaluate in another thread, with the current weights; return whether it was started.

        A process starts a tenth of a second later, or as soon as the result is asked for, so that the end of
        the program, if it is near, leaves no evaluation half done.

        Raises:
            RuntimeError: if one is running and ``busy_policy`` is ``"error"``.
            Exception: the error that ended the last evaluation, if its result was not read.
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
        self._running, self._start_event = future, threading.Event()
        if isinstance(self._runner, EvaluationRunner):
            self._start_event.set()
        thread = threading.Thread(
            target=self._evaluate_for,
            args=(future, self._start_event, self._snapshot(weights), step),
            name="Evaluator",
            daemon=True,  # at the end of the program the finalizer waits for it
        )
        limit = 0.0 if self.on_result is None else self._shutdown_timeout
        self._threads[:] = [(thread, self._start_event, limit)]
        thread.start()
        return True

    def _evaluate_for(self, future: Future[Metrics], start: threading.Event, *request: Any) -> None:
        start.wait(DELAY)
        try:
            future.set_result(self._evaluate(*request))
        except BaseException as error:  # raised again by wait()
            future.set_exception(error)

    def poll(self, timeout: float | None = 0.0) -> Metrics | None:
        """Return the metrics of the evaluation that was triggered, once, if it has ended.

        Args:
            timeout: Seconds to wait for its end; unlimited if ``None``.
        """
        try:
            return self.wait(timeout)
        except FutureTimeoutError:
            if self._running is None or self._running.done():
                raise  # the error of the evaluation itself
            return None

    def wait(self, timeout: float | None = None) -> Metrics | None:
        """Wait for the evaluation that was triggered, if there is one; return its metrics.

        Raises:
            TimeoutError: if it takes longer than ``timeout`` seconds.
            Exception: the error that ended it.
        """
        if self._running is None:
            return None
        self._start_event.set()
        error = self._running.exception(timeout)
        running, self._running = self._running, None
        if error is not None:
            raise error
        return running.result()

    def shutdown(self) -> None:
        """Wait for the evaluation that runs, close the environment, end the process.

        An evaluation in a process that takes longer than ``shutdown_timeout`` is ended, with a
        warning; :meth:`wait` then raises its error. Calling it again is fine.
        """
        if self._finalizer.detach() is not None:
            _end(self._runner, [(thread, start, self._shutdown_timeout) for thread, start, _ in self._threads])

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
    runner: EvaluationRunner | EvaluationProcess | RayEvaluation,
    threads: list[tuple[threading.Thread, threading.Event, float]],
) -> None:
    try:
        for thread, start, limit in threads:
            if isinstance(runner, EvaluationRunner):
                thread.join()
                continue
            if limit:
                start.set()
            thread.join(limit)
            if thread.is_alive():
                if limit:
                    warnings.warn(
                        f"Evaluator: the running evaluation was ended after {limit} s; wait() for "
                        "it before shutdown(), or raise shutdown_timeout.",
                        stacklevel=3,
                    )
                runner.kill()
                start.set()  # of an evaluation that has not started, which finds no process
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


def _refuse(backend: str, owner: str, **arguments: Any) -> None:
    """Raise ValueError for arguments of another backend."""
    for name, value in arguments.items():
        if value is not None:
            hint = "A thread cannot be ended: leave it out, or evaluate in a process." if backend == "thread" else ""
            raise ValueError(
                describe(
                    "Evaluator",
                    f"{name} is an argument of backend={owner!r}",
                    found=f"{name}={value!r} with backend={backend!r}",
                    hint=hint,
                )
            )
