"""Linear layers with noisy weights, whose noise is learned: exploration inside the network."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from torchrl._core.devices import check_devices
from torchrl._core.exploration import is_exploring

Device = torch.device | str | None


class NoisyLinear(nn.Linear):
    r"""A linear layer with factorised Gaussian noise on its weights.

    .. math:: y = (\mu^w + \sigma^w \odot f(\epsilon_{out}) f(\epsilon_{in})^T) x
        + \mu^b + \sigma^b \odot f(\epsilon_{out}), \quad f(e) = \mathrm{sgn}(e) \sqrt{|e|}

    The noise is drawn at construction and by :meth:`reset_noise`, never by a call.

    Args:
        in_features: Size of the input.
        out_features: Size of the output.
        bias: Whether there is a bias.
        device: Where the parameters live.
        dtype: Their dtype.
        std_init: The paper's sigma_0.
        use_exploration_type: The noise is on where the exploration type is ``RANDOM`` or not set;
            if false, in training mode.

    Source: Fortunato et al., 2017, https://arxiv.org/abs/1706.10295, section 3.

    >>> layer = NoisyLinear(3, 4)
    >>> before = layer(torch.ones(3))
    >>> layer.reset_noise()
    >>> bool((layer(torch.ones(3)) != before).all())
    True
    """

    weight_mu: nn.Parameter
    weight_sigma: nn.Parameter
    weight_epsilon: Tensor
    bias_mu: nn.Parameter | None
    bias_sigma: nn.Parameter
    bias_epsilon: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
        std_init: float = 0.5,
        use_exploration_type: bool = True,
    ) -> None:
        check_devices(self, device=device)
        nn.Module.__init__(self)
        self.in_features, self.out_features = in_features, out_features
        self.std_init, self.use_exploration_type = std_init, use_exploration_type
        kind: dict[str, Any] = {"device": device, "dtype": dtype}
        shapes = {"weight": (out_features, in_features), "bias": (out_features,)}
        for name, shape in shapes.items():
            if name == "bias" and not bias:
                self.register_parameter("bias_mu", None)
                self.register_parameter("bias_sigma", None)
                self.register_buffer("bias_epsilon", None)
                continue
            self.register_parameter(f"{name}_mu", nn.Parameter(torch.empty(shape, **kind)))
            self.register_parameter(f"{name}_sigma", nn.Parameter(torch.empty(shape, **kind)))
            self.register_buffer(f"{name}_epsilon", torch.empty(shape, **kind))
        self.reset_parameters()
        self.reset_noise()

    @property
    def noise_is_on(self) -> bool:
        """Whether a call made now uses noisy weights."""
        return is_exploring() if self.use_exploration_type else self.training

    @property
    def weight(self) -> Tensor:  # type: ignore[override]  # made anew when it is read
        """The weights that a call uses now, ``[out_features, in_features]``."""
        if self.noise_is_on:
            return torch.addcmul(self.weight_mu, self.weight_sigma, self.weight_epsilon)
        return self.weight_mu

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]  # made anew when it is read
        """The bias that a call uses now, ``[out_features]``."""
        if self.bias_mu is None or not self.noise_is_on:
            return self.bias_mu
        return torch.addcmul(self.bias_mu, self.bias_sigma, self.bias_epsilon)

    def reset_parameters(self) -> None:
        """Initialise means and scales as the paper does."""
        bound = 1 / math.sqrt(self.in_features)
        with torch.no_grad():
            self.weight_mu.uniform_(-bound, bound)
            self.weight_sigma.fill_(self.std_init * bound)
            if self.bias_mu is not None:
                self.bias_mu.uniform_(-bound, bound)
                self.bias_sigma.fill_(self.std_init * bound)

    def reset_noise(self) -> None:
        """Draw new noise."""
        with torch.no_grad():
            inner, outer = self._scaled(self.in_features), self._scaled(self.out_features)
            self.weight_epsilon.copy_(outer.outer(inner))
            if self.bias_mu is not None:
                self.bias_epsilon.copy_(outer)

    def _scaled(self, size: int) -> Tensor:
        noise = torch.randn(size, device=self.weight_mu.device, dtype=self.weight_mu.dtype)
        return noise.sign() * noise.abs().sqrt()


class NoisyLazyLinear(nn.modules.lazy.LazyModuleMixin, NoisyLinear):
    """A :class:`NoisyLinear` that learns the size of its input from the first one.

    Args:
        out_features: Size of the output.
        bias: Whether there is a bias.
        device: Where the parameters live.
        dtype: Their dtype.
        std_init: The paper's sigma_0.
        use_exploration_type: See :class:`NoisyLinear`.

    >>> NoisyLazyLinear(4)(torch.ones(3)).shape
    torch.Size([4])
    """

    cls_to_become = NoisyLinear

    def __init__(
        self,
        out_features: int,
        bias: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
        std_init: float = 0.5,
        use_exploration_type: bool = True,
    ) -> None:
        check_devices(self, device=device)
        super().__init__(0, 0, bias, device, dtype, std_init, use_exploration_type)
        self.out_features = out_features
        kind: Any = {"device": device, "dtype": dtype}
        for name in ("weight", "bias") if bias else ("weight",):
            for part in ("mu", "sigma"):
                setattr(self, f"{name}_{part}", UninitializedParameter(**kind))
            setattr(self, f"{name}_epsilon", UninitializedBuffer(**kind))

    def reset_parameters(self) -> None:
        """Initialise, once the size of the input is known."""
        if self.in_features:
            super().reset_parameters()

    def reset_noise(self) -> None:
        """Draw new noise, once the size of the input is known."""
        if self.in_features:
            super().reset_noise()

    def initialize_parameters(self, input: Tensor) -> None:
        """Take the size of the input from ``input [*B, in_features]``."""
        if not self.has_uninitialized_params():
            return
        self.in_features = input.shape[-1]
        with torch.no_grad():
            for part in ("mu", "sigma", "epsilon"):
                getattr(self, f"weight_{part}").materialize((self.out_features, self.in_features))
                bias = getattr(self, f"bias_{part}")
                if bias is not None:
                    bias.materialize((self.out_features,))
        self.reset_parameters()
        self.reset_noise()


def reset_noise(layer: nn.Module) -> None:
    """Draw new noise in a layer that has some; for ``module.apply(reset_noise)``.

    >>> _ = nn.Sequential(NoisyLinear(3, 4), nn.Tanh()).apply(reset_noise)
    """
    if isinstance(layer, NoisyLinear):
        layer.reset_noise()
