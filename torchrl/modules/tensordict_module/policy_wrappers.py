"""Wrappers of policies over several steps: action chunks, the context of a Decision Transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl._core.devices import check_devices
from torchrl._core.errors import ShapeError, UnexpectedKeyError, describe
from torchrl._core.keys import as_keys, require, sibling
from torchrl._core.mdp import last_name
from torchrl.data import TensorSpec
from torchrl.modules.tensordict_module.common import HasSpec


class MultiStepActorWrapper(TensorDictModuleBase):
    """Execute chunks of actions of a policy, one action a step; a used-up chunk is replaced.

    Each row of a batch has its own chunk, which is replaced at the start of an episode, too.

    Args:
        actor: The policy, which writes chunks of actions ``[*B, N, A]``.
        n_steps: Size ``N`` of a chunk; taken from the first one if ``None``.
        action_keys: The actions; if ``None``, all outputs of the actor whose name ends in
            ``action``.
        chunk_keys: Entries that keep the chunks; ``<action>_orig`` if ``None``.
        init_key: Key of the flag of first steps of episodes; ``is_init`` if ``None``.
        keep_dim: Keep the dimension of the chunk, with size 1.
        replan_interval: Replace a chunk after so many steps, before it is used up.

    Reads: what the actor reads, ``is_init [*B, 1]``, and the chunks and counter of the step before.
    Writes: ``action [*B, A]``, the chunks ``[*B, N, A]`` and ``counter [*B, 1]``.

    Raises:
        ValueError: if ``replan_interval`` is longer than a chunk, or ``init_key`` is a list.
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
        if isinstance(init_key, list):
            raise ValueError(describe(self, "reads one flag of first steps", expected="one init_key", found=init_key))
        self.actor, self.n_steps, self.keep_dim = actor, n_steps, keep_dim
        self.replan_interval = replan_interval
        self.init_key = "is_init" if init_key is None else init_key
        keys = as_keys(action_keys)
        self.action_keys = keys or [k for k in actor.out_keys if last_name(k).endswith("action")]
        default = [sibling(key, f"{last_name(key)}_orig") for key in self.action_keys]
        self.chunk_keys = as_keys(chunk_keys) or default
        entries: Any = [*actor.in_keys, self.init_key], [*actor.out_keys, *self.chunk_keys, self.counter_key]
        self.in_keys, self.out_keys = entries

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the next action of each chunk; replace the chunks that are used up."""
        require(tensordict, [self.init_key], self, "Append InitTracker() to the environment, for example.")
        dim = tensordict.ndim
        chunks = [tensordict.get(key, None) for key in self.chunk_keys]
        counter = tensordict.get(self.counter_key, None)
        due = self._due(tensordict, chunks, counter)
        if bool(due.any()):
            fresh = self._new_chunks(tensordict, dim)
            chunks = [
                new if old is None else torch.where(due.reshape(*due.shape[:-1], *(1,) * (new.ndim - dim)), new, old)
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

    def _due(self, td: TensorDictBase, chunks: list[Tensor | None], counter: Tensor | None) -> Tensor:
        shape = (*td.batch_size, 1)
        if counter is None or any(chunk is None for chunk in chunks):
            return torch.ones(shape, dtype=torch.bool, device=td.device)
        due = counter >= (self.replan_interval or self.n_steps or 0)
        return due | td.get(self.init_key).reshape(shape)

    def _new_chunks(self, td: TensorDictBase, dim: int) -> list[Tensor]:
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


class DecisionTransformerInferenceWrapper(HasSpec, TensorDictModuleBase):
    """Pass the last steps of a trajectory to a Decision Transformer, and write its last action.

    Args:
        policy: Reads ``observation``, ``action`` and ``return_to_go`` of ``T`` steps, as
            ``CatFrames`` collects them; writes an action for each step.
        inference_context: Number of last steps that the policy reads; the others are zero.
        spec: Spec of the action, or a composite.
        device: Device to which the policy is moved, if given.

    Reads: ``observation [*B, T, S]``, ``action [*B, T, A]``, ``return_to_go [*B, T, 1]``.
    Writes: ``action [*B, A]``, and the other outputs of the policy, ``[*B, T, ...]``.

    Source: Chen et al., 2021, https://arxiv.org/abs/2106.01345, algorithm 1.

    >>> from tensordict import TensorDict
    >>> from tensordict.nn import TensorDictModule
    >>> from torchrl.modules import DTActor
    >>> keys = ["observation", "action", "return_to_go"]
    >>> actor = TensorDictModule(DTActor(4, 2, {"n_embd": 16}), keys, ["action"])
    >>> policy = DecisionTransformerInferenceWrapper(actor)
    >>> td = TensorDict(observation=torch.zeros(7, 4), action=torch.zeros(7, 2))
    >>> policy(td.set("return_to_go", torch.zeros(7, 1)))["action"].shape
    torch.Size([2])
    """

    def __init__(
        self,
        policy: TensorDictModuleBase,
        *,
        inference_context: int = 5,
        spec: TensorSpec | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        check_devices(self, device=device)
        super().__init__()
        self.policy = policy if device is None else policy.to(device)
        self.inference_context = inference_context
        self.tensor_keys: dict[str, NestedKey] = {
            "observation": "observation",
            "action": "action",
            "return_to_go": "return_to_go",
            "out_action": "action",
        }
        self._set_keys()
        self.register_spec(spec, False)

    def set_tensor_keys(self, **keys: NestedKey) -> None:
        """Name the entries: ``observation``, ``action``, ``return_to_go``, ``out_action``.

        Raises:
            UnexpectedKeyError: if there is no such entry.
        """
        for name, key in keys.items():
            if name not in self.tensor_keys:
                raise UnexpectedKeyError(
                    describe(self, "has no such entry", expected=list(self.tensor_keys), found=name)
                )
            self.tensor_keys[name] = key
        self._set_keys()

    def _set_keys(self) -> None:
        names: dict[str, Any] = self.tensor_keys
        self.in_keys = [names["observation"], names["action"], names["return_to_go"]]
        self.out_keys = [names["out_action"], *self._extra_keys()]

    def _extra_keys(self) -> list[NestedKey]:
        return [key for key in self.policy.out_keys if key != self.tensor_keys["out_action"]]

    def mask_context(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return the entries with zeros before the context and in place of the last action."""
        shown = tensordict.select(*self.in_keys)
        for key in self.in_keys:
            shown.set(key, self._last(tensordict.get(key)))
        key = self.tensor_keys["action"]
        action = shown.get(key).clone()
        action[..., -1, :] = 0
        return shown.set(key, action)

    def _last(self, value: Tensor) -> Tensor:
        seen = torch.arange(value.shape[-2], device=value.device).flip(0) < self.inference_context
        return value * seen.unsqueeze(-1)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the action for the last step."""
        require(tensordict, self.in_keys, self, "Add CatFrames to the environment.")
        out = self.policy(self.mask_context(tensordict))
        for key in self._extra_keys():
            tensordict.set(key, out.get(key))
        key = self.tensor_keys["out_action"]
        return tensordict.set(key, out.get(key)[..., -1, :])
