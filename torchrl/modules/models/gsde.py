"""Generalised state-dependent exploration: noise that is a function of the state.

``*B`` batch dimensions, ``A`` actions, ``S`` features of the state.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from torchrl._core.devices import check_devices
from torchrl._core.exploration import is_exploring

Device = torch.device | str | None


class gSDEModule(nn.Module):  # noqa: N801 - a public name
    r"""Adds to an action a random linear function of the state, the same one until it is redrawn.

    .. math:: a = \mu(s) + (\sigma \odot \epsilon) s, \qquad
        \mathrm{std}(a) = \sqrt{\sigma^2 s^2}

    It explores where the exploration type is ``RANDOM`` or not set, as other noise modules do. The
    draw ``eps`` is an entry: who redraws it says for how long the noise stays the same.

    Args:
        action_dim: ``A``.
        state_dim: ``S``.
        sigma_init: Initial sigma; such that the action's std is about 1 for a standard normal state
            if ``None``.
        scale_min: Lower bound of sigma.
        scale_max: Upper bound of sigma.
        learn_sigma: Whether sigma is a parameter.
        transform: Map from the noisy action to the action, such as
            :class:`torch.distributions.transforms.TanhTransform`; identity if ``None``.
        device: Where the parameters live.

    Source: Raffin et al., 2020, https://arxiv.org/abs/2005.05719.

    >>> mu, sigma, action, eps = gSDEModule(2, 3)(torch.zeros(5, 2), torch.randn(5, 3))
    >>> sigma.shape, action.shape, eps.shape
    (torch.Size([5, 2]), torch.Size([5, 2]), torch.Size([5, 2, 3]))
    """

    def __init__(
        self,
        action_dim: int,
        state_dim: int,
        sigma_init: float | None = None,
        scale_min: float = 0.01,
        scale_max: float = 10.0,
        learn_sigma: bool = True,
        transform: torch.distributions.Transform | None = None,
        device: Device = None,
    ) -> None:
        check_devices(self, device=device)
        super().__init__()
        self.action_dim, self.state_dim = action_dim, state_dim
        self.sigma_init, self.learn_sigma = sigma_init, learn_sigma
        self.scale_min, self.scale_max, self.transform = scale_min, scale_max, transform
        log_sigma = torch.full((action_dim, state_dim), self._log_init(), device=device)
        self.log_sigma: Any
        if learn_sigma:
            self.log_sigma = nn.Parameter(log_sigma)
        else:
            self.register_buffer("log_sigma", log_sigma)

    def _log_init(self) -> float:
        start = self.sigma_init
        if start is None:
            start = 1 / math.sqrt(max(self.state_dim, 1))
        return math.log(start)

    @property
    def sigma(self) -> Tensor:
        """Scale of each coefficient, ``[A, S]``."""
        return self.log_sigma.exp().clamp(self.scale_min, self.scale_max)

    def forward(
        self, mu: Tensor, state: Tensor, eps: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return mean, std and action ``[*B, A]``, and the draw ``[*B, A, S]``.

        Args:
            mu: Mean action ``[*B, A]``.
            state: State ``[*B, S]``.
            eps: The draw to use; a new one if ``None``.
        """
        sigma = self.sigma
        if eps is None:
            eps = torch.randn((*mu.shape[:-1], *sigma.shape), dtype=mu.dtype, device=mu.device)
        action = mu
        if is_exploring():
            action = mu + (sigma * eps * state.unsqueeze(-2)).sum(-1)
        if self.transform is not None:
            action = self.transform(action)
        variance = (sigma * state.unsqueeze(-2)).square().sum(-1)
        return mu, variance.clamp_min(torch.finfo(mu.dtype).tiny).sqrt(), action, eps


class LazygSDEModule(nn.modules.lazy.LazyModuleMixin, gSDEModule):
    """A :class:`gSDEModule` that learns the sizes of action and state from the first ones.

    Args:
        sigma_init: See :class:`gSDEModule`.
        scale_min: See :class:`gSDEModule`.
        scale_max: See :class:`gSDEModule`.
        learn_sigma: See :class:`gSDEModule`.
        transform: See :class:`gSDEModule`.
        device: Where the parameters live.

    >>> LazygSDEModule()(torch.zeros(5, 2), torch.randn(5, 3))[2].shape
    torch.Size([5, 2])
    """

    cls_to_become = gSDEModule

    def __init__(
        self,
        sigma_init: float | None = None,
        scale_min: float = 0.01,
        scale_max: float = 10.0,
        learn_sigma: bool = True,
        transform: torch.distributions.Transform | None = None,
        device: Device = None,
    ) -> None:
        check_devices(self, device=device)
        super().__init__(0, 0, sigma_init, scale_min, scale_max, learn_sigma, transform, device)
        kind: Any = UninitializedParameter if learn_sigma else UninitializedBuffer
        self.log_sigma = kind(device=device, dtype=torch.get_default_dtype())

    def initialize_parameters(self, mu: Tensor, state: Tensor, eps: Tensor | None = None) -> None:
        """Take the sizes from an action ``[*B, A]`` and a state ``[*B, S]``."""
        if not self.has_uninitialized_params():
            return
        self.action_dim, self.state_dim = mu.shape[-1], state.shape[-1]
        with torch.no_grad():
            self.log_sigma.materialize((self.action_dim, self.state_dim))
            self.log_sigma.fill_(self._log_init())
