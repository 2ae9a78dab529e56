"""Policies that continue a trajectory: the Decision Transformer, offline and online.

``*B`` batch, ``T`` time, ``S`` observation size, ``A`` actions, ``D`` width of the transformer.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchrl._core.devices import check_devices
from torchrl._core.errors import ShapeError, describe

Device = torch.device | str | None
LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0  # Zheng et al., 2022, appendix


@dataclass
class TransformerConfig:
    """Sizes of the causal transformer.

    Args:
        n_embd: Width ``D``.
        n_layer: Number of layers.
        n_head: Number of attention heads.
        n_inner: Width of the feed-forward layers; four times ``n_embd`` if ``None``.
        activation: ``"relu"`` or ``"gelu"``.
        n_positions: Longest trajectory ``T``.
        resid_pdrop: Dropout, in training.
        attn_pdrop: Dropout of the attention weights; ``resid_pdrop`` if ``None``.
    """

    n_embd: int = 128
    n_layer: int = 3
    n_head: int = 1
    n_inner: int | None = None
    activation: str = "relu"
    n_positions: int = 1024
    resid_pdrop: float = 0.1
    attn_pdrop: float | None = None


class DecisionTransformer(nn.Module):
    """A causal transformer over returns to go, observations and actions in turn.

    Args:
        state_dim: ``S``.
        action_dim: ``A``.
        config: Sizes: a :class:`TransformerConfig` or a dictionary of its fields.
        device: Where the parameters live.

    Raises:
        ShapeError: at a call, if the trajectory is longer than ``n_positions``.

    Source: Chen et al., 2021, https://arxiv.org/abs/2106.01345, algorithm 1.

    >>> net = DecisionTransformer(4, 2, {"n_embd": 16})
    >>> net(torch.zeros(5, 7, 4), torch.zeros(5, 7, 2), torch.zeros(5, 7, 1)).shape
    torch.Size([5, 7, 16])
    """

    DTConfig = TransformerConfig

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        config: TransformerConfig | dict[str, Any] | None = None,
        device: Device = None,
    ) -> None:
        check_devices(self, device=device)
        super().__init__()
        given = asdict(config) if isinstance(config, TransformerConfig) else (config or {})
        self.config = c = TransformerConfig(**given)
        self.state_dim, self.action_dim, self.hidden_size = state_dim, action_dim, c.n_embd
        self.embed_return = nn.Linear(1, c.n_embd, device=device)
        self.embed_state = nn.Linear(state_dim, c.n_embd, device=device)
        self.embed_action = nn.Linear(action_dim, c.n_embd, device=device)
        self.embed_time = nn.Embedding(c.n_positions, c.n_embd, device=device)
        self.embed_norm = nn.LayerNorm(c.n_embd, device=device)
        layer = nn.TransformerEncoderLayer(
            c.n_embd,
            c.n_head,
            c.n_inner or 4 * c.n_embd,
            c.resid_pdrop,
            c.activation,
            batch_first=True,
            norm_first=True,
            device=device,
        )
        if c.attn_pdrop is not None:
            layer.self_attn.dropout = c.attn_pdrop
        self.transformer = nn.TransformerEncoder(layer, c.n_layer, enable_nested_tensor=False)

    def forward(self, observation: Tensor, action: Tensor, return_to_go: Tensor) -> Tensor:
        """Return the hidden state at each observation, ``[*B, T, D]``.

        Args:
            observation: ``[*B, T, S]``.
            action: ``[*B, T, A]``; that of a step is input of later steps only.
            return_to_go: Desired sum of the remaining rewards, ``[*B, T, 1]``.
        """
        *batch, steps, _ = observation.shape
        if steps > self.config.n_positions:
            raise ShapeError(
                describe(
                    self,
                    "has a longest trajectory",
                    expected=f"at most {self.config.n_positions} steps",
                    found=steps,
                    hint="Raise n_positions.",
                )
            )
        time = self.embed_time(torch.arange(steps, device=observation.device))  # [T, D]
        parts = (
            self.embed_return(return_to_go),
            self.embed_state(observation),
            self.embed_action(action.to(observation.dtype)),
        )
        tokens = torch.stack([part + time for part in parts], -2)  # [*B, T, 3, D]
        tokens = self.embed_norm(tokens.reshape(-1, 3 * steps, self.hidden_size))
        future = torch.ones(3 * steps, 3 * steps, dtype=torch.bool, device=tokens.device).triu(1)
        hidden = self.transformer(tokens, mask=future, is_causal=True)
        return hidden.reshape(*batch, steps, 3, self.hidden_size)[..., 1, :]


class DTActor(nn.Module):
    """A Decision Transformer and its actions.

    Args:
        state_dim: ``S``.
        action_dim: ``A``.
        transformer_config: See :class:`DecisionTransformer`.
        device: Where the parameters live.

    Source: Chen et al., 2021, https://arxiv.org/abs/2106.01345.

    >>> actor = DTActor(4, 2, {"n_embd": 16})
    >>> actor(torch.zeros(5, 7, 4), torch.zeros(5, 7, 2), torch.zeros(5, 7, 1)).shape
    torch.Size([5, 7, 2])
    """

    @classmethod
    def default_config(cls) -> TransformerConfig:
        """Return the sizes of the paper: three layers, one head, a width of 128."""
        return TransformerConfig()

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        transformer_config: TransformerConfig | dict[str, Any] | None = None,
        device: Device = None,
    ) -> None:
        check_devices(self, device=device)
        super().__init__()
        self.transformer = DecisionTransformer(state_dim, action_dim, transformer_config, device)
        self.action_layer = nn.Linear(self.transformer.hidden_size, action_dim, device=device)

    def forward(self, observation: Tensor, action: Tensor, return_to_go: Tensor) -> Tensor:
        """Return the action after each observation, ``[*B, T, A]``."""
        return self.action_layer(self.transformer(observation, action, return_to_go))


class OnlineDTActor(nn.Module):
    """A Decision Transformer and the parameters of a distribution of its actions.

    Args:
        state_dim: ``S``.
        action_dim: ``A``.
        transformer_config: See :class:`DecisionTransformer`.
        device: Where the parameters live.

    Source: Zheng et al., 2022, https://arxiv.org/abs/2202.05607.

    >>> actor = OnlineDTActor(4, 2, {"n_embd": 16})
    >>> loc, scale = actor(torch.zeros(5, 7, 4), torch.zeros(5, 7, 2), torch.zeros(5, 7, 1))
    >>> loc.shape, scale.shape
    (torch.Size([5, 7, 2]), torch.Size([5, 7, 2]))
    """

    @classmethod
    def default_config(cls) -> TransformerConfig:
        """Return the sizes of the paper: four layers, four heads, a width of 512."""
        return TransformerConfig(n_embd=512, n_layer=4, n_head=4)

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        transformer_config: TransformerConfig | dict[str, Any] | None = None,
        device: Device = None,
    ) -> None:
        check_devices(self, device=device)
        super().__init__()
        self.transformer = DecisionTransformer(state_dim, action_dim, transformer_config, device)
        width = self.transformer.hidden_size
        self.action_layer_mean = nn.Linear(width, action_dim, device=device)
        self.action_layer_logstd = nn.Linear(width, action_dim, device=device)
        for layer in (self.action_layer_mean, self.action_layer_logstd):
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, observation: Tensor, action: Tensor, return_to_go: Tensor) -> tuple[Tensor, Tensor]:
        """Return location and scale of the action after each observation, ``[*B, T, A]``."""
        hidden = self.transformer(observation, action, return_to_go)
        share = (self.action_layer_logstd(hidden).tanh() + 1) / 2
        log_std = LOG_STD_MIN + (LOG_STD_MAX - LOG_STD_MIN) * share
        return self.action_layer_mean(hidden), log_std.exp()
