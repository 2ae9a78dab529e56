"""A Decision Transformer as a policy: one action from the last steps of a trajectory."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl._core.devices import check_devices
from torchrl._core.errors import UnexpectedKeyError, describe
from torchrl._core.keys import require
from torchrl.data import TensorSpec
from torchrl.modules.tensordict_module.common import HasSpec


class DecisionTransformerInferenceWrapper(HasSpec, TensorDictModuleBase):
    """Shows a policy of trajectories the last steps, and takes its last action.

    Args:
        policy: Reads ``observation``, ``action`` and ``return_to_go`` of ``T`` steps, as
            ``CatFrames`` collects them; writes an action for each step.
        inference_context: How many last steps the policy sees; the others are zero.
        spec: Spec of the action, or a composite.
        device: Where the policy is moved, if given.

    Reads: ``observation [*B, T, S]``, ``action [*B, T, A]``, ``return_to_go [*B, T, 1]``.
    Writes: ``action [*B, A]``, and what else the policy writes, ``[*B, T, ...]``.

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
        self.tensor_keys: dict[str, Any] = {
            "observation": "observation",
            "action": "action",
            "return_to_go": "return_to_go",
            "out_action": "action",
        }
        self._refresh()
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
        self._refresh()

    def _refresh(self) -> None:
        names = self.tensor_keys
        self.in_keys = [names["observation"], names["action"], names["return_to_go"]]
        self.out_keys = [names["out_action"], *self._extra_keys()]

    def _extra_keys(self) -> list[Any]:
        return [key for key in self.policy.out_keys if key != self.tensor_keys["out_action"]]

    def mask_context(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return the entries with zeros before the context, and as the action to come."""
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
