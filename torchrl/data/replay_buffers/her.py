"""Hindsight relabelling: what was achieved becomes what was wanted.

Legend: ``B`` items of a sample, ``G`` features of a goal.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np
import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl._core.errors import describe
from torchrl._core.keys import next_key, sibling
from torchrl.data.replay_buffers.data_types import Data, Info
from torchrl.data.replay_buffers.samplers.episodes import Episodes
from torchrl.data.replay_buffers.tensordict_buffer import TensorDictReplayBuffer

_GOALS = "_goal_positions"
Rewards = Tensor | tuple[Tensor, Tensor]


class HindsightStrategy(str, Enum):
    """Where the goal of a relabelled step comes from.

    >>> HindsightStrategy("future") is HindsightStrategy.FUTURE
    True
    >>> [strategy.value for strategy in HindsightStrategy]
    ['future', 'final', 'episode', 'random']
    """

    FUTURE = "future"  # this step or a later one of its episode
    FINAL = "final"  # the last step of its episode
    EPISODE = "episode"  # any step of its episode
    RANDOM = "random"  # any step that is stored


class HERReplayBuffer(TensorDictReplayBuffer):
    """A replay buffer that replays steps as if what they led to had been the goal.

    In a share of each sample, the goal becomes a goal that was achieved, by the same step or
    another one, and the reward is computed again. The stored steps do not change.

    Args:
        reward_fn: ``batch [B] -> reward [B, 1]``, or ``(reward, terminated)`` where reaching a goal
            ends the episode; otherwise ends stay as stored.
        her_ratio: Share of the sample that is relabelled, on average; 0.8 is four goals out of
            hindsight for each real one.
        strategy: Where goals come from: ``"future"``, ``"final"``, ``"episode"`` or ``"random"``.
        goal_key: Entry of the goal ``[B, G]``, at the root, and under ``"next"`` if stored there.
        achieved_goal_key: Entry of what was achieved ``[B, G]``, under ``"next"``, or at the root
            if it is stored there only.
        reward_key: Entry of the reward ``[B, 1]``.
        end_key: Entry that says where episodes end.
        **kwargs: As for :class:`TensorDictReplayBuffer`.

    Reads: ``goal_key``, ``achieved_goal_key``, ``end_key``, and what ``reward_fn`` reads.
    Writes: ``goal_key``, ``next.goal_key``, ``reward_key``; with it ``terminated`` and ``done``
    beside ``end_key`` if ``reward_fn`` returns ends.

    Raises:
        ValueError: if ``her_ratio`` is not a share, or the strategy unknown.

    Source: Andrychowicz et al., 2017, https://arxiv.org/abs/1707.01495, section 4.5.

    >>> from tensordict import TensorDict
    >>> from torchrl.data import LazyTensorStorage
    >>> def reward(td):
    ...     return (td["next", "achieved_goal"] == td["desired_goal"]).float() - 1
    >>> buffer = HERReplayBuffer(
    ...     reward, her_ratio=1.0, strategy="final", storage=LazyTensorStorage(9), batch_size=2
    ... )
    >>> done = torch.tensor([[False], [False], [True]])
    >>> achieved = torch.tensor([[1.0], [2.0], [3.0]])
    >>> result = TensorDict(achieved_goal=achieved, reward=-torch.ones(3, 1), done=done)
    >>> _ = buffer.extend(TensorDict(desired_goal=torch.full((3, 1), 9.0), next=result,
    ...     batch_size=[3]))
    >>> buffer.sample()["desired_goal"].flatten()
    tensor([3., 3.])
    """

    def __init__(
        self,
        reward_fn: Callable[[TensorDictBase], Rewards],
        *,
        her_ratio: float = 0.8,
        strategy: HindsightStrategy | str = HindsightStrategy.FUTURE,
        goal_key: NestedKey = "desired_goal",
        achieved_goal_key: NestedKey = "achieved_goal",
        reward_key: NestedKey = ("next", "reward"),
        end_key: NestedKey = ("next", "done"),
        **kwargs: Any,
    ) -> None:
        if not 0 <= her_ratio <= 1:
            raise ValueError(describe(self, "her_ratio is a share", expected="[0, 1]", found=her_ratio))
        self.reward_fn, self.her_ratio = reward_fn, her_ratio
        self.strategy = HindsightStrategy(strategy)
        self.goal_key, self.achieved_goal_key = goal_key, achieved_goal_key
        self.reward_key, self.end_key = reward_key, end_key
        self._episodes = Episodes([end_key])
        super().__init__(**kwargs)

    def _draw(self, batch_size: int) -> tuple[Tensor, Info, bool]:
        with self._lock:
            positions, info, ran_out = super()._draw(batch_size)
            info = {**info, _GOALS: self._goals(positions)}
        return positions, info, ran_out

    def _goals(self, positions: Tensor) -> Tensor:
        """Return the positions ``[B]`` whose achieved goals are taken; ``-1`` for none."""
        storage, generator = self._storage, self._generator
        count = len(positions)
        relabel = torch.rand(count, generator=generator) < self.her_ratio
        chance = torch.rand(count, dtype=torch.float64, generator=generator).numpy()
        if self.strategy is HindsightStrategy.RANDOM:
            goals = torch.from_numpy((chance * len(storage)).astype(np.int64))
        else:
            self._episodes.sync(storage)
            time, column = self._episodes.times(positions.numpy(), storage)
            start, stop = self._episodes.locate(time, column)
            first = {"future": time, "final": stop - 1, "episode": start}[self.strategy.value]
            goal = first + (chance * (stop - first)).astype(np.int64)
            goals = torch.from_numpy(self._episodes.positions(goal, column, storage))
        return torch.where(relabel, goals, -1)

    def _read(self, positions: Tensor, info: Info) -> Data:
        goals = info.pop(_GOALS)
        data = super()._read(positions, info)
        if isinstance(data, list):
            data = torch.stack(data)
        relabelled = goals >= 0
        if relabelled.any():
            self._relabel(data, torch.where(relabelled, goals, positions), relabelled)
        return data

    def _relabel(self, data: TensorDictBase, goals: Tensor, relabelled: Tensor) -> None:
        """Set goals ``[B]``, and what follows from them, where ``relabelled [B]``."""
        after = next_key(self.achieved_goal_key)
        key = after if self._storage.has_entry(after) else self.achieved_goal_key
        achieved = self._storage.take_entry(key, goals)  # [B, G]
        for place in (self.goal_key, next_key(self.goal_key)):
            if place == self.goal_key or data.get(place, None) is not None:
                data.set(place, _choose(relabelled, achieved, data.get(place)))
        rewards = self.reward_fn(data)
        reward, terminated = rewards if isinstance(rewards, tuple) else (rewards, None)
        data.set(self.reward_key, _choose(relabelled, reward, data.get(self.reward_key)))
        if terminated is not None:
            self._end(data, terminated, relabelled)

    def _end(self, data: TensorDictBase, terminated: Tensor, relabelled: Tensor) -> None:
        place = sibling(self.end_key, "terminated")
        done = data.get(self.end_key)
        terminated = terminated.reshape(done.shape).bool()
        truncated = data.get(sibling(self.end_key, "truncated"), None)
        data.set(place, _choose(relabelled, terminated, data.get(place, done)))
        ended = terminated if truncated is None else terminated | truncated
        data.set(self.end_key, _choose(relabelled, ended, done))


def _choose(where: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Take ``new`` where ``where [B]``, else ``old [B, *]``."""
    where = where.to(old.device).view(-1, *(1,) * (old.ndim - 1))
    return torch.where(where, new.to(old).reshape(old.shape), old)
