"""Policies that decide several actions at once, executed one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl._core.errors import ShapeError, describe
from torchrl._core.keys import as_keys, require, sibling
from torchrl._core.mdp import last_name


class MultiStepActorWrapper(TensorDictModuleBase):
    """Executes chunks of actions, one a step, and asks for a new one when a chunk is used up.

    Each row of a batch has its own chunk; a row asks anew at the start of an episode.

    Args:
        actor: Writes chunks of actions ``[*B, N, A]``.
        n_steps: Size ``N`` of a chunk; taken from the first one if ``None``.
        action_keys: The actions; all that the actor writes whose name ends in ``action`` if
            ``None``.
        chunk_keys: Where the rest of the chunks is kept; ``<action>_orig`` if ``None``.
        init_key: Where the flag of an episode's first step is; ``is_init`` if ``None``.
        keep_dim: Keep the dimension of the chunk, with size 1.
        replan_interval: Ask anew after so many steps, before the chunk is used up.

    Reads: what the actor reads, ``is_init [*B, 1]``, and what is kept of the last step.
    Writes: ``action [*B, A]``, the chunks ``[*B, N, A]`` and ``counter [*B, 1]``.

    Raises:
        ValueError: if ``replan_interval`` is longer than a chunk.
        MissingKeyError: at a call, if ``is_init`` is absent.
        ShapeError: at a call, if a chunk has another size.

    Source: Zhao et al., 2023, https://arxiv.org/abs/2304.13705 (action chunking).

    >>> from tensordict import TensorDict
    >>> from torchrl.modules import Actor
    >>> actor = Actor(lambda obs: torch.arange(3.0).view(3, 1) + obs)
    >>> policy = MultiStepActorWrapper(actor, n_steps=3)
    >>> td = TensorDict(observation=torch.zeros(1), is_init=torch.tensor([True]))
    >>> taken = []
    >>> for _ in range(4):
    ...     taken.append(policy(td)["action"].item())
    ...     _ = td.set("is_init", torch.tensor([False]))
    >>> taken
    [0.0, 1.0, 2.0, 0.0]
    """

    counter_key = "counter"

    def __init__(
        self,
        actor: TensorDictModuleBase,
        n_steps: int | None = None,
        *,
        action_keys: NestedKey | Sequence[NestedKey] | None = None,
        chunk_keys: NestedKey | Sequence[NestedKey] | None = None,
        init_key: NestedKey | None = None,
        keep_dim: bool = False,
        replan_interval: int | None = None,
    ) -> None:
        super().__init__()
        if replan_interval is not None and n_steps is not None and replan_interval > n_steps:
            raise ValueError(
                describe(
                    self,
                    "cannot wait longer than a chunk lasts",
                    expected=f"replan_interval <= {n_steps}",
                    found=replan_interval,
                )
            )
        self.actor, self.n_steps, self.keep_dim = actor, n_steps, keep_dim
        self.replan_interval = replan_interval
        self.init_key = "is_init" if init_key is None else init_key
        keys = as_keys(action_keys)
        self.action_keys = keys or [k for k in actor.out_keys if last_name(k).endswith("action")]
        default = [sibling(key, f"{last_name(key)}_orig") for key in self.action_keys]
        self.chunk_keys = as_keys(chunk_keys) or default
        reads: Any = [*actor.in_keys, self.init_key]
        writes: Any = [*actor.out_keys, *self.chunk_keys, self.counter_key]
        self.in_keys, self.out_keys = reads, writes

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Take the next action of each chunk; ask for new chunks where they are due."""
        require(tensordict, [self.init_key], self, "Append InitTracker() to the environment, say.")
        dim = tensordict.ndim
        chunks = [tensordict.get(key, None) for key in self.chunk_keys]
        counter = tensordict.get(self.counter_key, None)
        due = self._due(tensordict, chunks, counter)
        if bool(due.any()):
            fresh = self._ask(tensordict, dim)
            chunks = [
                new if old is None else torch.where(_like(due, new), new, old)
                for new, old in zip(fresh, chunks, strict=True)
            ]
            zeros = torch.zeros_like(due, dtype=torch.int64)
            counter = zeros if counter is None else counter.masked_fill(due, 0)
        for key, kept, chunk in zip(self.action_keys, self.chunk_keys, chunks, strict=True):
            index = counter.reshape(*counter.shape[:dim], *(1,) * (chunk.ndim - dim))
            action = chunk.gather(dim, index.expand(*chunk.shape[:dim], 1, *chunk.shape[dim + 1 :]))
            tensordict.set(key, action if self.keep_dim else action.squeeze(dim))
            tensordict.set(kept, chunk)
        return tensordict.set(self.counter_key, counter + 1)

    def _due(self, td: TensorDictBase, chunks: list[Any], counter: Tensor | None) -> Tensor:
        shape = (*td.batch_size, 1)
        if counter is None or any(chunk is None for chunk in chunks):
            return torch.ones(shape, dtype=torch.bool, device=td.device)
        due = counter >= (self.replan_interval or self.n_steps or 0)
        return due | td.get(self.init_key).reshape(shape)

    def _ask(self, td: TensorDictBase, dim: int) -> list[Tensor]:
        out = self.actor(td.copy())
        for key in self.actor.out_keys:
            if key not in self.action_keys:
                td.set(key, out.get(key))
        chunks = [out.get(key) for key in self.action_keys]
        for key, chunk in zip(self.action_keys, chunks, strict=True):
            size = chunk.shape[dim] if chunk.ndim > dim else 0
            self.n_steps = self.n_steps or size
            if size != self.n_steps or size < (self.replan_interval or 0):
                raise ShapeError(
                    describe(
                        self,
                        "is not a chunk of the right size",
                        key=key,
                        expected=[*td.batch_size, self.n_steps, "*"],
                        found=list(chunk.shape),
                        hint="Compare n_steps and the output of the actor.",
                    )
                )
        return chunks


def _like(flag: Tensor, value: Tensor) -> Tensor:
    return flag.reshape(*flag.shape[:-1], *(1,) * (value.ndim - flag.ndim + 1))
