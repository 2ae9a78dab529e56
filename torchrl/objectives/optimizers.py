"""Optimisers: several as one, and learning rates that follow what the loss reports."""

from __future__ import annotations

from torch import Tensor
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


class KLAdaptiveLR:
    """Hold the divergence of successive policies near a goal by means of the learning rate.

    The rate falls by ``factor`` where the divergence is more than twice the goal, and rises by it
    where it is less than half the goal.

    It has no state of its own: the rate is part of the optimiser's.

    Args:
        optimizer: Its parameter groups are set.
        target_kl: Goal, in nats.
        factor: More than 1.
        min_lr: Lowest rate.
        max_lr: Highest rate.

    Raises:
        ValueError: if ``factor`` or ``target_kl`` make no sense.

    Source: Rudin et al., 2022, https://arxiv.org/abs/2109.11978, section 3.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    >>> KLAdaptiveLR(optimizer, 0.01, factor=2.0).step(0.05)
    >>> optimizer.param_groups[0]["lr"]
    0.0005
    """

    def __init__(
        self, optimizer: Optimizer, target_kl: float, *, factor: float = 1.5, min_lr: float = 1e-5, max_lr: float = 1e-2
    ) -> None:
        if factor <= 1 or target_kl <= 0 or min_lr > max_lr:
            found = f"factor={factor}, target_kl={target_kl}, min_lr={min_lr}, max_lr={max_lr}"
            raise ValueError(
                describe(
                    self,
                    "got arguments that make no sense",
                    expected="factor > 1, target_kl > 0, min_lr <= max_lr",
                    found=found,
                )
            )
        self.optimizer, self.target_kl, self.factor = optimizer, target_kl, factor
        self.min_lr, self.max_lr = min_lr, max_lr

    def step(self, kl: float | Tensor) -> None:
        """Set the learning rate after an update that moved the policy by ``kl``."""
        kl = float(kl)
        for group in self.optimizer.param_groups:
            if kl > 2 * self.target_kl:
                group["lr"] = max(self.min_lr, group["lr"] / self.factor)
            elif kl < self.target_kl / 2:
                group["lr"] = min(self.max_lr, group["lr"] * self.factor)
