"""Transforms of trajectories: multi-step returns, reward to go, burn-in, random crops.

Shapes: ``*B`` the batch, ``T`` time, the dimension named ``"time"`` or the last one of a record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn

from torchrl._core.errors import MissingKeyError, ShapeError, describe
from torchrl._core.keys import as_keys, leaf_keys, next_key, require, sibling
from torchrl._core.mdp import DONE, last_name
from torchrl._core.records.rows import expand_right
from torchrl._core.recurrence import set_recurrent_mode
from torchrl._core.returns import reward2go
from torchrl.data import Composite
from torchrl.envs.transforms.base import State, Transform, time_dim

Method = Callable[[Any, TensorDictBase], TensorDictBase]


def time_last(method: Method) -> Method:
    """Let a method whose argument has time as its last dimension take it where it is named ``"time"``."""

    @wraps(method)
    def run(self: Transform, tensordict: TensorDictBase) -> TensorDictBase:
        time, last = time_dim(tensordict), tensordict.ndim - 1
        if time == last:
            return method(self, tensordict)
        return method(self, tensordict.transpose(time, last)).transpose(time, last)

    return run


class BufferTransform(Transform):
    """Base of transforms that need trajectories, which an environment does not have."""

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Raise ValueError: an environment has no whole trajectories.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"{type(self).__name__} needs whole trajectories: append it to a replay buffer, or "
            "apply it to the batches of a collector."
        )


def multi_step(
    tensordict: TensorDictBase,
    n_steps: int,
    gamma: float,
    *,
    reward_keys: Sequence[NestedKey] = ("reward",),
    done_key: NestedKey = DONE,
    mask_key: NestedKey | None = None,
) -> TensorDictBase:
    r"""Return steps that look ``n_steps`` ahead.

    .. math:: R_t = \sum_{k < L_t} \gamma^k r_{t+k}

    where :math:`L_t \le n` is cut at the end of the episode and of the data. Everything under
    ``"next"``, end flags included, is what followed step :math:`t + L_t - 1`.

    Args:
        tensordict: Steps ``[*B, T]``.
        n_steps: Number of steps ``n``.
        gamma: Discount factor.
        reward_keys: Rewards under ``"next"``.
        done_key: End of an episode under ``"next"``.
        mask_key: True where a step is real, in padded data.

    Reads: ``next.reward``, ``next.done [*B, T, 1]``.
    Writes: ``next.reward``, ``next.original_reward``, ``steps_to_next_obs``, ``gamma``
        (:math:`\gamma^{L_t}`) and ``nonterminal`` (the episode goes on), ``[*B, T, 1]`` each.

    Source: Sutton and Barto, Reinforcement Learning, 2nd edition, 2018, eq. 7.1.

    >>> from tensordict import TensorDict
    >>> done = torch.tensor([[False], [False], [True]])
    >>> step = TensorDict(reward=torch.ones(3, 1), done=done, batch_size=[3])
    >>> out = multi_step(TensorDict(next=step, batch_size=[3]), 3, 0.5)
    >>> out["next", "reward"].T, out["next", "done"].T
    (tensor([[1.7500, 1.5000, 1.0000]]), tensor([[True, True, True]]))
    """
    time = tensordict.ndim - 1
    next_root = tensordict.get("next")
    done = next_root.get(done_key)  # [*B, T, 1]
    length = window_lengths(tensordict, done, n_steps, mask_key)  # [*B, T]
    out, index = tensordict.copy(), _steps(length, time) + length - 1
    for key in leaf_keys(next_root):
        value = next_root.get(key)
        wide = index.reshape(*index.shape, *(1,) * (value.ndim - index.ndim)).expand(value.shape)
        out.set(next_key(key), value.gather(time, wide))
    for key in reward_keys:
        reward = next_root.get(key)  # [*B, T, F]
        out.set(next_key(key), _windowed_sum(reward, length, n_steps, gamma, time))
        out.set(next_key(sibling(key, f"original_{last_name(key)}")), reward)
    length = length.unsqueeze(-1)  # [*B, T, 1]
    out.set("steps_to_next_obs", length)
    out.set("gamma", torch.as_tensor(gamma, device=length.device) ** length)
    out.set("nonterminal", ~out.get(next_key(done_key)))
    return out


def window_lengths(tensordict: TensorDictBase, done: Tensor, n_steps: int, mask_key: NestedKey | None) -> Tensor:
    """Return how many steps ``[*B, T]`` each step can look ahead, itself included."""
    time = tensordict.ndim - 1
    last = done.reshape(*tensordict.batch_size, -1).any(-1)  # [*B, T]
    if mask_key is not None:
        real = tensordict.get(mask_key).reshape(tensordict.batch_size)
        last = last | ~real.roll(-1, time)
    steps = _steps(last, time)
    ends = torch.where(last, steps, last.shape[time] - 1)
    ends = ends.flip(time).cummin(time).values.flip(time)
    return (ends - steps + 1).clamp_max(n_steps)


def _steps(like: Tensor, time: int) -> Tensor:
    steps = torch.arange(like.shape[time], device=like.device)
    return steps.expand(like.shape)


def _windowed_sum(reward: Tensor, length: Tensor, n_steps: int, gamma: float, time: int) -> Tensor:
    total = torch.zeros_like(reward)
    length = length.unsqueeze(-1)
    for k in range(min(n_steps, reward.shape[time])):
        later = torch.zeros_like(reward)
        later.narrow(time, 0, reward.shape[time] - k).copy_(reward.narrow(time, k, reward.shape[time] - k))
        total = total + torch.where(length > k, gamma**k * later, 0.0)
    return total


class StoringTransform(BufferTransform):
    """Base of transforms that compute along time when a buffer is extended.

    Samples are returned as stored: single steps or slices do not hold the steps before and after.
    """

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return samples as they are stored."""
        return tensordict


class MultiStepTransform(StoringTransform):
    """Stores steps that look several steps ahead.

    A transform of replay buffers, in the inverse pass. Data are added as they were collected,
    ``[*B, T]`` after ``[*B, T]``: the last ``n_steps - 1`` steps are held until the steps after
    them are added, so that the result does not depend on the border between two batches.

    Args:
        n_steps: Number of steps.
        gamma: Discount factor.
        reward_keys: Rewards under ``"next"``; ``reward`` if ``None``.
        done_key: End of an episode under ``"next"``; ``done`` if ``None``.
        done_keys: The same, as a list whose first entry counts.
        mask_key: True where a step is real, in padded data.

    Reads, writes: as :func:`multi_step`. ``terminated`` and ``done`` are those of the last step
    that was summed, so that a value is bootstrapped only where the future goes on.

    Source: Hessel et al., 2018, https://arxiv.org/abs/1710.02298, "Multi-step learning".

    >>> from tensordict import TensorDict
    >>> done = torch.zeros(4, 1, dtype=torch.bool)
    >>> step = TensorDict(reward=torch.ones(4, 1), done=done, batch_size=[4])
    >>> store = MultiStepTransform(n_steps=3, gamma=0.5)
    >>> store.inv(TensorDict(next=step, batch_size=[4]))["next", "reward"].T
    tensor([[1.7500, 1.7500]])
    """

    def __init__(
        self,
        n_steps: int,
        gamma: float,
        *,
        reward_keys: Sequence[NestedKey] | None = None,
        done_key: NestedKey | None = None,
        done_keys: Sequence[NestedKey] | None = None,
        mask_key: NestedKey | None = None,
    ) -> None:
        super().__init__()
        if n_steps < 1:
            raise ValueError(f"MultiStepTransform: n_steps must be at least 1, found {n_steps}.")
        self.n_steps, self.gamma, self.mask_key = n_steps, gamma, mask_key
        self.reward_keys = as_keys(["reward"] if reward_keys is None else reward_keys)
        named = [done_key] if done_key is not None else list(done_keys or [DONE])
        self.done_key = as_keys(named)[0]
        self.__dict__["_kept"] = None

    _kept: TensorDictBase | None

    @time_last
    def inv(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return the steps ``[*B, T']`` whose ``n_steps`` are complete."""
        require(
            tensordict,
            [next_key(key) for key in (*self.reward_keys, self.done_key)],
            self,
            "Pass what a collector or a rollout returned.",
        )
        time = tensordict.ndim - 1
        if time < 0:
            raise ValueError(
                "MultiStepTransform: expected steps [*B, T], found an empty batch size; extend "
                "the buffer with batches rather than adding single steps."
            )
        if self._kept is not None:
            joined: Any = torch.cat([self._kept, tensordict], time)
            tensordict = joined
        steps, delay = tensordict.shape[time], self.n_steps - 1
        known = max(steps - delay, 0)
        self.__dict__["_kept"] = tensordict[..., known:].clone() if delay else None
        return self._ahead(tensordict)[..., :known]

    def flush(self) -> TensorDictBase | None:
        """Return the steps that are held, with the steps that they have, and discard them."""
        kept, self.__dict__["_kept"] = self._kept, None
        if kept is None or not kept.numel():
            return None
        return self._ahead(kept)

    def _ahead(self, tensordict: TensorDictBase) -> TensorDictBase:
        return multi_step(
            tensordict,
            self.n_steps,
            self.gamma,
            reward_keys=self.reward_keys,
            done_key=self.done_key,
            mask_key=self.mask_key,
        )

    def get_extra_state(self) -> State:
        """Return the steps that are held."""
        return {"kept": self._kept}

    def set_extra_state(self, state: State) -> None:
        """Restore the steps that are held."""
        self.__dict__["_kept"] = state["kept"]


class Reward2GoTransform(StoringTransform):
    r"""Replaces each reward by the discounted sum of those that follow in its episode.

    A transform of replay buffers, in the inverse pass, for whole trajectories ``[*B, T]``; what is
    sampled, in whatever order, has the sums that were stored.

    .. math:: R_t = r_t + \gamma (1 - d_t) R_{t+1}

    Args:
        gamma: Discount factor.
        in_keys: The rewards; ``("next", "reward")`` if ``None``.
        out_keys: Where to write the sums; in place if ``None``.
        done_key: End of an episode, under ``"next"``.

    Raises:
        ValueError: if no episode ends in the data: the sums would be cut arbitrarily; or if a
            single step is added.

    >>> from tensordict import TensorDict
    >>> done = torch.tensor([[False], [True]])
    >>> step = TensorDict(reward=torch.ones(2, 1), done=done, batch_size=[2])
    >>> sums = Reward2GoTransform(gamma=0.5).inv(TensorDict(next=step, batch_size=[2]))
    >>> sums["next", "reward"].T
    tensor([[1.5000, 1.0000]])
    """

    gamma: Tensor

    def __init__(
        self,
        gamma: float | Tensor = 1.0,
        in_keys: Sequence[NestedKey] | None = None,
        out_keys: Sequence[NestedKey] | None = None,
        done_key: NestedKey = DONE,
    ) -> None:
        super().__init__([("next", "reward")] if in_keys is None else in_keys, out_keys)
        self.register_buffer("gamma", torch.as_tensor(gamma))
        self.done_key = as_keys(done_key)[0]

    @time_last
    def inv(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return a copy in which rewards are sums."""
        done_key = next_key(self.done_key)
        require(tensordict, [done_key, *self.in_keys], self, "Pass whole trajectories.")
        if not tensordict.ndim:
            raise ValueError(
                describe(
                    self,
                    "a single step does not hold what follows it",
                    expected="steps [*B, T]",
                    hint="Extend the buffer with whole trajectories rather than adding steps.",
                )
            )
        done = tensordict.get(done_key)  # [*B, T, 1]
        if not bool(done.any()):
            raise ValueError(
                describe(
                    self,
                    "is nowhere true: the end of the episode is not in the data",
                    key=done_key,
                    hint="Collect to the end of episodes, or use a value estimator, which bootstraps.",
                )
            )
        out = tensordict.copy()
        for source, destination in zip(self.in_keys, self.out_keys, strict=True):
            reward = tensordict.get(source)
            ends = expand_right(done, reward.shape)
            time = tensordict.ndim - 1 - reward.ndim  # negative
            out.set(destination, reward2go(reward, ends, self.gamma, time_dim=time))
        return out


class BurnInTransform(BufferTransform):
    """Runs recurrent modules over the first steps of each sequence, and returns the rest.

    A transform of replay buffers, in the forward pass: the states stored with a sequence are stale,
    the one after the burn-in is not.

    Args:
        modules: Tensordict modules, one or several, that read a state and write the next one under
            ``"next"``. They are run in recurrent mode, whatever the mode is.
        burn_in: Number of steps.
        out_keys: The states to refresh; what the modules write under ``"next"`` if ``None``.

    Reads: a sequence ``[*B, T]``, ``next.done`` if there is one.
    Writes: a sequence ``[*B, T - burn_in]`` with the states of its first step refreshed, except
        where an episode starts there.

    Source: Kapturowski et al., 2019, R2D2, https://openreview.net/forum?id=r1lyTjAqYX, section 3.

    >>> from tensordict import TensorDict
    >>> BurnInTransform([], 2, ["hidden"])(TensorDict(x=torch.zeros(1, 5), batch_size=[1, 5])).shape
    torch.Size([1, 3])
    """

    def __init__(
        self,
        modules: Callable[..., Any] | Sequence[Callable[..., Any]],
        burn_in: int,
        out_keys: Sequence[NestedKey] | None = None,
    ) -> None:
        super().__init__()
        given = list(modules) if isinstance(modules, Sequence) else [modules]
        if isinstance(modules, nn.Module):
            given = [modules]
        # Not registered: the modules belong to the policy, which trains and saves them.
        self.__dict__["modules_run"] = given
        if burn_in < 0:
            raise ValueError(f"BurnInTransform: burn_in must not be negative, found {burn_in}.")
        self.burn_in = burn_in
        written: list[Any] = [key for module in given for key in getattr(module, "out_keys", [])]
        nexts = [key[1:] for key in written if isinstance(key, tuple) and key[0] == "next"]
        self.states = as_keys(nexts if out_keys is None else out_keys)
        if given and not self.states:
            raise ValueError(
                describe(
                    self,
                    "has no state to refresh: the modules write nothing under 'next'",
                    found=written,
                    hint="Give it modules with their states among their out_keys, or out_keys.",
                )
            )

    modules_run: list[Callable[..., Any]]

    @time_last
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return what follows the burn-in."""
        steps = tensordict.shape[-1]
        if steps <= self.burn_in:
            raise ValueError(
                f"BurnInTransform: expected sequences of more than {self.burn_in} steps, found "
                f"{tuple(tensordict.batch_size)}; sample longer slices."
            )
        if not self.burn_in:
            return tensordict
        early, late = tensordict[..., : self.burn_in].copy(), tensordict[..., self.burn_in :].copy()
        with torch.no_grad(), set_recurrent_mode(True):
            for module in self.modules_run:
                early = module(early)
        last = early[..., -1]
        done = last.get(("next", DONE), None)
        for key in self.states:
            fresh, stored = last.get(next_key(key), None), late.get(key, None)
            if fresh is None:
                continue
            feature = fresh.shape[late.ndim - 1 :]
            stored = fresh.new_zeros(*late.shape, *feature) if stored is None else stored.clone()
            first = stored[(slice(None),) * (late.ndim - 1) + (0,)]
            if done is not None:
                goes_on = ~done.reshape(*done.shape[:-1], *(1,) * (fresh.ndim - done.ndim + 1))
                fresh = torch.where(goes_on, fresh, first)
            first.copy_(fresh)
            late.set(key, stored)
        return late


class RandomCropTensorDict(BufferTransform):
    """Crops each sequence to a random part of it.

    A transform of replay buffers, in the forward pass.

    Args:
        sub_seq_len: Its length.
        sample_dim: The batch dimension along which to cut; the last one by default.
        mask_key: True where a step is real: parts are taken from the real steps, which come first.

    Raises:
        ShapeError: (a ``ValueError`` and ``RuntimeError``) if a sequence is shorter than
            ``sub_seq_len``.

    >>> from tensordict import TensorDict
    >>> data = TensorDict(x=torch.arange(20).view(2, 10), batch_size=[2, 10])
    >>> RandomCropTensorDict(4)(data)["x"].diff().unique()
    tensor([1])
    """

    def __init__(self, sub_seq_len: int, sample_dim: int = -1, mask_key: NestedKey | None = None) -> None:
        super().__init__()
        self.sub_seq_len, self.sample_dim, self.mask_key = sub_seq_len, sample_dim, mask_key

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return the parts."""
        dim = self.sample_dim if self.sample_dim >= 0 else tensordict.ndim + self.sample_dim
        if not 0 <= dim < tensordict.ndim:
            found = tuple(tensordict.batch_size)
            raise ShapeError(describe(self, f"has no batch dimension {self.sample_dim} to cut", found=found))
        lead = [size for d, size in enumerate(tensordict.batch_size) if d != dim]
        real = torch.full(lead, tensordict.shape[dim])
        if self.mask_key is not None:
            mask = tensordict.get(self.mask_key, None)
            if mask is None:
                raise MissingKeyError(describe(self, "is read but absent", key=self.mask_key))
            real = mask.reshape(tensordict.batch_size).sum(dim)
        if bool((real < self.sub_seq_len).any()):
            expected = f"at least {self.sub_seq_len} steps"
            raise ShapeError(describe(self, "needs longer sequences", expected=expected, found=int(real.min())))
        room = real - self.sub_seq_len + 1
        start = (torch.rand(real.shape, device=real.device) * room).long().clamp(max=room - 1)
        reach = torch.arange(self.sub_seq_len, device=start.device)
        index = (start.unsqueeze(-1) + reach).movedim(-1, dim)
        places = list(torch.meshgrid(*map(torch.arange, index.shape), indexing="ij"))
        places[dim] = index
        return tensordict[tuple(places)]
