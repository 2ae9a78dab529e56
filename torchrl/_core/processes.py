"""Worker processes: how they are started, spoken to, watched and ended.

A worker is a function that runs in a process of its own and talks over a :class:`Channel`, a socket
pair. No name is left in the file system and no helper of the standard library is started, so
whatever dies, and however, nothing stays behind: who finds the other end of its channel closed goes
home.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import math
import multiprocessing
import multiprocessing.process
import os
import pickle
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cloudpickle
import numpy as np
import torch

from torchrl._core.errors import WorkerError
from torchrl._core.orphans import kill_tree
from torchrl._core.supervisor import Supervisor

TICK = 1.0  # seconds between two looks at whether the other side lives
_STALE = 0.002  # seconds after which exit codes are asked for anew
_LENGTH = struct.Struct("!Q")
_ends: weakref.WeakSet[Any] = weakref.WeakSet()  # sockets that a fork must not keep open


def start_method(wanted: str | None = None) -> str:
    """Return how workers are started: ``"fork"`` or ``"spawn"``.

    Args:
        wanted: The caller's choice; else what was set with ``multiprocessing.set_start_method``;
            else fork where that is safe: on Linux, before CUDA is initialised.

    Raises:
        ValueError: for another method.

    >>> start_method("spawn")
    'spawn'
    """
    if wanted is None:
        wanted = multiprocessing.get_start_method(allow_none=True)
        if wanted not in ("fork", "spawn"):
            safe = sys.platform == "linux" and not torch.cuda.is_initialized()
            wanted = "fork" if safe else "spawn"
    if wanted not in ("fork", "spawn"):
        raise ValueError(f"mp_start_method: expected 'fork' or 'spawn', found {wanted!r}.")
    return wanted


class Channel:
    """One end of a socket pair. A message is one byte, or one capital and a pickled object.

    >>> here, there = Channel.pair()
    >>> here.send(b"s"); here.send(b"C", {"x": 1})
    >>> there.receive(), there.receive()
    ((b's', None), (b'C', {'x': 1}))
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

    def send(self, code: bytes, payload: Any = None, tick: Callable[[], Any] | None = None) -> None:
        """Send a code; a capital is followed by ``payload``.

        Args:
            code: One byte.
            payload: Any object, pickled by value.
            tick: Called every second that nothing moves; may raise.

        Raises:
            OSError: if the other end is closed.
        """
        self.send_message(self.message(code, payload), tick)

    @staticmethod
    def message(code: bytes, payload: Any = None) -> bytes:
        """Return what :meth:`send` sends; fails where the payload cannot be pickled."""
        if code.islower():
            return code
        body = cloudpickle.dumps(payload)
        return code + _LENGTH.pack(len(body)) + body

    def send_message(self, message: bytes, tick: Callable[[], Any] | None = None) -> None:
        """Send what :meth:`message` returned."""
        data = memoryview(message)
        while data:
            try:
                data = data[self.sock.send(data) :]
            except BlockingIOError:  # noqa: PERF203 - each send may wait
                if tick is not None:
                    tick()

    def receive(self, tick: Callable[[], Any] | None = None) -> tuple[bytes, Any]:
        """Return the next code and its payload; wait for it.

        Raises:
            EOFError: if the other end is closed.
        """
        return self.resume(self._read(1, tick), tick)

    def resume(self, code: bytes, tick: Callable[[], Any] | None = None) -> tuple[bytes, Any]:
        """Return ``code``, the first byte of a message, and its payload.

        Raises:
            EOFError: if the other end is closed; there is no code then.
        """
        if not code:
            raise EOFError("the other end was closed")
        if code.islower():
            return code, None
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size, tick))
        return code, pickle.loads(self._read(length, tick))

    def _read(self, length: int, tick: Callable[[], Any] | None) -> bytes:
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
        """Return the code that waits to be received, if there is one; do not wait."""
        try:
            return self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except (BlockingIOError, ConnectionError):
            return b""

    def send_file(self, file: int) -> None:
        """Send an open file; the other end gets a descriptor of its own."""
        socket.send_fds(self.sock, [b"f"], [file])

    def receive_file(self) -> int:
        """Return the descriptor of a file that was sent."""
        while True:
            try:
                data, files, *_ = socket.recv_fds(self.sock, 1, 1)
            except BlockingIOError:
                continue
            if not data:
                raise EOFError("the other end was closed")
            return files[0]

    def close(self) -> None:
        """Close this end; the other finds out."""
        self.sock.close()


class WorkerProcess:
    """A process that runs ``target(channel, *args)``.

    Args:
        target: What runs there; it ends when its channel raises ``EOFError``.
        args: Handed to it. Under ``"spawn"`` they are pickled by value, lambdas included.
        launcher: Makes the process.
        number: Shown in errors; also tells the random numbers of workers apart.
        num_threads: Torch threads in the worker.

    >>> def echo(channel):
    ...     channel.send(*channel.receive())
    >>> worker = WorkerProcess(echo, (), Launcher("fork"), number=0)
    >>> worker.channel.send(b"C", [1, 2]); worker.channel.receive()
    (b'C', [1, 2])
    >>> worker.stop()
    """

    def __init__(
        self,
        target: Callable[..., Any],
        args: tuple,
        launcher: Launcher,
        *,
        number: int,
        num_threads: int = 1,
    ) -> None:
        self.number, self.launcher = number, launcher
        self.owner = os.getpid()
        self._notes = tempfile.TemporaryFile()  # noqa: SIM115 - where a stuck worker says where it is
        here, there = Channel.pair()
        self.channel = here
        _ends.add(here)
        life = _Life(target, args, number, num_threads, torch.initial_seed())
        try:
            self.pid = launcher.launch(life, there, self._notes.fileno())
        except BaseException:
            here.close()
            self._notes.close()
            raise
        finally:
            there.close()

    def is_alive(self) -> bool:
        """Return whether the process runs."""
        return self.launcher.exit_code(self.pid) is None

    def ending(self) -> str:
        """Say, in words, how the process ended."""
        code = self.launcher.exit_code(self.pid)
        for _ in range(100):  # its channel closes a moment before it ends
            if code is not None:
                break
            time.sleep(0.01)
            code = self.launcher.exit_code(self.pid)
        if code is None:
            return "closed its channel"
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    def traceback(self, wait: float = 1.0) -> str:
        """Return where the worker is right now, as its own traceback; for a worker that hangs."""
        try:
            os.kill(self.pid, signal.SIGUSR1)
        except ProcessLookupError:
            return ""
        for _ in range(int(wait * 100)):
            time.sleep(0.01)
            self._notes.seek(0)
            if self._notes.read():
                time.sleep(0.02)  # the rest of it
                self._notes.seek(0)
                return self._notes.read().decode(errors="replace")
        return ""

    def stop(self, timeout: float = 10.0) -> None:
        """End the process: ask, wait, kill."""
        stop_all([self], timeout)

    def ask(self) -> None:
        """Ask the process to end, and speak to it no more."""
        with contextlib.suppress(OSError):
            self.channel.send(b"q", tick=_give_up)
        self.channel.close()

    def kill(self) -> None:
        """End the process and what it has started at once, if it runs, and wait for its end."""
        self.launcher.kill(self.pid)
        self._notes.close()


def stop_all(workers: Sequence[WorkerProcess], timeout: float = 10.0) -> None:
    """End workers: ask, wait, kill. Without effect in a fork of the process that made them.

    Args:
        workers: What to end.
        timeout: Seconds between asking and killing.
    """
    workers = [worker for worker in workers if worker.owner == os.getpid()]
    try:
        for worker in workers:
            worker.ask()
        deadline, pause = time.monotonic() + timeout, 0.0005
        while time.monotonic() < deadline and any(worker.is_alive() for worker in workers):
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
    finally:  # also if Ctrl-C ends the wait
        for worker in workers:
            worker.kill()


def _give_up() -> None:
    raise OSError("the worker does not listen")


class Launcher:
    """Makes worker processes.

    ``"fork"`` makes them of this process. ``"spawn"`` makes them of one fresh interpreter that has
    imported this library and shares nothing with this process: it pays for the imports once, and
    does not import ``__main__``, so scripts need no guard.

    Args:
        method: ``"fork"`` or ``"spawn"``.
        preload: Modules that the fresh interpreter imports besides this one, commas between.
    """

    def __init__(self, method: str, preload: str = "torchrl._core.processes") -> None:
        self.method, self.preload = method, preload
        self._lock = threading.Lock()  # two threads may look after one worker
        self._pids: list[int] = []
        self._codes: dict[int, int] = {}
        self._asked = -math.inf  # when the nursery last told the codes of all
        self._nursery: tuple[subprocess.Popen, Channel] | None = None
        self._supervisor: Supervisor | None = None

    def launch(self, life: _Life, there: Channel, notes: int) -> int:
        """Start a process; return its number."""
        if self._supervisor is None:
            self._supervisor = Supervisor()
            _ends.add(self._supervisor.sock)
        if self.method == "fork":
            with _SignalsDeferred() as signals:
                pid = _fork(life, there, notes, signals)
                self._pids.append(pid)
                self._supervisor.add(pid)
            return pid
        if self._nursery is None:
            self._nursery = _start_nursery(self.preload)
            self._supervisor.add(self._nursery[0].pid)
        pid = self._launch_from_nursery(self._nursery[1], life, there, notes)
        self._pids.append(pid)
        self._supervisor.add(pid)
        return pid

    def _launch_from_nursery(
        self, channel: Channel, life: _Life, there: Channel, notes: int
    ) -> int:
        channel.send(b"L", cloudpickle.dumps(life), tick=self._check)
        channel.send_file(there.sock.fileno())
        channel.send_file(notes)
        return self._ask(channel)

    def _ask(self, channel: Channel) -> Any:
        try:
            return channel.receive(self._check)[1]
        except EOFError:
            raise WorkerError("The process that starts the workers has died.") from None

    def _check(self) -> None:
        if self._nursery is not None and self._nursery[0].poll() is not None:
            raise WorkerError("The process that starts the workers has died.")

    def exit_code(self, pid: int) -> int | None:
        """Return how a process ended, negative for a signal; ``None`` while it runs."""
        with self._lock:
            if pid not in self._codes:
                if self._nursery is None:
                    self._codes.update(_reap(pid))
                elif time.monotonic() - self._asked > _STALE:
                    self._codes.update(self._codes_from_nursery(pid))
                    self._asked = time.monotonic()
            return self._codes.get(pid)

    def _codes_from_nursery(self, pid: int) -> dict[int, int]:
        assert self._nursery is not None
        process, channel = self._nursery
        try:
            channel.send(b"p")
            return channel.receive(self._check)[1]
        except (EOFError, OSError, WorkerError):
            try:  # its children went to init, which reaps them
                os.kill(pid, 0)
            except ProcessLookupError:
                return {pid: process.poll() or -signal.SIGKILL}
            return {}

    def kill(self, pid: int) -> None:
        """End a worker and what it has started, if it runs, and wait for its end."""
        while self.exit_code(pid) is None:
            kill_tree(pid)
            time.sleep(0.001)

    def close(self) -> None:
        """Release everything; end the workers that have not been stopped."""
        try:
            for pid in self._pids:
                self.kill(pid)
        finally:
            nursery, self._nursery = self._nursery, None
            if nursery is not None:
                process, channel = nursery
                channel.close()
                kill_tree(process.pid)  # and a worker of which it could not tell any more
                process.wait()
            if self._supervisor is not None:
                self._supervisor.close()
                self._supervisor = None


class _Life:
    """What a worker does: a target, its arguments, and what makes it differ from its siblings."""

    def __init__(
        self, target: Callable, args: tuple, number: int, num_threads: int, seed: int
    ) -> None:
        self.target, self.args, self.number = target, args, number
        self.num_threads, self.seed = num_threads, seed

    def live(self, channel: Channel, notes: int) -> None:
        """Run the target; never return."""
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that made us
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            faulthandler.register(signal.SIGUSR1, file=notes, all_threads=False)
            torch.set_num_threads(self.num_threads)
            words = np.random.SeedSequence([self.seed, self.number]).generate_state(3)
            random.seed(int(words[0]))
            np.random.seed(int(words[1]))
            torch.manual_seed(int(words[2]))
            self.target(channel, *self.args)
            code = 0
        except (EOFError, ConnectionError):  # nobody listens any more
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError, AttributeError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)


def check_parent(parent: int) -> Callable[[], None]:
    """Return a tick that raises ``EOFError`` once ``parent`` is no longer our parent process."""

    def tick() -> None:
        if os.getppid() != parent:
            raise EOFError("the process that made us has died")

    return tick


class _SignalsDeferred:
    """Calls handlers of signals, those written in Python, at the end of a ``with`` block.

    What they raise inside of a hook of ``os.fork``, as Ctrl-C does, would be printed and lost.
    """

    def __enter__(self) -> _SignalsDeferred:
        self._arrived: list[tuple[int, Any]] = []
        self._handlers: dict[int, Callable[[int, Any], Any]] = {}
        if threading.current_thread() is threading.main_thread():  # others run no handlers
            try:
                for number in signal.valid_signals():
                    handler = signal.getsignal(number)
                    if callable(handler):
                        self._handlers[number] = handler
                        signal.signal(number, self._note)
            except BaseException:
                self.restore()
                raise
        return self

    def _note(self, number: int, frame: Any) -> None:
        self._arrived.append((number, frame))

    def restore(self) -> None:
        """Put the handlers back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def __exit__(self, *_: object) -> None:
        self.restore()
        for number, frame in self._arrived:
            self._handlers[number](number, frame)


def _fork(life: _Life, there: Channel, notes: int, signals: _SignalsDeferred) -> int:
    """Start a worker by a fork; return its number.

    The threads of OpenMP do not live on in a worker, which would wait for them for ever: they
    belong to the thread that called torch. A worker with threads is forked from a new one, which
    has none.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    if life.num_threads == 1:
        return _fork_here(life, there, notes, signals)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_fork_here, life, there, notes, signals).result()


def _fork_here(life: _Life, there: Channel, notes: int, signals: _SignalsDeferred) -> int:
    with warnings.catch_warnings():
        # Threads of the parent do not live on in a worker, which touches none of their locks.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        return pid
    try:
        signals.restore()
        for end in list(_ends):
            end.close()
        multiprocessing.process._children.clear()  # type: ignore[attr-defined]  # siblings
    finally:
        life.live(there, notes)
    raise AssertionError  # pragma: no cover - it never returns


def _reap(pid: int) -> dict[int, int]:
    try:
        done, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return {pid: 0}
    return {done: os.waitstatus_to_exitcode(status)} if done else {}


_NURSERY = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
file, path, preload = sys.argv[1:]
sys.path[:] = path.splitlines()
from torchrl._core.processes import run_nursery
run_nursery(int(file), preload)
"""


def _start_nursery(preload: str) -> tuple[subprocess.Popen, Channel]:
    here, there = Channel.pair()
    file = there.sock.fileno()
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # as multiprocessing does
    path = "\n".join(entry or os.getcwd() for entry in sys.path)
    process = subprocess.Popen(
        [sys.executable, *flags, "-c", _NURSERY, str(file), path, preload],
        pass_fds=[file],
        stdin=subprocess.DEVNULL,
    )
    there.close()
    _ends.add(here)
    return process, here


def run_nursery(file: int, preload: str) -> None:
    """Fork workers on request; what the fresh interpreter of ``"spawn"`` does.

    Args:
        file: Descriptor of its end of the channel.
        preload: Modules to import once, for all workers, commas between.
    """
    for name in preload.split(","):
        importlib.import_module(name)
    channel = Channel(socket.socket(fileno=file))
    _ends.add(channel)
    tick = check_parent(os.getppid())
    pids: set[int] = set()
    codes: dict[int, int] = {}
    while True:
        try:
            code, payload = channel.receive(tick)
        except EOFError:  # the workers see their own channels closed
            channel.close()
            return
        if code == b"L":
            there = Channel(socket.socket(fileno=channel.receive_file()))
            notes = channel.receive_file()
            with _SignalsDeferred() as signals:
                pid = _fork(pickle.loads(payload), there, notes, signals)
            there.close()
            os.close(notes)
            pids.add(pid)
            channel.send(b"R", pid)
        else:
            for pid in pids - codes.keys():
                codes.update(_reap(pid))
            channel.send(b"R", codes)
