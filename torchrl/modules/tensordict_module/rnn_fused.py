"""Sequences through torch's fused RNN kernels, with restarts in the middle.

``B`` rows, ``T`` time, ``S`` pieces, ``H`` hidden, ``P`` output. A row is cut where its state
restarts; the pieces are padded to one length and run side by side.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from torchrl.modules.tensordict_module.rnn_cells import State


class Pieces:
    """Where each step of rows ``[B, T]`` goes when they are cut.

    Args:
        restart: Where a piece starts, ``[B, T]``; rows start one too.

    >>> pieces = Pieces(torch.tensor([[False, True, False]]))
    >>> pieces.cut(torch.tensor([[1, 2, 3]])).tolist()
    [[1, 0], [2, 3]]
    """

    def __init__(self, restart: Tensor) -> None:
        starts = restart.clone()
        starts[:, 0] = True
        self.rows, steps = starts.nonzero(as_tuple=True)  # of each piece, its row and first step
        ends = torch.cat([steps[1:], steps.new_full((1,), restart.shape[1])])
        lengths = torch.where(ends > steps, ends - steps, restart.shape[1] - steps)
        self.is_first = steps == 0
        self.restarts = restart[self.rows, steps]
        self.length = int(lengths.max())
        self.piece = (starts.flatten().cumsum(0) - 1).view(starts.shape)  # [B, T]
        time = torch.arange(restart.shape[1], device=restart.device)
        self.step = time - steps[self.piece]  # [B, T]

    def cut(self, x: Tensor) -> Tensor:
        """Return rows ``[B, T, ...]`` as padded pieces ``[S, length, ...]``."""
        out = x.new_zeros(len(self.rows), self.length, *x.shape[2:])
        return out.index_put((self.piece, self.step), x)

    def join(self, x: Tensor) -> Tensor:
        """Return padded pieces ``[S, length, ...]`` as rows ``[B, T, ...]``."""
        return x[self.piece, self.step]

    def states(self, state: Tensor) -> Tensor:
        """Return the state ``[S, ...]`` before pieces, given that before rows ``[B, ...]``."""
        keeps = self.is_first & ~self.restarts
        return state[self.rows] * keeps.view(-1, *(1,) * (state.ndim - 1))


def run_fused(
    rnn: nn.RNNBase,
    x: Tensor,
    state: State,
    weights: list[Tensor | None],
    restart: Tensor | None,
) -> tuple[Tensor, ...]:
    """Run one layer over time with a fused kernel; see :func:`~.rnn_cells.run_layer`."""
    pieces = None
    if restart is not None:
        state = tuple(s.masked_fill(restart[:, :1], 0.0) for s in state)
        pieces = Pieces(restart) if bool(restart[:, 1:].any()) else None
    out = _outputs(rnn, x, state, weights, pieces)
    if rnn.mode == "GRU":
        return (out,)
    cells = _cells(x, out, state, weights, restart if pieces else None, rnn.hidden_size)
    return out, cells


def _outputs(
    rnn: nn.RNNBase,
    x: Tensor,
    before: State,
    weights: list[Tensor | None],
    pieces: Pieces | None,
) -> Tensor:
    """Return the outputs ``[B, T, P]`` of one layer."""
    if pieces is not None:
        x, before = pieces.cut(x), tuple(pieces.states(s) for s in before)
    flat: Any = [w for w in weights if w is not None]
    start: Any = tuple(s.unsqueeze(0).contiguous() for s in before)
    args: Any = (flat, rnn.bias, 1, 0.0, rnn.training, False, True)
    is_gru = rnn.mode == "GRU"
    out = torch.gru(x, start[0], *args)[0] if is_gru else torch.lstm(x, start, *args)[0]
    return out if pieces is None else pieces.join(out)


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
    w_ih, w_hh, b_ih, b_hh = (None if w is None else w[: 3 * hidden_size] for w in weights[:4])
    assert w_ih is not None
    assert w_hh is not None
    h = torch.cat([before[0].unsqueeze(1), out[:, :-1]], 1)
    if restart is not None:
        h = h.masked_fill(restart.unsqueeze(-1), 0.0)
    gates = linear(x, w_ih, b_ih) + linear(h, w_hh, b_hh)  # input, forget, cell; no output gate
    i, f, g = gates.transpose(0, 1).contiguous().chunk(3, -1)
    keep, new = f.sigmoid(), i.sigmoid() * g.tanh()  # [T, B, H]
    if restart is not None:
        keep = keep.masked_fill(restart.t().unsqueeze(-1), 0.0)
    cell, cells = before[1], []
    for kept, added in zip(keep.unbind(), new.unbind(), strict=True):
        cell = torch.addcmul(added, kept, cell)
        cells.append(cell)
    return torch.stack(cells, 1)
