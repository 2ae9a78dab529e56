"""Evaluations in a process of their own."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from torchrl._core.errors import WorkerError, describe
from torchrl._core.processes import Channel, Launcher, WorkerProcess, check_parent, start_method
from torchrl.collectors.evaluation import EvaluationPlan, EvaluationRunner, Metrics
from torchrl.collectors.recipes import without_workers
from torchrl.collectors.worker import FAILED, RESULT, failure

RUN = b"C"
_NUMBER = 1 << 20  # no collector has so many workers: its random numbers are none of theirs


class EvaluationProcess:
    """Leads to an :class:`EvaluationRunner` in another process, which ends with this object.

    Args:
        plan: What to run. Under ``"spawn"`` it is pickled, functions by value.
        mp_start_method: ``"fork"`` or ``"spawn"``; fork where that is safe if ``None``.
        timeout: Seconds that an answer may take; unlimited if ``None``.
        shutdown_timeout: Seconds that the environment gets to close before the process is killed.

    Raises:
        WorkerError: from each method, if something raised there, with its traceback, or if the
            process was lost. Who raised may be asked again; who was lost may not.

    >>> from torchrl.envs import GymEnv
    >>> plan = EvaluationPlan(lambda: GymEnv("CartPole-v1"), max_steps=1)
    >>> process = EvaluationProcess(plan)
    >>> process.run(weights=None, step=None)["eval/reward"]
    1.0
    >>> process.close()
    """

    def __init__(
        self,
        plan: EvaluationPlan,
        *,
        mp_start_method: str | None = None,
        timeout: float | None = None,
        shutdown_timeout: float = 10.0,
    ) -> None:
        self._timeout = timeout
        launcher = Launcher(start_method(mp_start_method), preload="torchrl.collectors")
        try:
            self._worker = WorkerProcess(_serve, (plan,), launcher, number=_NUMBER)
        except BaseException:
            launcher.close()
            raise
        self._finalizer = weakref.finalize(self, _end, self._worker, shutdown_timeout)
        try:
            self._weight_names = self._guarded(self._answer)
        except BaseException:
            self.close()
            raise

    def weight_names(self) -> frozenset[str] | None:
        """Return the names of the weights that the policy has; ``None`` if it is no module."""
        return self._weight_names

    def run(self, weights: dict[str, Tensor] | None, step: int | None) -> Metrics:
        """Return what came of the episodes; as :meth:`EvaluationRunner.run`, there."""
        if not self._finalizer.alive:
            raise RuntimeError("Evaluator: its process has ended; build a new one.")
        if weights is not None:
            weights = {name: value.cpu() for name, value in weights.items()}
        return self._guarded(self._ask, weights, step)

    def _ask(self, *request: Any) -> Metrics:
        self._worker.channel.send(RUN, request, self._look_since(time.monotonic()))
        return self._answer()

    def _answer(self) -> Any:
        code, payload = self._worker.channel.receive(self._look_since(time.monotonic()))
        if code == FAILED:
            brief, trace = payload
            text = describe("Evaluator", f"its process failed: {brief}")
            raise WorkerError(f"{text}\n\nIts own traceback:\n\n{trace}")
        return payload

    def _guarded(self, method: Callable[..., Any], *args: Any) -> Any:
        try:
            return method(*args)
        except WorkerError:
            if not self._worker.is_alive():
                self.close()
            raise
        except (EOFError, OSError):
            lost = describe("Evaluator", f"its process {self._worker.ending()}")
            self.close()
            raise WorkerError(lost) from None
        except BaseException:  # nobody waits for the answer, which is not one to the next request
            self._worker.kill()
            self.close()
            raise

    def _look_since(self, start: float) -> Callable[[], None]:
        def look() -> None:
            worker = self._worker
            if not worker.is_alive() and not worker.channel.pending():
                raise EOFError("the process has ended")
            if self._timeout is not None and time.monotonic() - start > self._timeout:
                trace = worker.traceback()
                worker.kill()
                fact = f"its process did not answer within {self._timeout} s and was killed"
                text = describe("Evaluator", fact, hint="Raise timeout.")
                raise WorkerError(f"{text}\n\nIts own traceback:\n\n{trace}" if trace else text)

        return look

    def kill(self) -> None:
        """End the process at once; a thread that waits for its answer raises then."""
        self._worker.kill()

    def close(self) -> None:
        """Close the environment and end the process; calling it again is fine."""
        self._finalizer()


def _end(worker: WorkerProcess, timeout: float) -> None:
    if worker.owner == os.getpid():  # not in a fork of the process that made it
        try:
            worker.stop(timeout)
        finally:
            worker.launcher.close()


def _serve(channel: Channel, plan: EvaluationPlan) -> None:
    """Build a runner and run what the channel asks for, until it closes."""
    tick = check_parent(os.getppid())
    runners: list[EvaluationRunner] = []

    def build() -> frozenset[str] | None:
        runners.append(EvaluationRunner(replace(plan, env=without_workers(plan.env))))
        return runners[0].weight_names()

    try:
        channel.send_message(_message(build), tick)
        while True:
            code, request = channel.receive(tick)
            if code != RUN:
                return
            channel.send_message(_message(runners[0].run, *request), tick)
    finally:
        for runner in runners:
            runner.close()


def _message(work: Callable[..., Any], *args: Any) -> bytes:
    try:
        return Channel.message(RESULT, work(*args))
    except BaseException as error:
        return failure(error)
