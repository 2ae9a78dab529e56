"""A replay buffer in another process, on this or on another machine.

A request is the name of a method, arguments and keywords; the answer is what the method returns or
raises. :func:`answer` answers requests on the side of the buffer, a :class:`Transport` sends them
there: another transport than sockets, such as actors of a cluster, needs no more than these.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
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
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import Any

import cloudpickle

from torchrl._core.attributes import is_class_attribute
from torchrl._core.errors import WorkerError, describe, summary
from torchrl._core.log import logger
from torchrl._core.workers.pool import RequestHandler, WorkerPool
from torchrl._core.workers.protocol import Channel
from torchrl.data.replay_buffers.buffer import ReplayBuffer
from torchrl.data.replay_buffers.data_types import Data, Index
from torchrl.data.replay_buffers.tensordict_buffer import TensorDictReplayBuffer

Address = tuple[str, int]  # host and port
HANDSHAKE = 8.0  # seconds in which client and server must prove that they have the key
_PAUSE = 0.05  # seconds between two tries to accept a client while no descriptor is free
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
SPECIAL = {"__len__", "__getitem__", "__setitem__", "__repr__"}
METHODS = SPECIAL | {name for name, _ in getmembers(TensorDictReplayBuffer, callable) if name[0] != "_"}
METHODS -= {"share"}  # a remote buffer is shared
PROPERTIES = {"batch_size", "ndim", "ran_out", "write_count"}
Answer = tuple[Any, BaseException | None, str]  # value; or None, an error and its traceback


def answer(buffer: ReplayBuffer, name: str, args: tuple, kwargs: dict[str, object]) -> Answer:
    """Call the method of a buffer that a request names; return its value or its error.

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
        return None, *portable(error)


def portable(error: BaseException) -> tuple[BaseException, str]:
    """Return an error that can be pickled, and its traceback."""
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
    """Sends requests to a buffer, and returns the answers. Pickled copies lead to the same buffer.

    Hooks:
        call: ``(name, args, kwargs) -> Answer``, as :func:`answer` makes them.

    >>> from torchrl.data import ReplayBuffer
    >>> class Direct(Transport):
    ...     def __init__(self, buffer):
    ...         self.buffer = buffer
    ...
    ...     def call(self, name, args, kwargs):
    ...         return answer(self.buffer, name, args, kwargs)
    >>> Direct(ReplayBuffer()).call("__len__", (), {})[0]
    0
    """

    @abstractmethod
    def call(self, name: str, args: tuple, kwargs: dict[str, object]) -> Answer: ...

    def close(self) -> None:
        """Close the connection."""


class RemoteReplayBuffer:
    """Has the methods of the replay buffer that a transport leads to.

    Copies in other processes lead to the same buffer, so that collectors' workers may write to it,
    whatever its storage and its sampler; each call runs in the process of the buffer.

    Args:
        transport: Leads to the buffer; a :class:`BufferProcess` makes a process for it.

    Raises:
        WorkerError: if there is no answer; else what the buffer itself raises.

    >>> import torch
    >>> with RemoteReplayBuffer(BufferProcess(ReplayBuffer)) as buffer:
    ...     _ = buffer.extend(torch.zeros(3))
    ...     len(buffer), buffer.sample(2)
    (3, tensor([0., 0.]))
    """

    shared = writes_from_anywhere = True

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def _call(self, name: str, *args: object, **kwargs: object) -> Any:
        result, error, where = self._transport.call(name, args, kwargs)
        if error is not None:
            raise error from WorkerError(f"In the process of the replay buffer:\n{where}")
        return result

    def __getattr__(self, name: str) -> Any:
        if not is_class_attribute(self, name):
            if name in PROPERTIES:
                return self._call(name)
            if name in METHODS and not name.startswith("__"):
                return lambda *args, **kwargs: self._call(name, *args, **kwargs)
        return object.__getattribute__(self, name)  # raises the error, also that of a property

    def __len__(self) -> int:
        return self._call("__len__")

    def __getitem__(self, index: Index) -> Data:
        return self._call("__getitem__", index)

    def __setitem__(self, index: Index, data: Data) -> None:
        self._call("__setitem__", index, data)

    def __next__(self) -> Data:
        return self._call("sample")

    def __iter__(self) -> Iterator[Data]:
        while True:
            yield next(self)
            if self.ran_out:
                return

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._call('__repr__')})"

    def close(self) -> None:
        """Close the transport; a buffer whose process it started ends."""
        self._transport.close()

    def __enter__(self) -> RemoteReplayBuffer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RemoteTensorDictReplayBuffer(TensorDictReplayBuffer):
    """A :class:`TensorDictReplayBuffer` that other processes may call once :meth:`serve` was called.

    In the process that makes it, it is a buffer like any other.

    Args:
        **kwargs: As for :class:`TensorDictReplayBuffer`.

    >>> from tensordict import TensorDict
    >>> import torch
    >>> buffer = RemoteTensorDictReplayBuffer(batch_size=2)
    >>> server = buffer.serve(key=b"secret")
    >>> with RemoteReplayBuffer(SocketTransport(server.address, b"secret")) as remote:
    ...     _ = remote.extend(TensorDict(a=torch.zeros(3), batch_size=[3]))
    >>> server.close()
    >>> len(buffer)
    3
    """

    def serve(self, key: bytes, address: Address = ("localhost", 0), **kwargs: Any) -> BufferServer:
        """Answer the requests of other processes from now on: see :class:`BufferServer`."""
        return BufferServer(self, address, key, **kwargs)


class BufferServer:
    """Answers requests that come over sockets, each client in a thread of its own.

    Args:
        buffer: Receives the requests.
        address: Host and port to listen at; port 0 is any free port.
        key: Secret that clients must have: requests are pickles, which can run any code here.
        max_connections: Number of clients at a time; others are turned away.
        insecure_network: Serve other machines. Nothing is encrypted: who can read or change what is
            sent, reads the data, and can run code in both processes. Prefer a tunnel (SSH,
            WireGuard) to a server on this machine, or :class:`RayReplayBuffer`.

    Raises:
        ValueError: if the address can be reached from other machines, without ``insecure_network``.

    >>> server = BufferServer(ReplayBuffer(), ("localhost", 0), b"secret")
    >>> with RemoteReplayBuffer(SocketTransport(server.address, b"secret")) as buffer:
    ...     buffer.add(1)
    0
    >>> server.close()
    """

    def __init__(
        self,
        buffer: ReplayBuffer,
        address: Address,
        key: bytes,
        *,
        max_connections: int = 256,
        insecure_network: bool = False,
    ) -> None:
        _check_address(self, address[0], insecure_network)
        self.buffer, self._key = buffer, key
        self._free = threading.BoundedSemaphore(max_connections)
        self._listener = socket.create_server(address, backlog=128)
        self._closed = threading.Event()
        self.address: Address = self._listener.getsockname()
        self._start(self._accept)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        threading.Thread(target=target, args=args, name="replay-server", daemon=True).start()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                accepted, _ = self._listener.accept()
            except OSError as error:
                # Closed; else the client has left, or no descriptor is free at the moment.
                if not self._closed.wait(_PAUSE) and error.errno in _SHORTAGES:
                    logger.info("The server of a replay buffer accepts no client now: %s", error)
                continue
            connection = Connection(accepted.detach())
            if not self._free.acquire(blocking=False):
                logger.info("The server of a replay buffer has no room for another client")
                connection.close()
                continue
            try:
                self._start(self._serve, connection)
            except RuntimeError:  # no thread can be started
                self._free.release()
                connection.close()

    def _serve(self, connection: Connection) -> None:
        try:
            self._answer_all(connection)
        finally:
            self._free.release()

    def _answer_all(self, connection: Connection) -> None:
        with connection, contextlib.suppress(EOFError, OSError, AuthenticationError):
            try:
                with time_limit(connection, HANDSHAKE):
                    deliver_challenge(connection, self._key)
                    answer_challenge(connection, self._key)
            except RuntimeError:  # no thread can be started that would watch the time
                return
            while True:
                try:
                    received = connection.recv_bytes()
                except MemoryError:  # of the length that was announced
                    logger.info("The server of a replay buffer has no memory for a request")
                    return
                try:
                    name, args, kwargs = pickle.loads(received)
                except BaseException as error:
                    brief, trace = summary(error)
                    logger.info("The server of a replay buffer cannot read a request: %s", brief)
                    failure = WorkerError(describe("RemoteReplayBuffer", f"the request cannot be read: {brief}"))
                    connection.send_bytes(_pickled((None, failure, trace)))
                    return
                connection.send_bytes(_pickled(answer(self.buffer, name, args, kwargs)))

    def close(self) -> None:
        """Accept no more clients."""
        self._closed.set()
        with contextlib.suppress(OSError):  # which some systems raise here
            self._listener.shutdown(socket.SHUT_RDWR)  # the thread that accepts ends
        self._listener.close()


def _check_address(owner: object, host: str, insecure_network: bool) -> None:
    """Raise ValueError for an address that other machines can reach, unless that is wanted."""
    if insecure_network:
        return
    found = {each[4][0] for each in socket.getaddrinfo(host or "0.0.0.0", None)}
    if not all(ipaddress.ip_address(str(each).partition("%")[0]).is_loopback for each in found):
        raise ValueError(
            describe(
                owner,
                f"the host {host!r} can be reached from other machines, and nothing that is sent is encrypted",
                expected="'localhost'",
                hint="Let clients reach it through a tunnel (SSH, WireGuard), or use a RayReplayBuffer; "
                "in a network where you trust every machine, pass insecure_network=True.",
            )
        )


@contextlib.contextmanager
def time_limit(connection: Connection, seconds: float) -> Iterator[None]:
    """Shut a connection down if the block takes longer, so that a call that waits in it raises.

    A limit for each read would not be enough: single bytes could keep the connection for hours.
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
        return cloudpickle.dumps((None, WorkerError(f"the answer cannot be pickled: {brief}"), trace))


class SocketTransport(Transport):
    """Sends requests to a :class:`BufferServer`; each thread has a connection of its own.

    Args:
        address: Host and port of the server.
        key: Secret of the server.

    >>> from torchrl.data import ReplayBuffer
    >>> server = BufferServer(ReplayBuffer(), ("localhost", 0), b"secret")
    >>> transport = SocketTransport(server.address, b"secret")
    >>> _ = transport.call("extend", (range(5),), {})
    >>> transport.call("__len__", (), {})[0]
    5
    >>> transport.close(), server.close()
    (None, None)
    """

    def __init__(self, address: Address, key: bytes) -> None:
        self.address, self.key = address, key
        self._local = threading.local()

    def call(self, name: str, args: tuple, kwargs: dict[str, object]) -> Answer:
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
                    f"no answer at {self.address}: {type(error).__name__} {error}".rstrip(),
                    hint="Its process has ended or has no room for another client, or the key is not the server's.",
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

    def __reduce__(self) -> tuple[type[SocketTransport], tuple[Address, bytes]]:
        return SocketTransport, (self.address, self.key)


class BufferProcess(SocketTransport):
    """Starts a process for a buffer, and leads to it; the process ends with this object.

    Args:
        create_buffer: Makes the buffer, in that process.
        host: Name of this machine, for clients on others, with ``insecure_network``; by default only
            this machine is served.
        mp_start_method: ``"fork"`` or ``"spawn"``; fork where that is safe if ``None``.
        insecure_network: As for :class:`BufferServer`.

    Raises:
        ValueError: as for :class:`BufferServer`.
        Exception: the error of ``create_buffer``.
        WorkerError: if the process died before the buffer was made.

    >>> from torchrl.data import RemoteReplayBuffer, ReplayBuffer
    >>> process = BufferProcess(ReplayBuffer)
    >>> buffer = RemoteReplayBuffer(process)
    >>> _ = buffer.extend(range(5))
    >>> len(buffer)
    5
    >>> process.close()
    """

    def __init__(
        self,
        create_buffer: Callable[[], ReplayBuffer],
        *,
        host: str = "localhost",
        mp_start_method: str | None = None,
        insecure_network: bool = False,
    ) -> None:
        _check_address(self, host, insecure_network)
        key = secrets.token_bytes(32)
        self.pool = WorkerPool(
            "RemoteReplayBuffer",
            _serve,
            [(create_buffer, host, key)],
            mp_start_method=mp_start_method,
            preload="torchrl.data",
        )
        self._finalizer = weakref.finalize(self, self.pool.close)
        address, error, where = self.pool.answer(0)
        super().__init__(address, key)
        if error is not None:
            self.close()
            raise error from WorkerError(f"In the process of the replay buffer:\n{where}")

    def close(self) -> None:
        """End the process, and the buffer with it."""
        super().close()
        self._finalizer()


def _serve(channel: Channel, create_buffer: Callable[[], ReplayBuffer], host: str, key: bytes) -> None:
    """Make a buffer in a worker process and serve it, until the pool ends the worker."""
    handler = RequestHandler(channel)

    def build() -> Answer:
        try:
            # The other process has checked the host.
            return BufferServer(create_buffer(), (host, 0), key, insecure_network=True).address, None, ""
        except BaseException as error:
            return None, *portable(error)

    handler.answer(build)
    channel.receive(handler.tick)
