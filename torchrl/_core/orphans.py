"""Processes and what they have started: how all of them are ended, also after their parent died.

Run as a program, this file ends the processes whose numbers it reads, once its parent is gone. It
needs nothing but a few modules of the standard library, and so starts within milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

GRACE = 2.0  # seconds that processes get to end by themselves once their parent is gone


def kill_tree(pid: int) -> None:
    """Kill a process and everything that it has started, directly or not.

    Args:
        pid: Number of a process that runs or has not been waited for.
    """
    doomed = [pid]
    for each in doomed:  # grows
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(each, signal.SIGSTOP)  # from here on it starts no further process
        doomed += [child for child, parent in _parents().items() if parent == each]
    for each in doomed:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(each, signal.SIGKILL)


def _parents() -> dict[int, int]:
    """Return the parent of each process; nothing where the system has no ``/proc``."""
    found: dict[int, int] = {}
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir("/proc"):
            if name.isdigit() and (fields := _stat(int(name))):
                found[int(name)] = int(fields[1])
    return found


def _stat(pid: int) -> list[bytes]:
    """Return what ``/proc/PID/stat`` says behind the name of the program, nothing if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return []


def _birth(pid: int) -> bytes | None:
    """Return when a process began, which tells it from a later one of its number; or ``None``."""
    if os.path.exists("/proc/self/stat"):
        fields = _stat(pid)
        return fields[19] if fields and fields[0] not in (b"Z", b"X") else None
    try:
        os.kill(pid, 0)
    except OSError:
        return None
    return b""


def main(parent: int) -> None:
    """Read numbers of processes, one a line; end what is left of them once ``parent`` has died.

    Args:
        parent: Number of the process that started this one and writes to its standard input.
    """
    births: dict[int, bytes | None] = {}
    text = b""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    with contextlib.suppress(AttributeError, OSError):  # an old system: looked at every second
        poll.register(os.pidfd_open(parent), select.POLLIN)
    while True:
        ready = [file for file, _ in poll.poll(1000)]
        if 0 in ready:
            part = os.read(0, 1 << 12)
            if not part:
                break
            *lines, text = (text + part).split(b"\n")
            births.update((int(line), _birth(int(line))) for line in lines)
        elif os.getppid() != parent:
            break
    deadline = time.monotonic() + GRACE
    left = [pid for pid, birth in births.items() if birth is not None]
    while left:
        left = [pid for pid in left if _birth(pid) == births[pid]]
        if time.monotonic() > deadline:
            for pid in left:
                kill_tree(pid)
            return
        time.sleep(0.02)


if __name__ == "__main__":
    main(int(sys.argv[1]))
