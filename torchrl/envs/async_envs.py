"""Environments out of step: each answers as soon as it is ready."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tensordict import LazyStackedTensorDict, TensorDictBase

from torchrl._core.errors import describe
from torchrl.envs.batched_envs.base import BatchedEnvBase, Factory
from torchrl.envs.batched_envs.crew import AsyncCrew, Crew
from torchrl.envs.batched_envs.exchange import Exchange, stack_rows
from torchrl.envs.batched_envs.process_crew import ProcessCrew
from torchrl.envs.batched_envs.thread_crew import ThreadCrew
from torchrl.envs.common import EnvBase
from torchrl.envs.env_creator import EnvCreator

RESET, STEP, STEP_AND_RESET = "async_reset", "async_step", "async_step_and_maybe_reset"
INDEX = "env_index"


@dataclass
class _Trip:
    """What one environment is asked to do, and what it answers."""

    kind: str
    env: int
    record: Any  # [*B]; None for a reset that is told nothing
    kwargs: dict[str, Any] = field(default_factory=dict)
    answer: Any = None


class _Dispatcher:
    """Sends environments on trips, one at a time each, and takes up what they bring back.

    Args:
        crew: The workers.
        exchange: Carries records there and back.
    """

    def __init__(self, crew: AsyncCrew, exchange: Exchange) -> None:
        self._crew, self._exchange = crew, exchange
        self._worker = [k for k, (first, end) in enumerate(crew.ranges) for _ in range(first, end)]
        self._waiting: list[deque[_Trip]] = [deque() for _ in crew.ranges]
        self._under_way: dict[int, _Trip] = {}  # by worker
        self._arrived: list[_Trip] = []
        self.pending: dict[int, str] = {}  # what each environment has to answer to

    def send(self, trips: Sequence[_Trip]) -> None:
        """Let trips begin, as soon as the worker of their environment is free."""
        envs = [trip.env for trip in trips]
        late = sorted({env for env in envs if env in self.pending or envs.count(env) > 1})
        if late:
            raise RuntimeError(
                f"Environments {late} have not been received since they were last sent for; "
                "receive them first."
            )
        for trip in trips:
            self.pending[trip.env] = trip.kind
            worker = self._worker[trip.env]
            self._waiting[worker].append(trip)
            if worker not in self._under_way:
                self._begin(worker)

    def _begin(self, worker: int) -> None:
        if self._waiting[worker]:
            trip = self._under_way[worker] = self._waiting[worker].popleft()
            self._crew.submit(worker, *self._call(trip))

    def _call(self, trip: _Trip) -> tuple:
        if trip.kind == RESET:
            return self._exchange.call_reset(trip.env, trip.record, trip.kwargs)
        return self._exchange.call_step(trip.env, trip.record, trip.kind == STEP_AND_RESET)

    def receive(self, kind: str, least: int, most: int, timeout: float | None) -> list[_Trip]:
        """Return trips of a kind that have ended, in that order; wait until there are enough.

        Raises:
            TimeoutError: if there are not; nothing is lost.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        wait: float | None = 0.0  # a look at what is ready now
        while True:
            self._take_up(wait)
            ready = [trip for trip in self._arrived if trip.kind == kind]
            if len(ready) >= least:
                break
            wait = None if deadline is None else deadline - time.monotonic()
            if wait is not None and wait <= 0:
                raise TimeoutError(
                    f"{kind}_recv: {len(ready)} of {least} environments have answered within "
                    f"{timeout} s; they are kept for the next call."
                )
        ready = ready[:most]
        gone = {trip.env for trip in ready}
        self._arrived = [trip for trip in self._arrived if trip.env not in gone]
        for env in gone:
            del self.pending[env]
        return ready

    def _take_up(self, wait: float | None) -> None:
        if not self._under_way:
            return
        for worker, answer in self._crew.collect(wait):
            trip = self._under_way.pop(worker)
            read = self._exchange.reset_answer if trip.kind == RESET else self._exchange.step_answer
            trip.answer = read(trip.env, answer)
            self._arrived.append(trip)
            self._begin(worker)


class AsyncEnvPool(BatchedEnvBase):
    """Several environments at once, of which each answers as soon as it is ready.

    Send records to some environments, do something else, receive those that have answered: slow
    ones hold nobody up. A record names its environments in ``env_index``, and so does what comes
    back, so that it can be sent again once a policy has added actions. As a whole it is an
    environment like :class:`~torchrl.envs.ParallelEnv`, which waits for all.

    If a worker raises, dies or hangs, all of them are ended and the error says which environment it
    was and shows the worker's traceback. A thread that hangs cannot be ended; it is left behind.

    Args:
        env_makers: One function, or one built environment, an environment. They may differ.
        backend: ``"threading"``, for environments that wait more than they compute, or
            ``"multiprocessing"``.
        stack: How answers are put together: ``"dense"``, ``"lazy"``, or ``"maybe_dense"``, which is
            lazy only where entries or shapes differ.
        exchange: How numbers travel: ``"shm"``, in memory that both sides see, ``"queue"``, as
            whole records, or ``"auto"``, in memory if every entry has a fixed shape; ``None`` is
            ``"auto"``.
        worker_affinity: The processor cores of each worker, numbers or sequences of them; Linux
            only.
        envs_per_worker: Number of environments that take turns in one worker.
        create_env_kwargs: Keyword arguments of the functions, for all, or a list with one
            dictionary an environment.
        mp_start_method: As in :class:`~torchrl.envs.ParallelEnv`.
        timeout: Seconds that a worker may take for an answer; unlimited if ``None``.
        shutdown_timeout: Seconds that workers get to close their environments.

    Reads: the action ``[n, *B, *S]``, ``env_index [n, *B]``, and what the environments read.
    Writes: what the environments write, and ``env_index``.

    Raises:
        WorkerError: at any use, if a worker raised, was killed, or did not answer in time.

    >>> from torchrl.envs import GymEnv
    >>> pool = AsyncEnvPool([lambda: GymEnv("CartPole-v1")] * 3)
    >>> pool.async_reset_send()
    >>> root = pool.async_reset_recv(min_get=3)
    >>> pool.async_step_send(pool.rand_action(root))
    >>> pool.async_step_recv(min_get=2, max_get=2)["next", "reward"].shape
    torch.Size([2, 1])
    >>> pool.close()
    """

    entrywise = property(BatchedEnvBase.is_flat)

    def __init__(
        self,
        env_makers: Factory | Sequence[Factory],
        *,
        backend: str = "threading",
        stack: str = "dense",
        exchange: str | None = None,
        worker_affinity: Sequence[int | Sequence[int]] | None = None,
        envs_per_worker: int = 1,
        create_env_kwargs: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
        mp_start_method: str | None = None,
        timeout: float | None = None,
        shutdown_timeout: float = 10.0,
    ) -> None:
        _choose("backend", backend, ("threading", "multiprocessing"))
        _choose("stack", stack, ("dense", "maybe_dense", "lazy"))
        _choose("exchange", exchange or "auto", ("auto", "shm", "queue"))
        if callable(env_makers) or isinstance(env_makers, EnvBase):
            env_makers = [env_makers]
        makers = list(env_makers)
        if not makers:
            raise ValueError("AsyncEnvPool: env_makers must hold at least one, found none.")
        if envs_per_worker < 1:
            raise ValueError(
                f"AsyncEnvPool: envs_per_worker must be at least 1, found {envs_per_worker}."
            )
        super().__init__(
            -(-len(makers) // envs_per_worker),
            makers,
            create_env_kwargs=create_env_kwargs,
            use_buffers={"shm": True, "queue": False}.get(exchange or "auto"),
            mp_start_method=mp_start_method,
            timeout=timeout,
            shutdown_timeout=shutdown_timeout,
        )
        if worker_affinity is not None and len(worker_affinity) != self.num_workers:
            raise ValueError(
                f"AsyncEnvPool: expected one worker_affinity for each of {self.num_workers} "
                f"workers, found {len(worker_affinity)}."
            )
        self.backend, self.stack = backend, stack
        self._affinity = worker_affinity

    # --- life ------------------------------------------------------------------------------------

    def _idle(self) -> None:
        super()._idle()
        self._dispatcher: _Dispatcher | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_dispatcher": None}

    def shutdown(self) -> None:
        """Close the environments, as :meth:`close`; what is under way is not received any more."""
        self.close()

    def _make_crew(self, recipes: Sequence[EnvCreator | EnvBase]) -> Crew:
        make = ThreadCrew if self.backend == "threading" else ProcessCrew
        crew: AsyncCrew = make(type(self).__name__, recipes, self.num_workers, self._options)
        for worker, cores in enumerate(self._affinity or ()):
            crew.submit(worker, "pin", [cores] if isinstance(cores, int) else list(cores))
            crew.collect()
        return crew

    def _memory_kind(self) -> str:
        return "own" if self.backend == "threading" else self._options.memory

    def _desk(self) -> _Dispatcher:
        """Return what sends and receives; start the environments if need be."""
        self.start()
        if self._dispatcher is None:
            crew, exchange = self._crew, self._exchange
            assert isinstance(crew, AsyncCrew)
            assert exchange is not None
            self._dispatcher = _Dispatcher(crew, exchange)
        return self._dispatcher

    # --- all at once -----------------------------------------------------------------------------

    def _refuse_pending(self) -> None:
        if self._dispatcher is not None and (pending := self._dispatcher.pending):
            raise RuntimeError(
                f"{type(self).__name__}: environments {sorted(pending)} have not been received "
                "since they were last sent for; receive them before all are stepped or reset."
            )

    def _step(self, tensordict: Any) -> Any:
        self._refuse_pending()
        return super()._step(tensordict)

    def _reset(self, tensordict: Any, *args: Any, **kwargs: Any) -> Any:
        self._refuse_pending()
        return super()._reset(tensordict, *args, **kwargs)

    # --- each on its own -------------------------------------------------------------------------

    def async_reset_send(
        self,
        tensordict: TensorDictBase | None = None,
        env_index: int | Sequence[int] | torch.Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        """Ask environments to begin new episodes.

        Args:
            tensordict: A record an environment, ``[n, *B]``, handed to its ``reset``.
            env_index: Which environments, ``[n]``; those that ``tensordict`` names in ``env_index``
                if ``None``, or all.
            kwargs: For the ``reset`` of each.
        """
        self._send(RESET, tensordict, env_index, kwargs)

    def async_reset_recv(
        self, min_get: int = 1, max_get: int | None = None, timeout: float | None = None
    ) -> TensorDictBase:
        """Return the first roots of environments that have been reset, ``[n, *B]``.

        Args:
            min_get: Wait until so many have answered.
            max_get: Leave what is more for the next call.
            timeout: Seconds to wait.

        Raises:
            TimeoutError: if fewer than ``min_get`` answered in time; they are kept.
            ValueError: if fewer than ``min_get`` were sent for.
        """
        trips = self._receive(RESET, min_get, max_get, timeout)
        return self._stacked([self._marked(trip.answer, trip.env) for trip in trips])

    def async_step_send(
        self,
        tensordict: TensorDictBase,
        env_index: int | Sequence[int] | torch.Tensor | None = None,
    ) -> None:
        """Ask environments to take a step.

        Args:
            tensordict: The root of each with its action, ``[n, *B]``.
            env_index: As in :meth:`async_reset_send`.
        """
        self._send(STEP, tensordict, env_index, {})

    def async_step_recv(
        self, min_get: int = 1, max_get: int | None = None, timeout: float | None = None
    ) -> TensorDictBase:
        """Return the records of environments that have stepped, ``"next"`` added, ``[n, *B]``.

        Arguments and errors are those of :meth:`async_reset_recv`.
        """
        trips = self._receive(STEP, min_get, max_get, timeout)
        return self._stacked([self._stepped(trip) for trip in trips])

    def async_step_and_maybe_reset_send(
        self,
        tensordict: TensorDictBase,
        env_index: int | Sequence[int] | torch.Tensor | None = None,
    ) -> None:
        """As :meth:`async_step_send`; those whose episode ends then begin the next one."""
        self._send(STEP_AND_RESET, tensordict, env_index, {})

    def async_step_and_maybe_reset_recv(
        self, min_get: int = 1, max_get: int | None = None, timeout: float | None = None
    ) -> tuple[TensorDictBase, TensorDictBase]:
        """Return the records of environments that have stepped, and their next roots.

        Arguments and errors are those of :meth:`async_reset_recv`.
        """
        trips = self._receive(STEP_AND_RESET, min_get, max_get, timeout)
        steps = [self._stepped(trip) for trip in trips]
        roots = []
        for trip, step in zip(trips, steps, strict=True):
            root, fresh = self.plan.step_mdp(step), trip.answer[1]
            roots.append(root if fresh is None else root.update(fresh))
        return self._stacked(steps), self._stacked(roots)

    def rand_action(self, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        """Write random actions into ``tensordict [n, *B]`` for the environments that it names."""
        if tensordict is None or tensordict.get(INDEX, None) is None:
            return super().rand_action(tensordict)
        spec, envs = self.full_action_spec, self._indices(tensordict, None)
        rows = [
            self.draw_for_rows(spec[env], row)
            for env, row in zip(envs, tensordict.unbind(0), strict=True)
        ]
        return tensordict.update(stack_rows(rows))

    def _send(self, kind: str, tensordict: Any, env_index: Any, kwargs: dict[str, Any]) -> None:
        desk = self._desk()
        self.count_move()
        envs = self._indices(tensordict, env_index)
        if isinstance(env_index, int) and tensordict is not None:
            rows: Sequence[Any] = [tensordict]
        else:
            rows = [None] * len(envs) if tensordict is None else tensordict.unbind(0)
        if len(rows) != len(envs):
            raise ValueError(
                f"{kind}_send: expected a record for each of environments {envs}, found "
                f"{len(rows)}."
            )
        trips = zip(envs, rows, strict=True)
        desk.send([_Trip(kind, env, row, kwargs) for env, row in trips])

    def _indices(self, tensordict: Any, env_index: Any) -> list[int]:
        """Return the environments that a call is about."""
        if env_index is None and tensordict is not None:
            env_index = tensordict.get(INDEX, None)
        if env_index is None:
            return list(range(self.num_envs))
        envs = torch.as_tensor(env_index)
        envs = envs.reshape(len(envs), -1)[:, 0] if envs.ndim else envs.reshape(1)
        found = [int(env) for env in envs]
        if any(not 0 <= env < self.num_envs for env in found):
            raise IndexError(
                describe(
                    self,
                    "names environments that there are not",
                    key=INDEX,
                    expected=f"numbers from 0 to {self.num_envs - 1}",
                    found=found,
                )
            )
        return found

    def _receive(
        self, kind: str, min_get: int, max_get: int | None, timeout: float | None
    ) -> list[_Trip]:
        desk = self._desk()
        sent = sum(each == kind for each in desk.pending.values())
        most = sent if max_get is None else max_get
        if not 1 <= min_get <= min(sent, most):
            raise ValueError(
                describe(
                    f"{kind}_recv",
                    "cannot wait for so many environments",
                    expected=f"min_get from 1 to {min(sent, most)}, as {sent} were sent for",
                    found=min_get,
                    hint=f"Call {kind}_send first.",
                )
            )
        return desk.receive(kind, min_get, most, timeout)

    def _stepped(self, trip: _Trip) -> Any:
        following, preset = trip.answer[0], trip.record.get("next", None)
        if preset is not None:
            following = preset.copy().update(following)
        return self._marked(trip.record.copy().set("next", following), trip.env)

    def _marked(self, record: Any, env: int) -> Any:
        return record.set(INDEX, torch.full(record.batch_size, env))

    def _stacked(self, rows: list[Any]) -> Any:
        if self.stack == "lazy":
            return LazyStackedTensorDict.lazy_stack(rows, 0)
        dense: Any = torch.stack if self.stack == "dense" else stack_rows
        return dense(rows)


class ThreadingAsyncEnvPool(AsyncEnvPool):
    """An :class:`AsyncEnvPool` whose workers are threads; all other arguments are its own."""

    entrywise = property(BatchedEnvBase.is_flat)

    def __init__(self, env_makers: Factory | Sequence[Factory], **kwargs: Any) -> None:
        super().__init__(env_makers, backend="threading", **kwargs)


class ProcessorAsyncEnvPool(AsyncEnvPool):
    """An :class:`AsyncEnvPool` whose workers are processes; all other arguments are its own."""

    entrywise = property(BatchedEnvBase.is_flat)

    def __init__(self, env_makers: Factory | Sequence[Factory], **kwargs: Any) -> None:
        super().__init__(env_makers, backend="multiprocessing", **kwargs)


def _choose(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"AsyncEnvPool: expected {name} to be one of {known}, found {value!r}.")
