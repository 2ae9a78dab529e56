"""Killing process trees, also those whose parent has died.

Run as a program, this file kills the processes whose numbers it reads once its parent has died. It
imports only a few modules of the standard library, so that it starts within milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

GRACE = 2.0  # seconds in which processes may end by themselves once their parent has died


def kill_tree(pid: int) -> None:
    """Kill a process and everything that it has started, directly or not.

    Args:
        pid: Number of a process that runs or has not been waited for.
    """
    doomed = [pid]
    for each in doomed:  # the list grows
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(each, signal.SIGSTOP)  # it starts no further process then
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
    """Return the fields of ``/proc/PID/stat`` after the program name; nothing if it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return []


def _birth(pid: int) -> bytes | None:
    """Return the start time of a process, which a later one of its number has not; or ``None``."""
    if os.path.exists("/proc/self/stat"):
        fields = _stat(pid)
        return fields[19] if fields and fields[0] not in (b"Z", b"X") else None
    try:
        os.kill(pid, 0)
    except OSError:
        return None
    return b""


def main(parent: int) -> None:
    """Read numbers of processes, one on each line; kill them once ``parent`` has died.

    Args:
        parent: Number of the process that started this one and writes to its standard input.
    """
    births: dict[int, bytes | None] = {}
    text = b""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    with contextlib.suppress(AttributeError, OSError):  # an old system: checked every second
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
