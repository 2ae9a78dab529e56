"""Evaluations in a Ray actor."""

from __future__ import annotations

import pickle
import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import cloudpickle
import torch
from torch import Tensor

from torchrl._core.errors import WorkerError, summary
from torchrl._core.workers.pool import worker_error
from torchrl._core.workers.process import seed_worker
from torchrl._core.workers.ray_session import Place, RaySession
from torchrl.collectors.env_factories import without_workers
from torchrl.collectors.evaluation_runner import NUMBER, EvaluationConfig, EvaluationRunner, Metrics

Failure = tuple[str, str] | None  # an error in one line, and its traceback


class EvaluationActor:
    """Runs evaluations in a Ray actor."""

    def __init__(self) -> None:
        self._runner: EvaluationRunner | None = None

    def where(self) -> Place:
        """Return where this actor is."""
        return Place.here()

    def build(self, config: bytes, seed: tuple[int, ...]) -> tuple[Any, Failure]:
        """Build environment and policy; return the names of its weights."""
        try:
            torch.set_num_threads(1)
            seed_worker(*seed)
            self._runner = EvaluationRunner(pickle.loads(config))
            return self._runner.weight_names(), None
        except BaseException as error:
            return None, summary(error)

    def run(self, request: bytes) -> tuple[Any, Failure]:
        """Run the episodes; return their pickled metrics."""
        try:
            assert self._runner is not None
            return cloudpickle.dumps(self._runner.run(*pickle.loads(request))), None
        except BaseException as error:
            return None, summary(error)

    def close(self) -> None:
        """Close the environment."""
        if self._runner is not None:
            self._runner.close()


class RayEvaluation:
    """Runs evaluations in a Ray actor, which ends with this object.

    Args:
        config: What to run; it is pickled, functions by value.
        num_gpus: GPUs of the actor.
        options: Other arguments of ``ray.remote``.
        timeout: Seconds that an answer may take; unlimited if ``None``.
        shutdown_timeout: Seconds in which the environment may close.

    Raises:
        WorkerError: from each method, if something raised there, with its traceback, or if the actor was lost or did
            not answer in time.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        num_gpus: float | None,
        options: Mapping[str, Any] | None,
        timeout: float | None,
        shutdown_timeout: float,
    ) -> None:
        self._session, self._timeout, self._place = RaySession("Evaluator"), timeout, "an actor that was not placed"
        wanted = {"num_gpus": num_gpus or 0, **(options or {})}
        self._actor = self._session.ray.remote(**wanted)(EvaluationActor).remote()
        self._finalizer = weakref.finalize(self, _end, self._session, self._actor, shutdown_timeout)
        try:
            place: Place = self._answer(self._actor.where.remote())
            self._place = str(place)
            if difference := place.difference():
                raise worker_error("Evaluator", f"its actor has other versions, {place}: {difference}")
            pickled = cloudpickle.dumps(replace(config, env=without_workers(config.env)))
            names, failure = self._answer(self._actor.build.remote(pickled, (torch.initial_seed(), NUMBER)))
            if failure is not None:
                raise self._failed(*failure)
        except BaseException:
            self._finalizer()
            raise
        self._weight_names: frozenset[str] | None = names

    def _answer(self, ref: Any) -> Any:
        errors = self._session.ray.exceptions
        try:
            return self._session.ray.get(ref, timeout=self._timeout)
        except errors.GetTimeoutError:
            self._finalizer()
            fact = f"its actor did not answer within {self._timeout} s and was killed, {self._place}"
            raise worker_error("Evaluator", fact, hint="Raise timeout.") from None
        except errors.RayError as error:
            self._finalizer()
            brief = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            raise worker_error("Evaluator", f"its actor was lost, {self._place}: {brief}") from None

    def _failed(self, error: str, trace: str) -> WorkerError:
        return worker_error("Evaluator", f"its actor failed, {self._place}: {error.rstrip('.')}", trace)

    def weight_names(self) -> frozenset[str] | None:
        """Return the names of the policy's weights; ``None`` if it is no module."""
        return self._weight_names

    def run(self, weights: dict[str, Tensor] | None, step: int | None) -> Metrics:
        """Run the episodes; return their metrics."""
        if not self._finalizer.alive:
            raise RuntimeError("Evaluator: its actor has ended; build a new one.")
        if weights is not None:
            weights = {name: value.cpu() for name, value in weights.items()}
        metrics, failure = self._answer(self._actor.run.remote(cloudpickle.dumps((weights, step))))
        if failure is not None:
            raise self._failed(*failure)
        return pickle.loads(metrics)

    def kill(self) -> None:
        """Kill the actor; another thread that waits for its answer raises then."""
        if self._session.runs():
            self._session.ray.kill(self._actor)

    def close(self) -> None:
        """Close the environment and end the actor; calling it again is fine."""
        self._finalizer()


def _end(session: RaySession, actor: Any, timeout: float) -> None:
    try:
        if session.runs():
            session.ray.wait([actor.close.remote()], timeout=timeout)
            session.ray.kill(actor)
    finally:
        session.close()
