"""`Interruptor`: a flag that ends a batch early."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Interruptor:
    """Ends the current batch of a collector, from another thread or process.

    Args:
        flag: The flag, ``[1]`` bool, for instance in shared memory; a new one if ``None``.

    >>> from torchrl.collectors import Collector
    >>> from torchrl.envs import GymEnv
    >>> interruptor = Interruptor()
    >>> collector = Collector(GymEnv("CartPole-v1"), frames_per_batch=50, interruptor=interruptor)
    >>> interruptor.stop_collection()
    >>> collector.rollout().shape
    torch.Size([1])
    """

    def __init__(self, flag: Tensor | None = None) -> None:
        self._flag: np.ndarray = (torch.zeros(1, dtype=torch.bool) if flag is None else flag).numpy()

    def start_collection(self) -> None:
        """Collect full batches from now on."""
        self._flag[0] = False

    def stop_collection(self) -> None:
        """End batches after their next step, until :meth:`start_collection`."""
        self._flag[0] = True

    def collection_stopped(self) -> bool:
        """Return whether batches are to end."""
        return bool(self._flag[0])
