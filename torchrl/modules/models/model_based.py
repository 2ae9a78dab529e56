"""The recurrent state-space model of Dreamer, its encoder, decoder and actor.

``*B`` batch, ``T`` time, ``S`` stochastic state, ``H`` belief (deterministic state), ``A`` actions,
``E`` embedding of an observation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from tensordict.nn.distributions import NormalParamExtractor
from torch import Tensor, nn

from torchrl._core.devices import check_devices
from torchrl._core.errors import describe
from torchrl._core.keys import next_key, require
from torchrl._core.legacy import old_keywords
from torchrl.data import TensorSpec
from torchrl.modules.models.conv import ConvNet
from torchrl.modules.models.mlp import MLP

Device = torch.device | str | None


class ObsEncoder(nn.Module):
    """Embed images of 64 x 64 pixels.

    Args:
        channels: Channels of the first convolution, doubled by each; the old name is ``depth``.
        num_layers: Number of convolutions.
        in_channels: Channels of the images; inferred if ``None``.
        device: Where the parameters live.

    Source: Hafner et al., 2019, https://arxiv.org/abs/1912.01603, appendix A.

    >>> ObsEncoder()(torch.zeros(5, 3, 64, 64)).shape
    torch.Size([5, 1024])
    """

    @old_keywords(depth="channels")
    def __init__(
        self, channels: int = 32, num_layers: int = 4, in_channels: int | None = None, device: Device = None
    ) -> None:
        check_devices(self, device=device)
        super().__init__()
        self.encoder = ConvNet(
            in_channels,
            num_cells=[channels * 2**i for i in range(num_layers)],
            kernel_sizes=4,
            strides=2,
            activation_class=nn.ReLU,
            device=device,
        )

    def forward(self, observation: Tensor) -> Tensor:
        """Return embeddings ``[*B, E]`` of images ``[*B, C, 64, 64]``."""
        return self.encoder(observation)


class ObsDecoder(nn.Module):
    """Generate images of 64 x 64 pixels from a latent state.

    Args:
        channels: Channels before the last layer, doubled by each one before; old name ``depth``.
        num_layers: Number of transposed convolutions.
        kernel_sizes: Their kernel sizes; 5, 5, 6, 6 if ``None``.
        latent_dim: ``S + H``; inferred if ``None``.
        out_channels: Channels of the images.
        device: Where the parameters live.

    Raises:
        ValueError: if there is not one kernel size for each layer.

    Source: Hafner et al., 2019, https://arxiv.org/abs/1912.01603, appendix A.

    >>> ObsDecoder()(torch.zeros(5, 30), torch.zeros(5, 200)).shape
    torch.Size([5, 3, 64, 64])
    """

    @old_keywords(depth="channels")
    def __init__(
        self,
        channels: int = 32,
        num_layers: int = 4,
        kernel_sizes: int | Sequence[int] | None = None,
        latent_dim: int | None = None,
        out_channels: int = 3,
        device: Device = None,
    ) -> None:
        check_devices(self, device=device)
        super().__init__()
        kernels = [5, 5, 6, 6] if kernel_sizes is None else kernel_sizes
        kernels = [kernels] * num_layers if isinstance(kernels, int) else list(kernels)
        if len(kernels) != num_layers:
            raise ValueError(describe(self, "has one kernel size for each layer", expected=num_layers, found=kernels))
        width = channels * 2**num_layers
        self.state_to_latent = MLP(latent_dim, width, device=device)
        layers: list[nn.Module] = [nn.Unflatten(-1, (width, 1, 1))]
        for i, kernel in enumerate(kernels):
            is_last = i == num_layers - 1
            out = out_channels if is_last else width // 2
            layers.append(nn.ConvTranspose2d(width, out, kernel, stride=2, device=device))
            width = out
            if not is_last:
                layers.append(nn.ReLU())
        self.decoder = nn.Sequential(*layers)

    def forward(self, state: Tensor, rnn_hidden: Tensor) -> Tensor:
        """Return images ``[*B, C, 64, 64]`` of states ``[*B, S]`` and beliefs ``[*B, H]``."""
        latent = self.state_to_latent(state, rnn_hidden)
        image = self.decoder(latent.reshape(-1, latent.shape[-1]))
        return image.reshape(*latent.shape[:-1], *image.shape[1:])


class RSSMPrior(nn.Module):
    """The prior of the state-space model: the next state, without the observation.

    Args:
        action_spec: Spec of the action, of which ``A`` is taken.
        hidden_dim: Width of the hidden layers.
        rnn_hidden_dim: ``H``.
        state_dim: ``S``.
        scale_lb: Lower bound of the standard deviation.
        action_dim: ``A``, instead of a spec.
        device: Where the parameters live.

    Raises:
        ValueError: if neither ``action_spec`` nor ``action_dim`` is given.

    Source: Hafner et al., 2018, https://arxiv.org/abs/1811.04551, eq. 4.

    >>> prior = RSSMPrior(action_dim=2)
    >>> [x.shape[-1] for x in prior(torch.zeros(5, 30), torch.zeros(5, 200), torch.zeros(5, 2))]
    [30, 30, 30, 200]
    """

    def __init__(
        self,
        action_spec: TensorSpec | None = None,
        hidden_dim: int = 200,
        rnn_hidden_dim: int = 200,
        state_dim: int = 30,
        scale_lb: float = 0.1,
        action_dim: int | None = None,
        device: Device = None,
    ) -> None:
        check_devices(self, device=device)
        super().__init__()
        if action_dim is None:
            if action_spec is None:
                raise ValueError(describe(self, "must know the number of actions", hint="Give action_spec."))
            action_dim = action_spec.shape[-1]
        self.state_dim = state_dim
        self.action_state_projector = MLP(
            state_dim + action_dim, hidden_dim, activation_class=nn.ELU, activate_last_layer=True, device=device
        )
        self.rnn = nn.GRUCell(hidden_dim, rnn_hidden_dim, device=device)
        self.rnn_to_prior = _gaussian(rnn_hidden_dim, state_dim, hidden_dim, scale_lb, device)

    def forward(
        self, state: Tensor | None, belief: Tensor | None, action: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return mean, std and a draw of the next state ``[*B, S]``, and the next belief.

        State and belief are zero where they are ``None``, as at the start of an episode.
        """
        like = next(self.rnn.parameters())
        if state is None:
            state = like.new_zeros(*action.shape[:-1], self.state_dim)
        if belief is None:
            belief = like.new_zeros(*state.shape[:-1], self.rnn.hidden_size)
        x = self.action_state_projector(state, action.to(state.dtype))
        batch = x.shape[:-1]
        flat = self.rnn(x.reshape(-1, x.shape[-1]), belief.reshape(-1, belief.shape[-1]))
        belief = flat.reshape(*batch, -1)
        mean, std = self.rnn_to_prior(belief)
        return mean, std, mean + std * torch.randn_like(std), belief


class RSSMPosterior(nn.Module):
    """The posterior of the state-space model: the state, given the observation.

    Args:
        hidden_dim: Width of the hidden layer.
        state_dim: ``S``.
        scale_lb: Lower bound of the standard deviation.
        rnn_hidden_dim: ``H``; inferred, together with ``E``, if ``None``.
        obs_embed_dim: ``E``; inferred, with ``H``, if ``None``.
        device: Where the parameters live.

    Source: Hafner et al., 2018, https://arxiv.org/abs/1811.04551, eq. 5.

    >>> [x.shape[-1] for x in RSSMPosterior()(torch.zeros(5, 200), torch.zeros(5, 1024))]
    [30, 30, 30]
    """

    def __init__(
        self,
        hidden_dim: int = 200,
        state_dim: int = 30,
        scale_lb: float = 0.1,
        rnn_hidden_dim: int | None = None,
        obs_embed_dim: int | None = None,
        device: Device = None,
    ) -> None:
        check_devices(self, device=device)
        super().__init__()
        size = None
        if rnn_hidden_dim is not None and obs_embed_dim is not None:
            size = rnn_hidden_dim + obs_embed_dim
        self.obs_rnn_to_post = _gaussian(size, state_dim, hidden_dim, scale_lb, device)

    def forward(self, belief: Tensor, obs_embedding: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean, std and a draw of the state ``[*B, S]``."""
        mean, std = self.obs_rnn_to_post(torch.cat([belief, obs_embedding], -1))
        return mean, std, mean + std * torch.randn_like(std)


def _gaussian(size: int | None, out: int, hidden: int, scale_lb: float, device: Device) -> nn.Sequential:
    mlp = MLP(size, 2 * out, num_cells=[hidden], activation_class=nn.ELU, device=device)
    extract: Any = NormalParamExtractor
    return nn.Sequential(mlp, extract("softplus", scale_lb=scale_lb))


class RSSMRollout(TensorDictModuleBase):
    """Run prior and posterior along time: each step starts from the posterior before it.

    Where ``is_init`` is true, state and belief are zero before the step.

    Args:
        rssm_prior: Reads ``state``, ``belief``, ``action``; writes ``next.prior_mean``,
            ``next.prior_std``, ``"_"`` and ``next.belief``.
        rssm_posterior: Reads ``next.belief`` and ``next.encoded_latents``; writes
            ``next.posterior_mean``, ``next.posterior_std``, ``next.state``.
        compile_step: Compile a step with :func:`torch.compile`.
        compile_backend: Backend of the compilation.
        compile_mode: Mode of the compilation.

    Reads: ``state [*B, T, S]`` and ``belief [*B, T, H]`` (only their first step, zeros if absent), ``action
    [*B, T, A]``, ``next.encoded_latents [*B, T, E]``, ``is_init [*B, T, 1]`` if it is there.
    Writes: ``state`` and ``belief`` before each step; what both modules write, ``[*B, T, ...]``.

    Source: Hafner et al., 2019, https://arxiv.org/abs/1912.01603, algorithm 1.

    >>> from tensordict import TensorDict
    >>> prior = TensorDictModule(
    ...     RSSMPrior(action_dim=2),
    ...     ["state", "belief", "action"],
    ...     [("next", "prior_mean"), ("next", "prior_std"), "_", ("next", "belief")],
    ... )
    >>> posterior = TensorDictModule(
    ...     RSSMPosterior(),
    ...     [("next", "belief"), ("next", "encoded_latents")],
    ...     [("next", "posterior_mean"), ("next", "posterior_std"), ("next", "state")],
    ... )
    >>> td = TensorDict(
    ...     state=torch.zeros(4, 7, 30), belief=torch.zeros(4, 7, 200), action=torch.zeros(4, 7, 2),
    ...     next=TensorDict(encoded_latents=torch.zeros(4, 7, 16), batch_size=[4, 7]),
    ...     batch_size=[4, 7],
    ... )
    >>> RSSMRollout(prior, posterior)(td)["next", "state"].shape
    torch.Size([4, 7, 30])
    """

    carried = ("state", "belief")
    init_key = "is_init"

    @old_keywords(use_scan=None)  # how steps are laid out changes no result
    def __init__(
        self,
        rssm_prior: TensorDictModule,
        rssm_posterior: TensorDictModule,
        compile_step: bool = False,
        compile_backend: str = "inductor",
        compile_mode: str | None = None,
    ) -> None:
        super().__init__()
        self._compilation = (compile_backend, compile_mode) if compile_step else None
        self.rssm_prior, self.rssm_posterior = rssm_prior, rssm_posterior
        written = [key for key in rssm_prior.out_keys if key != "_"]
        reads = [*rssm_prior.in_keys]
        reads += [key for key in rssm_posterior.in_keys if key not in (*written, *reads)]
        self.in_keys, self.out_keys = reads, [*written, *rssm_posterior.out_keys]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Run along the last batch dimension."""
        needed = [key for key in self.in_keys if key not in self.carried]
        require(tensordict, needed, self, "Encode the observations before.")
        advance = _advance if self._compilation is None else _compiled_advance(*self._compilation)
        dim = tensordict.ndim - 1
        steps: list[Any] = []
        before: dict[str, Tensor] = {}
        keys = [*self.in_keys, self.init_key]
        for t, step in enumerate(tensordict.select(*keys, strict=False).unbind(dim)):
            is_init = step.get(self.init_key, None)
            for key in self.carried:
                value = step.get(key, None) if t == 0 else before[key]
                if value is not None:
                    step.set(key, value if is_init is None else value.masked_fill(is_init, 0.0))
            step = advance(self.rssm_prior, self.rssm_posterior, step)
            before = {key: step.get(next_key(key)) for key in self.carried}
            for key, value in before.items() if t == 0 else ():
                if step.get(key, None) is None:
                    step.set(key, torch.zeros_like(value))
            steps.append(step.select(*self.carried, *self.out_keys))
        stacked: Any = torch.stack(steps, dim)
        return tensordict.update(stacked)


def _advance(prior: TensorDictModule, posterior: TensorDictModule, step: TensorDictBase) -> TensorDictBase:
    return posterior(prior(step))


@cache
def _compiled_advance(backend: str, mode: str | None) -> Callable[..., TensorDictBase]:
    """Return the compiled step; it is no part of a module, so that modules copy and pickle."""
    return torch.compile(_advance, backend=backend, mode=mode)


class DreamerActor(nn.Module):
    """The parameters of Dreamer's policy, for a :class:`~torchrl.modules.TanhNormal`.

    Args:
        out_features: ``A``.
        depth: Number of hidden layers.
        num_cells: Their width.
        activation_class: Class of the activations.
        std_bias: Standard deviation where the network returns 0.
        std_min_val: Lower bound of the standard deviation.
        device: Where the parameters live.

    Source: Hafner et al., 2019, https://arxiv.org/abs/1912.01603, appendix A.

    >>> loc, scale = DreamerActor(2)(torch.zeros(5, 30), torch.zeros(5, 200))
    >>> loc.shape, scale.shape
    (torch.Size([5, 2]), torch.Size([5, 2]))
    """

    def __init__(
        self,
        out_features: int,
        depth: int = 4,
        num_cells: int = 200,
        activation_class: Callable[..., nn.Module] = nn.ELU,
        std_bias: float = 5.0,
        std_min_val: float = 1e-4,
        device: Device = None,
    ) -> None:
        check_devices(self, device=device)
        super().__init__()
        self.backbone = nn.Sequential(
            MLP(
                out_features=2 * out_features,
                depth=depth,
                num_cells=num_cells,
                activation_class=activation_class,
                device=device,
            ),
            NormalParamExtractor(f"biased_softplus_{std_bias}_{std_min_val}"),
        )

    def forward(self, state: Tensor, belief: Tensor) -> tuple[Tensor, Tensor]:
        """Return location and scale ``[*B, A]``."""
        return self.backbone(torch.cat([state, belief], -1))
