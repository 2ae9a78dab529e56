"""Messages between two ranks of torch.distributed: in order, and neither waits for the other."""

from __future__ import annotations

import contextlib
import pickle
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from torchrl._core.workers.protocol import BEAT, LOST, QUIT, QUIT_OPEN, TICK, Channel

# A rank may be slow, or collect for an hour: what has died closes its connection.
FOREVER = timedelta(days=365)
_PREFIX = 9  # bytes of code and length before the pickle of a message


@dataclass
class _Message:
    code: bytes
    data: Tensor
    number: int


def pair_group(store: dist.Store, name: str, here: int, host: str | None = None) -> dist.ProcessGroup:
    """Return a process group of two, once both have called this; no other group is touched.

    Args:
        store: Where both leave their addresses.
        name: Name of the pair.
        here: 0 or 1, the rank of this process in the group.
        host: Address to listen on; that of this machine's name if ``None``.
    """
    gloo: Any = dist.ProcessGroupGloo
    options = gloo._Options()
    options._devices = [gloo.create_default_device() if host is None else gloo.create_device(hostname=host)]
    options._timeout = FOREVER
    return gloo(dist.PrefixStore(name, store), here, 2, options)


class RankLink:
    """One end of a connection between two ranks.

    One thread sends what was queued and another receives, so that a rank that is slow, or stopped,
    delays none but itself.

    Args:
        connect: Returns the :func:`pair_group`; called in a thread.
        here: 0 or 1, the rank of this process in the group.
        deliver: ``code, data, number``; called in a thread with each message; with
            :data:`~.protocol.LOST` when the connection has ended, and why.
        beats: Send a sign of life in each second without another message.

    Attributes:
        is_lost: Whether the connection has ended.
        heard: Number of messages that arrived, signs of life included.
        buffers: Bytes that the data of messages are received into, by code; others get new ones.

    >>> import queue
    >>> store, found = dist.HashStore(), queue.SimpleQueue()
    >>> def end(here):
    ...     group = lambda: pair_group(store, "x", here, "127.0.0.1")
    ...     return RankLink(group, here, lambda *message: found.put(message))
    >>> ends = [end(0), end(1)]
    >>> ends[0].send(b"C", ["hello"])
    >>> code, data, _ = found.get()
    >>> code, unpickled(data)
    (b'C', ['hello'])
    >>> ends[0].send(QUIT), ends[1].send(QUIT)
    (None, None)
    >>> for end in ends:
    ...     end.close()
    """

    def __init__(
        self,
        connect: Callable[[], dist.ProcessGroup],
        here: int,
        deliver: Callable[[bytes, Tensor, int], object],
        *,
        beats: bool = False,
    ) -> None:
        self._connect, self._there, self._deliver, self._beats = connect, 1 - here, deliver, beats
        self._changed = threading.Condition()
        self._queue: deque[_Message] = deque()
        self._is_sending = self._is_closing = self.is_lost = False
        self.heard = 0
        self.buffers: dict[bytes, Tensor] = {}
        self._writer: threading.Thread | None = None
        self._reader = threading.Thread(target=self._read, name="rank link, receives", daemon=True)
        self._reader.start()

    # --- sending ---------------------------------------------------------------------------------

    def send(self, code: bytes, payload: object = None) -> None:
        """Queue a message.

        Args:
            code: One byte; a capital is followed by ``payload``.
            payload: Any object, pickled by value.
        """
        self.send_message(Channel.message(code, payload))

    def send_message(self, message: bytes, tick: Callable[[], object] | None = None) -> None:
        """Queue the bytes that :meth:`Channel.message` returned."""
        body = bytearray(message[_PREFIX:])
        data = torch.frombuffer(body, dtype=torch.uint8) if body else torch.empty(0, dtype=torch.uint8)
        self.send_bytes(message[:1], data)

    def send_bytes(self, code: bytes, data: Tensor, number: int = 0, replaces: bool = False) -> None:
        """Queue a message with the bytes of a tensor, which must not change until it was received.

        Args:
            code: One byte.
            data: Bytes ``[N]``.
            number: Sent along.
            replaces: Send it in place of one with the same code that still waits, as old weights.
        """
        message = _Message(code, data, number)
        with self._changed:
            if self.is_lost:
                return  # as was delivered
            old = [i for i, waiting in enumerate(self._queue) if waiting.code == code] if replaces else []
            if old:
                self._queue[old[0]] = message
            else:
                self._queue.append(message)
            self._changed.notify_all()

    def wait_sent(self, timeout: float | None = None) -> bool:
        """Wait until the other end has received all messages, or is lost; return whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: self.is_lost or not (self._queue or self._is_sending), timeout)

    def _write(self, group: dist.ProcessGroup) -> None:
        with contextlib.suppress(RuntimeError):  # the thread that receives reports it
            while (message := self._next()) is not None:
                header = torch.tensor([message.code[0], message.data.numel(), message.number])
                group.send([header], self._there, 0).wait()
                if message.data.numel():
                    group.send([message.data], self._there, 0).wait()
        self._set(_is_sending=False)

    def _next(self) -> _Message | None:
        """Wait for a message to send; return ``None`` at the end."""
        with self._changed:
            self._is_sending = False
            self._changed.notify_all()
            while not self._queue:
                if self._is_closing or self.is_lost:
                    return None
                if not self._changed.wait(TICK) and self._beats:
                    self._queue.append(_Message(BEAT, torch.empty(0, dtype=torch.uint8), 0))
            self._is_sending = True
            return self._queue.popleft()

    def _set(self, **flags: bool) -> None:
        with self._changed:
            vars(self).update(flags)
            self._changed.notify_all()

    # --- receiving -------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            group = self._connect()
            self._writer = threading.Thread(target=self._write, args=(group,), name="rank link, sends", daemon=True)
            self._writer.start()
            header = torch.zeros(3, dtype=torch.int64)
            code = b""
            while code not in (QUIT, QUIT_OPEN):
                group.recv([header], self._there, 0).wait()
                number, size, count = header.tolist()
                code = bytes([number])
                data = self.buffers.get(code)
                if data is None or data.numel() != size:
                    data = torch.empty(size, dtype=torch.uint8)
                if size:
                    group.recv([data], self._there, 0).wait()
                self.heard += 1
                if code != BEAT:
                    self._deliver(code, data, count)
        except Exception as error:
            self._set(is_lost=True)
            text = bytearray(f"{type(error).__name__}: {error}".encode())
            self._deliver(LOST, torch.frombuffer(text, dtype=torch.uint8), 0)

    def close(self, timeout: float = 1.0) -> None:
        """Send what is queued and end; calling it again is fine.

        The connection is closed once both threads have ended: that which receives waits for the
        other end, or for a message that ends it.

        Args:
            timeout: Seconds that the rest of the messages may take.
        """
        self._set(_is_closing=True)
        deadline = time.monotonic() + timeout
        for thread in (self._writer, self._reader):
            if thread is not None and thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))


def unpickled(data: Tensor) -> Any:
    """Return the payload of a message; ``None`` if it has none."""
    return pickle.loads(data.numpy()) if data.numel() else None
