"""Tic-tac-toe in plain torch: two players, turns, illegal moves."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor

from torchrl._core.devices import check_devices
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs.base import EnvBase

EMPTY = -1
_LINES = [[0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 3, 6], [1, 4, 7], [2, 5, 8], [0, 4, 8], [2, 4, 6]]


class TicTacToeEnv(EnvBase):
    """Put three of your marks in a row before the other player does.

    Players take turns; each step is a move of the one whose turn it is. The winner gets 1 and the
    other -1; a draw is worth nothing. A move to a field that is taken ends the game: it costs its
    player 1 and gives the other nothing; ``mask`` is true for free fields, and
    :meth:`rand_action` uses it. The state is in the record, and any batch size will do.

    Args:
        single_player: Player 1 moves at random, within the step of player 0.
        device: Device of the computation.

    Reads: ``action [*B]`` (field, 0 to 8, row by row), ``board [*B, 3, 3]`` and ``turn [*B, 1]``.
    Writes: ``board`` (0 or 1 for the player, -1 for empty), ``turn`` (the next player),
        ``mask [*B, 9]`` (free fields), ``("player0", "reward") [*B, 1]``,
        ``("player1", "reward") [*B, 1]`` and ``done [*B, 1]``.

    >>> env = TicTacToeEnv()
    >>> td = env.reset()
    >>> for field in (0, 3, 1, 4, 2):
    ...     td = env.step_mdp(env.step(td.set("action", torch.tensor(field))))
    >>> td["board"], td["done"]
    (tensor([[ 0,  0,  0], [ 1,  1, -1], [-1, -1, -1]]), tensor([True]))
    """

    batch_locked = False

    def __init__(self, *, single_player: bool = False, device: torch.device | str | int | None = None) -> None:
        check_devices(self, device=device)
        super().__init__(device=device)
        self.single_player = single_player
        where = self.device or torch.device("cpu")
        self.observation_spec = Composite(
            board=Bounded(EMPTY, 1, (3, 3), dtype=torch.int64),
            turn=Categorical(2, shape=(1,), dtype=torch.int64),
            mask=Categorical(2, shape=(9,), dtype=torch.bool),
        )
        self.state_spec = self.observation_spec.clone()
        self.action_spec = Categorical(9, shape=(), dtype=torch.int64)
        reward = Composite(reward=Unbounded((1,)))
        self.reward_spec = Composite(player0=reward, player1=reward.clone())
        self._lines = torch.tensor(_LINES, device=where)
        self._generator = torch.Generator(where)
        self.set_seed(int(torch.randint(2**31, ())))

    def _set_seed(self, seed: int | None) -> None:
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def _root(self, board: Tensor, turn: Tensor, shape: torch.Size) -> TensorDict:
        mask = board.flatten(-2) == EMPTY
        return TensorDict({"board": board, "turn": turn, "mask": mask}, shape, device=self.device)

    def _reset(  # type: ignore[override]  # takes no options
        self, tensordict: TensorDictBase | None
    ) -> TensorDictBase:
        shape = torch.Size([]) if tensordict is None else tensordict.batch_size
        where = self._lines.device
        board = torch.full((*shape, 3, 3), EMPTY, device=where)
        return self._root(board, torch.zeros((*shape, 1), dtype=torch.int64, device=where), shape)

    def _set_state(self, tensordict: TensorDictBase) -> TensorDictBase:
        shape = tensordict.batch_size
        return self._root(tensordict.get("board"), tensordict.get("turn"), shape)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        board, turn = tensordict.get("board").flatten(-2), tensordict.get("turn")
        field = tensordict.get("action").unsqueeze(-1)  # [*B, 1]
        board, reward, done = self._move(board, turn, field)  # reward is that of the one who moved
        other = -reward.clamp_min(0.0)  # the other loses; an illegal move gains nothing
        first, second = torch.where(turn == 0, reward, other), torch.where(turn == 1, reward, other)
        turn = 1 - turn
        if self.single_player:
            answer, won, over = self._move(board, turn, self._random_field(board))
            board = torch.where(done, board, answer)
            first = torch.where(done, first, -won)
            second = torch.where(done, second, won)
            turn, done = torch.where(done, turn, 1 - turn), done | over
        shape = tensordict.batch_size
        next_root = self._root(board.unflatten(-1, (3, 3)), turn, shape)
        next_root.set(("player0", "reward"), first)
        next_root.set(("player1", "reward"), second)
        return next_root.set("terminated", done)

    def _move(self, board: Tensor, turn: Tensor, field: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the board ``[*B, 9]``, what the player gets and whether the game is over."""
        free = board.gather(-1, field) == EMPTY
        board = torch.where(free, board.scatter(-1, field, turn), board)
        lines = board[..., self._lines] == turn.unsqueeze(-1)  # [*B, 8, 3]
        won = lines.all(-1).any(-1, keepdim=True) & free
        full = (board != EMPTY).all(-1, keepdim=True)
        return board, won.float() - (~free).float(), won | full | ~free

    def _random_field(self, board: Tensor) -> Tensor:
        """Return a free field ``[*B, 1]`` of each board; any field of a full one."""
        noise = torch.rand(board.shape, generator=self._generator, device=board.device)
        return (noise + (board == EMPTY)).argmax(-1, keepdim=True)

    @property
    def action_masks(self) -> dict[NestedKey, NestedKey]:
        """The entry that masks taken fields."""
        return {"action": "mask"}

    def rand_action(self, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        """Write a random move to a free field into ``tensordict``; any move without a record."""
        if tensordict is None or tensordict.get("board", None) is None:
            return super().rand_action(tensordict)
        board: Any = tensordict.get("board").flatten(-2)
        return tensordict.set("action", self._random_field(board).squeeze(-1))
