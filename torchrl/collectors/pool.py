"""What a collector with workers needs of them: requests of batches, calls, weights."""

from __future__ import annotations

from typing import Any, Protocol

from tensordict import TensorDictBase

from torchrl.collectors.worker import WorkerInfo
from torchrl.weight_update import WeightSender
from torchrl.weight_update.scheme import Layout

Found = TensorDictBase | int  # a batch, or the number of frames that a worker wrote


class Pool(Protocol):
    """Workers that each run a collector, whatever they run on, as a collector that has them uses them.

    A worker that fails or is lost raises :class:`~torchrl._core.errors.WorkerError` from any method.

    Attributes:
        worker_info: What each worker reported once it was built.
        shutdown_timeout: Seconds in which workers may close their environments.
        is_closed: Whether the workers have been ended.
    """

    worker_info: list[WorkerInfo]
    shutdown_timeout: float
    is_closed: bool

    def request(self, worker: int, *, random: bool = False) -> None:
        """Request a batch of a worker, with random actions or with those of its policy."""

    def is_requested(self, worker: int) -> bool:
        """Return whether a batch of this worker was requested and not yet returned."""

    def wait(self) -> tuple[int, Found]:
        """Wait for a batch; return the number of its worker and the batch, which the next request may overwrite."""

    def call(self, worker: int, name: str, *args: object) -> Any:
        """Call a method of one :class:`~torchrl.collectors.worker.CollectorWorker`; return its value."""

    def call_all(self, name: str, *args: object) -> list[Any]:
        """Call a method of all workers at the same time; return its values."""

    def connect(self, layout: Layout) -> WeightSender:
        """Return a sender of weights, which all workers follow from now on."""

    def start_collection(self) -> None:
        """Let workers collect full batches."""

    def stop_collection(self) -> None:
        """Let workers end their batches after the next step."""

    def end(self, timeout: float | None, close_env: bool) -> None:
        """End the workers, which close their environments or leave them open."""

    def close(self) -> None:
        """End the workers; calling it again is fine."""

    def kill(self) -> None:
        """End the workers at once; another thread that waits for one of them raises then."""
