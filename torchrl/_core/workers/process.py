"""One supervised worker process: how it is started, watched and ended.

A worker runs a function in a process of its own and exchanges messages over a
:class:`~torchrl._core.workers.protocol.Channel`. It ends when the other end of its channel is
closed, which also happens when its parent dies; a supervisor program kills those that do not, and
what they have started. If that program was killed as well, the kernel of Linux ends a worker a
second later: see :func:`_end_with_parent`. No names are left in the file system.
"""

from __future__ import annotations

import contextlib
import ctypes
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
from types import FrameType

import cloudpickle
import numpy as np
import torch

from torchrl._core.errors import WorkerError
from torchrl._core.workers import orphans
from torchrl._core.workers.orphans import kill_tree
from torchrl._core.workers.protocol import EXIT_CODES, LAUNCH, QUIT, RESULT, Channel

_PR_SET_PDEATHSIG = 1  # of Linux
_BLOCKED = {signal.SIGINT, signal.SIGTERM}  # while a process forks
_STALE = 0.002  # seconds after which the exit codes are asked for again
# Channels and sockets of this process, which a fork must close.
_ends: weakref.WeakSet[Channel | socket.socket] = weakref.WeakSet()


def start_method(wanted: str | None = None) -> str:
    """Return how workers are started: ``"fork"`` or ``"spawn"``.

    Args:
        wanted: The caller's choice; else what was set with ``multiprocessing.set_start_method``;
            else fork where that is safe: on Linux, before CUDA is initialised, while Ray does not run.

    Raises:
        ValueError: for another method.

    >>> start_method("spawn")
    'spawn'
    """
    if wanted is None:
        wanted = multiprocessing.get_start_method(allow_none=True)
        if wanted not in ("fork", "spawn"):
            ray = sys.modules.get("ray")  # a fork can stop the threads of its connections for good
            runs_ray = ray is not None and ray.is_initialized()
            safe = sys.platform == "linux" and not torch.cuda.is_initialized() and not runs_ray
            wanted = "fork" if safe else "spawn"
    if wanted not in ("fork", "spawn"):
        raise ValueError(f"mp_start_method: expected 'fork' or 'spawn', found {wanted!r}.")
    return wanted


class WorkerProcess:
    """A process that runs ``target(channel, *args)``.

    Args:
        target: Function to run; it returns when its channel raises ``EOFError``.
        args: Its other arguments. Under ``"spawn"`` they are pickled by value, lambdas included.
        launcher: Starts the process.
        number: Number of the worker, shown in errors and part of its random seed.
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
        target: Callable[..., object],
        args: tuple[object, ...],
        launcher: Launcher,
        *,
        number: int,
        num_threads: int = 1,
    ) -> None:
        self.number, self.launcher = number, launcher
        self.owner = os.getpid()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - a stuck worker writes its traceback here
        here, there = Channel.pair()
        self.channel = here
        _ends.add(here)
        task = _Task(target, args, number, num_threads, torch.initial_seed())
        try:
            self.pid = launcher.launch(task, there, self._log.fileno())
        except BaseException:
            here.close()
            self._log.close()
            raise
        finally:
            there.close()

    def is_alive(self) -> bool:
        """Return whether the process runs."""
        return self.launcher.exit_code(self.pid) is None

    def ending(self) -> str:
        """Return how the process ended, as the end of a sentence."""
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
        """Return the current traceback of a worker that hangs.

        Args:
            wait: Seconds to wait for it; nothing is returned if it takes longer.
        """
        try:
            os.kill(self.pid, signal.SIGUSR1)
        except ProcessLookupError:
            return ""
        for _ in range(int(wait * 100)):
            time.sleep(0.01)
            self._log.seek(0)
            if self._log.read():
                time.sleep(0.02)  # until the rest is written
                self._log.seek(0)
                return self._log.read().decode(errors="replace")
        return ""

    def stop(self, timeout: float = 10.0) -> None:
        """End the process; see :func:`stop_all`."""
        stop_all([self], timeout)

    def quit(self, code: bytes = QUIT) -> None:
        """Send ``code``, which lets the process end, and close the channel."""
        with contextlib.suppress(OSError):
            self.channel.send(code, tick=_give_up)
        self.channel.close()

    def kill(self) -> None:
        """Kill the process and what it has started, if it runs, and wait for its end."""
        self.launcher.kill(self.pid)
        self._log.close()


def stop_all(workers: Sequence[WorkerProcess], timeout: float = 10.0, code: bytes = QUIT) -> None:
    """End workers: let them end by themselves, then kill those that have not.

    It has no effect in a fork of the process that started the workers.

    Args:
        workers: The workers to end.
        timeout: Seconds after which they are killed.
        code: Message that lets them end.
    """
    workers = [worker for worker in workers if worker.owner == os.getpid()]
    try:
        for worker in workers:
            worker.quit(code)
        deadline, pause = time.monotonic() + timeout, 0.0005
        while time.monotonic() < deadline and any(worker.is_alive() for worker in workers):
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
    finally:  # also if Ctrl-C ends the wait
        for worker in workers:
            worker.kill()


def _give_up() -> None:
    raise OSError("the worker does not receive messages")


class Launcher:
    """Starts worker processes.

    ``"fork"`` forks this process. ``"spawn"`` forks a fresh interpreter, the fork server, that has
    imported this library and shares nothing with this process: the imports are paid for once, and
    ``__main__`` is not imported, so scripts need no guard.

    Args:
        method: ``"fork"`` or ``"spawn"``.
        preload: Modules that the fork server imports, separated by commas.
    """

    def __init__(self, method: str, preload: str = "torchrl._core.workers.process") -> None:
        self.method, self.preload = method, preload
        self._lock = threading.Lock()  # two threads may check one worker
        self._pids: list[int] = []
        self._codes: dict[int, int] = {}
        self._asked = -math.inf  # time of the last answer of the fork server about all exit codes
        self._server: tuple[subprocess.Popen, Channel] | None = None
        self._supervisor: Supervisor | None = None

    def launch(self, task: _Task, there: Channel, log: int) -> int:
        """Start a process; return its number.

        Args:
            task: What the process runs.
            there: Its end of the channel.
            log: Descriptor of the file for its traceback.
        """
        if self._supervisor is None:
            self._supervisor = Supervisor()
            _ends.add(self._supervisor.sock)
        if self.method == "fork":
            with _SignalsDeferred() as signals:
                pid = _fork(task, there, log, signals)
                self._pids.append(pid)
                self._supervisor.add(pid)
            return pid
        if self._server is None:
            self._server = _start_fork_server(self.preload)
            self._supervisor.add(self._server[0].pid)
        channel = self._server[1]
        channel.send(LAUNCH, cloudpickle.dumps(task), tick=self._check_server)
        channel.send_file(there.sock.fileno())
        channel.send_file(log)
        try:
            pid = channel.receive(self._check_server)[1]
        except EOFError:
            raise _server_has_died() from None
        self._pids.append(pid)
        self._supervisor.add(pid)
        return pid

    def _check_server(self) -> None:
        if self._server is not None and self._server[0].poll() is not None:
            raise _server_has_died()

    def exit_code(self, pid: int) -> int | None:
        """Return how a process ended, negative for a signal; ``None`` while it runs."""
        with self._lock:
            if pid not in self._codes:
                if self._server is None:
                    self._codes.update(_reap(pid))
                elif time.monotonic() - self._asked > _STALE:
                    self._codes.update(self._codes_from_server(pid))
                    self._asked = time.monotonic()
            return self._codes.get(pid)

    def _codes_from_server(self, pid: int) -> dict[int, int]:
        assert self._server is not None
        process, channel = self._server
        try:
            channel.send(EXIT_CODES)
            return channel.receive(self._check_server)[1]
        except (EOFError, OSError, WorkerError):
            try:  # its children are now those of init, which reaps them
                os.kill(pid, 0)
            except ProcessLookupError:
                return {pid: process.poll() or -signal.SIGKILL}
            return {}

    def kill(self, pid: int) -> None:
        """Kill a worker and what it has started, if it runs, and wait for its end."""
        while self.exit_code(pid) is None:
            kill_tree(pid)
            time.sleep(0.001)

    def close(self) -> None:
        """Release everything; kill the workers that still run."""
        try:
            for pid in self._pids:
                self.kill(pid)
        finally:
            server, self._server = self._server, None
            if server is not None:
                process, channel = server
                channel.close()
                kill_tree(process.pid)  # and a worker that it could not report
                process.wait()
            if self._supervisor is not None:
                self._supervisor.close()
                self._supervisor = None


def _server_has_died() -> WorkerError:
    return WorkerError("The process that starts the workers has died.")


class Supervisor:
    """A small program that kills workers, and what they have started, if this process dies.

    Workers end by themselves when their channel is closed. One that hangs does not read its
    channel, and while it holds the interpreter's lock no thread and no signal handler of its own
    runs. The program waits for ``orphans.GRACE`` seconds, in which workers close their
    environments, and then kills the rest.

    >>> supervisor = Supervisor()
    >>> supervisor.add(os.getpid())
    >>> supervisor.close()
    """

    def __init__(self) -> None:
        self.sock, there = socket.socketpair()
        with there:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", orphans.__file__, str(os.getpid())],
                stdin=there.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C does not reach it
            )
        self._finalizer = weakref.finalize(self, _end_supervisor, process, self.sock, os.getpid())

    def add(self, pid: int) -> None:
        """Have a process killed if this one dies."""
        with contextlib.suppress(OSError):  # the program itself was killed
            self.sock.send(b"%d\n" % pid)

    def close(self) -> None:
        """End the program; calling it again is fine."""
        self._finalizer()


def _end_supervisor(process: subprocess.Popen, sock: socket.socket, owner: int) -> None:
    sock.close()
    if owner == os.getpid():  # not in a fork of the process that started it
        process.kill()
        process.wait()


class _Task:
    """What a worker runs: a target, its arguments, its threads and its seed."""

    def __init__(
        self, target: Callable[..., object], args: tuple[object, ...], number: int, num_threads: int, seed: int
    ) -> None:
        self.target, self.args, self.number = target, args, number
        self.num_threads, self.seed = num_threads, seed

    def run(self, channel: Channel, log: int, parent: int | None) -> None:
        """Run the target and exit the process; never return.

        Args:
            channel: Its end of the channel.
            log: Descriptor of the file for its traceback.
            parent: Number of the process whose main thread has forked this one, if it was that.
        """
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent process
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _BLOCKED)
            if parent is not None:
                _end_with_parent(parent)
            faulthandler.register(signal.SIGUSR1, file=log, all_threads=False)
            torch.set_num_threads(self.num_threads)
            seed_worker(self.seed, self.number)
            self.target(channel, *self.args)
            code = 0
        except (EOFError, ConnectionError):  # the other end of the channel is closed
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError, AttributeError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)


def _end_with_parent(parent: int) -> None:
    """Let Linux end this process soon after its parent has died, even if no code of Python runs here.

    The signal of the kernel (``PR_SET_PDEATHSIG``) must not kill at once: workers close their
    environments, and the supervisor needs them to find what they have started. The C function
    ``alarm`` handles the signal, and is called with its number: SIGQUIT is 3, so that SIGALRM ends
    the process after 3 seconds, one after the supervisor.

    The signal is bound to the thread that forked: it also comes when that thread ends. So only
    workers that the main thread starts get it.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal.restype = ctypes.c_void_p
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    libc.signal(signal.SIGQUIT, ctypes.cast(libc.alarm, ctypes.c_void_p))
    libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGQUIT))
    if os.getppid() != parent:
        raise EOFError("the parent process has died")


def seed_worker(*numbers: int) -> None:
    """Seed Python, numpy and torch with what follows from some numbers: a seed, and what tells workers apart."""
    words = np.random.SeedSequence(numbers).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed(int(words[2]))


def check_parent() -> Callable[[], None]:
    """Return a function that raises ``EOFError`` once the parent of this process has died."""
    parent = os.getppid()

    def tick() -> None:
        if os.getppid() != parent:
            raise EOFError("the parent process has died")

    return tick


class _SignalsDeferred:
    """Runs the Python handlers of signals at the end of a ``with`` block.

    An exception of a handler, such as that of Ctrl-C, would be lost inside a hook of ``os.fork``.
    """

    def __enter__(self) -> _SignalsDeferred:
        self._arrived: list[tuple[int, FrameType | None]] = []
        self._handlers: dict[int, Callable[[int, FrameType | None], object]] = {}
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

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._arrived.append((number, frame))

    def restore(self) -> None:
        """Put the handlers back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def __exit__(self, *_: object) -> None:
        self.restore()
        for number, frame in self._arrived:
            self._handlers[number](number, frame)


def _fork(task: _Task, there: Channel, log: int, signals: _SignalsDeferred) -> int:
    """Fork a worker; return its process number.

    The threads of OpenMP belong to the thread that called torch. They do not exist in a fork, which
    would wait for them forever, so a worker with threads is forked from a new thread.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    if task.num_threads == 1:
        return _fork_here(task, there, log, signals)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_fork_here, task, there, log, signals).result()


def _fork_here(task: _Task, there: Channel, log: int, signals: _SignalsDeferred) -> int:
    parent = os.getpid() if threading.current_thread() is threading.main_thread() else None
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)  # until the worker handles them its own way
    pid = -1
    try:
        with warnings.catch_warnings():
            # Python warns of the parent's threads; a worker uses none of their locks.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
    finally:
        if pid:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if pid:
        return pid
    try:
        signals.restore()
        for end in list(_ends):
            end.close()
        multiprocessing.process._children.clear()  # type: ignore[attr-defined]  # siblings
    finally:
        task.run(there, log, parent)
    raise AssertionError  # pragma: no cover - it never returns


def _reap(pid: int) -> dict[int, int]:
    """Return the exit code of a child that has ended, by its number; nothing while it runs."""
    try:
        done, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return {pid: 0}
    return {done: os.waitstatus_to_exitcode(status)} if done else {}


_FORK_SERVER = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
file, path, preload = sys.argv[1:]
sys.path[:] = path.splitlines()
from torchrl._core.workers.process import run_fork_server
run_fork_server(int(file), preload)
"""


def _start_fork_server(preload: str) -> tuple[subprocess.Popen, Channel]:
    here, there = Channel.pair()
    file = there.sock.fileno()
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # as multiprocessing does
    path = "\n".join(entry or os.getcwd() for entry in sys.path)
    process = subprocess.Popen(
        [sys.executable, *flags, "-c", _FORK_SERVER, str(file), path, preload],
        pass_fds=[file],
        stdin=subprocess.DEVNULL,
    )
    there.close()
    _ends.add(here)
    return process, here


def run_fork_server(file: int, preload: str) -> None:
    """Fork workers on request, in the fresh interpreter of ``"spawn"``.

    Args:
        file: Descriptor of this end of the channel.
        preload: Modules to import once, for all workers, separated by commas.
    """
    for name in preload.split(","):
        importlib.import_module(name)
    channel = Channel(socket.socket(fileno=file))
    _ends.add(channel)
    tick = check_parent()
    pids: set[int] = set()
    codes: dict[int, int] = {}
    while True:
        try:
            code, payload = channel.receive(tick)
        except EOFError:  # the channels of the workers are closed, too
            channel.close()
            return
        if code == LAUNCH:
            there = Channel(socket.socket(fileno=channel.receive_file()))
            log = channel.receive_file()
            with _SignalsDeferred() as signals:
                pid = _fork(pickle.loads(payload), there, log, signals)
            there.close()
            os.close(log)
            pids.add(pid)
            channel.send(RESULT, pid)
        else:
            for pid in pids - codes.keys():
                codes.update(_reap(pid))
            channel.send(RESULT, codes)
