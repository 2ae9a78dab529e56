"""The pool of collectors in Ray actors, of which :class:`~.ray.RayCollector` collects batches."""

from __future__ import annotations

import copy
import math
import os
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cloudpickle
import torch
from torch import nn

from torchrl._core.errors import WorkerError
from torchrl._core.log import logger
from torchrl._core.workers.pool import worker_error
from torchrl._core.workers.ray_session import Place, RaySession
from torchrl._core.workers.shared_batch import BatchLayout, SharedBatch
from torchrl._core.workers.shared_memory import buffer_of
from torchrl.collectors.distributed.ray_worker import DONE, FAILED, FRAMES, GROUPS, TENSORS, RayWorker, Reply
from torchrl.collectors.pool import Found
from torchrl.collectors.worker import WorkerConfig, WorkerInfo
from torchrl.weight_update import RayWeightSender, weights_of
from torchrl.weight_update.scheme import Layout

RESTARTS = 3  # failures for each worker, without a batch of any in between, after which the collection ends
TICK = 1.0  # seconds of waiting after which time-outs are checked
IN_FLIGHT = 2  # deliveries of weights to an actor that did not arrive yet
PATIENCE = 0.05  # seconds that the learner waits for an actor that takes no delivery, once
AFTER_KILL = 5.0  # seconds in which Ray reports that an actor has ended
STAY, START, DELIVERY = "stay", "start", "delivery"  # what a reference is awaited for, beside requests
Ref = Any  # ray.ObjectRef


@dataclass(eq=False)
class Request:
    """A batch that was requested.

    Args:
        worker: Number of the worker whose batch it is, whoever collects it.
        batch: Number of the batch.
        random: Whether actions are random.
        since: Time at which its actor could start with it.
        number: How many requests its actor was sent, with this one.
    """

    worker: int
    batch: int
    random: bool
    since: float = 0.0
    number: int = 0


class RayActor:
    """One actor, as it is seen here.

    Args:
        actor_class: The remote class.
        worker: Number of the worker that it is.
        attempt: How often the worker was started before.
        name: Name of its environment, until it reports a better one.

    Attributes:
        start: What its start waits for; ``None`` once it is ready.
        requests: Its requests, by their references.
        num_requests: How many it was sent.
        carried: Version of the newest weights that it was sent with a request.
    """

    def __init__(self, actor_class: Any, worker: int, attempt: int, name: str) -> None:
        self.worker, self.attempt, self.name = worker, attempt, name
        self.handle = actor_class.remote()
        self.stay: Ref = self._method("stay", "life").remote()
        self.start: Ref | None = self.handle.where.remote()
        self.deliver, self.stop = self._method("deliver", "news"), self._method("stop", "news")
        self.place: Place | None = None
        self.layout: BatchLayout | None = None
        self.requests: dict[Ref, Request] = {}
        self.carried, self.delivered, self.num_requests = -1, -1, 0
        self.deliveries: deque[Ref] = deque()
        self.is_slow = False

    def _method(self, name: str, group: str) -> Any:
        return getattr(self.handle, name).options(concurrency_group=group)

    def __str__(self) -> str:
        where = "an actor that Ray has not placed" if self.place is None else str(self.place)
        return f" in {self.name}, {where}"


class RayPool:
    """Collectors in Ray actors; see :class:`~torchrl.collectors.pool.Pool`.

    Args:
        owner: Name of the collector, for error messages.
        configs: What each worker builds.
        session: The use of Ray, which the pool closes.
        remote_configs: Arguments of ``ray.remote`` for each worker.
        on_failure: ``"raise"`` ends all actors; ``"restart"`` lets the others go on, see
            :class:`~torchrl.collectors.distributed.RayCollector`.
        start_timeout: Seconds in which an actor that is waited for must have been placed, and have imported torchrl.
        num_threads: Torch threads in each worker.
        timeout: Seconds that a worker may take for a batch; unlimited if ``None``.
        shutdown_timeout: Seconds in which workers may close their environments.

    Raises:
        WorkerError: from each method, if a worker failed or was lost, and could not be restarted.
    """

    def __init__(
        self,
        owner: str,
        configs: Sequence[WorkerConfig],
        session: RaySession,
        remote_configs: Sequence[Mapping[str, Any]],
        *,
        on_failure: str = "raise",
        start_timeout: float = 300.0,
        num_threads: int = 1,
        timeout: float | None = None,
        shutdown_timeout: float = 10.0,
    ) -> None:
        self.owner, self.session, self._ray = owner, session, session.ray
        self.on_failure, self.start_timeout = "raise", start_timeout
        self.num_threads, self.timeout, self.shutdown_timeout = num_threads, timeout, shutdown_timeout
        self.is_closed, self._pid, self._seed = False, os.getpid(), torch.initial_seed()
        self._remote = [dict(options) for options in remote_configs]
        self._refs: dict[Ref, tuple[RayActor, object]] = {}
        self._found: deque[tuple[int, Found]] = deque()
        self._unassigned: deque[Request] = deque()
        self._outstanding: Counter[int] = Counter()
        self._failures = 0  # since the last batch
        self._asked, self._last_asked = 0, Counter[int]()  # requests so far; their number at the last of each worker
        self._picked: dict[int, tuple[Any, ...]] = {}  # weights that were sent to one worker only
        self._sender: RayWeightSender | None = None
        self._batch, self._waiting_since = 0, math.inf
        self.actors: list[RayActor] = []
        self.worker_info: list[WorkerInfo] = []
        try:
            policy = configs[0].policy
            if isinstance(policy, nn.Module) and any(w.device.type != "cpu" for w in weights_of(policy).values()):
                policy = copy.deepcopy(policy).cpu()  # which every node can load
            self._policy = self._ray.put(cloudpickle.dumps(policy))
            self._configs = [cloudpickle.dumps(replace(c, policy=None, replay_buffer=None)) for c in configs]
            recipes = [getattr(config.create_env_fn, "func", config.create_env_fn) for config in configs]
            self._names = [getattr(recipe, "__qualname__", None) or type(recipe).__name__ for recipe in recipes]
            self._buffer = configs[0].replay_buffer
            infos: list[Any] = [None] * len(configs)
            self.worker_info = infos
            self.actors = [self._new_actor(worker, 0) for worker in range(len(configs))]
            for worker in range(len(configs)):
                self._when_ready(worker)
            self.on_failure = on_failure
        except BaseException:
            self._end_all()
            raise

    # --- actors ----------------------------------------------------------------------------------

    def _new_actor(self, worker: int, attempt: int) -> RayActor:
        options = {"scheduling_strategy": "SPREAD", **self._remote[worker]}
        groups = {**GROUPS, **options.pop("concurrency_groups", {})}
        actor_class = self._ray.remote(concurrency_groups=groups, **options)(RayWorker)
        actor = RayActor(actor_class, worker, attempt, self._names[worker])
        self._refs[actor.stay] = actor, STAY
        self._refs[actor.start] = actor, START
        return actor

    def _advance(self, actor: RayActor, found: Any) -> None:
        """Go on with the start of an actor, which has been placed or built."""
        if isinstance(found, Place):
            actor.place = found
            if difference := found.difference():
                fact = f"worker {actor.worker} has other versions{actor}: {difference}"
                hint = "Install the same versions on all nodes, or pass remote_configs={'runtime_env': ...}."
                raise self._failed(worker_error(self.owner, fact, hint=hint))
            number = actor.worker
            seed = (self._seed, number, *([actor.attempt] if actor.attempt else []))
            layout = None if self._sender is None else self._sender.layout
            options = {"num_threads": self.num_threads, "attempt": actor.attempt, "layout": layout}
            actor.start = actor.handle.build.remote(self._configs[number], self._policy, self._buffer, seed, options)
            self._refs[actor.start] = actor, START
            return
        code, *payload = found
        if code == FAILED:
            self._on_failure(actor, self._failure(actor, *payload))
            return
        info, actor.name = payload[0]
        actor.start, self._names[actor.worker] = None, actor.name
        if self.worker_info[actor.worker] is None:
            self.worker_info[actor.worker] = info
        elif actor.attempt:
            logger.warning("%s: worker %d runs again%s", self.owner, actor.worker, actor)
            picked = self._picked.get(actor.worker)
            if picked is not None and self._sender is not None and picked[1] > self._sender.newest[0]:
                actor.handle.call.remote(cloudpickle.dumps(("take", picked)))

    def _ready(self) -> list[RayActor]:
        return [actor for actor in self.actors if actor.start is None]

    def _when_ready(self, worker: int) -> RayActor:
        """Return the actor of a worker, once it is ready."""
        since = time.monotonic()
        while (actor := self.actors[worker]).start is not None:
            self._check_open()
            self._step([ref for ref, (_, what) in list(self._refs.items()) if what in (STAY, START)])
            if self.actors[worker].place is None and time.monotonic() - since > self.start_timeout:
                raise self._not_placed(f"worker {worker} did not start")
        return actor

    def _not_placed(self, fact: str) -> WorkerError:
        wanted = {**self._remote[0]} or "the default of Ray, one CPU"
        free = {name: number for name, number in self._ray.available_resources().items() if ":" not in name}
        hint = f"An actor needs {wanted}; free are {free}. Add nodes, or raise start_timeout."
        return self._failed(worker_error(self.owner, f"{fact} within {self.start_timeout:g} s", hint=hint))

    def _check_open(self) -> None:
        if self.is_closed:
            raise RuntimeError(f"{self.owner}: it was shut down; build a new one.")

    # --- waiting ---------------------------------------------------------------------------------

    def _step(self, refs: list[Ref]) -> None:
        """Wait for the first of these references, for a second at most, and deal with it."""
        ready, _ = self._ray.wait(refs, num_returns=1, timeout=TICK)
        for ref in ready:
            if ref in self._refs:
                self._arrived(ref)

    def _arrived(self, ref: Ref) -> None:
        actor, what = self._refs.pop(ref)
        if what == DELIVERY:
            self._deliver_to(actor)
            return
        try:
            found = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            if actor.place is None and "never ran" in str(error):  # its node was lost first, and nothing with it
                self._forget(actor)
                self.actors[actor.worker] = self._new_actor(actor.worker, actor.attempt)
            else:
                self._on_failure(actor, self._lost(actor, error))
            return
        if isinstance(what, Request):
            if found[0] == FAILED:
                self._on_failure(actor, self._failure(actor, *found[1:]))
                return
            del actor.requests[ref]
            for other in actor.requests.values():
                other.since = time.monotonic()
            self._keep(actor, what, found)
        elif what == START:
            self._advance(actor, found)

    def _keep(self, actor: RayActor, request: Request, reply: Reply) -> None:
        """Keep the batch of a reply for :meth:`wait`."""
        code, *payload = reply
        self._failures = 0
        found: Any
        if code == FRAMES:
            found = payload[0]
        elif code == TENSORS:
            actor.layout = payload[0] or actor.layout
            assert actor.layout is not None
            found = SharedBatch(actor.layout, buffer=buffer_of(payload[1])).batch
        else:
            found = cloudpickle.loads(payload[0])
        self._found.append((request.worker, found))

    # --- batches ---------------------------------------------------------------------------------

    def request(self, worker: int, *, random: bool = False) -> None:
        """Request a batch of a worker; another collects it while that one is restarted."""
        self._check_open()
        self._outstanding[worker] += 1
        self._asked += 1
        self._last_asked[worker] = self._asked
        request = Request(worker, self._batch, random)
        actor = self.actors[worker]
        if actor.start is None:
            self._submit(actor, request)
        else:
            self._unassigned.append(request)
            self._assign()

    def _submit(self, actor: RayActor, request: Request) -> None:
        version, weights = (-1, None) if self._sender is None else self._sender.newest
        actor.num_requests += 1
        request.number = actor.num_requests
        request.since = time.monotonic()
        args = request.number, request.batch, request.random
        if version > actor.carried:  # what was delivered may arrive after the request
            actor.carried = version
            ref = actor.handle.collect.remote(*args, version, weights)
        else:
            ref = actor.handle.collect.remote(*args)
        actor.requests[ref] = request
        self._refs[ref] = actor, request

    def _assign(self) -> None:
        """Let workers that are ready collect what others should have."""
        for _ in range(len(self._unassigned)):
            request = self._unassigned.popleft()
            info = self.worker_info[request.worker]
            able = [
                actor
                for actor in self._ready()
                if (own := self.worker_info[actor.worker]).frames == info.frames and own.rows == info.rows
            ]
            if able:
                self._submit(min(able, key=lambda actor: len(actor.requests)), request)
            else:
                self._unassigned.append(request)

    def is_requested(self, worker: int) -> bool:
        """Return whether a batch of this worker was requested and not yet returned."""
        return self._outstanding[worker] > 0

    @property
    def num_requested(self) -> int:
        """Number of batches that were requested and not yet returned."""
        return sum(self._outstanding.values())

    def least_requested(self) -> int:
        """Return the worker, of those that are ready, of which the fewest batches are requested.

        Of several it is the one of which none was requested for the longest time.
        """
        workers = [actor.worker for actor in self._ready()] or range(len(self.actors))
        return min(workers, key=lambda worker: (self._outstanding[worker], self._last_asked[worker]))

    def wait(self) -> tuple[int, Found]:
        """Wait for a batch; return the number of its worker and the batch, in memory that cannot be written to.

        Where workers write into a replay buffer, the number of frames that they wrote is returned instead.
        """
        while not self._found:
            self._check_open()
            self._assign()
            self._step(list(self._refs))
            self._check_time()
        worker, found = self._found.popleft()
        self._outstanding[worker] -= 1
        return worker, found

    def _check_time(self) -> None:
        now = time.monotonic()
        if self._ready() or any(actor.place is not None for actor in self.actors):
            self._waiting_since = math.inf
        else:
            self._waiting_since = min(self._waiting_since, now)
            if now - self._waiting_since > self.start_timeout:
                raise self._not_placed("no worker is left, and no other one has started")
        if self.timeout is None:
            return
        for actor in self._ready():
            first = next(iter(actor.requests.values()), None)
            if first is not None and now - first.since > self.timeout:
                fact = f"worker {actor.worker} did not answer within {self.timeout} s and was killed{actor}"
                self._on_failure(actor, worker_error(self.owner, fact, hint="Raise timeout."))

    # --- calls -----------------------------------------------------------------------------------

    def call(self, worker: int, name: str, *args: object) -> Any:
        """Call a method of one :class:`~torchrl.collectors.worker.CollectorWorker`; return its value."""
        return self._called({worker: args}, name)[0]

    def call_all(self, name: str, *args: object) -> list[Any]:
        """Call a method of all workers at the same time; return its values."""
        return self._called(dict.fromkeys(range(len(self.actors)), args), name)

    def _called(self, args: Mapping[int, tuple[object, ...]], name: str) -> list[Any]:
        self._check_open()
        asked: dict[int, tuple[RayActor, Ref]] = {}
        values: dict[int, Any] = {}
        if name == "take":
            self._picked.update(args)
        while len(values) < len(args):
            for worker in args.keys() - values.keys() - asked.keys():
                actor = self._when_ready(worker)
                asked[worker] = actor, actor.handle.call.remote(cloudpickle.dumps((name, args[worker])))
            worker, (actor, ref) = next(iter(asked.items()))
            while self.actors[worker] is actor and not self._ray.wait([ref, actor.stay], timeout=TICK)[0]:
                self._check_open()
            del asked[worker]
            if self.actors[worker] is not actor:
                continue  # it was lost meanwhile: the next one is called
            try:
                code, *payload = self._ray.get(ref)
            except self._ray.exceptions.RayError as error:
                self._on_failure(actor, self._lost(actor, error))
                continue
            if code != DONE:
                raise self._failed(self._failure(actor, *payload))
            values[worker] = cloudpickle.loads(payload[0])
        return [values[worker] for worker in args]

    # --- weights ---------------------------------------------------------------------------------

    def connect(self, layout: Layout) -> RayWeightSender:
        """Return a sender of weights, which all workers follow from now on."""
        self._ray.get([actor.handle.follow.remote(layout) for actor in self.actors])
        self._sender = RayWeightSender(layout, self._deliver)
        return self._sender

    def _deliver(self, version: int, weights: Ref) -> None:
        if self.session.runs():
            for actor in self._ready():
                self._deliver_to(actor)

    def _deliver_to(self, actor: RayActor) -> None:
        """Send an actor the newest weights, unless it has not taken those before.

        One that does not run would keep all that are sent to it in the object store.
        """
        version, weights = (-1, None) if self._sender is None else self._sender.newest
        if actor.start is not None or actor.delivered >= version or actor is not self.actors[actor.worker]:
            return
        pending = actor.deliveries
        if len(pending) >= IN_FLIGHT:
            done, _ = self._ray.wait(list(pending), timeout=0 if actor.is_slow else PATIENCE)
            actor.is_slow = not done
            if not done:  # sent by wait(), once it has taken the last
                self._refs[pending[-1]] = actor, DELIVERY
                return
            for ref in done:
                pending.remove(ref)
        actor.delivered = version
        pending.append(actor.deliver.remote(version, weights))

    # --- interruption ----------------------------------------------------------------------------

    def start_collection(self) -> None:
        """Let workers collect full batches."""
        self._batch += 1

    def stop_collection(self) -> None:
        """Let workers end their batches after the next step."""
        for actor in self._ready():
            actor.stop.remote(self._batch)

    # --- failures --------------------------------------------------------------------------------

    def _failure(self, actor: RayActor, error: str, trace: str) -> WorkerError:
        return worker_error(self.owner, f"worker {actor.worker} failed{actor}: {error.rstrip('.')}", trace)

    def _lost(self, actor: RayActor, error: BaseException) -> WorkerError:
        lines = str(error).splitlines() or [""]
        told = next((line for line in lines if "because" in line), lines[0]).partition(". ")[0].rstrip(".")
        return worker_error(self.owner, f"worker {actor.worker} was lost{actor}: {type(error).__name__}: {told}")

    def _failed(self, error: WorkerError) -> WorkerError:
        """End all actors unless others are to go on; return the error."""
        if self.on_failure == "raise":
            self._end_all()
        return error

    def _on_failure(self, actor: RayActor, error: WorkerError) -> None:
        """Restart a worker that failed, and let others collect its batches; or raise the error."""
        worker = actor.worker
        if self.is_closed or self.actors[worker] is not actor:
            return
        self._failures += 1
        if self.on_failure == "raise" or self._failures >= RESTARTS * len(self.actors):
            self._end_all()
            raise error
        logger.warning("%s: worker %d is restarted. %s", self.owner, worker, error)
        self._forget(actor)
        self.actors[worker] = self._new_actor(worker, actor.attempt + 1)
        # What it wrote into the buffer counts, though it may not have come to reply.
        written = 0 if self._buffer is None or actor.place is None else self._buffer.retire(actor.place.actor)
        lost, actor.requests = actor.requests, {}
        for ref, request in lost.items():
            if request.number <= written:
                self._found.append((request.worker, self.worker_info[actor.worker].frames))
            elif self._buffer is None and (reply := self._finished(ref)) is not None:
                self._keep(actor, request, reply)
            else:
                self._unassigned.append(request)

    def _finished(self, ref: Ref) -> Reply | None:
        """Return the batch of an actor that is lost, if it is here."""
        if not self._ray.wait([ref], timeout=0)[0]:
            return None
        try:
            reply = self._ray.get(ref, timeout=TICK)
        except self._ray.exceptions.RayError:
            return None
        return None if reply[0] == FAILED else reply

    def _forget(self, actor: RayActor) -> None:
        for ref in [ref for ref, (of, _) in list(self._refs.items()) if of is actor]:
            del self._refs[ref]
        actor.deliveries.clear()
        self._ray.kill(actor.handle)

    # --- end -------------------------------------------------------------------------------------

    def end(self, timeout: float | None, close_env: bool) -> None:
        """End the workers, which close their environments or leave them open."""
        if self.is_closed or self._pid != os.getpid():
            return
        if self.session.runs():
            for actor in self._ready():
                actor.stop.remote(1 << 62)
            closing = [actor.handle.close.remote(close_env) for actor in self._ready()]
            if closing:
                limit = self.shutdown_timeout if timeout is None else timeout
                self._ray.wait(closing, num_returns=len(closing), timeout=limit)
        self._end_all()

    def close(self) -> None:
        """End the workers; calling it again is fine."""
        self.end(None, True)

    def kill(self) -> None:
        """End the workers at once; another thread that waits for one of them raises then."""
        self.on_failure = "raise"
        if self.session.runs():
            for actor in self.actors:
                self._ray.kill(actor.handle)

    def _end_all(self) -> None:
        """Kill all actors and release everything that is kept in Ray."""
        if self.is_closed:
            return
        self.is_closed = True
        try:
            if self.session.runs():
                for actor in self.actors:
                    self._ray.kill(actor.handle)
                stays = [actor.stay for actor in self.actors if actor.place is not None]
                if stays:
                    self._ray.wait(stays, num_returns=len(stays), timeout=AFTER_KILL)
        finally:
            for actor in self.actors:
                actor.requests.clear()
                actor.deliveries.clear()
                actor.start = None
            if self._sender is not None:
                self._sender.close()
            self._policy = self._buffer = None
            self._refs.clear()
            self._unassigned.clear()
            self.session.close()
