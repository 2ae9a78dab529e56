"""Networks that explore: noisy linear layers, gSDE, dropout whose masks are kept with the data.

``*B`` batch dimensions, ``A`` actions, ``S`` features of the state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from tensordict import NestedKey
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from torchrl._core.devices import check_devices
from torchrl._core.errors import MissingSpecError, describe
from torchrl._core.exploration import is_exploring
from torchrl._core.keys import as_keys, require, sibling
from torchrl._core.mdp import last_name
from torchrl._core.records.flat_record import Record
from torchrl.data import Composite, Unbounded
from torchrl.modules.tensordict_module.common import RecordModule
from torchrl.modules.utils import make_primer

if TYPE_CHECKING:
    from torchrl.envs.transforms import TensorDictPrimer

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
        std_init: ``sigma_0`` of the paper.
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
        """Whether a call uses noisy weights at the moment."""
        return is_exploring() if self.use_exploration_type else self.training

    @property
    def weight(self) -> Tensor:  # type: ignore[override]  # computed at each access
        """The current weights, ``[out_features, in_features]``."""
        if self.noise_is_on:
            return torch.addcmul(self.weight_mu, self.weight_sigma, self.weight_epsilon)
        return self.weight_mu

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]  # computed at each access
        """The current bias, ``[out_features]``."""
        if self.bias_mu is None or not self.noise_is_on:
            return self.bias_mu
        return torch.addcmul(self.bias_mu, self.bias_sigma, self.bias_epsilon)

    def reset_parameters(self) -> None:
        """Initialise means and scales as in the paper."""
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
    """A :class:`NoisyLinear` that takes the size of its input from the first call.

    Args:
        out_features: Size of the output.
        bias: Whether there is a bias.
        device: Where the parameters live.
        dtype: Their dtype.
        std_init: ``sigma_0`` of the paper.
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
        kind: dict[str, Any] = {"device": device, "dtype": dtype}
        for name in ("weight", "bias") if bias else ("weight",):
            for part in ("mu", "sigma"):
                setattr(self, f"{name}_{part}", UninitializedParameter(**kind))
            setattr(self, f"{name}_epsilon", UninitializedBuffer(**kind))

    def reset_parameters(self) -> None:
        """Initialise the parameters, once the size of the input is known."""
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
    """Draw new noise in a noisy layer; for ``module.apply(reset_noise)``.

    Args:
        layer: A layer; any other than a :class:`NoisyLinear` stays as it is.

    >>> _ = nn.Sequential(NoisyLinear(3, 4), nn.Tanh()).apply(reset_noise)
    """
    if isinstance(layer, NoisyLinear):
        layer.reset_noise()


class gSDEModule(nn.Module):  # noqa: N801 - a public name
    r"""Generalised state-dependent exploration: add a random linear function of the state.

    .. math:: a = \mu(s) + (\sigma \odot \epsilon) s, \qquad
        \mathrm{std}(a) = \sqrt{\sigma^2 s^2}

    It explores where the exploration type is ``RANDOM`` or not set, as other noise modules do. The
    noise is the same as long as the same ``eps`` is passed.

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
        self.log_sigma: Any
        log_sigma = torch.full((action_dim, state_dim), self._log_init(), device=device)
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

    def forward(self, mu: Tensor, state: Tensor, eps: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return mean, std and action ``[*B, A]``, and the noise ``[*B, A, S]``.

        Args:
            mu: Mean action ``[*B, A]``.
            state: State ``[*B, S]``.
            eps: The noise to use; drawn if ``None``, or for a placeholder ``[*B, 1]`` such as that of
                :class:`~torchrl.envs.gSDENoise` without sizes.
        """
        sigma = self.sigma
        if eps is None or eps.shape == (*mu.shape[:-1], 1):
            eps = torch.randn((*mu.shape[:-1], *sigma.shape), dtype=mu.dtype, device=mu.device)
        action = mu
        if is_exploring():
            action = mu + (sigma * eps * state.unsqueeze(-2)).sum(-1)
        if self.transform is not None:
            action = self.transform(action)
        variance = (sigma * state.unsqueeze(-2)).square().sum(-1)
        return mu, variance.clamp_min(torch.finfo(mu.dtype).tiny).sqrt(), action, eps


class LazygSDEModule(nn.modules.lazy.LazyModuleMixin, gSDEModule):
    """A :class:`gSDEModule` that takes the sizes of action and state from the first call.

    Args:
        sigma_init: Standard deviation of the action for the states of the first call; 1 if ``None``.
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
        """Take the sizes from an action ``[*B, A]`` and a state ``[*B, S]``.

        It is called with the arguments of ``forward``.
        """
        if not self.has_uninitialized_params():
            return
        self.action_dim, self.state_dim = mu.shape[-1], state.shape[-1]
        with torch.no_grad():
            norm = state.square().sum(-1).mean().sqrt().clamp_min(torch.finfo(state.dtype).tiny)
            self.log_sigma.materialize((self.action_dim, self.state_dim))
            self.log_sigma.copy_((1.0 if self.sigma_init is None else self.sigma_init) / norm).log_()


class ConsistentDropout(nn.Module):
    """Dropout that returns its mask and takes one back.

    Args:
        p: Probability of dropping a unit.

    Raises:
        ValueError: unless ``0 <= p < 1``.

    Source: Hausknecht and Wagener, 2022, https://arxiv.org/abs/2202.11818.

    >>> layer = ConsistentDropout(0.5)
    >>> out, mask = layer(torch.ones(1000))
    >>> torch.equal(layer(torch.ones(1000), mask)[0], out)
    True
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(describe(self, "has no such p", expected="0 <= p < 1", found=p))
        self.p = p

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Return the output and its mask in training, the input alone in evaluation.

        Args:
            x: Input ``[*B, F]``.
            mask: Factor of each unit, 0 or ``1 / (1 - p)``, ``[*B, F]``; drawn if ``None``.
        """
        if not self.training:
            return x
        if mask is None:
            mask = self.make_mask(x)
        return x * mask, mask

    def make_mask(self, like: Tensor) -> Tensor:
        """Return a new mask of the shape of ``like``."""
        keeps = torch.bernoulli(torch.full_like(like, 1 - self.p))
        return keeps / (1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class ConsistentDropoutModule(RecordModule):
    """Dropout of an entry, with its mask as another entry.

    In training, a mask in the record is used, so that a loss computes what the policy computed; if
    there is none, one is drawn and written. An environment with the primer of this module draws one
    at each reset.

    Args:
        p: Probability of dropping a unit.
        in_keys: The entry, and its mask; ``mask_<entry>`` by default.
        out_keys: Keys of the output and the mask; in place by default.
        input_shape: Shape of the entry, for the primer: in one environment, or in all of a batch.
        input_dtype: Its dtype, for the primer.

    Reads: the entry ``[*B, F]``, and the mask ``[*B, F]``.
    Writes: the entry, and in training the mask.

    Source: Hausknecht and Wagener, 2022, https://arxiv.org/abs/2202.11818.

    >>> from tensordict import TensorDict
    >>> module = ConsistentDropoutModule(0.5, ["hidden"])
    >>> sorted(module(TensorDict(hidden=torch.ones(4))).keys())
    ['hidden', 'mask_hidden']
    """

    supports_flat_records = True

    def __init__(
        self,
        p: float,
        in_keys: NestedKey | Sequence[NestedKey],
        out_keys: NestedKey | Sequence[NestedKey] | None = None,
        input_shape: Sequence[int] | None = None,
        input_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        reads = as_keys(in_keys)
        if len(reads) == 1:
            reads = [reads[0], sibling(reads[0], f"mask_{last_name(reads[0])}")]
        writes = reads if out_keys is None else as_keys(out_keys)
        if len(writes) == 1:
            writes = [writes[0], reads[1]]
        self.in_keys, self.out_keys = reads, writes
        self.input_shape, self.input_dtype = input_shape, input_dtype
        self.dropout = ConsistentDropout(p)

    def _run(self, td: Record) -> None:
        """Drop units in training."""
        (read, mask_read), (written, mask_written) = self.in_keys, self.out_keys_source
        x = td.get(read)
        if x is None:
            require(td, [read], self, "Put what writes it before this module.")
        if not self.training:
            td.set(written, x)
            return
        out, mask = self.dropout(x, td.get(mask_read))
        td.set(written, out)
        td.set(mask_written, mask)

    def make_tensordict_primer(self) -> TensorDictPrimer:
        """Return the transform that draws a mask at resets of an environment.

        Raises:
            MissingSpecError: if the shape of the entry is not known.
        """
        if self.input_shape is None:
            raise MissingSpecError(describe(self, "draws masks of a known shape", hint="Give input_shape."))
        dtype = self.input_dtype or torch.get_default_dtype()
        spec = Unbounded(tuple(self.input_shape), dtype=dtype)
        like = torch.empty(tuple(self.input_shape), dtype=dtype)
        return make_primer(
            Composite().set(self.in_keys[1], spec), lambda: self.dropout.make_mask(like), may_have_batch=True
        )
