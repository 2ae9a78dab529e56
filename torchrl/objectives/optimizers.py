"""Several optimisers as one."""

from __future__ import annotations

from torch.optim import Optimizer

from torchrl._core.errors import describe


def group_optimizers(*optimizers: Optimizer) -> Optimizer:
    """Merge optimisers of one class into one that has all their parameter groups and their state.

    Args:
        optimizers: At least one, all of one class.

    Raises:
        TypeError: if their classes differ.

    >>> import torch
    >>> nets = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    >>> adams = [torch.optim.Adam(n.parameters(), lr) for n, lr in zip(nets, (1e-3, 1e-4))]
    >>> [group["lr"] for group in group_optimizers(*adams).param_groups]
    [0.001, 0.0001]
    """
    first = optimizers[0]
    if any(type(optimizer) is not type(first) for optimizer in optimizers):
        raise TypeError(
            describe(
                "group_optimizers",
                "got optimisers of several classes",
                expected=type(first).__name__,
                found=[type(optimizer).__name__ for optimizer in optimizers],
            )
        )
    groups = [dict(group) for optimizer in optimizers for group in optimizer.param_groups]
    merged = type(first)(groups)  # type: ignore[call-arg]  # all take groups
    for optimizer in optimizers:
        merged.state.update(optimizer.state)
    return merged
