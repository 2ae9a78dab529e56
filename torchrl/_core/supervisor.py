"""What ends the workers of a process that was killed."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import weakref

from torchrl._core import orphans


class Supervisor:
    """A small program that ends workers, and what they have started, if this process dies.

    Workers end by themselves when they find their channel closed. One that hangs never looks, and
    while it holds the interpreter's lock no thread and no signal handler of its own can act. The
    program waits for :data:`~torchrl._core.orphans.GRACE` seconds, so that the others can close
    their environments, and then kills what is left.

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
                start_new_session=True,  # Ctrl-C is not for it
            )
        self._finalizer = weakref.finalize(self, _end, process, self.sock, os.getpid())

    def add(self, pid: int) -> None:
        """Have a process ended if this one dies."""
        with contextlib.suppress(OSError):  # the program itself was killed
            self.sock.send(b"%d\n" % pid)

    def close(self) -> None:
        """End the program, once there is nothing left to end; calling it again is fine."""
        self._finalizer()


def _end(process: subprocess.Popen, sock: socket.socket, owner: int) -> None:
    sock.close()
    if owner == os.getpid():  # not in a fork of the process that made it
        process.kill()
        process.wait()
