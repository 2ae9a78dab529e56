"""Sequences through torch's fused RNN kernels, with restarts in the middle.

``B`` rows, ``T`` time, ``R`` restarts within the row that has most, ``F`` input, ``H`` hidden,
``P`` output. The kernels know of no restarts, but an input can shut gates: before each restart a
row takes one step more, which empties the state. That is one call of at most ``2 T - 1`` steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from torchrl.modules.tensordict_module.rnn_cells import State

SHUT = -1e4  # a gate's input that outweighs all others: its sigmoid is zero, and so is its slope


class Emptied:
    """Rows ``[B, T]`` with one step more before each restart; its last feature says so.

    Args:
        restart: Where the state is zero before a step, ``[B, T]``, anywhere but at the first.

    >>> rows = Emptied(torch.tensor([[False, True, False]]))
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
        self.place = (row * self.length + step + before).flatten()  # of each step
        self.source = self.place.new_full((size * self.length,), size * time)  # of each place
        self.source[self.place] = (row * time + step).flatten()

    def lengthen(self, x: Tensor) -> Tensor:
        """Return rows ``[B, T, F]`` as ``[B, T + R, F + 1]``."""
        steps = pad(x.flatten(0, 1), (0, 1))
        empties = torch.zeros_like(steps[:1])
        empties[:, -1] = 1.0
        rows = torch.cat([steps, empties]).index_select(0, self.source)
        return rows.view(len(x), self.length, -1)

    def shorten(self, x: Tensor) -> Tensor:
        """Return what is at the steps of rows ``[B, T + R, P]``: ``[B, T, P]``."""
        return x.flatten(0, 1).index_select(0, self.place).view(*self.shape, -1)


def run_fused(
    rnn: nn.RNNBase,
    x: Tensor,
    state: State,
    weights: list[Tensor | None],
    restart: Tensor | None,
    with_cells: bool = True,
) -> tuple[Tensor, ...]:
    """Run one layer over time with a fused kernel; see :func:`~.rnn_cells.run_layer`.

    Its outputs are its states ``h``; the cell states of an LSTM cost as much again.
    """
    rows = None
    if restart is not None and bool(restart.any()):
        state = tuple(s.masked_fill(restart[:, :1], 0.0) for s in state)
        restart = torch.cat([torch.zeros_like(restart[:, :1]), restart[:, 1:]], 1)
        rows = Emptied(restart)
    out = _outputs(rnn, x, state, weights, rows)
    if rnn.mode == "GRU" or not with_cells:
        return (out,)
    return out, _cells(x, out, state, weights, None if rows is None else restart, rnn.hidden_size)


def _outputs(
    rnn: nn.RNNBase, x: Tensor, before: State, weights: list[Tensor | None], rows: Emptied | None
) -> Tensor:
    """Return the outputs ``[B, T, P]`` of one layer."""
    if rows is not None:
        x = rows.lengthen(x)
        weights = [_emptying(rnn, weights), *weights[1:]]
    flat: Any = [w for w in weights if w is not None]
    start: Any = tuple(s.unsqueeze(0).contiguous() for s in before)
    args: Any = (flat, rnn.bias, 1, 0.0, rnn.training, False, True)
    is_gru = rnn.mode == "GRU"
    out = torch.gru(x, start[0], *args)[0] if is_gru else torch.lstm(x, start, *args)[0]
    return out if rows is None else rows.shorten(out)


def _emptying(rnn: nn.RNNBase, weights: list[Tensor | None]) -> Tensor:
    """Return the input weights with a column for the feature that empties the state.

    It shuts input and forget gate of an LSTM, so that ``c = 0`` and ``h = o tanh(c) = 0``. Of a
    GRU, it shuts both gates and takes the new state's bias away, so that ``h = tanh(0) = 0``.
    """
    w_ih, _, b_ih, *_ = weights
    assert w_ih is not None
    column = torch.zeros_like(w_ih[:, 0])
    column[: 2 * rnn.hidden_size] = SHUT
    if rnn.mode == "GRU" and b_ih is not None:
        column = torch.cat([column[: 2 * rnn.hidden_size], -b_ih[2 * rnn.hidden_size :]])
    return torch.cat([w_ih, column.unsqueeze(1)], 1)


@torch.no_grad()
def _cells(
    x: Tensor,
    out: Tensor,
    before: State,
    weights: list[Tensor | None],
    restart: Tensor | None,
    hidden_size: int,
) -> Tensor:
    """Return the cell states ``[B, T, H]``, which the kernel keeps to itself but for the last.

    With the outputs known, the gates of all steps are two products; what is left is a recursion of
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
