"""Sequences of modules that have specs."""

from __future__ import annotations

from typing import Any

from tensordict.nn import TensorDictSequential

from torchrl._core.errors import SpecError, describe
from torchrl._core.plan import members
from torchrl.data import Composite
from torchrl.modules.tensordict_module.calls import is_common, is_plain, run_in_turn
from torchrl.modules.tensordict_module.common import leaf_specs


class SafeSequential(TensorDictSequential):
    """Modules called one after the other, with the specs of all.

    Args:
        *modules: Modules of tensordicts, or one list or dictionary of them.
        partial_tolerant: Skip modules whose inputs are absent.
        inplace: See :class:`tensordict.nn.TensorDictSequential`.

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

    entrywise = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the modules in turn; as a :class:`tensordict.nn.TensorDictSequential` does."""
        if is_common(args, kwargs) and is_plain(self):
            return run_in_turn(members(self), args[0])
        return super().forward(*args, **kwargs)

    @property
    def spec(self) -> Composite | None:
        """The specs of all modules; of several for one entry, the last."""
        merged = Composite()
        for module in self._module_iter():
            for key, leaf in leaf_specs(getattr(module, "spec", None)):
                merged.set(key, leaf)
        return None if merged.is_empty() else merged

    @spec.setter
    def spec(self, spec: object) -> None:
        raise SpecError(
            describe(self, "has the specs of its modules", hint="Set the spec of one of them.")
        )
