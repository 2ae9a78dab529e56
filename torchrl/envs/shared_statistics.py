"""Running statistics of environments that several processes update together."""

from __future__ import annotations

import fcntl
import os
import weakref
from typing import Any

import torch
from torch import Tensor

from torchrl._core.memory import Memory, aligned

Place = tuple[str, str, int, torch.Size, torch.dtype]  # module, buffer, offset, shape, dtype


class SharedStatistics:
    """Memory for the buffers of all parts of an environment that can share theirs.

    Those are parts with an attribute ``is_shared``, as :class:`~torchrl.envs.VecNorm` has. A copy
    in another process looks at the same memory for as long as this process lives. As a context, it
    keeps the others from the statistics.

    Args:
        env: The environment; its buffers are the first values.
    """

    def __init__(self, env: Any) -> None:
        self._places: list[Place] = []
        values, end = [], 0
        for module, name, buffer in _buffers(env):
            self._places.append((module, name, end, buffer.shape, buffer.dtype))
            values.append(buffer)
            end += aligned(buffer.numel() * buffer.dtype.itemsize)
        self._open(Memory(end, "shared"))
        for view, value in zip(self._views(), values, strict=True):
            view.copy_(value)

    def _open(self, memory: Memory) -> None:
        self._memory = memory
        weakref.finalize(self, memory.close)

    def _views(self) -> list[Tensor]:
        return [self._memory.view(at, shape, dtype) for _, _, at, shape, dtype in self._places]

    def bind(self, env: Any) -> None:
        """Let an environment use these statistics in place of its own, where they are alike."""
        own = {(module, name): buffer for module, name, buffer in _buffers(env)}
        for (module, name, *_), view in zip(self._places, self._views(), strict=True):
            buffer = own.get((module, name))
            if buffer is not None and (buffer.shape, buffer.dtype) == (view.shape, view.dtype):
                part = env.get_submodule(module)
                part._buffers[name] = view
                part.is_shared = True
                part.lock = part.lock or self

    def __enter__(self) -> SharedStatistics:
        assert self._memory.file is not None
        fcntl.lockf(self._memory.file, fcntl.LOCK_EX)
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._memory.file is not None
        fcntl.lockf(self._memory.file, fcntl.LOCK_UN)

    def __getstate__(self) -> dict[str, Any]:
        path = f"/proc/{os.getpid()}/fd/{self._memory.file}"
        values = self._memory.bytes.numpy().tobytes()
        return {"places": self._places, "path": path, "values": values}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._places, values = state["places"], state["values"]
        try:
            file = os.open(state["path"], os.O_RDWR)
        except OSError:  # the process that made it is gone; what it knew goes on
            self._open(Memory(len(values), "shared"))
            self._memory.bytes.copy_(torch.frombuffer(bytearray(values), dtype=torch.uint8))
        else:
            self._open(Memory(len(values), file=file))


def has_statistics(env: Any) -> bool:
    """Say whether a part of an environment could share its statistics."""
    return bool(_buffers(env))


def _buffers(env: Any) -> list[tuple[str, str, Tensor]]:
    return [
        (module, name, buffer)
        for module, part in env.named_modules()
        if hasattr(part, "is_shared") and hasattr(part, "lock")
        for name, buffer in part._buffers.items()
        if buffer is not None
    ]
