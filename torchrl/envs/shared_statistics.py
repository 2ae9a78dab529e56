"""Running statistics of environments that several processes update together."""

from __future__ import annotations

import fcntl
import os
import pickle
import struct
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from torchrl._core.errors import WorkerError
from torchrl._core.records.torch_private import buffer_slots
from torchrl._core.workers.shared_memory import ALIGNMENT, AnonymousFile, Memory, aligned

Key = tuple[str, str, tuple[int, ...], torch.dtype]  # module, buffer, shape, dtype
_SIZES = struct.Struct("qq")  # of an entry in all, and of its key
_thread_locks: dict[int, Any] = {}  # by process: one that was forked starts with a free lock


class SharedStatistics:
    """Memory for the statistics of all environments of one recipe, in whichever process.

    It holds nothing until a first environment is bound, so that it can be made, and copied to other
    processes, before any is built. A copy looks at the same memory for as long as the process lives
    that made it. As a context, it keeps other threads and processes from the statistics.

    Statistics are those of parts with an attribute ``is_shared``, as
    :class:`~torchrl.envs.VecNorm` has. Parts at the same place in their environments, with
    buffers of the same shape, share them.
    """

    # The memory: entries one after the other, each its two sizes, its key and its numbers.

    # The lock is on a file of its own: a process loses its locks on a file as soon as it closes
    # any descriptor of that file, and a mapping of memory that is freed closes one.

    def __init__(self) -> None:
        self._set_files(AnonymousFile(), AnonymousFile())
        os.truncate(self._file, ALIGNMENT)

    def _set_files(self, memory: AnonymousFile, lock: AnonymousFile) -> None:
        self._files = memory, lock
        self._file, self._lock = memory.number, lock.number

    def bind(self, env: Any) -> None:
        """Let an environment use these statistics in place of its own.

        Statistics that no environment had before start with the values of this one.
        """
        own = list(_buffers(env))
        if not own:
            return
        with self:
            places = dict(self._places())
            for _, _, key, buffer in own:
                if key not in places:
                    places[key] = self._append(key, buffer)
            memory = Memory(self._num_bytes(), file=self._file)
        for part, name, key, buffer in own:
            buffer_slots(part)[name] = memory.view(places[key], buffer.shape, buffer.dtype)
            part.is_shared, part.lock = True, part.lock or self

    def _num_bytes(self) -> int:
        return os.fstat(self._file).st_size

    def _places(self) -> Iterator[tuple[Key, int]]:
        """Yield the key of each entry and the offset of its numbers."""
        place = ALIGNMENT
        while True:
            size, key_size = _SIZES.unpack(self._read(place, _SIZES.size))
            if not size:  # the end, or what a process that was killed did not complete
                return
            start = place + _SIZES.size
            yield pickle.loads(self._read(start, key_size)), aligned(start + key_size)
            place += size

    def _read(self, place: int, num_bytes: int) -> bytes:
        return os.pread(self._file, num_bytes, place).ljust(num_bytes, b"\0")

    def _append(self, key: Key, value: Tensor) -> int:
        """Add an entry; return the offset of its numbers."""
        place, name = ALIGNMENT, pickle.dumps(key)
        for _ in self._places():
            place += _SIZES.unpack(self._read(place, _SIZES.size))[0]
        start = aligned(place + _SIZES.size + len(name))
        end = aligned(start + value.numel() * value.dtype.itemsize)
        os.truncate(self._file, max(end, self._num_bytes()))
        numbers = value.detach().cpu().reshape(-1).view(torch.uint8)
        os.pwrite(self._file, numbers.numpy().tobytes(), start)
        os.pwrite(self._file, name, place + _SIZES.size)
        os.pwrite(self._file, _SIZES.pack(end - place, len(name)), place)  # now it is there
        return start

    def __enter__(self) -> SharedStatistics:
        _thread_locks.setdefault(os.getpid(), threading.Lock()).acquire()
        fcntl.lockf(self._lock, fcntl.LOCK_EX)
        return self

    def __exit__(self, *exc: object) -> None:
        fcntl.lockf(self._lock, fcntl.LOCK_UN)
        _thread_locks[os.getpid()].release()

    def __getstate__(self) -> dict[str, Any]:
        with self:
            values = self._read(0, self._num_bytes())
        return {"addresses": [file.address() for file in self._files], "values": values}

    def __setstate__(self, state: dict[str, Any]) -> None:
        try:
            self._set_files(*(AnonymousFile.open(*address) for address in state["addresses"]))
        except WorkerError:  # the process that made it has ended: a copy of its numbers
            self._set_files(AnonymousFile(), AnonymousFile())
            os.pwrite(self._file, state["values"], 0)


def _buffers(env: Any) -> Iterator[tuple[Any, str, Key, Tensor]]:
    """Yield each buffer that can be shared: its part, its name, its key and itself."""
    for module, part in env.named_modules():
        if hasattr(part, "is_shared") and hasattr(part, "lock") and not part.is_shared:
            for name, buffer in buffer_slots(part).items():
                if buffer is not None:
                    yield part, name, (module, name, tuple(buffer.shape), buffer.dtype), buffer
