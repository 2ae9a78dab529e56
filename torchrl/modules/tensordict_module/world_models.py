"""Models of an environment: what comes next, and what it is worth."""

from __future__ import annotations

from typing import Any

from tensordict.nn import TensorDictModuleBase

from torchrl.modules.tensordict_module.sequence import SafeSequential


class WorldModelWrapper(SafeSequential):
    """A transition model followed by a reward model.

    Args:
        transition_model: From state and action to the next state.
        reward_model: From what the transition model reads and writes to a reward.

    Reads: what either reads. Writes: what either writes.

    >>> import torch
    >>> from torchrl.modules import MLP, SafeModule
    >>> step = SafeModule(MLP(5, 3), ["state", "action"], [("next", "state")])
    >>> worth = SafeModule(MLP(3, 1), [("next", "state")], [("next", "reward")])
    >>> WorldModelWrapper(step, worth).in_keys
    ['state', 'action']
    """

    entrywise = True

    def __init__(
        self, transition_model: TensorDictModuleBase, reward_model: TensorDictModuleBase
    ) -> None:
        super().__init__(transition_model, reward_model)

    module: Any  # a ModuleList of the two models

    def get_transition_model_operator(self) -> TensorDictModuleBase:
        """Return the transition model."""
        return self.module[0]

    def get_reward_operator(self) -> TensorDictModuleBase:
        """Return the reward model."""
        return self.module[1]
