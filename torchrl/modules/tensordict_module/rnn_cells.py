"""LSTM and GRU in plain torch, and layers of torch's fused kernels that restart within a sequence.

``T`` time, ``B`` batch, ``F`` input size, ``H`` hidden size, ``P`` output size (``H`` without a
projection), ``D`` directions, ``L`` layers of all directions, ``R`` restarts within the row that
has most. Parameters and results are those of :class:`torch.nn.LSTM` and :class:`torch.nn.GRU`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, linear, pad
from torch.utils.checkpoint import checkpoint

from torchrl._core.devices import check_devices
from torchrl._core.errors import ShapeError, describe

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


RunLayer = Callable[[nn.RNNBase, Tensor, State, list[Tensor | None], Tensor | None], tuple[Tensor, ...]]


def run_layer(
    rnn: nn.RNNBase,
    x: Tensor,
    state: State,
    weights: list[Tensor | None],
    restart: Tensor | None,
    mask: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Run one layer over time in plain torch.

    Args:
        rnn: The network of the layer.
        x: Input ``[B, T, F]``.
        state: State before the first step: ``h [B, P]`` and, of an LSTM, ``c [B, H]``.
        weights: Its parameters, from :func:`layer_weights`.
        restart: Where the state is zero before a step, ``[B, T]``; nowhere if ``None``.
        mask: Where a step is no padding, ``[B, T]``: others leave the state as it is; all if ``None``.

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
        before, from_state = state, linear(state[0], w_hh, b_hh)
        if rnn.mode == "LSTM":
            state = lstm_step(from_input[:, t] + from_state, state, projection)
        else:
            state = gru_step(from_input[:, t], from_state, state)
        if mask is not None:
            pairs = zip(state, before, strict=True)
            state = tuple(torch.where(mask[:, t, None], new, old) for new, old in pairs)
        history.append(state)
    return tuple(torch.stack(parts, 1) for parts in zip(*history, strict=True))


def run_layers(
    rnn: nn.RNNBase,
    x: Tensor,
    state: State,
    restart: Tensor | None = None,
    run: RunLayer = run_layer,
    mask: Tensor | None = None,
) -> tuple[Tensor, list[State]]:
    """Run all layers over time.

    A layer that runs backwards restarts, from zero, at the same places as one that runs forwards.

    Args:
        rnn: Its parameters.
        x: Input ``[B, T, F]``.
        state: State before the first step (of a layer that runs backwards, after the last), each
            ``[B, L, P or H]``.
        restart: Where the state is zero before a step, ``[B, T]``; nowhere if ``None``.
        run: Function that runs one layer; see :func:`run_layer`.
        mask: Of :func:`run_layer`.

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
            if mask is not None:
                run = partial(run_layer, mask=mask.flip(1) if direction else mask)
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
    """An RNN with the parameters of torch, computed in plain torch."""

    use_scan: bool

    def _check_options(self, device: Device, use_scan: bool) -> None:
        check_devices(self, device=device)
        if not isinstance(use_scan, bool):
            raise TypeError(describe(self, "use_scan is a flag", expected="True or False", found=use_scan))

    def flatten_parameters(self) -> None:
        """Do nothing: there is no fused kernel to prepare for."""

    def _run(self, x: Tensor, state: State | None, mask: Tensor | None) -> tuple[Tensor, State]:
        """Return output and final states in the layout of torch: ``[L, B, P or H]``."""
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            raise ShapeError(
                describe(
                    self, "has an input of the wrong shape", expected=["*", "T", self.input_size], found=list(x.shape)
                )
            )
        is_single = x.ndim == 2
        x = x.unsqueeze(0) if is_single else x if self.batch_first else x.transpose(0, 1)
        if state is None:
            state = tuple(x.new_zeros(x.shape[0], *shape) for shape in state_shapes(self))
        else:
            state = tuple(s.unsqueeze(0) if is_single else s.transpose(0, 1) for s in state)
        if mask is not None:
            mask = mask.bool().unsqueeze(0) if is_single else mask.bool() if self.batch_first else mask.bool().t()
            if mask.shape != x.shape[:2]:
                expected = [*x.shape[:2]]
                raise ShapeError(
                    describe(self, "has a mask of the wrong shape", expected=expected, found=[*mask.shape])
                )
        out, histories = run_layers(self, x, state, mask=mask)
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
        use_scan: Kept as an attribute: steps are run in a loop, with the same results either way.
        device: Where the parameters live.
        dtype: Their dtype.

    Raises:
        ShapeError: at a call, if the input does not have ``F`` features.

    >>> out, (h, c) = LSTM(3, 4, num_layers=2)(torch.zeros(5, 7, 3))
    >>> out.shape, h.shape
    (torch.Size([5, 7, 4]), torch.Size([2, 5, 4]))
    """

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
        use_scan: bool = False,
    ) -> None:
        self._check_options(device, use_scan)
        sizes = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size)
        super().__init__("LSTM", *sizes, device=device, dtype=dtype)
        self.use_scan = use_scan

    def forward(self, input: Tensor, hx: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State]:
        """Return the output and the final ``(h, c)``, as :class:`torch.nn.LSTM`.

        Args:
            input: ``[B, T, F]``, or as ``batch_first`` says.
            hx: The state before, each ``[L, B, P or H]``; zeros if ``None``.
            mask: Where a step is no padding, ``[B, T]`` or as ``batch_first`` says: padding leaves the
                state as it is.
        """
        return self._run(input, hx, mask)


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
        use_scan: Kept as an attribute: steps are run in a loop, with the same results either way.
        device: Where the parameters live.
        dtype: Their dtype.

    Raises:
        ShapeError: at a call, if the input does not have ``F`` features.

    >>> out, h = GRU(3, 4, num_layers=2)(torch.zeros(5, 7, 3))
    >>> out.shape, h.shape
    (torch.Size([5, 7, 4]), torch.Size([2, 5, 4]))
    """

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
        use_scan: bool = False,
    ) -> None:
        self._check_options(device, use_scan)
        sizes = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
        super().__init__("GRU", *sizes, device=device, dtype=dtype)
        self.use_scan = use_scan

    def forward(self, input: Tensor, hx: Tensor | None = None, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the output and the final ``h``, as :class:`torch.nn.GRU`; for ``mask`` see :class:`LSTM`."""
        out, (h,) = self._run(input, None if hx is None else (hx,), mask)
        return out, h


def recomputed(run: RunLayer, *args: object) -> tuple[Tensor, ...]:
    """Run one layer; keep none of its intermediate results, but compute them again for the gradient."""
    return checkpoint(run, *args, use_reentrant=False)


def run_in_dtype(
    run: RunLayer,
    dtype: torch.dtype,
    rnn: nn.RNNBase,
    x: Tensor,
    state: State,
    weights: list[Tensor | None],
    restart: Tensor | None,
) -> tuple[Tensor, ...]:
    """Run one layer in a dtype; return results in that of the input."""
    cast_weights = [None if w is None else w.to(dtype) for w in weights]
    after = run(rnn, x.to(dtype), tuple(s.to(dtype) for s in state), cast_weights, restart)
    return tuple(s.to(x.dtype) for s in after)


# Input of a gate that outweighs all others: its sigmoid is zero, and so is the slope.
_CLOSED = -1e4


class RestartPadding:
    """Rows ``[B, T]`` with an additional step before each restart, marked by an additional feature.

    Args:
        restart: Where the state is zero before a step, ``[B, T]``, anywhere but at the first.

    >>> rows = RestartPadding(torch.tensor([[False, True, False]]))
    >>> rows.lengthen(torch.tensor([[[5.0], [6.0], [7.0]]])).tolist()
    [[[5.0, 0.0], [0.0, 1.0], [6.0, 0.0], [7.0, 0.0]]]
    >>> rows.shorten(torch.tensor([[5, 0, 6, 7]]).unsqueeze(-1)).squeeze(-1)
    tensor([[5, 6, 7]])
    """

    def __init__(self, restart: Tensor) -> None:
        self.shape = (size, time) = restart.shape
        before = restart.cumsum(1)  # [B, T]
        self.length = time + int(before[:, -1].max())
        row = torch.arange(size, device=restart.device).unsqueeze(1)
        step = torch.arange(time, device=restart.device)
        self.position = (row * self.length + step + before).flatten()  # of each step
        self.source = self.position.new_full((size * self.length,), size * time)  # of each position
        self.source[self.position] = (row * time + step).flatten()

    def lengthen(self, x: Tensor) -> Tensor:
        """Return rows ``[B, T, F]`` as ``[B, T + R, F + 1]``."""
        steps = pad(x.flatten(0, 1), (0, 1))
        closing = torch.zeros_like(steps[:1])
        closing[:, -1] = 1.0
        rows = torch.cat([steps, closing]).index_select(0, self.source)
        return rows.view(len(x), self.length, -1)

    def shorten(self, x: Tensor) -> Tensor:
        """Return rows ``[B, T + R, P]`` without the additional steps: ``[B, T, P]``."""
        return x.flatten(0, 1).index_select(0, self.position).view(*self.shape, -1)


def run_fused(
    rnn: nn.RNNBase,
    x: Tensor,
    state: State,
    weights: list[Tensor | None],
    restart: Tensor | None,
    with_cells: bool = True,
) -> tuple[Tensor, ...]:
    """Run one layer over time with a fused kernel of torch; see :func:`run_layer`.

    The kernels have no restarts, but an input can close gates: before each restart a row has an
    additional step that sets the state to zero. That is one call of at most ``2 T - 1`` steps.

    The outputs are the states ``h``; the cell states of an LSTM cost as much again.
    """
    rows = None
    if restart is not None and bool(restart.any()):
        state = tuple(s.masked_fill(restart[:, :1], 0.0) for s in state)
        restart = torch.cat([torch.zeros_like(restart[:, :1]), restart[:, 1:]], 1)
        rows = RestartPadding(restart)
    out = _outputs(rnn, x, state, weights, rows)
    if rnn.mode == "GRU" or not with_cells:
        return (out,)
    return out, _cells(x, out, state, weights, None if rows is None else restart, rnn.hidden_size)


def _outputs(
    rnn: nn.RNNBase, x: Tensor, before: State, weights: list[Tensor | None], rows: RestartPadding | None
) -> Tensor:
    """Return the outputs ``[B, T, P]`` of one layer."""
    if rows is not None:
        x = rows.lengthen(x)
        weights = [_closing_weights(rnn, weights), *weights[1:]]
    flat = [w for w in weights if w is not None]
    start = tuple(s.unsqueeze(0).contiguous() for s in before)
    args: Any = (flat, rnn.bias, 1, 0.0, rnn.training, False, True)
    is_gru = rnn.mode == "GRU"
    out = torch.gru(x, start[0], *args)[0] if is_gru else torch.lstm(x, start, *args)[0]
    return out if rows is None else rows.shorten(out)


def _closing_weights(rnn: nn.RNNBase, weights: list[Tensor | None]) -> Tensor:
    """Return the input weights with a column for the feature that sets the state to zero.

    It closes input and forget gate of an LSTM, so that ``c = 0`` and ``h = o tanh(c) = 0``. Of a
    GRU, it closes both gates and removes the bias of the new state, so that ``h = tanh(0) = 0``.
    """
    w_ih, _, b_ih, *_ = weights
    assert w_ih is not None
    column = torch.zeros_like(w_ih[:, 0])
    column[: 2 * rnn.hidden_size] = _CLOSED
    if rnn.mode == "GRU" and b_ih is not None:
        column = torch.cat([column[: 2 * rnn.hidden_size], -b_ih[2 * rnn.hidden_size :]])
    return torch.cat([w_ih, column.unsqueeze(1)], 1)


@torch.no_grad()
def _cells(
    x: Tensor, out: Tensor, before: State, weights: list[Tensor | None], restart: Tensor | None, hidden_size: int
) -> Tensor:
    """Return the cell states ``[B, T, H]``, of which the kernel returns the last alone.

    Given the outputs, the gates of all steps are two products, and the rest is a recursion of
    elementwise operations.
    """
    used: Any = [None if w is None else w[: 3 * hidden_size] for w in weights[:4]]
    w_ih, w_hh, b_ih, b_hh = used  # of input gate, forget gate and cell; not of the output gate
    time, batch = x.shape[1], x.shape[0]
    steps = x.new_empty(time, batch, x.shape[-1] + out.shape[-1])  # of each, input and state
    steps[..., : x.shape[-1]] = x.transpose(0, 1)
    h = steps[..., x.shape[-1] :]
    h[0], h[1:] = before[0], out[:, :-1].transpose(0, 1)
    if restart is not None:
        h.masked_fill_(restart.t().unsqueeze(-1), 0.0)
    weight = torch.cat([w_ih, w_hh], 1).view(3, hidden_size, -1).transpose(1, 2)
    bias = x.new_zeros(()) if b_ih is None else (b_ih + b_hh).view(3, 1, hidden_size)
    gates = torch.baddbmm(bias, steps.flatten(0, 1).expand(3, -1, -1), weight)
    i, f, g = gates.view(3, time, batch, hidden_size)
    keep, cells = f.sigmoid_(), i.sigmoid_().mul_(g.tanh_())
    if restart is not None:
        keep.masked_fill_(restart.t().unsqueeze(-1), 0.0)
    cell = before[1]
    for kept, added in zip(keep.unbind(), cells.unbind(), strict=True):
        cell = added.addcmul_(kept, cell)
    return cells.transpose(0, 1)
