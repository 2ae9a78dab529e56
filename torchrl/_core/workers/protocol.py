"""Messages between a process and its workers: the table of codes, and the channel that sends them.

A message is one byte, its code. A lower-case code is the whole message; a capital is followed by a
pickled payload. The payload of :data:`MEMORY` is followed by an open file.
"""

from __future__ import annotations

import pickle
import socket
import struct
from collections.abc import Callable
from typing import Any, Protocol

import cloudpickle

# To any worker.
CALL = b"C"  # (name, args): call a method; answered by DONE, RESULT or FAILED
MEMORY = b"M"  # layout, file: use this shared memory; from a collector: the memory of its batches
QUIT = b"q"  # close what was built, and end
QUIT_OPEN = b"o"  # end without closing the environment

# From any worker.
DONE = b"k"  # the request is done; there is nothing to return
RESULT = b"R"  # value: what the request returned
FAILED = b"E"  # (place, error, traceback): the request raised

# To workers with environments: take a step from the shared rows into the shared rows.
STEP = b"s"  # all environments
STEP_RESET = b"r"  # all environments, and reset those whose episode ends
STEP_SOME = b"t"  # the environments with a true "_step"
STEP_SOME_RESET = b"u"  # the environments with a true "_step", and reset those that end
# From workers with environments.
ENDED = b"e"  # as DONE, and an episode has ended

# To workers with a collector.
COLLECT = b"c"  # collect a batch
COLLECT_RANDOM = b"x"  # collect a batch with random actions
# From workers with a collector.
BATCH_IN_MEMORY = b"b"  # the batch is in the shared memory
BATCH = b"B"  # tensordict: the batch
WRITTEN = b"N"  # frames: the batch was written into the replay buffer

# To a rank with a collector, received at once.
CONFIG = b"F"  # what to build
START = b"g"  # collect full batches from now on
STOP = b"h"  # end the batch after the next step
WEIGHTS = b"w"  # bytes: act with these weights from the next action on
# From any rank.
LAYOUT = b"Y"  # layout: that of the bytes of its batches
BEAT = b"a"  # the process runs
LOST = b"l"  # never sent: the connection has ended

# To the interpreter from which spawned workers are forked; both are answered by RESULT.
LAUNCH = b"L"  # task, and the files of its channel and its log: start a worker
EXIT_CODES = b"p"  # return the exit codes of the workers

TICK = 1.0  # seconds of waiting after which a channel calls ``tick``
_FILE = b"f"  # accompanies an open file
_LENGTH = struct.Struct("!Q")


class Sender(Protocol):
    """Sends messages: a channel between processes of one machine, or a link between two ranks."""

    def send_message(self, message: bytes, tick: Callable[[], object] | None = None) -> None:
        """Send the bytes of :meth:`Channel.message`."""


class Channel:
    """One end of a socket pair that carries messages and open files.

    >>> here, there = Channel.pair()
    >>> here.send(QUIT); here.send(CALL, {"x": 1})
    >>> there.receive(), there.receive()
    ((b'q', None), (b'C', {'x': 1}))
    >>> here.close(); there.close()
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        wait = struct.pack("ll", int(TICK), int(TICK % 1 * 1e6))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            sock.setsockopt(socket.SOL_SOCKET, option, wait)

    @staticmethod
    def pair() -> tuple[Channel, Channel]:
        """Return both ends of a new channel."""
        here, there = socket.socketpair()
        return Channel(here), Channel(there)

    @staticmethod
    def message(code: bytes, payload: object = None) -> bytes:
        """Return the bytes of a message.

        Raises:
            Exception: if the payload cannot be pickled.
        """
        if code.islower():
            return code
        body = cloudpickle.dumps(payload)
        return code + _LENGTH.pack(len(body)) + body

    def send(
        self, code: bytes, payload: object = None, tick: Callable[[], object] | None = None, file: int | None = None
    ) -> None:
        """Send a message.

        Args:
            code: One byte; a capital is followed by ``payload``.
            payload: Any object, pickled by value.
            tick: Called after each second in which nothing could be sent; may raise.
            file: Descriptor of an open file that follows the payload of :data:`MEMORY`.

        Raises:
            OSError: if the other end is closed.
        """
        self.send_message(self.message(code, payload), tick)
        if file is not None:
            self.send_file(file)

    def send_message(self, message: bytes, tick: Callable[[], object] | None = None) -> None:
        """Send the bytes that :meth:`message` returned; see :meth:`send`."""
        data = memoryview(message)
        while data:
            try:
                data = data[self.sock.send(data) :]
            except BlockingIOError:  # noqa: PERF203 - each send may wait
                if tick is not None:
                    tick()

    def receive(self, tick: Callable[[], object] | None = None) -> tuple[bytes, Any]:
        """Wait for a message; return its code and its payload.

        Args:
            tick: Called after each second in which nothing was received; may raise.

        Returns: the code and ``None`` or the payload; ``(payload, file)`` for :data:`MEMORY`, where
            the caller closes the descriptor ``file``.

        Raises:
            EOFError: if the other end is closed.
        """
        return self.resume(self._read(1, tick), tick)

    def resume(self, code: bytes, tick: Callable[[], object] | None = None) -> tuple[bytes, Any]:
        """As :meth:`receive`, where the first byte of the message was received before.

        Args:
            code: The first byte, or nothing if the other end was closed.
            tick: As in :meth:`receive`.
        """
        if not code:
            raise EOFError("the other end was closed")
        if code.islower():
            return code, None
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size, tick))
        payload = pickle.loads(self._read(length, tick))
        return code, (payload, self.receive_file()) if code == MEMORY else payload

    def _read(self, length: int, tick: Callable[[], object] | None) -> bytes:
        parts: list[bytes] = []
        while length:
            try:
                part = self.sock.recv(min(length, 1 << 20))
            except BlockingIOError:
                if tick is not None:
                    tick()
                continue
            except ConnectionError:
                raise EOFError("the other end was closed") from None
            if not part:
                raise EOFError("the other end was closed")
            parts.append(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def pending(self) -> bytes:
        """Return the first byte that can be received now, without receiving it; or nothing."""
        try:
            return self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except (BlockingIOError, ConnectionError):
            return b""

    def send_file(self, file: int) -> None:
        """Send an open file; the receiver gets a descriptor of its own."""
        socket.send_fds(self.sock, [_FILE], [file])

    def receive_file(self) -> int:
        """Wait for an open file; return its descriptor."""
        while True:
            try:
                data, files, *_ = socket.recv_fds(self.sock, 1, 1)
            except BlockingIOError:
                continue
            if not data:
                raise EOFError("the other end was closed")
            return files[0]

    def close(self) -> None:
        """Close this end; the other end raises ``EOFError`` or ``OSError`` then."""
        self.sock.close()
