"""`AsyncEnvPool`: environments that are stepped and reset independently of each other."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tensordict import LazyStackedTensorDict, TensorDictBase

from torchrl._core.errors import describe
from torchrl._core.records.flat_record import Record
from torchrl.envs.base import EnvBase
from torchrl.envs.batched.base import BatchedEnvBase, Factory
from torchrl.envs.batched.pools import AsyncPool, EnvPool, ProcessPool, ThreadPool
from torchrl.envs.batched.transport import Transport, stack_rows
from torchrl.envs.env_creator import EnvCreator

RESET, STEP, STEP_AND_RESET = "async_reset", "async_step", "async_step_and_maybe_reset"
INDEX = "env_index"


@dataclass
class _Request:
    """A step or a reset of one environment, and its answer."""

    kind: str
    env: int
    record: Record  # [*B]; None for a reset without a record
    kwargs: dict[str, object] = field(default_factory=dict)
    answer: Any = None


class _Dispatcher:
    """Sends requests to environments, one at a time for each worker, and keeps the answers.

    Args:
        pool: The workers.
        transport: Turns requests into calls, and reads the answers.
    """

    def __init__(self, pool: AsyncPool, transport: Transport) -> None:
        self._pool, self._transport = pool, transport
        self._worker = [k for k, (first, end) in enumerate(pool.ranges) for _ in range(first, end)]
        self._queues: list[deque[_Request]] = [deque() for _ in pool.ranges]
        self._sent: dict[int, _Request] = {}  # by worker
        self._answered: list[_Request] = []
        self.pending: dict[int, str] = {}  # kind of the request of each environment

    def send(self, requests: Sequence[_Request]) -> None:
        """Send requests, each as soon as the worker of its environment is free.

        Raises:
            RuntimeError: if an environment has another request that was not received.
        """
        envs = [request.env for request in requests]
        twice = sorted({env for env in envs if env in self.pending or envs.count(env) > 1})
        if twice:
            raise RuntimeError(
                f"Environments {twice} have not been received since they were last sent for; receive them first."
            )
        for request in requests:
            self.pending[request.env] = request.kind
            worker = self._worker[request.env]
            self._queues[worker].append(request)
            if worker not in self._sent:
                self._send_next(worker)

    def _send_next(self, worker: int) -> None:
        if self._queues[worker]:
            request = self._sent[worker] = self._queues[worker].popleft()
            if request.kind == RESET:
                call = self._transport.call_reset(request.env, request.record, request.kwargs)
            else:
                resets = request.kind == STEP_AND_RESET
                call = self._transport.call_step(request.env, request.record, resets)
            self._pool.submit(worker, *call)

    def receive(self, kind: str, least: int, most: int, timeout: float | None) -> list[_Request]:
        """Wait for answered requests of a kind; return them in the order of their answers.

        Args:
            kind: Kind of the requests.
            least: Number to wait for.
            most: Largest number to return.
            timeout: Seconds to wait; unlimited if ``None``.

        Raises:
            TimeoutError: if fewer than ``least`` are answered in time; they are kept.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        wait: float | None = 0.0  # first, only those that have answered
        while True:
            self._collect(wait)
            ready = [request for request in self._answered if request.kind == kind]
            if len(ready) >= least:
                break
            wait = None if deadline is None else deadline - time.monotonic()
            if wait is not None and wait <= 0:
                raise TimeoutError(
                    f"{kind}_recv: {len(ready)} of {least} environments have answered within "
                    f"{timeout} s; they are kept for the next call."
                )
        ready = ready[:most]
        envs = {request.env for request in ready}
        self._answered = [request for request in self._answered if request.env not in envs]
        for env in envs:
            del self.pending[env]
        return ready

    def _collect(self, wait: float | None) -> None:
        if not self._sent:
            return
        for worker, answer in self._pool.collect(wait):
            request, transport = self._sent.pop(worker), self._transport
            read = transport.reset_answer if request.kind == RESET else transport.step_answer
            request.answer = read(request.env, answer)
            self._answered.append(request)
            self._send_next(worker)


class AsyncEnvPool(BatchedEnvBase):
    """Several environments, each of which is stepped and reset independently of the others.

    Records are sent to some environments, and the results of those that have answered are received
    later, so that fast environments do not wait for slow ones. A record names its environments in
    ``env_index``, and so does its result, so that it can be sent again once a policy has added
    actions. The pool as a whole is an environment like :class:`~torchrl.envs.ParallelEnv`, which
    waits for all.

    If a worker raises, dies or hangs, all of them are ended; the error names the environment and
    shows the worker's traceback. A thread that hangs cannot be ended; it is abandoned.

    Args:
        env_makers: A function, or a built environment, for each environment. They may differ.
        backend: ``"threading"``, for environments that mostly wait for input and output, or
            ``"multiprocessing"``.
        stack: How results are stacked: ``"dense"``, ``"lazy"``, or ``"maybe_dense"``, which is lazy
            only where entries or shapes differ.
        exchange: How tensors are exchanged: ``"shm"``, in memory that both sides see, ``"queue"``,
            as whole records, or ``"auto"``, in memory if every entry has a fixed shape; ``None`` is
            ``"auto"``.
        worker_affinity: The processor cores of each worker, numbers or sequences of them; Linux
            only.
        envs_per_worker: Number of environments that one worker steps in turn.
        create_env_kwargs: Keyword arguments of the functions, for all, or a list with a dictionary
            for each environment.
        mp_start_method: As in :class:`~torchrl.envs.ParallelEnv`.
        timeout: Seconds that a worker may take for an answer; unlimited if ``None``.
        shutdown_timeout: Seconds in which workers may close their environments.

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

    supports_flat_records = property(BatchedEnvBase.is_flat)

    def __init__(
        self,
        env_makers: Factory | Sequence[Factory],
        *,
        backend: str = "threading",
        stack: str = "dense",
        exchange: str | None = None,
        worker_affinity: Sequence[int | Sequence[int]] | None = None,
        envs_per_worker: int = 1,
        create_env_kwargs: dict[str, object] | Sequence[dict[str, object]] | None = None,
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
            raise ValueError(f"AsyncEnvPool: envs_per_worker must be at least 1, found {envs_per_worker}.")
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

    # --- start and close -------------------------------------------------------------------------

    def _idle(self) -> None:
        super()._idle()
        self._dispatcher: _Dispatcher | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "_dispatcher": None}

    def shutdown(self) -> None:
        """Close the environments, as :meth:`close`; pending requests are dropped."""
        self.close()

    def _make_pool(self, recipes: Sequence[EnvCreator | EnvBase]) -> EnvPool:
        make = ThreadPool if self.backend == "threading" else ProcessPool
        pool: AsyncPool = make(type(self).__name__, recipes, self.num_workers, self._options)
        for worker, cores in enumerate(self._affinity or ()):
            pool.submit(worker, "pin", [cores] if isinstance(cores, int) else list(cores))
            pool.collect()
        return pool

    def _memory_kind(self) -> str:
        return "own" if self.backend == "threading" else self._options.memory

    def _started(self) -> _Dispatcher:
        """Start the environments if needed; return their dispatcher."""
        self.start()
        if self._dispatcher is None:
            pool, transport = self._pool, self._transport
            assert isinstance(pool, AsyncPool)
            assert transport is not None
            self._dispatcher = _Dispatcher(pool, transport)
        return self._dispatcher

    # --- all environments ------------------------------------------------------------------------

    def _refuse_pending(self) -> None:
        if self._dispatcher is not None and (pending := self._dispatcher.pending):
            raise RuntimeError(
                f"{type(self).__name__}: environments {sorted(pending)} have not been received "
                "since they were last sent for; receive them before all are stepped or reset."
            )

    def _step(self, tensordict: Record) -> TensorDictBase:
        self._refuse_pending()
        return super()._step(tensordict)

    def _reset(self, tensordict: Any, *args: Any, **kwargs: Any) -> TensorDictBase:
        self._refuse_pending()
        return super()._reset(tensordict, *args, **kwargs)

    # --- some environments -----------------------------------------------------------------------

    def async_reset_send(
        self,
        tensordict: TensorDictBase | None = None,
        env_index: int | Sequence[int] | torch.Tensor | None = None,
        **kwargs: object,
    ) -> None:
        """Send resets to environments.

        Args:
            tensordict: The records to reset, ``[n, *B]``.
            env_index: Numbers of the environments, ``[n]``; those of the entry ``env_index`` of
                ``tensordict`` if ``None``, or all.
            kwargs: Keyword arguments of the ``reset`` of each environment.
        """
        self._send(RESET, tensordict, env_index, kwargs)

    def async_reset_recv(
        self, min_get: int = 1, max_get: int | None = None, timeout: float | None = None
    ) -> TensorDictBase:
        """Return the roots of environments that have been reset, ``[n, *B]``.

        Args:
            min_get: Wait until so many have answered.
            max_get: Largest number to return; others are kept for the next call.
            timeout: Seconds to wait.

        Raises:
            TimeoutError: if fewer than ``min_get`` answered in time; they are kept.
            ValueError: if fewer than ``min_get`` were sent for.
        """
        requests = self._receive(RESET, min_get, max_get, timeout)
        return self._stacked([self._marked(request.answer, request.env) for request in requests])

    def async_step_send(
        self, tensordict: TensorDictBase, env_index: int | Sequence[int] | torch.Tensor | None = None
    ) -> None:
        """Send steps to environments.

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
        requests = self._receive(STEP, min_get, max_get, timeout)
        return self._stacked([self._stepped(request) for request in requests])

    def async_step_and_maybe_reset_send(
        self, tensordict: TensorDictBase, env_index: int | Sequence[int] | torch.Tensor | None = None
    ) -> None:
        """As :meth:`async_step_send`; environments whose episode ends are then reset."""
        self._send(STEP_AND_RESET, tensordict, env_index, {})

    def async_step_and_maybe_reset_recv(
        self, min_get: int = 1, max_get: int | None = None, timeout: float | None = None
    ) -> tuple[TensorDictBase, TensorDictBase]:
        """Return the records of environments that have stepped, and their next roots.

        Arguments and errors are those of :meth:`async_reset_recv`.
        """
        requests = self._receive(STEP_AND_RESET, min_get, max_get, timeout)
        steps = [self._stepped(request) for request in requests]
        roots = []
        for request, step in zip(requests, steps, strict=True):
            root, fresh = self.compiled_specs.step_mdp(step), request.answer[1]
            roots.append(root if fresh is None else root.update(fresh))
        return self._stacked(steps), self._stacked(roots)

    def rand_action(self, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        """Write random actions into ``tensordict [n, *B]`` for the environments that it names."""
        if tensordict is None or tensordict.get(INDEX, None) is None:
            return super().rand_action(tensordict)
        spec, envs = self.full_action_spec, self._indices(tensordict, None)
        rows = [self.draw_for_rows(spec[env], row) for env, row in zip(envs, tensordict.unbind(0), strict=True)]
        return tensordict.update(stack_rows(rows))

    def _send(self, kind: str, tensordict: Any, env_index: object, kwargs: dict[str, object]) -> None:
        dispatcher = self._started()
        self.bump_state_version()
        envs = self._indices(tensordict, env_index)
        if isinstance(env_index, int) and tensordict is not None:
            rows: Sequence[Any] = [tensordict]
        else:
            rows = [None] * len(envs) if tensordict is None else tensordict.unbind(0)
        if len(rows) != len(envs):
            raise ValueError(f"{kind}_send: expected a record for each of environments {envs}, found {len(rows)}.")
        pairs = zip(envs, rows, strict=True)
        dispatcher.send([_Request(kind, env, row, kwargs) for env, row in pairs])

    def _indices(self, tensordict: Record, env_index: object) -> list[int]:
        """Return the numbers of the environments of a call."""
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

    def _receive(self, kind: str, min_get: int, max_get: int | None, timeout: float | None) -> list[_Request]:
        dispatcher = self._started()
        sent = sum(each == kind for each in dispatcher.pending.values())
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
        return dispatcher.receive(kind, min_get, most, timeout)

    def _stepped(self, request: _Request) -> TensorDictBase:
        result, preset = request.answer[0], request.record.get("next", None)
        if preset is not None:
            result = preset.copy().update(result)
        return self._marked(request.record.copy().set("next", result), request.env)

    def _marked(self, record: Any, env: int) -> TensorDictBase:
        return record.set(INDEX, torch.full(record.batch_size, env))

    def _stacked(self, rows: list[TensorDictBase]) -> TensorDictBase:
        if self.stack == "lazy":
            return LazyStackedTensorDict.lazy_stack(rows, 0)
        dense: Any = torch.stack if self.stack == "dense" else stack_rows
        return dense(rows)


class ThreadingAsyncEnvPool(AsyncEnvPool):
    """An :class:`AsyncEnvPool` whose workers are threads; it takes the same other arguments.

    >>> from torchrl.envs import GymEnv
    >>> pool = ThreadingAsyncEnvPool([lambda: GymEnv("CartPole-v1")] * 2)
    >>> td = pool.reset()
    >>> pool.async_step_send(pool.rand_action(td))
    >>> ready = pool.async_step_recv(min_get=1)  # those that are done stepping
    >>> pool.close()
    """

    supports_flat_records = property(BatchedEnvBase.is_flat)

    def __init__(self, env_makers: Factory | Sequence[Factory], **kwargs: Any) -> None:
        super().__init__(env_makers, backend="threading", **kwargs)


class ProcessorAsyncEnvPool(AsyncEnvPool):
    """An :class:`AsyncEnvPool` whose workers are processes; it takes the same other arguments.

    >>> from torchrl.envs import GymEnv
    >>> pool = ProcessorAsyncEnvPool(lambda: GymEnv("CartPole-v1"))
    >>> pool.rollout(3).shape
    torch.Size([1, 3])
    >>> pool.close()
    """

    supports_flat_records = property(BatchedEnvBase.is_flat)

    def __init__(self, env_makers: Factory | Sequence[Factory], **kwargs: Any) -> None:
        super().__init__(env_makers, backend="multiprocessing", **kwargs)


def _choose(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"AsyncEnvPool: expected {name} to be one of {known}, found {value!r}.")
