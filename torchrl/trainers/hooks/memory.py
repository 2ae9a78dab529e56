"""`ClearCudaCache`: memory that torch keeps for later goes back to the device."""

from __future__ import annotations

import torch

from torchrl.trainers.hooks.base import TrainerHookBase


class ClearCudaCache(TrainerHookBase):
    """Empties the cache of CUDA memory before the optimisation steps of a batch.

    Args:
        interval: Once in this many batches.

    Raises:
        ValueError: if that is less than one.

    >>> hook = ClearCudaCache(interval=10)
    >>> hook()
    """

    stage, name, saved = "pre_optim_steps", "clear_cuda_cache", ("count",)

    def __init__(self, interval: int) -> None:
        if interval < 1:
            raise ValueError(f"ClearCudaCache: interval must be at least 1, found {interval}.")
        self.interval, self.count = interval, 0

    def __call__(self) -> None:
        self.count += 1
        if self.count % self.interval == 0:
            torch.cuda.empty_cache()
