"""How the environments of a batch are run: where their numbers lie, and how workers behave."""

from __future__ import annotations

from dataclasses import dataclass

from torchrl._core.processes import start_method


@dataclass(frozen=True)
class BatchOptions:
    """Arguments of :class:`~torchrl.envs.ParallelEnv`, where they are explained.

    Raises:
        ValueError: if they contradict each other.
    """

    pin_memory: bool = False
    share_individual_td: bool | None = None
    shared_memory: bool = True
    memmap: bool = False
    num_threads: int | None = None
    num_sub_threads: int = 1
    serial_for_single: bool = False
    non_blocking: bool = False
    mp_start_method: str | None = None
    use_buffers: bool | None = None
    metadata_from_workers: bool = False
    consolidate: bool = True
    daemon: bool = False
    timeout: float | None = None
    shutdown_timeout: float = 10.0

    def __post_init__(self) -> None:
        if self.use_buffers and not (self.shared_memory or self.memmap):
            raise ValueError(
                "use_buffers=True needs shared_memory or memmap to keep the buffers in."
            )
        if self.mp_start_method is not None:
            start_method(self.mp_start_method)

    @property
    def buffers(self) -> bool | None:
        """Whether to use buffers; ``None`` if that depends on the environments."""
        return self.use_buffers if self.shared_memory or self.memmap else False

    @property
    def memory(self) -> str:
        """Where buffers lie that processes share, see :class:`~.buffers.Memory`."""
        return "file" if self.memmap else "shared"
