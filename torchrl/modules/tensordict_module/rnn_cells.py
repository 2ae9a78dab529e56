"""LSTM and GRU in plain torch: they compile, vectorise and restart within a sequence.

``T`` time, ``B`` batch, ``F`` input size, ``H`` hidden size, ``P`` output size (``H`` without a
projection), ``D`` directions, ``L`` layers of all directions. Parameters and results are those of
:class:`torch.nn.LSTM` and :class:`torch.nn.GRU`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, linear

from torchrl._core.devices import check_devices
from torchrl._core.errors import ShapeError, describe
from torchrl._core.legacy import old_keywords

Device = torch.device | str | None
State = tuple[Tensor, ...]


def lstm_step(gates: Tensor, state: State, projection: Tensor | None = None) -> State:
    """Return ``h [B, P], c [B, H]`` after a step, from its gates ``[B, 4 H]`` and the state."""
    i, f, g, o = gates.chunk(4, -1)
    c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return (h if projection is None else linear(h, projection)), c


def gru_step(from_input: Tensor, from_state: Tensor, state: State) -> State:
    """Return ``(h,) [B, H]`` of one step from both halves of its gates ``[B, 3 H]``."""
    r, z, n = from_input.chunk(3, -1)
    r_h, z_h, n_h = from_state.chunk(3, -1)
    update = (z + z_h).sigmoid()
    new = (n + (r + r_h).sigmoid() * n_h).tanh()
    return (new + update * (state[0] - new),)


class LSTMCell(nn.RNNCellBase):
    """One step of an LSTM, as :class:`torch.nn.LSTMCell`.

    Args:
        input_size: ``F``.
        hidden_size: ``H``.
        bias: Whether there are biases.
        device: Where the parameters live.
        dtype: Their dtype.

    Source: Hochreiter and Schmidhuber, 1997; with forget gates.

    >>> h, c = LSTMCell(3, 4)(torch.zeros(5, 3))
    >>> h.shape, c.shape
    (torch.Size([5, 4]), torch.Size([5, 4]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_devices(self, device=device)
        super().__init__(input_size, hidden_size, bias, num_chunks=4, device=device, dtype=dtype)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> State:
        """Return ``(h, c) [*B, H]`` for an input ``[*B, F]`` and the state before."""
        if hx is None:
            zeros = input.new_zeros(*input.shape[:-1], self.hidden_size)
            hx = (zeros, zeros)
        gates = linear(input, self.weight_ih, self.bias_ih)
        return lstm_step(gates + linear(hx[0], self.weight_hh, self.bias_hh), hx)


class GRUCell(nn.RNNCellBase):
    """One step of a GRU, as :class:`torch.nn.GRUCell`.

    Args:
        input_size: ``F``.
        hidden_size: ``H``.
        bias: Whether there are biases.
        device: Where the parameters live.
        dtype: Their dtype.

    Source: Cho et al., 2014, https://arxiv.org/abs/1406.1078.

    >>> GRUCell(3, 4)(torch.zeros(5, 3)).shape
    torch.Size([5, 4])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_devices(self, device=device)
        super().__init__(input_size, hidden_size, bias, num_chunks=3, device=device, dtype=dtype)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Return ``h [*B, H]`` for an input ``[*B, F]`` and the state before, zeros if none."""
        if hx is None:
            hx = input.new_zeros(*input.shape[:-1], self.hidden_size)
        from_input = linear(input, self.weight_ih, self.bias_ih)
        return gru_step(from_input, linear(hx, self.weight_hh, self.bias_hh), (hx,))[0]


def layer_weights(rnn: nn.RNNBase, layer: int, direction: int = 0) -> list[Tensor | None]:
    """Return input and hidden weights and biases, and the projection, of one layer."""
    suffix = f"_l{layer}" + ("_reverse" if direction else "")
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    return [getattr(rnn, name + suffix, None) for name in names]


def state_shapes(rnn: nn.RNNBase) -> list[tuple[int, int]]:
    """Return the shapes ``(L, P)`` and, of an LSTM, ``(L, H)`` of the state of one row."""
    layers = rnn.num_layers * (2 if rnn.bidirectional else 1)
    sizes = [rnn.proj_size or rnn.hidden_size, rnn.hidden_size]
    return [(layers, size) for size in sizes[: 2 if rnn.mode == "LSTM" else 1]]


RunLayer = Callable[
    [nn.RNNBase, Tensor, State, list[Tensor | None], Tensor | None], tuple[Tensor, ...]
]


def run_layer(
    rnn: nn.RNNBase,
    x: Tensor,
    state: State,
    weights: list[Tensor | None],
    restart: Tensor | None,
) -> tuple[Tensor, ...]:
    """Run one layer over time in plain torch.

    Args:
        rnn: What it belongs to.
        x: Input ``[B, T, F]``.
        state: State before the first step: ``h [B, P]`` and, of an LSTM, ``c [B, H]``.
        weights: Its parameters, from :func:`layer_weights`.
        restart: Where the state is zero before a step, ``[B, T]``; nowhere if ``None``.

    Returns: the states after each step, ``[B, T, P]`` and ``[B, T, H]``, the output first.
    """
    w_ih, w_hh, b_ih, b_hh, projection = weights
    assert w_ih is not None
    assert w_hh is not None
    from_input = linear(x, w_ih, b_ih)  # [B, T, gates * H], all steps at once
    history: list[State] = []
    for t in range(x.shape[1]):
        if restart is not None:
            state = tuple(s.masked_fill(restart[:, t, None], 0.0) for s in state)
        from_state = linear(state[0], w_hh, b_hh)
        if rnn.mode == "LSTM":
            state = lstm_step(from_input[:, t] + from_state, state, projection)
        else:
            state = gru_step(from_input[:, t], from_state, state)
        history.append(state)
    return tuple(torch.stack(parts, 1) for parts in zip(*history, strict=True))


def run_layers(
    rnn: nn.RNNBase,
    x: Tensor,
    state: State,
    restart: Tensor | None = None,
    run: RunLayer = run_layer,
) -> tuple[Tensor, list[State]]:
    """Run all layers over time.

    A layer that runs backwards starts anew, from zero, where the one that runs forwards will.

    Args:
        rnn: Its parameters.
        x: Input ``[B, T, F]``.
        state: State before the first step (of a layer that runs backwards, after the last), each
            ``[B, L, P or H]``.
        restart: Where the state is zero before a step, ``[B, T]``; nowhere if ``None``.
        run: What runs one layer; see :func:`run_layer`.

    Returns: output ``[B, T, D P]``; of each of the ``L`` layers, its states after each step.
    """
    ends = None
    if rnn.bidirectional and restart is not None:
        last = torch.zeros_like(restart[:, :1])
        ends = torch.cat([restart[:, 1:], last], 1).flip(1)
    histories: list[State] = []
    for layer in range(rnn.num_layers):
        if layer and rnn.dropout:
            x = dropout(x, rnn.dropout, rnn.training)
        outs = []
        for direction in range(2 if rnn.bidirectional else 1):
            before = tuple(s[:, len(histories)] for s in state)
            weights = layer_weights(rnn, layer, direction)
            if direction:
                backwards = run(rnn, x.flip(1), before, weights, ends)
                history = tuple(s.flip(1) for s in backwards)
            else:
                history = run(rnn, x, before, weights, restart)
            histories.append(history)
            outs.append(history[0])
        x = torch.cat(outs, -1) if len(outs) > 1 else outs[0]
    return x, histories


def stack_layers(histories: list[State]) -> State:
    """Return the states of all layers, each ``[B, T, L, P or H]``."""
    return tuple(torch.stack(parts, 2) for parts in zip(*histories, strict=True))


class _PlainRNN(nn.RNNBase):
    """An RNN of torch, run in plain torch."""

    def flatten_parameters(self) -> None:
        """Do nothing: there is no fused kernel to prepare for."""

    def _run(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Return output and final states as torch's own do: ``[L, B, P or H]``."""
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            raise ShapeError(
                describe(
                    self,
                    "has an input of the wrong shape",
                    expected=["*", "T", self.input_size],
                    found=list(x.shape),
                )
            )
        is_single = x.ndim == 2
        x = x.unsqueeze(0) if is_single else x if self.batch_first else x.transpose(0, 1)
        if state is None:
            state = tuple(x.new_zeros(x.shape[0], *shape) for shape in state_shapes(self))
        else:
            state = tuple(s.unsqueeze(0) if is_single else s.transpose(0, 1) for s in state)
        out, histories = run_layers(self, x, state)
        final = tuple(self._final(s) for s in stack_layers(histories))
        if is_single:
            return out[0], tuple(s[0] for s in final)
        out = out if self.batch_first else out.transpose(0, 1)
        return out, tuple(s.transpose(0, 1) for s in final)

    def _final(self, states: Tensor) -> Tensor:
        """Return the states ``[B, L, ...]`` at the end that each layer runs to."""
        if not self.bidirectional:
            return states[:, -1]
        return torch.stack([states[:, -1, 0::2], states[:, 0, 1::2]], 2).flatten(1, 2)


class LSTM(_PlainRNN):
    """An LSTM in plain torch, with the parameters and results of :class:`torch.nn.LSTM`.

    Args:
        input_size: ``F``.
        hidden_size: ``H``.
        num_layers: ``L``.
        batch_first: Input is ``[B, T, F]``, not ``[T, B, F]``; note the default.
        bias: Whether there are biases.
        dropout: Probability of dropping an output between layers, in training.
        bidirectional: Run a second set of layers backwards; the output has both.
        proj_size: Size ``P`` of the output; ``H``, without a projection, if 0.
        device: Where the parameters live.
        dtype: Their dtype.

    Raises:
        ShapeError: at a call, if the input does not have ``F`` features.

    >>> out, (h, c) = LSTM(3, 4, num_layers=2)(torch.zeros(5, 7, 3))
    >>> out.shape, h.shape
    (torch.Size([5, 7, 4]), torch.Size([2, 5, 4]))
    """

    @old_keywords(use_scan=None)  # how steps are laid out changes no result
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        batch_first: bool = True,
        bias: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_devices(self, device=device)
        sizes = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
        super().__init__("LSTM", *sizes, proj_size, device=device, dtype=dtype)

    def forward(self, input: Tensor, hx: Any = None) -> tuple[Tensor, State]:
        """Return the output and the final ``(h, c)``, as :class:`torch.nn.LSTM`."""
        return self._run(input, hx)


class GRU(_PlainRNN):
    """A GRU in plain torch, with the parameters and results of :class:`torch.nn.GRU`.

    Args:
        input_size: ``F``.
        hidden_size: ``H``.
        num_layers: ``L``.
        bias: Whether there are biases.
        batch_first: Input is ``[B, T, F]``, not ``[T, B, F]``; note the default.
        dropout: Probability of dropping an output between layers, in training.
        bidirectional: Run a second set of layers backwards; the output has both.
        device: Where the parameters live.
        dtype: Their dtype.

    Raises:
        ShapeError: at a call, if the input does not have ``F`` features.

    >>> out, h = GRU(3, 4, num_layers=2)(torch.zeros(5, 7, 3))
    >>> out.shape, h.shape
    (torch.Size([5, 7, 4]), torch.Size([2, 5, 4]))
    """

    @old_keywords(use_scan=None)  # how steps are laid out changes no result
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_devices(self, device=device)
        sizes = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
        super().__init__("GRU", *sizes, device=device, dtype=dtype)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the output and the final ``h``, as :class:`torch.nn.GRU`."""
        out, (h,) = self._run(input, None if hx is None else (hx,))
        return out, h
