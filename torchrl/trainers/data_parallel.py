"""Trainers on several ranks: each has its own collector, and the gradients are those of all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from tensordict import TensorDictBase
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from torchrl._core.errors import describe

SEEDS_PER_RANK = 10_000  # environments of a rank have seeds that follow each other


class DataParallel:
    """A loss module whose gradients are averaged over the ranks of the default process group.

    All start with the weights of rank 0. In each step all ranks must call it once, and every
    parameter that is trained must get a gradient, unless ``options`` say otherwise.

    Args:
        loss_module: The loss module.
        options: Arguments of :class:`torch.nn.parallel.DistributedDataParallel`.

    Raises:
        RuntimeError: if there is no default process group.

    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> parallel = DataParallel(nn.Linear(1, 1), {})
    >>> parallel.any_stops(False), parallel(torch.ones(2, 1)).shape
    (False, torch.Size([2, 1]))
    >>> dist.destroy_process_group()
    """

    def __init__(self, loss_module: nn.Module, options: Mapping[str, Any]) -> None:
        if not dist.is_initialized():
            hint = "Call torch.distributed.init_process_group() before, in a script that torchrun starts."
            raise RuntimeError(describe(self, "there is no default process group", hint=hint))
        self.rank = dist.get_rank()
        self._module = DistributedDataParallel(loss_module, **options)
        self._device = next(loss_module.parameters()).device

    def __call__(self, batch: TensorDictBase) -> Any:
        return self._module(batch)

    def any_stops(self, stops: bool) -> bool:
        """Return whether any rank stops, to all ranks; each of them has to call it."""
        flag = torch.tensor(float(stops), device=self._device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)
