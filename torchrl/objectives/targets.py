"""Rules by which target networks follow the networks that are trained."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from torchrl._core.errors import describe
from torchrl.objectives.common import LossModule


class TargetNetUpdater(ABC):
    """Moves every target network of a loss.

    Args:
        loss_module: A loss with at least one target network.

    Hooks:
        _move: ``(targets, online) ->`` nothing, in place; lists of floating tensors.

    Raises:
        ValueError: if the loss has no target network.
    """

    def __init__(self, loss_module: LossModule) -> None:
        pairs = loss_module.target_pairs()
        if not pairs:
            raise ValueError(
                describe(
                    self,
                    f"got a {type(loss_module).__name__} that has no target network",
                    hint="Build the loss with delay_value=True, or its like.",
                )
            )
        self._slots = [slot for online, twin in pairs.values() for slot in _slots(online, twin)]
        self.init_()

    @torch.no_grad()
    def init_(self) -> None:
        """Copy the networks that are trained into their targets."""
        for target, online in self._tensors():
            target.copy_(online)

    @torch.no_grad()
    def step(self) -> None:
        """Move the targets once; counts and other whole numbers are copied."""
        pairs = self._tensors()
        moving = [pair for pair in pairs if pair[0].is_floating_point()]
        self._move([target for target, _ in moving], [online for _, online in moving])
        for target, online in pairs:
            if not target.is_floating_point():
                target.copy_(online)

    def state_dict(self) -> dict[str, Any]:
        """Return what must be saved beside the loss."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""

    @abstractmethod
    def _move(self, targets: list[Tensor], online: list[Tensor]) -> None: ...

    def _tensors(self) -> list[tuple[Tensor, Tensor]]:
        # looked up each time, since moving a module replaces its buffers; a shared one counts once
        pairs = [(twin[name], online[name]) for twin, online, name in self._slots]
        return list({id(target): (target, source) for target, source in pairs}.values())


class SoftUpdate(TargetNetUpdater):
    r"""Polyak averaging.

    .. math:: \bar\theta \leftarrow \epsilon\,\bar\theta + (1 - \epsilon)\,\theta

    Args:
        loss_module: A loss with at least one target network.
        eps: How much of the old target is kept; 0.999 if neither it nor ``tau`` is given. One below
            1/2, which is rather a ``tau``, warns.
        tau: ``1 - eps``.

    Raises:
        ValueError: if both ``eps`` and ``tau`` are given, or one lies outside [0, 1].

    Source: Lillicrap et al., 2016, https://arxiv.org/abs/1509.02971, section 3.
    """

    def __init__(
        self, loss_module: LossModule, *, eps: float | None = None, tau: float | None = None
    ) -> None:
        if eps is not None and tau is not None:
            raise ValueError(
                describe(self, "got both eps and tau", hint="tau is 1 - eps: give one of them.")
            )
        if eps is None:
            eps = 0.999 if tau is None else 1 - tau
        if not 0 <= eps <= 1:
            raise ValueError(
                describe(self, "got a weight that is none", expected="0 to 1", found=eps)
            )
        if tau is None and eps < 0.5:
            hint = f"If each step shall move the target by {eps}, give tau={eps}."
            warnings.warn(
                describe(self, "keeps little of the target", found=f"eps={eps}", hint=hint),
                stacklevel=2,
            )
        self.eps = eps
        super().__init__(loss_module)

    def _move(self, targets: list[Tensor], online: list[Tensor]) -> None:
        torch._foreach_lerp_(targets, online, 1 - self.eps)


class HardUpdate(TargetNetUpdater):
    """Copy the networks into their targets once every so many steps.

    Args:
        loss_module: A loss with at least one target network.
        value_network_update_interval: Every how many calls of :meth:`step`.

    Source: Mnih et al., 2015, https://doi.org/10.1038/nature14236.
    """

    def __init__(
        self, loss_module: LossModule, *, value_network_update_interval: int = 1000
    ) -> None:
        self.value_network_update_interval = value_network_update_interval
        self.counter = 0
        super().__init__(loss_module)

    def step(self) -> None:
        """Count, and copy when the count is full."""
        self.counter += 1
        if self.counter >= self.value_network_update_interval:
            self.counter = 0
            self.init_()

    def state_dict(self) -> dict[str, Any]:
        """Return the count."""
        return {"counter": self.counter}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the count."""
        self.counter = state_dict["counter"]

    def _move(self, targets: list[Tensor], online: list[Tensor]) -> None:
        torch._foreach_copy_(targets, online)


def _slots(online: nn.Module, twin: nn.Module) -> list[tuple[dict, dict, str]]:
    """Return where each tensor of a target copy and its model stand."""
    return [
        (copy._buffers, source, name)
        for module, copy in zip(online.modules(), twin.modules(), strict=True)
        for source in (module._parameters, module._buffers)
        for name, tensor in source.items()
        if tensor is not None
    ]
