"""A replay buffer that lives in another process, here or on another machine.

A request is the name of a method, arguments and keywords; the answer is what the method returns or
raises. :func:`answer` is what happens at the side of the buffer, :class:`Transport` what carries
requests there: other carriers than sockets, such as actors of a cluster, need no more than these.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import secrets
import socket
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from inspect import getmembers
from multiprocessing import AuthenticationError
from multiprocessing.connection import (
    Connection,
    answer_challenge,
    deliver_challenge,
)
from typing import Any

import cloudpickle

from torchrl._core.errors import WorkerError, describe, summary
from torchrl._core.log import logger
from torchrl._core.processes import Channel, Launcher, WorkerProcess, check_parent, start_method
from torchrl.data.replay_buffers.buffer import ReplayBuffer
from torchrl.data.replay_buffers.variants import TensorDictReplayBuffer

Address = tuple[str, int]  # host and port
HANDSHAKE = 8.0  # seconds that client and server have to prove that they know the key
_PAUSE = 0.05  # seconds between two tries to accept a client while no descriptor is free
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
SPECIAL = {"__len__", "__getitem__", "__setitem__", "__repr__"}
METHODS = SPECIAL | {
    name for name, _ in getmembers(TensorDictReplayBuffer, callable) if name[0] != "_"
}
METHODS -= {"share"}  # a remote buffer is
PROPERTIES = {"batch_size", "ndim", "ran_out", "write_count"}
Answer = tuple[Any, BaseException | None, str]  # what was returned, or raised, and where


def answer(buffer: ReplayBuffer, name: str, args: tuple, kwargs: dict[str, Any]) -> Answer:
    """Do what a request asks of a buffer.

    >>> buffer = ReplayBuffer()
    >>> answer(buffer, "add", ("an item",), {})
    (0, None, '')
    """
    try:
        if name in PROPERTIES:
            return getattr(buffer, name), None, ""
        if name not in METHODS:
            raise AttributeError(f"a remote replay buffer has no method {name!r}")
        result = getattr(buffer, name)(*args, **kwargs)
        return None if result is buffer else result, None, ""
    except BaseException as error:
        return None, *_told(error)


def _told(error: BaseException) -> tuple[BaseException, str]:
    """Return an error that can be raised elsewhere, and its traceback."""
    brief, trace = summary(error)
    try:
        pickle.loads(cloudpickle.dumps(error))
        str(error)
    except BaseException:
        return WorkerError(describe("RemoteReplayBuffer", f"the buffer raised {brief}")), trace
    if isinstance(error, Exception):
        return error, trace
    return WorkerError(describe("RemoteReplayBuffer", f"the buffer raised {brief}")), trace


class Transport(ABC):
    """Carries requests to a buffer, and answers back. Its pickled copies lead there too.

    Hooks:
        call: ``(name, args, kwargs) -> Answer``, as :func:`answer` makes them.
    """

    @abstractmethod
    def call(self, name: str, args: tuple, kwargs: dict[str, Any]) -> Answer: ...

    def close(self) -> None:
        """Release what this object holds."""


class RemoteReplayBuffer:
    """Looks like the replay buffer that a transport leads to.

    Copies in other processes lead to the same buffer, so that collectors' workers may write to it,
    whatever its storage and its sampler; all of it happens there, in one place.

    Args:
        transport: Leads to the buffer; a :class:`BufferProcess` makes a process for it.

    Raises:
        WorkerError: when nobody answers; else what the buffer itself raises.

    >>> import torch
    >>> with RemoteReplayBuffer(BufferProcess(ReplayBuffer)) as buffer:
    ...     _ = buffer.extend(torch.zeros(3))
    ...     len(buffer), buffer.sample(2)
    (3, tensor([0., 0.]))
    """

    shared = writes_from_anywhere = True

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def _ask(self, name: str, *args: Any, **kwargs: Any) -> Any:
        result, error, where = self._transport.call(name, args, kwargs)
        if error is not None:
            raise error from WorkerError(f"In the process of the replay buffer:\n{where}")
        return result

    def __getattr__(self, name: str) -> Any:
        if name in PROPERTIES:
            return self._ask(name)
        if name in METHODS and not name.startswith("__"):
            return lambda *args, **kwargs: self._ask(name, *args, **kwargs)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __len__(self) -> int:
        return self._ask("__len__")

    def __getitem__(self, index: Any) -> Any:
        return self._ask("__getitem__", index)

    def __setitem__(self, index: Any, data: Any) -> None:
        self._ask("__setitem__", index, data)

    def __next__(self) -> Any:
        return self._ask("sample")

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield next(self)
            if self.ran_out:
                return

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._ask('__repr__')})"

    def close(self) -> None:
        """Let go of the buffer; it ends if this object started its process."""
        self._transport.close()

    def __enter__(self) -> RemoteReplayBuffer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BufferServer:
    """Answers requests that come over sockets, each client in a thread of its own.

    Args:
        buffer: What they are about.
        address: Host and port to listen at; port 0 is any that is free.
        key: What clients must know: requests are pickles, and who sends one may do anything here.

    >>> server = BufferServer(ReplayBuffer(), ("localhost", 0), b"secret")
    >>> with RemoteReplayBuffer(SocketTransport(server.address, b"secret")) as buffer:
    ...     buffer.add(1)
    0
    >>> server.close()
    """

    def __init__(self, buffer: ReplayBuffer, address: Address, key: bytes) -> None:
        self.buffer, self._key = buffer, key
        self._listener = socket.create_server(address, backlog=128)
        self._closed = threading.Event()
        self.address: Address = self._listener.getsockname()
        self._start(self._accept)

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        threading.Thread(target=target, args=args, name="replay-server", daemon=True).start()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                accepted, _ = self._listener.accept()
            except OSError as error:
                # Closed; else a client that left already, or no descriptor is free: one will be.
                if not self._closed.wait(_PAUSE) and error.errno in _SHORTAGES:
                    logger.info("The server of a replay buffer accepts no client now: %s", error)
                continue
            connection = Connection(accepted.detach())
            try:
                self._start(self._serve, connection)
            except RuntimeError:  # no thread can be started
                connection.close()

    def _serve(self, connection: Connection) -> None:
        with connection, contextlib.suppress(EOFError, OSError, AuthenticationError):
            try:
                with time_limit(connection, HANDSHAKE):
                    deliver_challenge(connection, self._key)
                    answer_challenge(connection, self._key)
            except RuntimeError:  # no thread can be started that would watch the time
                return
            while True:
                received = connection.recv_bytes()
                try:
                    name, args, kwargs = pickle.loads(received)
                except BaseException as error:
                    brief, trace = summary(error)
                    logger.info("The server of a replay buffer cannot read a request: %s", brief)
                    failure = WorkerError(
                        describe("RemoteReplayBuffer", f"the request cannot be read: {brief}")
                    )
                    connection.send_bytes(_pickled((None, failure, trace)))
                    return
                connection.send_bytes(_pickled(answer(self.buffer, name, args, kwargs)))

    def close(self) -> None:
        """Accept no more clients."""
        self._closed.set()
        with contextlib.suppress(OSError):  # which some systems raise here
            self._listener.shutdown(socket.SHUT_RDWR)  # the thread that accepts ends
        self._listener.close()


@contextlib.contextmanager
def time_limit(connection: Connection, seconds: float) -> Iterator[None]:
    """Shut a connection down if the block takes longer, so that a caller that waits there raises.

    A limit for each read would not do: a byte now and then would hold the connection for hours.
    """

    def shut_down() -> None:
        same = socket.socket(fileno=connection.fileno())  # open until the timer has ended
        with contextlib.suppress(OSError):
            same.shutdown(socket.SHUT_RDWR)
        same.detach()

    timer = threading.Timer(seconds, shut_down)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _pickled(found: Answer) -> bytes:
    try:
        return cloudpickle.dumps(found)
    except BaseException as error:
        brief, trace = summary(error)
        return cloudpickle.dumps(
            (None, WorkerError(f"the answer cannot be pickled: {brief}"), trace)
        )


class SocketTransport(Transport):
    """Carries requests to a :class:`BufferServer`; each thread has a connection of its own.

    Args:
        address: Host and port of the server.
        key: What it wants to be told.
    """

    def __init__(self, address: Address, key: bytes) -> None:
        self.address, self.key = address, key
        self._local = threading.local()

    def call(self, name: str, args: tuple, kwargs: dict[str, Any]) -> Answer:
        """Send a request; wait for the answer."""
        request = cloudpickle.dumps((name, args, kwargs))
        try:
            connection = self._connection()
            connection.send_bytes(request)
            return pickle.loads(connection.recv_bytes())
        except (EOFError, OSError, AuthenticationError) as error:
            self.close()
            raise WorkerError(
                describe(
                    "RemoteReplayBuffer",
                    f"nobody answers at {self.address}: {type(error).__name__} {error}".rstrip(),
                    hint="Its process has ended or has no room for another client, or the key is "
                    "not the server's.",
                )
            ) from None

    def _connection(self) -> Connection:
        owner, connection = getattr(self._local, "found", (None, None))
        if owner != os.getpid():  # none yet, or that of the process that we were forked from
            connection = self._connect()
            self._local.found = os.getpid(), connection
        assert connection is not None
        return connection

    def _connect(self) -> Connection:
        with socket.create_connection(self.address, timeout=HANDSHAKE) as sock:
            sock.settimeout(None)
            connection = Connection(sock.detach())
        try:
            with time_limit(connection, HANDSHAKE):
                answer_challenge(connection, self.key)
                deliver_challenge(connection, self.key)
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Close the connection of this thread."""
        owner, connection = self._local.__dict__.pop("found", (None, None))
        if connection is not None and owner == os.getpid():
            connection.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return SocketTransport, (self.address, self.key)


class BufferProcess(SocketTransport):
    """Starts a process for a buffer, and leads to it; the process ends with this object's.

    Args:
        create_buffer: Makes the buffer, there.
        host: Name of this machine, for clients on others; only this machine is served by default.
        mp_start_method: ``"fork"`` or ``"spawn"``; fork where that is safe if ``None``.
    """

    def __init__(
        self,
        create_buffer: Callable[[], ReplayBuffer],
        *,
        host: str = "localhost",
        mp_start_method: str | None = None,
    ) -> None:
        key = secrets.token_bytes(32)
        launcher = Launcher(start_method(mp_start_method), preload="torchrl.data")
        try:
            worker = WorkerProcess(_live, (create_buffer, host, key), launcher, number=0)
        except BaseException:
            launcher.close()
            raise
        self._finalizer = weakref.finalize(self, _end, worker)
        self._pid = worker.pid
        try:
            address, error, where = worker.channel.receive()[1]
        except EOFError:
            address, error, where = None, WorkerError(f"the process {worker.ending()}"), ""
        super().__init__(address, key)
        if error is not None:
            self.close()
            raise error from WorkerError(f"In the process of the replay buffer:\n{where}")

    def close(self) -> None:
        """End the process, and the buffer with it."""
        super().close()
        self._finalizer()


def _end(worker: WorkerProcess) -> None:
    if worker.owner == os.getpid():  # not in a fork of the process that made it
        try:
            worker.stop()
        finally:
            worker.launcher.close()


def _live(
    channel: Channel, create_buffer: Callable[[], ReplayBuffer], host: str, key: bytes
) -> None:
    """Serve a buffer until the channel closes."""
    tick = check_parent(os.getppid())
    found: Answer
    try:
        found = BufferServer(create_buffer(), (host, 0), key).address, None, ""
    except BaseException as error:
        found = None, *_told(error)
    channel.send(b"R", found)
    channel.receive(tick)
