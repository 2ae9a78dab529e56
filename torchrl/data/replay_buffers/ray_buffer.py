"""A replay buffer in a Ray actor, which every process of the cluster may write to and sample from."""

from __future__ import annotations

import pickle
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import cloudpickle
import numpy as np
from tensordict import TensorDictBase

from torchrl._core.errors import WorkerError, describe
from torchrl._core.workers.ray_session import Place, RaySession, import_ray
from torchrl._core.workers.shared_batch import BatchLayout, SharedBatch
from torchrl._core.workers.shared_memory import buffer_of
from torchrl.data.replay_buffers.buffer import ReplayBuffer
from torchrl.data.replay_buffers.remote import Answer, RemoteReplayBuffer, Transport, answer, portable

PARTS = ("sampler", "storage", "transform", "writer")
Packed = tuple[BatchLayout, np.ndarray] | bytes


def pack(value: object) -> Packed:
    """Return a value as Ray stores it: the bytes of a dense tensordict, which are not pickled, or a pickle."""
    if isinstance(value, TensorDictBase) and not any(value.names):
        layout = BatchLayout.of(value)
        if layout is not None:
            batch = SharedBatch(layout, kind="own")
            batch.write(value)
            return layout, batch.memory.bytes.numpy()
    return cloudpickle.dumps(value)


def unpack(packed: Packed) -> Any:
    """Return the value that was packed, in memory of its own.

    >>> from tensordict import TensorDict
    >>> import torch
    >>> unpack(pack(TensorDict(a=torch.arange(3), batch_size=[3])))["a"], unpack(pack("text"))
    (tensor([0, 1, 2]), 'text')
    """
    if isinstance(packed, bytes):
        return pickle.loads(packed)
    layout, data = packed
    return SharedBatch(layout, buffer=buffer_of(data.copy())).batch  # what Ray maps cannot be written to


class BufferActor:
    """A replay buffer in a Ray actor."""

    def __init__(self) -> None:
        self._buffer: Any = None
        self._written: dict[str, int] = {}  # by writer: number of its last data; -1 once it writes no more

    def build(self, recipe: bytes) -> tuple[Place, Answer]:
        """Make the buffer; return where it is.

        Args:
            recipe: The pickled class of the buffer, its arguments and keywords.
        """
        try:
            cls, args, kwargs = pickle.loads(recipe)
            self._buffer = cls(*args, **kwargs)
        except BaseException as error:
            return Place.here(), (None, *portable(error))
        return Place.here(), (None, None, "")

    def call(self, part: str, name: str, args: list[Packed], kwargs: dict[str, Packed]) -> tuple[Packed, Packed, str]:
        """Answer a request to the buffer; or to a part of it, which :class:`RemotePart` sends."""
        own = tuple(map(unpack, args))
        named = {key: unpack(value) for key, value in kwargs.items()}
        if part:
            value, error, trace = self._reach(getattr(self._buffer, part), name, own, named)
        else:
            value, error, trace = answer(self._buffer, name, own, named)
        try:
            return pack(value), pack(error), trace
        except BaseException as failure:
            error, trace = portable(failure)
            return pack(None), pack(error), trace

    def write_once(
        self, writer: str, number: int, args: list[Packed], kwargs: dict[str, Packed]
    ) -> tuple[Packed, Packed, str]:
        """Extend the buffer with the data of a writer that numbers them, unless it is known to write no more."""
        if self._written.get(writer, 0) < 0:
            return pack(None), pack(None), ""
        reply = self.call("", "extend", args, kwargs)
        self._written[writer] = number
        return reply

    def retire(self, writer: str) -> tuple[Packed, Packed, str]:
        """Take no more data of a writer that was lost; answer the number of the last that were written."""
        last, self._written[writer] = self._written.get(writer, 0), -1
        return pack(last), pack(None), ""

    def _reach(self, part: Any, how: str, args: tuple, kwargs: dict[str, object]) -> Answer:
        """Get an attribute of a part, and whether it is a method; set it; or call the method."""
        name, *others = args
        try:
            if how == "set":
                setattr(part, name, *others)
                return None, None, ""
            found = getattr(part, name)
            if how == "call":
                return found(*others, **kwargs), None, ""
            return (True, None) if callable(found) else (False, found), None, ""
        except BaseException as error:
            return None, *portable(error)


class RayTransport(Transport):
    """Sends requests to a :class:`BufferActor`; pickled copies lead to the same one.

    Args:
        actor: The handle of the actor.
        place: Where it is, for error messages.
    """

    def __init__(self, actor: Any, place: Place) -> None:
        self.actor, self.place, self.is_closed = actor, place, False

    def call(self, name: str, args: tuple, kwargs: dict[str, object]) -> Answer:
        """Send a request; wait for the answer."""
        return self.reach("", name, args, kwargs)

    def reach(self, part: str, name: str, args: tuple, kwargs: dict[str, object]) -> Answer:
        """Send a request to a part of the buffer; wait for the answer."""
        return self._get(self.actor.call, part, name, *_packed(args, kwargs))

    def write_once(self, writer: str, number: int, args: tuple, kwargs: dict[str, object]) -> Answer:
        """Extend the buffer; see :meth:`BufferActor.write_once`."""
        return self._get(self.actor.write_once, writer, number, *_packed(args, kwargs))

    def retire(self, writer: str) -> int:
        """Take no more data of a writer; see :meth:`BufferActor.retire`."""
        return self._get(self.actor.retire, writer)[0]

    def _get(self, method: Any, *request: object) -> Answer:
        if self.is_closed:
            raise RuntimeError(describe("RayReplayBuffer", "was closed", hint="Build a new one."))
        ray: Any = import_ray("RayReplayBuffer")
        try:
            value, error, trace = ray.get(method.remote(*request))
        except ray.exceptions.RayError as lost:
            brief = f"{type(lost).__name__}: {(str(lost).splitlines() or [''])[0]}"
            raise WorkerError(describe("RayReplayBuffer", f"was lost, {self.place}: {brief}")) from None
        return unpack(value), unpack(error), trace

    def __reduce__(self) -> tuple[type[RayTransport], tuple[Any, Place]]:
        return RayTransport, (self.actor, self.place)


def _packed(args: tuple, kwargs: dict[str, object]) -> tuple[list[Packed], dict[str, Packed]]:
    return [pack(arg) for arg in args], {key: pack(value) for key, value in kwargs.items()}


class RemotePart:
    """The storage, the sampler, the writer or the transform of a buffer elsewhere.

    Attributes are read and set there, methods are called there.

    Args:
        transport: Leads to the buffer.
        name: Which part.
    """

    def __init__(self, transport: RayTransport, name: str) -> None:
        self.__dict__.update(_transport=transport, _name=name)

    def _reach(self, how: str, *args: object, **kwargs: object) -> Any:
        value, error, trace = self._transport.reach(self._name, how, args, kwargs)
        if error is not None:
            raise error from WorkerError(f"In the process of the replay buffer:\n{trace}")
        return value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        is_method, value = self._reach("get", name)
        return partial(self._reach, "call", name) if is_method else value

    def __setattr__(self, name: str, value: object) -> None:
        self._reach("set", name, value)

    def __len__(self) -> int:
        return self._reach("call", "__len__")

    def __repr__(self) -> str:
        return self._reach("call", "__repr__")


class RayReplayBuffer(RemoteReplayBuffer):
    """A replay buffer in an actor of a Ray cluster, with the methods of ``replay_buffer_cls``.

    Copies in other actors lead to the same buffer: those of a
    :class:`~torchrl.collectors.distributed.RayCollector` write to it themselves. Dense tensordicts are one object in
    Ray's store, which is not pickled. Its ``storage``, ``sampler``, ``writer`` and ``transform`` are parts in the
    actor: ``buffer.sampler.beta = 1.0`` reaches them.

    Args:
        *args: Those of the buffer.
        replay_buffer_cls: Class of the buffer.
        ray_init_config: Arguments of ``ray.init``, which is called unless Ray runs.
        remote_config: Arguments of ``ray.remote`` for the actor, such as ``{"num_cpus": 1}``.
        **kwargs: Those of the buffer, such as ``storage``, ``sampler``, ``writer`` and ``batch_size``; with ``storage``
            a function that builds it, it is built in the actor.

    Raises:
        ImportError: if Ray is not installed.
        WorkerError: if the actor is lost; else what the buffer itself raises.

    >>> with RayReplayBuffer(batch_size=2) as buffer:  # doctest: +SKIP
    ...     _ = buffer.extend(range(5))
    ...     len(buffer)
    5
    """

    writes_from_any_node = True
    _transport: RayTransport
    _writer: tuple[str, int] | None = None

    def __init__(
        self,
        *args: object,
        replay_buffer_cls: Callable[..., ReplayBuffer] = ReplayBuffer,
        ray_init_config: Mapping[str, Any] | None = None,
        remote_config: Mapping[str, Any] | None = None,
        **kwargs: object,
    ) -> None:
        session = RaySession("RayReplayBuffer", ray_init_config)
        try:
            remote: Any = session.ray.remote(**(remote_config or {})) if remote_config else session.ray.remote
            actor = remote(BufferActor).remote()
            recipe = cloudpickle.dumps((replay_buffer_cls, args, kwargs))
            try:
                place, (_, error, trace) = session.ray.get(actor.build.remote(recipe))
            except session.ray.exceptions.RayError as lost:
                raise WorkerError(describe(self, f"its actor was lost: {lost}")) from None
            if difference := place.difference():
                raise WorkerError(describe(self, f"has other versions, {place}: {difference}"))
            if error is not None:
                raise error from WorkerError(f"In the process of the replay buffer:\n{trace}")
        except BaseException:
            session.close()
            raise
        super().__init__(RayTransport(actor, place))
        self._finalizer = weakref.finalize(self, _end, session, actor)

    def write_as(self, writer: str, number: int) -> None:
        """Number the data that this copy writes next, so that they count once even if their writer is lost."""
        self._writer = writer, number

    def retire(self, writer: str) -> int:
        """Take no more data of a writer; return the number of the last that were written, 0 if there are none."""
        return self._transport.retire(writer)

    def extend(self, *args: object, **kwargs: object) -> Any:
        """Write data into the buffer, as :meth:`ReplayBuffer.extend` does."""
        if self._writer is None:
            return self._call("extend", *args, **kwargs)
        result, error, trace = self._transport.write_once(*self._writer, args, kwargs)
        if error is not None:
            raise error from WorkerError(f"In the process of the replay buffer:\n{trace}")
        return result

    def __getattr__(self, name: str) -> Any:
        if name in PARTS:
            return RemotePart(self._transport, name)
        return super().__getattr__(name)

    def __reduce__(self) -> tuple[Callable[..., RemoteReplayBuffer], tuple[Transport]]:
        return _copy, (self._transport,)

    def close(self) -> None:
        """End the actor, and the buffer with it; a copy in another process closes nothing."""
        finalizer = self.__dict__.get("_finalizer")
        if finalizer is not None:
            self._transport.is_closed = True  # Ray ends an actor a moment after it is told to
            finalizer()


def _copy(transport: Transport) -> RayReplayBuffer:
    copy = RayReplayBuffer.__new__(RayReplayBuffer)
    RemoteReplayBuffer.__init__(copy, transport)
    return copy


def _end(session: RaySession, actor: Any) -> None:
    try:
        if session.runs():
            session.ray.kill(actor)
    finally:
        session.close()
