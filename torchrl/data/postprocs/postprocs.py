"""`MultiStep`, `DensifyReward`: rewards of several steps, told to one.

Legend: ``*B`` batch dimensions, ``T`` time (the last batch dimension), ``n`` steps.
"""

from __future__ import annotations

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn

from torchrl._core.errors import DTypeError, describe
from torchrl._core.keys import next_key, require, sibling
from torchrl._core.returns import discounted_scan

MASK = ("collector", "mask")


class MultiStep(nn.Module):
    r"""Makes each step reach ``n`` steps ahead.

    .. math:: r_t \leftarrow \sum_{k<m} \gamma^k r_{t+k}

    where :math:`m \le n` is cut short by the end of the episode, of the batch, and by padding.
    What is under ``"next"``, and the flags with it, comes from the last step of the window: a
    window that ends on a terminal step is terminal.

    Args:
        gamma: Discount factor, in (0, 1].
        n_steps: Steps ``n`` of a window.

    Attributes:
        reward_keys: Rewards, under ``"next"``; ``["reward"]``.
        done_key: End flag, under ``"next"``; ``"done"``.
        mask_key: Mask of the steps that are no padding; ``("collector", "mask")``. ``None`` looks
            for none.

    Reads: ``next.reward [*B, T, 1]``, ``next.done [*B, T, 1]``, all that is under ``next``;
    ``mask_key``, ``[*B, T]`` or ``[*B, T, 1]``, if there is one. Rewards and flags may be
    ``[*B, T]``; what is written then has no last dimension either.
    Writes: ``next.reward``; ``next.original_reward``, as it was; ``steps_to_next_obs [*B, T, 1]``,
    :math:`m`; ``gamma [*B, T, 1]``, :math:`\gamma^m`, by which a value at the end of the window
    counts; ``nonterminal [*B, T, 1]``, whether it counts at all, false for padding.
    Returns: the batch, with a new ``"next"``; the one given stays as it is.

    Raises:
        TypeError: if ``n_steps`` is no whole number.
        ValueError: if ``n_steps`` is less than one, or ``gamma`` out of its range.
        MissingKeyError: if reward or done is missing.

    Source: Sutton and Barto, 2018, section 7.1.

    >>> from tensordict import TensorDict
    >>> done = torch.tensor([[False], [False], [True]])
    >>> result = TensorDict(reward=torch.ones(3, 1), done=done, terminated=done, batch_size=[3])
    >>> batch = MultiStep(0.5, 3)(TensorDict(next=result, batch_size=[3]))
    >>> batch["next", "reward"].flatten().tolist(), batch["nonterminal"].any().item()
    ([1.75, 1.5, 1.0], False)
    """

    def __init__(self, gamma: float, n_steps: int) -> None:
        super().__init__()
        if not hasattr(n_steps, "__index__"):
            raise DTypeError(describe(self, "n_steps is a whole number", found=n_steps))
        if n_steps < 1:
            raise ValueError(describe(self, "n_steps must be at least 1", found=n_steps))
        if not 0 < gamma <= 1:
            raise ValueError(describe(self, "gamma is a discount", expected="(0, 1]", found=gamma))
        self.n_steps, self.gamma = int(n_steps), gamma
        self.reward_keys: list[NestedKey] = ["reward"]
        self.done_key: NestedKey = "done"
        self.mask_key: NestedKey | None = MASK

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return the batch ``[*B, T]`` with the rewards and the next entries of ``n`` steps."""
        reward_keys = [next_key(key) for key in self.reward_keys]
        done_key = next_key(self.done_key)
        require(tensordict, [*reward_keys, done_key], self, "MultiStep reads steps of an env.")
        time = tensordict.ndim - 1
        steps = self._windows(tensordict, done_key)  # [*B, T]
        index = torch.arange(steps.shape[-1], device=steps.device) + steps - 1  # [*B, T]

        out = tensordict.copy()
        next_root = _gather(tensordict.get("next"), index, time)
        out.set("next", next_root)
        for key in reward_keys:
            reward = tensordict.get(key)
            out.set(key, self._discounted(reward, steps, time))
            out.set(sibling(key, "original_reward"), reward)
        terminated = out.get(sibling(done_key, "terminated"), None)
        end = out.get(done_key) if terminated is None else terminated
        reward = tensordict.get(reward_keys[0])
        count = steps if reward.ndim == steps.ndim else steps.unsqueeze(-1)  # [*B, T, 1], or [*B, T]
        out.set("steps_to_next_obs", count)
        out.set("gamma", self.gamma ** count.to(reward.dtype))
        mask = self._mask(tensordict)
        out.set("nonterminal", ~end if mask is None else ~end & mask.reshape(end.shape))
        return out

    def _mask(self, tensordict: TensorDictBase) -> Tensor | None:
        """Return which steps are no padding, ``[*B, T]`` or ``[*B, T, 1]``, where it is known."""
        return None if self.mask_key is None else tensordict.get(self.mask_key, None)

    def _windows(self, tensordict: TensorDictBase, done_key: NestedKey) -> Tensor:
        """Return how many steps ``m [*B, T]`` the window of each step has."""
        done = tensordict.get(done_key).reshape(*tensordict.shape, -1).any(-1)  # [*B, T]
        mask = self._mask(tensordict)
        if mask is not None:
            mask = mask.reshape(done.shape)
            padding_follows = torch.cat([~mask[..., 1:], torch.zeros_like(mask[..., :1])], -1)
            done = done | padding_follows
        ended = done.clone()
        ended[..., -1] = True
        length = torch.ones_like(ended, dtype=torch.long)
        for _ in range(1, self.n_steps):  # m of t is one more than m of t + 1, up to n
            shifted = torch.cat([length[..., 1:], length[..., -1:]], -1)
            length = torch.where(ended, 1, (shifted + 1).clamp_max(self.n_steps))
        return length

    def _discounted(self, reward: Tensor, steps: Tensor, time: int) -> Tensor:
        total = torch.zeros_like(reward)
        span = reward.shape[time]
        extra = (1,) * (reward.ndim - steps.ndim)
        for k in range(min(self.n_steps, span)):
            inside = (steps > k).view(*steps.shape, *extra)  # [*B, T, *]
            ahead = reward.narrow(time, k, span - k)
            ahead = torch.cat([ahead, torch.zeros_like(reward.narrow(time, 0, k))], time)
            total = total + self.gamma**k * torch.where(inside, ahead, 0.0)
        return total


class DensifyReward(nn.Module):
    r"""Spreads the reward of an episode over its steps, as the discounted sum of what is to come.

    .. math:: r_t \leftarrow \sum_{k \ge 0} \gamma^k r_{t+k}, \quad \text{up to the end}

    Args:
        reward_key: Entry of rewards, under ``"next"``.
        done_key: Entry of ends, under ``"next"``.
        reward_key_out: Entry that is written under ``"next"``; ``reward_key`` if ``None``.
        time_dim: Dimension of time in the reward ``[*B, T, 1]``; the last batch dimension if
            ``None``.
        discount: :math:`\gamma`.

    Reads: ``next.reward``, ``next.done``.
    Writes: ``next.reward_key_out``.

    >>> from tensordict import TensorDict
    >>> done = torch.tensor([[False], [False], [True], [False]])
    >>> reward = torch.tensor([[0.0], [0.0], [1.0], [0.0]])
    >>> td = TensorDict(next=TensorDict(reward=reward, done=done, batch_size=[4]), batch_size=[4])
    >>> DensifyReward()(td)["next", "reward"].flatten().tolist()
    [1.0, 1.0, 1.0, 0.0]
    """

    def __init__(
        self,
        *,
        reward_key: NestedKey = "reward",
        done_key: NestedKey = "done",
        reward_key_out: NestedKey | None = None,
        time_dim: int | None = None,
        discount: float = 1.0,
    ) -> None:
        super().__init__()
        self.reward_key, self.done_key = next_key(reward_key), next_key(done_key)
        self.reward_key_out = next_key(reward_key_out or reward_key)
        self.time_dim, self.discount = time_dim, discount

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the sums into ``tensordict``, and return it."""
        require(tensordict, [self.reward_key, self.done_key], self, "Name yours in the constructor.")
        dim = tensordict.ndim - 1 if self.time_dim is None else self.time_dim
        reward = tensordict.get(self.reward_key)
        decay = self.discount * (~tensordict.get(self.done_key)).to(reward.dtype)
        return tensordict.set(self.reward_key_out, discounted_scan(decay, reward, dim))


def _gather(data: TensorDictBase, index: Tensor, time: int) -> TensorDictBase:
    """Take, along time, the steps ``index [*B, T]`` of every entry ``[*B, T, *]``."""

    def take(value: Tensor) -> Tensor:
        extra = value.shape[index.ndim :]
        at = index.view(*index.shape, *(1,) * len(extra)).expand(*index.shape, *extra)
        return value.gather(time, at)

    gathered = data.apply(take)
    assert gathered is not None
    return gathered
