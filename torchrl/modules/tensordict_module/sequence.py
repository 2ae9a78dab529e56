"""Sequences of modules that have specs: SafeSequential, WorldModelWrapper."""

from __future__ import annotations

from typing import Any

from tensordict.nn import TensorDictModuleBase, TensorDictSequential

from torchrl._core.errors import SpecError, describe
from torchrl._core.records.torch_private import members
from torchrl.data import Composite
from torchrl.modules.tensordict_module.common import is_common, is_plain, leaf_specs


class SafeSequential(TensorDictSequential):
    """Call modules one after the other; has the specs of all of them.

    Args:
        *modules: Modules of tensordicts, or one list or dictionary of them.
        partial_tolerant: Skip modules whose inputs are absent.
        inplace: See :class:`tensordict.nn.TensorDictSequential`.
        selected_out_keys: Entries that are written; all if ``None``.

    Reads: what a module reads and no earlier one writes. Writes: what any of them writes.

    >>> import torch
    >>> from tensordict import TensorDict
    >>> from torchrl.modules import SafeModule
    >>> encoder = SafeModule(torch.nn.Linear(3, 4), ["obs"], ["hidden"])
    >>> head = SafeModule(torch.nn.Linear(4, 2), ["hidden"], ["action"])
    >>> both = SafeSequential(encoder, head)
    >>> both.in_keys, both.out_keys, both(TensorDict(obs=torch.zeros(3)))["action"].shape
    (['obs'], ['hidden', 'action'], torch.Size([2]))
    """

    supports_flat_records = True

    def forward(self, *args: object, **kwargs: Any) -> Any:
        """Call the modules in turn, as a :class:`tensordict.nn.TensorDictSequential` does."""
        if not (is_common(args, kwargs) and is_plain(self)):
            return super().forward(*args, **kwargs)
        td = args[0]
        for module in members(self):
            td = module(td)
        return td

    @property
    def spec(self) -> Composite | None:
        """The specs of all modules; for an entry with several, the last."""
        merged = Composite()
        for module in members(self):
            for key, leaf in leaf_specs(getattr(module, "spec", None)):
                merged.set(key, leaf)
        return None if merged.is_empty() else merged

    @spec.setter
    def spec(self, spec: object) -> None:
        raise SpecError(describe(self, "has the specs of its modules", hint="Set the spec of one of them."))


class WorldModelWrapper(SafeSequential):
    """A transition model followed by a reward model.

    Args:
        transition_model: From state and action to the next state.
        reward_model: From what the transition model reads and writes to a reward.

    Reads: what either model reads. Writes: what either model writes.

    >>> import torch
    >>> from torchrl.modules import MLP, SafeModule
    >>> step = SafeModule(MLP(5, 3), ["state", "action"], [("next", "state")])
    >>> worth = SafeModule(MLP(3, 1), [("next", "state")], [("next", "reward")])
    >>> WorldModelWrapper(step, worth).in_keys
    ['state', 'action']
    """

    supports_flat_records = True

    def __init__(self, transition_model: TensorDictModuleBase, reward_model: TensorDictModuleBase) -> None:
        super().__init__(transition_model, reward_model)

    module: Any  # a ModuleList of the two models

    def get_transition_model_operator(self) -> TensorDictModuleBase:
        """Return the transition model."""
        return self.module[0]

    def get_reward_operator(self) -> TensorDictModuleBase:
        """Return the reward model."""
        return self.module[1]
