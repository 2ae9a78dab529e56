"""Workers end with the process that started them, whatever they are at."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from torchrl._core.workers.process import Launcher, WorkerProcess


def is_gone(pid, wait=5.0):
    """Say whether a process ends within some seconds; a zombie has ended."""
    deadline = time.monotonic() + wait
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def hang_with_the_lock(channel):
    channel.send(b"s")
    while True:  # a signal interrupts the call
        ctypes.PyDLL(None).sleep(60)


def hang(channel):
    channel.send(b"s")
    time.sleep(60)


def hang_nested(channel):
    """A worker of a worker hangs, and so does the worker."""
    inner = WorkerProcess(hang_with_the_lock, (), Launcher("fork"), number=0)
    inner.channel.receive()
    channel.send(b"C", inner.pid)
    while True:
        ctypes.PyDLL(None).sleep(60)


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux alone")
@pytest.mark.parametrize(
    ("method", "target"), [("fork", hang_with_the_lock), ("fork", hang), ("fork", hang_nested), ("spawn", hang_nested)]
)
@pytest.mark.slow
def test_a_worker_that_hangs_ends_without_the_supervisor_too(method, target):
    """The kernel sends a signal when the parent dies, with the supervisor or before it acts."""
    read, write = os.pipe()
    program = os.fork()
    if not program:
        launcher = Launcher(method)
        worker = WorkerProcess(target, (), launcher, number=0)
        pids = [worker.pid, worker.channel.receive()[1]]
        children = subprocess.run(["pgrep", "-f", "workers/orphans.py"], capture_output=True, text=True).stdout
        for child in map(int, children.split()):  # those of the worker and of its own worker
            with open(f"/proc/{child}/stat") as file:
                if int(file.read().rpartition(")")[2].split()[1]) in (os.getpid(), worker.pid):
                    os.kill(child, signal.SIGKILL)
        os.write(write, " ".join(str(pid) for pid in pids if pid).encode())
        time.sleep(60)
    pids = [int(pid) for pid in os.read(read, 40).split()]
    os.kill(program, signal.SIGKILL)
    os.waitpid(program, 0)
    try:
        assert len(pids) == 1 + (target is hang_nested)
        assert all(is_gone(pid, 30.0) for pid in pids)
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        os.close(read)
        os.close(write)


def answer(channel):
    channel.send(b"s")
    channel.receive()
    time.sleep(0.2)
    channel.send(b"C", signal.getsignal(signal.SIGINT) is signal.SIG_IGN)
    channel.receive()


def test_a_worker_outlives_the_thread_that_started_it():
    """The signal of the kernel is bound to the thread that forked."""
    launcher, workers = Launcher("fork"), []

    def start():
        workers.append(WorkerProcess(answer, (), launcher, number=0))
        workers[0].channel.receive()  # the worker has asked for the signal, if it does

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    (worker,) = workers
    time.sleep(3.5)  # longer than the kernel's alarm
    worker.channel.send(b"C")
    assert worker.channel.receive()[1]
    worker.stop()
    launcher.close()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


def test_a_signal_to_a_worker_that_is_being_forked_waits_until_it_ignores_it(monkeypatch):
    """Else the handler of the program would raise there, and the worker would go on with its code."""
    fork, launcher, received = os.fork, Launcher("fork"), []

    def fork_and_interrupt():
        pid = fork()
        if not pid:
            os.kill(os.getpid(), signal.SIGINT)
        return pid

    def start():  # in a thread, where the handlers are not deferred
        worker = WorkerProcess(answer, (), launcher, number=0)
        received.append(worker.channel.receive()[0])
        worker.channel.send(b"s")
        received.append(worker.channel.receive()[1])
        worker.stop()

    monkeypatch.setattr(os, "fork", fork_and_interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs behind a shell may ignore it
    try:
        thread = threading.Thread(target=start)
        thread.start()
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    launcher.close()
    assert received == [b"s", True]


@pytest.mark.parametrize("target", [hang_with_the_lock, hang])
def test_a_worker_that_hangs_ends_with_a_process_that_was_killed(target):
    """Also where it holds the interpreter's lock, so that no code of its own can run."""
    read, write = os.pipe()
    program = os.fork()
    if not program:
        worker = WorkerProcess(target, (), Launcher("fork"), number=0)
        worker.channel.receive()
        os.write(write, b"%d" % worker.pid)
        time.sleep(60)
    pid = int(os.read(read, 20))
    os.kill(program, signal.SIGKILL)
    os.waitpid(program, 0)
    try:
        assert is_gone(pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.close(read)
        os.close(write)


def start_another(channel):
    channel.send(b"C", subprocess.Popen(["sleep", "60"]).pid)
    time.sleep(60)


def test_what_a_killed_worker_has_started_is_killed_too():
    launcher = Launcher("fork")
    worker = WorkerProcess(start_another, (), launcher, number=0)
    pid = worker.channel.receive()[1]
    worker.stop(0.1)
    launcher.close()
    assert is_gone(pid, 1.0)


armed: list[int] = []


def _press():
    if armed:
        armed.clear()
        os.kill(os.getpid(), signal.SIGINT)


os.register_at_fork(before=_press)


def test_an_interrupt_during_a_fork_is_raised_and_leaves_no_worker():
    """What a signal's handler raises in a hook of the fork would be lost."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    launcher = Launcher("fork")
    try:
        armed.append(1)
        with pytest.raises(KeyboardInterrupt):
            WorkerProcess(hang, (), launcher, number=0)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        (pid,) = launcher._pids
        launcher.close()
        assert not os.path.exists(f"/proc/{pid}")
    finally:
        armed.clear()
        signal.signal(signal.SIGINT, before)


def compute(channel):
    torch.randn(400_000).exp().sum()
    channel.send(b"C", torch.get_num_threads())
    channel.receive()


def test_a_worker_with_threads_runs_after_threads_were_used_here():
    """Those of OpenMP are not in a fork; a worker that has inherited them waits for ever."""
    torch.set_num_threads(2)
    launcher, deadline = Launcher("fork"), time.monotonic() + 15
    try:
        torch.randn(400_000).exp().sum()
        worker = WorkerProcess(compute, (), launcher, number=0, num_threads=2)

        def tick():
            assert time.monotonic() < deadline, worker.traceback()

        assert worker.channel.receive(tick)[1] == 2
        worker.stop()
    finally:
        torch.set_num_threads(1)
        launcher.close()
